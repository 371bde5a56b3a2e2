"""What one measurement tells about the parameters of its own distribution: Fisher information, cell by cell.

`log p(y | theta)` has, on average over y, the curvature `E[score score']` in its parameters `theta`. Here each
observed site becomes flat arrays of parameters and blocks of information, so that everything above is linear
algebra.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution

from bayeshybrid.autocorrelation import Autocorrelated
from bayeshybrid.families import maker, stated_information
from bayeshybrid.observation import EXACT as MEASURED_EXACT
from bayeshybrid.observation import MISSING as MEASURED_MISSING
from bayeshybrid.observation import Measured
from bayeshybrid.target import Target

COUNTED, MISSING, CENSORED, LEFT_OUT = 0, 1, 2, 3
"""What became of a cell, as `Cells.told` codes it."""

CENSORING = (dist.LeftCensoredDistribution, dist.RightCensoredDistribution)

__all__ = ["CENSORED", "COUNTED", "LEFT_OUT", "MISSING", "Cells", "cell_information", "standardised"]


class Cells(NamedTuple):
    """The measurements of one site: the parameters of their distributions and what each tells of them.

    **Arguments:**

    - `parameters`: one row a cell; differentiable in whatever the distribution depends on.
    - `information`: Fisher information of a row, zero where nothing was measured.
    - `error`: relative error of the information where it comes from draws or sums, zero where it is exact.
    - `told`: `COUNTED`, `MISSING`, `CENSORED` (only whether it lay beyond its limit counts) or `LEFT_OUT` (no
      information could be computed). Of an autocorrelated series, which is one row, an entry for each of its cells.

    ```python
    from bayeshybrid.noise_information import cell_information
    cells = cell_information(dist.Normal(jnp.zeros(3), 0.5), np.ones(3))
    assert cells.parameters.shape == (3, 2) and np.allclose(cells.information[0], np.diag([4.0, 8.0]))
    ```
    """

    parameters: Float[Array, "cells parameters"]
    information: Float[Array, "cells parameters parameters"]
    error: Float[Array, " cells"]
    told: Int[Array, " entries"]


def cell_information(distribution: dist.Distribution, value: Any, scale: Any = None) -> Cells:
    """Parameters and Fisher information of an observation's distribution, cell by cell.

    The information is that of the experiment, averaged over what could have been measured; `value` matters for
    its shape and for the limits of censored cells only. Of a censored cell counts the event that it lay where it
    did: `p / (1 - p)` times the outer product of the gradient of `log p`, the information of a yes or no.

    **Arguments:**

    - `distribution`: any numpyro distribution, as a model states it, `Measured` included.
    - `value`: the data.
    - `scale`: what the model multiplies the log probability by.

    **Returns:** `Cells`. Vectors other than categories, the multivariate normal and autocorrelated series are left
    out, and so are mixtures and the uniform distribution, whose ends the score does not know.

    ```python
    from bayeshybrid.noise_information import cell_information
    assert np.allclose(cell_information(dist.Poisson(4.0), np.array(3)).information, 0.25)
    ```
    """
    inner, mask, wrap = _opened(distribution)
    own = len(inner.event_shape)
    joint = jnp.broadcast_shapes(jnp.shape(value), distribution.shape())
    shape = joint[: len(joint) - own]
    found = stated_information(inner, shape)
    if found is None:
        count = int(np.prod(shape, dtype=int))
        zero = jnp.zeros((count, 1))
        return Cells(zero, zero[..., None], zero[:, 0], jnp.full(count, LEFT_OUT))
    cells = _counted(found)
    if isinstance(inner, Autocorrelated):
        cells = _cell_by_cell(cells, inner, shape)
    elif wrap is not None:
        cells = _as_measured(cells, inner, wrap, jnp.broadcast_to(value, joint), shape)
    if mask is not None:
        cells = _without(cells, ~jnp.ravel(jnp.broadcast_to(mask, shape)))
    if scale is not None:
        weight = jnp.ravel(jnp.broadcast_to(scale, shape))
        cells = cells._replace(information=cells.information * weight[:, None, None])
    return cells


def standardised(
    target: Target, q: Float[Array, " size"]
) -> tuple[Float[Array, " rows"], dict[str, tuple[Array, Array]]]:
    """The parameters of all observations, in units of what one measurement tells about them.

    With `L L'` the information of a cell at this `q`, held fixed, its row is `L' theta(q)`: so `J' J` of the
    Jacobian `J` is the Fisher information of `q`.

    **Returns:** the rows, and by observed site how many cells of each kind there are (`COUNTED`, `MISSING`,
    `CENSORED`, `LEFT_OUT`) and the largest relative error.

    ```python
    from bayeshybrid.noise_information import standardised
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 0.5), obs=y)
    target = bh.Target(model, {"y": np.array(2.0)})
    jacobian = jax.jacrev(lambda q: standardised(target, q)[0])(jnp.zeros(1))
    assert np.allclose(jacobian.T @ jacobian, 4.0)
    ```
    """
    found = target.run_at(q)
    rows, tallies = [jnp.zeros(0)], {}
    for observed in target.layout.observed:
        if observed.name in target.layout.absent:
            continue
        site = found.sites[observed.name]
        cells = cell_information(site["fn"], site["value"], site["scale"])
        values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(cells.information))
        factor = vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None, :]
        rows.append(jnp.ravel(jnp.einsum("cp,cpk->ck", cells.parameters, factor)))
        tallies[observed.name] = (
            jnp.sum(cells.told[:, None] == jnp.arange(4)[None], axis=0),
            jnp.max(cells.error, initial=0.0),
        )
    return jnp.concatenate(rows), tallies


# From a stated distribution to its cells


def _opened(distribution):
    """The distribution of a cell, what is masked, and how to wrap it again where cells are not all exact."""
    mask = wrap = None
    while True:
        if isinstance(distribution, MaskedDistribution):
            mask = distribution._mask if mask is None else mask & distribution._mask
            distribution = distribution.base_dist
        elif isinstance(distribution, ExpandedDistribution | Independent):
            distribution = distribution.base_dist
        elif isinstance(distribution, Measured):
            wrap, distribution = distribution, distribution.base
        elif isinstance(distribution, CENSORING):
            wrap, distribution = distribution, distribution.base_dist
        else:
            return distribution, mask, wrap


def _counted(stated):
    """As cells, those without a finite information or finite parameters left out."""
    sound = (
        jnp.all(jnp.isfinite(stated.information), axis=(1, 2))
        & jnp.all(jnp.isfinite(stated.parameters), axis=1)
        & jnp.isfinite(stated.error)
    )
    told = jnp.where(sound, COUNTED, LEFT_OUT)
    return Cells(
        jnp.where(sound[:, None], stated.parameters, 0.0),
        jnp.where(sound[:, None, None], stated.information, 0.0),
        jnp.where(sound, stated.error, 0.0),
        told,
    )


def _without(cells, gone):
    return cells._replace(
        information=jnp.where(gone[:, None, None], 0.0, cells.information),
        error=jnp.where(gone, 0.0, cells.error),
        told=jnp.where(jnp.repeat(gone, len(cells.told) // max(len(gone), 1)), MISSING, cells.told),
    )


def _cell_by_cell(series, inner, shape):
    """Series whose cells are told one by one; the missing ones were left out of the information."""
    told = jnp.repeat(series.told, inner.event_shape[0])
    if inner.missing is None:
        return series._replace(told=told)
    missing = jnp.broadcast_to(inner.missing, (*shape, *inner.event_shape))
    return series._replace(told=jnp.where(jnp.ravel(missing), MISSING, told))


def _as_measured(cells, inner, wrap, value, shape):
    """Cells that were missing or censored, told apart."""
    if isinstance(wrap, Measured):
        kinds = jnp.ravel(jnp.broadcast_to(wrap.kinds(value), shape))
        missing, censored = kinds == MEASURED_MISSING, (kinds != MEASURED_EXACT) & (kinds != MEASURED_MISSING)
        limited = wrap.left is not None or wrap.right is not None or wrap.upper is not None
    else:
        censored = jnp.ravel(jnp.broadcast_to(wrap.censored, shape)).astype(bool)
        missing, limited = jnp.zeros_like(censored), True
    if limited:
        block, possible = _event(cells, inner, wrap, value, shape)
        taken = censored & possible & (cells.told == COUNTED)
        cells = cells._replace(
            information=jnp.where(
                censored[:, None, None], jnp.where(taken[:, None, None], block, 0.0), cells.information
            ),
            told=jnp.where(censored, jnp.where(taken, CENSORED, LEFT_OUT), cells.told),
        )
    return _without(cells, missing)


def _event(cells, inner, wrap, value, shape):
    """Information of the yes or no "it lay beyond its limit", and where it is finite."""
    make = maker(inner)
    if make is None:
        return jnp.zeros_like(cells.information), jnp.zeros(len(cells.told), bool)

    def total(parameters):
        changed = make(*(column.reshape(shape) for column in parameters.T))
        if isinstance(wrap, Measured):
            marks = (None if m is None else jnp.broadcast_to(m, shape) for m in _marks(wrap))
            logs = Measured(changed, *marks).log_prob(value)
        else:
            logs = type(wrap)(changed, jnp.broadcast_to(wrap.censored, shape)).log_prob(value)
        return jnp.sum(logs), jnp.ravel(logs)

    fixed = jax.lax.stop_gradient(cells.parameters)
    score, log_p = jax.grad(total, has_aux=True)(fixed)
    odds = 1.0 / jnp.expm1(-jnp.minimum(log_p, -1e-300))
    block = odds[:, None, None] * score[:, :, None] * score[:, None, :]
    return block, jnp.all(jnp.isfinite(block), axis=(1, 2))


def _marks(measured):
    return measured.missing, measured.left, measured.right, measured.upper
