"""Scores of forecasts and measures of their calibration, on plain arrays.

Every formula is one function here, the same for every method of inference. Draws come along the first axis and
are equally weighted unless weights are given; scores are negatively oriented (small is good) but for the log score.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LEVELS = np.arange(1, 100) / 100
BINS = 10
BAND_SIMULATIONS = 1000

__all__ = [
    "BrierParts",
    "Reliability",
    "brier_parts",
    "brier_score",
    "calibration_error",
    "crps_from_draws",
    "crps_left_out",
    "debiased_calibration_error",
    "ecdf_bands",
    "interval_calibration_error",
    "interval_score",
    "mixture_log_score",
    "quantile_calibration_error",
    "quantiles_left_out",
    "randomised_pit",
    "reliability_table",
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


def brier_score(probabilities: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """Brier score: mean of (p - o)^2 of one event, or of the sum of that over classes (Brier 1950).

    **Arguments:**

    - `probabilities`: of the event, `(n,)`, or of each class, `(n, classes)`.
    - `outcomes`: 0 or 1, or the number of the class, `(n,)`.

    ```python
    from bayeshybrid.scores import brier_score
    assert np.isclose(brier_score(np.array([0.8, 0.3]), np.array([1, 0])), 0.065)
    ```
    """
    return np.mean(np.sum((_columns(probabilities) - _events(probabilities, outcomes)) ** 2, axis=-1))


@dataclass(frozen=True)
class BrierParts:
    """The Brier score in parts: reliability - resolution + uncertainty + within bins.

    - `reliability`: squared distance between stated probabilities and shares, bin by bin: 0 is calibrated.
    - `resolution`: how far the shares of the bins lie from the overall share: large is good.
    - `uncertainty`: the score of always stating the overall share.
    - `within`: what is lost because a bin holds different probabilities.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float


def brier_parts(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = BINS) -> BrierParts:
    """Murphy's decomposition of the Brier score, over bins of equal width.

    Murphy 1973, "A new vector partition of the probability score"; the last part, which makes the sum exact
    where a bin holds different probabilities, is that of Stephenson, Coelho and Jolliffe 2008, "Two extra
    components in the Brier score decomposition". For several classes the parts of each class are added.

    **Arguments:** as `brier_score`.

    ```python
    from bayeshybrid.scores import brier_parts
    parts = brier_parts(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]))
    assert (parts.reliability, parts.resolution, parts.uncertainty) == (0.0, 0.25, 0.25)
    ```
    """
    totals = np.zeros(3)
    columns, events = _columns(probabilities), _events(probabilities, outcomes)
    for stated, met in zip(columns.T, events.T, strict=True):
        count, mean, share = _binned(stated, met, np.linspace(0, 1, bins + 1))
        weight, overall = count / count.sum(), met.mean()
        totals += [
            np.sum(weight * (mean - share) ** 2),
            np.sum(weight * (share - overall) ** 2),
            overall * (1 - overall),
        ]
    reliability, resolution, uncertainty = map(float, totals)
    score = float(brier_score(probabilities, outcomes))
    return BrierParts(reliability, resolution, uncertainty, score - reliability + resolution - uncertainty)


@dataclass(frozen=True)
class Reliability:
    """The table of a reliability diagram, one row for each bin that holds anything.

    - `stated`: mean of the probabilities in the bin.
    - `met`: share of cases in which what they were stated for came true.
    - `count`: how many cases.
    - `low`, `high`: central 90 % of that share if the forecast were perfectly calibrated; NaN where not known.
    - `edges`: of all bins.
    """

    stated: np.ndarray
    met: np.ndarray
    count: np.ndarray
    low: np.ndarray
    high: np.ndarray
    edges: np.ndarray


def reliability_table(
    stated: np.ndarray, met: np.ndarray, bins: int = BINS, played: np.ndarray | None = None
) -> Reliability:
    """How often events came true, by the probability that was stated for them.

    **Arguments:**

    - `stated`: probabilities, `(n,)`.
    - `met`: whether it came true, `(n,)`.
    - `bins`: how many of equal width.
    - `played`: outcomes that a perfectly calibrated forecast would meet, `(plays, n)`; they give `low` and
      `high` (Bröcker and Smith 2007, "Increasing the reliability of reliability diagrams").

    ```python
    from bayeshybrid.scores import reliability_table
    table = reliability_table(np.array([0.1, 0.1, 0.95]), np.array([0, 1, 1]))
    assert table.count.tolist() == [2, 1] and table.met.tolist() == [0.5, 1.0]
    ```
    """
    edges = np.linspace(0, 1, bins + 1)
    count, mean, share = _binned(stated, met, edges)
    low = high = np.full(len(count), np.nan)
    if played is not None and len(played):
        low, high = np.quantile([_binned(stated, row, edges)[2] for row in played], [0.05, 0.95], axis=0)
    return Reliability(mean, share, count, low, high, edges)


def calibration_error(stated: np.ndarray, met: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (ECE): mean over cases of |stated probability - share met| of their bin.

    Bins of equal width (Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks"). Few
    cases make it large for a perfect forecast too.

    ```python
    from bayeshybrid.scores import calibration_error
    assert np.isclose(calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0])), 0.0)
    ```
    """
    count, mean, share = _binned(stated, met, np.linspace(0, 1, bins + 1))
    return float(np.sum(count * np.abs(mean - share)) / count.sum())


def debiased_calibration_error(stated: np.ndarray, met: np.ndarray, bins: int = BINS) -> float:
    """Root mean square calibration error, its square freed of the bias that few cases in a bin cause.

    Of each bin's squared gap the variance of its share, estimated by `share (1 - share) / (count - 1)`, is
    taken off; bins hold equally many cases (Kumar, Liang and Ma 2019, "Verified uncertainty calibration"). Only
    the square can be freed exactly, so this is a root mean square where `calibration_error` is a mean; it is zero
    where the square comes out negative.

    ```python
    from bayeshybrid.scores import debiased_calibration_error
    assert debiased_calibration_error(np.full(10, 0.5), np.tile([0, 1], 5)) == 0.0
    ```
    """
    stated, met = np.asarray(stated, float), np.asarray(met, float)
    order = np.argsort(stated, kind="stable")
    total = 0.0
    for rows in np.array_split(order, max(1, min(bins, len(order) // 2))):
        if len(rows) < 2:
            return float("nan")
        share = met[rows].mean()
        gap = (stated[rows].mean() - share) ** 2 - share * (1 - share) / (len(rows) - 1)
        total += gap * len(rows) / len(order)
    return float(np.sqrt(max(0.0, total)))


def _columns(probabilities):
    probabilities = np.asarray(probabilities, float)
    return probabilities if probabilities.ndim > 1 else probabilities[:, None]


def _events(probabilities, outcomes):
    """Which of the stated events happened, in the shape of `_columns`."""
    classes = _columns(probabilities).shape[1]
    outcomes = np.asarray(outcomes)[:, None]
    return (outcomes == (np.arange(classes) if classes > 1 else 1)).astype(float)


def _binned(stated, met, edges):
    """Count, mean probability and share met of each bin that holds anything."""
    place = np.clip(np.searchsorted(edges, stated, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(place, minlength=len(edges) - 1)
    kept = count > 0
    sums = [np.bincount(place, np.asarray(what, float), len(edges) - 1)[kept] for what in (stated, met)]
    return count[kept], sums[0] / count[kept], sums[1] / count[kept]
