"""The no-U-turn sampler (Hoffman and Gelman 2014), through blackjax, in whitened coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.inference.chains import by_basin, dispersed, middle_of, mixture
from bayeshybrid.inference.devices import over_devices, settled, spread_over
from bayeshybrid.inference.low_rank import LowRank, diagonal, estimate, nothing_recent, remembered
from bayeshybrid.inference.method import Basin, Chunk, Claim, Method, Result, Work, register
from bayeshybrid.inference.whitening import (
    DENSE_UP_TO,
    factor_of,
    inverse_of,
    pull_back,
    push_back,
    renewed,
    square,
    unwhiten,
    whiten,
)
from bayeshybrid.target import Target

CAPACITY = 100
REFRESH = (0.1, 0.25, 0.5)
MOST_DRAWS = 4000

# For a transition where a linear map makes the posterior round; longer trees where none does.
GRADIENTS_PER_TRANSITION = 7.0

STATISTICS = (
    ("lp", "energy", "acceptance_rate", "step_size"),
    ("n_steps", "tree_depth"),
    ("turning", "diverging", "failed"),
)

__all__ = ["NUTS"]


class State(NamedTuple):
    """One row a chain. `factor` maps whitened positions to those of the target, `inverse` back.

    What the metric is renewed from: number, sum and squares of whitened draws since the last time; where it is of low
    rank, `squares` holds the last draws themselves.
    """

    key: Any
    iteration: Any
    basin: Any
    position: Any
    log_density: Any
    gradient: Any
    factor: Any
    inverse: Any
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
    - `draws`: draws kept of each chain; `None` for as many as `infer(target_ess=...)` asks, at most 4,000.
    - `warmup`: transitions before those, dropped.
    - `target_acceptance`: mean acceptance that the step size is tuned for.
    - `max_doublings`: a trajectory has at most `2**max_doublings` steps.
    - `metric`: `"dense"`, `"diagonal"`, `"low rank"` (a diagonal and up to 20 directions that draws and gradients
      tell), or `"auto"`: dense up to 150 unknowns, of low rank above.

    **Raises:** `ModelError` for counts that are not positive or an acceptance outside (0, 1).

    ```python
    method = bh.NUTS(chains=2, draws=200, warmup=200)
    assert method.claims == "exact"
    assert method == bh.NUTS(chains=2, draws=200, warmup=200)
    ```
    """

    chains: int = 4
    draws: int | None = 1000
    warmup: int = 1000
    target_acceptance: float = 0.8
    max_doublings: int = 10
    metric: str = "auto"

    claims: ClassVar[Claim] = "exact"

    def __post_init__(self) -> None:
        for name in ("chains", "draws", "max_doublings"):
            count = getattr(self, name)
            if (count is not None or name != "draws") and (not isinstance(count, int) or count < 1):
                raise ModelError(f"NUTS({name}={count!r}): it must be at least 1, a whole number")
        if self.warmup < 0:
            raise ModelError(f"NUTS(warmup={self.warmup}): it cannot be negative")
        if not 0 < self.target_acceptance < 1:
            raise ModelError(
                f"NUTS(target_acceptance={self.target_acceptance}): write a share between 0 and 1"
            )
        if self.metric not in ("auto", "dense", "diagonal", "low rank"):
            raise ModelError(f'NUTS(metric={self.metric!r}): write "auto", "dense", "diagonal" or "low rank"')

    def start(self, target: Target, basins: tuple[Basin, ...], key: Any) -> State:
        """Chains dispersed about their basins at twice their spread, or as near as the density is finite."""
        size = target.layout.size
        metric = self.metric if self.metric != "auto" else "dense" if size <= DENSE_UP_TO else "low rank"
        which = np.repeat(np.arange(len(basins)), self.chains)
        factors = [factor_of(basin, metric == "dense") for basin in basins]
        if metric == "low rank":
            factors = [diagonal(factor) for factor in factors]
        middles = [middle_of(basin, turn) for basin in basins for turn in range(self.chains)]
        start_keys, keys = (
            jax.vmap(partial(jax.random.fold_in, root))(jnp.arange(len(which)))
            for root in jax.random.split(key)
        )
        each = [factors[b] for b in which]
        factor = jax.tree.map(lambda *rows: np.stack(rows), *each)
        noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (size,)))(start_keys))
        position, log_density, gradient = dispersed(target, np.stack(middles), each, noise)
        adapt, _ = _dual_averaging(self.target_acceptance)
        adaptation = jax.vmap(adapt)(jnp.full(len(which), size**-0.25))
        return settled(
            State(
                key=jax.vmap(jax.random.key_data)(keys),
                iteration=np.zeros(len(which), int),
                basin=which,
                position=position,
                log_density=log_density,
                gradient=gradient,
                factor=factor,
                inverse=inverse_of(factor),
                adaptation=adaptation._replace(log_step_size_avg=adaptation.log_step_size),
                total=np.zeros_like(position),
                squares=nothing_recent(len(which), size) if metric == "low rank" else np.zeros_like(factor),
                count=np.zeros(len(which), int),
            )
        )

    def advance(self, target: Target, state: State, length: int) -> tuple[State, Chunk]:
        """Up to `length` transitions of every chain, never past the next renewal of the metric."""
        done = int(state.iteration[0])
        marks = [*self._renewals(), self.warmup, self.warmup + self._most]
        length = min(length, CAPACITY, min(mark - done for mark in marks if mark > done))
        program = _program(self.target_acceptance, self.max_doublings, len(state.iteration))
        state, draws, statistics = program(target, state, jnp.asarray(length), jnp.asarray(self.warmup))
        if int(state.iteration[0]) in self._renewals():
            state = _restarted(_renewed(jax.tree.map(np.asarray, state)))
            state = settled(state._replace(inverse=inverse_of(state.factor)))
        kept = jax.tree.map(lambda x: np.asarray(x)[:, :length], (draws, statistics))
        return state, Chunk(*kept)

    def finished(self, state: State) -> bool:
        """After warm-up and draws; without a number of them `infer` stops it when they are precise enough."""
        return int(state.iteration[0]) >= self.warmup + self._most

    def sampling_since(self, state: State) -> int | None:
        """The end of the warm-up, where no number of draws was given."""
        return self.warmup if self.draws is None and int(state.iteration[0]) > self.warmup else None

    def judged(self, state: State, chunks: list[Chunk]) -> tuple[np.ndarray, ...]:
        """The draws since the warm-up, by basin."""
        return by_basin(chunks, self.warmup, np.asarray(state.basin))

    def expected(self, size: int, basins: int, target_ess: float) -> Work:
        """Trees of the usual size, which grow with the fourth root of the dimension and with smaller steps."""
        chains = self.chains * basins
        smaller = (0.2 / (1 - self.target_acceptance)) ** 0.5
        each = GRADIENTS_PER_TRANSITION * smaller * max(1.0, (size / 10) ** 0.25)
        draws = self.draws or int(min(self._most, target_ess / self.chains + 1))
        return Work(int(each * chains * (self.warmup + draws)), chains * draws, chains)

    def progress(self, state: State) -> tuple[int, int, str]:
        """Transitions done and to do."""
        done = int(state.iteration[0])
        return done, self.warmup + self._most, "warm-up" if done < self.warmup else "sampling"

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
        checks = _trajectory_checks(statistics, self.max_doublings, which) if draws.size else ()
        if len(basins) > 1:
            statistics["basin"] = np.broadcast_to(which[:, None], draws.shape[:2])
        chain, place, notes = mixture(basins, self.chains, draws.shape[1])
        masses = {name: [getattr(basin, name) for basin in basins] for name in ("mass", "mass_error")}
        return Result(
            draws=draws[chain, place],
            statistics={name: values[chain, place] for name, values in statistics.items()},
            raw=raw,
            checks=checks,
            notes=notes,
            extra={
                "step_size": np.exp(np.asarray(state.adaptation.log_step_size_avg)),
                "basins": masses,
                "devices": spread_over(state),
            },
        )

    @property
    def _most(self):
        return MOST_DRAWS if self.draws is None else self.draws

    def _renewals(self):
        """Iterations after which the metric is estimated anew, where enough draws lie behind them."""
        marks = sorted({round(share * self.warmup) for share in REFRESH})
        return [mark for before, mark in zip([0, *marks], marks, strict=False) if mark - before >= 20]


def _dual_averaging(target_acceptance):
    """Nesterov's dual averaging of the step size (Hoffman and Gelman 2014, section 3.2.1)."""
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    start, update, _ = dual_averaging_adaptation(target_acceptance)
    return start, update


@lru_cache(maxsize=32)
def _program(target_acceptance, max_doublings, chains):
    """One executable for every chunk of every length of run, the chains spread over the devices."""

    def chunk(target, state, length, warmup):
        turn = partial(_transition, target_acceptance, max_doublings, target, warmup)
        return _chunk(turn, state, length)

    return over_devices(chunk, chains)


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
        return target.log_density(unwhiten(state.factor, z))

    _, update = _dual_averaging(target_acceptance)
    warming = state.iteration < warmup
    log_step = jnp.where(warming, state.adaptation.log_step_size, state.adaptation.log_step_size_avg)
    start = HMCState(
        whiten(state.inverse, state.position), state.log_density, pull_back(state.factor, state.gradient)
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
    z, slope = cast(jax.Array, end.position), cast(jax.Array, end.logdensity_grad)
    position, gradient = unwhiten(state.factor, z), push_back(state.inverse, slope)
    adaptation = update(state.adaptation, info.acceptance_rate)
    adaptation = jax.tree.map(lambda new, old: jnp.where(warming, new, old), adaptation, state.adaptation)
    following = state._replace(
        key=jax.random.key_data(key),
        iteration=state.iteration + 1,
        position=position,
        log_density=end.logdensity,
        gradient=gradient,
        adaptation=adaptation,
        total=state.total + z,
        squares=_squares(state, z, position, gradient),
        count=state.count + 1,
    )
    return following, (position, _statistics(end, info, log_step, state.factor))


def _statistics(end, info, log_step, factor):
    """What is kept of a transition; the ends of the trajectory tell a failed solve from a divergence."""
    left, right = info.trajectory_leftmost_state, info.trajectory_rightmost_state
    left_energy, right_energy = (
        jnp.where(jnp.isfinite(end.logdensity), 0.5 * (end.momentum**2).sum() - end.logdensity, jnp.inf)
        for end in (left, right)
    )
    failed = jnp.isinf(left_energy) | jnp.isinf(right_energy)
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
        "failed_at": unwhiten(factor, jnp.where(left_energy > right_energy, left.position, right.position)),
    }


def _renewed(state):
    """The state with a metric from the draws since the last one, by all chains of a basin."""
    if not isinstance(state.factor, LowRank):
        return state._replace(
            factor=_from_sums(state.factor, state.basin, state.count, state.total, state.squares)
        )
    factor = jax.tree.map(np.array, state.factor)
    for basin in np.unique(state.basin):
        mine = state.basin == basin
        kept = min(int(state.count[0]), state.squares.positions.shape[1])
        made = estimate(*(x[mine, :kept] for x in state.squares))
        if all(np.all(np.isfinite(x)) for x in made):
            for old, new in zip(factor, made, strict=True):
                old[mine] = new
    return state._replace(factor=factor)


_from_sums = jax.jit(renewed)


@jax.jit
def _restarted(state):
    """The step size tuned anew from where it is, and nothing seen yet."""
    start, _ = _dual_averaging(0.5)  # what it is tuned for plays no part in its start
    return state._replace(
        adaptation=jax.vmap(start)(jnp.exp(state.adaptation.log_step_size)),
        total=jnp.zeros_like(state.total),
        squares=jax.tree.map(jnp.zeros_like, state.squares),
        count=jnp.zeros_like(state.count),
    )


def _squares(state, z, position, gradient):
    """What the next metric will be made from, with one more draw."""
    if isinstance(state.factor, LowRank):
        return remembered(state.squares, state.count, position, gradient)
    return state.squares + square(z, state.factor.ndim == 2)


def _trajectory_checks(statistics, limit, which):
    """Divergences, saturated trajectories and energy: what only this family of methods can report."""
    from bayeshybrid.inference.convergence import divergence_check, energy_check, saturation_check

    saturated = (statistics["tree_depth"] >= limit) & ~statistics["turning"] & ~statistics["diverging"]
    return (
        divergence_check(statistics["diverging"]),
        saturation_check(saturated & ~statistics["failed"]),
        energy_check(statistics["energy"], which),
    )
