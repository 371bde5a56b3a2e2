"""Many short chains of Hamiltonian Monte Carlo that share one adaptation, in whitened coordinates.

No chain waits for another: all make the same number of steps. What is adapted is pooled over all chains, so that a
few transitions tell what a single chain would need hundreds for (Hoffman, Radul and Sountsov 2021, "An
adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.inference import tuning
from bayeshybrid.inference.chains import by_basin, dispersed, middle_of, mixture
from bayeshybrid.inference.method import Basin, Chunk, Claim, Method, Result, Work, register
from bayeshybrid.inference.trajectories import Points, march
from bayeshybrid.inference.tuning import BLOCK, Shared
from bayeshybrid.inference.whitening import PSEUDO_DRAWS, factor_of, inverse_of
from bayeshybrid.target import Target

PER_GROUP = 4
DIVERGENT = 1000.0

# Of a posterior that suits it: gradients of each chain until the adaptation has converged, and of all chains for an
# effective draw in five dimensions.
WARMUP_GRADIENTS, GRADIENTS_PER_DRAW = 150, 4.0

__all__ = ["SharedHMC"]


class Rows(NamedTuple):
    """What each chain has of its own, one row a chain; `basin` is its place among them."""

    key: Any
    basin: Any
    position: Any
    log_density: Any
    gradient: Any


class State(NamedTuple):
    """The chains, what they share, and the transitions of the block that is being made.

    `factor` is that of each basin, `(basins, d, d)`, as in `whitening`; `devices` over how many chains are spread.
    """

    rows: Rows
    shared: Shared
    factor: Any
    devices: Any
    places: Any
    acceptance: Any


@register
@dataclass(frozen=True)
class SharedHMC(Method):
    """Many short chains that share one step size, one metric and one trajectory length.

    For posteriors that a linear map makes roughly round, which is most of those with few unknowns and smooth
    equations: there it needs a few gradients for an effective draw, and stops when the draws are as precise as was
    asked. Chains start in groups of four about a common point, at twice the spread of their basin; the metric is
    the curvature at the basin, estimated anew from the draws of all its chains until it no longer changes; the
    trajectory length is the one that gives the most effective draws for a gradient, judged by the slowest
    of all unknowns and their squares. Shapes that no linear map makes round (funnels, heavy tails, bent ridges)
    are noticed in the warm-up and said; `NUTS` is the method for them.

    **Arguments:**

    - `chains`: chains per basin, a multiple of 4, at least 32.
    - `most_draws`: at most so many draws are kept of each chain.
    - `most_warmup`: the adaptation ends when it has converged, and at the latest after so many transitions.
    - `target_acceptance`: mean acceptance that the step size is tuned for.

    How long it samples is told by `infer(target_ess=...)`.

    **Raises:** `ModelError` for counts that cannot be, or an acceptance outside (0, 1).

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array([1.9, 2.1, 2.4, 1.6])}, bh.SharedHMC(), key=0, target_ess=1000)
    assert posterior.verdict["scientific parameters"] == "pass" and len(posterior.samples["x"]) == 64
    ```
    """

    chains: int = 64
    most_draws: int = 2000
    most_warmup: int = 1000
    target_acceptance: float = 0.8

    claims: ClassVar[Claim] = "exact"

    def __post_init__(self) -> None:
        if not isinstance(self.chains, int) or self.chains < 8 * PER_GROUP or self.chains % PER_GROUP:
            raise ModelError(
                f"SharedHMC(chains={self.chains!r}): groups of {PER_GROUP} chains share a start and at least eight "
                f"groups are compared: write a multiple of {PER_GROUP}, at least {8 * PER_GROUP}"
            )
        for name in ("most_draws", "most_warmup"):
            count = getattr(self, name)
            if not isinstance(count, int) or count < BLOCK:
                raise ModelError(f"SharedHMC({name}={count!r}): write a whole number, at least {BLOCK}")
        if not 0 < self.target_acceptance < 1:
            raise ModelError(
                f"SharedHMC(target_acceptance={self.target_acceptance}): write a share between 0 and 1"
            )

    def start(self, target: Target, basins: tuple[Basin, ...], key: Any) -> State:
        """Groups of chains dispersed about their basins at twice their spread."""
        which = np.repeat(np.arange(len(basins)), self.chains)
        group = np.arange(len(which)) // PER_GROUP
        factor = np.stack([factor_of(basin, dense=True) for basin in basins])
        middles = [middle_of(basin, turn // PER_GROUP) for basin in basins for turn in range(self.chains)]
        noise = np.stack([_generator(key, 0, g).standard_normal(len(factor[0])) for g in group])
        position, log_density, gradient = dispersed(target, np.stack(middles), factor[which], noise)
        keys = np.stack(
            [_generator(key, 1, i).integers(2**32, size=2, dtype=np.uint32) for i in range(len(which))]
        )
        size = target.layout.size
        return State(
            Rows(keys, which, position, log_density, gradient),
            tuning.first(size, self.target_acceptance),
            factor,
            np.array(1),
            np.zeros((len(which), BLOCK, size)),
            np.zeros((len(which), BLOCK)),
        )

    def advance(self, target: Target, state: State, length: int) -> tuple[State, Chunk]:
        """Up to `length` transitions of every chain, never past the end of a block."""
        shared = state.shared
        length = min(length, BLOCK - int(shared.filled))
        steps, sizes = tuning.plan(shared, length)
        made = []
        for turn, noise in zip(range(length), _noise(state), strict=False):
            state, seen = _transition(target, state, noise, steps[turn], sizes[turn])
            made.append(seen)
        statistics = {name: np.stack([seen[name] for seen in made], axis=1) for name in made[0]}
        places = statistics.pop("places")
        here = slice(int(shared.filled), int(shared.filled) + length)
        shared = shared._replace(iteration=shared.iteration + length, filled=shared.filled + length)
        block, acceptance = np.array(state.places), np.array(state.acceptance)
        block[:, here], acceptance[:, here] = places, statistics["acceptance_rate"]
        state = state._replace(shared=shared, places=block, acceptance=acceptance)
        chunk = Chunk(places, statistics)
        return (self._block_ended(state) if shared.filled == BLOCK else state), chunk

    def _block_ended(self, state):
        """Adaptation from the block that was made; none once the draws are kept."""
        shared, rows = state.shared, state.rows
        if shared.began >= 0:
            return state._replace(shared=shared._replace(filled=np.array(0)))
        basin = np.asarray(rows.basin)
        z = np.einsum("cij,ctj->cti", inverse_of(np.asarray(state.factor))[basin], state.places)
        if not shared.metric_settled and tuning.moving(state.acceptance, basin):
            state = state._replace(factor=_renewed(np.asarray(state.factor), basin, z))
        shared = tuning.adapted(shared, z, basin, state.acceptance, self.target_acceptance, self.most_warmup)
        return state._replace(shared=shared)

    def finished(self, state: State) -> bool:
        """After the most draws; `infer` stops it earlier, when they are precise enough."""
        return state.shared.began >= 0 and self._kept(state) >= self.most_draws

    def sampling_since(self, state: State) -> int | None:
        """The transition from which on draws are kept, `None` during warm-up."""
        return int(state.shared.began) if state.shared.began >= 0 else None

    def judged(self, state: State, chunks: list[Chunk]) -> tuple[np.ndarray, ...]:
        """The draws since the warm-up, by basin."""
        return by_basin(chunks, int(state.shared.began), np.asarray(state.rows.basin))

    def hardness(self, state: State) -> str:
        """What the warm-up sees or saw of a shape that this method is not made for; empty where nothing."""
        return tuning.hardness(state.shared)

    def expected(self, size: int, basins: int, target_ess: float) -> Work:
        """Gradients for an effective draw grow with the fourth root of the dimension."""
        each = GRADIENTS_PER_DRAW * (size / 5) ** 0.25
        chains = self.chains * basins
        draws = int(min(target_ess, self.most_draws * chains))
        return Work(int(WARMUP_GRADIENTS * chains + each * draws), draws, chains)

    def progress(self, state: State) -> tuple[int, int, str]:
        """Transitions done, and at most to do."""
        if state.shared.began < 0:
            return int(state.shared.iteration), self.most_warmup, "warm-up"
        return self._kept(state), self.most_draws, "sampling"

    def _kept(self, state):
        return int(state.shared.iteration - state.shared.began)

    def finish(self, target: Target, state: State, chunks: list[Chunk], basins: tuple[Basin, ...]) -> Result:
        """The draws after warm-up; several basins mixed in proportion to their masses."""
        began = int(state.shared.began) if state.shared.began >= 0 else int(state.shared.iteration)
        draws = np.concatenate([chunk.draws for chunk in chunks], axis=1)[:, began:]
        statistics = {
            name: np.concatenate([chunk.statistics[name] for chunk in chunks], axis=1)[:, began:]
            for name in chunks[0].statistics
        }
        which = np.asarray(state.rows.basin)
        raw = tuple(draws[which == b] for b in range(len(basins)))
        checks = _checks(statistics, which, self.hardness(state)) if draws.size else ()
        if len(basins) > 1:
            statistics["basin"] = np.broadcast_to(which[:, None], draws.shape[:2])
        chain, place, notes = mixture(basins, self.chains, draws.shape[1])
        return Result(
            draws=draws[chain, place],
            statistics={name: values[chain, place] for name, values in statistics.items()},
            raw=raw,
            checks=checks,
            notes=notes,
            extra={
                "warmup": began,
                "step_size": np.exp(np.asarray(state.shared.log_step)),
                "trajectory_length": np.asarray(tuning.trajectory(state.shared)),
                "basins": {name: [getattr(b, name) for b in basins] for name in ("mass", "mass_error")},
                "devices": int(state.devices),
            },
        )


def _generator(key, purpose, place):
    """Random numbers that depend on nothing but the key and the place: nothing is compiled for them."""
    seed = np.asarray(jax.random.key_data(key)).ravel()
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, place)))


def _renewed(factor, basin, z):
    """Factors from the later half of a block, pooled over the chains of a basin and shrunk to the last ones.

    About the mean of all its chains: that of one short chain follows its draws, and the spread about it is too small.
    """
    factor = factor.copy()
    for b in range(len(factor)):
        rows = z[basin == b, BLOCK // 2 :].reshape(-1, z.shape[-1])
        weight = len(rows) / (len(rows) + PSEUDO_DRAWS * BLOCK)
        covariance = weight * np.cov(rows.T, ddof=0) + (1 - weight) * np.eye(z.shape[-1])
        factor[b] = factor[b] @ np.linalg.cholesky(np.atleast_2d(covariance))
    return factor


def _transition(target, state, noise, steps, size):
    """One trajectory of every chain, those of a basin together, and whether it is taken."""
    momenta, heights = noise
    parts = []
    for basin, factor in enumerate(np.asarray(state.factor)):
        mine = np.asarray(state.rows.basin) == basin
        rows = jax.tree.map(lambda x, mine=mine: np.asarray(x)[mine], state.rows)
        start = Points(rows.position, momenta[mine], rows.log_density, rows.gradient)
        end = march(target, start, factor, steps, size, start.energy + DIVERGENT)
        parts.append((rows, *_judged(start, end, heights[mine])))
    rows, taken, seen = jax.tree.map(lambda *each: np.concatenate(each), *parts)
    seen |= {"step_size": np.full(len(taken.position), size), "n_steps": np.full(len(taken.position), steps)}
    rows = rows._replace(position=taken.position, log_density=taken.log_density, gradient=taken.gradient)
    return state._replace(rows=rows, devices=np.array(end.devices)), seen


def _judged(start, marched, heights):
    """Where chains stand after their trajectories, by the rule of Metropolis, and what is told of the transition."""
    end, diverged = marched.points, marched.diverged
    with np.errstate(invalid="ignore", over="ignore"):  # nothing can be gained where the density is zero
        before, after = start.energy, end.energy
        gain = np.where(np.isfinite(after), before - after, -np.inf)
    failed = ~np.isfinite(end.log_density) & ~diverged
    taken = heights < gain
    at = Points(
        *(np.where(taken.reshape(-1, *(1,) * (x.ndim - 1)), x, y) for x, y in zip(end, start, strict=True))
    )
    return at, {
        "places": at.position,
        "lp": at.log_density,
        "energy": np.where(taken, after, before),
        "acceptance_rate": np.exp(np.minimum(gain, 0.0)),
        "diverging": diverged,
        "failed": failed,
        "failed_at": np.where(diverged[:, None], marched.beyond, end.position),
    }


def _noise(state):
    """Of each transition left of the block the momenta of every chain, and the logarithms of uniform numbers.

    Each chain and block has numbers of its own, whatever else is drawn.
    """
    filled = int(state.shared.filled)
    block = (int(state.shared.iteration) - filled) // BLOCK
    momenta, heights = [], []
    for seed in np.asarray(state.rows.key):
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(block,)))
        momenta.append(generator.standard_normal((BLOCK, state.places.shape[-1])))
        heights.append(-generator.standard_exponential(BLOCK))
    return zip(*(np.stack(x, axis=1)[filled:] for x in (momenta, heights)), strict=True)


def _checks(statistics, which, hard):
    """Divergences and energy, and what the warm-up noticed of the shape."""
    from bayeshybrid.inference.convergence import divergence_check, energy_check, shape_check

    return (
        divergence_check(statistics["diverging"]),
        energy_check(statistics["energy"], which),
        shape_check(hard),
    )
