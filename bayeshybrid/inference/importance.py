"""Importance weights: how far draws of an approximation are from those of the target, and draws that mend it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SAME_WEIGHT = 0.01
LARGEST_SHAPE = 0.7
FEWEST = 25

__all__ = ["Weights", "resample", "shape_limit", "weigh"]


class Weights(NamedTuple):
    """Weights of draws from an approximation.

    - `values`: `(n,)`, Pareto-smoothed where the tail allows it; they add up to one, and failed draws have none.
    - `shape`: Pareto k-hat of the largest weights, 0 where all are the same, infinite where there are too few.
    - `effective`: as how many draws of the target they count, `1 / sum(values**2)`.
    - `spread`: standard deviation of the log weights of the draws that did not fail.
    """

    values: np.ndarray
    shape: float
    effective: float
    spread: float


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
        return Weights(values, np.inf, 0.0, np.nan)
    log_ratios = log_weights[solved]
    spread, shape = float(np.std(log_ratios)), 0.0
    if spread >= SAME_WEIGHT:
        log_ratios, shape = _smoothed(log_ratios)
    ratios = np.exp(log_ratios - log_ratios.max())
    values[solved] = ratios / ratios.sum()
    return Weights(values, shape, float(1 / np.sum(values**2)), spread)


def _smoothed(log_ratios):
    """The largest replaced by quantiles of the Pareto distribution fitted to them, and its shape."""
    from arviz_stats.base import array_stats

    if len(log_ratios) < FEWEST:
        return log_ratios, np.inf
    smooth, shape = array_stats.psislw(-log_ratios)
    shape = float(shape)
    return (np.asarray(smooth), shape) if np.isfinite(shape) else (log_ratios, np.inf)


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
