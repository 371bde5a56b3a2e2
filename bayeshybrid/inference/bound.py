"""The lower bound of variational inference: its gradient where some draws fail, and steps that raise it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bayeshybrid.inference.whitening import unwhiten
from bayeshybrid.target import Target

MARGIN = 3.0
MEMORY = 0.9
SQUARES = 0.99
LONGEST = 3.0
LAST_RATE = 0.02
FIRST_PART = 0.05
AVERAGED = 1 / 3

# From parameters to a distribution with `sample` and `log_prob`, of one vector.
Guide = Callable[[Any], Any]

__all__ = ["MARGIN", "Drawn", "State", "climb_step", "draw_round", "drawn_from", "surrogate"]


class State(NamedTuple):
    """One row a guide. A guide draws `u`; the unknowns are `centre + factor u`.

    - `step`: steps and rounds of draws that were made.
    - `factor`: `(size, size)` or, where it is diagonal, `(size,)`.
    - `parameters`, `average`: of the guide, flat: the present ones, and what the draws are made with.
    - `adam`: means of the gradient and of its square.
    - `drop`: by how much the log density falls at the edge of what can be solved.
    """

    key: Any
    step: Any
    centre: Any
    factor: Any
    parameters: Any
    average: Any
    adam: Any
    drop: Any


class Drawn(NamedTuple):
    """Draws of a guide: its own coordinates, the unknowns, target's and guide's log density of the unknowns."""

    u: Float[Array, "draw size"]
    q: Float[Array, "draw size"]
    log_density: Float[Array, " draw"]
    log_guide: Float[Array, " draw"]

    @property
    def solved(self) -> Bool[Array, " draw"]:
        """Whether the model could be solved there."""
        return jnp.isfinite(self.log_density)


def drawn_from(guide: Any, frozen: Any, target: Target, centre: Any, factor: Any, keys: Any) -> Drawn:
    """One draw a key from a distribution `guide`, its log density by `frozen`, the same or one without gradient."""
    u = jax.vmap(guide.sample)(keys)
    q = jax.vmap(lambda u: centre + unwhiten(factor, u))(u)
    stretch = jnp.sum(jnp.log(jnp.diagonal(factor) if factor.ndim == 2 else factor))
    return Drawn(u, q, jax.vmap(target.log_density)(q), jax.vmap(frozen.log_prob)(u) - stretch)


def surrogate(
    parameters: Any, guide: Guide, target: Target, centre: Any, factor: Any, drop: Any, keys: Any
) -> tuple[Float[Array, ""], Drawn]:
    """A number whose gradient estimates that of the evidence lower bound, and the draws it was made from.

    Solved draws carry the gradient of their log density along `u(parameters, noise)`. The entropy term does the
    same for all draws, without the score of the guide, whose mean is zero, so that the noise vanishes where the
    guide equals the target (Roeder, Wu and Duvenaud 2017, "Sticking the landing").

    Along such paths a draw never notices that the edge of what can be solved is near. With a zero gradient for
    failed draws nothing holds the guide back from the failing region, and its entropy takes it there; without
    those draws the rest is no sample of the guide. So the log density has a floor, `drop` below that at the
    edge, and the share of the guide that has fallen there has as its gradient the score function, with the
    share among the other draws as baseline: `-drop * mean((failed_i - share of others) * grad log q(u_i))`.
    In one dimension, with one edge, this is an unbiased gradient of the bound with that floor.
    """
    distribution = guide(parameters)
    drawn = drawn_from(distribution, guide(jax.lax.stop_gradient(parameters)), target, centre, factor, keys)
    count = len(drawn.u)
    failed = (~drawn.solved).astype(drawn.u.dtype)
    others = (jnp.sum(failed) - failed) / (count - 1)
    score = jax.vmap(distribution.log_prob)(jax.lax.stop_gradient(drawn.u))
    along = jnp.where(drawn.solved, drawn.log_density, 0.0) - drawn.log_guide
    return jnp.mean(along) - drop * jnp.mean((failed - others) * score), drawn


def climb_step(
    guide: Guide, particles: int, target: Target, steps: Any, learning_rate: Any, state: State
) -> tuple[State, dict[str, Any]]:
    """One step of Adam of one guide, its rate rising for a twentieth of the steps, then falling to a fiftieth.

    The parameters of the last third of the steps are averaged (Polyak and Juditsky 1992, "Acceleration of
    stochastic approximation by averaging"). A gradient that is not finite counts as none.
    """
    from optax import scale_by_adam

    key, draw_key = jax.random.split(jax.random.wrap_key_data(state.key))
    (_, drawn), gradient = jax.value_and_grad(surrogate, has_aux=True)(
        state.parameters,
        guide,
        target,
        state.centre,
        state.factor,
        state.drop,
        jax.random.split(draw_key, particles),
    )
    direction, adam = scale_by_adam(b2=SQUARES).update(_shortened(gradient, state.adam), state.adam)
    way = state.step / steps
    rate = learning_rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + jnp.cos(jnp.pi * way)))
    rate = rate * jnp.minimum(1.0, (way + 1 / steps) / FIRST_PART)
    parameters = state.parameters + rate * direction
    averaged = jnp.maximum(state.step - jnp.floor((1 - AVERAGED) * steps), 0.0) + 1
    following = state._replace(
        key=jax.random.key_data(key),
        step=state.step + 1,
        parameters=parameters,
        average=jnp.where(averaged > 1, state.average + (parameters - state.average) / averaged, parameters),
        adam=adam,
        drop=_next_drop(state.drop, drawn),
    )
    return following, {"elbo": bound_of(drawn), "share_failed": jnp.mean(~drawn.solved)}


def _shortened(gradient, adam):
    """A gradient at most three times as long as they usually were: far draws must not decide for many steps."""
    usual = jnp.sqrt(jnp.sum(adam.nu) / (1 - SQUARES ** jnp.maximum(adam.count, 1)))
    length = jnp.linalg.norm(gradient)
    share = jnp.where(adam.count > 0, jnp.minimum(1.0, LONGEST * usual / jnp.maximum(length, 1e-300)), 1.0)
    return jnp.where(jnp.isfinite(length), share * gradient, 0.0)


def _next_drop(drop, drawn):
    """By how much the lowest solved draw lies below their mean, and `MARGIN` more, smoothed over some ten steps."""
    mean = jnp.mean(drawn.log_density, where=drawn.solved)
    lowest = jnp.min(drawn.log_density, where=drawn.solved, initial=jnp.inf)
    depth = MARGIN + mean - lowest
    return jnp.where(jnp.isfinite(depth), MEMORY * drop + (1 - MEMORY) * depth, drop)


def bound_of(drawn: Drawn) -> Float[Array, ""]:
    """Lower bound on the log evidence of the model given that it can be solved; `-inf` where all draws failed."""
    ratio = jnp.where(drawn.solved, drawn.log_density - drawn.log_guide, 0.0)
    share = jnp.mean(drawn.solved)
    return jnp.where(share > 0, jnp.sum(ratio) / len(ratio) / jnp.maximum(share, 1e-300), -jnp.inf) + jnp.log(
        share
    )


def draw_round(guide: Guide, count: int, target: Target, state: State) -> tuple[State, Drawn]:
    """`count` draws of one guide with its averaged parameters."""
    key, draw_key = jax.random.split(jax.random.wrap_key_data(state.key))
    distribution = guide(state.average)
    drawn = drawn_from(
        distribution, distribution, target, state.centre, state.factor, jax.random.split(draw_key, count)
    )
    return state._replace(key=jax.random.key_data(key), step=state.step + 1), drawn
