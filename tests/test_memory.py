"""Noise with a memory goes on from the residuals of the fit."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from posteriors import from_draws

import bayeshybrid as bh
from bayeshybrid.held_out import evaluate

TIMES, LATER = np.array([0.0, 1.0, 2.5]), np.array([2.0, 3.0, 6.0])
DATA = np.array([0.2, 1.5, 0.9])
SD, SCALE = 0.8, 2.0


def level(times, y=None):
    mean = bh.parameter("mean", dist.Normal(0.0, 1.0))
    noise = bh.noise.autocorrelated(mean * jnp.ones(len(times)), SD, times, SCALE)
    bh.observe("y", noise, obs=y, unit="m")


@pytest.fixture(scope="module")
def posterior():
    draws = np.random.default_rng(0).normal(0.5, 0.2, (2, 200, 1))
    return from_draws(level, {"times": TIMES, "y": DATA}, draws)


def _covariance(a, b):
    return SD**2 * np.exp(-np.abs(a[:, None] - b[None]) / SCALE)


def test_a_forecast_goes_on_from_the_residuals(posterior):
    """Against dense Gaussian conditioning (Rasmussen and Williams 2006, equations 2.22 to 2.24), draw by draw."""
    forecast = posterior.predict({"times": LATER}, key=0)
    assert forecast.remembers == ("y",)
    weights = _covariance(LATER, TIMES) @ np.linalg.inv(_covariance(TIMES, TIMES))
    level = posterior["mean"][:, None]
    mean, variance = (x[:, 0] for x in forecast.conditional["y"])
    np.testing.assert_allclose(mean, level + (DATA - level) @ weights.T, rtol=1e-9)
    expected = np.diag(_covariance(LATER, LATER) - weights @ _covariance(TIMES, LATER))
    np.testing.assert_allclose(variance, np.broadcast_to(expected, mean.shape), rtol=1e-9)
    z = (forecast.observed["y"].draws - mean) / np.sqrt(variance)
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 0.1


def test_replicated_data_are_not_conditioned_on_themselves(posterior):
    again = posterior.predict(key=0)
    assert again.remembers == ()
    np.testing.assert_allclose(again.conditional["y"][1], SD**2)


def test_under_other_conditions_the_memory_is_gone_and_that_is_said(posterior):
    changed = posterior.predict({"times": LATER}, key=0, change={"mean": lambda v: v + 1.0})
    assert changed.remembers == ()
    assert any("has a memory" in remark for remark in changed.remarks)
    np.testing.assert_allclose(changed.conditional["y"][1], SD**2)


def test_measured_values_meet_the_conditioned_forecast(posterior):
    forecast = posterior.predict({"times": LATER}, key=0)
    measured = forecast.conditional["y"][0].mean(axis=(0, 1))
    told = evaluate(forecast, {"y": measured})["y"].rows.log_probability
    mean = forecast.conditional["y"][0][:, 0]
    weights = _covariance(LATER, TIMES) @ np.linalg.inv(_covariance(TIMES, TIMES))
    joint = _covariance(LATER, LATER) - weights @ _covariance(TIMES, LATER)
    each = dist.MultivariateNormal(mean, joint).log_prob(measured[None])
    np.testing.assert_allclose(np.squeeze(told), each, rtol=1e-9)
