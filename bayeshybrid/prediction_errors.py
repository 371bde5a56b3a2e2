"""Normalised prediction distribution errors: each datum as a normal score of what the model gives in its place.

Values of one unit depend on each other, so data and replicated data of a unit are decorrelated first; what is left
is, for a right model and parameters found elsewhere, a sample from the standard normal distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SETS_PER_VALUE = 10
FAMILY = 0.01
PLAYS = 500
LEVEL = 0.99

__all__ = ["PredictionErrors", "UnitScores", "score_replicates"]


@dataclass(frozen=True)
class UnitScores:
    """The normal scores of one unit, beside what a right model gives for as many values.

    - `unit`: such as `"subject 5"`.
    - `count`: its values that were measured exactly and have a score; `inside`: those inside the central 90 %.
    - `mean`, `variance`: of its scores; the variance (ddof 1) is NaN for a single value.
    - `mean_range`, `variance_range`: where these lie for a right model, all units of a site together in 99 of
      100 cases. Where a unit keeps what was inferred of it the lower end of the variance is 0: the fit has used
      its values, so that their scores spread less than new ones would.

    ```python
    from bayeshybrid.prediction_errors import UnitScores
    found = UnitScores("subject 5", 11, 7, 2.1, 0.8, (-1.0, 1.0), (0.1, 3.0))
    assert found.unusual == ("its scores are 2.1 sd high on average",)
    ```
    """

    unit: str
    count: int
    inside: int
    mean: float
    variance: float
    mean_range: tuple[float, float]
    variance_range: tuple[float, float]

    @property
    def unusual(self) -> tuple[str, ...]:
        """What a right model hardly gives, in words; empty where nothing stands out."""
        words = []
        if not self.mean_range[0] <= self.mean <= self.mean_range[1] and self.count:
            side = "high" if self.mean > 0 else "low"
            words.append(f"its scores are {abs(self.mean):.1f} sd {side} on average")
        low, high = self.variance_range
        if self.variance > high or self.variance < low:
            words.append(
                f"their variance is {self.variance:.2g}, that of a right model {_range(*self.variance_range)}"
            )
        return tuple(words)


@dataclass(frozen=True)
class PredictionErrors:
    """The normal scores of one observed site.

    - `scores`: shaped like the data, NaN where nothing was measured exactly or the model gives one value only.
    - `units`: one row for each unit; empty where the site has no units.
    - `overall`: all scores together, with ranges that hold in 99 of 100 cases each.
    - `distance`, `distance_limit`: largest gap between the distribution function of all scores and the normal
      one (Kolmogorov's distance), and what a right model exceeds once in a hundred.
    - `decorrelated`: whether all units were decorrelated; else `note` says why not.
    """

    scores: np.ndarray
    units: tuple[UnitScores, ...]
    overall: UnitScores
    distance: float
    distance_limit: float
    decorrelated: bool
    note: str = ""

    @property
    def unusual(self) -> tuple[str, ...]:
        """What a right model hardly gives over all units, in words."""
        odd = self.distance > self.distance_limit
        return (*self.overall.unusual, *(("their distribution is not normal",) if odd else ()))

    def __str__(self) -> str:
        if not self.overall.count:
            return "no scores: nothing was measured exactly"
        told = [
            f"mean {self.overall.mean:.2f} ({_range(*self.overall.mean_range)})",
            f"variance {self.overall.variance:.2f} ({_range(*self.overall.variance_range)})",
            f"distance from normal {self.distance:.2f} (up to {self.distance_limit:.2f})",
        ]
        lines = [
            f"normal scores of {self.overall.count} values (in brackets, of a right model): {', '.join(told)}"
        ]
        lines += [self.note] if self.note else []
        lines += [f"{row.unit}: {'; '.join(row.unusual)}" for row in self.units if row.unusual]
        return "\n".join(lines)


def _range(low: float, high: float) -> str:
    return f"up to {high:.2f}" if low == 0 else f"{low:.2f} to {high:.2f}"


def score_replicates(
    data: np.ndarray,
    replicated: np.ndarray,
    units: Sequence[str] | None = None,
    *,
    inside: np.ndarray | None = None,
    discrete: bool = False,
    refitted: bool = True,
) -> PredictionErrors:
    """Normalised prediction distribution errors of data among replicated data.

    The values `y` of a unit and its replicates are centred and multiplied by the inverse Cholesky factor of the
    replicates' covariance; the error is `Phi^-1` of the share of replicates below, held between `1/2K` and
    `1 - 1/2K`, ties counted half (Brendel, Comets, Laveille and Mentre 2006, "Metrics for external model
    evaluation with an application to the population pharmacokinetics of gliclazide"; Comets, Brendel and Mentre
    2008, "Computing normalised prediction distribution errors"). The covariance of `K` replicates knows these but
    not the data, so the decorrelated datum number `j` of a unit is divided by
    `sqrt((1 + 1/K) (K - 1) (K - 2) / ((K - j) (K - j - 1)))`, what it is too large by for normal data.
    Counts are spread evenly over their step, data and replicates alike, so that their scores are normal too.

    Reference ranges come from the replicates: each plays the data in turn, so that what units share is in them.

    **Arguments:**

    - `data`: NaN where not measured exactly.
    - `replicated`: `(K, *data.shape)`.
    - `units`: names along the leading axis; `None` where all values belong to one unit.
    - `inside`: boolean, shaped like the data: the values to count as inside their central interval.
    - `discrete`: whether the values are counts.
    - `refitted`: whether the replicates are of units whose own effects were inferred from these data.

    **Returns:** `PredictionErrors`. Where a unit has more than `K / 10` values, or its replicates are not
    linearly independent, its scores are not decorrelated: each is right by itself, and the note says so.

    ```python
    from bayeshybrid.prediction_errors import score_replicates
    drawn = np.random.default_rng(0).normal(size=(2000, 4, 5))
    found = score_replicates(drawn[0], drawn[1:], ["a", "b", "c", "d"])
    assert np.abs(found.scores - drawn[0]).max() < 0.4 and not any(row.unusual for row in found.units)
    ```
    """
    data, replicated = np.asarray(data, float), np.asarray(replicated, float)
    if discrete:
        generator = np.random.default_rng(0)
        data = data + generator.uniform(-0.5, 0.5, data.shape)
        replicated = replicated + generator.uniform(-0.5, 0.5, replicated.shape)
    within = np.zeros(data.shape, bool) if inside is None else inside
    count = 1 if units is None else len(units)
    names = ("all",) if units is None else tuple(units)
    table = _scores_of_ranks(len(replicated))
    scores = np.full((count, data.size // max(count, 1)), np.nan)
    rows, plays, notes = [], _Plays(len(replicated)), []
    for i in range(count):
        y, drawn = data.reshape(count, -1)[i], replicated.reshape(len(replicated), count, -1)[:, i]
        with np.errstate(over="ignore", invalid="ignore"):
            spread = np.std(drawn, axis=0)
        known = np.isfinite(y) & (spread > 0) & np.isfinite(spread)
        if not known.any():
            rows.append(_row(names[i], np.zeros(0), 0, None, FAMILY, refitted))
            continue
        scores[i, known], played, note = _score_unit(y[known], drawn[:, known], table)
        notes += [note] if note else []
        plays.add(played)
        held = int(within.reshape(count, -1)[i][known].sum())
        rows.append(_row(names[i], scores[i, known], held, _moments(played), FAMILY / (2 * count), refitted))
    met = scores[np.isfinite(scores)]
    overall = _row("all", met, sum(row.inside for row in rows), plays.moments(), 1 - LEVEL, refitted)
    distance, limit = plays.distance(met)
    note = _note(notes, len(rows), len(replicated))
    listed = () if units is None else tuple(rows)
    return PredictionErrors(scores.reshape(data.shape), listed, overall, distance, limit, not notes, note)


def _note(notes, units, sets):
    if not notes:
        return ""
    of = "" if units == 1 else f" in {len(notes)} of {units} units"
    return (
        f"not decorrelated{of} ({notes[0]}; {sets} replicated data sets): each score is right by itself, but "
        "neighbours are alike"
    )


def _scores_of_ranks(sets):
    from scipy.special import ndtri

    return ndtri((np.arange(sets) + 0.5) / sets)


def _score_unit(y, drawn, table):
    """Scores of the values of one unit, `(n,)`, of each replicate among all, `(K, n)`, and why not decorrelated."""
    from scipy.special import ndtri

    sets, n = drawn.shape
    centre, scale = drawn.mean(axis=0), drawn.std(axis=0, ddof=1)
    y, drawn = (y - centre) / scale, (drawn - centre) / scale
    factor, note = _factor(drawn)
    if factor is not None:
        inverse = np.linalg.inv(factor)
        y, drawn = inverse @ y, drawn @ inverse.T
        j = np.arange(1, n + 1)
        y = y / np.sqrt((1 + 1 / sets) * (sets - 1) * (sets - 2) / ((sets - j) * (sets - j - 1)))
    below = np.mean(np.where(drawn == y, 0.5, drawn < y), axis=0)
    scores = ndtri(np.clip(below, 0.5 / sets, 1 - 0.5 / sets))
    return scores, table[np.argsort(np.argsort(drawn, axis=0), axis=0)], note


def _factor(drawn):
    """The Cholesky factor of the correlations of standardised replicates; or why there is none."""
    sets, n = drawn.shape
    if n == 1 and sets > 3:
        return np.ones((1, 1)), ""
    if sets < SETS_PER_VALUE * n:
        return None, f"{n} values need {SETS_PER_VALUE * n} of them"
    try:
        factor = np.linalg.cholesky(drawn.T @ drawn / (sets - 1))
    except np.linalg.LinAlgError:
        return None, "their covariance is singular"
    return (factor, "") if np.diag(factor).min() > 1e-6 else (None, "their covariance is singular")


def _moments(played):
    """Mean and variance of the scores of each play."""
    with np.errstate(invalid="ignore", divide="ignore"):
        n = played.shape[1]
        return played.mean(axis=1), np.full(len(played), np.nan) if n < 2 else played.var(axis=1, ddof=1)


class _Plays:
    """The scores of replicates over all units: sums of all, and the scores themselves of some."""

    def __init__(self, sets):
        self.count, self.total, self.squares = 0, np.zeros(sets), np.zeros(sets)
        self.kept = np.linspace(0, sets - 1, min(sets, PLAYS)).astype(int)
        self.parts = []

    def add(self, played):
        self.count += played.shape[1]
        self.total += played.sum(axis=1)
        self.squares += np.square(played).sum(axis=1)
        self.parts.append(played[self.kept])

    def moments(self):
        if not self.count:
            return None
        mean = self.total / self.count
        if self.count < 2:
            return mean, np.full(len(mean), np.nan)
        return mean, (self.squares - self.count * mean**2) / (self.count - 1)

    def distance(self, scores):
        if not self.count:
            return float("nan"), float("nan")
        played = _distance(np.concatenate(self.parts, axis=1))
        return float(_distance(scores[None])[0]), float(np.quantile(played, LEVEL))


def _distance(scores):
    """Kolmogorov's distance of each row from the standard normal distribution."""
    from scipy.special import ndtr

    n = scores.shape[1]
    below = ndtr(np.sort(scores, axis=1))
    steps = np.arange(n + 1)[None] / n
    return np.maximum(np.abs(below - steps[:, :-1]), np.abs(below - steps[:, 1:])).max(axis=1)


def _row(unit, scores, inside, played, error, refitted):
    """One row of the table; `error` is the chance that one of its figures leaves its range."""
    from scipy.special import ndtri

    nothing = (float("nan"), float("nan"))
    if played is None:
        return UnitScores(unit, 0, inside, float("nan"), float("nan"), nothing, nothing)
    means, variances = played
    wide = float(ndtri(1 - error / 2) * np.sqrt(np.mean(np.square(means))))
    variance, between = float("nan"), nothing
    if len(scores) > 1:
        variance = float(np.var(scores, ddof=1))
        low, high = _variance_range(variances, error)
        between = (0.0 if refitted else low, high)
    return UnitScores(unit, len(scores), inside, float(np.mean(scores)), variance, (-wide, wide), between)


def _variance_range(variances, error):
    """Ends of the chi-square distribution with the mean and variance of the plays (Satterthwaite 1946)."""
    from scipy.special import gammaincinv

    mean, spread = variances.mean(), variances.var()
    freedom = 2 * mean**2 / spread if spread > 0 else np.inf
    if not np.isfinite(freedom):
        return mean, mean
    low, high = 2 * gammaincinv(freedom / 2, np.array([error / 2, 1 - error / 2]))
    return float(mean * low / freedom), float(mean * high / freedom)
