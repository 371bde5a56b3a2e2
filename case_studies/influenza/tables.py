"""What a run of the case study says: tables for people, and the same as plain numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import bayeshybrid as bh
from case_studies.influenza.model import read_cases
from case_studies.influenza.what_if import RECORDED_ILL, Answer, Figure

PUBLISHED = {"transmission": "beta", "recovery": "gamma", "R0": "R0", "days_ill": "recovery time"}


def expected() -> dict[str, Any]:
    """What the published analysis found and what this case found before."""
    return json.loads(Path(__file__).with_name("expected.json").read_text(encoding="utf-8"))


def unknowns(posterior: bh.Posterior) -> Any:
    """The summary without the trajectory: unknowns, and the single numbers derived from them."""
    summary = posterior.summary()
    return replace(summary, rows=tuple(row for row in summary if "[" not in row.name))


def published_rows(posterior: bh.Posterior) -> list[dict[str, Any]]:
    """The published posterior of the SIR model beside this one."""
    theirs = expected()["published"]["quantities"]
    summary = posterior.summary()
    return [
        {
            "quantity": name,
            "theirs": words,
            "mean": float(summary[name].mean),
            "sd": float(summary[name].sd),
            "published_mean": theirs[name]["mean"],
            "published_sd": theirs[name]["sd"],
            "apart": float((summary[name].mean - theirs[name]["mean"]) / theirs[name]["sd"]),
        }
        for name, words in PUBLISHED.items()
    ]


def published_in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """The comparison as a table; apart is in published standard deviations."""
    lines = [
        "mean and standard deviation, here and as Grinsztajn and others (2021) printed them",
        "quantity      theirs         here            published     apart, sd",
    ]
    lines += [
        f"{row['quantity']:<12}  {row['theirs']:<13}  {row['mean']:.3f} ({row['sd']:.3f})   "
        f"{row['published_mean']:.2f} ({row['published_sd']:.2f})   {row['apart']:>8.2f}"
        for row in rows
    ]
    return "\n".join(lines)


def answers_in_words(found: Mapping[str, Sequence[Answer]], share: float, day: float) -> str:
    """The answers of several models, question by question."""
    lines = [
        f"Transmission reduced by {share:.0%} from day {day:g} on: mean over draws (Monte Carlo error), central 90 %",
        "",
    ]
    for place, first in enumerate(next(iter(found.values()))):
        lines.append(first.question)
        lines.append(f"  {'':<5} {'as it was':<30} {'isolated':<30} difference, draw by draw")
        for model, several in found.items():
            answer = several[place]
            lines.append(
                f"  {model:<5} {answer.without!s:<30} {answer.isolated!s:<30} {answer.difference or ''!s}".rstrip()
            )
        lines.append("")
    return "\n".join(lines[:-1])


def answers_plain(found: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    """The same as numbers, by model and question."""
    return {model: {one.question: asdict(one) for one in several} for model, several in found.items()}


def record() -> dict[str, float]:
    """What the report says beside the counts: boys who were ill, and from both the days that each was in bed."""
    days = float(read_cases()["in_bed"]["values"].sum())
    return {"ever in bed, boys": float(RECORDED_ILL), "in bed each, days": days / RECORDED_ILL}


def record_in_words(found: Mapping[str, Sequence[Figure]]) -> str:
    """What models say of what they were not told, beside the record."""
    lines = ["not given to any model: mean over draws (Monte Carlo error), central 90 %"]
    for place, (words, recorded) in enumerate(record().items()):
        lines += ["", f"{words}: {recorded:.4g} on record"]
        lines += [f"  {model:<5} {figures[place]}" for model, figures in found.items()]
    return "\n".join(lines)


def record_plain(found: Mapping[str, Sequence[Figure]]) -> dict[str, Any]:
    """The same as numbers."""
    models = {
        model: dict(zip(record(), map(asdict, figures), strict=True)) for model, figures in found.items()
    }
    return {"record": record(), **models}
