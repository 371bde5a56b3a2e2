"""The evidence against algebra, and where it is not assessed."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.marginal_likelihood import LARGEST_ERROR, _bridged, log_evidence
from tests.problems import LINEAR_X, LINEAR_Y, linear, linear_answer


@pytest.fixture(scope="module")
def fitted():
    return bh.infer(linear, {"x": LINEAR_X, "y": LINEAR_Y}, bh.NUTS(draws=500, warmup=250), key=0)


def test_the_evidence_of_a_linear_model_is_that_of_algebra(fitted):
    _, _, expected = linear_answer()
    found = log_evidence(fitted, key=1)
    assert found.reason == ""
    assert found.error < 0.02
    assert abs(found.value - expected) < 4 * found.error


def test_its_error_is_that_of_repetitions(fitted):
    found = [log_evidence(fitted, key=key) for key in range(20)]
    ratio = np.std([each.value for each in found]) / np.mean([each.error for each in found])
    assert 0.6 < ratio < 1.6


def test_bounded_unknowns_keep_their_constants():
    """A rate with an exponential prior and one count: the evidence of no count in two hours is 1 / (1 + 2)."""

    def model(count=None):
        rate = numpyro.sample("rate", dist.Exponential(1.0))
        numpyro.sample("count", dist.Poisson(2.0 * rate), obs=count)

    posterior = bh.infer(model, {"count": np.array(0)}, bh.NUTS(draws=1000, warmup=500), key=0)
    found = log_evidence(posterior, key=0)
    assert abs(found.value + np.log(3.0)) < max(4 * found.error, 0.01)


def soft(y=None):
    x = numpyro.sample("x", dist.Normal())
    numpyro.factor("near", -(x**2))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


def with_network(y=None):
    missing = bh.network("missing", bh.MLP(1, 1, width=2), scale=1.0, center=0.0, spread=1.0)
    numpyro.sample("y", dist.Normal(missing(jnp.ones((1, 1)))[0, 0], 1.0), obs=y)


def apart(y=None):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    numpyro.sample(
        "y", dist.Normal(100.0 * jnp.abs(x), 0.01).to_event(1), obs=None if y is None else y * jnp.ones(3)
    )


def test_draws_that_their_verdict_does_not_pass_have_none(fitted):
    short = bh.infer(linear, {"x": LINEAR_X, "y": LINEAR_Y}, bh.NUTS(chains=1, draws=50, warmup=50), key=0)
    assert "the verdict on its draws is 'not assessable'" in str(log_evidence(short, key=0))
    still = dataclasses.replace(fitted, unconstrained=np.zeros_like(fitted.unconstrained))
    assert "do not vary" in str(log_evidence(still, key=0))


def test_a_proposal_that_misses_the_posterior_has_a_large_error(generator):
    """Log ratios of two densities that hardly overlap; of two that do the error is small."""
    far = _bridged(generator.normal(30.0, 8.0, (4, 500)), generator.normal(-30.0, 8.0, 2000))
    near = _bridged(generator.normal(0.1, 0.3, (4, 500)), generator.normal(-0.1, 0.3, 2000))
    assert not far[1] < LARGEST_ERROR
    assert near[1] < 0.05


@pytest.mark.parametrize(
    ("model", "method", "words"),
    [
        (soft, bh.NUTS(draws=200, warmup=200), "soft constraint"),
        (with_network, bh.NUTS(draws=100, warmup=100), "many ways to say the same"),
        (soft, bh.DeepEnsemble(members=8, steps=20), "not draws of a posterior"),
        (apart, bh.NUTS(draws=200, warmup=200), "the verdict on its draws"),
    ],
)
def test_where_it_is_not_assessed_it_says_why(model, method, words):
    posterior = bh.infer(model, {"y": np.array(0.5)}, method, key=0)
    found = log_evidence(posterior, key=0)
    assert np.isnan(found.value)
    assert words in str(found)
