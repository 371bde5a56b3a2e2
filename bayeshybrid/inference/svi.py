"""Variational inference: a guide fitted to the posterior, and its draws weighted into draws of the posterior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer import autoguide, init_to_value

from bayeshybrid.faults import ModelError, StartError
from bayeshybrid.inference.bound import MARGIN, State, climb_step, draw_round
from bayeshybrid.inference.chains import middle_of
from bayeshybrid.inference.convergence import ESS_LIMIT
from bayeshybrid.inference.devices import over_devices, settled, spread_over
from bayeshybrid.inference.importance import Weights, certificate, choose, weigh
from bayeshybrid.inference.method import Basin, Chunk, Claim, Method, Result, Work, register
from bayeshybrid.inference.whitening import factor_of
from bayeshybrid.target import Target
from bayeshybrid.verdict import Check

CAPACITY = 100
ROUND, MOST_ROUNDS = 32, 20
OVERSAMPLED = 4
NO_CURVATURE = 0.1
NARROWEST_LAYER, FLOWS = 32, 2
PATH_POINTS = 100

GUIDES: dict[str, Callable[..., Any]] = {
    "mean field": autoguide.AutoDiagonalNormal,
    "full rank": autoguide.AutoMultivariateNormal,
    "low rank": autoguide.AutoLowRankMultivariateNormal,
    "flow": autoguide.AutoIAFNormal,
}

__all__ = ["SVI"]


@register
@dataclass(frozen=True)
class SVI(Method):
    """Variational inference: quick, approximate, and exact only where its importance weights say so.

    A guide, a distribution that is easy to draw from, is fitted by raising the lower bound on the evidence with
    gradients of the model (Kucukelbir et al. 2017, "Automatic differentiation variational inference"). Its draws
    are then weighted by the posterior. Where the Pareto k-hat of the weights allows, they are resampled to
    equally weighted draws of the posterior; where not, the draws are the guide's and the verdict fails, because
    guides that are too narrow are the rule. Several guides are fitted from different searches side by side and
    have to agree. They cover one basin, the heaviest.

    **Arguments:**

    - `guide`: `"full rank"`, a normal distribution; `"mean field"`, one without correlations between the
      unconstrained unknowns; `"low rank"`, with as many directions of correlation as `rank`; `"flow"`, two
      inverse autoregressive flows, for curved posteriors of two unknowns or more.
    - `steps`: of optimisation.
    - `draws`: draws kept of each guide; four times as many are made and weighted.
    - `particles`: draws of each guide in each step, two or more.
    - `learning_rate`: largest step of Adam, in units of the posterior's spread at the mode; a flow, whose many
      parameters act together, takes a third of it.
    - `guides`: how many are fitted.
    - `rank`: of `"low rank"`; by default the square root of the number of unknowns.

    **Raises:** `ModelError` for settings that cannot be.

    ```python
    method = bh.SVI(guide="mean field", steps=500)
    assert method.claims == "approximate"
    ```
    """

    guide: str = "full rank"
    steps: int = 1000
    draws: int = 1000
    particles: int = 8
    learning_rate: float = 0.03
    guides: int = 4
    rank: int | None = None

    claims: ClassVar[Claim] = "approximate"

    def __post_init__(self) -> None:
        if self.guide not in GUIDES:
            raise ModelError(f"SVI(guide={self.guide!r}): write one of {', '.join(map(repr, GUIDES))}")
        for name, least in (("steps", 1), ("draws", 1), ("particles", 2), ("guides", 1)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ModelError(
                    f"SVI({name}={getattr(self, name)!r}): it must be a whole number, at least {least}"
                )
        if not self.learning_rate > 0:
            raise ModelError(f"SVI(learning_rate={self.learning_rate}): it must be positive")
        if self.rank is not None and (self.guide != "low rank" or self.rank < 1):
            raise ModelError(f'SVI(rank={self.rank}): a whole number, at least 1, with guide="low rank"')

    def start(self, target: Target, basins: tuple[Basin, ...], key: Any) -> State:
        """Guides about the searches that ended in the heaviest basin, as wide as its curvature says."""
        from optax import scale_by_adam

        basin = basins[_heaviest(basins)]
        family = self._family(target)
        dense = self.guide in ("full rank", "flow") and basin.factor is not None
        factor = factor_of(basin, dense)
        if basin.factor is None and self.guide == "flow":
            factor = NO_CURVATURE * factor
        keys = jax.random.split(key, self.guides)
        parameters = jnp.stack(
            [family.begin(_beginning(self.guide, basin, factor, self.rank), k) for k in keys]
        )
        return settled(
            State(
                key=jax.vmap(jax.random.key_data)(keys),
                step=np.zeros(self.guides, int),
                centre=np.stack([middle_of(basin, turn) for turn in range(self.guides)]),
                factor=np.stack([factor] * self.guides),
                parameters=parameters,
                average=parameters,
                adam=jax.vmap(scale_by_adam().init)(parameters),
                drop=np.full(self.guides, MARGIN + target.layout.size),
            )
        )

    def advance(self, target: Target, state: State, length: int) -> tuple[State, Chunk]:
        """Up to `length` steps of optimisation, or after those up to `length` rounds of draws."""
        done = int(state.step[0])
        if done >= self.steps:
            return self._draw(target, state, min(length, MOST_ROUNDS, self.steps + self._rounds - done))
        length = min(length, CAPACITY, self.steps - done)
        program = _climbing(self._family(target), self.particles, self.guides)
        rate = self.learning_rate / (3.0 if self.guide == "flow" else 1.0)
        settings = (jnp.asarray(length), jnp.asarray(self.steps), jnp.asarray(rate))
        state, told = program(target, state, *settings)
        seen = {name: np.asarray(values)[:, :length] for name, values in told.items()}
        none = np.zeros((self.guides, 0, target.layout.size))
        return state, Chunk(none, {**seen, "failed": np.zeros(none.shape[:2], bool)})

    def finished(self, state: State) -> bool:
        """After the steps and the draws."""
        return int(state.step[0]) >= self.steps + self._rounds

    def expected(self, size: int, basins: int, target_ess: float) -> Work:
        """Every particle of every guide has a gradient in each step; draws are weighed by densities."""
        gradients = self.guides * (self.steps * self.particles + self._rounds * ROUND)
        return Work(gradients, self.draws * self.guides, self.guides)

    def progress(self, state: State) -> tuple[int, int, str]:
        """Steps and rounds of draws, done and to do."""
        done = int(state.step[0])
        return done, self.steps + self._rounds, "optimising" if done < self.steps else "drawing"

    def finish(self, target: Target, state: State, chunks: list[Chunk], basins: tuple[Basin, ...]) -> Result:
        """Draws of the posterior where the weights of the guides' draws allow it, else draws of the guides.

        Cut short while it was optimising, the guides are taken as they are.
        """
        drawn = [chunk for chunk in chunks if "log_guide" in chunk.statistics]
        if not drawn:
            drawn = [self._draw(target, state, min(self._rounds, MOST_ROUNDS))[1]]
        points = np.concatenate([chunk.draws for chunk in drawn], axis=1)
        told = {
            name: np.concatenate([chunk.statistics[name] for chunk in drawn], axis=1)
            for name in ("lp", "log_guide", "failed")
        }
        if told["failed"].all():
            raise StartError("no draw of any guide could be solved: give priors under which the model can be")
        log_weights = told["lp"] - told["log_guide"]
        weights = [weigh(row) for row in log_weights]
        bounds = np.array([_bound(row) for row in log_weights])
        checks = _checks(weights, bounds)
        believed = all(check.state == "pass" for check in checks[:2])
        count = min(self.draws, max(1, points.shape[1] // OVERSAMPLED))
        chain, place = choose(weights, count, believed, state.key)
        draws, heaviest = points[chain, place], _heaviest(basins)
        return Result(
            draws=draws,
            statistics={"lp": told["lp"][chain, place], "log_weight": log_weights[chain, place]},
            raw=tuple(draws if b == heaviest else draws[:0] for b in range(len(basins))),
            checks=checks,
            notes=_notes(basins, believed, len(draws), self.guides),
            extra={
                "khat": [w.shape for w in weights],
                "effective": [w.effective for w in weights],
                "elbo": bounds,
                "elbo_path": _path(chunks),
                "share_failed": told["failed"].mean(axis=1),
                "devices": spread_over(state),
            },
            nature="draws of the posterior" if believed and len(basins) == 1 else "approximate",
        )

    @property
    def _rounds(self):
        return -(-OVERSAMPLED * self.draws // ROUND)

    def _family(self, target):
        size = target.layout.size
        if self.guide == "flow" and size < 2:
            raise ModelError('SVI(guide="flow"): a flow needs two unknowns or more; write guide="full rank"')
        return _family(self.guide, size, _rank(self.rank, size), str(jnp.zeros(()).dtype))

    def _draw(self, target, state, rounds):
        """`rounds` rounds of draws of every guide, with what the driver counts failures by."""
        program = _drawing(self._family(target), self.guides)
        state, drawn = program(target, state, jnp.asarray(rounds))
        points, lp, log_guide = (
            np.asarray(x)[:, :rounds].reshape(self.guides, rounds * ROUND, *x.shape[3:])
            for x in (drawn.q, drawn.log_density, drawn.log_guide)
        )
        told = {"lp": lp, "log_guide": log_guide, "failed": ~np.isfinite(lp), "failed_at": points}
        return state, Chunk(points, told)


@lru_cache(maxsize=32)
def _climbing(family, particles, guides):
    """One executable for steps of optimisation, the guides spread over the devices."""

    def chunk(target, state, length, steps, learning_rate):
        turn = partial(climb_step, family.posterior, particles, target, steps, learning_rate)
        return _repeated(turn, state, length, CAPACITY)

    return over_devices(chunk, guides)


@lru_cache(maxsize=32)
def _drawing(family, guides):
    """One executable for draws of the guides, spread over the devices."""

    def chunk(target, state, rounds):
        return _repeated(partial(draw_round, family.posterior, ROUND, target), state, rounds, MOST_ROUNDS)

    return over_devices(chunk, guides)


def _repeated(turn, state, length, capacity):
    """`length` turns of a few guides side by side, and what they told, `(guide, capacity, ...)`."""
    shapes = jax.eval_shape(jax.vmap(turn), state)[1]
    blank = jax.tree.map(lambda x: jnp.zeros((x.shape[0], capacity, *x.shape[1:]), x.dtype), shapes)

    def body(i, carry):
        state, buffers = carry
        state, seen = jax.vmap(turn)(state)
        return state, jax.tree.map(lambda b, x: b.at[:, i].set(x), buffers, seen)

    return jax.lax.fori_loop(0, length, body, (state, blank))


# Guides: numpyro's, over one vector


class Family(NamedTuple):
    """A kind of guide: from flat parameters to its distribution, and the parameters that it begins with."""

    posterior: Callable[[Any], Any]
    begin: Callable[[dict[str, Any], Any], Any]


@lru_cache(maxsize=32)
def _family(guide, size, rank, dtype):
    """numpyro's guide over one vector of `size` numbers, its parameters as a flat unconstrained vector.

    A guide knows of a model only which unknowns it has, so it is shown one without a density. It is looked at
    without doing any arithmetic: what numpyro would compile to find a start takes longer than many a fit.
    """

    def unknowns():
        numpyro.sample("u", dist.ImproperUniform(constraints.real_vector, (), (size,)))

    settings = {
        "low rank": {"rank": rank},
        "flow": {"num_flows": FLOWS, "hidden_dims": [max(NARROWEST_LAYER, size)] * 2},
    }
    made = GUIDES[guide](
        unknowns, init_loc_fn=init_to_value(values={"u": np.zeros(size, dtype)}), **settings.get(guide, {})
    )
    supports: dict[str, Any] = {}

    def parameters(key):
        sites = handlers.trace(handlers.seed(made, key)).get_trace()
        found = {name: site for name, site in sites.items() if site["type"] == "param"}
        supports.update({name: site["kwargs"].get("constraint") for name, site in found.items()})
        return {name: site["value"] for name, site in found.items()}

    shapes = jax.eval_shape(parameters, jax.random.key(0))
    bijections = {name: biject_to(support) for name, support in supports.items() if support is not None}

    def unconstrained(values):
        return {name: bijections[name].inv(x) if name in bijections else x for name, x in values.items()}

    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(unconstrained, shapes))
    unravel = ravel_pytree(blank)[1]

    def posterior(flat):
        values = {name: bijections[name](x) if name in bijections else x for name, x in unravel(flat).items()}
        found = made.get_posterior(values)
        return found if found.event_dim else found.to_event(1)

    def begin(values, key):
        values = {f"auto_{name}": jnp.asarray(value, dtype) for name, value in values.items()}
        layers = {name: _layers(tree, key) for name, tree in shapes.items() if name.endswith("$params")}
        return ravel_pytree(unconstrained({**values, **layers}))[0]

    return Family(posterior, begin)


def _layers(tree, key):
    """Weights of a network that begins as zero everywhere, so that its flow begins as the identity."""
    *hidden, last = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)
    keys = jax.random.split(key, len(hidden))
    drawn = [
        (jax.random.normal(k, layer[0].shape, layer[0].dtype) / len(layer[0]) ** 0.5, layer[1])
        if layer
        else layer
        for k, layer in zip(keys, hidden, strict=True)
    ]
    return [*drawn, last]


def _rank(rank, size):
    return min(size, max(1, round(size**0.5)) if rank is None else rank)


def _beginning(guide, basin, factor, rank):
    """What a guide begins with, in units of `factor`: the curvature at the mode as far as it can express it."""
    size, width = len(basin.mode), NO_CURVATURE if basin.factor is None else 1.0
    loc, shaped = np.zeros(size), basin.factor is not None and basin.factor.ndim == 2
    if guide == "flow":
        return {}
    if guide == "full rank":
        return {"loc": loc, "scale_tril": width * np.eye(size)}
    whole = basin.factor / factor[:, None] if shaped else np.eye(size)
    if guide == "mean field":  # of all without correlations the nearest has the conditional spreads
        return {"loc": loc, "scale": width * np.sum(np.linalg.inv(whole) ** 2, axis=0) ** -0.5}
    values, vectors = np.linalg.eigh(whole @ whole.T)
    leading = vectors[:, -_rank(rank, size) :] * np.sqrt(values[-_rank(rank, size) :])
    scale = np.sqrt(np.maximum(1.0 - np.sum(leading**2, axis=1), values[0]))
    return {"loc": loc, "scale": width * scale, "cov_factor": leading / scale[:, None]}


# From weights to a result


def _heaviest(basins):
    """The basin with the largest mass; where masses are not known, the highest."""
    return max(range(len(basins)), key=lambda b: (np.nan_to_num(basins[b].mass), basins[b].log_density))


def _bound(log_weights):
    """Lower bound on the log evidence given that the model can be solved, of one guide."""
    solved = np.isfinite(log_weights)
    return np.mean(log_weights[solved]) + np.log(np.mean(solved)) if solved.any() else -np.inf


def _checks(weights: list[Weights], bounds):
    """Whether the weights make draws of the guides draws of the posterior: the first two checks say so."""
    effective = sum(w.effective for w in weights)
    finite = np.isfinite(bounds)
    return (
        certificate(weights),
        Check(
            "evidence lower bound",
            "pass" if finite.all() else "fail",
            float(bounds.min()) if finite.all() else 0.0,
            place="smallest of the guides" if finite.all() else f"guide {int(np.argmin(finite))}: not finite",
            remedy="the guide ran away: lower learning_rate, or give more particles",
        ),
        Check(
            "effective size of the weights",
            "pass" if effective >= ESS_LIMIT else "fail",
            effective,
            ESS_LIMIT,
            remedy='too few draws count: more draws, guide="flow", or NUTS',
        ),
    )


def _notes(basins, believed, kept, guides):
    """What a reader must know: which draws these are, and what they leave out."""
    notes = []
    if not believed:
        notes.append("these are draws of the guide, an approximation whose error is not measured")
    if len(basins) > 1:
        notes.append(f"{len(basins)} basins were found and the guides cover one of them: NUTS covers all")
    if kept < guides:
        notes.append(f"{guides - kept} of {guides} guides had no draw that could be solved and were left out")
    return tuple(notes)


def _path(chunks):
    """The bound along the steps, `(guide, at most 100)`."""
    paths = [chunk.statistics["elbo"] for chunk in chunks if "elbo" in chunk.statistics]
    path = np.concatenate(paths, axis=1) if paths else np.zeros((0, 0))
    return path[:, :: max(1, -(-path.shape[1] // PATH_POINTS))]
