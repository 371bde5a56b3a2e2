"""Deep ensembles: members that are trained side by side, each on its own randomised density."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.functions import network_outputs, visited_points
from bayeshybrid.inference.chains import from_prior, middle_of
from bayeshybrid.inference.devices import over_devices, settled
from bayeshybrid.inference.method import Basin, Chunk, Claim, Method, Result, Work, register
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.inference.whitening import DENSE_UP_TO, factor_of, inverse_of, unwhiten, whiten
from bayeshybrid.randomised import Perturbation, perturbation, randomised_density, unscored
from bayeshybrid.target import Target
from bayeshybrid.verdict import FORECASTS, FUNCTIONS, PARAMETERS, Check
from bayeshybrid.verdict import State as CheckState

CAPACITY = 100
LONGEST = 10.0
STILL, MOVING = 0.1, 0.15
NOTHING = 0.02
TRAINED = "movement in the second half of the training"

__all__ = ["DeepEnsemble"]


class State(NamedTuple):
    """One row a member. `factor` maps the coordinates it is trained in to the target's."""

    iteration: Any
    factor: Any
    start: Any
    position: Any
    adam: Any
    best: Any
    best_value: Any
    halfway: Any
    moved: Perturbation


@register
@dataclass(frozen=True)
class DeepEnsemble(Method):
    """Members trained together, each to the maximum of its own randomised density.

    Each member draws a centre for the priors of parameters and weights and its own perturbed copy of the data from
    the noise model, and is then optimised by Adam (Kingma and Ba 2015): "randomise, then optimise" (Bardsley,
    Solonen, Haario and Laine 2014). In a linear model with Gaussian priors and known Gaussian noise the members
    are draws of the posterior; elsewhere they are not, and the verdict says so. Their forecasts are judged by
    calibration. All members run in one compiled program.

    **Arguments:**

    - `members`: how many. The error of their spread is about `1 / sqrt(2 members)`.
    - `steps`: gradient steps of each, the learning rate falling to zero as a cosine.
    - `learning_rate`: size of the first steps, in units of the curvature at the basin where it is known, else of
      the prior.
    - `randomise`: `False` gives plain random starts (Lakshminarayanan, Pritzel and Blundell 2017): every member
      fits the same data under the same priors from a prior draw of its own. Then uncertainty of parameters that
      the data determine is left out, and the result says so.
    - `early_stopping`: hold out one of so many whole blocks along the first axis of each observed site (times or
      units), another one for each member in turn, and keep the point at which it is predicted best. Members then
      begin at prior draws, because a search has seen all data.

    **Raises:** `ModelError` for counts and rates that are not positive, or more blocks than rows.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.DeepEnsemble(members=64, steps=200), key=0)
    assert abs(posterior["x"].mean() - 1.0) < 0.3 and posterior.verdict.nature == "not draws of a posterior"
    ```
    """

    members: int = 32
    steps: int = 1000
    learning_rate: float = 0.05
    randomise: bool = True
    early_stopping: int | None = None

    claims: ClassVar[Claim] = "predictive only"

    def __post_init__(self) -> None:
        for name, least in (("members", 1), ("steps", 2)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ModelError(
                    f"DeepEnsemble({name}={getattr(self, name)!r}): write a whole number from {least}"
                )
        if not 0 < self.learning_rate < np.inf:
            raise ModelError(f"DeepEnsemble(learning_rate={self.learning_rate}): it must be above zero")
        if self.early_stopping is not None and self.early_stopping < 2:
            raise ModelError(
                f"DeepEnsemble(early_stopping={self.early_stopping}): write 2 blocks or more, or None"
            )

    def start(self, target: Target, basins: tuple[Basin, ...], key: Any) -> State:
        """Randomised members begin where the search ended, basins by their mass; others at prior draws."""
        start_key, key = jax.random.split(key)
        factors, starts = self._starts(target, basins, start_key)
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(self.members))
        moved = jax.vmap(lambda k: perturbation(target, k, self.randomise))(keys)
        if self.early_stopping is not None:
            moved = moved._replace(kept=_held_out(moved.kept, self.early_stopping))
        position = np.asarray(jax.vmap(whiten)(jnp.asarray(inverse_of(factors)), jnp.asarray(starts)))
        return settled(
            State(
                iteration=np.zeros(self.members, int),
                factor=factors,
                start=position,
                position=position,
                adam=jax.vmap(_adam().init)(position),
                best=position,
                best_value=np.full(self.members, -np.inf),
                halfway=position,
                moved=moved,
            )
        )

    def advance(self, target: Target, state: State, length: int) -> tuple[State, Chunk]:
        """Up to `length` steps of every member."""
        length = min(length, CAPACITY, self.steps - int(state.iteration[0]))
        program = _program(self.steps, self.learning_rate, self.early_stopping is not None, self.members)
        state, statistics = program(target, state, jnp.asarray(length))
        statistics = {name: np.asarray(values)[:, :length] for name, values in statistics.items()}
        return state, Chunk(np.zeros((self.members, length, 0)), statistics)

    def finished(self, state: State) -> bool:
        """After all steps."""
        return int(state.iteration[0]) >= self.steps

    def expected(self, size: int, basins: int, target_ess: float) -> Work:
        """A gradient of each member in each step."""
        return Work(self.members * self.steps, self.members, self.members)

    def progress(self, state: State) -> tuple[int, int, str]:
        """Steps done and to do."""
        return int(state.iteration[0]), self.steps, f"training {self.members} members"

    def finish(self, target: Target, state: State, chunks: list[Chunk], basins: tuple[Basin, ...]) -> Result:
        """The members as draws of one chain; those that ended far below the others are left out and counted."""
        state = jax.tree.map(np.asarray, state)
        way = [
            np.asarray(jax.vmap(unwhiten)(state.factor, z)) for z in (state.start, state.halfway, state.best)
        ]
        height, _ = slopes(target, way[-1])
        kept = height >= height.max() - 10.0 - 2.0 * target.layout.size
        way = [points[kept] for points in way]
        checks = (
            *_what_they_are(target),
            _left_out(kept),
            self._trained(target, way, state),
        )
        return Result(
            draws=way[-1][None],
            statistics={"lp": height[None, kept]},
            raw=(np.zeros((0, 0, target.layout.size)),) * len(basins),
            checks=checks,
            notes=self._notes(target, basins),
            extra={"members": int(kept.sum()), "left_out": int(np.sum(~kept))},
            nature="not draws of a posterior",
        )

    def _starts(self, target, basins, key):
        """Coordinates and starts of the members."""
        if not self.randomise or self.early_stopping is not None:  # where a search ends it has seen all data
            spread = np.broadcast_to(basins[0].spread, (self.members, target.layout.size))
            return spread, from_prior(target, key, self.members)
        dense = target.layout.size <= DENSE_UP_TO
        owner = _shared_out(basins, self.members)
        turns = np.array([np.sum(owner[:i] == owner[i]) for i in range(self.members)])
        starts = np.stack([middle_of(basins[b], turn) for b, turn in zip(owner, turns.tolist(), strict=True)])
        return np.stack([factor_of(basins[b], dense) for b in owner]), starts

    def _trained(self, target, way, state):
        """How far the second half of the training moved the members, at the place where that is worst.

        In units of how far the first half did, or of the spread between members where that is larger. The rate
        falls as a cosine, so that members which never settle come to about a fifth.
        """
        unit = np.sqrt(np.sum(state.factor**2, axis=-1)) if state.factor.ndim == 3 else state.factor
        least = NOTHING * unit.mean(axis=0)
        moved = {}
        for site in target.layout.latent:
            if site.tag.kind != "weight" and site.stop > site.start:
                part = slice(site.start, site.stop)
                moved[site.name] = float(np.max(_settling([points[:, part] for points in way], least[part])))
        for name, at in visited_points(target, way[-1]).items():
            told = [network_outputs(target, points, name, at).reshape(len(points), -1) for points in way]
            whole = [points.reshape(-1, 1) - points.mean() for points in told]
            moved[f"{name} over {len(at)} visited points"] = float(
                _settling(
                    whole, NOTHING * np.mean(np.abs(told[-1])), np.sqrt(np.mean(np.var(told[-1], axis=0)))
                )[0]
            )
        if not moved:
            return Check(TRAINED, "not assessable", place="nothing but weights that no input reached")
        place = max(moved, key=lambda name: moved[name])
        figure = moved[place]
        judged: CheckState = (
            "pass" if figure <= STILL else "pass with remarks" if figure <= MOVING else "fail"
        )
        return Check(TRAINED, judged, figure, STILL, place, "train longer: raise steps or learning_rate")

    def _notes(self, target, basins):
        notes = []
        if not self.randomise:
            notes.append(
                "plain random starts: all members fit the same data under the same priors, so parameter uncertainty "
                "is left out; what differs between them is where their searches ended"
            )
        elif unscored(target):
            names = ", ".join(unscored(target))
            notes.append(f"the prior of {names} has no distribution function and was not randomised")
        if self.early_stopping is not None:
            notes.append(
                f"each member left out one of {self.early_stopping} blocks of the data to know when to stop"
            )
        if len(basins) > 1:
            shares = np.bincount(_shared_out(basins, self.members), minlength=len(basins))
            notes.append(f"members began in {len(basins)} basins: {', '.join(map(str, shares))} of them")
        return tuple(notes)


def _settling(way, least, spread=None):
    """Movement from half way to the end over that up to half way, or over the spread; by column of `(member, ...)`."""
    start, halfway, end = way
    first, second = (np.sqrt(np.mean(step**2, axis=0)) for step in (halfway - start, end - halfway))
    return second / (np.maximum(first, end.std(axis=0) if spread is None else spread) + least)


def _shared_out(basins, members):
    """The basin of each member: in proportion to the masses, equally where these are not known."""
    masses = np.array([basin.mass for basin in basins])
    weights = masses if np.all(np.isfinite(masses)) else np.ones(len(basins))
    ends = np.cumsum(weights) / np.sum(weights)
    return np.searchsorted(ends, (np.arange(members) + 0.5) / members)


def _held_out(kept, blocks):
    """Masks `(member, rows)` that leave out one whole block of rows, another one for each member in turn."""
    masks = {}
    for name, ones in kept.items():
        members, rows = ones.shape
        if rows < blocks:
            raise ModelError(
                f"DeepEnsemble(early_stopping={blocks}): {name!r} has {rows} rows along its first axis, which cannot "
                "be cut into so many blocks: write a smaller number, or None"
            )
        block = np.arange(rows) * blocks // rows
        masks[name] = np.where(block[None] == (np.arange(members) % blocks)[:, None], 0.0, 1.0)
    return masks


def _what_they_are(target):
    """The checks that no ensemble can pass, said once."""
    claims = (PARAMETERS, FUNCTIONS) if target.layout.networks else (PARAMETERS,)
    return (
        Check(
            "draws of a posterior",
            "not assessable",
            place="members are optima of randomised densities",
            remedy="read their spread as a guide only; for parameters sample with NUTS()",
            claims=claims,
        ),
        Check(
            "forecasts of an ensemble",
            "not assessable",
            place="no sampling theory stands behind them",
            remedy="judge them by bh.calibration.assess on data that were held back",
            claims=(FORECASTS,),
        ),
    )


def _left_out(kept):
    lost = int(np.sum(~kept))
    judged: CheckState = "pass" if not lost else "pass with remarks" if lost <= 0.1 * len(kept) else "fail"
    remedy = "their searches ended far below the others': train longer, or give more starts"
    return Check("members left out", judged, float(lost), 0.0, f"of {len(kept)}", remedy)


def _adam():
    import optax

    return optax.chain(optax.clip_by_global_norm(LONGEST), optax.scale_by_adam())


@lru_cache(maxsize=32)
def _program(steps, learning_rate, early_stopping, members):
    """One executable for every chunk, the members spread over the devices."""
    import optax

    rate = optax.cosine_decay_schedule(learning_rate, steps)

    def chunk(target, state, length):
        step = partial(_step, target, rate, steps // 2, early_stopping)
        some, size = state.position.shape
        blank = {
            "value": jnp.zeros((some, CAPACITY)),
            "failed": jnp.zeros((some, CAPACITY), bool),
            "failed_at": jnp.zeros((some, CAPACITY, size)),
        }

        def body(i, carry):
            state, seen = carry
            state, new = jax.vmap(step)(state)
            return state, jax.tree.map(lambda b, x: b.at[:, i].set(x), seen, new)

        return jax.lax.fori_loop(0, length, body, (state, blank))

    return over_devices(chunk, members)


def _step(target, rate, halfway, early_stopping, state):
    """One step of one member: Adam uphill, or half way back to the last sound point where the density is not finite."""

    def density(z):
        return randomised_density(target, unwhiten(state.factor, z), state.moved)

    (value, held_out), slope = jax.value_and_grad(density, has_aux=True)(state.position)
    sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))
    better = sound & ((held_out > state.best_value) | (not early_stopping))
    best = jnp.where(better, state.position, state.best)
    move, adam = _adam().update(jnp.where(sound, -slope, 0.0), state.adam)
    onward = state.position - rate(state.iteration) * move
    following = state._replace(
        iteration=state.iteration + 1,
        position=jnp.where(sound, onward, 0.5 * (state.position + best)),
        adam=jax.tree.map(lambda new, old: jnp.where(sound, new, old), adam, state.adam),
        best=best,
        best_value=jnp.where(better, held_out, state.best_value),
        halfway=jnp.where(state.iteration <= halfway, best, state.halfway),
    )
    place = unwhiten(state.factor, state.position)
    return following, {"value": value, "failed": ~sound, "failed_at": place}
