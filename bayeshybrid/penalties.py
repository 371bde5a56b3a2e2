"""Soft constraints: what is held plausible of unknowns and states, as terms of the prior with a stated scale."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array
from numpyro.distributions.distribution import Unit
from numpyro.primitives import _PYRO_STACK

from bayeshybrid import sites
from bayeshybrid.faults import ModelError

__all__ = ["penalty", "physics_residual"]


def penalty(name: str, value: ArrayLike, *, scale: ArrayLike, unit: str | None = None) -> None:
    """Statement: each entry of `value` is taken a priori as Normal(0, `scale`).

    For what is held plausible and was not measured: that a difference is small, that a balance closes, that a bound
    is hardly violated (`jnp.maximum(low - x, 0.0)` is the violation). All entries count, so that twice as many hold
    twice as much; for an equation at points of your choice use `physics_residual`. It is a term of the prior: never
    forecast, not drawn by `simulate`, and a choice, which a remark of the posterior says with its scale.

    **Arguments:**

    - `name`: its name, different from every other site of the model.
    - `value`: any shape; an expression of unknowns, states or networks.
    - `scale`: standard deviation of an entry, in `unit`, as a number that is stated: one for all, or an array that
      fits the last axes of `value`.
    - `unit`: of `value`.

    **Raises:** `ModelError` for a scale that is not above zero, is computed from data or unknowns, or has another
    shape, and inside a `numpyro.plate`, which would count it once for each row. A value that is not finite makes the
    density zero.

    ```python
    def model(y=None):
        gain, loss = (numpyro.sample(name, dist.Normal(0.0, 3.0)) for name in ("gain", "loss"))
        bh.penalty("balance", gain - loss, scale=0.1, unit="mg/d")
        bh.observe("y", dist.Normal(gain, 1.0), obs=y, unit="mg/d")
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=200, warmup=200), key=0)
    assert abs(posterior["loss"].mean() - posterior["gain"].mean()) < 0.1
    ```
    """
    value = jnp.asarray(value, dtype=float)
    spread = _stated("penalty", name, "scale", scale, value.shape)
    of = f"{value.size} entries are" if value.size > 1 else "its value is"
    told = (
        f"penalty {name!r} is a choice and no measurement: {of} taken as Normal(0, {_in_words(scale, unit)}) a priori, "
        "and the bands of forecasts depend on that scale"
    )
    believed = dist.Normal(0.0, jnp.asarray(spread), validate_args=False)  # what is not finite is said below
    _soft("penalty", name, jnp.sum(believed.log_prob(value)), told)


def physics_residual(
    name: str, residual: ArrayLike, *, scale: ArrayLike, weight: float = 1.0, unit: str | None = None
) -> None:
    """Statement: an equation holds about, at points of your choice: what is left over of it there is small.

    The log density is `-weight / 2 * mean((residual / scale)^2)`: the mean over all points and equations and not the
    sum (Raissi, Perdikaris and Karniadakis 2019, "Physics-informed neural networks", equation 4), so that more points
    make it finer and not stronger. One that is `weight = n` strong says as much as n independent measurements of the
    residual, each with standard deviation `scale`. Nothing in the data tells what the weight should be: how wide the
    bands of a forecast are depends on it, and a remark of the posterior says so. Compare half and twice of it.

    **Arguments:**

    - `name`: its name, different from every other site of the model.
    - `residual`: `(points,)` or `(points, equations)`: what the equation leaves over at each collocation point.
    - `scale`: the size of a residual that is put up with, in `unit`, as a number that is stated; one for all, or one
      for each equation.
    - `weight`: how much it counts, as above.
    - `unit`: of the residual, such as `"mg/d"`.

    **Raises:** `ModelError` for a scale or weight that is not above zero or is computed from data or unknowns, for no
    points, and inside a `numpyro.plate`. A residual that is not finite makes the density zero.

    ```python
    def model(points):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
        left = jax.vmap(jax.grad(lambda t: jnp.exp(-2.0 * t)))(points) + rate * jnp.exp(-2.0 * points)
        bh.physics_residual("decay", left, scale=0.1, weight=len(points))
    target = bh.Target(model, {"points": np.linspace(0.0, 1.0, 9)})
    q = target.unconstrain({"rate": jnp.array(2.0)})
    assert jnp.allclose(target.log_prior(q), dist.LogNormal(0.0, 1.0).log_prob(2.0) + jnp.log(2.0))
    ```
    """
    residual = jnp.asarray(residual, dtype=float)
    spread = _stated("physics_residual", name, "scale", scale, residual.shape)
    strength = float(_stated("physics_residual", name, "weight", weight, ()))
    if not residual.size:
        raise ModelError(
            f"physics_residual({name!r}): residual has shape {residual.shape}: give at least one point"
        )
    points = len(residual) if residual.ndim else 1
    told = (
        f"physics_residual {name!r} is a choice and no measurement: the mean squared residual at {points} points "
        f"counts with weight {strength:g} and scale {_in_words(scale, unit)}, and the bands of forecasts depend on both"
    )
    mean = jnp.mean(jnp.square(residual / jnp.asarray(spread)))
    _soft("physics_residual", name, -0.5 * strength * mean, told)


def _stated(kind: str, name: str, what: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A number above zero that does not depend on anything, or an array of them, in the shape asked for."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        raise ModelError(
            f"{kind}({name!r}): {what} is computed from data or unknowns, so nobody can read how strong it is: state "
            "it as a number, or a NumPy array"
        )
    numbers = np.asarray(given, float)
    if not np.all(np.isfinite(numbers)) or not np.all(numbers > 0):
        raise ModelError(
            f"{kind}({name!r}): {what} = {given} must be above zero: write a number such as {what}=0.1"
        )
    try:
        return np.broadcast_to(numbers, shape)
    except ValueError:
        raise ModelError(
            f"{kind}({name!r}): {what} has shape {numbers.shape}, which does not fit the last axes of {shape}: give "
            "one number, or one for each entry along the last axis"
        ) from None


def _in_words(scale: Any, unit: str | None) -> str:
    numbers = np.unique(np.asarray(scale, float))
    told = f"{numbers[0]:g}" if len(numbers) == 1 else f"{numbers[0]:g} to {numbers[-1]:g}"
    return f"{told} {unit}" if unit else told


def _soft(kind: str, name: str, log_density: Array, told: str) -> None:
    """A factor of the prior, as `numpyro.factor`, that says what it is."""
    plates = [handler.name for handler in _PYRO_STACK if isinstance(handler, numpyro.plate)]
    if plates:
        raise ModelError(
            f"{kind}({name!r}) stands inside the plate {plates[-1]!r}, which would count it once for each row: state "
            "it outside, of all rows at once"
        )
    counted = Unit(jnp.where(jnp.isfinite(log_density), log_density, -jnp.inf))
    tag = sites.Tag(name, remark=told)
    infer = {"is_auxiliary": True, **sites.mapping(tag)}
    numpyro.sample(name, counted, obs=counted.sample(None), infer=infer)
