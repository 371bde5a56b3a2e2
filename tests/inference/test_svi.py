"""Variational inference: what it recovers, and that it cannot pass for more than it is."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.diagnostics import mean_error
from bayeshybrid.faults import ModelError, StartError
from bayeshybrid.inference import bound, svi
from bayeshybrid.inference.method import Basin, Chunk
from bayeshybrid.keys import as_key
from tests.problems import PROBLEMS, exploding_quantiles, linear_answer, narrow_answer

SVI = bh.SVI(draws=500, steps=500)
FIELD = bh.SVI("mean field", draws=500, steps=500)


def summed(total=None):
    """Only the sum of two unknowns is measured: they are anticorrelated."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("total", dist.Normal(a + b, SUM_NOISE), obs=total)


SUM_NOISE = 0.3
SUM_PRECISION = np.eye(2) + np.ones((2, 2)) / SUM_NOISE**2


def walled(wall):
    """A standard normal that cannot be solved above `wall`."""
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.factor("solved", jnp.where(x < wall, 0.0, -jnp.inf))


def banana(y=None):
    """A curved ridge, which no normal guide can follow."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0))
    numpyro.sample("y", dist.Normal(b - a**2, 0.3), obs=y)


def checks(posterior: bh.Posterior) -> dict[str, Any]:
    return {check.name: check for check in posterior.verdict.checks}


def about(mode: np.ndarray, factor: np.ndarray) -> tuple[Basin, ...]:
    return (Basin(mode, 0.0, mode[None], factor, np.ones(len(mode)), 1.0, 0.0),)


def run(method: bh.SVI, target: bh.Target, basins: tuple[Basin, ...]):
    """A method turned until it is finished, without a search and without a verdict."""
    with configuration.scope():
        state, chunks = method.start(target, basins, as_key(0)), []
        while not method.finished(state):
            state, chunk = method.advance(target, state, 1000)
            chunks.append(chunk)
        return method.finish(target, state, chunks, basins)


# What it recovers


def test_a_normal_posterior_is_found_exactly(fit):
    posterior = fit("linear", SVI)
    mean, covariance, evidence = linear_answer()
    w = posterior.samples["w"]
    for i in range(2):
        assert abs(w[..., i].mean() - mean[i]) < 4 * mean_error(w[..., i])
    assert np.allclose(np.cov(w.reshape(-1, 2).T), covariance, rtol=0.15, atol=0.003)
    assert np.allclose(posterior.record["elbo"], evidence, atol=1e-3)
    assert posterior.verdict.state == "pass"
    assert posterior.verdict.nature == "draws of the posterior"
    assert checks(posterior)["variation of the importance weights"].figure < 0.01


def test_weights_mend_a_guide_that_is_a_little_too_narrow(fit):
    """Mean field cannot express the mild correlation of intercept and slope; its weighted draws do."""
    posterior = fit("linear", FIELD)
    _, covariance, evidence = linear_answer()
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert abs(correlation) > 0.2
    lost = 0.5 * np.log(1 - correlation**2)  # of the bound, by the best guide without correlations
    assert np.allclose(posterior.record["elbo"], evidence + lost, atol=0.02)
    assert np.allclose(np.cov(posterior.samples["w"].reshape(-1, 2).T), covariance, rtol=0.15, atol=0.003)
    assert posterior.verdict.state == "pass"


@pytest.mark.slow
def test_an_ode_that_can_fail(fit):
    """Quantiles are those given that the model can be solved, and the guide stays where it can be."""
    posterior = fit("exploding", SVI)
    rate = posterior.samples["rate"]
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    quantiles = exploding_quantiles(levels)
    for level, expected in zip(levels, quantiles, strict=True):
        below = rate < expected
        assert abs(below.mean() - level) < 4 * mean_error(below.astype(float))
    share = np.mean(posterior.record["share_failed"])
    assert 0.001 < share < 0.15
    check = checks(posterior)["failed solves"]
    assert (check.state, check.figure) == ("pass with remarks", pytest.approx(share))
    assert "given that the model can be solved" in check.remedy
    assert "rate" in check.remedy
    assert sum(posterior.failures.values()) == round(share * 4 * 2016)


# What is caught


def test_a_guide_that_is_too_narrow_is_caught(fit):
    """Mean field is as wide as the posterior is with everything else known: here a seven hundredth."""
    posterior = fit("narrow", FIELD)
    check = checks(posterior)["Pareto k-hat of the importance weights"]
    assert check.state == "fail"
    assert check.figure > check.limit
    assert "flow" in check.remedy
    assert posterior.verdict.state == "fail"
    assert posterior.verdict.nature == "approximate"
    _, covariance = narrow_answer()
    narrow = np.diag(np.linalg.inv(covariance)) ** -0.5
    assert np.all(narrow < 0.0015 * np.diag(covariance) ** 0.5)
    for name, sd in zip("ab", narrow, strict=True):
        assert np.allclose(posterior.samples[name].std(axis=1), sd, rtol=0.15)
    assert any("whose error is not measured" in remark for remark in posterior.verdict.remarks)


def test_one_basin_of_two_is_said_to_be_one(fit):
    """The weights cannot see a basin that was never proposed: the search does."""
    posterior = fit("bimodal", SVI)
    assert len(np.unique(np.sign(posterior.samples["x"]))) == 1
    check = checks(posterior)["basin with mass that no chain visited"]
    assert check.state == "fail"
    assert "NUTS" in check.remedy
    assert posterior.verdict.nature == "approximate"
    assert any("cover one of them" in remark for remark in posterior.verdict.remarks)


@pytest.mark.slow
def test_guides_in_different_modes_disagree(fit):
    """Two modes that predict the same are one basin; guides begin at all of the searches that ended there."""
    posterior = fit("mirrored", SVI)
    assert len(np.unique(np.sign(posterior.samples["x"].mean(axis=1)))) == 2
    assert checks(posterior)["R-hat"].state == "fail"


def finished_with(lp: np.ndarray):
    """What the method makes of draws with these log densities, `(guide, draw)`, about two unknowns."""
    target = bh.Target(summed, {"total": np.array(1.0)})
    method, basins = bh.SVI(guides=len(lp)), about(np.zeros(2), np.eye(2))
    with configuration.scope():
        state = method.start(target, basins, as_key(0))
        draws = np.random.default_rng(0).standard_normal((*lp.shape, 2))
        told = {"lp": lp, "log_guide": np.zeros_like(lp), "failed": ~np.isfinite(lp)}
        return method.finish(target, state, [Chunk(draws, told)], basins)


def test_a_guide_that_is_lost_fails():
    lost = np.where([[True], [False]], -np.inf, np.zeros((2, 4000)))
    result = finished_with(lost)
    states = {check.name: check for check in result.checks}
    assert states["evidence lower bound"].state == "fail"
    assert states["evidence lower bound"].place == "guide 0: not finite"
    assert result.nature == "approximate"
    assert result.draws.shape == (1, 1000, 2)
    assert any("1 of 2 guides had no draw" in note for note in result.notes)


def test_too_few_draws_that_count_fail():
    result = finished_with(np.random.default_rng(1).uniform(-1, 1, (2, 150)))
    states = {check.name: check.state for check in result.checks}
    assert states["Pareto k-hat of the importance weights"] == "pass"
    assert states["effective size of the weights"] == "fail"


def test_nothing_solved_is_an_error():
    with pytest.raises(StartError, match="no draw of any guide could be solved"):
        finished_with(np.full((2, 100), -np.inf))


# The gradient


class Bump:
    """A log density on the line that is not that of a normal, and that cannot be solved beyond a wall."""

    def __init__(self, wall: float) -> None:
        self.wall = wall

    def log_density(self, q):
        inside = jax.lax.stop_gradient(q[0] < self.wall)
        return jnp.where(inside, self.height(jnp.where(inside, q[0], 0.0)), -jnp.inf)

    @staticmethod
    def height(x):
        return 0.7 * x - jnp.exp(0.8 * x) - 0.1 * x**2


def normal_guide(parameters):
    return dist.Normal(parameters[:1], jnp.exp(parameters[1:])).to_event(1)


def exact_bound(target: Bump, parameters, drop: float):
    """The bound by quadrature over the guide's noise, the log density `drop` below that at the wall beyond it."""
    at = jnp.linspace(-9, 9, 400_001)
    density = jnp.exp(-0.5 * at**2) / jnp.sqrt(2 * jnp.pi)
    x = parameters[0] + jnp.exp(parameters[1]) * at
    floored = jnp.where(
        x < target.wall, target.height(jnp.minimum(x, target.wall)), target.height(target.wall) - drop
    )
    return jnp.sum(floored * density) * (at[1] - at[0]) + parameters[1]


@pytest.mark.parametrize("wall", [np.inf, 0.9])
def test_the_gradient_is_that_of_the_bound(key, wall):
    """Mean of many estimates against differences of a quadrature; with a wall, against the bound with its floor."""
    target, drop, at = Bump(wall), 4.0, jnp.array([0.3, -0.2])
    estimate = jax.grad(
        lambda p, keys: bound.surrogate(p, normal_guide, target, jnp.zeros(1), jnp.ones(1), drop, keys)[0]
    )
    keys = jax.random.split(key, (20_000, 8))
    found = np.asarray(jax.jit(jax.vmap(partial(estimate, at)))(keys))
    error = found.std(axis=0) / len(found) ** 0.5
    step = 0.05 * np.eye(2)
    exact = [(exact_bound(target, at + h, drop) - exact_bound(target, at - h, drop)) / 0.1 for h in step]
    assert np.all(error < 0.02)
    assert np.all(np.abs(found.mean(axis=0) - np.array(exact)) < 4 * error + 0.003)
    if np.isfinite(wall):  # without the score of the failed draws it points into the wall
        careless = jax.grad(
            lambda p, keys: bound.surrogate(p, normal_guide, target, jnp.zeros(1), jnp.ones(1), 0.0, keys)[0]
        )
        sloped = np.asarray(jax.jit(jax.vmap(partial(careless, at)))(keys)).mean(axis=0)
        assert np.all(sloped - found.mean(axis=0) > 0.3)


def test_the_gradient_has_no_noise_at_the_answer(key):
    """Where guide and target are the same every estimate is zero, not only their mean."""

    class Normal:
        def log_density(self, q):
            return dist.Normal(0.3, 0.5).log_prob(q[0])

    at = jnp.array([0.3, jnp.log(0.5)])
    estimate = jax.jit(
        jax.grad(
            lambda p, keys: bound.surrogate(p, normal_guide, Normal(), jnp.zeros(1), jnp.ones(1), 4.0, keys)[
                0
            ]
        )
    )
    assert np.allclose(estimate(at, jax.random.split(key, 8)), 0, atol=1e-12)


def test_the_bound_is_that_given_a_solution():
    """The mean over solved draws, and the log of their share; without any there is no bound."""
    nothing, log_guide = jnp.zeros((4, 1)), jnp.array([0.5, 0.0, 0.0, -1.0])
    drawn = bound.Drawn(nothing, nothing, jnp.array([1.0, -jnp.inf, 2.0, 3.0]), log_guide)
    assert bound.bound_of(drawn) == pytest.approx((0.5 + 2.0 + 4.0) / 3 + np.log(0.75))
    assert bound.bound_of(drawn._replace(log_density=jnp.full(4, -jnp.inf))) == -jnp.inf


# The failing region


@pytest.fixture(scope="module")
def half() -> tuple[bh.Target, tuple[Basin, ...]]:
    with configuration.scope():
        return bh.Target(walled, {"wall": np.array(0.5)}), about(np.zeros(1), np.eye(1))


def test_the_guide_keeps_out_of_the_failing_region(half):
    """A normal of which 31 % cannot be solved: draws are those of the rest, with few in vain."""
    result = run(SVI, *half)
    assert np.all(result.extra["share_failed"] < 0.15)
    assert [check.state for check in result.checks] == ["pass"] * 3
    middle = dist.Normal(0.0, 1.0).cdf(0.5) * np.array([0.1, 0.5, 0.9])
    for share, at in zip((0.1, 0.5, 0.9), dist.Normal(0.0, 1.0).icdf(middle), strict=True):
        assert abs(np.mean(result.draws < at) - share) < 0.04


def test_without_their_score_failed_draws_lead_astray(half, monkeypatch):
    """With a zero gradient for failed draws the guide runs into the failing region on its entropy."""

    def careless(guide, particles, target, steps, learning_rate, state):
        after, told = bound.climb_step(
            guide, particles, target, steps, learning_rate, state._replace(drop=0 * state.drop)
        )
        return after, told

    monkeypatch.setattr(svi, "climb_step", careless)
    svi._climbing.cache_clear()
    try:
        result = run(SVI, *half)
    finally:
        svi._climbing.cache_clear()
    assert np.all(result.extra["share_failed"] > 0.5)


# Guides


def best_normal_on_the_banana() -> float:
    """The largest bound of any normal guide, by the moments of a normal `a` and `b` without correlation."""
    from scipy.optimize import minimize

    def loss(x):
        middle, (t, s) = x[0], np.exp(x[1:])
        misfit = (0.5 - middle + t**2) ** 2 + s**2 + 2 * t**4
        height = (
            -0.5 * (t**2 + (middle**2 + s**2) / 4 + misfit / 0.09) - 1.5 * np.log(2 * np.pi) - np.log(0.6)
        )
        return -(height + np.log(2 * np.pi * np.e) + np.log(t * s))

    return -float(minimize(loss, np.array([0.5, -0.5, -1.0])).fun)


@pytest.mark.slow
def test_a_flow_follows_a_curve():
    """Its bound comes near the log evidence, by quadrature, which that of no normal guide does."""
    a, b = np.meshgrid(np.linspace(-5, 5, 1001), np.linspace(-6, 25, 3101), indexing="ij")
    density = np.exp(-0.5 * (a**2 + (b / 2) ** 2 + ((0.5 - b + a**2) / 0.3) ** 2)) / (
        (2 * np.pi) ** 1.5 * 0.6
    )
    evidence = np.log(density.sum() * 1e-4)
    assert best_normal_on_the_banana() < evidence - 0.4
    target = bh.Target(banana, {"y": np.array(0.5)})
    basins = about(np.array([0.0, 0.5]), np.diag([0.8, 0.3]))
    reached = run(bh.SVI("flow", draws=500, steps=600, guides=2), target, basins).extra["elbo"]
    assert np.all((reached > evidence - 0.1) & (reached < evidence + 0.02))


@pytest.mark.slow
def test_a_guide_of_low_rank_finds_the_direction():
    """Two anticorrelated unknowns need one direction; mean field loses what the correlation is worth."""
    target = bh.Target(summed, {"total": np.array(1.0)})
    covariance = np.linalg.inv(SUM_PRECISION)
    evidence = dist.Normal(0.0, np.sqrt(2 + SUM_NOISE**2)).log_prob(1.0)
    basins = about(np.full(2, 1 / (2 + SUM_NOISE**2)), np.linalg.cholesky(covariance))
    ranked = run(bh.SVI("low rank", draws=500, steps=400, rank=1, guides=2), target, basins)
    assert np.all(np.abs(ranked.extra["elbo"] - evidence) < 0.05)
    correlation = covariance[0, 1] / covariance[0, 0]
    assert 0.5 * np.log(1 - correlation**2) < -0.5
    assert np.allclose(np.cov(ranked.draws.reshape(-1, 2).T), covariance, atol=0.06)


def test_a_guide_without_curvature_widens_by_itself():
    """Where the search knows no curvature a guide begins narrow."""
    problem = PROBLEMS["linear"]
    flat = Basin(np.zeros(2), 0.0, np.zeros((3, 2)), None, np.ones(2), np.nan, np.nan)
    result = run(SVI, bh.Target(problem.model, problem.data), (flat,))
    assert np.all(np.abs(result.extra["elbo"] - linear_answer()[2]) < 0.05)


def test_a_flow_needs_two_unknowns(half):
    with pytest.raises(ModelError, match="a flow needs two unknowns or more"):
        run(bh.SVI("flow"), *half)


# Settings and interruption


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guide": "full"}, r"SVI\(guide='full'\): write one of 'mean field', 'full rank'"),
        ({"steps": 0}, r"SVI\(steps=0\): it must be a whole number, at least 1"),
        ({"particles": 1}, r"SVI\(particles=1\): it must be a whole number, at least 2"),
        ({"draws": 2.5}, r"SVI\(draws=2.5\)"),
        ({"guides": -1}, r"SVI\(guides=-1\)"),
        ({"learning_rate": 0.0}, r"SVI\(learning_rate=0.0\): it must be positive"),
        ({"rank": 3}, r'SVI\(rank=3\): .* with guide="low rank"'),
        ({"guide": "low rank", "rank": 0}, r"SVI\(rank=0\): a whole number"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ModelError, match=words):
        bh.SVI(**settings)


def test_out_of_time_the_guides_are_taken_as_they_are():
    problem = PROBLEMS["linear"]
    posterior = bh.infer(problem.model, problem.data, bh.SVI(steps=10**6), key=0, time_limit=0.0)
    assert posterior.record["ended"] == "out of time"
    assert posterior.samples["w"].shape == (4, 160, 2)
    assert checks(posterior)["run"].state == "pass with remarks"
    assert posterior.verdict["forecasts"] in ("pass with remarks", "fail")


def test_the_bound_is_kept_along_the_way(fit):
    path = np.array(fit("linear", FIELD).record["elbo_path"])
    assert path.shape == (4, 100)
    assert np.all(np.isfinite(path))
