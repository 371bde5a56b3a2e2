"""What is left over as a Gaussian process: against regression in closed form, and what its forecasts do."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh

LENGTH, SIZE, NOISE = 1.5, 1.0, 0.2


def left_over(x, y=None):
    length = dist.LogNormal(np.log(LENGTH), 0.001)
    delta = bh.discrepancy("left", 0.0, 10.0, length=length, scale=1.0)
    bh.observe("y", dist.Normal(delta(x[:, None])[:, 0], NOISE), obs=y)


def kernel(a, b, size=SIZE):
    return size**2 * np.exp(-0.5 * ((a[:, None] - b[None]) / LENGTH) ** 2)


def test_under_the_prior_its_covariance_is_the_stated_one():
    """Given its size, which is half-normal with mean square 1."""
    x = np.linspace(0.0, 10.0, 9)
    draws = bh.simulate(left_over, {"x": x}, key=0, draws=8000).observed["y"].draws
    np.testing.assert_allclose(np.cov(draws.T), kernel(x, x) + NOISE**2 * np.eye(9), atol=0.09)


def test_its_posterior_is_that_of_regression_in_closed_form():
    """At the posterior mean size; mean and sd of the function, within the data, beside and away from them."""
    x = np.array([0.5, 1.0, 1.8, 2.5, 3.5, 4.0, 4.4, 5.0])
    y = np.sin(x) + 0.1 * np.cos(7 * x)
    posterior = bh.infer(left_over, {"x": x, "y": y}, key=0, target_ess=4000)
    at = np.array([0.7, 3.0, 5.5, 9.0])
    forecast = posterior.predict({"x": at}, key=1)
    means, variances = [], []
    for size in posterior.samples["left_size"].ravel()[::20]:
        both = kernel(at, x, size)
        gain = both @ np.linalg.inv(kernel(x, x, size) + NOISE**2 * np.eye(len(x)))
        means.append(gain @ y)
        variances.append(size**2 - np.sum(gain * both, axis=1))
    mean, variance = np.mean(means, axis=0), np.mean(variances, axis=0) + np.var(means, axis=0)
    np.testing.assert_allclose(forecast.observed["y"].mean, mean, atol=0.05)
    np.testing.assert_allclose(forecast.epistemic["y"], variance, rtol=0.12, atol=2e-3)


def test_it_has_a_row_of_its_own_in_the_budget():
    """A line that is wrong by a bump: what the equation's parameters leave to doubt, and what the bump does."""
    x = np.linspace(0.0, 6.0, 25)
    y = 0.5 * x + np.exp(-((x - 3.0) ** 2)) + 0.05 * np.random.default_rng(0).standard_normal(25)

    def model(x, y=None):
        slope = bh.parameter("slope", dist.Normal(0.0, 1.0))
        bump = bh.discrepancy("bump", 0.0, 12.0, length=bh.prior_interval(0.8, 2.0), scale=0.5, unit="mg")
        bh.observe("y", dist.Normal(slope * x + bump(x[:, None])[:, 0], 0.05), obs=y)

    posterior = bh.infer(model, {"x": x, "y": y}, key=0)
    assert posterior.verdict["scientific parameters"] != "fail"
    near, far = (bh.uncertainty.budget(posterior.predict({"x": np.array([at])}, key=1)) for at in (3.0, 11.0))
    assert "bump" in far.rows
    assert far.rows["bump"] > 30 * near.rows["bump"]


def test_beyond_its_range_it_stays_as_at_the_border():
    forecast = bh.simulate(left_over, {"x": np.array([10.0, 14.0])}, key=0, draws=50)
    said = forecast.conditional["y"][0]
    np.testing.assert_allclose(said[..., 0], said[..., 1])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"low": 1.0, "high": 1.0}, "must lie below"),
        ({"scale": 0.0}, "scale = 0.0 must be above zero"),
        ({"length": dist.LogNormal(np.log(0.01), 0.1)}, "terms, over 200"),
    ],
)
def test_ranges_and_scales_that_cannot_be_are_refused(given, told):
    def model(x):
        settings = {"low": 0.0, "high": 10.0, "length": dist.LogNormal(0.0, 0.1), "scale": 1.0} | given
        bh.discrepancy("left", settings.pop("low"), settings.pop("high"), **settings)(jnp.ones((1, 1)))

    with pytest.raises(bh.ModelError, match=told):
        bh.simulate(model, {"x": np.ones(1)}, key=0, draws=2)
