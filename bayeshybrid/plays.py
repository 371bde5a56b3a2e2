"""Data and plays side by side: what every score gives for the measured values, and for draws in their place.

All arrays here begin with the data and go on with the plays, so that a figure of calibration is one function
of an array, and its reference is the same function of the other rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bayeshybrid import scores
from bayeshybrid.forecast import Forecast
from bayeshybrid.held_out import HeldOut
from bayeshybrid.observation import EXACT, LEFT, MISSING, RIGHT

__all__ = ["Scored", "pooled", "score", "scored_events"]


@dataclass(frozen=True)
class Scored:
    """One observed site scored, `(1 + plays, ...)`: first the measured values, then the plays.

    - `strictly`, `below`: P(Y < y) and P(Y <= y) of each cell that was measured exactly.
    - `values`, `error`: the values, and their distance from the forecast mean.
    - `crps`, `interval`: scores by cell; `log`: log score, by event where the noise joins cells.
    - `variance`: of the forecast, `(cells,)`; of classes their entropies, total and aleatoric, `(2, cells)`.
    - `probabilities`: of classes, `(1 + plays, cells, classes)`.
    - `censored`, `missing`, `seen`: counts of cells. `left_out`: whether those seen in the fit are scored as
      if each had been left out; `pareto_k`: how far these weights can be trusted, below `good_k`.
    """

    nature: str
    values: np.ndarray
    strictly: np.ndarray
    below: np.ndarray
    error: np.ndarray
    crps: np.ndarray
    interval: np.ndarray
    log: np.ndarray
    variance: np.ndarray
    probabilities: np.ndarray | None
    censored: int
    missing: int
    seen: int
    left_out: bool
    pareto_k: np.ndarray
    good_k: float


def score(forecast: Forecast, held: HeldOut, mass: float = 0.9) -> Scored:
    """Score one site of a forecast; `mass` is what the interval of the interval score holds.

    ```python
    from bayeshybrid.held_out import evaluate
    from bayeshybrid.plays import score
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    forecast = bh.simulate(model, {}, key=0, draws=500)
    found = score(forecast, evaluate(forecast, {"y": np.array(0.0)})["y"])
    assert found.crps.shape == (201, 1) and found.crps[0] < found.crps[1:].mean()
    ```
    """
    reading = held.reading
    exact = (reading.kinds == EXACT).ravel()
    weights, pareto_k, good_k = _left_out(forecast, held)
    rows = len(held.owner)
    shares = np.full((rows, exact.size), 1 / rows) if weights is None else weights
    strictly, below = (
        _stacked(np.sum(shares * _flat(getattr(held.rows, what)), axis=0), _flat(getattr(held.plays, what)))
        for what in ("strictly", "below")
    )
    draws = _flat(held.draws)[:, exact]
    values = _stacked(reading.values.ravel(), _flat(held.draws)[held.players])[:, exact]
    sampled = None if weights is None else np.repeat(shares[:, exact] / held.repeats, held.repeats, axis=0)
    found = Scored(
        nature=reading.nature,
        values=values,
        strictly=strictly[:, exact],
        below=below[:, exact],
        error=values,
        crps=values,
        interval=values,
        log=_log_scores(held, weights),
        variance=np.empty(0),
        probabilities=None,
        censored=int(np.sum(reading.kinds > MISSING)),
        missing=int(np.sum(reading.kinds == MISSING)),
        seen=int(reading.seen.sum()),
        left_out=weights is not None,
        pareto_k=pareto_k,
        good_k=good_k,
    )
    if reading.nature == "classes":
        return _classes(forecast, held, found, shares, exact)
    crps, interval = _from_draws(held, draws, values, sampled, mass)
    error = _errors(held, draws, values, sampled)
    variance = forecast.total[held.name].ravel()[exact]
    variance = np.where(np.isfinite(variance), variance, draws.var(axis=0))
    return replace(found, error=error, crps=crps, interval=interval, variance=variance)


def pooled(parts: Sequence[Scored]) -> Scored:
    """Several forecasts as one: their cells side by side, and plays of each joined at random.

    The forecasts are taken as independent of one another, given that they are right.

    ```python
    from bayeshybrid.held_out import evaluate
    from bayeshybrid.plays import pooled, score
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    forecast = bh.simulate(model, {}, key=0, draws=500)
    found = score(forecast, evaluate(forecast, {"y": np.array(0.0)})["y"])
    assert pooled([found, found]).crps.shape == (201, 2)
    ```
    """
    generator = np.random.default_rng(0)
    orders = [np.concatenate([[0], 1 + generator.permutation(len(part.log) - 1)]) for part in parts]
    if len(parts) == 1:
        return parts[0]

    def joined(what):
        return np.concatenate(
            [getattr(part, what)[order] for part, order in zip(parts, orders, strict=True)], axis=1
        )

    names = ("values", "strictly", "below", "error", "crps", "interval", "log")
    return replace(
        parts[0],
        **{name: joined(name) for name in names},
        variance=np.concatenate([part.variance for part in parts], axis=-1),
        probabilities=None if parts[0].probabilities is None else joined("probabilities"),
        **{name: sum(getattr(part, name) for part in parts) for name in ("censored", "missing", "seen")},
        left_out=any(part.left_out for part in parts),
        pareto_k=np.concatenate([part.pareto_k for part in parts]),
        good_k=min(part.good_k for part in parts),
    )


def _flat(x):
    return x.reshape(len(x), -1)


def _stacked(data, plays):
    return np.concatenate([data[None], plays])


def _from_draws(held, draws, values, shares, mass):
    """CRPS and interval score, of the players each without its own block."""
    tails = ((1 - mass) / 2, (1 + mass) / 2)
    first = scores.crps_from_draws(draws, values[0], shares)
    ends = np.quantile(draws, tails, axis=0)
    if shares is not None:
        ends = scores.weighted_quantiles(draws, shares, tails)
    others = scores.crps_left_out(draws, held.block, held.players)
    limits = scores.quantiles_left_out(draws, held.block, held.players, tails)
    low, high = (_stacked(ends[i], limits[i]) for i in (0, 1))
    return _stacked(first, others), scores.interval_score(low, high, values, mass)


def _errors(held, draws, values, shares):
    """Distance from the mean of the forecast, of the players from that of the other blocks."""
    mean = draws.mean(axis=0) if shares is None else np.sum(shares * draws, axis=0)
    own = draws.reshape(-1, held.block, draws.shape[1]).sum(axis=1)[held.players // held.block]
    others = (draws.sum(axis=0) - own) / (len(draws) - held.block)
    return values - _stacked(mean, others)


def _classes(forecast, held, found, shares, exact):
    """Class probabilities of the mixture, and the entropies that a forecast is made of."""
    each = held.rows.probabilities
    flat = each.reshape(len(each), -1, each.shape[-1])
    first = np.einsum("sn,snk->nk", shares, flat)
    probabilities = _stacked(first, held.plays.probabilities.reshape(len(held.players), *first.shape))
    aleatoric = np.sum(shares * _entropy(flat), axis=0)
    entropies = np.stack([_entropy(first), aleatoric])[:, exact]
    nothing = np.full_like(found.values, np.nan)
    return replace(
        found,
        probabilities=probabilities[:, exact],
        variance=entropies,
        **dict.fromkeys(("strictly", "below", "error", "crps", "interval"), nothing),
    )


def _entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def _log_scores(held, weights):
    """Log scores of what was measured, by event; what is censored by the probability of what is known.

    In the place of a censored cell a play either lies where the cell was said to lie or does not, and is
    scored by the probability of that.
    """
    each = held.rows.log_probability
    size, known = scored_events(held)
    kinds = held.reading.kinds.reshape(-1, size)
    shares = None if weights is None else weights.reshape(len(each), -1, size)[:, :, 0]
    data = scores.mixture_log_score(_flat(each), shares)
    plays = _flat(held.plays.log_probability).copy()
    if size == 1:
        inside = _inside(held)
        with np.errstate(divide="ignore"):
            other = np.log1p(-np.minimum(np.exp(data), 1 - 1e-16))
        plays = np.where(kinds[:, 0] > MISSING, np.where(inside, data, other), plays)
    return _stacked(data, plays)[:, known]


def scored_events(held: HeldOut) -> tuple[int, np.ndarray]:
    """How many cells the noise joins into one event, and which events have a log score.

    ```python
    from bayeshybrid.held_out import evaluate
    from bayeshybrid.plays import scored_events
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    held = evaluate(bh.simulate(model, {}, key=0, draws=500), {"y": np.array(0.0)})["y"]
    assert scored_events(held)[0] == 1 and scored_events(held)[1].tolist() == [True]
    ```
    """
    extent = held.reading.values.shape[held.rows.log_probability.ndim - 1 :]  # the axes that one event joins
    size = int(np.prod(extent, dtype=int))
    kinds = held.reading.kinds.reshape(-1, size)
    return size, (np.any if held.reading.partial else np.all)(kinds != MISSING, axis=1)


def _inside(held):
    """Whether each play lies where a censored cell was said to lie."""
    played = _flat(held.draws)[held.players]
    limit, upper = held.reading.values.ravel(), held.reading.upper.ravel()
    kinds = held.reading.kinds.ravel()
    return np.where(
        kinds == LEFT,
        played <= limit,
        np.where(kinds == RIGHT, played > limit, (played > limit) & (played <= upper)),
    )


def _left_out(forecast, held):
    """Weights `(row, cells)` that make of each row's share what it is without the cell's own datum.

    Pareto-smoothed importance sampling (Vehtari, Gelman and Gabry 2017, "Practical Bayesian model evaluation
    using leave-one-out cross-validation and WAIC"), by ArviZ. Only for data of the fit, and where all is
    carried: what is drawn anew was not fitted to them.
    """
    seen = held.reading.seen.ravel() & (held.reading.kinds.ravel() != MISSING)
    if not seen.any() or forecast.drawn_anew or forecast.origin is None or len(held.owner) < 5:
        return None, np.empty(0), np.nan
    each = held.rows.log_probability
    extent = held.reading.values.shape[each.ndim - 1 :]
    size = int(np.prod(extent, dtype=int))
    events = seen.reshape(-1, size).any(axis=1)
    log_weights, pareto_k, good_k = _smoothed(_flat(each)[:, events], held.chain)
    weights = np.full((len(each), len(events)), 1 / len(each))
    weights[:, events] = np.exp(log_weights)
    return np.repeat(weights, size, axis=1), pareto_k, good_k


def _smoothed(log_likelihood, chain):
    """Log weights `(row, units)`, Pareto k of each unit, and the limit up to which they serve."""
    import arviz_base
    import arviz_stats

    _, counts = np.unique(chain, return_counts=True)
    chains = len(counts) if len(set(counts)) == 1 else 1
    # What is as probable under each draw needs no weights to be left out, and has no tail to smooth.
    telling = np.ptp(log_likelihood, axis=0) > 0
    smoothed, shape = np.full(log_likelihood.shape, -np.log(len(log_likelihood))), np.zeros(len(telling))
    if not telling.any():
        return smoothed, shape, np.nan
    values = log_likelihood[:, telling].reshape(chains, -1, int(telling.sum()))
    tree = arviz_base.from_dict({"posterior": {"lp": values.sum(axis=-1)}, "log_likelihood": {"y": values}})
    with warnings.catch_warnings():  # what it warns of is told in words, with the number of values
        warnings.filterwarnings("ignore", "Estimated shape parameter", UserWarning)
        found: Any = arviz_stats.loo(tree, pointwise=True, var_name="y")
    weights = found.log_weights.transpose("chain", "draw", ...).values
    smoothed[:, telling] = weights.reshape(len(log_likelihood), -1)
    shape[telling] = found.pareto_k.values.ravel()
    return smoothed, shape, float(found.good_k)
