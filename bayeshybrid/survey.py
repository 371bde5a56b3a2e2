"""What a target says at many points: a few compiled programs that everything shares.

Compiling is the dearest part of a short run, so there is one program for everything that a run of the model can
tell, and one for prior draws; densities with gradients are told by `inference.trajectories`. Each takes batches of
one size, whatever the number of points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution

from bayeshybrid import configuration
from bayeshybrid.moments import conditional_moments
from bayeshybrid.science import ode
from bayeshybrid.target import Target, log_prob

BATCH = 64

__all__ = ["ask", "draw_prior", "in_batches", "likelihoods", "normal_scores"]


def ask(target: Target, points: np.ndarray, wanted: Sequence[str]) -> dict[str, Any]:
    """What the model says at `points`, `(n, size)`, as arrays with the points along the first axis.

    **Arguments:**

    - `wanted`: among `values` (unknowns and derived quantities), `log_likelihood`, `log_density`, `pointwise`
      (by observed site), `mean` and `variance` (conditional, by observed site), `scores` (unknowns on their prior's
      normal scores), `priors` (parameters of each unknown's prior), `prior_slope` (gradient of the log prior,
      solutions held), and whatever `Target.explain` tells.

    ```python
    from bayeshybrid.survey import ask
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    told = ask(bh.Target(model, {"y": np.array(2.0)}), np.zeros((3, 1)), ["values", "scores"])
    assert told["values"]["x"].shape == (3,)
    ```
    """

    def chosen(batch):
        told = _survey(target, batch)
        return {name: told[name] for name in wanted}

    return in_batches(chosen, points)


def likelihoods(target: Target, points: np.ndarray) -> np.ndarray:
    """Log likelihood at `points`, `(n, size)`, by the smallest program that gives it.

    ```python
    from bayeshybrid.survey import likelihoods
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    told = likelihoods(bh.Target(model, {"y": np.array(2.0)}), np.array([[2.0]]))
    assert np.allclose(told, -0.5 * np.log(2 * np.pi))
    ```
    """
    return in_batches(partial(_likelihoods, target), points)


def draw_prior(target: Target, key: Any, count: int) -> tuple[np.ndarray, bool]:
    """Prior draws as flat vectors `(count, size)`, and whether every prior is proper.

    ```python
    from bayeshybrid.survey import draw_prior
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    points, proper = draw_prior(bh.Target(model, {"y": np.array(2.0)}), jax.random.key(0), 5)
    assert points.shape == (5, 1) and proper
    ```
    """
    points, proper = in_batches(partial(_draw, target, key), np.arange(count))
    return points, bool(np.all(proper))


def in_batches(program: Callable[[Any], Any], rows: Any) -> Any:
    """A program over all rows of a tree of arrays, in batches of one size, the last filled up with its last row."""
    total = len(jax.tree.leaves(rows)[0])
    done = []
    for start in range(0, total, BATCH):
        places = np.minimum(np.arange(start, start + BATCH), total - 1)
        told = program(jax.tree.map(lambda x, at=places: x[at], rows))
        kept = min(BATCH, total - start)
        done.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[:kept], told))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *done)


@partial(jax.jit, compiler_options=configuration.compile_options())
def _likelihoods(target, points):
    return jax.vmap(target.log_likelihood)(points)


@partial(jax.jit, compiler_options=configuration.compile_options(level=0))
def _draw(target, key, places):
    return jax.vmap(lambda place: target.draw_prior(jax.random.fold_in(key, place)))(places)


@partial(jax.jit, compiler_options=configuration.compile_options())
def _survey(target, points):
    return jax.vmap(partial(_tell, target))(points)


def _tell(target, q):
    """Everything at one point, from one run of the model."""
    found = target.run_at(q)
    named = [site.name for site in target.layout.latent + target.layout.deterministic]
    prior, likelihood = target.densities(found)
    latent = {site.name: found.sites[site.name] for site in target.layout.latent}
    observed = {site.name: found.sites[site.name] for site in target.layout.observed}
    expected = {name: conditional_moments(site["fn"], jax.random.key(0)) for name, site in observed.items()}
    return {
        "values": {name: found.sites[name]["value"] for name in named},
        "log_likelihood": likelihood,
        "log_density": jnp.where(jnp.isfinite(prior + likelihood), prior + likelihood, -jnp.inf),
        "pointwise": {name: log_prob(site) for name, site in observed.items()},
        "mean": {name: expected[name].mean for name in observed},
        "variance": {name: expected[name].variance for name in observed},
        "scores": {name: normal_scores(site["fn"], site["value"]) for name, site in latent.items()},
        "priors": {name: jax.tree.leaves(site["fn"]) for name, site in latent.items()},
        "prior_slope": _prior_slope(target, q),
        **target.explanation(found),
    }


def _prior_slope(target, q):
    with ode.constant():
        return jax.grad(target.log_prior)(q)


def normal_scores(distribution: dist.Distribution, value: Any) -> Any:
    """`Phi^-1(F(value))`, exact in the tails for normal and log-normal priors; NaN where F is not known.

    ```python
    from bayeshybrid.survey import normal_scores
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
