"""Measured values under a forecast: their probability given each draw, and what the forecast would have given.

A forecast is the mixture of its draws' conditional distributions. Here each measured cell meets each of them,
and some of the forecast's own joint draws meet all the others: they play the data, so that a figure can be
held against what it would be if the forecast were right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.forecast import Forecast
from bayeshybrid.moments import LACKING
from bayeshybrid.observation import INTERVAL, LEFT, MISSING, RIGHT, Measured
from bayeshybrid.readings import (
    Reading,
    bare_inputs,
    cell_by_cell,
    class_probabilities,
    read_data,
    split_inputs,
)
from bayeshybrid.survey import BATCH
from bayeshybrid.tracing import place_constrained, run

ROWS = 2000
PLAYS = 200
FEW = 400
LARGEST = 1000

__all__ = ["HeldOut", "Mixture", "evaluate"]


@dataclass(frozen=True)
class Mixture:
    """Values under a forecast: each entry's probability, with the values along the first axis.

    - `log_probability`: per cell, or per event where the noise joins cells, `(values, ...)`.
    - `below`, `strictly`: P(Y <= y) and P(Y < y), `(values, cells...)`.
    - `probabilities`: of each class, `(values, cells..., classes)`; `None` unless the site holds classes.
    """

    log_probability: np.ndarray
    below: np.ndarray
    strictly: np.ndarray
    probabilities: np.ndarray | None


@dataclass(frozen=True)
class HeldOut:
    """One observed site: measured values under each draw of a forecast, and plays under all other draws.

    - `reading`: what was measured, cell by cell.
    - `rows`: the measured values under each draw, `(row, ...)`. `owner`, `chain`: the forecast draw of each row
      and the chain of that.
    - `draws`: sampled observations `(draw, cells...)`, in blocks of `block` that share their unknowns. There
      are `repeats` for each row, side by side.
    - `players`: which of `draws` play the data; `plays`: these under all draws but their own block.

    Where numpyro knows no distribution function, `below` and `strictly` are shares of sampled observations.
    """

    name: str
    reading: Reading
    rows: Mixture
    owner: np.ndarray
    chain: np.ndarray
    draws: np.ndarray
    block: int
    repeats: int
    players: np.ndarray
    plays: Mixture


def evaluate(forecast: Forecast, data: Mapping[str, Any], plays: int = PLAYS) -> dict[str, HeldOut]:
    """Measured values, and plays of the forecast itself, under the forecast's conditional distributions.

    At most 2,000 rows are used, whole draws evenly spaced. With fewer than 200 rows each gives more
    sampled observations, 400 in all.

    **Arguments:**

    - `forecast`: what was forecast.
    - `data`: measured values by the model's argument or by observed site; NaN is not compared. Other
      arguments, such as what is censored, may stand beside them; inputs must be those of the forecast.
    - `plays`: how many joint draws play the data.

    **Returns:** observed site to `HeldOut`, for sites that were measured.

    **Raises:** `DataError` for names that the model does not have, other inputs or shapes than those of the
    forecast, infinite values, classes that do not exist, or data in which nothing was measured.

    ```python
    from bayeshybrid.held_out import evaluate
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    found = evaluate(bh.simulate(model, {}, key=0, draws=500), {"y": np.array(0.0)})["y"]
    assert found.rows.below.shape == (500,) and abs(found.rows.below.mean() - 0.5) < 0.05
    ```
    """
    with configuration.scope():
        readings = read_data(forecast, data)
        chosen = _chosen(forecast, plays)
        if chosen.repeats > 1:
            draws = _fresh(forecast, chosen, list(readings))
        else:
            draws = {name: forecast.observed[name].draws[chosen.rows] for name in readings}
        rows, played = _evaluated(forecast, readings, draws, chosen)
    owner = chosen.rows // forecast.replicates
    chain = np.zeros(len(owner), int) if forecast.origin is None else forecast.origin.chain[owner]
    rest = {"block": chosen.block, "repeats": chosen.repeats, "players": chosen.players}
    found = {}
    for name, reading in readings.items():
        each, others = _ranked(reading.values, draws[name], chosen, rows[name], played[name])
        found[name] = HeldOut(name, reading, each, owner, chain, draws[name], plays=others, **rest)
    return found


@dataclass(frozen=True)
class _Chosen:
    """Which rows of a forecast are used, how often each is sampled, and which samples play."""

    rows: np.ndarray
    repeats: int
    block: int
    players: np.ndarray

    def weights(self, owners):
        """Whether row and player are of different blocks, `(row, player)`."""
        blocks = np.arange(len(self.rows)) * self.repeats // self.block
        other = blocks[:, None] != (self.players // self.block)[None]
        return other if owners > 1 else np.ones_like(other)


def _chosen(forecast, plays):
    """Whole draws, evenly spaced; and players, evenly spaced among their sampled observations."""
    k = forecast.replicates
    total = len(next(iter(forecast.observed.values())).draws) // k
    kept = np.linspace(0, total - 1, min(total, max(1, ROWS // k))).astype(int)
    rows = (kept[:, None] * k + np.arange(k)).ravel()
    repeats = 1 if len(rows) >= PLAYS else -(-FEW // len(rows))
    samples = len(rows) * repeats
    # One draw alone cannot be left out: then each of its samples is compared with the others
    block = k * repeats if len(kept) > 1 else 1
    players = np.linspace(0, samples - 1, min(plays, samples)).astype(int)
    return _Chosen(rows, repeats, block, players)


# What each draw says


def _latents(forecast, rows):
    unknowns = (*forecast.carried, *forecast.continued, *forecast.drawn_anew)
    return {name: forecast.latent[name].draws[rows] for name in unknowns if name in forecast.latent}


def _fresh(forecast, chosen, names):
    """More sampled observations of each row, those of a row side by side."""
    arrays, fixed = split_inputs(forecast.target, bare_inputs(forecast))
    rows = np.repeat(chosen.rows, chosen.repeats)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(jnp.arange(len(rows)))
    latents = _latents(forecast, rows)
    observed = _observations(forecast.target, fixed, forecast.remembers, arrays, latents, keys)
    return {name: np.asarray(observed[name]) for name in names}


@partial(jax.jit, static_argnums=(1, 2))
def _observations(target, fixed, remembers, arrays, latents, keys):
    arguments = {**arrays, **{name: value.value for name, value in fixed}}
    return jax.lax.map(
        lambda row: target.outcome(row[0], arguments, row[1], remembers=remembers).observed,
        (latents, keys),
        batch_size=BATCH,
    )


def _evaluated(forecast, readings, draws, chosen):
    """The data under each row, and the players under all rows but those of their own block."""
    arrays, fixed = split_inputs(forecast.target, bare_inputs(forecast))
    values = {
        name: np.concatenate([site.values[None], draws[name][chosen.players]])
        for name, site in readings.items()
    }
    censored = {
        name: (site.kinds, site.upper) for name, site in readings.items() if np.any(site.kinds > MISSING)
    }
    tops = [np.nanmax(values[name]) for name, site in readings.items() if site.nature == "counts"]
    largest = min(int(np.ceil((max(tops, default=0) + 1) / 64)) * 64, LARGEST)
    settings = (largest, forecast.remembers)
    owners = len(np.unique(chosen.rows // forecast.replicates))
    rows = {
        "latents": _latents(forecast, chosen.rows),
        "own": {name: site.draws[chosen.rows] for name, site in forecast.observed.items()},
        "weights": chosen.weights(owners).astype(float),
    }
    pieces, totals, total = [], None, len(chosen.rows)
    for start in range(0, total, BATCH):
        at = np.minimum(np.arange(start, start + BATCH), total - 1)
        batch = jax.tree.map(lambda x, at=at: x[at], rows)
        batch["weights"] = np.where((np.arange(start, start + BATCH) < total)[:, None], batch["weights"], 0.0)
        each, summed = _told(forecast.target, fixed, settings, arrays, batch, values, censored)
        kept = min(BATCH, total - start)
        pieces.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], each))
        summed = jax.tree.map(np.asarray, summed)
        totals = summed if totals is None else _joined(totals, summed)
    each = jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)
    weight = rows["weights"].sum(axis=0)
    assert totals is not None
    return each, {name: _averaged(site, weight) for name, site in totals.items()}


def _joined(a, b):
    return {
        name: {
            what: np.logaddexp(x, b[name][what]) if what == "log_probability" else x + b[name][what]
            for what, x in site.items()
        }
        for name, site in a.items()
    }


def _averaged(site, weight):
    def over(x):
        return weight.reshape(-1, *(1,) * (x.ndim - 1))

    return {
        what: x - np.log(over(x)) if what == "log_probability" else x / over(x) for what, x in site.items()
    }


@partial(jax.jit, static_argnums=(1, 2), compiler_options=configuration.compile_options())
def _told(target, fixed, settings, arrays, rows, values, censored):
    """Of a batch of rows: what each says of the data, and sums over rows of what they say of the players."""
    arguments = {**arrays, **{name: value.value for name, value in fixed}}
    largest, remembers = settings
    gaps = {
        name: jnp.isnan(value[0]) for name, value in values.items()
    }  # the data's, for those who play them too

    def one(censored, latents, own, values):
        placed = {
            name: jnp.where(jnp.isnan(value), own[name], value).astype(own[name].dtype)
            for name, value in values.items()
        }
        found = run(
            target.model,
            arguments,
            key=jax.random.key(0),
            place=place_constrained({**latents, **own, **placed}),
            scalings=target.scalings,
            finer=target.finer,
        )
        noise = {name: found.sites[name]["fn"] for name in values}
        noise |= target.remembered(found, latents, tuple(name for name in remembers if name in values))
        return {
            name: _densities(noise[name], placed[name], gaps[name], censored.get(name), largest)
            for name in values
        }

    # What does not depend on the values is computed once for all of them: they are mapped innermost.
    each = jax.vmap(lambda latents, own: jax.vmap(partial(one, {}, latents, own))(values))(
        rows["latents"], rows["own"]
    )
    first = jax.tree.map(lambda x: x[:, 0], each)
    if censored:  # probabilities of intervals are dear, and no play is censored
        data = {name: value[0] for name, value in values.items()}
        first = jax.vmap(lambda latents, own: one(censored, latents, own, data))(rows["latents"], rows["own"])
    return first, {
        name: {what: _summed(what, x[:, 1:], rows["weights"]) for what, x in site.items()}
        for name, site in each.items()
    }


def _summed(what, x, weights):
    weights = weights.reshape(*weights.shape, *(1,) * (x.ndim - 2))
    if what == "log_probability":
        return jax.scipy.special.logsumexp(x, axis=0, b=jnp.broadcast_to(weights, x.shape))
    return jnp.sum(jnp.where(weights > 0, x, 0.0), axis=0)


def _densities(distribution, value, gaps, censored, largest):
    """Log probability, distribution function and class probabilities of the cells of one site."""
    cells, _ = cell_by_cell(distribution)
    if hasattr(cells, "without"):
        cells = cells.without(gaps)
    log_probability = cells.log_prob(value)
    if censored is not None and not cells.event_shape:
        kinds, upper = censored
        marks = {"left": kinds == LEFT, "right": kinds == RIGHT}
        between = jnp.where(kinds == INTERVAL, upper, jnp.nan)
        limited = Measured(cells.expand(value.shape), **marks, upper=between).log_prob(value)
        log_probability = jnp.where(kinds > MISSING, limited, log_probability)
    told = {"log_probability": jnp.where(jnp.isnan(log_probability), -jnp.inf, log_probability)}
    classes = class_probabilities(cells, value.shape)
    if classes is not None:
        return {**told, "probabilities": classes}
    cells = getattr(cells, "marginals", cells)
    if not cells.event_shape:
        below = _counted(cells, value, largest) if cells.is_discrete else _distribution_function(cells, value)
        if below is not None:
            exact = jnp.exp(told["log_probability"]) if cells.is_discrete else 0.0
            told |= {"below": below, "strictly": jnp.maximum(below - exact, 0.0)}
    return told


def _distribution_function(cells, value):
    try:
        return jnp.broadcast_to(cells.cdf(value), value.shape)
    except LACKING:
        return None


def _counted(cells, value, largest):
    """The distribution function of counts: sums of their probabilities where these are few, else as it is known.

    The sums do not depend on the value, so they are made once for all values that a draw meets.
    """
    if largest >= LARGEST or not _from_zero(cells):
        return _distribution_function(cells, value)
    counts = jnp.arange(largest).astype(value.dtype)
    chance = jax.vmap(lambda k: jnp.exp(cells.log_prob(jnp.broadcast_to(k, value.shape))))(counts)
    within = jnp.clip(jnp.cumsum(jnp.nan_to_num(chance), axis=0), 0.0, 1.0)
    return jnp.take_along_axis(within, jnp.clip(value, 0, largest - 1).astype(int)[None], axis=0)[0]


def _from_zero(cells):
    lowest = getattr(cells.support, "lower_bound", None)
    return isinstance(lowest, int | float) and lowest == 0


# Where the distribution function is not known


def _ranked(values, draws, chosen, rows, played):
    """Both as `Mixture`, with shares of sampled observations where there is no distribution function.

    The value itself counts as one more draw: so the rank of one more draw is uniform.
    """
    ends = ("strictly", "below")
    if any(what not in told or np.isnan(told[what]).any() for told in (rows, played) for what in ends):
        flat = draws.reshape(len(draws), -1)
        count = len(flat)
        compared = flat.reshape(-1, chosen.repeats, flat.shape[1])
        by_row = [np.mean(compared < values.ravel(), axis=1), np.mean(compared <= values.ravel(), axis=1)]
        shares = {"strictly": by_row[0] * count / (count + 1), "below": (by_row[1] * count + 1) / (count + 1)}
        _fill(rows, {what: share.reshape(-1, *values.shape) for what, share in shares.items()})
        _fill(played, _ranks(draws, chosen))
    return tuple(
        Mixture(told["log_probability"], told["below"], told["strictly"], told.get("probabilities"))
        for told in (rows, played)
    )


def _fill(told, shares):
    for what, share in shares.items():
        told[what] = np.where(np.isnan(told[what]), share, told[what]) if what in told else share


def _ranks(draws, chosen):
    """Of each player the share of draws below, itself counted and the rest of its block left out."""
    strictly, below = [], []
    for player in chosen.players:
        first = player // chosen.block * chosen.block
        others = np.delete(draws, np.s_[first : first + chosen.block], axis=0)
        strictly.append(np.sum(others < draws[player], axis=0) / (len(others) + 1))
        below.append((np.sum(others <= draws[player], axis=0) + 1) / (len(others) + 1))
    return {"strictly": np.stack(strictly), "below": np.stack(below)}
