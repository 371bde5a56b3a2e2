"""Scores of forecast classes and measures of their calibration, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10

__all__ = [
    "BrierParts",
    "Reliability",
    "brier_parts",
    "brier_score",
    "calibration_error",
    "debiased_calibration_error",
    "reliability_table",
]


def brier_score(probabilities: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """Brier score: mean of (p - o)^2 of one event, or of the sum of that over classes (Brier 1950).

    **Arguments:**

    - `probabilities`: of the event, `(n,)`, or of each class, `(n, classes)`.
    - `outcomes`: 0 or 1, or the number of the class, `(n,)`.

    ```python
    from bayeshybrid.class_scores import brier_score
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
    from bayeshybrid.class_scores import brier_parts
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
    from bayeshybrid.class_scores import reliability_table
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
    from bayeshybrid.class_scores import calibration_error
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
    from bayeshybrid.class_scores import debiased_calibration_error
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
