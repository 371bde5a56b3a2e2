"""What the data tell about the unknowns near a draw: Fisher information in units of the prior, as linear algebra.

Everything rests on a *root* of the information at a draw: a matrix `A` with `A' A = J' R^-1 J`, where `J` is the
Jacobian of the observations' distribution parameters and `R^-1` their Fisher information. A network whose weights
are free is extra noise with the covariance `K = J_w P_w J_w'` of its prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bayeshybrid import configuration
from bayeshybrid.contraction import PRIOR_DRAWS
from bayeshybrid.noise_information import standardised
from bayeshybrid.summary import entry_name, names_of
from bayeshybrid.survey import draw_prior
from bayeshybrid.target import Target

ROWS_AT_ONCE = 64
MOST_SETS = 5000

# A sample correlation of two thousand prior draws below this is taken for none
CHANCE_CORRELATION = 0.09
# Directions about which the data tell less than this share of what the prior does are equally unknown
NOTHING = 0.01

__all__ = [
    "PriorUnits",
    "Roots",
    "absorbed",
    "collinear_sets",
    "collinearity",
    "fisher_roots",
    "given_free",
    "precision_gain",
    "principal_directions",
    "prior_units",
]


@dataclass(frozen=True)
class Roots:
    """Roots of the Fisher information at some draws.

    - `root`: `(draw, row, size)`; `root[k].T @ root[k]` is the information about the flat vector at draw `k`.
    - `cells`: observed site to how many of its cells counted, were missing, censored, and left out.
    - `error`: the largest relative error of a cell's information that comes from draws or sums.
    - `lost`: draws at which the Jacobian is not finite, left out of `root`.

    ```python
    from bayeshybrid.information import Roots
    assert Roots(np.ones((1, 2, 3)), {"y": (2, 0, 0, 0)}, 0.0, 0).root.shape == (1, 2, 3)
    ```
    """

    root: Float[np.ndarray, "draw row size"]
    cells: dict[str, tuple[int, int, int, int]]
    error: float
    lost: int


class PriorUnits(NamedTuple):
    """The prior as what everything is measured in.

    - `places`: where the parameters stand in the flat vector; `names`, `kinds`: of each.
    - `factor`: symmetric up to the standard deviations, `factor factor'` their prior covariance; `sds` those.
    - `networks`: network to the places of its weights and their prior standard deviations.
    - `proper`: whether every prior could be drawn from; if not, the covariances mean nothing.

    ```python
    from bayeshybrid.information import prior_units
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 0.5), obs=y)
    units = prior_units(bh.Target(model, {"y": np.array(2.0)}), jax.random.key(0))
    assert units.names == ("x",) and abs(units.factor[0, 0] - 1.0) < 0.1
    ```
    """

    places: np.ndarray
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    factor: np.ndarray
    sds: np.ndarray
    networks: dict[str, tuple[np.ndarray, np.ndarray]]
    proper: bool


def fisher_roots(target: Target, points: Float[np.ndarray, "draw size"]) -> Roots:
    """Roots of the Fisher information of the observations at `points`.

    Where there are more rows than unknowns each root is the triangular factor of its QR decomposition, which
    changes nothing that is computed from it. The Jacobian is taken forwards if unknowns are fewer than rows and
    no solver stands in the way, else backwards.

    **Returns:** `Roots`.

    ```python
    from bayeshybrid.information import fisher_roots
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 0.5), obs=y)
    found = fisher_roots(bh.Target(model, {"y": np.array(2.0)}), np.zeros((3, 1)))
    assert np.allclose(found.root**2, 4.0)
    ```
    """
    with configuration.scope():
        root, tallies = _roots(target, jnp.asarray(points))
    root = np.asarray(root)
    kept = np.all(np.isfinite(root), axis=(1, 2))
    cells = {name: _tally(np.asarray(counts)[kept]) for name, (counts, _) in tallies.items()}
    errors = [float(np.max(np.asarray(error)[kept], initial=0.0)) for _, error in tallies.values()]
    return Roots(root[kept], cells, max(errors, default=0.0), int(np.sum(~kept)))


def _tally(counts) -> tuple[int, int, int, int]:
    counted, missing, censored, left_out = np.median(counts, axis=0).astype(int) if len(counts) else [0] * 4
    return int(counted), int(missing), int(censored), int(left_out)


@partial(jax.jit, compiler_options=configuration.compile_options())
def _roots(target, points):
    return jax.lax.map(partial(_root, target), points)


def _root(target, q):
    def rows(q):
        return standardised(target, q)

    jacobian, tallies = _forwards(rows, q) if _goes_forwards(target, rows, q) else _backwards(rows, q)
    if jacobian.shape[0] > jacobian.shape[1]:
        jacobian = jnp.linalg.qr(jacobian, mode="r")
    return jacobian, tallies


def _goes_forwards(target, rows, q):
    """Whether it is cheaper to push each unknown through than to pull each row back, and possible."""
    if target.layout.solves:  # a solve that is differentiated backwards cannot be pushed through
        return False
    try:
        shape = jax.eval_shape(lambda q: _forwards(rows, q)[0], q).shape
    except Exception:  # a model's own rule of differentiation that knows one way only
        return False
    return q.size < shape[0]


def _forwards(rows, q):
    _, push, tallies = jax.linearize(rows, q, has_aux=True)

    def column(i):
        return push(jax.nn.one_hot(i, q.size, dtype=q.dtype))

    return jax.lax.map(column, jnp.arange(q.size), batch_size=ROWS_AT_ONCE).T, tallies


def _backwards(rows, q):
    value, pull, tallies = jax.vjp(rows, q, has_aux=True)
    if not value.size:
        return jnp.zeros((0, q.size), q.dtype), tallies

    def row(i):
        return pull(jax.nn.one_hot(i, value.size, dtype=value.dtype))[0]

    return jax.lax.map(row, jnp.arange(value.size), batch_size=ROWS_AT_ONCE), tallies


def prior_units(target: Target, key: Any) -> PriorUnits:
    """The prior's covariance of the parameters and variances of the weights, from 2,048 draws.

    Correlations that are too small to be told from chance are set to zero. Networks have many weights, taken as
    uncorrelated.

    ```python
    from bayeshybrid.information import prior_units
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 0.5), obs=y)
    assert prior_units(bh.Target(model, {"y": np.array(2.0)}), jax.random.key(0)).proper
    ```
    """
    points, proper = draw_prior(target, key, PRIOR_DRAWS)
    # A draw at the very end of a bounded support has no finite unconstrained value
    points = points[np.all(np.isfinite(points), axis=1)]
    proper = proper and len(points) > PRIOR_DRAWS // 2
    points = points if proper else np.zeros((1, target.layout.size))
    places, names, kinds, networks = [], [], [], {}
    for site in target.layout.latent:
        where = range(site.start, site.stop)
        if site.tag.kind == "weight":
            networks.setdefault(site.tag.group, []).extend(where)
            continue
        places += where
        kinds += [site.tag.kind] * len(where)
        names += _coordinates(site, target.labels)
    chosen = points[:, places]
    sds = chosen.std(axis=0)
    scaled = (chosen - chosen.mean(axis=0)) / np.where(sds > 0, sds, 1.0)
    correlation = scaled.T @ scaled / max(len(scaled), 1)
    correlation = np.where(np.abs(correlation) < CHANCE_CORRELATION, 0.0, correlation)
    values, vectors = np.linalg.eigh(correlation)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return PriorUnits(
        places=np.array(places, int),
        names=tuple(names),
        kinds=tuple(kinds),
        factor=sds[:, None] * root,
        sds=sds,
        networks={name: (np.array(where), points[:, where].std(axis=0)) for name, where in networks.items()},
        proper=proper,
    )


def _coordinates(site, labels):
    """A name for each unconstrained number of a site: that of the summary where they are one to one."""
    if site.shape == site.unconstrained_shape:
        told = names_of(site.tag, labels)
        return [entry_name(site.name, index, *told) for index in np.ndindex(site.shape)]
    return [f"{site.name} (coordinate {i})" for i in range(site.stop - site.start)]


def given_free(
    columns: Float[np.ndarray, "row some"], free: Float[np.ndarray, "row other"]
) -> Float[np.ndarray, "row some"]:
    """`(1 + W W')^(-1/2)` times the columns: a root of what is told while `W`, of unit prior, is unknown.

    **Arguments:**

    - `columns`: root of the information about what is asked for.
    - `free`: root of the information about what is unknown beside it, in units of its prior (`W`).

    ```python
    from bayeshybrid.information import given_free
    assert np.allclose(given_free(np.array([[2.0], [1.0]]), np.array([[0.0], [3.0**0.5]])), [[2.0], [0.5]])
    ```
    """
    if not free.size:
        return columns
    turn, sizes, _ = np.linalg.svd(free, full_matrices=False)
    shrink = 1.0 - 1.0 / np.sqrt(1.0 + sizes**2)
    return columns - turn @ (shrink[:, None] * (turn.T @ columns))


def precision_gain(
    columns: Float[np.ndarray, "row some"],
    factor: Float[np.ndarray, "some some"],
    free: Float[np.ndarray, "row other"],
) -> Float[np.ndarray, " some"]:
    """How much the data add to the precision of each parameter, in units of the precision of its prior.

    In a linear Gaussian model prior variance over posterior variance, minus one. With independent priors it is
    `P_i J_i' (R + N)^-1 J_i`, `N` the noise that all other unknowns make under their priors.

    **Arguments:**

    - `columns`: root of the information about the parameters, in their own units.
    - `factor`: `F` with `F F'` the prior covariance of the parameters.
    - `free`: root of the information about other unknowns in units of their prior.

    **Returns:** one number a parameter; below 1 the data tell less than the prior.

    ```python
    from bayeshybrid.information import precision_gain
    gained = precision_gain(np.array([[3.0, 3.0]]), np.eye(2), np.zeros((1, 0)))
    assert np.allclose(gained, 9.0 / 10.0)
    ```
    """
    count = len(factor)
    joint = np.concatenate([_narrowed(free), columns @ factor], axis=1)
    # The square root of the posterior precision, without ever forming the precision itself
    _, upper = np.linalg.qr(np.concatenate([joint, np.eye(joint.shape[1])]))
    wanted = np.zeros((joint.shape[1], count))
    wanted[joint.shape[1] - count :] = factor.T
    spread = np.linalg.solve(upper.T, wanted)
    return np.sum(factor**2, axis=1) / np.sum(spread**2, axis=0) - 1.0


def _narrowed(free):
    """As few columns as there are rows, with the same `W W'`."""
    if free.shape[1] <= free.shape[0]:
        return free
    triangle: Any = np.linalg.qr(free.T, mode="r")
    return triangle.T


def absorbed(
    columns: Float[np.ndarray, "row some"],
    factor: Float[np.ndarray, "some some"],
    others: Float[np.ndarray, "row other"],
    network: Float[np.ndarray, "row weight"],
) -> Float[np.ndarray, " some"]:
    """The share of what the data tell about each parameter that is lost because a network is free.

    `1 - I_free / I_known`: the information about a parameter with the network unknown under its prior, over that
    with the network known, all other unknowns unknown under their priors in both. In a linear Gaussian model it is
    the exact loss of gained precision.

    **Arguments:** as for `precision_gain`; `others` and `network` in units of their priors.

    **Returns:** from 0, untouched, to 1, eaten; NaN where the data tell less about the parameter than its prior.

    ```python
    from bayeshybrid.information import absorbed
    data, network = np.array([[2.0], [0.0]]), np.array([[3.0], [0.0]])
    assert np.allclose(absorbed(data, np.eye(1), np.zeros((2, 0)), network), 0.9)
    ```
    """
    known = precision_gain(columns, factor, others)
    left = precision_gain(columns, factor, np.concatenate([others, network], axis=1))
    told = known >= 1.0
    return np.where(told, np.clip(1.0 - left / np.where(told, known, 1.0), 0.0, 1.0), np.nan)


def principal_directions(
    information: Float[np.ndarray, "some some"],
) -> tuple[Float[np.ndarray, " some"], Float[np.ndarray, "some some"]]:
    """Eigenvalues, descending, and directions as columns, of information in units of the prior.

    Directions about which the data tell nothing can be mixed at will; they are turned so that each is made of as
    few parameters as possible (the quartimax criterion, Neuhaus and Wrigley 1954), that they may be read.

    ```python
    from bayeshybrid.information import principal_directions
    values, directions = principal_directions(np.diag([0.0, 7.0, 0.0]))
    assert values.tolist() == [7.0, 0.0, 0.0] and np.allclose(np.abs(directions).max(axis=0), 1.0)
    ```
    """
    values, vectors = np.linalg.eigh(information)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    nothing = values < NOTHING
    if np.sum(nothing) > 1:
        turned = _simple(vectors[:, nothing])
        left = np.einsum("ik,ij,jk->k", turned, information, turned)
        order = np.argsort(-left, kind="stable")
        vectors = np.concatenate([vectors[:, ~nothing], turned[:, order]], axis=1)
        values = np.concatenate([values[~nothing], np.maximum(left[order], 0.0)])
    return values, vectors


def _simple(vectors, rounds=200):
    """The same space by orthonormal columns with the greatest sum of fourth powers."""
    # Start from the parameters that lie most in the space, not from an arbitrary basis: the criterion has saddles
    turn = np.eye(vectors.shape[1])
    rest = vectors.copy()
    for k in range(vectors.shape[1]):
        pick = np.argmax(np.sum(rest**2, axis=1))
        turn[:, k] = rest[pick] / np.linalg.norm(rest[pick])
        rest = rest - np.outer(rest @ turn[:, k], turn[:, k])
    for _ in range(rounds):
        loads = vectors @ turn
        left, _, right = np.linalg.svd(vectors.T @ loads**3)
        turned = left @ right
        if np.allclose(turned, turn, rtol=0, atol=1e-10):
            break
        turn = turned
    return vectors @ turn


def collinearity(columns: Float[np.ndarray, "... row some"]) -> Any:
    """The collinearity index of sensitivities: how far one parameter's effect can be undone by the others'.

    `1 / sqrt(smallest eigenvalue of S' S)` of the columns scaled to length one (Brun, Reichert and Künsch 2001,
    equation 17): 1 if they are orthogonal, infinite if dependent. At 10 a change of one parameter can be
    compensated by the others to a tenth of its effect.

    ```python
    from bayeshybrid.information import collinearity
    assert np.isclose(collinearity(np.eye(3)), 1.0) and collinearity(np.ones((3, 2))) > 1e6
    ```
    """
    lengths = np.linalg.norm(columns, axis=-2, keepdims=True)
    scaled = columns / np.where(lengths > 0, lengths, 1.0)
    if scaled.shape[-2] < scaled.shape[-1]:
        return np.full(scaled.shape[:-2], np.inf)[()]
    smallest = np.linalg.svd(scaled, compute_uv=False)[..., -1]
    return 1.0 / np.maximum(smallest, 1e-12)


def collinear_sets(
    columns: Float[np.ndarray, "draw row some"], threshold: float, largest: int = 4
) -> list[tuple[tuple[int, ...], float, float]]:
    """The smallest sets of parameters whose collinearity index exceeds a threshold, its median over draws.

    Parameters about which the data tell less than the prior, even if all others were known, are passed over:
    their direction is noise. Sets grow up to `largest`, or until five thousand were looked at; a set that holds
    one already named is not named again.

    **Arguments:**

    - `columns`: roots of the information in units of the prior's standard deviations.

    **Returns:** parameters, index, and the smallest eigenvalue of their own information (its median), highest
    index first. Where that is above 1 the data beat the prior all the same.

    ```python
    from bayeshybrid.information import collinear_sets
    columns = np.array([[[9.0, 9.0, 0.0], [0.0, 0.0, 5.0]]])
    assert [found[0] for found in collinear_sets(columns, 10.0)] == [(0, 1)]
    ```
    """
    telling = np.flatnonzero(np.median(np.linalg.norm(columns, axis=1), axis=0) > 1.0)
    found, looked = [], 0
    for size in range(2, largest + 1):
        for chosen in combinations(telling.tolist(), size):
            looked += 1
            if looked > MOST_SETS:
                break
            if any(set(named) <= set(chosen) for named, _, _ in found):
                continue
            some = columns[:, :, list(chosen)]
            index = float(np.median(collinearity(some)))
            if index > threshold:
                sizes = np.linalg.svd(some, compute_uv=False)
                full = sizes.shape[1] == size
                weakest = float(np.median(sizes[:, -1] ** 2)) if full else 0.0
                found.append((chosen, index, weakest))
    return sorted(found, key=lambda entry: -entry[1])
