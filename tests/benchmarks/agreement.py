"""Agreement of a run with a reference, by the rules that `docs/benchmarks.md` states.

At 10,000 effective draws on both sides: means within 0.05 posterior standard deviations, standard deviations within
5 %, quantiles (5, 50, 95 %) within 0.1 standard deviations. Shorter runs: each difference below four standard
errors, both sides' errors combined. Heavy-tailed unknowns by the quantiles of their logarithm alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVELS = (0.05, 0.5, 0.95)
LONG = 10_000
MEAN_WITHIN, SD_WITHIN, QUANTILE_WITHIN, ERRORS = 0.05, 0.05, 0.1, 4.0

# Quantity to {"mean": (value, standard error), "sd": ..., "quantiles": {level: ...}, "ess": smallest}.
Estimates = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Agreement:
    """Whether a run agrees: the largest share of what is allowed that any figure used up, and which it was.

    `errors` holds the differences of means (of medians where tails are heavy) in claimed standard errors.
    """

    passed: bool
    worst: float
    where: str
    errors: tuple[float, ...]


def estimates(quantities: Mapping[str, np.ndarray]) -> Estimates:
    """Mean, standard deviation and quantiles of each quantity `(chain, draw)`, with their standard errors."""
    from arviz_stats.base import array_stats

    from bayeshybrid.diagnostics import effective_sample_size

    found = {}
    for name, draws in quantities.items():
        quantiles = {
            str(level): (
                float(np.quantile(draws, level)),
                float(array_stats.mcse(draws, method="quantile", prob=level)),
            )
            for level in LEVELS
        }
        found[name] = {
            "mean": (float(draws.mean()), float(array_stats.mcse(draws, method="mean"))),
            "sd": (float(draws.std(ddof=1)), float(array_stats.mcse(draws, method="sd"))),
            "quantiles": quantiles,
            "ess": effective_sample_size(draws),
        }
    return found


def compare(row: Any, run: Estimates, reference: Estimates) -> Agreement:
    """A run's estimates against a reference's; both name the same quantities."""
    if set(run) != set(reference):
        raise ValueError(f"the reference has other quantities: {sorted(set(run) ^ set(reference))}")
    shares, errors = {}, []
    for name, found in run.items():
        heavy = row.is_heavy(name)
        shares |= _shares(name, found, reference[name], heavy)
        told = [each["quantiles"]["0.5"] if heavy else each["mean"] for each in (found, reference[name])]
        errors.append((told[0][0] - told[1][0]) / np.hypot(told[0][1], told[1][1]))
    where = max(shares, key=lambda key: shares[key] if np.isfinite(shares[key]) else np.inf)
    worst = shares[where]
    return Agreement(bool(worst <= 1.0), float(worst), where, tuple(map(float, errors)))


def _shares(name, found, reference, heavy):
    """Each figure's difference over what is allowed."""
    sd = reference["sd"][0]
    is_long = min(found["ess"], reference.get("ess", np.inf)) >= LONG
    kinds = [] if heavy else [("mean", MEAN_WITHIN * sd), ("sd", SD_WITHIN * sd)]
    pairs = {f"{kind} of {name}": (found[kind], reference[kind], limit) for kind, limit in kinds}
    for level in map(str, LEVELS):
        told = (found["quantiles"][level], reference["quantiles"][level], QUANTILE_WITHIN * sd)
        pairs[f"{level} quantile of {name}"] = told
    return {
        label: abs(mine[0] - theirs[0]) / (limit if is_long else ERRORS * np.hypot(mine[1], theirs[1]))
        for label, (mine, theirs, limit) in pairs.items()
    }
