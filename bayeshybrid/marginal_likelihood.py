"""The evidence for a model: how probable its data were before any of them were seen."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import gammaln, logsumexp

from bayeshybrid import configuration
from bayeshybrid.keys import as_key
from bayeshybrid.posterior import Posterior
from bayeshybrid.survey import ask, draw_prior
from bayeshybrid.verdict import PARAMETERS

FREEDOM = 5.0  # of the Student t that proposes: its tails are heavier than those of most posteriors
PROPOSALS = 2000
MOST_DRAWS = 2000
MOST_UNKNOWNS = 60
FEWEST_DRAWS = 20  # for each unknown, so that half of them give a covariance
LARGEST_ERROR = 0.3  # of the logarithm: above that its own estimate is not to be believed
TURNS, STILL = 200, 1e-8

__all__ = ["Evidence", "log_evidence"]


class Evidence(NamedTuple):
    """The natural logarithm of the marginal likelihood.

    - `value`, `error`: the estimate and its standard error; NaN where it was not assessed.
    - `reason`: why it was not, empty where it was.
    """

    value: float
    error: float
    reason: str = ""

    def __str__(self) -> str:
        return f"not assessed: {self.reason}" if self.reason else f"{self.value:.2f} +/- {self.error:.2f}"


def log_evidence(posterior: Posterior, *, key: Any) -> Evidence:
    """The log marginal likelihood of the data, `log` of the integral of likelihood times prior.

    By bridge sampling (Meng and Wong 1996, "Simulating ratios of normalizing constants via a simple identity", equation
    4.1) between draws of the posterior and of a Student t, fitted to the first half of each chain; draws of the second
    half are weighed. Its error is that of Fruehwirth-Schnatter (2004, "Estimating marginal likelihoods for mixture and
    Markov switching models using bridge sampling techniques", equation 17). Differences between models of the same data
    are log Bayes factors. They depend on the priors of all unknowns, also where the posterior hardly does.

    **Arguments:**

    - `posterior`: draws of a posterior.
    - `key`: an integer or a JAX key.

    **Returns:** an `Evidence`. It is not assessed for what are no draws of a posterior, draws that their verdict does
    not pass, soft constraints (they have no normalising constant), improper priors, weights of networks (draws hold
    some of the ways to say the same), more than 60 unknowns, and where its error is above 0.3.

    ```python
    from bayeshybrid.marginal_likelihood import log_evidence
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=500, warmup=250), key=0)
    assert abs(log_evidence(posterior, key=1).value - (-0.5 * np.log(4 * np.pi) - 1.0)) < 0.05
    ```
    """
    with configuration.scope():
        key = as_key(key)
        reason = _why_not(posterior, key)
        if reason:
            return Evidence(np.nan, np.nan, reason)
        target, draws = posterior.target, posterior.unconstrained
        size, half = target.layout.size, draws.shape[1] // 2
        try:
            proposal = _Student(draws[:, :half].reshape(-1, size))
        except np.linalg.LinAlgError:
            return Evidence(np.nan, np.nan, "the draws do not vary in every direction")
        held = draws[:, half :: max(1, -(-draws[:, half:].size // (size * MOST_DRAWS)))]
        drawn = proposal.draw(np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel()))
        points = np.concatenate([held.reshape(-1, size), drawn])
        ratios = ask(target, points, ["log_density"])["log_density"] - proposal.log_density(points)
    count = held.shape[0] * held.shape[1]
    value, error = _bridged(ratios[:count].reshape(held.shape[:2]), ratios[count:])
    if not error < LARGEST_ERROR:
        return Evidence(
            np.nan, np.nan, f"its error would be {error:.2g}: a Student t is not near this posterior"
        )
    return Evidence(value, error)


def _why_not(posterior, key):
    layout = posterior.target.layout
    count = posterior.unconstrained.shape[0] * posterior.unconstrained.shape[1]
    if posterior.verdict.nature != "draws of the posterior":
        return posterior.verdict.nature
    if layout.soft:
        return f"{layout.soft[0]!r} is a soft constraint"
    if any(site.tag.kind == "weight" for site in layout.latent):
        return "a network has many ways to say the same"
    if layout.size > MOST_UNKNOWNS:
        return f"{layout.size} unknowns are more than {MOST_UNKNOWNS}"
    if count < FEWEST_DRAWS * layout.size:
        return f"{count} draws are too few for {layout.size} unknowns"
    if posterior.verdict[PARAMETERS] not in ("pass", "pass with remarks"):
        return f"the verdict on its draws is {posterior.verdict[PARAMETERS]!r}"
    return "" if draw_prior(posterior.target, key, 1)[1] else "a prior is improper"


class _Student:
    """A multivariate Student t with the mean and covariance of some draws."""

    def __init__(self, draws):
        self.mean, self.size = draws.mean(axis=0), draws.shape[1]
        covariance = np.atleast_2d(np.cov(draws.T)) * (FREEDOM - 2) / FREEDOM
        self.factor = np.linalg.cholesky(covariance)

    def draw(self, generator):
        stretch = np.sqrt(FREEDOM / generator.chisquare(FREEDOM, PROPOSALS))
        white = generator.standard_normal((PROPOSALS, self.size)) * stretch[:, None]
        return self.mean + white @ self.factor.T

    def log_density(self, points):
        white = np.linalg.solve(self.factor, (points - self.mean).T)
        most = (FREEDOM + self.size) / 2
        constant = gammaln(most) - gammaln(FREEDOM / 2) - self.size / 2 * np.log(FREEDOM * np.pi)
        constant = constant - np.sum(np.log(np.diag(self.factor)))
        return constant - most * np.log1p(np.sum(white**2, axis=0) / FREEDOM)


def _bridged(posterior, proposal):
    """The log ratio of normalising constants and its error, from log ratios of densities at draws of either."""
    from arviz_stats.base import array_stats

    count = posterior.size
    share = count / (count + proposal.size)

    def terms(value):
        """At draws of the proposal and of the posterior, up to a common factor: what the identity averages."""
        above, below = (
            np.logaddexp(np.log(share) + x, np.log1p(-share) + value) for x in (proposal, posterior)
        )
        return proposal - above, -below

    value = float(np.median(posterior))
    for _ in range(TURNS):
        first, second = terms(value)
        better = float(logsumexp(first) - np.log(proposal.size) - logsumexp(second) + np.log(count))
        value, moved = better, abs(better - value)
        if moved < STILL:
            break
    else:
        return np.nan, np.inf
    first, second = (np.exp(x - x.max()) for x in terms(value))
    effective = float(np.asarray(array_stats.ess(second, chain_axis=0, draw_axis=1, method="mean")))
    errors = [np.var(x) / np.mean(x) ** 2 / n for x, n in ((first, proposal.size), (second, effective))]
    return value, float(np.sqrt(sum(errors)))
