"""Carried, continued or drawn anew: what becomes of each unknown when the model is asked at other inputs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.layout import Latent, Layout
from bayeshybrid.target import Target

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """What becomes of each unknown in a forecast, by name."""

    carried: tuple[str, ...]
    continued: tuple[str, ...]
    drawn_anew: tuple[str, ...]


def plan(target: Target, sites: Mapping[str, Latent], inputs: Mapping[str, Any], new: Sequence[str]) -> Plan:
    """What becomes of each unknown: carried, continued beyond its end, or drawn anew.

    **Arguments:**

    - `target`: the model and the data of the fit.
    - `sites`: everything that the model draws at the new inputs, by name.
    - `inputs`: the new inputs as arrays.
    - `new`: names of unknowns and plates to draw anew.

    **Raises:** `ModelError` for an unknown of another shape about which nothing says what becomes of it, and for
    a name in `new` that the model does not have.
    """
    layout: Layout = target.layout
    plates = {plate for site in layout.latent for plate, _ in site.plates}
    names = {site.name for site in layout.latent}
    for name in new:
        if name not in names | plates:
            nearest = difflib.get_close_matches(name, [*names, *plates], 1)
            hint = (
                f": did you mean {nearest[0]!r}?"
                if nearest
                else f": there are {', '.join(sorted(names | plates))}"
            )
            raise ModelError(f"new={name!r} is neither an unknown nor a plate of this model{hint}")
    carried, continued, anew = [], [], []
    for site in layout.latent:
        if site.name not in sites:
            continue
        if site.name in new or any(plate in new for plate, _ in site.plates):
            anew.append(site.name)
        elif sites[site.name].shape == site.shape:
            carried.append(site.name)
        elif _grows(site, sites[site.name]) and _extends(target, inputs, site, sites[site.name]):
            continued.append(site.name)
        else:
            raise _shape_error(site, sites[site.name])
    observed = {site.name for site in layout.observed}
    anew += [name for name in sites if name not in names and name not in observed]
    return Plan(tuple(carried), tuple(continued), tuple(anew))


def _grows(site: Latent, now: Latent):
    """Whether the site is longer along one axis of independent entries and otherwise the same."""
    if len(site.shape) != len(now.shape):
        return False
    changed = [axis for axis, (a, b) in enumerate(zip(site.shape, now.shape, strict=True)) if a != b]
    return (
        len(changed) == 1
        and now.shape[changed[0]] > site.shape[changed[0]]
        and changed[0] < len(site.shape) - site.event_dim
    )


def _extends(target, inputs, site, now):
    """Whether the inputs begin with those of the fit and have grown by as much as the site."""
    growth = sum(now.shape) - sum(site.shape)
    before = target.inputs()
    grown = False
    for name, value in inputs.items():
        old, value = np.asarray(before.get(name)), np.asarray(value)
        if old.shape == value.shape:
            continue
        if old.ndim != value.ndim or any(a > b for a, b in zip(old.shape, value.shape, strict=True)):
            return False
        head = value[tuple(slice(0, n) for n in old.shape)]
        if not np.array_equal(head, old):
            return False
        grown |= sum(value.shape) - sum(old.shape) == growth
    return grown


def _shape_error(site, now):
    plates = [plate for plate, _ in site.plates]
    names = ", ".join(repr(name) for name in (site.name, *plates))
    return ModelError(
        f"at these inputs {site.name!r} has shape {now.shape}, in the fit it had {site.shape}, and nothing says what "
        f"becomes of the posterior draws: name it or its plate in new=(...) ({names}) to draw it anew, or give inputs "
        "that begin with those of the fit to continue it"
    )
