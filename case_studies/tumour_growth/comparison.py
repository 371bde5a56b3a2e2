"""Five models of treated tumours, fitted to the same measurements and judged by others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.tumour_growth import truth
from case_studies.tumour_growth.model import MODELS, TOLD_DAYS, TOLD_DOSES
from case_studies.tumour_growth.space import centres, laplacian

SHARES = (0.25, 0.5, 1.0)
DENSE_DAYS = tuple(np.arange(0.0, 12.1, 0.25))
MOST_DRAWS = 400
STARTS = 8  # searches from prior draws; more find the same forecasts
FIGURES = ("RMSE", "MAE", "CRPS", "coverage 90 %")


@dataclass(frozen=True)
class Judged:
    """One model after one fit.

    - `error`: set of conditions to the rms distance of the forecast's mean from the true density, everywhere.
    - `residual`: set of conditions to the physical residual of that mean, in 1/d.
    - `unknowns`: diffusion and growth, where the model has them: median, 5 % and 95 %.
    - `effect`: quantiles 5, 50 and 95 % of the learned effect, `(3, dose, day)`, where the model has one.
    """

    error: dict[str, float]
    residual: dict[str, float]
    unknowns: dict[str, tuple[float, ...]]
    effect: np.ndarray | None
    verdict: bh.Verdict
    method: str


@dataclass(frozen=True)
class Round:
    """All models fitted to one share of the measurements.

    `scores` holds, by set of conditions, what `bh.compare` says of the density.
    """

    share: float
    scores: dict[str, Any]
    judged: dict[str, Judged]
    posteriors: dict[str, bh.Posterior]
    seconds: dict[str, tuple[float, float]]
    megabytes: dict[str, float]

    def figure(self, conditions: str, model: str, name: str) -> float:
        """One figure of the comparison."""
        return float(self.scores[conditions].figures[model][name])


def methods(members: int, steps: int) -> dict[str, Any]:
    """How each model is fitted: draws of the posterior where there is no network, else members of an ensemble."""
    ensemble = bh.DeepEnsemble(members=members, steps=steps)
    return {name: None if "science" in name else ensemble for name in MODELS}


def rounds(
    shares: tuple[float, ...], how: Mapping[str, Any], key: int, said: Callable[[str], None] = print
) -> Iterator[Round]:
    """One round a share of the measurements, as soon as it is known."""
    for share in shares:
        data = truth.training(share)
        fits = {}
        for name, method in how.items():
            began = time.monotonic()
            fits[name] = bh.infer(MODELS[name], data, method, key=key, starts=STARTS)
            said(f"{name}, {share:.0%} of the measurements: fitted in {time.monotonic() - began:.0f} s")
        yield judge(share, fits, key + 1)


def judge(share: float, fits: Mapping[str, bh.Posterior], key: int) -> Round:
    """What other measurements and the truth say of several fits."""
    told = {}
    for conditions, data in {"held out": truth.held_out(), "beyond": truth.beyond()}.items():
        told[conditions] = bh.compare(fits, data, key=key, blocks={"density": animal_days(data)})
    beyond = told["beyond"]
    return Round(
        share,
        {conditions: one["density"] for conditions, one in told.items()},
        {name: _against_the_truth(posterior, key) for name, posterior in fits.items()},
        dict(fits),
        beyond.seconds,
        beyond.megabytes,
    )


def animal_days(data: Mapping[str, Any]) -> np.ndarray:
    """Cells of one animal on one day hang together along the radius: they count as one."""
    animals, days, radii = data["density"]["values"].shape
    return np.repeat(np.arange(animals * days), radii).reshape(animals, days, radii)


def _against_the_truth(posterior, key) -> Judged:
    """All doses in one forecast, everywhere in space and time."""
    doses = truth.SEEN_DOSES + truth.BEYOND_DOSES
    asked = truth.conditions(doses, DENSE_DAYS, tuple(centres()))
    ahead = posterior.predict(asked, key=key, draws=min(MOST_DRAWS, posterior.size))
    mean = ahead.conditional["density"][0].mean(axis=(0, 1))
    seen = len(truth.SEEN_DOSES)
    parts = {"held out": slice(None, seen), "beyond": slice(seen, None)}
    error = {c: rms((mean - truth.density(doses, DENSE_DAYS))[part]) for c, part in parts.items()}
    residual = {c: physical_residual(mean[part], doses[part]) for c, part in parts.items()}
    return Judged(
        error, residual, _unknowns(posterior), _effect(posterior), posterior.verdict, posterior.method
    )


def physical_residual(density: np.ndarray, doses: tuple[float, ...]) -> float:
    """The rms, over animals, days and shells, of what a density breaks the true balance by, in 1/d.

    `density` is `(dose, day, shell)` on `DENSE_DAYS`; the slope over time is that of central differences.
    """
    day = np.array(DENSE_DAYS)
    slope = np.gradient(density, day, axis=1)[:, 1:-1]
    inner = density[:, 1:-1]
    killed = truth.effect(np.array(doses)[:, None], day[1:-1])[..., None] * inner
    grown = truth.GROWTH * inner * (1 - inner)
    return rms(slope - truth.DIFFUSION * inner @ laplacian().T - grown + killed)


def rms(values: np.ndarray) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def _unknowns(posterior):
    named = {name: posterior.samples.get(name) for name in ("diffusion", "growth")}
    return {
        name: tuple(float(q) for q in np.quantile(draws, [0.5, 0.05, 0.95]))
        for name, draws in named.items()
        if draws is not None
    }


def _effect(posterior):
    told = posterior.samples.get("effect_told")
    return None if told is None else np.quantile(told, [0.05, 0.5, 0.95], axis=(0, 1))


def true_effect() -> np.ndarray:
    """What the learned effects are held against, `(dose, day)`."""
    return truth.effect(np.array(TOLD_DOSES)[:, None], np.array(TOLD_DAYS))
