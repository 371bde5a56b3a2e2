"""What sets units apart: partial pooling without centring, and covariates, on the scale on which units differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    IdentityTransform,
    Transform,
    biject_to,
)
from numpyro.primitives import apply_stack

from . import sites
from .faults import ModelError

__all__ = ["draw_composed", "is_unknown", "shaped", "tagged_deterministic", "unit_plate"]


def is_unknown(covariate: Any) -> bool:
    """Whether the effect of a covariate is an unknown of the model."""
    return isinstance(covariate.effect, dist.Distribution)


def unit_plate(name: str, stated: Any) -> numpyro.plate:
    """The plate of the units, which stands inside no other."""
    plate = numpyro.plate(str(stated.across), int(stated.size or 0))
    if plate.dim != -1:
        raise ModelError(
            f"parameter {name!r}: it varies across {stated.across!r} and stands inside another plate; "
            "move the statement out of that plate."
        )
    return plate


def draw_composed(name: str, stated: Any, tag: sites.Tag) -> Any:
    """The value of each unit of a stated `Parameter`, from its population, its covariates and its own offset."""
    scale = _pooling_scale(stated.prior.support)
    entries = tag.labels if stated.shape else ()
    relative = tag.unit if isinstance(scale, IdentityTransform) else "1"
    population = numpyro.sample(
        f"{name}_population",
        shaped(stated.prior, stated.shape),
        infer=sites.mapping(replace(tag, kind="population", labels=entries, across=None)),
    )
    value = jnp.expand_dims(scale.inv(population), 0)
    value = jnp.broadcast_to(value, (stated.size, *jnp.shape(population)))
    for covariate, told in (stated.covariates or {}).items():
        effect = told.effect
        if is_unknown(told):
            about = replace(tag, kind="parameter", unit="1", labels=(), across=None)
            effect = numpyro.sample(f"{name}_{covariate}", effect, infer=sites.mapping(about))
        shift = effect * jnp.asarray(told.values, float)
        value = value + shift.reshape(-1, *(1,) * (value.ndim - 1))
    if stated.spread is not None:
        value = value + _deviations(name, stated, replace(tag, labels=entries), relative)
    return tagged_deterministic(name, scale(value), tag)


def _deviations(name: str, stated: Any, tag: sites.Tag, relative: str | None) -> Any:
    """How far each unit lies from what the population and its covariates make of it."""
    spread = numpyro.sample(
        f"{name}_spread",
        shaped(stated.spread, stated.shape),
        infer=sites.mapping(replace(tag, kind="spread", unit=relative, across=None)),
    )
    with unit_plate(name, stated):
        offset = numpyro.sample(
            f"{name}_offset",
            shaped(dist.Normal(0.0, 1.0), stated.shape),
            infer=sites.mapping(replace(tag, kind="offset", unit="1")),
        )
    return jnp.expand_dims(spread, 0) * offset


def shaped(prior: dist.Distribution, shape: tuple[int, ...]) -> dist.Distribution:
    """The prior over the whole value: its own axes are one event, so a user's plate cannot claim them."""
    return prior.expand(shape).to_event(len(shape)) if shape else prior


def _pooling_scale(support: Any) -> Transform:
    """From the real line, where units differ by a normal offset, to where the parameter lives."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real:
        return IdentityTransform()
    if support in (constraints.positive, constraints.nonnegative):
        return ExpTransform()
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        below = support.lower_bound
        return ExpTransform() if np.all(np.asarray(below) == 0.0) else _above(below)
    return biject_to(support)


def _above(below: Any) -> Transform:
    return dist.transforms.ComposeTransform(
        [ExpTransform(), AffineTransform(below, 1.0, domain=constraints.positive)]
    )


def tagged_deterministic(name: str, value: Any, tag: sites.Tag) -> Any:
    """`numpyro.deterministic` that carries a tag, which numpyro's own has no argument for.

    **Arguments:**

    - `name`: name of the site.
    - `value`: its value, an array.
    - `tag`: what the site says of itself; `sites.read` finds it in the trace.

    **Returns:** the value.

    ```python
    from bayeshybrid import priors, sites
    with numpyro.handlers.trace() as trace:
        priors.tagged_deterministic("k", jnp.ones(3), sites.Tag("rates", unit="1/h"))
    assert sites.read(trace["k"]).unit == "1/h"
    ```
    """
    message = {
        "type": "deterministic",
        "name": name,
        "value": value,
        "cond_indep_stack": [],
        "infer": sites.mapping(tag),
    }
    return apply_stack(message)["value"]
