"""What a run of the case study says as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

import bayeshybrid as bh
from case_studies.theophylline.model import SINCE
from case_studies.theophylline.what_if import Answer


def unknowns(posterior: bh.Posterior) -> Any:
    """The summary of what holds for all subjects, without what is each one's own."""
    summary = posterior.summary()
    kept = tuple(row for row in summary if np.isfinite(row.contraction) and "_offset" not in row.name)
    return replace(summary, rows=kept)


def residuals(check: Any, site: str = "conc") -> tuple[str, list[dict[str, Any]]]:
    """The prediction errors of each subject, as words and as rows."""
    rows = [asdict(row) for row in check.by_unit[site]]
    lines = ["subject      values  in 90 %      mean of scores  variance  unusual"]
    for row in check.by_unit[site]:
        low, high = row.mean_range
        lines.append(
            f"{row.unit:<12}{row.count:>7}{row.inside:>9}  {f'{row.mean:.2f} ({low:.1f} to {high:.1f})':>18}"
            f"{row.variance:>10.2f}  {'; '.join(row.unusual)}"
        )
    return "\n".join(lines), rows


def answers_in_words(answers: Sequence[Answer]) -> str:
    """The what-if as a table: means, central 90 % of the differences, probabilities with Monte Carlo errors."""
    lines = [
        f"{'':<14}{'':<22}{'whole dose':>12}{'two halves':>12}{'difference (central 90 %)':>34}"
        "   probability that it"
    ]
    for one in answers:
        low, high = one.difference[1:]
        difference = f"{one.difference[0]:.2f} ({low:.2f} to {high:.2f}) {one.unit}"
        lines.append(
            f"{one.subject:<14}{one.figure:<22}{one.whole[0]:>12.2f}{one.divided[0]:>12.2f}{difference:>34}"
            f"   {one.event}: {one.probability:.3f} (Monte Carlo error {one.probability_error:.3f})"
        )
    return "\n".join(lines)


def answer_rows(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [asdict(one) for one in answers]


def absorption_rows(posterior: bh.Posterior) -> list[dict[str, float]]:
    """The rate of absorption in the middle of the subjects, hour by hour: median and central 90 %."""
    low, middle, high = np.quantile(posterior.samples["absorption_over_time"], [0.05, 0.5, 0.95], axis=(0, 1))
    columns = zip(SINCE, middle, low, high, strict=True)
    return [{"hours": t, "median": m, "5 %": a, "95 %": b} for t, m, a, b in columns]


def absorption_in_words(rows: Sequence[dict[str, float]]) -> str:
    """The same as a table."""
    lines = ["hours since the dose   absorption, 1/h (central 90 %)"]
    for row in rows:
        lines.append(f"{row['hours']:>20.2f}   {row['median']:>6.2f} ({row['5 %']:.2f} to {row['95 %']:.2f})")
    return "\n".join(lines)
