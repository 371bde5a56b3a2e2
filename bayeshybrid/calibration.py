"""Calibration: do measured values fall where the forecast said, as often as it said?

Every figure stands beside what a perfectly calibrated forecast of the same size would show: each of about 200
joint draws of the forecast plays the data in turn, so that what depends within a series depends there too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bayeshybrid import class_scores, scores
from bayeshybrid.faults import DataError
from bayeshybrid.forecast import Forecast
from bayeshybrid.held_out import evaluate
from bayeshybrid.plays import Scored, pooled, score

SMALL = 20
WIDTHS = 0.02
ERRORS = (
    "quantile calibration error",
    "interval calibration error",
    "PIT, largest gap",
    "ECE",
    "ECE (debiased)",
    "reliability",
)

__all__ = ["Calibration", "Figure", "SiteCalibration", "assess"]


@dataclass(frozen=True)
class Figure:
    """One figure beside what a perfectly calibrated forecast of the same size would show.

    - `value`: what was measured.
    - `expected`, `low`, `high`: mean and central 90 % of the same figure when the forecast's own draws play
      the data.
    - `better`: `"low"`, `"high"` or `"as expected"`.
    - `rank`: share of the plays whose figure is smaller, ties half: near 0 or 1 is what chance hardly gives.

    ```python
    from bayeshybrid.calibration import Figure
    assert Figure(0.5, 0.9, 0.8, 1.0, "as expected", 0.0).unusual
    ```
    """

    value: float
    expected: float
    low: float
    high: float
    better: Literal["low", "high", "as expected"]
    rank: float = 0.5

    @property
    def unusual(self) -> bool:
        """Whether it lies outside what a perfectly calibrated forecast shows nine times in ten."""
        return bool(self.value < self.low - 1e-12 or self.value > self.high + 1e-12)

    def __str__(self) -> str:
        return f"{self.value:.3g} (calibrated: {self.expected:.3g}, {self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class SiteCalibration:
    """How one observed site was forecast.

    - `figures`: name to `Figure`: coverage, calibration errors and scores. Scores are means over cells; the log
      score is a log density or probability in nats, large is good; all others are small where good.
    - `counts`: level to (values inside the central interval, values compared); for classes, inside the
      smallest set of most probable classes that holds the level.
    - `pit`: probability integral transform of each cell compared (at random within a step of a discrete
      distribution), `(compared,)`; none for classes.
    - `pit_bands`: places, lower and upper end of the simultaneous 95 % band of the empirical distribution
      function of `pit` less the diagonal, for independent values.
    - `reliability`: of classes, the table of a reliability diagram: the probability of class 1 where there are
      two, else that of the most probable class.
    - `entropies`: of classes, mean over cells in nats: `"total"`, `"aleatoric"` and `"mutual information"`.
    - `compared`, `censored`, `missing`, `in_sample`: counts of cells.
    - `pareto_k`: of data of the fit, how far leaving each out by weights can be trusted.
    """

    site: str
    unit: str | None
    nature: str
    figures: dict[str, Figure]
    counts: dict[float, tuple[int, int]]
    pit: np.ndarray
    pit_bands: tuple[np.ndarray, np.ndarray, np.ndarray]
    reliability: class_scores.Reliability | None
    entropies: dict[str, float] | None
    compared: int
    censored: int
    missing: int
    in_sample: int
    pareto_k: np.ndarray
    words: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """What measured values say of a forecast, or of several pooled.

    - `sites`: observed site to `SiteCalibration`.
    - `in_sample`: whether any of the values were data of the fit.
    - `forecasts`: how many were pooled.
    - `words`: what a reader must know first.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    found = bh.calibration.assess(bh.simulate(model, {}, key=0, draws=500), {"y": np.array(1.0)})
    assert found["y"].counts[0.9] == (1, 1) and "1 of 1 values" in str(found)
    ```
    """

    sites: dict[str, SiteCalibration]
    in_sample: bool
    forecasts: int
    words: tuple[str, ...]

    def __getitem__(self, site: str) -> SiteCalibration:
        """The calibration of one observed site."""
        if site not in self.sites:
            raise KeyError(f"no site {site!r} was compared: there are {', '.join(self.sites)}")
        return self.sites[site]

    def __str__(self) -> str:
        lines = list(self.words)
        for name, site in self.sites.items():
            lines += [
                f"{name}{f' [{site.unit}]' if site.unit else ''}:",
                *(f"  {word}" for word in site.words),
            ]
            lines += [f"  {figure:<27} {found}" for figure, found in site.figures.items()]
        return "\n".join(lines)


def assess(
    forecast: Forecast | Sequence[Forecast],
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    levels: Sequence[float] = (0.5, 0.8, 0.9),
) -> Calibration:
    """Hold measured values against a forecast of them, or against several pooled.

    All scores are those of the mixture of the draws' conditional distributions, the same for every method.
    Censored cells count in the log score alone. Data of the fit are scored as if each had been left out, by
    importance weights; that says how the model fits, not how far it can forecast.

    **Arguments:**

    - `forecast`: as `Posterior.predict` gives it; or several, such as those of rolling origins or of folds,
      which are taken as independent of one another.
    - `data`: measured values by the model's argument or by observed site, shaped as the forecast, NaN where
      nothing is to be compared; or one such mapping for each forecast.
    - `levels`: shares that central intervals hold; the interval score is that of the largest.

    **Returns:** a `Calibration`.

    **Raises:** `DataError` for names, shapes and inputs that are not those of the forecast, or unequal numbers of
    forecasts and data; `ValueError` for levels that are no shares.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    forecast = bh.simulate(model, {}, key=0, draws=500)
    found = bh.calibration.assess([forecast] * 3, [{"y": np.array(value)} for value in (9.0, 8.0, 7.0)])
    assert found["y"].counts[0.9] == (0, 3) and found["y"].figures["CRPS"].unusual
    ```
    """
    levels = tuple(sorted(levels))
    if not levels or not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels={levels}: write shares between 0 and 1, such as (0.5, 0.8, 0.9)")
    forecasts = [forecast] if isinstance(forecast, Forecast) else list(forecast)
    given = [data] if isinstance(data, Mapping) else list(data)
    if len(forecasts) != len(given) or not forecasts:
        raise DataError(f"{len(forecasts)} forecasts and {len(given)} sets of data: give one set for each")
    parts: dict[str, list[Scored]] = {}
    for one, measured in zip(forecasts, given, strict=True):
        for name, held in evaluate(one, measured).items():
            parts.setdefault(name, []).append(score(one, held, levels[-1]))
    sites = {
        name: _site(name, forecasts[0].observed[name].unit, pooled(found), levels)
        for name, found in parts.items()
    }
    in_sample = any(site.in_sample for site in sites.values())
    return Calibration(sites, in_sample, len(forecasts), _first_words(forecasts))


def _site(name, unit, scored, levels):
    classes = scored.nature == "classes"
    pit = _pit(scored)
    inside = {level: _inside(scored, level) for level in levels}
    figures = {
        f"coverage {_percent(level)}": _figure(_mean(found), "as expected") for level, found in inside.items()
    }
    figures |= _class_figures(scored) if classes else _number_figures(scored, pit, levels[-1])
    compared = scored.values.shape[1]
    counts = {level: (int(found[0].sum()), compared) for level, found in inside.items()}
    entropies = None
    if classes and compared:
        total, aleatoric = scored.variance.mean(axis=1)
        entropies = {
            "total": total,
            "aleatoric": aleatoric,
            "mutual information": max(0.0, total - aleatoric),
        }
        entropies = {what: float(value) for what, value in entropies.items()}
    return SiteCalibration(
        site=name,
        unit=unit,
        nature=scored.nature,
        figures=figures,
        counts=counts,
        pit=np.empty(0) if classes else pit[0],
        pit_bands=scores.ecdf_bands(0 if classes else compared),
        reliability=_reliability(scored) if classes and compared else None,
        entropies=entropies,
        compared=compared,
        censored=scored.censored,
        missing=scored.missing,
        in_sample=scored.seen,
        pareto_k=scored.pareto_k,
        words=_words(scored, inside, figures, pit),
    )


def _percent(level):
    return f"{100 * level:.4g} %"


def _mean(x):
    return x.mean(axis=1) if x.shape[1] else np.full(len(x), np.nan)


def _figure(values, better, tie=0.0):
    """The first of the values beside the mean and the central 90 % of the others; nearly equal ones are ties."""
    value, plays = float(values[0]), values[1:]
    plays = plays[~np.isnan(plays)]
    if not len(plays) or np.isnan(value):
        return Figure(value, np.nan, np.nan, np.nan, better)
    met = np.where(np.abs(plays - value) <= tie * abs(value), value, plays) if tie else plays
    rank = np.mean(met < value) + 0.5 * np.mean(met == value)
    low, high = np.quantile(met, [0.05, 0.95], method="inverted_cdf")
    return Figure(value, float(plays.mean()), float(low), float(high), better, float(rank))


def _pit(scored):
    """Uniform for the right forecast; within the steps of a discrete distribution at random, by a fixed key."""
    uniform = np.random.default_rng(0).uniform(size=scored.below.shape)
    return scores.randomised_pit(scored.strictly, scored.below, uniform)


def _inside(scored, level):
    """Whether each value lies in the central interval, ends included, or in the set of most probable classes."""
    tail = (1 - level) / 2
    if scored.probabilities is None:
        return (scored.below >= tail) & (scored.strictly <= 1 - tail)
    met = np.take_along_axis(scored.probabilities, scored.values.astype(int)[..., None], axis=-1)
    more = np.where(scored.probabilities > met, scored.probabilities, 0.0).sum(axis=-1)
    return more < level


def _number_figures(scored, pit, level):
    compared = pit.shape[1]
    sharp = np.full(len(pit), scores.sharpness(scored.variance) if compared else np.nan)
    distance = _distance(pit) if compared else np.full(len(pit), np.nan)
    return {
        "quantile calibration error": _figure(_over(scores.quantile_calibration_error, pit), "low"),
        "interval calibration error": _figure(_over(scores.interval_calibration_error, pit), "low"),
        "PIT, mean": _figure(_mean(pit), "as expected"),
        "PIT, largest gap": _figure(distance, "low"),
        "CRPS": _figure(_mean(scored.crps), "low"),
        # With all values covered this is the mean width, from which a play's own block is missing
        f"interval score {_percent(level)}": _figure(_mean(scored.interval), "low", WIDTHS),
        "log score": _figure(_mean(scored.log), "high"),
        "rms error": _figure(np.sqrt(_mean(scored.error**2)), "low"),
        "sharpness (sd)": _figure(sharp, "low"),
    }


def _over(function, pit):
    return function(pit) if pit.shape[1] else np.full(len(pit), np.nan)


def _distance(pit):
    """Kolmogorov's distance of the empirical distribution function of each row from the diagonal."""
    placed, count = np.sort(pit, axis=1), pit.shape[1]
    steps = np.arange(count) / count
    return np.maximum(placed - steps, steps + 1 / count - placed).max(axis=1)


def _class_figures(scored):
    plays, compared = scored.values.shape
    names = [
        "Brier score",
        "reliability",
        "resolution",
        "uncertainty",
        "within bins",
        "ECE",
        "ECE (debiased)",
    ]
    table = np.full((plays, len(names)), np.nan)
    stated, met = _stated(scored)
    for i in range(plays) if compared else ():
        probabilities, outcomes = scored.probabilities[i], scored.values[i]
        if probabilities.shape[1] == 2:
            probabilities = probabilities[:, 1]
        parts = class_scores.brier_parts(probabilities, outcomes)
        table[i] = [
            class_scores.brier_score(probabilities, outcomes),
            parts.reliability,
            parts.resolution,
            parts.uncertainty,
            parts.within,
            class_scores.calibration_error(stated[i], met[i]),
            class_scores.debiased_calibration_error(stated[i], met[i]),
        ]
    better = {"resolution": "high", "uncertainty": "as expected", "within bins": "as expected"}
    guessed = _mean(scored.probabilities.argmax(axis=-1) == scored.values)
    entropy = scored.variance[0].mean() if compared else np.nan
    return {
        "log score": _figure(_mean(scored.log), "high"),
        **{name: _figure(table[:, i], better.get(name, "low")) for i, name in enumerate(names)},
        "accuracy": _figure(guessed, "high"),
        "sharpness (entropy)": _figure(np.full(plays, entropy), "low"),
    }


def _stated(scored):
    """The probability that a reliability diagram is about, and whether what it was stated for came true."""
    if scored.probabilities.shape[-1] == 2:
        return scored.probabilities[..., 1], scored.values == 1
    return scored.probabilities.max(axis=-1), scored.probabilities.argmax(axis=-1) == scored.values


def _reliability(scored):
    stated, met = _stated(scored)
    if np.allclose(stated[1:], stated[:1], atol=0.02):  # the plays fall into the same bins
        return class_scores.reliability_table(stated[0], met[0], played=met[1:])
    generator = np.random.default_rng(0)
    return class_scores.reliability_table(
        stated[0], met[0], played=generator.uniform(size=met[1:].shape) < stated[0]
    )


# In words


def _first_words(forecasts):
    """What the computation behind the forecasts allows to be said."""
    words = []
    verdicts = [one.origin.verdict for one in forecasts if one.origin is not None]
    failed = sum(verdict.state in ("fail", "not assessable") for verdict in verdicts)
    if failed:
        which = "" if len(forecasts) == 1 else f" of {failed} of {len(forecasts)} forecasts"
        words.append(
            f"the computation{which} did not pass its checks: coverage judges the fit that was made, not the posterior"
        )
    natures = sorted({verdict.nature for verdict in verdicts} - {"draws of the posterior"})
    words += [f"the fit gives {nature}: what is said here judges its forecast as it is" for nature in natures]
    if len(forecasts) > 1:
        words.append(f"{len(forecasts)} forecasts pooled, taken as independent of one another")
    return tuple(words)


def _words(scored, inside, figures, pit):
    """Counts first, then what lies outside the reference, then what was left out."""
    compared = scored.values.shape[1]
    words = [_count_words(level, found, scored.nature) for level, found in inside.items() if compared]
    odd = [name for name, figure in figures.items() if _odd(name, figure)]
    if odd:
        words.append(
            f"outside what a perfectly calibrated forecast of this size shows nine times in ten: {', '.join(odd)}"
            " (of ten figures one is, by chance)"
        )
        words += _directions(figures)
    if 0 < compared < SMALL:
        words.append(f"{compared} value{'s' if compared > 1 else ''}: only gross faults can show")
    if scored.censored:
        words.append(
            f"{scored.censored} censored values count in the log score by the probability of what is known of them; "
            "coverage, PIT and CRPS leave them out, so the rest is a selection"
        )
    return (*words, *_sample_words(scored))


def _odd(name, figure):
    """Whether a figure tells against the forecast: an error of calibration does so only when it is large."""
    return figure.unusual and (name not in ERRORS or figure.value > figure.high)


def _count_words(level, found, nature):
    inside, plays, compared = int(found[0].sum()), found[1:].sum(axis=1), found.shape[1]
    low, high = np.quantile(plays, [0.05, 0.95], method="inverted_cdf")
    where = f"central {_percent(level)}" if nature != "classes" else f"most probable {_percent(level)}"
    return (
        f"{inside} of {compared} values lie inside the {where}; a perfectly calibrated forecast of this size gives "
        f"{plays.mean():.3g} on average, {low:.0f} to {high:.0f} nine times in ten"
    )


def _directions(figures):
    words = []
    widest = [figure for name, figure in figures.items() if name.startswith("coverage")][-1]
    if widest.unusual:
        words.append(f"the forecast is too {'narrow' if widest.value < widest.low else 'wide'}")
    shift = figures.get("PIT, mean")
    if shift is not None and shift.unusual:
        words.append(f"the values lie {'lower' if shift.value < shift.low else 'higher'} than was forecast")
    return words


def _sample_words(scored):
    if not scored.seen:
        return ()
    count = (
        f"{scored.seen} of {scored.values.shape[1] + scored.censored} values were data of the fit (in sample)"
    )
    if not scored.left_out:
        return (f"{count} and are scored as they are: they look better than new ones would",)
    words = [
        f"{count}: each is scored as if it had been left out (PSIS-LOO, largest Pareto k "
        f"{scored.pareto_k.max():.2f}), which says little of forecasts further ahead"
    ]
    high = int(np.sum(scored.pareto_k > scored.good_k))
    if high:
        words.append(
            f"Pareto k is above {scored.good_k:.2f} for {high} of them: their figures are not reliable"
        )
    return tuple(words)
