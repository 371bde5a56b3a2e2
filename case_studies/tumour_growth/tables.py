"""What a run of the case study says: tables for people, and the same as plain numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.tumour_growth import truth
from case_studies.tumour_growth.comparison import FIGURES, Round, rms, true_effect
from case_studies.tumour_growth.model import LITERATURE, TOLD_DAYS, TOLD_DOSES

CONDITIONS = {
    "held out": "seen doses, other days at other radii",
    "beyond": f"doses of {' and '.join(f'{dose:g}' for dose in truth.BEYOND_DOSES)} mg/kg, where at most "
    f"{max(truth.SEEN_DOSES):g} was seen",
}


def expected() -> dict[str, Any]:
    """What a run with `--key 0` found, and how far another may be from it."""
    return json.loads(Path(__file__).with_name("expected.json").read_text(encoding="utf-8"))


def unknowns(posterior: bh.Posterior) -> Any:
    """The summary without the trajectories, the units and the weights."""
    summary = posterior.summary()
    kept = tuple(row for row in summary if np.isfinite(row.contraction) and not set(row.name) & set("[/"))
    return replace(summary, rows=kept)


def scores_in_words(several: Sequence[Round]) -> str:
    """The main table: each model by each set of conditions and each share of the measurements."""
    lines = [
        f"A measured density has noise of {truth.NOISE:g}: no RMSE can be expected below. True error: rms distance of "
        "the forecast's mean",
        "from the true density. Residual: rms, in 1/d, of what that mean breaks the true balance by. Both everywhere.",
    ]
    for conditions, words in CONDITIONS.items():
        lines += [
            "",
            f"{conditions.capitalize()}: {words}; {several[0].scores[conditions].compared} values",
            "",
        ]
        lines.append(
            f"{'':<18}{'data':>5}{'RMSE':>8}{'MAE':>8}{'CRPS':>8}{'inside 90 %':>13}{'true error':>12}{'residual':>10}"
        )
        for one in several:
            for model, judged in one.judged.items():
                found = [one.figure(conditions, model, name) for name in FIGURES]
                lines.append(
                    f"{model:<18}{one.share:>5.0%}{found[0]:>8.4f}{found[1]:>8.4f}{found[2]:>8.4f}{found[3]:>13.0%}"
                    f"{judged.error[conditions]:>12.4f}{judged.residual[conditions]:>10.3f}"
                )
    lines += ["", *(sentence for one in several for sentence in differences(one))]
    return "\n".join(lines)


def differences(one: Round) -> list[str]:
    """How far the hybrid is from the network in RMSE, and from the best in CRPS, with what chance explains."""
    said = []
    for conditions, site in one.scores.items():
        if {"hybrid", "network"} <= set(site.figures):
            share = one.figure(conditions, "hybrid", "RMSE") / one.figure(conditions, "network", "RMSE") - 1
            side = "above" if share > 0 else "below"
            said.append(
                f"{conditions.capitalize()}, {one.share:.0%} of the data: the hybrid's RMSE lies {abs(share):.0%} "
                f"{side} the network's."
            )
        for model, found in site.differences.items():
            far = found["CRPS"]
            if far.value:
                apart = "told apart" if far.told_apart else "not told apart"
                said.append(
                    f"  {model}: CRPS worse than the best by {far.value:.4f} (standard error {far.error:.4f}; {apart})"
                )
    return said


def costs_in_words(several: Sequence[Round]) -> str:
    """Seconds, memory, how each model was fitted and what its verdict is."""
    lines = [
        "Seconds of a fit and of the forecast beyond, compiling included; megabytes of the draws that are kept.",
        f"{'':<18}{'data':>5}{'fit, s':>8}{'forecast, s':>13}{'MB':>9}  verdict, method",
    ]
    for one in several:
        for model, judged in one.judged.items():
            fit, ahead = one.seconds[model]
            lines.append(
                f"{model:<18}{one.share:>5.0%}{fit:>8.0f}{ahead:>13.1f}{one.megabytes[model]:>9.3f}  "
                f"{judged.verdict.state}, {judged.method}"
            )
    return "\n".join(lines)


def parameters_in_words(several: Sequence[Round]) -> str:
    """Diffusion and growth beside the truth: median and central 90 %."""
    lines = [
        f"diffusion, mm2/d: {truth.DIFFUSION:g} in truth, {LITERATURE['diffusion']:g} in fixed science; growth, 1/d: "
        f"{truth.GROWTH:g} in truth, {LITERATURE['growth']:g} in fixed science",
        f"{'':<18}{'data':>5}  {'diffusion':<24}growth",
    ]
    for one in several:
        for model, judged in one.judged.items():
            if judged.unknowns:
                told = [f"{m:.3f} ({a:.3f} to {b:.3f})" for m, a, b in judged.unknowns.values()]
                lines.append(f"{model:<18}{one.share:>5.0%}  {told[0]:<24}{told[1]}")
    return "\n".join(lines)


def effect_rows(one: Round) -> list[dict[str, Any]]:
    """The effect of the drug in 1/d by dose and day: the truth, and what the models with a network for it say."""
    rows, true = [], true_effect()
    for d, dose in enumerate(TOLD_DOSES):
        for t, day in enumerate(TOLD_DAYS):
            row: dict[str, Any] = {"dose": dose, "day": day, "truth": float(true[d, t])}
            for model, judged in one.judged.items():
                if judged.effect is not None:
                    row[model] = [float(q) for q in judged.effect[:, d, t]]
            rows.append(row)
    return rows


def effect_in_words(one: Round) -> str:
    """The same as a table, and the rms distance from the truth among seen doses and beyond."""
    learned = {m: judged.effect for m, judged in one.judged.items() if judged.effect is not None}
    lines = [
        "effect, 1/d: median (central 90 %)",
        f"{'mg/kg':>6}{'day':>5}{'truth':>8}   " + "".join(f"{m:<26}" for m in learned),
    ]
    for row in effect_rows(one):
        told = "".join(f"{'{1:.2f} ({0:.2f} to {2:.2f})'.format(*row[m]):<26}" for m in learned)
        lines.append(f"{row['dose']:>6g}{row['day']:>5g}{row['truth']:>8.2f}   {told}".rstrip())
    seen = np.isin(TOLD_DOSES, truth.SEEN_DOSES)
    for model, effect in learned.items():
        off = effect[1] - true_effect()
        lines.append(
            f"{model}: rms distance of the median from the truth {rms(off[seen]):.3f} 1/d among seen doses, "
            f"{rms(off[~seen]):.3f} 1/d beyond"
        )
    return "\n".join(lines)


def plain(one: Round) -> dict[str, Any]:
    """A round as numbers."""
    return {
        "share": one.share,
        "models": {
            model: {
                "scores": {c: {f: one.figure(c, model, f) for f in FIGURES} for c in one.scores},
                "apart": {
                    c: {
                        f: asdict(d) | {"told_apart": d.told_apart}
                        for f, d in site.differences[model].items()
                    }
                    for c, site in one.scores.items()
                },
                "true_error": judged.error,
                "physical_residual": judged.residual,
                "unknowns": judged.unknowns,
                "seconds": one.seconds[model],
                "megabytes": one.megabytes[model],
                "method": judged.method,
                "verdict": judged.verdict.state,
            }
            for model, judged in one.judged.items()
        },
    }


def laws_plain(told: Any) -> Mapping[str, Any]:
    """The comparison of the laws of growth as numbers."""
    site = told["volume"]
    return {
        "compared": site.compared,
        "figures": site.figures,
        "differences": {
            m: {f: asdict(d) | {"told_apart": d.told_apart} for f, d in found.items()}
            for m, found in site.differences.items()
        },
        "seconds": told.seconds,
        "megabytes": told.megabytes,
    }
