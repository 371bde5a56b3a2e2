"""Moments agree with closed forms, with draws, and say when there are none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import transforms
from scipy import integrate, stats

from bayeshybrid.moments import conditional_moments, is_category
from bayeshybrid.observation import Measured

LOC = np.array([[-0.5], [0.3], [1.0]])
SCALE = np.array([[0.4, 1.2]])
SHAPE = (3, 2)


def transformed(base, *steps):
    return dist.TransformedDistribution(base, list(steps))


NORMAL = dist.Normal(LOC, SCALE)
AFFINE = transforms.AffineTransform(1.0, -2.0)
# Each has the batch (3, 2), no draw of which is a coincidence
FAMILIES = {
    "log-normal": dist.LogNormal(LOC, SCALE / 2),
    "logit-normal": transformed(NORMAL, transforms.SigmoidTransform()),
    "softplus of normal": transformed(NORMAL, transforms.SoftplusTransform()),
    "exponential of normal": transformed(dist.Normal(LOC, SCALE / 2), transforms.ExpTransform()),
    "one minus an exponential": transformed(dist.Normal(LOC, SCALE / 2), transforms.ExpTransform(), AFFINE),
    "moved Student's t": transformed(dist.StudentT(6.0, LOC, SCALE), AFFINE),
    "normal above": dist.TruncatedNormal(LOC, SCALE, low=0.2),
    "normal below": dist.TruncatedNormal(LOC, SCALE, high=0.2),
    "normal between": dist.TruncatedNormal(LOC, SCALE, low=-0.4, high=0.9),
    "Laplace above": dist.LeftTruncatedDistribution(dist.Laplace(LOC, SCALE), low=0.2),
    "logistic below": dist.RightTruncatedDistribution(dist.Logistic(LOC, SCALE), high=0.2),
    "Cauchy between": dist.TruncatedCauchy(LOC, SCALE, low=-1.0, high=2.0),
    "folded normal": dist.FoldedDistribution(NORMAL),
    "folded Laplace": dist.FoldedDistribution(dist.Laplace(LOC, SCALE)),
    "zero-inflated": dist.ZeroInflatedPoisson(0.3, np.exp(LOC) * SCALE),
    "zero-inflated overdispersed": dist.ZeroInflatedNegativeBinomial2(np.exp(LOC) * SCALE, 3.0, gate=0.3),
    "angle": dist.VonMises(LOC, 3.0 * SCALE),
    "Gompertz": dist.Gompertz(np.exp(LOC), SCALE),
    "mixture": dist.MixtureSameFamily(
        dist.Categorical(np.broadcast_to([0.3, 0.7], (*SHAPE, 2))),
        dist.Normal(np.stack(np.broadcast_arrays(LOC, LOC + 2.0 * SCALE), axis=-1), 0.5),
    ),
    "independent cells": NORMAL.to_event(2),
    "repeated": dist.Normal(0.5, 1.5).expand(SHAPE),
    "counts": dist.NegativeBinomial2(np.exp(LOC), 2.0 * SCALE),
}


@pytest.mark.rank_promotion_allowed("numpyro's own samplers broadcast parameters of unequal rank")
@pytest.mark.parametrize("name", FAMILIES)
def test_moments_are_those_of_many_draws(name, key):
    distribution = FAMILIES[name]
    found = conditional_moments(distribution, key)
    count = 20_000
    draws = np.asarray(distribution.sample(key, (count,)), float)
    assert found.mean.shape == found.variance.shape == found.error.shape == SHAPE
    assert np.all(np.asarray(found.error) == 0.0)
    assert found.probabilities is None
    assert np.all(np.abs(found.mean - draws.mean(axis=0)) < 5.0 * draws.std(axis=0) / np.sqrt(count))
    centred = (draws - draws.mean(axis=0)) ** 2
    assert np.all(np.abs(found.variance - centred.mean(axis=0)) < 5.0 * centred.std(axis=0) / np.sqrt(count))


@pytest.mark.parametrize("name", ["logit-normal", "moved Student's t", "folded normal", "angle", "mixture"])
def test_moments_can_be_compiled_and_mapped(name, key):
    """A forecast asks for them inside `jit` and `vmap`, where nothing can be decided by value."""
    told = jax.jit(lambda: conditional_moments(FAMILIES[name], key))()
    mapped = jax.vmap(lambda k: conditional_moments(FAMILIES[name], k))(jax.random.split(key, 2))
    assert np.allclose(told.mean, mapped.mean[1], rtol=1e-12)


def test_quadrature_agrees_with_the_closed_form_of_the_log_normal(key):
    by_quantiles = conditional_moments(FAMILIES["exponential of normal"], key)
    exact = conditional_moments(FAMILIES["log-normal"], key)
    assert np.allclose(by_quantiles.mean, exact.mean, rtol=1e-9)
    assert np.allclose(by_quantiles.variance, exact.variance, rtol=1e-7)


def test_the_logit_normal_agrees_with_adaptive_integration(key):
    found = conditional_moments(FAMILIES["logit-normal"], key)
    for (i, j), mean in np.ndenumerate(np.asarray(found.mean)):

        def moment(power, i=i, j=j):
            density = stats.norm(LOC[i, 0], SCALE[0, j]).pdf
            return integrate.quad(
                lambda x: (1 / (1 + np.exp(-x))) ** power * density(x), -12, 12, epsabs=1e-13
            )[0]

        assert abs(mean - moment(1)) < 1e-9
        assert abs(found.variance[i, j] - (moment(2) - moment(1) ** 2)) < 1e-9


def test_the_folded_normal_agrees_with_its_closed_form(key):
    """Leone, Nelson and Nottingham (1961), "The folded normal distribution", Technometrics 3."""
    loc, scale = np.array([-900.0, -3.0, -0.5, 0.0, 0.2, 40.0]), 1.3
    found = conditional_moments(dist.FoldedDistribution(dist.Normal(loc, scale)), key)
    exact = stats.foldnorm(np.abs(loc) / scale, scale=scale).mean()
    assert np.allclose(found.mean, exact, rtol=1e-9)
    assert np.allclose(found.variance, loc**2 + scale**2 - exact**2, atol=1e-6)


def test_the_truncated_cauchy_agrees_with_integration(key):
    found = conditional_moments(dist.TruncatedCauchy(0.0, 1.0, low=-1.0, high=2.0), key)
    mass = np.arctan(2.0) - np.arctan(-1.0)
    mean = 0.5 * np.log(5.0 / 2.0) / mass
    assert abs(found.mean - mean) < 1e-6
    assert abs(found.variance - (3.0 / mass - 1.0 - mean**2)) < 1e-6


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Cauchy(np.zeros(2), 1.0),
        dist.HalfCauchy(np.ones(2)),
        dist.Cauchy(np.zeros(2), 1.0).to_event(1),
        Measured(dist.Cauchy(np.zeros(2), 1.0), missing=np.array([True, False])),
        dist.StudentT(np.array([0.5, 1.0]), 0.0, 1.0),
        dist.TruncatedCauchy(np.zeros(2), 1.0, low=-1.0),
        transformed(dist.Cauchy(np.zeros(2), 1.0), AFFINE),
        dist.FoldedDistribution(dist.Cauchy(np.zeros(2), 1.0)),
        transformed(dist.Cauchy(np.zeros(2), 1.0), transforms.ExpTransform()),
    ],
    ids=lambda d: type(d).__name__,
)
def test_what_has_no_moments_says_so(distribution, key):
    found = conditional_moments(distribution, key)
    assert found.mean.shape == (2,)
    assert np.all(np.isnan(found.mean))
    assert np.all(np.isnan(found.variance))


def test_an_infinite_variance_is_infinite(key):
    found = conditional_moments(dist.StudentT(np.array([1.5, 2.0, 5.0]), 3.0, 2.0), key)
    assert np.all(np.asarray(found.mean) == 3.0)
    assert np.isinf(found.variance).tolist() == [True, True, False]
    assert abs(found.variance[2] - 20.0 / 3.0) < 1e-12
    assert np.isinf(conditional_moments(dist.Pareto(1.0, 1.5), key).variance)


@pytest.mark.parametrize("wrap", ["plain", "measured", "independent", "repeated"])
def test_classes_have_probabilities(wrap, key):
    probabilities = np.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
    distribution = {
        "plain": lambda: dist.Categorical(probabilities),
        "measured": lambda: Measured(dist.Categorical(probabilities), missing=np.array([True, False])),
        "independent": lambda: dist.Categorical(probabilities).to_event(1),
        "repeated": lambda: dist.Categorical(probabilities).expand((4, 2)),
    }[wrap]()
    found = conditional_moments(distribution, key)
    assert is_category(distribution)
    assert found.mean.shape == distribution.shape()
    assert np.allclose(found.probabilities, np.broadcast_to(probabilities, (*distribution.shape(), 3)))
    assert np.allclose(found.mean[..., 0], 1.3)
    assert np.allclose(found.variance[..., 0], 0.3 + 4 * 0.5 - 1.3**2)


def test_ordered_classes_have_probabilities(key):
    cuts = np.array([-1.0, 0.5])
    found = conditional_moments(dist.OrderedLogistic(np.array([0.3, -2.0]), cuts), key)
    below = 1.0 / (1.0 + np.exp(-(cuts[None] - np.array([[0.3], [-2.0]]))))
    expected = np.diff(np.concatenate([np.zeros((2, 1)), below, np.ones((2, 1))], axis=1), axis=1)
    assert np.allclose(found.probabilities, expected)
    assert not is_category(dist.Bernoulli(0.3))


@pytest.mark.parametrize(
    "distribution",
    [
        Measured(dist.Normal(1.0, 2.0), left=np.array([True, False])),
        dist.LeftCensoredDistribution(dist.Normal(np.full(2, 1.0), 2.0), np.array([1, 0])),
        dist.RightCensoredDistribution(dist.Normal(np.full(2, 1.0), 2.0), np.array([1, 0])),
    ],
    ids=lambda d: type(d).__name__,
)
def test_what_is_censored_is_forecast_as_if_it_were_not(distribution, key):
    found = conditional_moments(distribution, key)
    assert np.array_equal(found.mean, np.full(2, 1.0))
    assert np.array_equal(found.variance, np.full(2, 4.0))


def test_events_have_the_moments_of_their_entries(key):
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    found = conditional_moments(dist.MultivariateNormal(np.arange(2.0), covariance).expand((3,)), key)
    assert np.allclose(found.mean, [[0.0, 1.0]] * 3)
    assert np.allclose(found.variance, [[2.0, 1.0]] * 3)


class Steps(dist.Distribution):
    """Whole numbers by draws alone: neither moments nor quantiles."""

    support = dist.constraints.nonnegative_integer

    def sample(self, key, sample_shape=()):
        return jax.random.poisson(key, 4.0, (*sample_shape, *self.batch_shape))


def test_draws_stand_in_with_their_error(key):
    found = conditional_moments(Steps(batch_shape=(2000,)), key)
    assert np.all(np.asarray(found.error) > 0)
    standardised = (np.asarray(found.mean) - 4.0) / np.asarray(found.error)
    assert 0.95 < standardised.std() < 1.15
    assert abs(np.asarray(found.variance).mean() - 4.0) < 0.15


class Quantiles(Steps):
    """Whole numbers with quantiles, which are steps that no quadrature in a few points gets right."""

    def icdf(self, q):
        return jnp.floor(10.0 * q)


def test_steps_are_not_integrated(key):
    assert conditional_moments(Quantiles(batch_shape=(2,)), key).error[0] > 0


def test_a_family_that_numpyro_cannot_draw_is_no_error(key):
    """It asks for another package, and a fit that never forecasts must not stop at that."""
    found = conditional_moments(dist.LeftTruncatedDistribution(dist.StudentT(5.0, 0.0, 1.0), low=1.0), key)
    assert np.isnan(found.mean)
