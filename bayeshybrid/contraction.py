"""How much the data moved each unknown: contraction on the prior's normal scores."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution

from bayeshybrid.target import Target

PRIOR_DRAWS = 2000

__all__ = ["contraction", "draw_prior", "normal_scores", "prior_draws"]


def contraction(target: Target, unconstrained: np.ndarray, key: Any) -> dict[str, np.ndarray]:
    """One minus the posterior variance of each unknown on its prior's normal scores.

    `z = Phi^-1(F(theta))` with `F` the prior's distribution function is standard normal before the data, so
    `1 - var(z)` is 0 where the data said nothing and 1 where they said everything; in a linear Gaussian model
    it is one minus the ratio of posterior to prior variance.

    **Arguments:**

    - `unconstrained`: posterior draws `(n, size)`.
    - `key`: for the prior draws that stand in where a prior depends on other unknowns.

    **Returns:** site name to an array in the site's shape; NaN where the prior cannot be drawn from.

    ```python
    from bayeshybrid.contraction import contraction
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    told = contraction(bh.Target(model, {"y": np.array(0.0)}), np.array([[-0.5], [0.5]]), jax.random.key(0))
    assert told["x"] == 0.75
    ```
    """
    scores, constant = _scores_of(target, jnp.asarray(unconstrained))
    found = {name: 1.0 - np.var(np.asarray(z), axis=0) for name, z in scores.items()}
    varying = [name for name in found if not constant[name] or not np.all(np.isfinite(found[name]))]
    if varying:
        prior, proper = prior_draws(target, key)
        values = jax.tree.map(np.asarray, _values(target, jnp.asarray(unconstrained)))
        for name in varying:
            found[name] = 1.0 - np.var(_rank_scores(prior[name], values[name]), axis=0) if proper else (
                np.full(found[name].shape, np.nan)
            )
    return found


def prior_draws(target: Target, key: Any, count: int = PRIOR_DRAWS) -> tuple[dict[str, np.ndarray], bool]:
    """Draws of all unknowns from the prior by name, and whether every prior is proper."""
    q, proper = draw_prior(target, key, count)
    return jax.tree.map(np.asarray, _values(target, q)), proper


def draw_prior(target: Target, key: Any, count: int) -> tuple[np.ndarray, bool]:
    """Prior draws as flat vectors `(count, size)`, and whether every prior is proper."""
    q, proper = _draw(target, jax.random.split(key, count))
    return np.asarray(q), bool(np.all(proper))


@jax.jit
def _draw(target, keys):
    return jax.vmap(target.draw_prior)(keys)


@jax.jit
def _values(target, q):
    names = [site.name for site in target.layout.latent]
    return jax.lax.map(lambda row: {n: v for n, v in target.constrain(row).items() if n in names}, q, batch_size=128)


def _scores_of(target, q):
    """Normal scores of each unknown at each draw, and whether its prior is the same at all of them."""
    scores, parameters = jax.tree.map(np.asarray, _trace_scores(target, q))
    same = {
        name: all(np.array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)) for leaf in jax.tree.leaves(leaves))
        for name, leaves in parameters.items()
    }
    return scores, same


@jax.jit
def _trace_scores(target, q):
    def one(row):
        found = target.run_at(row)
        latent = {site.name: found.sites[site.name] for site in target.layout.latent}
        scores = {name: normal_scores(site["fn"], site["value"]) for name, site in latent.items()}
        return scores, {name: jax.tree.leaves(site["fn"]) for name, site in latent.items()}

    return jax.lax.map(one, q, batch_size=128)


def normal_scores(distribution: dist.Distribution, value: Any) -> Any:
    """`Phi^-1(F(value))`, exact in the tails for normal and log-normal priors; NaN where F is not known.

    ```python
    from bayeshybrid.contraction import normal_scores
    assert abs(normal_scores(dist.LogNormal(0.0, 2.0), jnp.exp(60.0)) - 30.0) < 1e-12
    ```
    """
    while isinstance(distribution, ExpandedDistribution | Independent | MaskedDistribution):
        distribution = distribution.base_dist
    if isinstance(distribution, dist.LogNormal):
        return (jnp.log(value) - distribution.loc) / distribution.scale
    if isinstance(distribution, dist.Normal):
        return (value - distribution.loc) / distribution.scale
    try:
        below = distribution.cdf(value)
    except (NotImplementedError, AttributeError):
        return jnp.full(jnp.shape(value), jnp.nan)
    return jax.scipy.special.ndtri(jnp.clip(below, 1e-300, 1 - 1e-16))


def _rank_scores(prior, values):
    """Normal scores by the ranks of posterior draws among prior draws, element by element."""
    flat_prior = np.sort(prior.reshape(len(prior), -1), axis=0)
    flat = values.reshape(len(values), -1)
    below = np.stack([np.searchsorted(p, v) for p, v in zip(flat_prior.T, flat.T, strict=True)], axis=1)
    scores = jax.scipy.special.ndtri((below + 0.5) / (len(prior) + 1))
    return np.asarray(scores).reshape(values.shape)
