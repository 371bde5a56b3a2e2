"""Scores of forecast numbers and measures of their calibration, on plain arrays; classes are next door.

Every formula is one function here, the same for every method of inference. Draws come along the first axis and
are equally weighted unless weights are given; scores are negatively oriented (small is good) but for the log score.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

LEVELS = np.arange(1, 100) / 100
BAND_SIMULATIONS = 1000

__all__ = [
    "crps_from_draws",
    "crps_left_out",
    "ecdf_bands",
    "interval_calibration_error",
    "interval_score",
    "mixture_log_score",
    "quantile_calibration_error",
    "quantiles_left_out",
    "randomised_pit",
    "sharpness",
    "weighted_quantiles",
]


def crps_from_draws(draws: np.ndarray, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Continuous ranked probability score of draws, by its fair estimator.

    `sum_i w_i |x_i - y| - sum_{i<j} w_i w_j |x_i - x_j| / (1 - sum_i w_i^2)`, with equal weights
    `mean|x - y| - sum_{i<j} |x_i - x_j| / (m (m - 1))`: its mean is the score of the distribution that the draws
    come from, however few there are (Ferro 2014, "Fair scores for ensemble forecasts"). `O(m log m)`.

    **Arguments:**

    - `draws`: `(m, ...)`, in the unit of the values.
    - `values`: what was measured, `(...)`.
    - `weights`: `(m, ...)`, summing to one along the first axis; equal by default.

    **Returns:** `(...)`, in the unit of the values; NaN for fewer than two draws.

    ```python
    from bayeshybrid.scores import crps_from_draws
    assert crps_from_draws(np.array([0.0, 1.0]), np.array(0.5)) == 0.0
    ```
    """
    draws, values = np.asarray(draws, float), np.asarray(values, float)
    if len(draws) < 2:
        return np.full(values.shape, np.nan)
    shares = (
        np.full(draws.shape, 1 / len(draws)) if weights is None else np.broadcast_to(weights, draws.shape)
    )
    distance = np.sum(shares * np.abs(draws - values), axis=0)
    order = np.argsort(draws, axis=0)
    placed, shares = np.take_along_axis(draws, order, axis=0), np.take_along_axis(shares, order, axis=0)
    below = np.cumsum(shares, axis=0) - shares
    # sum_{i<j} w_i w_j (x_j - x_i) = sum_j w_j x_j (weight below j - weight above j)
    pairs = np.sum(shares * placed * (2 * below + shares - 1), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return distance - pairs / (1 - np.sum(shares**2, axis=0))


def crps_left_out(draws: np.ndarray, block: int, players: np.ndarray) -> np.ndarray:
    """The score of some of the draws, each under all the draws but its own block.

    **Arguments:**

    - `draws`: `(m, cells)`, in blocks of equal size that share their unknowns.
    - `block`: the size of a block.
    - `players`: which draws are scored, `(p,)`.

    **Returns:** `(p, cells)`, what `crps_from_draws` gives of each without its block.

    ```python
    from bayeshybrid.scores import crps_from_draws, crps_left_out
    x = np.array([[0.0], [1.0], [3.0]])
    assert np.allclose(crps_left_out(x, 1, np.array([2])), crps_from_draws(x[:2], x[2]))
    ```
    """
    total, cells = draws.shape
    order = np.argsort(draws, axis=0)
    placed = np.take_along_axis(draws, order, axis=0)
    before = np.cumsum(placed, axis=0) - placed
    rank = np.arange(total)[:, None]
    sorted_distance = (2 * rank + 2 - total) * placed + placed.sum(axis=0) - 2 * before - 2 * placed
    distance = np.empty_like(placed)
    np.put_along_axis(distance, order, sorted_distance, axis=0)
    within = np.zeros((total, cells))
    blocks = draws.reshape(-1, block, cells)
    for shift in range(block):
        within += np.abs(blocks - np.roll(blocks, shift, axis=1)).reshape(total, cells)
    touching = (distance - within / 2).reshape(-1, block, cells).sum(axis=1)
    left = total - block
    pairs = distance.sum(axis=0) / 2 - touching[players // block]
    if left < 2:
        return np.full((len(players), cells), np.nan)
    return (distance - within)[players] / left - pairs / (left * (left - 1))


def quantiles_left_out(
    draws: np.ndarray, block: int, players: np.ndarray, levels: tuple[float, ...]
) -> np.ndarray:
    """Quantiles of all the draws but the block of each player, by linear interpolation as in NumPy.

    **Arguments:**

    - `draws`: `(m, cells)`, in blocks of equal size.
    - `block`: the size of a block.
    - `players`: `(p,)`.
    - `levels`: between 0 and 1.

    **Returns:** `(levels, p, cells)`.

    ```python
    from bayeshybrid.scores import quantiles_left_out
    x = np.arange(5.0)[:, None]
    assert quantiles_left_out(x, 1, np.array([4]), (0.5,)).item() == 1.5
    ```
    """
    total, cells = draws.shape
    order = np.argsort(draws, axis=0, kind="stable")
    placed = np.take_along_axis(draws, order, axis=0)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(total)[:, None], order.shape), axis=0)
    own = np.sort(rank.reshape(-1, block, cells), axis=1)[players // block]

    def at(place):
        """The order statistic of what is left: every own rank at or below moves it up by one."""
        position = np.full((len(players), cells), place)
        for i in range(block):
            position += own[:, i] <= position
        return np.take_along_axis(placed, position, axis=0)

    found = []
    for level in levels:
        place = level * (total - block - 1)
        low = int(np.floor(place))
        high = min(low + 1, total - block - 1)
        found.append((1 - (place - low)) * at(low) + (place - low) * at(high))
    return np.stack(found)


def weighted_quantiles(draws: np.ndarray, weights: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles of weighted draws: the weighted distribution function at mid-steps, inverted linearly.

    **Arguments:**

    - `draws`, `weights`: `(m, cells)`, the weights summing to one along the first axis.
    - `levels`: between 0 and 1.

    **Returns:** `(levels, cells)`.

    ```python
    from bayeshybrid.scores import weighted_quantiles
    found = weighted_quantiles(np.arange(3.0)[:, None], np.full((3, 1), 1 / 3), (0.5,))
    assert found.tolist() == [[1.0]]
    ```
    """
    order = np.argsort(draws, axis=0)
    placed, shares = np.take_along_axis(draws, order, axis=0), np.take_along_axis(weights, order, axis=0)
    middle = np.cumsum(shares, axis=0) - shares / 2
    columns = [np.interp(levels, middle[:, i], placed[:, i]) for i in range(draws.shape[1])]
    return np.stack(columns, axis=-1) if columns else np.empty((len(levels), 0))


def interval_score(low: np.ndarray, high: np.ndarray, values: np.ndarray, mass: float = 0.9) -> np.ndarray:
    """Interval score: the width, and 2 / (1 - mass) for each unit by which the value lies outside.

    Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation", equation 43.

    **Arguments:**

    - `low`, `high`: ends of the central interval that holds `mass`.
    - `values`: what was measured, in the same unit.

    **Returns:** the score in that unit.

    ```python
    from bayeshybrid.scores import interval_score
    assert np.allclose(interval_score(np.zeros(2), np.ones(2), np.array([0.5, 1.1])), [1.0, 3.0])
    ```
    """
    outside = np.maximum(low - values, 0) + np.maximum(values - high, 0)
    return high - low + 2 / (1 - mass) * outside


def mixture_log_score(log_probability: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Log probability under the mixture of the draws' conditional distributions: the log of the mean.

    **Arguments:**

    - `log_probability`: `(draw, ...)`.
    - `weights`: `(draw, ...)`, summing to one along the first axis; equal by default.

    ```python
    from bayeshybrid.scores import mixture_log_score
    assert np.allclose(mixture_log_score(np.log([0.1, 0.3])), np.log(0.2))
    ```
    """
    with np.errstate(divide="ignore"):
        shares = -np.log(len(log_probability)) if weights is None else np.log(weights)
    shifted = log_probability + shares
    top = np.max(shifted, axis=0)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return safe + np.log(np.sum(np.exp(shifted - safe), axis=0))


def randomised_pit(strictly: np.ndarray, below: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Probability integral transform, between P(Y < y) and P(Y <= y): uniform for the right forecast.

    For continuous quantities the two are equal and nothing is random (Czado, Gneiting and Held 2009,
    "Predictive model assessment for count data").

    ```python
    from bayeshybrid.scores import randomised_pit
    assert randomised_pit(np.array(0.2), np.array(0.6), np.array(0.5)) == 0.4
    ```
    """
    return strictly + uniform * (below - strictly)


def quantile_calibration_error(pit: np.ndarray, levels: np.ndarray = LEVELS) -> np.ndarray:
    """Mean over levels of |share of values below the level's quantile - level|.

    **Arguments:**

    - `pit`: probability integral transforms, `(..., values)`.
    - `levels`: 0.01 to 0.99 by default. Kuleshov, Fenner and Ermon 2018, "Accurate uncertainties for deep
      learning using calibrated regression", sum squares of the same differences.

    **Returns:** `(...)`, between 0 and 1.

    ```python
    from bayeshybrid.scores import quantile_calibration_error
    assert quantile_calibration_error(np.arange(0.005, 1, 0.01)) < 1e-9
    ```
    """
    return np.mean([np.abs(np.mean(pit <= level, axis=-1) - level) for level in levels], axis=0)


def interval_calibration_error(pit: np.ndarray, masses: np.ndarray = LEVELS) -> np.ndarray:
    """Mean over masses of |share of values inside the central interval of that mass - mass|.

    Blind to a shift that `quantile_calibration_error` sees, so it has its own name.

    ```python
    from bayeshybrid.scores import interval_calibration_error
    assert interval_calibration_error(np.full(10, 0.5)) == 0.5
    ```
    """
    return quantile_calibration_error(np.abs(2 * pit - 1), masses)


def sharpness(variance: np.ndarray) -> np.ndarray:
    """Root of the mean predictive variance over the last axis: how narrow the forecast is, right or wrong.

    ```python
    from bayeshybrid.scores import sharpness
    assert sharpness(np.array([1.0, 7.0])) == 2.0
    ```
    """
    return np.sqrt(np.mean(variance, axis=-1))


@lru_cache(maxsize=64)
def ecdf_bands(count: int, mass: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Simultaneous bands for the empirical distribution function of independent uniform values, less the diagonal.

    Säilynoja, Bürkner and Vehtari 2022, "Graphical test for discrete uniformity and its applications in
    goodness-of-fit evaluation and multiple sample comparison", by ArviZ. Values that depend on one another, as
    along one series, leave them more often.

    **Arguments:**

    - `count`: how many values.
    - `mass`: how often all of the function lies inside, for the right forecast.

    **Returns:** places between 0 and 1, and the band's lower and upper ends there, `(count - 1,)` each.

    ```python
    from bayeshybrid.scores import ecdf_bands
    grid, low, high = ecdf_bands(20)
    assert np.all(low < 0) and np.all(high > 0)
    ```
    """
    from arviz_stats.ecdf_utils import ecdf_pit

    if count < 2:
        return np.empty(0), np.empty(0), np.empty(0)
    even = (np.arange(count) + 0.5) / count
    with np.errstate(invalid="ignore"):
        grid, _, low, high = ecdf_pit(even, mass, BAND_SIMULATIONS, rng=np.random.default_rng(count))
    return grid, low - grid, high - grid
