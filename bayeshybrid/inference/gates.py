"""What is looked at before any sampling: the model at prior draws, and the data under it.

Whatever cannot work is an error here, with its place and its mend; whatever is odd is a remark that reaches
the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np

from bayeshybrid.data import check_observation, located
from bayeshybrid.faults import DataError, ModelError, Place, StartError
from bayeshybrid.inference.convergence import reasons_in_words
from bayeshybrid.inference.freezing import Frozen, rough
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.keys import child
from bayeshybrid.progress import Progress
from bayeshybrid.science.ode import Reason
from bayeshybrid.survey import ask, draw_prior
from bayeshybrid.target import Target

SCOUTS = 100
INFLUENCE_DRAWS = 20
MOST_ROUNDS = 5
EXPLAINED = ("values", "reasons", "start", "initial", "finite", "data", "kinds", "support")
SHOWN = 5

__all__ = ["Scouts", "read", "scale_networks", "scout"]


@dataclass(frozen=True)
class Scouts:
    """What prior draws told.

    - `points`: unconstrained prior draws of finite density, `(n, size)`; `nearest`: of all, where the data are most
      probable, `(size,)`.
    - `share_failed`: share of prior draws whose density was not finite.
    - `remarks`: oddities that the verdict must carry.
    - `lean`: the target on grids of steps, where it was wanted and they can stand.
    """

    points: np.ndarray
    nearest: np.ndarray
    share_failed: float
    remarks: tuple[str, ...]
    lean: Frozen


def read(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    key: Any,
    starts: int,
    progress: Progress,
    freeze: bool,
) -> tuple[Target, Scouts, tuple[str, ...]]:
    """The target with its networks scaled, what prior draws told of it, and notes on the scaling; see `scout`."""
    progress.start("reading the model", 2)
    target, scaled = scale_networks(Target(model, data), key)
    progress.update(1, "prior draws")
    with located(data):
        scouts = scout(target, key, starts, freeze)
    failed = f"{100 * scouts.share_failed:.0f} % of prior draws failed" if scouts.share_failed else ""
    progress.finish(failed)
    return target, scouts, scaled


def scout(target: Target, key: Any, wanted: int, freeze: bool = False) -> Scouts:
    """Evaluate the model at prior draws until `wanted` of them have a finite density.

    With `freeze` gradients are those on grids of steps.

    **Raises:** `DataError` for observations, doses and forcings that cannot be used, `ModelError` for times before
    `t0` or a field that is not finite at the start of any draw, `StartError` where no prior draw has a finite
    density.
    """
    if not target.layout.latent:
        raise ModelError("the model has no unknowns: nothing can be inferred. Give bh.parameter a prior")
    if target.layout.absent:
        raise DataError(
            f"nothing that this model observes was given ({', '.join(target.layout.absent)}): give it, or write "
            "bh.simulate to draw from the prior"
        )
    points, every, tables = [], [], []
    remarks: list[str] = []
    lean = Frozen(target)
    for attempt in range(MOST_ROUNDS):
        q, _ = draw_prior(target, child(key, attempt), SCOUTS)
        told = ask(target, q, ["log_likelihood", "log_density", "prior_slope", *EXPLAINED])
        if attempt == 0:  # before the gradient is compiled, so that an error comes early
            remarks = _check_data(target, told)
            _check_starts(target, told)
            lean = rough(target, q, told["log_likelihood"]) if freeze else lean
        density, gradient = slopes(lean.target, q)
        points.append(np.asarray(q)[np.isfinite(density)])
        every.append(np.asarray(q))
        if lean.target.grids:  # what fails is for adaptive solves to say
            density = told["log_density"]
        seen = {"density": density, "slope": gradient - told["prior_slope"], "explained": told}
        tables.append(seen)
        if sum(map(len, points)) >= wanted:
            break
    seen = jax.tree.map(lambda *rows: np.concatenate(rows), *tables)
    found = np.concatenate(points)
    if not len(found):
        raise StartError(_no_start(target, seen))
    failed = ~np.isfinite(seen["density"])
    remarks += [f"{solve.name}: {odd}" for solve in target.layout.solves for odd in solve.oddities]
    remarks += _start_remarks(target, seen) + _influence(target, seen)
    likely = np.where(failed, -np.inf, seen["explained"]["log_likelihood"])
    nearest = np.concatenate(every)[np.argmax(likely)]
    return Scouts(found[:wanted], nearest, float(failed.mean()), tuple(remarks), lean)


def _check_data(target, explained):
    """The gate for every observed site; a support that moves with the unknowns must hold the data at some draw."""
    remarks: list[str] = []
    observed = target.layout.observed
    for site in (*observed, *target.layout.pinned):
        values, kinds = (np.asarray(explained[what][site.name][0]) for what in ("data", "kinds"))
        possible = np.any(explained["support"][site.name], axis=0)
        word = site.tag.across
        units = (word, target.labels.get(word, ())) if word else None
        odd = check_observation(site.name, values, kinds, possible, site.support, site.tag.unit, units=units)
        remarks += odd if site in observed else []
    return remarks


def _check_starts(target, explained):
    for solve, reasons in explained["reasons"].items():
        if np.all(np.any(reasons.reshape(len(reasons), -1) == Reason.BEFORE_START, axis=1)):
            told, place = _early(explained["initial"][solve])
            error = ModelError(
                f"solve_ode({solve!r}): {told}, the time that the initial state belongs to: give an earlier t0, or "
                "leave those times out"
            )
            error.place = place
            raise error
    _check_inputs(target, explained)
    for solve, sound in explained["start"].items():
        if not np.any(sound):
            raise ModelError(
                f"solve_ode({solve!r}): the field is NaN or infinite at the start for all of {len(sound)} "
                f"prior draws. {_at_start(target, explained, solve, 0)} Look for a logarithm, root or division "
                "of something that can be zero or negative there"
            )


def _check_inputs(target, explained):
    """Doses and forcings that can be used at no prior draw, with the first that is at fault."""
    for solve in target.layout.solves:
        flaws = explained["initial"][solve.name].get("flaws")
        if flaws is None:
            continue
        flaws = np.asarray(flaws).reshape(len(flaws), -1, *np.shape(flaws)[-2:])
        if not np.all(np.any(flaws[..., 0] > 0, axis=(1, 2))):
            continue
        unit, which = np.argwhere(flaws[0, ..., 0] > 0)[0]
        code, place, time, value = flaws[0, unit, which]
        names = target.labels.get(solve.across) or ()
        where = f" of {solve.across or 'unit'} {names[unit] if unit < len(names) else unit}"
        where = f"inputs[{which}]{where if flaws.shape[1] > 1 else ''}"
        raise DataError(
            f"solve_ode({solve.name!r}), {where}: "
            + _FLAWS[Reason(int(code))].format(int(place), time, value, "from" if value < time else "until")
        )


_FLAWS = {
    Reason.DOSE_BEFORE_START: "the dose [{0}] of {2:.6g} at time {1:.6g} lies before t0, the time that the initial "
    "state belongs to: give an earlier t0, or put its effect into the initial state",
    Reason.DOSE_NEGATIVE: "the dose [{0}] at time {1:.6g} has an amount or a duration of {2:.6g}: neither can be "
    "negative or missing; what leaves the state belongs in the field",
    Reason.FORCING_UNKNOWN: "the forcing is given {3} {1:.6g} and asked at {2:.6g}: give values that cover the solve "
    'from t0 to its last time; kind="previous" keeps the last value',
    Reason.FORCING_UNSORTED: "the forcing's time [{0}] = {1:.6g} follows {2:.6g}: times must not run backwards nor be "
    "missing, so sort times and values together and fill up a row by repeating its last time",
}


def _early(start):
    """The times that lie before t0, in words and as cells."""
    times, t0 = np.asarray(start["times"][0]), np.asarray(start["t0"][0])
    t0 = np.broadcast_to(t0[:, None] if times.ndim > 1 and len(t0) == len(times) else np.max(t0), times.shape)
    cells = np.argwhere(times < t0).tolist()
    place = Place("", times.shape, cells[:SHOWN])
    told = ", ".join(f"{cell} = {times[tuple(cell)]:.6g}" for cell in cells[:SHOWN])
    rest = f" and {len(cells) - SHOWN} more" if len(cells) > SHOWN else ""
    return f"times {told}{rest} lie before t0 = {t0[tuple(cells[0])]:.6g}", place


def _at_start(target, explained, solve, draw):
    """State, time, field and unknowns of one draw, in words; of the first unit at fault where several are mapped."""
    initial = jax.tree.map(lambda x: np.asarray(x[draw]), explained["initial"][solve])
    slopes = np.atleast_2d(initial["slope"])
    unit = int(np.argmin(np.all(np.isfinite(slopes), axis=1)))
    slope, state = slopes[unit], np.atleast_2d(initial["y0"])[unit]
    labels = next(s.labels for s in target.layout.solves if s.name == solve)
    names = labels or [f"y[{i}]" for i in range(len(state))]
    told = [f"{name} = {value:.4g}" for name, value in zip(names, state, strict=True)]
    values = {site.name: explained["values"][site.name][draw] for site in target.layout.latent}
    told += [f"{name} = {value:.4g}" for name, value in values.items() if np.ndim(value) == 0][:SHOWN]
    field = ", ".join(f"{value:.4g}" for value in slope)
    return f"At time {initial['t0'][unit]:.6g} with {', '.join(told)} the field is ({field})."


def _start_remarks(target, seen):
    remarks = []
    for solve, sound in seen["explained"]["start"].items():
        if not np.all(sound):
            share = 1 - np.mean(sound)
            remarks.append(
                f"{solve}: the field is NaN or infinite at the start for {100 * share:.0f} % of prior draws. "
                + _at_start(target, seen["explained"], solve, int(np.argmin(sound)))
            )
    share = np.mean(
        [np.any(r.reshape(len(r), -1) > 0, axis=1) for r in seen["explained"]["reasons"].values()] or [0.0]
    )
    if share > 0:
        remarks.append(f"{100 * share:.0f} % of prior draws fail to solve: the prior is cut off there")
    return remarks


def _influence(target, seen):
    """Groups on which the likelihood does not depend at any of 20 prior draws."""
    slopes = seen["slope"][np.isfinite(seen["density"])][:INFLUENCE_DRAWS]
    if not len(slopes) or not target.layout.observed:
        return []
    idle = [g for g, where in target.layout.groups.items() if not np.any(np.abs(slopes[:, where]) > 1e-10)]
    lone = [
        site.name
        for site in target.layout.latent
        if site.tag.group not in idle
        and site.tag.kind == "parameter"
        and site.stop > site.start
        and not np.any(np.abs(slopes[:, site.start : site.stop]) > 1e-10)
    ]
    soft = ", ".join(map(repr, target.layout.soft))
    means = f"it learns by the soft constraints alone ({soft})" if soft else "its posterior is its prior"
    return [f"the likelihood does not depend on {name}: {means}" for name in idle + lone]


def _no_start(target, seen):
    """A table of which term fails at how many prior draws."""
    total = len(seen["density"])
    lines = [
        f"none of {total} prior draws has a finite density with a finite gradient, so no chain can start:"
    ]
    reasons = reasons_in_words(seen["explained"]["reasons"])
    lines += [f"  {count} of {total}: {reason}" for reason, count in reasons.items()]
    for name, finite in seen["explained"]["finite"].items():
        if not np.all(finite):
            lines.append(f"  {int(np.sum(~finite))} of {total}: the log probability of {name} is not finite")
    known = [r.reshape(total, -1).max(axis=1) == 0 for r in seen["explained"]["reasons"].values()]
    steep = np.all([np.ones(total, bool), *seen["explained"]["finite"].values(), *known], axis=0)
    if np.any(steep):
        lines.append(f"  {int(np.sum(steep))} of {total}: the density is finite but its gradient is not")
    lines += [f"  the argument {where}" for where in _not_finite(target.arguments())]
    lines.append("Narrow the priors to values that the model can take, or raise max_steps or the tolerances.")
    return "\n".join(lines)


def _not_finite(arguments):
    """Arguments of the model that hold NaN or infinity, with the first cell."""
    for name, value in arguments.items():
        for leaf in jax.tree.leaves(value):
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" and not np.all(np.isfinite(leaf)):
                cell = np.argwhere(~np.isfinite(leaf))[0].tolist()
                yield f"{name} holds {leaf[tuple(cell)]} at {cell}"


def scale_networks(target: Target, key: Any) -> tuple[Target, tuple[str, ...]]:
    """Give networks that were not told the magnitude of their inputs the one that the data suggest.

    Inputs are collected along the solutions at the tenth of 100 prior draws that fits the data best, because
    those stay where the data are; their median and spread become centre and scale.

    **Returns:** the target with scalings, and a line for each network.
    """
    if not target.layout.asking:
        return target, ()
    q, _ = draw_prior(target, key, SCOUTS)
    visited, fit = jax.tree.map(np.asarray, _visits(target, q))
    order = np.argsort(-np.where(np.isfinite(fit), fit, -np.inf))[: SCOUTS // 10]
    scalings, notes = {}, []
    for name, size in target.layout.asking:
        inputs = visited[name][0][order].reshape(-1, size) if name in visited else np.zeros((0, size))
        inputs = inputs[np.all(np.isfinite(inputs), axis=1)]
        if not len(inputs):
            notes.append(f"{name}: the magnitude of its inputs could not be found; give center= and spread=")
            continue
        center = np.median(inputs, axis=0)
        spread = 1.4826 * np.median(np.abs(inputs - center), axis=0)
        spread = np.where(spread > 1e-12 * (1 + np.abs(center)), spread, 1.0)
        scalings[name] = (center, spread)
        told = (np.array2string(x, precision=3) for x in (center, spread))
        notes.append("{}: inputs centred at {} and scaled by {}".format(name, *told))
    return eqx.tree_at(lambda t: t.scalings, target, scalings), tuple(notes)


@jax.jit
def _visits(target, q):
    return jax.lax.map(lambda row: (target.visited(row), target.log_likelihood(row)), q, batch_size=20)
