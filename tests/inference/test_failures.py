"""A model of which a tenth of prior draws cannot be solved: the posterior given that it can, and no fuss."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest
from arviz_stats.base import array_stats

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.survey import draw_prior
from tests.problems import PROBLEMS, exploding_quantiles

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
METHOD = bh.NUTS(draws=2000, warmup=500)


@pytest.fixture(scope="module")
def posterior(fit: Callable[..., bh.Posterior]) -> bh.Posterior:
    return fit("exploding", METHOD)


def test_the_posterior_is_the_one_given_that_the_model_can_be_solved(posterior):
    rate = posterior.samples["rate"]
    for level, exact in zip(LEVELS, exploding_quantiles(LEVELS), strict=True):
        error = array_stats.mcse(rate, method="quantile", prob=level)
        assert abs(np.quantile(rate, level) - exact) < 4 * error
    assert 0.95 < rate.max() < 1.0  # it reaches up to the pole, and no further


def test_failures_are_counted_by_reason_and_apart_from_divergences(posterior):
    failed = posterior.statistics["failed"]
    assert failed.dtype == posterior.statistics["diverging"].dtype == bool
    assert 0.1 < failed.mean() < 0.4
    assert not np.any(posterior.statistics["diverging"])
    assert sum(posterior.failures.values()) >= failed.sum()  # those of the warm-up are counted too
    assert max(posterior.failures, key=lambda why: posterior.failures[why]).startswith("path: ")
    assert any("max_steps" in why for why in posterior.failures)


def test_the_verdict_is_a_pass_with_remarks_that_names_the_edge(posterior):
    checks = {check.name: check for check in posterior.verdict.checks}
    assert posterior.verdict.state == "pass with remarks"
    assert checks["failed solves"].state == "pass with remarks"
    assert checks["failed solves"].remedy.endswith("it is cut off in rate")
    assert checks["failed solves"].figure == posterior.statistics["failed"].mean()
    assert checks["divergent transitions"].state == "pass"
    assert any("of prior draws fail to solve" in remark for remark in posterior.remarks)


def test_no_nan_reaches_anything(posterior):
    assert np.all(np.isfinite(posterior.unconstrained))
    for values in posterior.statistics.values():
        assert np.all(np.isfinite(np.asarray(values, float)))
    for values in posterior.log_likelihood().values():
        assert np.all(np.isfinite(values))


def test_what_a_sampler_sees_is_finite_or_minus_infinity():
    """On both sides of the pole, at it, and where numbers overflow."""
    problem = PROBLEMS["exploding"]
    rates = np.array([1e-300, 0.5, 1 - 1e-9, 1.0, 1.001, 1.3, 50.0, 1e300])
    with configuration.scope():
        target = bh.Target(problem.model, problem.data)
        values, gradients = slopes(target, np.log(rates)[:, None])
    assert not np.any(np.isnan(values))
    assert not np.any(np.isposinf(values))
    assert np.all(np.isfinite(gradients))
    assert np.all(np.isfinite(values[rates < 0.99]))
    assert not np.any(np.isfinite(values[rates > 1]))  # at the pole itself rounding decides
    assert np.all(gradients[rates > 1] == 0)


def test_a_tenth_of_prior_draws_fail():
    problem = PROBLEMS["exploding"]
    with configuration.scope():
        target = bh.Target(problem.model, problem.data)
        points, proper = draw_prior(target, jax.random.key(0), 1000)
        failed = ~np.isfinite(slopes(target, points)[0])
    assert proper
    assert 0.07 < failed.mean() < 0.13  # three standard errors about a tenth
    assert np.array_equal(failed, points[:, 0] > 0)


def test_forecasts_carry_no_failure(posterior):
    forecast = posterior.predict(key=1, draws=200)
    assert forecast.failed_share == 0
    assert np.all(np.isfinite(forecast.observed["y"].draws))
    assert np.all(np.isfinite(forecast.latent["path"].draws))
    inside = posterior.predict({"times": np.array([0.1, 0.5])}, key=1, draws=200)
    assert inside.failed_share == 0
    beyond = posterior.predict(
        {"times": np.array([0.2, 1.5])}, key=1, draws=200
    )  # further than the fit reached
    assert 0.2 < beyond.failed_share < 0.6
    assert np.all(np.isfinite(beyond.observed["y"].draws))


@pytest.mark.slow
def test_the_edge_is_right_over_many_runs():
    """Mean squared error of 20 runs, in units of the stated one, below 2.27 (false alarm 1 in 1,000)."""
    problem = PROBLEMS["exploding"]
    scores = []
    for key in range(100, 120):
        rate = bh.infer(problem.model, problem.data, METHOD, key=key).samples["rate"]
        error = array_stats.mcse(rate, method="quantile", prob=0.5)
        scores.append((np.quantile(rate, 0.5) - exploding_quantiles(np.array([0.5]))[0]) / error)
    assert np.mean(np.square(scores)) < 2.27
