"""How much the data moved each unknown: contraction on the prior's normal scores."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bayeshybrid.survey import ask, draw_prior
from bayeshybrid.target import Target

PRIOR_DRAWS = 2048

__all__ = ["prior_contraction", "prior_draws", "prior_scores"]


def prior_contraction(
    target: Target, unconstrained: np.ndarray, prior: dict[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """One minus the posterior variance of each unknown on its prior's normal scores.

    `z = Phi^-1(F(theta))` with `F` the prior's distribution function is standard normal before the data, so
    `1 - var(z)` is 0 where the data said nothing and 1 where they said everything; in a linear Gaussian model
    it is one minus the ratio of posterior to prior variance.

    **Arguments:**

    - `unconstrained`: posterior draws `(n, size)`.
    - `prior`: prior draws by name, which stand in for `F` where a prior depends on other unknowns or has no
      closed form; `None` where a prior is improper.

    **Returns:** site name to an array in the site's shape; NaN where the prior cannot be drawn from.

    ```python
    from bayeshybrid.contraction import prior_contraction
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    told = prior_contraction(bh.Target(model, {"y": np.array(0.0)}), np.array([[-0.5], [0.5]]), None)
    assert told["x"] == 0.75
    ```
    """
    return {
        name: 1.0 - np.var(scores, axis=0)
        for name, scores in prior_scores(target, unconstrained, prior).items()
    }


def prior_scores(
    target: Target, unconstrained: np.ndarray, prior: dict[str, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """Each unknown on its prior's normal scores; by ranks among prior draws where these have no formula.

    **Arguments:** as for `prior_contraction`.

    **Returns:** site name to `(draw, ...)`; NaN where the prior cannot be drawn from.

    ```python
    from bayeshybrid.contraction import prior_scores
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0, 2)), 1.0), obs=y)
    told = prior_scores(bh.Target(model, {"y": np.array(0.0)}), np.array([[-1.0], [1.0]]), None)
    assert told["x"].tolist() == [-0.5, 0.5]
    ```
    """
    told = ask(target, unconstrained, ["scores", "priors", "values"])
    found = {}
    for name, scores in told["scores"].items():
        if _constant(told["priors"][name]) and np.all(np.isfinite(scores)):
            found[name] = scores
        elif prior is not None:
            found[name] = _rank_scores(prior[name], told["values"][name])
        else:
            found[name] = np.full(scores.shape, np.nan)
    return found


def prior_draws(target: Target, key: Any, count: int = PRIOR_DRAWS) -> tuple[dict[str, np.ndarray], bool]:
    """Draws of all unknowns from the prior by name, `(count, ...)`, and whether every prior is proper.

    ```python
    from bayeshybrid.contraction import prior_draws
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    drawn, proper = prior_draws(bh.Target(model, {"y": np.array(0.0)}), jax.random.key(0), 500)
    assert proper and abs(drawn["x"].std() - 1.0) < 0.2
    ```
    """
    q, proper = draw_prior(target, key, count)
    values = ask(target, q, ["values"])["values"]
    return {site.name: values[site.name] for site in target.layout.latent}, proper


def _constant(parameters):
    """Whether a prior is the same at all draws."""
    return all(
        np.array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)) for leaf in jax.tree.leaves(parameters)
    )


def _rank_scores(prior, values):
    """Normal scores by the ranks of posterior draws among prior draws, element by element."""
    flat_prior = np.sort(prior.reshape(len(prior), -1), axis=0)
    flat = values.reshape(len(values), -1)
    below = np.stack([np.searchsorted(p, v) for p, v in zip(flat_prior.T, flat.T, strict=True)], axis=1)
    scores = jax.scipy.special.ndtri((below + 0.5) / (len(prior) + 1))
    return np.asarray(scores).reshape(values.shape)
