"""Importance weights: how far draws of an approximation are from those of the target, and draws that mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bayeshybrid.inference.convergence import MOVED_LITTLE
from bayeshybrid.verdict import Check

SAME_WEIGHT = 0.01
LARGEST_SHAPE = 0.7
FEWEST = 25

__all__ = ["Weights", "certificate", "choose", "resample", "shape_limit", "weigh"]


class Weights(NamedTuple):
    """Weights of draws from an approximation.

    - `values`: `(n,)`, Pareto-smoothed where k-hat is at most 0.7; they add up to one, and failed draws have none.
    - `solved`: `(n,)`, which draws did not fail.
    - `shape`: Pareto k-hat of the largest weights, 0 where all are the same, infinite where there are too few.
    - `effective`: as how many draws of the target they count, `1 / sum(values**2)`.
    - `spread`: standard deviation of the log weights of the draws that did not fail.
    """

    values: np.ndarray
    solved: np.ndarray
    shape: float
    effective: float
    spread: float

    @property
    def count(self) -> int:
        """How many draws did not fail."""
        return int(np.sum(self.solved))

    @property
    def variation(self) -> float:
        """Coefficient of variation of the weights of the draws that did not fail; infinite where all did."""
        return float(np.sqrt(max(0.0, self.count / self.effective - 1))) if self.count else np.inf


def shape_limit(draws: int) -> float:
    """Up to which Pareto k-hat so many weights can be believed: `min(1 - 1 / log10(draws), 0.7)`.

    Vehtari et al. 2024, "Pareto smoothed importance sampling", section 3.2.4.

    ```python
    from bayeshybrid.inference.importance import shape_limit
    assert shape_limit(100) == 0.5 and shape_limit(100_000) == 0.7
    ```
    """
    return min(1 - 1 / np.log10(draws), LARGEST_SHAPE) if draws > 10 else 0.0


def weigh(log_weights: np.ndarray) -> Weights:
    """Weights from log ratios of target and approximation, `(n,)`, `-inf` where the target cannot be evaluated.

    The failed draws have weight zero, which is exact: the rest are draws of the approximation given that the
    model can be solved, and k-hat is that of their weights. It means nothing, and is 0, where the log ratios
    have a standard deviation below 0.01.

    ```python
    from bayeshybrid.inference.importance import weigh
    weights = weigh(np.append(np.zeros(100), -np.inf))
    assert weights.shape == 0 and np.isclose(weights.effective, 100)
    ```
    """
    solved = np.isfinite(log_weights)
    values = np.zeros(len(log_weights))
    if not solved.any():
        return Weights(values, solved, np.inf, 0.0, np.nan)
    log_ratios = log_weights[solved]
    spread, shape = float(np.std(log_ratios)), 0.0
    if spread >= SAME_WEIGHT:
        log_ratios, shape = _smoothed(log_ratios)
    ratios = np.exp(log_ratios - log_ratios.max())
    values[solved] = ratios / ratios.sum()
    return Weights(values, solved, shape, float(1 / np.sum(values**2)), spread)


def _smoothed(log_ratios):
    """The largest replaced by quantiles of the Pareto distribution fitted to them, and its shape."""
    from arviz_stats.base import array_stats

    if len(log_ratios) < FEWEST:
        return log_ratios, np.inf
    try:
        with np.errstate(all="ignore"):
            smooth, shape = array_stats.psislw(-log_ratios)
    except ValueError:  # there is no tail to fit: all but a few weights are zero, or the largest are the same
        return log_ratios, np.inf
    sound = np.isfinite(shape) and not np.any(np.isnan(smooth))
    if not sound:
        return log_ratios, np.inf
    return (np.asarray(smooth) if shape <= LARGEST_SHAPE else log_ratios), float(shape)


def resample(weights: np.ndarray, count: int, offset: float) -> np.ndarray:
    """Places of `count` equally weighted draws, in their order: systematic resampling.

    Draw i is taken `count * weights[i]` times on average over `offset`, and never further from that than one
    (Kitagawa 1996, "Monte Carlo filter and smoother"). Repeats stand side by side, so that an effective sample
    size that looks along the draws counts them once.

    **Arguments:**

    - `weights`: `(n,)`, adding up to one.
    - `count`: how many draws.
    - `offset`: a number drawn uniformly between 0 and 1.

    ```python
    from bayeshybrid.inference.importance import resample
    assert resample(np.array([0.25, 0.5, 0.25]), 4, 0.5).tolist() == [0, 1, 1, 2]
    ```
    """
    marks = (np.arange(count) + offset) / count
    total = np.cumsum(weights)
    return np.searchsorted(total / total[-1], marks, side="right")


def choose(
    weights: Sequence[Weights], count: int, by_weight: bool, key: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Which draws of which approximation to keep: by their weights, or evenly among those that did not fail.

    An approximation of which every draw failed is left out.

    **Arguments:**

    - `weights`: of each approximation; `count`: draws to keep of each.
    - `key`: data of a JAX key.

    **Returns:** approximation and place, both `(approximation, count)`.

    ```python
    from bayeshybrid.inference.importance import choose, weigh
    lost, fine = weigh(np.full(9, -np.inf)), weigh(np.zeros(9))
    which, place = choose([lost, fine], 9, True, np.array([1, 2], np.uint32))
    assert which.tolist() == [[1] * 9] and place.tolist() == [list(range(9))]
    ```
    """
    offsets = np.random.default_rng(np.asarray(key).ravel()).uniform(size=len(weights))
    kept = [a for a, w in enumerate(weights) if w.count]
    shares = [weights[a].values if by_weight else weights[a].solved / weights[a].count for a in kept]
    places = [resample(share, count, offsets[a]) for a, share in zip(kept, shares, strict=True)]
    return np.broadcast_to(np.array(kept)[:, None], (len(kept), count)), np.stack(places)


def certificate(weights: Sequence[Weights]) -> Check:
    """Whether weights make draws of several approximations draws of the target: the check of the worst of them.

    No posterior mean moves by more than the coefficient of variation of the weights, in posterior standard
    deviations. Where that is below a tenth a long tail of tiny differences does no harm, and k-hat is not asked
    for; elsewhere it must be within its limit.

    ```python
    from bayeshybrid.inference.importance import certificate, weigh
    wide, narrow = (weigh(np.random.default_rng(0).standard_normal(1000) ** 2 * a) for a in (-2.0, 2.0))
    assert certificate([wide]).state == "pass" and certificate([wide, narrow]).state == "fail"
    ```
    """
    variations = np.array([w.variation for w in weights])
    if np.all(variations < MOVED_LITTLE):
        place = f"guide {int(np.argmax(variations))}"
        return Check("variation of the importance weights", "pass", variations.max(), MOVED_LITTLE, place)
    over = [w.shape - shape_limit(w.count) if w.variation >= MOVED_LITTLE else -np.inf for w in weights]
    worst = int(np.argmax(over))
    return Check(
        "Pareto k-hat of the importance weights",
        "pass" if over[worst] <= 0 else "fail",
        weights[worst].shape,
        shape_limit(weights[worst].count),
        f"guide {worst}",
        'the guide is not near the posterior: use guide="flow" or NUTS',
    )
