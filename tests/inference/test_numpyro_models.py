"""Models written for numpyro alone, by people who never heard of this package."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.diagnostics import mean_error

METHOD = bh.NUTS(draws=500, warmup=500)

# Rubin 1981, "Estimation in parallel randomized experiments".
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
SCHOOLS = {"sigma": ERRORS, "y": EFFECTS}


def eight_schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(sigma)):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * offset)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_centred(sigma, y):
    """As it is often written: the data are required, and the hierarchy is centred."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_means():
    """E[mu] and E[log tau]: theta and mu are integrated by algebra, log tau by quadrature."""
    log_tau = np.linspace(-12, 8, 20_001)
    tau = np.exp(log_tau)
    variance = ERRORS**2 + tau[:, None] ** 2
    precision = 1 / 25 + np.sum(1 / variance, axis=1)
    middle = np.sum(EFFECTS / variance, axis=1) / precision
    log_density = (
        -0.5 * np.sum(np.log(variance) + EFFECTS**2 / variance, axis=1)
        + 0.5 * precision * middle**2
        - 0.5 * np.log(precision)
        - np.log1p((tau / 5) ** 2)
        + log_tau
    )
    weight = np.exp(log_density - log_density.max())
    return np.average(middle, weights=weight), np.average(log_tau, weights=weight)


def near(draws: np.ndarray, mean: float) -> None:
    assert abs(draws.mean() - mean) < 4 * mean_error(draws)


def run(model, data, method=METHOD):
    with jax.numpy_rank_promotion("raise"):
        return bh.infer(model, data, method, key=0)


@pytest.fixture(scope="module")
def schools() -> bh.Posterior:
    """With small steps: with the usual ones a few transitions in a thousand diverge."""
    return run(eight_schools, SCHOOLS, bh.NUTS(draws=1000, warmup=500, target_acceptance=0.95))


def test_eight_schools(schools):
    mu, log_tau = eight_schools_means()
    near(schools.samples["mu"], mu)
    near(np.log(schools.samples["tau"]), log_tau)
    assert schools.samples["theta"].shape == (4, 1000, 8)  # a deterministic site
    assert schools.verdict["scientific parameters"] != "fail"
    assert [row for row in ("mu", "tau", "offset[7]", "theta[7]") if row not in str(schools.summary())] == []


def test_eight_schools_predict_a_new_measurement_and_a_new_school(schools):
    again = schools.predict(key=1)
    assert again.observed["y"].draws.shape == (4000, 8)
    assert np.allclose(again.aleatoric["y"], ERRORS**2)
    assert np.allclose(again.epistemic["y"], schools["theta"].var(axis=0))
    unseen = schools.predict({"sigma": np.full(2, 10.0)}, new=["schools"], key=1)
    expected = 100 + np.mean(schools["tau"] ** 2)  # of a new school its own effect is noise too
    assert np.all(np.abs(unseen.aleatoric["y"] / expected - 1) < 0.35)


@pytest.mark.slow
def test_a_centred_hierarchy_does_not_pass_in_silence():
    """It has a funnel. And its data are required, which the error says when there should be none."""
    posterior = run(eight_schools_centred, SCHOOLS)
    assert posterior.verdict.state == "fail"
    assert {"divergent transitions", "effective sample size", "R-hat", "energy fraction (E-BFMI)"} & {
        check.name for check in posterior.verdict.reasons
    }
    with pytest.raises(bh.ModelError, match=r"y=None"):
        posterior.predict(key=1)


@pytest.mark.slow
def test_logistic_regression():
    x = np.array([-2.0, -1.5, -1.0, -0.5, 0.0, 0.3, 0.8, 1.2, 1.7, 2.5])
    y = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1])

    def model(x, y=None):
        intercept = numpyro.sample("intercept", dist.Normal(0, 2))
        slope = numpyro.sample("slope", dist.Normal(0, 2))
        numpyro.sample("y", dist.Bernoulli(logits=intercept + slope * x), obs=y)

    posterior = run(model, {"x": x, "y": y})
    a, b = np.meshgrid(np.linspace(-8, 8, 401), np.linspace(-6, 12, 401), indexing="ij")
    logits = a[..., None] + b[..., None] * x
    log_density = np.sum(y * logits - np.logaddexp(0, logits), axis=-1) - (a**2 + b**2) / 8
    weight = np.exp(log_density - log_density.max())
    near(posterior.samples["intercept"], np.average(a, weights=weight))
    near(posterior.samples["slope"], np.average(b, weights=weight))
    assert posterior.verdict.state == "pass"
    forecast = posterior.predict({"x": np.array([0.0, 3.0])}, key=1)
    share = np.average(1 / (1 + np.exp(-a)), weights=weight)
    assert abs(forecast.observed["y"].mean[0] - share) < 0.05
    assert set(np.unique(forecast.observed["y"].draws)) == {0, 1}


@pytest.mark.slow
def test_factor_and_scale():
    """Two thirds of the weight on the data, and a factor that pulls: still a Gaussian."""
    y = np.array([1.0, 2.0, 4.0])

    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.factor("pull", -0.5 * (mu - 3) ** 2 / 0.5)
        with numpyro.handlers.scale(scale=2 / 3), numpyro.plate("rows", 3):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    posterior = run(model, {"y": y})
    precision = 1 + 1 / 0.5 + 2 / 3 * 3
    near(posterior.samples["mu"], (3 / 0.5 + 2 / 3 * y.sum()) / precision)
    assert abs(posterior["mu"].std() * np.sqrt(precision) - 1) < 0.1
    forecast = posterior.predict(key=1)
    assert list(forecast.observed) == ["y"]  # a factor is never forecast
    assert np.allclose(forecast.aleatoric["y"], 1.0)  # nor is noise scaled
    assert forecast.observed["y"].draws.shape == (2000, 3)


@pytest.mark.slow
def test_subsampling_uses_all_rows():
    y = np.linspace(-1, 2, 20)

    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 20, subsample_size=4) as rows:
            batch = None if y is None else jnp.take(y, rows)
            numpyro.sample("y", dist.Normal(mu, 1), obs=batch)

    posterior = run(model, {"y": y})
    near(posterior.samples["mu"], y.sum() / 21)
    assert abs(posterior["mu"].std() * np.sqrt(21) - 1) < 0.1
    assert posterior.predict(key=1, draws=50).observed["y"].draws.shape == (50, 20)


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (lambda: numpyro.sample("z", dist.Bernoulli(0.5)), "z"),
        (lambda: numpyro.param("z", 1.0), r"numpyro.param\('z'\) has no prior"),
    ],
    ids=["discrete", "param"],
)
def test_what_cannot_be_fitted_is_said(site, words):
    def model(y=None):
        numpyro.sample("y", dist.Normal(1.0 * site(), 1.0), obs=y)

    with pytest.raises(bh.ModelError, match=words):
        run(model, {"y": np.array(1.0)})


def test_a_site_that_is_always_observed_is_a_soft_constraint():
    """A site observed with and without the data counts in the prior and is no observation."""

    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("anchor", dist.Normal(mu, 1), obs=2.0)
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    target = bh.Target(model, {"y": np.array(1.0)})
    assert target.layout.soft == ("anchor",)
    assert [site.name for site in target.layout.observed] == ["y"]
    q = jnp.array([0.5])
    likelihood = -0.5 * 0.5**2 - 0.5 * np.log(2 * np.pi)
    prior = -0.5 * (0.5**2 + 1.5**2) - np.log(2 * np.pi)
    assert np.allclose([target.log_likelihood(q), target.log_prior(q)], [likelihood, prior])
