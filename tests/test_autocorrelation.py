"""Noise with memory agrees with dense normal vectors: whole, with gaps, conditioned, moved, and as information."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeshybrid as bh
from bayeshybrid import noise
from bayeshybrid.data import check_observation, support_in_words
from bayeshybrid.held_out import evaluate
from bayeshybrid.noise_information import COUNTED, MISSING, cell_information
from bayeshybrid.observation import Measured
from bayeshybrid.randomised import perturbation, randomised_density

# Two series of seven cells in no order; the second has one cell less, whose time is padding
TIMES = np.array([[3.0, 0.5, 7.0, 0.6, 2.0, 2.5, 11.0], [0.0, 1.0, 4.0, 2.0, 9.0, 9.5, 9.5]])
REPEATED = np.where(TIMES == 2.5, 2.0, TIMES)
GAPS = np.array([[False, True, False, False, False, False, False], [False] * 6 + [True]])
ASKED = np.array([0.0, 2.0, 5.0, 20.0, 2.0])
MEAN, SD, Y = (np.random.default_rng(i).uniform(low, 1.5, (2, 7)) for i, low in enumerate((-1.0, 0.3, -1.0)))
ASKED_MEAN, ASKED_SD = np.linspace(-1.0, 1.0, 5), np.linspace(0.4, 1.2, 5)
TIMESCALE = np.array([1.7, 4.0])
WHITE = np.array([0.2, 0.05])


def compiled(function, *arguments):
    return jax.tree.map(np.asarray, jax.jit(function)(*arguments))


def kernel(a, b, timescale, white):
    return (1.0 - white) * np.exp(-np.abs(a[:, None] - b[None]) / timescale)


def dense(times, sd, timescale, white):
    correlations = kernel(times, times, timescale, white)
    np.fill_diagonal(correlations, 1.0)
    return correlations * np.outer(sd, sd)


def settings(white):
    return (REPEATED, WHITE) if white else (TIMES, np.zeros(2))


@pytest.mark.parametrize("white", [False, True])
def test_the_density_is_that_of_the_dense_normal_vector_with_gaps_and_without(white):
    times, shares = settings(white)

    def told(parameters):
        mean, sd, timescale, share = parameters
        made = noise.autocorrelated(mean, sd, times, timescale, share if white else 0.0)
        holes = noise.autocorrelated(
            mean, sd, np.where(GAPS, np.nan, times), timescale, share if white else 0.0
        )
        with_gaps = holes.without(GAPS).log_prob(np.where(GAPS, np.nan, Y))
        return jnp.stack([made.without(np.arange(7) > 5).log_prob(Y), with_gaps])

    def by_hand(parameters):
        mean, sd, timescale, share = parameters
        found = np.zeros((2, 2))
        for row, gone in enumerate((np.broadcast_to(np.arange(7) > 5, (2, 7)), GAPS)):
            for i in range(2):
                kept = ~gone[i]
                covariance = dense(times[i][kept], sd[i][kept], timescale[i], share[i])
                found[row, i] = stats.multivariate_normal.logpdf(Y[i][kept], mean[i][kept], covariance)
        return found

    at = (MEAN, SD, TIMESCALE, shares)
    along = (np.cos(MEAN), np.sin(SD), np.array([0.3, -0.5]), np.array([0.1, 0.03]))
    value, slope = compiled(lambda at: jax.jvp(told, (at,), (along,)), at)
    np.testing.assert_allclose(value, by_hand(at), rtol=1e-11)
    if not white:
        along = (*along[:3], np.zeros(2))
    ends = [by_hand([x + h * dx for x, dx in zip(at, along, strict=True)]) for h in (1e-6, -1e-6)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


def test_a_share_of_zero_is_no_white_part():
    def told(share):
        whole = [noise.autocorrelated(MEAN, SD, TIMES, TIMESCALE, one) for one in (0.0, share)]
        return [one.without(GAPS).log_prob(Y) for one in whole]

    exact, filtered = compiled(told, np.zeros(2))
    np.testing.assert_allclose(filtered, exact, rtol=1e-12)


@pytest.mark.parametrize("white", [False, True])
def test_conditioning_is_that_of_the_dense_normal_vector(white, key):
    """At times of the fit too; there the white part is drawn anew. And draws have those means and covariances."""
    times, shares = settings(white)

    def told(share):
        share = share if white else 0.0
        fitted = Measured(noise.autocorrelated(MEAN, SD, times, TIMESCALE, share), missing=GAPS)
        asked = noise.autocorrelated(jnp.stack([ASKED_MEAN] * 2), ASKED_SD, ASKED, TIMESCALE, share)
        known = asked.given(fitted, np.where(GAPS, np.nan, Y))
        logs = known.log_prob(known.mean + 0.3) if white else None
        return known.mean, known.variance, known.sample(key, (5000,)), logs

    mean, variance, draws, logs = compiled(told, WHITE)
    for i in range(2):
        kept = ~GAPS[i]
        seen = dense(times[i][kept], SD[i][kept], TIMESCALE[i], shares[i])
        cross = kernel(ASKED, times[i][kept], TIMESCALE[i], shares[i]) * np.outer(ASKED_SD, SD[i][kept])
        gain = cross @ np.linalg.inv(seen)
        expected = ASKED_MEAN + gain @ (Y[i] - MEAN[i])[kept]
        covariance = dense(ASKED, ASKED_SD, TIMESCALE[i], shares[i]) - gain @ cross.T
        own = np.maximum(np.diag(covariance), 0.0)  # none at a time of the fit
        np.testing.assert_allclose(mean[i], expected, rtol=1e-9)
        np.testing.assert_allclose(variance[i], np.diag(covariance), atol=1e-12)
        error = np.sqrt(np.outer(own, own) + covariance**2) / np.sqrt(5000)
        assert np.all(np.abs(np.cov(draws[:, i].T) - covariance) < 4.5 * error + 1e-12)
        shift = np.abs(draws[:, i].mean(axis=0) - expected)
        assert np.all(shift < 4.5 * np.sqrt(own / 5000) + 1e-9)
        if white:
            np.testing.assert_allclose(
                logs[i], stats.multivariate_normal.logpdf(expected + 0.3, expected, covariance)
            )


def test_draws_have_the_stated_covariance_and_shapes(key):
    def told(mean):
        made = noise.autocorrelated(mean, SD, REPEATED, TIMESCALE, WHITE)
        wide = made.expand((3, 2))
        return (
            made.sample(key, (5000,)),
            wide.sample(key, (4,)),
            wide.log_prob(jnp.zeros((2, 7))),
            made.variance,
        )

    draws, wide, logs, variance = compiled(told, MEAN)
    assert wide.shape == (4, 3, 2, 7)
    assert logs.shape == (3, 2)
    np.testing.assert_allclose(variance, SD**2)
    for i in range(2):
        exact = dense(REPEATED[i], SD[i], TIMESCALE[i], WHITE[i])
        error = np.sqrt(np.outer(np.diag(exact), np.diag(exact)) + exact**2) / np.sqrt(5000)
        assert np.all(np.abs(np.cov(draws[:, i].T) - exact) < 4.5 * error)


def test_two_values_at_one_time_without_a_white_part_are_refused_unless_one_is_missing():
    made = noise.autocorrelated(np.zeros(3), 1.0, np.array([1.0, 1.0, 2.0]), 2.0)

    def program(value):
        alone = noise.autocorrelated(np.zeros(2), 1.0, np.array([1.0, 2.0]), 2.0)
        padded = Measured(made, missing=np.array([False, True, False]))
        logs = made.log_prob(value), padded.log_prob(value), alone.log_prob(value[::2])
        return logs, made.support(value), padded.support(value)

    (log, of_padded, of_two), possible, possible_padded = compiled(program, np.array([0.3, 0.4, 0.0]))
    assert log == -np.inf
    assert np.isclose(of_padded, of_two)
    assert (possible, possible_padded) == (False, True)
    with pytest.raises(bh.DataError, match=r"equal at equal times: give autocorrelated\(..., white=0.1\)"):
        check_observation("y", np.zeros(3), None, np.array(False), support_in_words(made.support))


def test_a_cell_without_noise_is_its_mean_and_tells_the_others_nothing():
    def program(value):
        made = noise.autocorrelated(np.zeros(3), np.array([0.0, 1.0, 1.0]), np.arange(3.0), 2.0)
        alone = noise.autocorrelated(np.zeros(2), 1.0, np.arange(1.0, 3.0), 2.0)
        return made.log_prob(value), made.log_prob(value + 0.1), alone.log_prob(value[1:])

    exact, moved, alone = compiled(program, np.array([0.0, 0.3, 0.1]))
    assert np.isclose(exact, alone)
    assert moved == -np.inf


# In models


def units(times, y=None):
    """Two units in a plate; the noise in proportion, so that it is nought at the start."""
    size = bh.parameter("size", dist.LogNormal(0.0, 1.0))
    timescale = bh.parameter("timescale", dist.LogNormal(0.0, 1.0))
    mean = size * times
    with numpyro.plate("unit", 2):
        bh.observe("y", noise.autocorrelated(mean, 0.2 * mean, times, timescale, 0.1), obs=y, missing=True)


HOURS = np.array([[0.0, 1.0, 2.0, 4.0], [0.0, 2.0, 3.0, 3.0]])
LEVELS = np.array([[0.0, 1.2, np.nan, 4.4], [0.0, 1.7, 3.3, np.nan]])


def test_a_series_in_a_model_has_moments_and_a_finite_slope():
    target = bh.Target(units, {"times": HOURS, "y": LEVELS})
    q = np.log([1.1, 1.5])

    def program(q):
        outcome = target.observations(q)
        kinds = target.explain(q)["kinds"]["y"]
        return target.pointwise(q)["y"], jax.grad(target.log_density)(q), outcome.moments["y"], kinds

    logs, slope, moments, kinds = compiled(program, q)
    for i, log in enumerate(logs):
        kept = (HOURS[i] > 0) & ~np.isnan(LEVELS[i])
        mean = 1.1 * HOURS[i][kept]
        covariance = dense(HOURS[i][kept], 0.2 * mean, 1.5, 0.1)
        assert np.isclose(log, stats.multivariate_normal.logpdf(LEVELS[i][kept], mean, covariance))
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(moments.mean, 1.1 * HOURS)
    np.testing.assert_allclose(moments.variance, (0.22 * HOURS) ** 2)
    assert np.array_equal(kinds == 1, np.isnan(LEVELS))


@pytest.mark.slow
def test_a_forecast_is_held_against_series_with_gaps():
    """Cell by cell by their own distribution functions; the series as a whole without what was not measured."""
    forecast = bh.simulate(units, {"times": HOURS}, key=0, draws=20)
    found = evaluate(forecast, {"y": LEVELS})["y"]
    size, timescale = (forecast.latent[name].draws[0] for name in ("size", "timescale"))
    mean = size * HOURS[0]
    below = stats.norm.cdf(LEVELS[0, 1:], mean[1:], 0.2 * mean[1:])
    np.testing.assert_allclose(found.rows.below[0, 0, [1, 3]], below[[0, 2]])
    kept = [1, 3]
    covariance = dense(HOURS[0][kept], 0.2 * mean[kept], timescale, 0.1)
    expected = stats.multivariate_normal.logpdf(LEVELS[0][kept], mean[kept], covariance)
    assert np.isclose(found.rows.log_probability[0, 0], expected)


@pytest.mark.parametrize("white", [False, True])
def test_information_is_that_of_a_normal_vector(white):
    """`dm' S^-1 dm + tr(S^-1 dS S^-1 dS) / 2`, the slopes by differences (Mardia and Marshall 1984)."""
    times = (REPEATED if white else TIMES)[0]
    at = np.array([1.2, -0.3, 0.4, 0.2 if white else 0.0])

    def rows(p):
        mean = p[0] * jnp.sin(times)
        made = noise.autocorrelated(
            mean, jnp.exp(p[1]) * (1.0 + mean**2), times, jnp.exp(p[2]), p[3] if white else 0.0
        )
        cells = cell_information(Measured(made, missing=GAPS[0]), jnp.zeros(7))
        return cells.parameters[0], cells

    slope, cells = compiled(jax.jacfwd(rows, has_aux=True), at)
    found = slope.T @ cells.information[0] @ slope
    assert cells.told.tolist() == np.where(GAPS[0], MISSING, COUNTED).tolist()

    def moments(p):
        mean = p[0] * np.sin(times[~GAPS[0]])
        return mean, dense(times[~GAPS[0]], np.exp(p[1]) * (1 + mean**2), np.exp(p[2]), p[3])

    used = 4 if white else 3
    ends = [(moments(at + h), moments(at - h)) for h in 1e-6 * np.eye(4)[:used]]
    means, covariances = ([(a[k] - b[k]) / 2e-6 for a, b in ends] for k in (0, 1))
    inverse = np.linalg.inv(moments(at)[1])
    expected = [
        [means[a] @ inverse @ means[b] + 0.5 * np.trace(inverse @ covariances[a] @ inverse @ covariances[b])
         for b in range(used)] for a in range(used)
    ]  # fmt: skip
    np.testing.assert_allclose(found[:used, :used], expected, rtol=1e-6, atol=1e-7)


def line(times, y=None):
    ends = numpyro.sample("ends", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    log_sd = numpyro.sample("log_sd", dist.ImproperUniform(dist.constraints.real, (), ()))
    mean = ends[0] + ends[1] * times
    bh.observe("y", noise.autocorrelated(mean, jnp.exp(log_sd), times, 3.0, 0.3), obs=y, missing=True)


def test_the_optimum_of_a_moved_series_is_a_draw_of_the_posterior(key):
    """By linear algebra on the decorrelated line under flat priors for its ends and the log sd: see `randomised`."""
    times = np.array([2.0, 0.0, 1.0, 5.0, 7.0, 7.0, 9.0])
    y = np.array([1.0, 0.2, 0.9, np.nan, 2.7, 3.3, 3.0])
    target = bh.Target(line, {"times": times, "y": y})
    moved = jax.jit(lambda key: perturbation(target, key))(key)
    kept = np.flatnonzero(~np.isnan(y))
    kept = kept[np.argsort(times[kept], kind="stable")]  # each cell is moved given those before it
    root = np.linalg.inv(np.linalg.cholesky(dense(times[kept], np.ones(6), 3.0, 0.3)))
    design = root @ np.stack([np.ones(6), times[kept]], axis=1)
    e, seen = np.asarray(moved.data["y"])[kept], root @ y[kept]
    left = np.eye(6) - design @ np.linalg.pinv(design)
    sd = np.sqrt(np.sum((left @ seen) ** 2) / np.sum((left @ e) ** 2))
    ends = np.linalg.pinv(design) @ (seen + sd * e)
    slope = jax.jit(jax.grad(lambda q: randomised_density(target, q, moved)[0]))
    assert moved.data["y"].shape == (7,)
    at = dict(zip(("ends", "log_sd"), (ends, np.log(sd)), strict=True))
    np.testing.assert_allclose(slope(target.unconstrain(at)), 0.0, atol=1e-7)


def test_independent_noise_is_overconfident_about_residuals_that_remember():
    """The level of a record of 60 hours whose residuals last 8: how often does the 90 % interval cover?

    The least-squares mean has the sd that the true covariance gives it; each model states its own.
    """
    times = np.arange(60.0)
    truth = dense(times, np.ones(60), 8.0, 0.0)

    def stated(made):
        """The sd that a noise gives to a level common to all means."""
        by_mean, cells = jax.jacfwd(
            lambda level: (cell_information(made(level), jnp.zeros(60)),) * 2, has_aux=True
        )(0.0)
        slope = by_mean.parameters
        return 1.0 / jnp.sqrt(jnp.einsum("ci,cij,cj->", slope, cells.information, slope))

    alone, remembering = compiled(
        lambda one: (
            stated(lambda level: noise.additive(one * level, 1.0)),
            stated(lambda level: noise.autocorrelated(one * level, 1.0, times, 8.0)),
        ),
        np.ones(60),
    )
    weights = np.linalg.solve(truth, np.ones(60))
    weights /= weights.sum()
    actual = [np.sqrt(w @ truth @ w) for w in (np.ones(60) / 60, weights)]
    covered = [
        2 * stats.norm.cdf(1.645 * s / a) - 1 for s, a in zip((alone, remembering), actual, strict=True)
    ]
    assert covered[0] < 0.4
    assert abs(covered[1] - 0.9) < 1e-3
