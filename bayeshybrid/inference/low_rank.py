"""Metrics for many unknowns: a diagonal, and a few directions in which the posterior is far wider or narrower.

A factor `scale * (1 + vectors (stretch - 1) vectors')` costs a few products with vectors where a dense one costs the
square of the dimension. Wide directions show in the draws and narrow ones in the gradients, whose covariance is the
inverse of the draws' where the posterior is Gaussian: the idea of Seyboldt et al. (2026, arXiv:2603.18845). Here draws
may be fewer than unknowns, because only what stands out of chance is taken.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

RANK = 20
WINDOW = (50, 250)
MOST_NUMBERS = 2_000_000

# Of a direction's variance against that of the others: less is hardly felt by a sampler.
WORTH_WHILE = 3.0
ABOVE_THE_EDGE = 1.1
SAME_DIRECTION = 0.25

__all__ = ["LowRank", "Recent", "diagonal", "estimate", "nothing_recent", "remembered", "stretched"]


class LowRank(NamedTuple):
    """`scale`, `(d,)`; orthonormal columns `vectors`, `(d, 20)`, zero where unused; `stretch` along each, `(20,)`."""

    scale: Any
    vectors: Any
    stretch: Any


class Recent(NamedTuple):
    """The last positions and gradients of a chain, `(window, d)`, in no order."""

    positions: Any
    gradients: Any


def diagonal(scale: np.ndarray) -> LowRank:
    """The metric without any direction.

    ```python
    from bayeshybrid.inference.low_rank import diagonal
    assert diagonal(np.ones(30)).vectors.shape == (30, 20)
    ```
    """
    return LowRank(scale, np.zeros((len(scale), RANK)), np.ones(RANK))


def stretched(metric: LowRank, z: Float[Array, " d"]) -> Float[Array, " d"]:
    """A vector longer or shorter along the directions.

    ```python
    from bayeshybrid.inference.low_rank import LowRank, stretched
    metric = LowRank(jnp.ones(2), jnp.array([[1.0], [0.0]]), jnp.array([3.0]))
    assert stretched(metric, jnp.ones(2)).tolist() == [3.0, 1.0]
    ```
    """
    return z + metric.vectors @ ((metric.stretch - 1) * (metric.vectors.T @ z))


def nothing_recent(chains: int, size: int) -> Recent:
    """Room for the last draws of each chain, fewer where there are very many unknowns.

    ```python
    from bayeshybrid.inference.low_rank import nothing_recent
    assert nothing_recent(4, 1000).positions.shape == (4, 250, 1000)
    ```
    """
    room = np.zeros((chains, int(np.clip(MOST_NUMBERS // size, *WINDOW)), size))
    return Recent(room, room)


def remembered(recent: Recent, count: Any, position: Array, gradient: Array) -> Recent:
    """The same with one more, in place of the oldest.

    ```python
    from bayeshybrid.inference.low_rank import Recent, remembered
    room = Recent(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
    assert remembered(room, 3, jnp.ones(1), jnp.ones(1)).positions.tolist() == [[0.0], [1.0]]
    ```
    """
    place = count % len(recent.positions)
    return Recent(recent.positions.at[place].set(position), recent.gradients.at[place].set(gradient))


def estimate(
    positions: Float[np.ndarray, "chains n d"], gradients: Float[np.ndarray, "chains n d"]
) -> LowRank:
    """The metric that draws and their gradients tell, each chain about its own mean.

    ```python
    from bayeshybrid.inference.low_rank import estimate
    draws = 5.0 * np.random.default_rng(0).normal(size=(4, 100, 30))
    assert np.allclose(estimate(draws, -draws / 25.0).scale, 5.0)
    ```
    """
    draws, slopes = (
        (x - x.mean(axis=1, keepdims=True)).reshape(-1, x.shape[-1]) for x in (positions, gradients)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(draws.std(axis=0) / slopes.std(axis=0))
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    wide, variance = _standing_out(draws / scale)
    narrow, precision = _standing_out(slopes * scale)
    apart = np.sum((wide.T @ narrow) ** 2, axis=0) < SAME_DIRECTION
    vectors = np.concatenate([wide, narrow[:, apart]], axis=1)
    variances = np.append(variance, 1 / precision[apart])
    most = np.argsort(-np.abs(np.log(variances)))[:RANK]
    found = diagonal(scale)
    found.vectors[:, : len(most)] = np.linalg.qr(vectors[:, most])[0]
    found.stretch[: len(most)] = np.sqrt(variances[most])
    return found


def _standing_out(rows):
    """Directions `(d, k)` whose variance stands out from that of all others, and the variances.

    In so few rows even independent numbers have directions of large variance, up to the edge of the law of Marchenko
    and Pastur; what stands above it looks larger than it is by a known amount (Paul 2007, Statistica Sinica 17:1617).
    """
    count, size = rows.shape
    _, singular, directions = np.linalg.svd(rows / np.sqrt(count), full_matrices=False)
    seen, ratio, kept = singular**2, size / count, 0
    for _ in range(RANK):
        others = (seen.sum() - seen[:kept].sum()) / max(size - kept, 1)
        above = int(np.sum(seen > ABOVE_THE_EDGE * others * (1 + np.sqrt(ratio)) ** 2))
        if above == kept:
            break
        kept = above
    if not others > 0:  # chains that hardly moved tell nothing
        return np.zeros((size, 0)), np.zeros(0)
    middle = seen[:kept] / others + 1 - ratio
    true = (middle + np.sqrt(np.maximum(middle**2 - 4 * seen[:kept] / others, 0.0))) / 2
    worth = true > WORTH_WHILE
    return directions[:kept][worth].T, others * true[worth]
