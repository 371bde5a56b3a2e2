"""Contraction is the algebra where there is one, ranks where a prior moves, and nothing where there is no prior."""

from __future__ import annotations

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.contraction import prior_contraction, prior_draws
from tests.posteriors import from_draws


def with_moments(generator, count, mean, covariance):
    """Draws whose mean and covariance (ddof 0) are exactly these."""
    draws = generator.normal(size=(count, len(mean)))
    draws = draws - draws.mean(axis=0)
    draws = draws @ np.linalg.inv(np.linalg.cholesky(draws.T @ draws / count)).T
    return draws @ np.linalg.cholesky(covariance).T + mean


DESIGN = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 0.01]])
WIDTH = np.array([2.0, 0.3])


def linear(y=None):
    x = numpyro.sample("x", dist.Normal(1.0, WIDTH).to_event(1))
    return bh.observe("y", dist.Normal(DESIGN @ x, 0.7), obs=y)


def test_a_linear_gaussian_model_gives_the_algebra(generator):
    posterior = np.linalg.inv(DESIGN.T @ DESIGN / 0.49 + np.diag(1 / WIDTH**2))
    draws = with_moments(generator, 400, np.array([3.0, -1.0]), posterior)
    told = prior_contraction(bh.Target(linear, {"y": np.zeros(4)}), draws, None)
    expected = 1.0 - np.diag(posterior) / WIDTH**2
    assert 0.05 < expected[1] < 0.5 < expected[0] < 0.99
    assert np.allclose(told["x"], expected, rtol=0, atol=1e-12)


def test_draws_of_the_prior_itself_have_none(key):
    target = bh.Target(linear, {"y": np.zeros(4)})
    told = prior_contraction(
        target, np.asarray(jax.vmap(target.draw_prior)(jax.random.split(key, 4000))[0]), None
    )
    assert np.all(np.abs(told["x"]) < 0.1)


def positive(y=None):
    rate = numpyro.sample("rate", dist.LogNormal(1.0, 2.0))
    scale = numpyro.sample("scale", dist.Gamma(3.0, 2.0))
    return numpyro.sample("y", dist.Normal(rate, scale), obs=y)


def test_skewed_priors_are_compared_on_their_normal_scores(generator):
    target = bh.Target(positive, {"y": np.array(1.0)})
    scores = with_moments(generator, 300, np.zeros(2), np.diag([0.25, 0.5]))
    from scipy import stats

    rate = np.exp(1.0 + 2.0 * scores[:, 0])
    scale = stats.gamma(3.0, scale=0.5).ppf(stats.norm.cdf(scores[:, 1]))
    told = prior_contraction(target, np.log(np.stack([rate, scale], axis=1)), None)
    assert abs(told["rate"] - 0.75) < 1e-12
    assert abs(told["scale"] - 0.5) < 1e-7


def nested(y=None):
    centre = numpyro.sample("centre", dist.Normal(0.0, np.sqrt(3.0)))
    x = numpyro.sample("x", dist.Normal(centre, 1.0))
    return numpyro.sample("y", dist.Normal(x, 0.5), obs=y)


def test_a_prior_that_depends_on_other_unknowns_is_known_by_its_draws(generator):
    """The prior of x is normal with variance 4; about `centre` alone it would be 1."""
    gain = np.array([0.0, 1.0])
    prior = np.array([[3.0, 3.0], [3.0, 4.0]])
    posterior = np.linalg.inv(np.linalg.inv(prior) + np.outer(gain, gain) / 0.25)
    draws = with_moments(generator, 4000, np.array([0.5, 0.7]), posterior)
    target = bh.Target(nested, {"y": np.array(0.7)})
    drawn, proper = prior_draws(target, jax.random.key(1))
    assert proper
    told = prior_contraction(target, draws, drawn)
    assert abs(told["x"] - (1.0 - posterior[1, 1] / 4.0)) < 0.015
    assert abs(told["centre"] - (1.0 - posterior[0, 0] / 3.0)) < 1e-12
    conditional = np.var(draws[:, 1] - draws[:, 0])
    assert abs((1.0 - conditional) - told["x"]) > 0.1


def simplex(y=None):
    shares = numpyro.sample("shares", dist.Dirichlet(np.ones(3)))
    return numpyro.sample("y", dist.Normal(shares[0], 0.1), obs=y)


@pytest.mark.slow
def test_a_prior_without_a_distribution_function_is_known_by_its_draws(key):
    target = bh.Target(simplex, {"y": np.array(0.2)})
    drawn, _ = prior_draws(target, key, 2000)
    q = np.asarray(jax.vmap(target.draw_prior)(jax.random.split(jax.random.key(5), 2000))[0])
    assert np.all(np.abs(prior_contraction(target, q, drawn)["shares"]) < 0.15)
    assert np.all(prior_contraction(target, 0.2 * q, drawn)["shares"] > 0.8)
    assert np.all(np.isnan(prior_contraction(target, q, None)["shares"]))


def half_improper(y=None):
    level = numpyro.sample("level", dist.ImproperUniform(dist.constraints.real, (), ()))
    below = numpyro.sample("below", dist.Normal(level, 1.0))
    apart = numpyro.sample("apart", dist.Normal(0.0, 2.0))
    return numpyro.sample("y", dist.Normal(below + apart, 1.0), obs=y)


@pytest.fixture
def improper(generator):
    return from_draws(half_improper, {"y": np.array(0.0)}, generator.normal(size=(4, 50, 3)))


def test_an_improper_prior_has_no_contraction_nor_what_depends_on_it(improper):
    told = improper.contraction
    assert np.isnan(told["level"])
    assert np.isnan(told["below"])
    assert abs(told["apart"] - (1.0 - improper["apart"].var() / 4.0)) < 1e-12


def test_a_student_prior_has_a_contraction(generator):
    def heavy(y=None):
        numpyro.sample("x", dist.StudentT(3.0, 0.0, 1.0))
        return numpyro.sample("y", dist.Normal(), obs=y)

    told = prior_contraction(
        bh.Target(heavy, {"y": np.array(0.0)}), 0.1 * generator.normal(size=(50, 1)), None
    )
    assert 0.95 < told["x"] < 1.0
