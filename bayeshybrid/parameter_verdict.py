"""One verdict on what the data determined of one parameter, and the figures that it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Determined = Literal[
    "identified",
    "weakly identified",
    "only in combination",
    "several separate values",
    "driven by the prior",
    "not assessable",
]

# Normal scores of the central 99 % of the prior: beyond them it is the prior's tail that ends an interval
PRIOR_END = 2.576
INTERVAL = (0.05, 0.95)
# A separate value holds this share of the draws at least; below so many draws a valley is chance
LEAST_SHARE = 0.05
LEAST_DRAWS = 100
MOST_DRAWS = 1000
# A peak of so many draws under one kernel is no chance bump of a long tail
LEAST_PEAK = 20

__all__ = ["Determined", "Evidence", "Thresholds", "determined", "has_separate_values", "interval_shift"]


@dataclass(frozen=True)
class Thresholds:
    """Where one word ends and the next begins; printed with every result.

    - `identified`, `weak`, `prior`: limits of the contraction.
    - `conflict`: mean of the posterior on the prior's normal scores, beyond which the two are in conflict.
    - `moves`: shift of an interval's end, as a share of its width, under a prior twice as wide.
    - `combination`: the share of its variance that is left of a parameter known only in combination, if the other
      parameters were known.
    - `collinear`: collinearity index above which a set of parameters is named.
    - `valley`: density between two values, as a share of the smaller peak, below which they are separate.
    - `absorbed`: absorption from which the words say that a network may have taken a parameter.

    ```python
    from bayeshybrid.parameter_verdict import Thresholds
    assert "0.95" in str(Thresholds(identified=0.95))
    ```
    """

    identified: float = 0.9
    weak: float = 0.5
    prior: float = 0.1
    conflict: float = 2.5
    moves: float = 0.25
    combination: float = 0.5
    collinear: float = 10.0
    valley: float = 0.5
    absorbed: float = 0.5

    def __str__(self) -> str:
        return (
            f"contraction above {self.identified:g} identified, above {self.weak:g} weakly, below {self.prior:g} "
            f"driven by the prior; conflict with the prior beyond {self.conflict:g} of its standard deviations; the "
            f"interval moves with the prior by more than {self.moves:g} of its width; only in combination if knowing "
            f"the others would leave less than {self.combination:g} of the variance, or collinearity index above "
            f"{self.collinear:g}; separate values if the density between falls below {self.valley:g} of the smaller "
            f"peak; a network may have taken a parameter from an absorption of {self.absorbed:g}"
        )


@dataclass(frozen=True)
class Evidence:
    """What the verdict on one parameter rests on.

    - `contraction`: share of the prior's variance that the data took away; NaN where the prior is improper.
    - `closed`: whether the interval ends inside the prior's central 99 %.
    - `shift`: how far its ends move under a prior twice as wide, as a share of its width.
    - `alone`: what the contraction would be, locally, if the other parameters were known; NaN if not computed.
    - `together`: whether it belongs to a collinear set that the data do not tell apart.
    - `separate`: whether its draws lie at several separate values.

    ```python
    from bayeshybrid.parameter_verdict import Evidence
    assert Evidence(0.95, True, 0.01, 0.99, False, False).closed
    ```
    """

    contraction: float
    closed: bool
    shift: float
    alone: float
    together: bool
    separate: bool


def determined(evidence: Evidence, limits: Thresholds) -> Determined:
    """What the data determined of a parameter, in one word. The first of these rules that fits:

    1. draws at several separate values: *several separate values*;
    2. no proper prior, so no contraction: *not assessable*;
    3. contraction above `identified`, and the interval ends inside the prior's central 99 % or hardly moves when the
       prior is widened: *identified*;
    4. a member of a collinear set that the data do not tell apart; or contraction below `weak` where the data would
       tell it at least weakly, and leave less than `combination` of its variance, if the other parameters were known:
       *only in combination*;
    5. contraction below `prior`, or the interval moves with the prior: *driven by the prior*;
    6. whichever of `weak` and `prior` is nearer to the contraction: *weakly identified* or *driven by the prior*.

    ```python
    from bayeshybrid.parameter_verdict import Evidence, Thresholds, determined
    told = Evidence(0.95, True, 0.01, 0.99, False, False)
    assert determined(told, Thresholds()) == "identified"
    assert determined(told, Thresholds(identified=0.99)) == "weakly identified"
    ```
    """
    told, moves = evidence.contraction, evidence.shift > limits.moves
    if evidence.separate:
        return "several separate values"
    if np.isnan(told):
        return "not assessable"
    if told > limits.identified and (evidence.closed or not moves):
        return "identified"
    left = (1.0 - evidence.alone) / max(1.0 - told, 1e-300)
    loses = told < limits.weak <= evidence.alone and left < limits.combination
    if told <= limits.identified and (evidence.together or loses):
        return "only in combination"
    if told < limits.prior or moves:
        return "driven by the prior"
    return "weakly identified" if told >= (limits.weak + limits.prior) / 2 else "driven by the prior"


def interval_shift(scores: np.ndarray) -> float:
    """How far the ends of the central 90 % interval move if the prior is made twice as wide.

    The draws are weighted by the ratio of the two priors on the prior's normal scores, `exp(3 z^2 / 8)`, in the
    manner of power scaling (Kallioinen, Paananen, Bürkner and Vehtari 2024).

    **Arguments:**

    - `scores`: posterior draws on the prior's normal scores, `(draw,)`.

    **Returns:** the larger of the two shifts as a share of the interval's width; NaN without proper scores.

    ```python
    from bayeshybrid.parameter_verdict import interval_shift
    z = np.random.default_rng(0).standard_normal(2000)
    assert interval_shift(z) > 0.3 and interval_shift(0.1 * z) < 0.01
    ```
    """
    if not np.all(np.isfinite(scores)):
        return float("nan")
    ordered = np.sort(scores)
    weights = np.exp(0.375 * (ordered**2 - np.max(ordered**2)))
    low, high = np.quantile(ordered, INTERVAL)
    if high <= low:
        return 0.0
    below = (np.cumsum(weights) - 0.5 * weights) / np.sum(weights)
    moved_low, moved_high = np.interp(INTERVAL, below, ordered)
    return float(max(abs(moved_low - low), abs(moved_high - high)) / (high - low))


def has_separate_values(draws: np.ndarray, basins: Any = None, valley: float = 0.5) -> bool:
    """Whether draws of one number lie at several separate values.

    Either basins, each with at least a twentieth of the draws, have central 90 % intervals that do not meet; or the
    density of all draws (Gaussian kernels, Silverman's width) falls between two values below a share of the smaller
    peak, where each side holds at least a twentieth of the draws and each peak at least twenty. Below a hundred
    draws only basins are asked.

    **Arguments:**

    - `draws`: `(draw,)`; `basins`: the basin of each draw, or `None`.
    - `valley`: that share.

    ```python
    from bayeshybrid.parameter_verdict import has_separate_values
    z = np.random.default_rng(0).standard_normal(1000)
    assert has_separate_values(np.where(z > 0, z + 2, z - 2)) and not has_separate_values(z)
    ```
    """
    draws = np.asarray(draws, float)
    if basins is not None:
        groups = [draws[basins == b] for b in np.unique(basins)]
        ends = sorted(tuple(np.quantile(g, INTERVAL)) for g in groups if len(g) >= LEAST_SHARE * len(draws))
        reach = -np.inf
        for low, high in ends:
            if np.isfinite(reach) and low > reach:
                return True
            reach = max(reach, high)
    if len(draws) < LEAST_DRAWS or not np.all(np.isfinite(draws)):
        return False
    return _valley(draws[np.linspace(0, len(draws) - 1, min(len(draws), MOST_DRAWS)).astype(int)]) < valley


def _valley(draws):
    """The lowest density between two values, as a share of the smaller of the two peaks beside it."""
    quartiles = np.subtract(*np.quantile(draws, [0.75, 0.25]))
    width = 0.9 * min(draws.std(), quartiles / 1.34) * len(draws) ** -0.2
    if not width > 0:
        return 1.0
    # By quantiles as well: a valley between two narrow values, or within a far group, is not stepped over
    grid = np.unique(
        np.concatenate(
            [np.linspace(draws.min(), draws.max(), 256), np.quantile(draws, np.linspace(0, 1, 256))]
        )
    )
    density = np.exp(-0.5 * ((grid[:, None] - draws[None]) / width) ** 2).mean(axis=1)
    left = np.maximum.accumulate(density)
    right = np.maximum.accumulate(density[::-1])[::-1]
    share = np.searchsorted(np.sort(draws), grid) / len(draws)
    peak = np.minimum(left, right)
    between = (share >= LEAST_SHARE) & (share <= 1.0 - LEAST_SHARE) & (peak * len(draws) >= LEAST_PEAK)
    return float(np.min((density / peak)[between], initial=1.0))
