"""The no-U-turn sampler (Hoffman and Gelman 2014), through blackjax, in whitened coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.faults import ModelError
from bayeshybrid.inference.method import Basin, Chunk, Claim, Method, Result, register
from bayeshybrid.survey import slopes
from bayeshybrid.target import Target

CAPACITY = 100
REFRESH = (0.1, 0.25, 0.5)
DENSE_UP_TO = 150
PULLS = 10

STATISTICS = (
    ("lp", "energy", "acceptance_rate", "step_size"),
    ("n_steps", "tree_depth"),
    ("turning", "diverging", "failed"),
)

__all__ = ["NUTS"]


class State(NamedTuple):
    """One row a chain. `factor` maps whitened positions to the target's: `(d, d)`, or `(d,)` if diagonal."""

    key: Any
    iteration: Any
    basin: Any
    position: Any
    log_density: Any
    gradient: Any
    factor: Any
    adaptation: Any
    total: Any
    squares: Any
    count: Any


@register
@dataclass(frozen=True)
class NUTS(Method):
    """No-U-turn sampling: exact draws for posteriors of smooth density, up to Monte Carlo error.

    Every basin that carries mass gets its own chains. They move in coordinates whitened by the curvature at
    the basin where that is a maximum's, else by the spread of prior draws; the metric is estimated anew from
    the draws of all chains of a basin at a tenth, a quarter and half of the warm-up, and each chain tunes its
    step size by dual averaging. Several basins are put together in proportion to their mass.

    **Arguments:**

    - `chains`: chains per basin.
    - `draws`: draws kept of each chain.
    - `warmup`: transitions before those, dropped.
    - `target_acceptance`: mean acceptance that the step size is tuned for.
    - `max_doublings`: a trajectory has at most `2**max_doublings` steps.
    - `metric`: `"dense"`, `"diagonal"`, or `"auto"`: dense up to 150 unknowns.

    **Raises:** `ModelError` for counts that are not positive or an acceptance outside (0, 1).

    ```python
    method = bh.NUTS(chains=2, draws=200, warmup=200)
    assert method.claims == "exact"
    assert method == bh.NUTS(chains=2, draws=200, warmup=200)
    ```
    """

    chains: int = 4
    draws: int = 1000
    warmup: int = 1000
    target_acceptance: float = 0.8
    max_doublings: int = 10
    metric: str = "auto"

    claims: ClassVar[Claim] = "exact"

    def __post_init__(self) -> None:
        for name in ("chains", "draws", "max_doublings"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ModelError(
                    f"NUTS({name}={getattr(self, name)!r}): it must be at least 1, a whole number"
                )
        if self.warmup < 0:
            raise ModelError(f"NUTS(warmup={self.warmup}): it cannot be negative")
        if not 0 < self.target_acceptance < 1:
            raise ModelError(
                f"NUTS(target_acceptance={self.target_acceptance}): write a share between 0 and 1"
            )
        if self.metric not in ("auto", "dense", "diagonal"):
            raise ModelError(f'NUTS(metric={self.metric!r}): write "auto", "dense" or "diagonal"')

    def start(self, target: Target, basins: tuple[Basin, ...], key: Any) -> State:
        """Chains dispersed about their basins at twice their spread, or as near as the density is finite."""
        size = target.layout.size
        dense = self.metric == "dense" or (self.metric == "auto" and size <= DENSE_UP_TO)
        which = np.repeat(np.arange(len(basins)), self.chains)
        factors = [_factor(basin, dense) for basin in basins]
        middles = [_middle(basins[b], turn) for turn, b in zip(_turns(which), which, strict=True)]
        start_keys, keys = (
            jax.vmap(partial(jax.random.fold_in, root))(jnp.arange(len(which)))
            for root in jax.random.split(key)
        )
        factor = np.stack([factors[b] for b in which])
        position, log_density, gradient = _disperse(target, np.stack(middles), factor, start_keys)
        adapt, _ = _dual_averaging(self.target_acceptance)
        adaptation = jax.vmap(adapt)(jnp.full(len(which), size**-0.25))
        return _settled(
            State(
                key=jax.vmap(jax.random.key_data)(keys),
                iteration=np.zeros(len(which), int),
                basin=which,
                position=position,
                log_density=log_density,
                gradient=gradient,
                factor=factor,
                adaptation=adaptation._replace(log_step_size_avg=adaptation.log_step_size),
                total=np.zeros_like(position),
                squares=np.zeros_like(factor),
                count=np.zeros(len(which), int),
            )
        )

    def advance(self, target: Target, state: State, length: int) -> tuple[State, Chunk]:
        """Up to `length` transitions of every chain, never past the next renewal of the metric."""
        done = int(state.iteration[0])
        marks = [*self._renewals(), self.warmup, self.warmup + self.draws]
        length = min(length, CAPACITY, min(mark - done for mark in marks if mark > done))
        program = _program(self.target_acceptance, self.max_doublings, len(state.iteration))
        state, draws, statistics = program(target, state, jnp.asarray(length), jnp.asarray(self.warmup))
        if int(state.iteration[0]) in self._renewals():
            state = _settled(_renew(self, jax.tree.map(np.asarray, state)))
        kept = jax.tree.map(lambda x: np.asarray(x)[:, :length], (draws, statistics))
        return state, Chunk(*kept)

    def finished(self, state: State) -> bool:
        """After warm-up and draws."""
        return int(state.iteration[0]) >= self.warmup + self.draws

    def progress(self, state: State) -> tuple[int, int, str]:
        """Transitions done and to do."""
        done = int(state.iteration[0])
        return done, self.warmup + self.draws, "warm-up" if done < self.warmup else "sampling"

    def finish(self, target: Target, state: State, chunks: list[Chunk], basins: tuple[Basin, ...]) -> Result:
        """The draws after warm-up; several basins mixed in proportion to their masses."""
        draws = np.concatenate([chunk.draws for chunk in chunks], axis=1)[:, self.warmup :]
        names = chunks[0].statistics
        statistics = {
            name: np.concatenate([chunk.statistics[name] for chunk in chunks], axis=1)[:, self.warmup :]
            for name in names
        }
        which = np.asarray(state.basin)
        raw = tuple(draws[which == b] for b in range(len(basins)))
        notes, pick = _mixture(which, basins, draws.shape[1], self.chains)
        limit = self.max_doublings
        masses = {name: [getattr(basin, name) for basin in basins] for name in ("mass", "mass_error")}
        if len(basins) > 1:
            statistics["basin"] = np.broadcast_to(which[:, None], draws.shape[:2])
        return Result(
            draws=_take(draws, pick),
            statistics={name: _take(values, pick) for name, values in statistics.items()},
            raw=raw,
            checks=_trajectory_checks(statistics, limit, which) if draws.size else (),
            notes=notes,
            extra={"step_size": np.exp(np.asarray(state.adaptation.log_step_size_avg)), "basins": masses},
        )

    def _renewals(self):
        """Iterations after which the metric is estimated anew, where enough draws lie behind them."""
        marks = sorted({round(share * self.warmup) for share in REFRESH})
        return [mark for before, mark in zip([0, *marks], marks, strict=False) if mark - before >= 20]


def _turns(which):
    """The index of each chain within its basin."""
    return [int(np.sum(which[:i] == b)) for i, b in enumerate(which)]


def _middle(basin, turn):
    """About which point a chain starts, by its index within the basin.

    Where the basin is a maximum's, chains go to all of the searches that ended in it, in the order of van der
    Corput (0, 1/2, 1/4, 3/4, ... of the way through them), so that modes which predict the same are noticed
    when the chains disagree. Elsewhere the searches have not settled, and the best of them are taken.
    """
    count = len(basin.members)
    if basin.factor is None:
        return basin.members[turn % count]
    way = sum((turn >> bit & 1) / 2 ** (bit + 1) for bit in range(turn.bit_length()))
    return basin.members[int(way * count)]


def _factor(basin, dense):
    factor = np.asarray(basin.spread if basin.factor is None else basin.factor)
    if dense:
        return factor if factor.ndim == 2 else np.diag(factor)
    return factor if factor.ndim == 1 else np.sqrt(np.sum(factor**2, axis=1))


def _apply(factor, z):
    return factor @ z if factor.ndim == 2 else factor * z


def _pull_back(factor, gradient):
    return factor.T @ gradient if factor.ndim == 2 else factor * gradient


def _whiten(factor, q):
    if factor.ndim == 2:
        return jax.scipy.linalg.solve_triangular(factor, q, lower=True)
    return q / factor


def _disperse(target, middles, factors, keys):
    """Starts at twice the spread about each middle, pulled half way back while they lie too far down.

    In a Gaussian of d unknowns the log density at twice the spread is about 2 d below the top; much further
    down the shape is another, and a step size tuned there would be of no use.
    """
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, middles.shape[1:]))(keys))
    offset = 2.0 * np.stack([_apply(factor, z) for factor, z in zip(factors, noise, strict=True)])
    lowest = slopes(target, middles)[0] - 3.0 * middles.shape[1] - 10.0
    share = np.ones((len(middles), 1))
    for pull in range(PULLS + 1):
        values, gradients = slopes(target, middles + share * offset)
        lost = ~(values >= lowest) | ~np.isfinite(values)
        if not lost.any() or pull == PULLS:
            break
        share[lost] = 0.5 * share[lost] if pull < PULLS - 1 else 0.0
    return middles + share * offset, values, gradients


def _dual_averaging(target_acceptance):
    """Nesterov's dual averaging of the step size (Hoffman and Gelman 2014, section 3.2.1)."""
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    start, update, _ = dual_averaging_adaptation(target_acceptance)
    return start, update


@lru_cache(maxsize=32)
def _mesh(chains):
    """As many local devices as divide the chains evenly."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if chains % n == 0)
    return jax.make_mesh(
        (count,), ("chains",), devices=devices[:count], axis_types=(jax.sharding.AxisType.Auto,)
    )


def _settled(state):
    """The state laid out over the devices as the program returns it, so that it is compiled once."""
    sharding = jax.sharding.NamedSharding(_mesh(len(state.iteration)), jax.sharding.PartitionSpec("chains"))
    return jax.device_put(jax.tree.map(np.asarray, state), sharding)


@lru_cache(maxsize=32)
def _program(target_acceptance, max_doublings, chains):
    """One executable for every chunk of every length of run, the chains spread over the local devices."""
    mesh = _mesh(chains)
    spread = jax.sharding.PartitionSpec("chains")
    everywhere = jax.sharding.PartitionSpec()

    def chunk(target, state, length, warmup):
        turn = partial(_transition, target_acceptance, max_doublings, target, warmup)
        return _chunk(turn, state, length)

    def over_devices(target, state, length, warmup):
        run = _traced(chunk, target, _share(state, mesh.size), length, warmup)
        places = (everywhere, spread, everywhere, everywhere)
        mapped = jax.shard_map(run, mesh=mesh, in_specs=places, out_specs=spread, check_vma=False)
        return mapped(target, state, length, warmup)

    return jax.jit(over_devices, compiler_options=configuration.compile_options())


def _share(state, devices):
    """The shapes of one device's part of the state."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0] // devices, *x.shape[1:]), x.dtype), state)


def _traced(function, *arguments):
    """`function` as it is traced outside of any mesh.

    Inside of one, the backward pass of a diffrax solve sees arrays that know of the mesh beside arrays that do
    not, and equinox 0.13 refuses them ("called with different dynamic arguments").
    """
    program, results = jax.make_jaxpr(function, return_shape=True)(*arguments)

    def run(*arguments):
        leaves = jax.extend.core.jaxpr_as_fun(program)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(results), leaves)

    return run


def _chunk(turn, state, length):
    """`length` transitions of a few chains side by side."""
    chains, size = state.position.shape
    real, whole, truth = state.position.dtype, jnp.zeros((), int).dtype, jnp.bool_
    kinds = {
        name: dtype for dtype, names in zip((real, whole, truth), STATISTICS, strict=True) for name in names
    }
    blank = {name: jnp.zeros((chains, CAPACITY), dtype) for name, dtype in kinds.items()}
    places = jnp.zeros((chains, CAPACITY, size), real)
    buffers = (places, {**blank, "failed_at": places})

    def body(i, carry):
        state, buffers = carry
        state, seen = jax.vmap(turn)(state)
        return state, jax.tree.map(lambda b, x: b.at[:, i].set(x.astype(b.dtype)), buffers, seen)

    state, (draws, statistics) = jax.lax.fori_loop(0, length, body, (state, buffers))
    return state, draws, statistics


def _transition(target_acceptance, max_doublings, target, warmup, state):
    """One trajectory of one chain; during warm-up also one step of the adaptation."""
    from blackjax.mcmc import nuts
    from blackjax.mcmc.hmc import HMCState

    def log_density(z):
        return target.log_density(_apply(state.factor, z))

    _, update = _dual_averaging(target_acceptance)
    warming = state.iteration < warmup
    log_step = jnp.where(warming, state.adaptation.log_step_size, state.adaptation.log_step_size_avg)
    start = HMCState(
        _whiten(state.factor, state.position), state.log_density, _pull_back(state.factor, state.gradient)
    )
    key, step_key = jax.random.split(jax.random.wrap_key_data(state.key))
    end, info = nuts.build_kernel()(
        step_key,
        start,
        log_density,
        cast(float, jnp.exp(log_step)),
        jnp.ones_like(state.position),
        max_doublings,
    )
    position = _apply(state.factor, end.position)
    adaptation = update(state.adaptation, info.acceptance_rate)
    adaptation = jax.tree.map(lambda new, old: jnp.where(warming, new, old), adaptation, state.adaptation)
    following = state._replace(
        key=jax.random.key_data(key),
        iteration=state.iteration + 1,
        position=position,
        log_density=end.logdensity,
        gradient=_push_gradient(state.factor, end.logdensity_grad),
        adaptation=adaptation,
        total=state.total + end.position,
        squares=state.squares + _square(end.position, state.factor.ndim),
        count=state.count + 1,
    )
    return following, (position, _statistics(end, info, log_step, state.factor))


def _push_gradient(factor, gradient):
    """A gradient by whitened coordinates as a gradient by the target's own."""
    if factor.ndim == 2:
        return jax.scipy.linalg.solve_triangular(factor, gradient, lower=True, trans=1)
    return gradient / factor


def _square(z, ndim):
    return jnp.outer(z, z) if ndim == 2 else z**2


def _statistics(end, info, log_step, factor):
    """What is kept of a transition; the ends of the trajectory tell a failed solve from a divergence."""
    left, right = info.trajectory_leftmost_state, info.trajectory_rightmost_state
    failed_left = ~jnp.isfinite(left.logdensity)
    failed = failed_left | ~jnp.isfinite(right.logdensity)
    return {
        "lp": end.logdensity,
        "energy": info.energy,
        "acceptance_rate": info.acceptance_rate,
        "step_size": jnp.exp(log_step),
        "n_steps": info.num_integration_steps,
        "tree_depth": info.num_trajectory_expansions,
        "turning": info.is_turning,
        "diverging": info.is_divergent & ~failed,
        "failed": info.is_divergent & failed,
        "failed_at": _apply(factor, jnp.where(failed_left, left.position, right.position)),
    }


@partial(jax.jit, static_argnums=0)
def _renew(method, state):
    """A metric from the draws since the last one, pooled within each basin, shrunk towards the last one.

    In whitened coordinates the last metric is the identity; the weights are Stan's (Stan Development Team,
    reference manual, "HMC algorithm parameters").
    """
    same = (state.basin[:, None] == state.basin[None, :]).astype(state.position.dtype)
    count = state.count[0]
    mean = state.total / count
    scatter = state.squares / count - jax.vmap(lambda m: _square(m, state.factor.ndim - 1))(mean)
    pooled = jnp.einsum("ab,b...->a...", same / same.sum(axis=1, keepdims=True), scatter)
    number = count * same.sum(axis=1)
    weight = (number / (number + 5.0)).reshape((-1,) + (1,) * (pooled.ndim - 1))
    if state.factor.ndim == 3:
        identity = jnp.eye(state.position.shape[1])[None]
        spread = jnp.linalg.cholesky(weight * pooled + (1 - weight) * identity)
        factor = jnp.matmul(state.factor, spread)
    else:
        factor = state.factor * jnp.sqrt(weight * pooled + (1 - weight))
    sound = jnp.all(jnp.isfinite(factor), axis=tuple(range(1, factor.ndim)), keepdims=True)
    factor = jnp.where(sound, factor, state.factor)
    start, _ = _dual_averaging(method.target_acceptance)
    return state._replace(
        factor=factor,
        adaptation=jax.vmap(start)(jnp.exp(state.adaptation.log_step_size)),
        total=jnp.zeros_like(state.total),
        squares=jnp.zeros_like(state.squares),
        count=jnp.zeros_like(state.count),
    )


def _mixture(which, basins, draws, chains):
    """Which chain and draw fills each place of the answer."""
    if len(basins) == 1:
        return (), (
            np.arange(len(which))[:, None] * np.ones((1, draws), int),
            np.arange(draws)[None].repeat(len(which), 0),
        )
    masses = np.array([basin.mass for basin in basins])
    known = bool(np.all(np.isfinite(masses)))
    weights = masses / masses.sum() if known else np.full(len(basins), 1 / len(basins))
    order = np.random.default_rng(0).permutation(
        np.repeat(np.arange(len(basins)), np.round(weights * draws).astype(int))
    )
    order = np.resize(order, draws)
    chain = np.stack([order * chains + c for c in range(chains)])
    place = np.broadcast_to(np.arange(draws), chain.shape)
    words = ", ".join(f"{basin.mass:.3g} (standard error {basin.mass_error:.1g})" for basin in basins)
    note = f"{len(basins)} basins put together with masses {words}"
    return (
        note
        if known
        else f"{len(basins)} basins whose masses could not be estimated, put together in equal parts",
    ), (chain, place)


def _take(values, pick):
    return values[pick[0], pick[1]]


def _trajectory_checks(statistics, limit, which):
    """Divergences, saturated trajectories and energy: what only this family of methods can report."""
    from bayeshybrid.inference.convergence import divergence_check, energy_check, saturation_check

    saturated = (statistics["tree_depth"] >= limit) & ~statistics["turning"] & ~statistics["diverging"]
    return (
        divergence_check(statistics["diverging"]),
        saturation_check(saturated & ~statistics["failed"]),
        energy_check(statistics["energy"], which),
    )
