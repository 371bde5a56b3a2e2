"""Soft constraints: what they count, that the number of points does not, and what the posterior says of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeshybrid as bh
from bayeshybrid import configuration

X = np.array([[1.0, 0.2], [0.3, -1.0], [2.0, 0.5]])
Y = np.array([0.7, -0.4, 1.9])
DIRECTION, STATED, SCALE = np.array([1.0, -1.0]), 0.3, 0.25


def held(x, y=None):
    """Linear regression in which a difference of the coefficients is taken to be about 0.3."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    bh.penalty("difference", DIRECTION @ w - STATED, scale=SCALE, unit="mg")
    bh.observe("y", dist.Normal(x @ w, 0.5), obs=y)


def measured(x, y=None):
    """The same with one more observation in place of the penalty."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("difference", dist.Normal(DIRECTION @ w, SCALE), obs=STATED)
    bh.observe("y", dist.Normal(x @ w, 0.5), obs=y)


def test_a_penalty_counts_as_one_more_observation():
    data = {"x": X, "y": Y}
    one, other = bh.Target(held, data), bh.Target(measured, data)
    for q in np.random.default_rng(0).standard_normal((5, 2)):
        np.testing.assert_allclose(one.log_density(q), other.log_density(q), rtol=1e-13)
        np.testing.assert_allclose(one.log_likelihood(q), other.log_likelihood(q), rtol=1e-13)


def test_the_posterior_with_a_penalty_is_that_of_linear_algebra():
    precision = np.eye(2) + X.T @ X / 0.5**2 + np.outer(DIRECTION, DIRECTION) / SCALE**2
    mean = np.linalg.solve(precision, X.T @ Y / 0.5**2 + DIRECTION * STATED / SCALE**2)
    slope = jax.grad(bh.Target(held, {"x": X, "y": Y}).log_density)
    np.testing.assert_allclose(slope(jnp.asarray(mean)), 0.0, atol=1e-12)
    steps = np.stack([slope(jnp.asarray(mean + step)) for step in np.eye(2)])
    np.testing.assert_allclose(-steps, precision, rtol=1e-12)


def at_points(statement):
    """The prior density that a statement about a rate at points gives."""

    def model(points):
        rate = numpyro.sample("rate", dist.Normal(0.0, 1.0))
        statement((rate - 2.0) * jnp.stack([jnp.ones(len(points)), points], axis=-1))

    return lambda points, rate=0.5: float(bh.Target(model, {"points": points}).log_prior(jnp.array([rate])))


def test_the_mean_residual_does_not_depend_on_how_many_points_there_are():
    few, many = np.array([0.0, 1.0, 2.0]), np.tile([0.0, 1.0, 2.0], 20)
    averaged = at_points(lambda left: bh.physics_residual("law", left, scale=0.2, weight=3.0))
    summed = at_points(lambda left: bh.penalty("law", left, scale=0.2))
    assert averaged(few) == pytest.approx(averaged(many), rel=1e-13)
    assert summed(many) < 10 * summed(few)  # the sum does: both are negative
    left = (0.5 - 2.0) * np.stack([np.ones(3), few], axis=-1)
    expected = stats.norm.logpdf(0.5) - 1.5 * np.mean((left / 0.2) ** 2)
    assert averaged(few) == pytest.approx(expected, rel=1e-13)


def test_as_much_weight_as_there_are_entries_makes_each_a_measurement():
    points = np.linspace(0.0, 1.0, 7)
    averaged = at_points(lambda left: bh.physics_residual("law", left, scale=0.2, weight=14.0))
    summed = at_points(lambda left: bh.penalty("law", left, scale=0.2))
    for points_differ in (0.1, 0.5):
        gap = averaged(points, points_differ) - summed(points, points_differ)
        assert gap == pytest.approx(-14 * stats.norm.logpdf(0.0, scale=0.2), rel=1e-12)


def test_each_equation_may_have_a_scale_of_its_own():
    few = np.array([0.0, 1.0, 2.0])
    scales = np.array([0.1, 0.4])
    own = at_points(lambda left: bh.physics_residual("law", left, scale=scales))
    left = (0.5 - 2.0) * np.stack([np.ones(3), few], axis=-1)
    assert own(few) == pytest.approx(stats.norm.logpdf(0.5) - 0.5 * np.mean((left / scales) ** 2), rel=1e-13)


@pytest.mark.parametrize("kind", [bh.penalty, bh.physics_residual])
def test_what_is_not_finite_has_density_zero(kind):
    def model(y=None):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        kind("root", jnp.sqrt(x) * jnp.ones(3), scale=1.0)
        bh.observe("y", dist.Normal(x, 1.0), obs=y)

    target = bh.Target(model, {"y": np.array(0.5)})
    assert np.isfinite(target.log_density(jnp.array([0.5])))
    assert target.log_density(jnp.array([-0.5])) == -np.inf
    assert jax.grad(target.log_density)(jnp.array([-0.5])) == 0.0


def test_a_soft_constraint_of_a_solution_is_part_of_the_prior():
    def model(times):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
        path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate)
        bh.penalty("gone", path.ys[-1], scale=0.05)

    target = bh.Target(model, {"times": np.array([1.0, 3.0])})
    assert target.layout.prior_solves
    expected = stats.norm.logpdf(0.3) + stats.norm.logpdf(np.exp(-3.0 * np.exp(0.3)), scale=0.05)
    assert float(target.log_prior(jnp.array([0.3]))) == pytest.approx(expected, rel=1e-5)


def both_kinds(x, y=None):
    w = bh.parameter("w", dist.Normal(jnp.zeros(2), 1.0))
    bh.penalty("difference", w[0] - w[1], scale=0.25, unit="mg")
    bh.physics_residual("law", w - 1.0, scale=np.array([0.5, 2.0]), weight=4.0, unit="mg/d")
    bh.observe("y", dist.Normal(x @ w, 0.5), obs=y)


def test_posterior_and_report_say_what_was_stated_and_forecasts_leave_it_out(tmp_path):
    posterior = bh.infer(both_kinds, {"x": X, "y": Y}, bh.NUTS(draws=50, warmup=50), key=0)
    assert posterior.target.layout.soft == ("difference", "law")
    (penalty,) = (told for told in posterior.remarks if "'difference'" in told)
    (residual,) = (told for told in posterior.remarks if "'law'" in told)
    assert "Normal(0, 0.25 mg)" in penalty
    assert "weight 4 and scale 0.5 to 2 mg/d" in residual
    assert all("bands of forecasts depend on" in told for told in (penalty, residual))
    assert "evidence" in posterior.verdict.unchecked
    page = bh.report(posterior, path=tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("Normal(0, 0.25 mg)") == 1
    forecast = posterior.predict({"x": X[:2]}, key=1)
    assert set(forecast.observed) == {"y"}
    assert not {"difference", "law"} & set(forecast.latent)


def stated(make, **given):
    with configuration.scope():
        numpyro.handlers.seed(make, 0)(**given)


WRONG = {
    "scale = 0.0 must be above zero": lambda: bh.penalty("p", 1.0, scale=0.0),
    "scale = -1.0 must be above zero": lambda: bh.physics_residual("p", jnp.ones(2), scale=-1.0),
    "scale = nan must be above zero": lambda: bh.penalty("p", 1.0, scale=np.nan),
    "weight = 0 must be above zero": lambda: bh.physics_residual("p", jnp.ones(2), scale=1.0, weight=0),
    "scale has shape (3,), which does not fit": lambda: bh.penalty("p", jnp.ones(2), scale=np.ones(3)),
    "give at least one point": lambda: bh.physics_residual("p", jnp.ones(0), scale=1.0),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_cannot_be_stated_is_said(told):
    with pytest.raises(bh.ModelError) as error:
        stated(WRONG[told])
    assert told in str(error.value)
    assert "('p')" in str(error.value)


def test_names_scales_that_move_and_plates_are_refused():
    def twice():
        x = numpyro.sample("x", dist.Normal())
        bh.penalty("p", x, scale=1.0)
        bh.physics_residual("p", x, scale=1.0)

    def moving():
        x = numpyro.sample("x", dist.LogNormal())
        bh.penalty("p", x, scale=x)

    def plated():
        with numpyro.plate("rows", 3):
            bh.penalty("p", numpyro.sample("x", dist.Normal()), scale=1.0)

    for model, told in (
        (twice, "'p' stands twice"),
        (moving, "computed from data"),
        (plated, "plate 'rows'"),
    ):
        with pytest.raises(bh.ModelError, match=told):
            bh.Target(model, {})
