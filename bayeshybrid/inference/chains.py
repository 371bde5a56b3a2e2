"""Chains about basins: where they start, and how the draws of several basins become one posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeshybrid.faults import StartError
from bayeshybrid.inference.method import Basin, Chunk
from bayeshybrid.inference.search import at_initial_values
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.inference.whitening import unwhiten
from bayeshybrid.keys import child
from bayeshybrid.survey import draw_prior
from bayeshybrid.target import Target

TIMES_THE_SPREAD = 2.0
PULLS = 10
ROUNDS = 5

__all__ = ["by_basin", "dispersed", "from_prior", "middle_of", "mixture"]


def by_basin(chunks: Sequence[Chunk], began: int, which: np.ndarray) -> tuple[np.ndarray, ...]:
    """The draws since the transition `began`, one array `(chain, draw, size)` per basin; `which` each chain is in.

    ```python
    from bayeshybrid.inference.chains import by_basin
    from bayeshybrid.inference.method import Chunk
    chunks = [Chunk(np.zeros((3, 2, 1)), {}), Chunk(np.ones((3, 4, 1)), {})]
    assert [draws.shape for draws in by_basin(chunks, 1, np.array([0, 0, 1]))] == [(2, 5, 1), (1, 5, 1)]
    ```
    """
    draws = np.concatenate([chunk.draws for chunk in chunks], axis=1)[:, began:]
    return tuple(draws[which == basin] for basin in np.unique(which))


def middle_of(basin: Basin, turn: int) -> np.ndarray:
    """About which point a chain starts, by its index within the basin.

    Where the basin is a maximum's, chains go to all of the searches that ended in it, in the order of van der
    Corput (0, 1/2, 1/4, 3/4, ... of the way through them), so that modes which predict the same are noticed
    when the chains disagree. Elsewhere the searches have not settled, and the best of them are taken.

    ```python
    from bayeshybrid.inference.chains import middle_of
    from bayeshybrid.inference.method import Basin
    basin = Basin(np.zeros(1), 0.0, np.arange(4.0)[:, None], np.ones(1), np.ones(1), 1.0, 0.0)
    assert [middle_of(basin, turn)[0] for turn in range(4)] == [0.0, 2.0, 1.0, 3.0]
    ```
    """
    count = len(basin.members)
    if basin.factor is None:
        return basin.members[turn % count]
    way = sum((turn >> bit & 1) / 2 ** (bit + 1) for bit in range(turn.bit_length()))
    return basin.members[int(way * count)]


def dispersed(
    target: Target, middles: np.ndarray, factors: Sequence[Any] | np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts at twice the spread about each middle, pulled half way back while they lie too far down.

    In a Gaussian of d unknowns the log density at twice the spread is about 2 d below the top; much further
    down the shape is another, and a step size tuned there would be of no use.

    **Returns:** positions, their log densities and gradients, one row a chain.

    ```python
    from bayeshybrid.inference.chains import dispersed
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    target = bh.Target(model, {"y": np.array(2.0)})
    assert np.isfinite(dispersed(target, np.zeros((3, 1)), np.ones((3, 1)), np.ones((3, 1)))[1]).all()
    ```
    """
    offset = TIMES_THE_SPREAD * np.stack(
        [unwhiten(factor, z) for factor, z in zip(factors, noise, strict=True)]
    )
    lowest = slopes(target, middles)[0] - 3.0 * middles.shape[1] - 10.0
    share = np.ones((len(middles), 1))
    for pull in range(PULLS + 1):
        values, gradients = slopes(target, middles + share * offset)
        lost = ~(values >= lowest) | ~np.isfinite(values)
        if not lost.any() or pull == PULLS:
            break
        share[lost] = 0.5 * share[lost] if pull < PULLS - 1 else 0.0
    return middles + share * offset, values, gradients


def from_prior(target: Target, key: Any, count: int) -> np.ndarray:
    """Prior draws of finite density, `(count, size)`; where they are too few, some come more than once.

    ```python
    from bayeshybrid.inference.chains import from_prior
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    assert from_prior(bh.Target(model, {"y": np.array(2.0)}), jax.random.key(0), 7).shape == (7, 1)
    ```
    """
    found = np.zeros((0, target.layout.size))
    for turn in range(ROUNDS):
        points = at_initial_values(target, draw_prior(target, child(key, turn), count)[0])
        found = np.concatenate([found, points[np.isfinite(slopes(target, points)[0])]])
        if len(found) >= count:
            break
    if not len(found):
        raise StartError(f"none of {ROUNDS * count} prior draws has a finite density: narrow the priors")
    return found[np.arange(count) % len(found)]


def mixture(
    basins: Sequence[Basin], chains: int, draws: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Which chain and which of its draws fill each place of the answer, and what to say about it.

    Chains are numbered basin by basin. Each basin fills as many places as its mass asks for, spread over the
    draws by a fixed shuffle; without known masses the basins fill equal parts.

    **Returns:** chain and draw, each `(chains, draws)`, and notes.

    ```python
    from bayeshybrid.inference.chains import mixture
    from bayeshybrid.inference.method import Basin
    basins = [Basin(np.zeros(1), 0.0, np.zeros((1, 1)), None, np.ones(1), mass, 0.01) for mass in (0.75, 0.25)]
    chain, draw, notes = mixture(basins, chains=2, draws=100)
    assert np.mean(chain >= 2) == 0.25
    ```
    """
    place = np.broadcast_to(np.arange(draws), (chains, draws))
    if len(basins) == 1:
        return np.broadcast_to(np.arange(chains)[:, None], (chains, draws)), place, ()
    masses = np.array([basin.mass for basin in basins])
    known = bool(np.all(np.isfinite(masses)))
    weights = masses / masses.sum() if known else np.full(len(basins), 1 / len(basins))
    filled = np.round(np.cumsum(weights) * draws).astype(int)
    order = np.random.default_rng(0).permutation(np.searchsorted(filled, np.arange(draws), side="right"))
    words = ", ".join(f"{basin.mass:.3g} (standard error {basin.mass_error:.1g})" for basin in basins)
    note = (
        f"{len(basins)} basins put together with masses {words}"
        if known
        else f"{len(basins)} basins whose masses could not be estimated, put together in equal parts"
    )
    return order * chains + np.arange(chains)[:, None], place, (note,)
