"""Where the randomised densities have their zero slope, against linear algebra."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose

import bayeshybrid as bh
from bayeshybrid.observation import Measured
from bayeshybrid.randomised import perturbation, randomised_density, unscored
from tests.problems import LINEAR_NOISE, LINEAR_X, LINEAR_Y, linear


def slope(target, q, moved):
    return np.asarray(jax.grad(lambda q: randomised_density(target, q, moved)[0])(jnp.asarray(q)))


def test_the_optimum_of_a_linear_model_is_that_of_the_moved_data_and_prior(key):
    target = bh.Target(linear, {"x": LINEAR_X, "y": LINEAR_Y})
    moved = perturbation(target, key)
    precision = np.eye(2) + LINEAR_X.T @ LINEAR_X / LINEAR_NOISE**2
    y = LINEAR_Y + LINEAR_NOISE * np.asarray(moved.data["y"])
    optimum = np.linalg.solve(precision, moved.prior["w"] + LINEAR_X.T @ y / LINEAR_NOISE**2)
    assert np.abs(slope(target, optimum, moved)).max() < 1e-9
    assert np.abs(slope(target, optimum, perturbation(target, key, randomise=False))).max() > 1.0


def test_nothing_is_moved_without_randomising(key):
    target = bh.Target(linear, {"x": LINEAR_X, "y": LINEAR_Y})
    plain = perturbation(target, key, randomise=False)
    q = np.array([0.3, -0.4])
    value, held_out = randomised_density(target, jnp.asarray(q), plain)
    constant = np.sum(dist.Normal(0.0, 1.0).log_prob(0.0)) * 2
    assert_allclose(value + constant, target.log_density(jnp.asarray(q)), rtol=1e-12)
    assert held_out == 0.0


def shapes_of_noise(by, y=None):
    """A mean under noise of many kinds."""
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    size = numpyro.sample("size", dist.LogNormal(0.0, 1.0))
    noises = {
        "normal": lambda: dist.Normal(mean, size),
        "to_event": lambda: dist.Normal(mean * jnp.ones(3), size).to_event(1),
        "log-normal": lambda: dist.LogNormal(mean, size),
        "student": lambda: dist.StudentT(4.0, mean, size),
        "masked": lambda: dist.Normal(mean, size).mask(np.array([True, False, True])),
        "gamma": lambda: dist.Gamma(2.0, jnp.exp(-mean)),
        "multivariate": lambda: dist.MultivariateNormal(mean * jnp.ones(3), size * jnp.eye(3)),
        "missing": lambda: Measured(dist.Normal(mean, size), missing=np.array([True, False, False])),
    }
    numpyro.sample("y", noises[by](), obs=y)


@pytest.mark.parametrize(
    "by", ["normal", "to_event", "log-normal", "student", "masked", "gamma", "multivariate", "missing"]
)
def test_the_slope_in_the_location_is_that_of_the_value(by, key):
    """By differences; only the size of the noise is learnt from another term than the value."""
    target = bh.Target(partial(shapes_of_noise, by), {"y": np.array([0.5, 1.0, 2.5])})
    moved = perturbation(target, key)
    q = jnp.array([0.3, 0.2])
    step = 1e-6 * jnp.eye(2)[0]
    difference = (
        randomised_density(target, q + step, moved)[0] - randomised_density(target, q - step, moved)[0]
    ) / 2e-6
    assert_allclose(slope(target, q, moved)[0], difference, rtol=1e-6)
    assert moved.data["y"].shape == (3,)


@pytest.mark.parametrize("by", ["masked", "missing"])
def test_what_was_not_measured_moves_nothing(by, key):
    target = bh.Target(partial(shapes_of_noise, by), {"y": np.array([0.5, 1.0, 2.5])})
    moved = perturbation(target, key)
    hidden = 1 if by == "masked" else 0
    louder = moved._replace(data={"y": moved.data["y"].at[hidden].add(10.0)})
    q = jnp.array([0.3, 0.2])
    assert_allclose(slope(target, q, louder), slope(target, q, moved), rtol=1e-12)
    louder = moved._replace(data={"y": moved.data["y"].at[2].add(10.0)})
    assert np.abs(slope(target, q, louder) - slope(target, q, moved)).max() > 1.0


def counts(y):
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 2.0))
    numpyro.sample("y", dist.Poisson(rate).expand([len(y)]), obs=y)


def test_counts_are_weighted_instead_of_moved(key):
    """The weighted mean is where the slope of a Poisson likelihood vanishes."""
    y = np.array([3, 5, 1, 0, 4])
    target = bh.Target(counts, {"y": y})
    moved = perturbation(target, key)
    assert "y" not in moved.data
    weights = np.asarray(moved.weights["y"])
    flat = moved._replace(prior={"rate": moved.prior["rate"] * 0})
    q = np.log(np.sum(weights * y) / np.sum(weights))
    assert_allclose(slope(target, np.array([q]), flat), -q / 4.0, atol=1e-9)


def shares(y):
    parts = numpyro.sample("parts", dist.Dirichlet(jnp.ones(3)))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(parts, spread), obs=y)


def test_a_prior_without_a_distribution_function_stays_as_it_is(key):
    target = bh.Target(shares, {"y": np.array([0.2, 0.3, 0.5])})
    assert unscored(target) == ("parts",)
    moved = perturbation(target, key)
    assert set(moved.prior) == {"spread"}
    assert np.all(np.isfinite(slope(target, np.array([0.1, -0.2, 0.3]), moved)))


def test_held_out_rows_train_nothing_and_are_scored(key):
    target = bh.Target(linear, {"x": LINEAR_X, "y": LINEAR_Y})
    kept = np.ones(12)
    kept[3:6] = 0.0
    moved = perturbation(target, key)._replace(kept={"y": jnp.asarray(kept)})
    q = jnp.array([0.2, -0.9])
    short = bh.Target(linear, {"x": LINEAR_X[kept > 0], "y": LINEAR_Y[kept > 0]})
    fewer = perturbation(short, key)._replace(prior=moved.prior, data={"y": moved.data["y"][kept > 0]})
    assert_allclose(
        randomised_density(target, q, moved)[0], randomised_density(short, q, fewer)[0], rtol=1e-12
    )
    pointwise = np.asarray(target.pointwise(q)["y"])
    assert_allclose(randomised_density(target, q, moved)[1], pointwise[3:6].sum(), rtol=1e-12)
