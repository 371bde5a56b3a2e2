"""What is looked at before any sampling: the model at prior draws, and the data under it.

Whatever cannot work is an error here, with its place and its mend; whatever is odd is a remark that reaches
the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np

from bayeshybrid.data import check_observation
from bayeshybrid.faults import ModelError, StartError
from bayeshybrid.inference.convergence import reasons_in_words
from bayeshybrid.survey import ask, draw_prior, slopes
from bayeshybrid.target import Target

SCOUTS = 100
INFLUENCE_DRAWS = 20
MOST_ROUNDS = 5
EXPLAINED = ("reasons", "start", "initial", "finite", "data", "kinds", "support")

__all__ = ["Scouts", "scale_networks", "scout"]


@dataclass(frozen=True)
class Scouts:
    """What prior draws told.

    - `points`: unconstrained prior draws of finite density, `(n, size)`.
    - `share_failed`: share of prior draws whose density was not finite; `reasons` counted in words.
    - `remarks`: oddities that the verdict must carry.
    - `proper`: whether every prior could be drawn from.
    """

    points: np.ndarray
    share_failed: float
    reasons: dict[str, int]
    remarks: tuple[str, ...]
    proper: bool


def scout(target: Target, key: Any, wanted: int) -> Scouts:
    """Evaluate the model at prior draws until `wanted` of them have a finite density.

    **Raises:** `DataError` for observations that cannot be used, `ModelError` for times before `t0` or a field
    that is not finite at the start of any draw, `StartError` where no prior draw has a finite density.
    """
    if not target.layout.latent:
        raise ModelError("the model has no unknowns: nothing can be inferred. Give bh.parameter a prior")
    points, tables, proper = [], [], True
    remarks: list[str] = []
    for attempt in range(MOST_ROUNDS):
        q, is_proper = draw_prior(target, jax.random.fold_in(key, attempt), SCOUTS)
        seen = _evaluate(target, q)
        if attempt == 0:
            remarks = _check_data(target, jax.tree.map(lambda x: x[0], seen["explained"]))
            _check_starts(target, seen["explained"])
        tables.append(seen)
        proper &= is_proper
        points.append(np.asarray(q)[np.isfinite(seen["density"])])
        if sum(map(len, points)) >= wanted:
            break
    seen = jax.tree.map(lambda *rows: np.concatenate(rows), *tables)
    found = np.concatenate(points)
    if not len(found):
        raise StartError(_no_start(target, seen))
    failed = ~np.isfinite(seen["density"])
    remarks += _start_remarks(target, seen) + _influence(target, seen)
    reasons = reasons_in_words({k: v[failed] for k, v in seen["explained"]["reasons"].items()})
    return Scouts(found[:wanted], float(failed.mean()), reasons, tuple(remarks), proper)


def _evaluate(target, q):
    """Density, gradient and explanation at each point."""
    density, gradient = slopes(target, q)
    told = ask(target, q, ["log_likelihood", "prior_slope", *EXPLAINED])
    return {"density": density, "slope": gradient - told["prior_slope"], "explained": told}


def _check_data(target, explained):
    """The gate for every observed site."""
    remarks: list[str] = []
    for site in target.layout.observed:
        values = np.asarray(explained["data"][site.name])
        remarks += check_observation(
            site.name,
            values,
            explained["kinds"][site.name],
            explained["support"][site.name],
            "the support of its distribution",
            site.tag.unit,
        )
    return remarks


def _check_starts(target, explained):
    for solve, reasons in explained["reasons"].items():
        if np.any(reasons == 6):
            raise ModelError(
                f"solve_ode({solve!r}): some times lie before t0, the time that the initial state belongs to: give "
                "an earlier t0, or leave those times out"
            )
    for solve, sound in explained["start"].items():
        if not np.any(sound):
            raise ModelError(
                f"solve_ode({solve!r}): the field is NaN or infinite at the start for all of {len(sound)} prior draws. "
                f"{_at_start(target, explained, solve)} Look for a logarithm, root or division of something that can "
                "be zero or negative there"
            )


def _at_start(target, explained, solve):
    """State, time and derivative of the first draw, in words."""
    start = explained["initial"][solve]
    state, time, slope = (np.ravel(np.asarray(start[k][0])) for k in ("y0", "t0", "slope"))
    return f"At time {time[0]:.4g}, state {np.round(state, 4).tolist()}, the field is {np.round(slope, 4).tolist()}."


def _start_remarks(target, seen):
    remarks = []
    for solve, sound in seen["explained"]["start"].items():
        if not np.all(sound):
            share = 1 - np.mean(sound)
            remarks.append(
                f"{solve}: the field is NaN or infinite at the start for {100 * share:.0f} % of prior draws"
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
    return [f"the likelihood does not depend on {name}: its posterior is its prior" for name in idle + lone]


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
    steep = np.isfinite(seen["explained"]["log_likelihood"]) & ~np.isfinite(seen["density"])
    if np.any(steep):
        lines.append(f"  {int(np.sum(steep))} of {total}: the density is finite but its gradient is not")
    lines.append("Narrow the priors to values that the model can take, or raise max_steps or the tolerances.")
    return "\n".join(lines)


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
