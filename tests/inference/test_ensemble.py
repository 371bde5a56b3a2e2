"""Deep ensembles against posteriors known in closed form, and what they say where they are none."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeshybrid as bh
from bayeshybrid.faults import ModelError
from bayeshybrid.inference.ensemble import _held_out
from case_studies.predator_prey.model import equation, read_pelts
from tests.problems import (
    EXPLODING_TIMES,
    EXPLODING_Y,
    LINEAR_NOISE,
    LINEAR_X,
    LINEAR_Y,
    exploding,
    exploding_quantiles,
    linear,
    linear_answer,
)

LINEAR = {"x": LINEAR_X, "y": LINEAR_Y}
MANY = bh.DeepEnsemble(members=200, steps=300)


@pytest.fixture(scope="module")
def many() -> bh.Posterior:
    return bh.infer(linear, LINEAR, MANY, key=0)


def test_members_are_draws_of_a_linear_gaussian_posterior(many):
    """Mean by Hotelling's statistic, covariance by its Wishart; each fails a right answer once in a thousand."""
    mean, covariance, _ = linear_answer()
    white = np.linalg.solve(np.linalg.cholesky(covariance), (many["w"] - mean).T)
    members = white.shape[1]
    assert members == 200
    distance = members * np.sum(white.mean(axis=1) ** 2)
    assert distance < stats.chi2(2).ppf(0.999)
    scatter = np.linalg.eigvalsh(np.cov(white))
    low, high = stats.chi2(members - 1).ppf([0.0003, 0.9997]) / (members - 1)
    assert low < scatter.min()
    assert scatter.max() < high


def test_the_epistemic_part_is_that_of_the_posterior(many):
    forecast = many.predict(key=1)
    _, covariance, _ = linear_answer()
    exact = np.einsum("ni,ij,nj->n", LINEAR_X, covariance, LINEAR_X)
    np.testing.assert_allclose(forecast.epistemic["y"], exact, rtol=0.35)
    np.testing.assert_allclose(forecast.aleatoric["y"], LINEAR_NOISE**2, rtol=1e-12)


REGRESSION_X = np.random.default_rng(1).normal(size=(18, 5))
REGRESSION_Y = REGRESSION_X @ np.arange(5.0) + 0.7 * np.random.default_rng(2).normal(size=18)


def regression(x, y=None):
    """Linear regression of unknown noise under priors that say next to nothing."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(5), 100.0).to_event(1))
    noise = numpyro.sample("noise", dist.LogNormal(0.0, 30.0))
    numpyro.sample("y", dist.Normal(x @ w, noise), obs=y)


@pytest.mark.slow
def test_members_know_the_size_of_the_noise():
    """Under flat priors log s^2 is that of a scaled inverse chi-square, whatever the coefficients take away."""
    posterior = bh.infer(
        regression, {"x": REGRESSION_X, "y": REGRESSION_Y}, bh.DeepEnsemble(members=400, steps=500), key=0
    )
    fitted = np.linalg.lstsq(REGRESSION_X, REGRESSION_Y, rcond=None)[0]
    left = REGRESSION_Y - REGRESSION_X @ fitted
    freedom = 18 - 5
    exact = stats.invgamma(freedom / 2, scale=left @ left / 2)
    distance, chance = stats.kstest(posterior["noise"] ** 2, exact.cdf)
    assert chance > 1e-3, distance
    scale = np.sqrt(np.diag(np.linalg.inv(REGRESSION_X.T @ REGRESSION_X)) * (left @ left) / freedom)
    for w, middle, width in zip(posterior["w"].T, fitted, scale, strict=True):
        _, chance = stats.kstest((w - middle) / width, stats.t(freedom).cdf)
        assert chance > 1e-3


def test_one_member_has_no_epistemic_part():
    posterior = bh.infer(linear, LINEAR, bh.DeepEnsemble(members=1, steps=60), key=0)
    forecast = posterior.predict(key=1)
    assert np.all(forecast.epistemic["y"] == 0.0)
    np.testing.assert_allclose(forecast.aleatoric["y"], LINEAR_NOISE**2)
    np.testing.assert_allclose(forecast.total["y"], LINEAR_NOISE**2)


def test_plain_random_starts_leave_parameter_uncertainty_out(many):
    plain = bh.infer(linear, LINEAR, bh.DeepEnsemble(members=20, steps=600, randomise=False), key=0)
    _, covariance, _ = linear_answer()
    assert np.all(plain["w"].std(axis=0) < 0.01 * np.sqrt(np.diag(covariance)))
    assert np.all(plain.predict(key=1).epistemic["y"] < 1e-3 * many.predict(key=1).epistemic["y"])
    assert any("parameter uncertainty is left out" in remark for remark in plain.verdict.remarks)
    assert not any("left out" in remark for remark in many.verdict.remarks)


def test_no_ensemble_passes_for_a_posterior(many):
    verdict = many.verdict
    assert verdict.nature == "not draws of a posterior"
    assert verdict["scientific parameters"] == "not assessable"
    assert verdict["forecasts"] == "not assessable"
    assert str(verdict).startswith("not draws of a posterior")
    assert "bh.calibration.assess" in str(verdict)
    assert all(np.isnan(row.ess) and np.isnan(row.rhat) for row in many.summary())


@pytest.mark.slow
def test_every_member_ends_where_it_solves():
    """A tenth of the prior cannot be solved: steps into it are counted by reason, and nobody stays there."""
    posterior = bh.infer(
        exploding,
        {"times": EXPLODING_TIMES, "y": EXPLODING_Y},
        bh.DeepEnsemble(members=100, steps=300),
        key=0,
    )
    rate = posterior["rate"]
    assert np.all(rate < 1.0 + 1e-4)  # the solver steps over a pole that lies so close behind the last time
    assert np.all(np.isfinite(posterior.statistics["lp"]))
    assert posterior.size + posterior.record["left_out"] == 100
    low, middle, high = exploding_quantiles(np.array([0.05, 0.5, 0.95]))
    assert low < np.median(rate) < high
    assert abs(np.median(rate) - middle) < 0.25 * (high - low)


def test_an_ensemble_that_has_not_settled_fails():
    rushed = bh.DeepEnsemble(members=20, steps=60, learning_rate=0.01)
    verdict = bh.infer(linear, LINEAR, rushed, key=0).verdict
    assert verdict["forecasts"] == "fail"
    check = next(c for c in verdict.checks if c.name.startswith("movement"))
    assert check.state == "fail"
    assert check.place == "w"
    assert 0.15 < check.figure < 0.3
    assert "raise steps" in check.remedy


@pytest.mark.slow
def test_on_the_equation_it_knows_how_little_it_knows():
    """Hare and lynx, one basin: the spread of forecasts is that of NUTS within a factor of two, either way."""
    data = read_pelts(1914)
    later = {"times": read_pelts(1920)["times"]}
    ensemble, sampled = (
        bh.infer(equation, data, method, key=0).predict(later, key=1)
        for method in (bh.DeepEnsemble(members=64), bh.NUTS(draws=500, warmup=500))
    )
    ratio = np.sqrt(ensemble.epistemic["pelts"] / sampled.epistemic["pelts"])
    assert 0.5 < ratio.min()
    assert ratio.max() < 2.0
    noise = np.sqrt(ensemble.aleatoric["pelts"] / sampled.aleatoric["pelts"])
    assert 0.6 < noise.min()
    assert noise.max() < 1.7


TRAP = {"square": np.array(4.0), "side": np.array(2.0)}


def trap(square=None, side=None):
    """Two hollows, one of them 800 log units deeper."""
    x = numpyro.sample("x", dist.Normal(0.0, 2.0))
    numpyro.sample("square", dist.Normal(x**2, 0.03), obs=square)
    numpyro.sample("side", dist.Normal(x, 0.1), obs=side)


def test_members_that_got_stuck_are_left_out_and_counted():
    posterior = bh.infer(trap, TRAP, bh.DeepEnsemble(members=20, steps=200, randomise=False), key=0)
    left_out = posterior.record["left_out"]
    assert 0 < left_out < 20
    assert posterior.size == 20 - left_out
    assert np.all(posterior["x"] > 0)
    check = next(c for c in posterior.verdict.checks if c.name == "members left out")
    assert (check.figure, check.state) == (left_out, "fail")


def test_early_stopping_holds_out_whole_blocks():
    masks = _held_out({"y": np.ones((4, 12))}, 3)["y"]
    assert [np.flatnonzero(row == 0).tolist() for row in masks] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [0, 1, 2, 3],
    ]
    with pytest.raises(ModelError, match="'y' has 12 rows along its first axis, which cannot be cut"):
        _held_out({"y": np.ones((4, 12))}, 13)


WIGGLE_X = np.linspace(-2.0, 2.0, 24)[:, None]
WIGGLE_Y = np.tanh(WIGGLE_X[:, 0]) + 0.5 * np.random.default_rng(3).normal(size=24)


def wiggle(x, y=None):
    """A wide network against noisy data whose noise it is told too small: made to overfit."""
    f = bh.network("f", bh.MLP(1, 1, width=16), scale=3.0, center=0.0, spread=1.0)
    numpyro.sample("y", dist.Normal(f(x)[:, 0], 0.15), obs=y)


@pytest.mark.slow
def test_early_stopping_generalises_where_training_to_the_end_does_not():
    settings = {"members": 12, "steps": 400, "randomise": False}
    data = {"x": WIGGLE_X, "y": WIGGLE_Y}
    long = bh.infer(wiggle, data, bh.DeepEnsemble(**settings), key=0)
    short = bh.infer(wiggle, data, bh.DeepEnsemble(**settings, early_stopping=4), key=0)
    errors = []
    for posterior in (long, short):
        mean = posterior.predict({"x": WIGGLE_X + 0.08}, key=1).conditional["y"][0].mean(axis=(0, 1))
        errors.append(np.sqrt(np.mean((mean - np.tanh(WIGGLE_X[:, 0] + 0.08)) ** 2)))
    assert errors[1] < 0.9 * errors[0]
    assert any("left out one of 4 blocks" in remark for remark in short.verdict.remarks)


HEADS_X = np.linspace(0.0, 1.0, 60)[:, None]
HEADS_Y = 2 * HEADS_X[:, 0] + (0.05 + 0.6 * HEADS_X[:, 0]) * np.random.default_rng(4).normal(size=60)


def heads(x, y=None):
    """One network with two heads: where the mean lies, and how noisy it is there."""
    f = bh.network("f", bh.MLP(1, 2, width=8), scale=2.0, center=0.5, spread=0.3)
    told = f(x)
    numpyro.sample("y", dist.Normal(told[:, 0], jnp.exp(told[:, 1] - 1.0)), obs=y)


@pytest.mark.slow
def test_heteroscedastic_heads_learn_where_it_is_noisy():
    posterior = bh.infer(heads, {"x": HEADS_X, "y": HEADS_Y}, bh.DeepEnsemble(members=24, steps=500), key=0)
    noise = np.sqrt(posterior.predict(key=1).aleatoric["y"])
    assert noise[5] < 0.25
    assert 0.35 < noise[-5] < 1.2
    told = [c.place for c in posterior.verdict.checks if c.name.startswith("movement")]
    assert told == ["f over 64 visited points"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"members": 0}, r"DeepEnsemble\(members=0\): write a whole number from 1"),
        ({"steps": 1}, r"DeepEnsemble\(steps=1\): write a whole number from 2"),
        ({"learning_rate": 0.0}, r"learning_rate=0.0\): it must be above zero"),
        ({"early_stopping": 1}, r"early_stopping=1\): write 2 blocks or more, or None"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ModelError, match=words):
        bh.DeepEnsemble(**settings)
