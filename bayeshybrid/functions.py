"""The functions that networks have become: what they were asked, what they answer there, and along which lines.

Weights have symmetries, so a network is compared by its outputs over the points that the posterior visits, and
these outputs are told apart by their leading principal components.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid.target import Target

REGION_POINTS = 64
REGION_DRAWS = 16
COMPONENTS = 3

__all__ = ["leading_components", "network_outputs", "principal_components", "visited_points"]


def visited_points(target: Target, points: np.ndarray, most: int = REGION_POINTS) -> dict[str, np.ndarray]:
    """At which inputs each network is asked in the fit, over some of the draws.

    **Arguments:**

    - `points`: draws of the unknowns as flat vectors, `(draw, size)`; 16 of them, evenly spaced, are followed.
    - `most`: how many points are kept of each network, evenly spaced among all.

    **Returns:** network name to `(at most `most`, number of inputs)`; nothing for a model without networks.

    ```python
    from bayeshybrid.functions import visited_points
    def model(x, y=None):
        f = bh.network("f", bh.MLP(1, 1, width=2), scale=1.0, center=0.0, spread=1.0)
        numpyro.sample("y", dist.Normal(f(x)[:, 0], 1.0), obs=y)
    target = bh.Target(model, {"x": np.arange(3.0)[:, None], "y": np.zeros(3)})
    assert visited_points(target, np.zeros((1, 7)))["f"].tolist() == [[0.0], [1.0], [2.0]]
    ```
    """
    if not target.layout.networks:
        return {}
    followed = points[_spaced(len(points), REGION_DRAWS)]
    found = {}
    for name, rows in _visited(target, followed).items():
        rows = np.asarray(rows).reshape(-1, rows.shape[-1])
        rows = rows[np.all(np.isfinite(rows), axis=1)]
        found[name] = rows[_spaced(len(rows), most)]
    return found


def network_outputs(target: Target, points: np.ndarray, name: str, at: np.ndarray) -> np.ndarray:
    """What a network answers at given inputs, draw by draw.

    **Arguments:**

    - `points`: draws of the unknowns as flat vectors, `(draw, size)`.
    - `name`: the network's name.
    - `at`: its inputs in their own units, `(place, number of inputs)`.

    **Returns:** `(draw, place, number of outputs)`, in the network's unit.

    ```python
    from bayeshybrid.functions import network_outputs
    def model(x, y=None):
        f = bh.network("f", bh.MLP(1, 1, width=2), scale=1.0, center=0.0, spread=1.0)
        numpyro.sample("y", dist.Normal(f(x)[:, 0], 1.0), obs=y)
    target = bh.Target(model, {"x": np.arange(3.0)[:, None], "y": np.zeros(3)})
    assert network_outputs(target, np.zeros((5, 7)), "f", np.ones((2, 1))).shape == (5, 2, 1)
    ```
    """
    return np.asarray(_outputs(target, points, jnp.asarray(at), name))


def principal_components(outputs: np.ndarray, share: float = 1.0, most: int | None = None) -> np.ndarray:
    """The leading principal components of rows, by decreasing variance.

    **Arguments:**

    - `outputs`: `(draw, ...)`, one row a draw.
    - `share`: of the variance, which the components kept must hold.
    - `most`: how many are kept at most.

    **Returns:** `(draw, components)`, centred; no component where nothing varies.

    ```python
    from bayeshybrid.functions import principal_components
    line = np.outer(np.arange(4.0), [3.0, 4.0])
    assert np.allclose(np.abs(principal_components(line)[:, 0]), [7.5, 2.5, 2.5, 7.5])
    ```
    """
    flat = outputs.reshape(len(outputs), -1)
    centred = flat - flat.mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    kept = int(np.sum(sizes > 1e-9 * max(sizes[0], 1e-300))) if len(sizes) else 0
    if share < 1.0 and kept:
        held = np.cumsum(sizes**2) / np.sum(sizes**2)
        kept = min(kept, int(np.searchsorted(held, share)) + 1)
    return centred @ directions[: kept if most is None else min(kept, most)].T


def _spaced(count, most):
    """At most `most` places among `count`, evenly spaced, first and last included."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)


@jax.jit
def _visited(target, points):
    return jax.lax.map(lambda q: {name: rows[0] for name, rows in target.visited(q).items()}, points)


@partial(jax.jit, static_argnums=3)
def _outputs(target, points, at, name):
    return jax.lax.map(lambda q: target.networks(q)[name](at), points, batch_size=128)


def leading_components(target: Target, flat: np.ndarray) -> dict[str, np.ndarray]:
    """Leading components of each network's output over points that the posterior visits, `(draw,)` each.

    ```python
    from bayeshybrid.functions import leading_components
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    assert leading_components(bh.Target(model, {"y": np.array(0.3)}), np.zeros((4, 1))) == {}
    ```
    """
    found = {}
    for name, at in visited_points(target, flat).items():
        components = principal_components(network_outputs(target, flat, name, at), most=COMPONENTS)
        for i, component in enumerate(components.T):
            found[f"{name} over {len(at)} visited points, component {i + 1}"] = component
    return found
