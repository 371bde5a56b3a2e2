"""Forecasts: what is carried, continued and drawn anew, and the split of the variance against algebra."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.faults import ModelError
from bayeshybrid.forecast import Part, Quantity
from bayeshybrid.posterior import Posterior
from bayeshybrid.verdict import Verdict

DRAWS = 400


def posterior(model: Callable[..., Any], data: Mapping[str, Any], samples: Mapping[str, Any]) -> Posterior:
    """A posterior with these draws of the unknowns, `(draws, ...)`, in one chain."""
    with configuration.scope():
        target = bh.Target(model, data)
        flat = np.asarray(
            jax.jit(jax.vmap(target.unconstrain))({k: jnp.asarray(v) for k, v in samples.items()})
        )
    chains = {name: np.asarray(values)[None] for name, values in samples.items()}
    return Posterior(target, flat[None], chains, {}, Verdict(()), "made up", 0)


# Increments along time: carried, then continued


def walk(times, y=None):
    """A random walk whose steps follow the times."""
    size = numpyro.sample("size", dist.LogNormal(0.0, 0.1))
    steps = numpyro.sample("steps", dist.Normal(0.0, size).expand([len(times) - 1]))
    level = numpyro.deterministic("level", jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)]))
    numpyro.sample("y", dist.Normal(level, 0.5), obs=y)


def walk_in_a_plate(times, y=None):
    size = numpyro.sample("size", dist.LogNormal(0.0, 0.1))
    with numpyro.plate("interval", len(times) - 1):
        steps = numpyro.sample("steps", dist.Normal(0.0, size))
    level = numpyro.deterministic("level", jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)]))
    numpyro.sample("y", dist.Normal(level, 0.5), obs=y)


@pytest.fixture(scope="module", params=[walk, walk_in_a_plate], ids=["expanded", "plate"])
def walked(request) -> Posterior:
    generator = np.random.default_rng(3)
    samples = {"size": generator.uniform(1.9, 2.1, DRAWS), "steps": generator.normal(1.0, 0.1, (DRAWS, 3))}
    return posterior(request.param, {"times": np.arange(4.0), "y": np.zeros(4)}, samples)


def test_increments_are_carried_and_then_continued(walked):
    forecast = walked.predict({"times": np.arange(6.0)}, key=1, replicates=8)
    assert (forecast.carried, forecast.continued, forecast.drawn_anew) == (("size",), ("steps",), ())
    steps = forecast.latent["steps"].draws.reshape(DRAWS, 8, 5)
    assert np.array_equal(steps[:, :, :3], np.broadcast_to(walked["steps"][:, None], (DRAWS, 8, 3)))
    fresh = steps[:, :, 3:] / walked["size"][:, None, None]
    assert abs(fresh.mean()) < 4 / np.sqrt(fresh.size)
    assert abs(fresh.var() - 1) < 4 * np.sqrt(2 / fresh.size)
    # aleatoric: the noise, and beyond the data one and two fresh steps; epistemic: the carried steps
    expected = np.array([0, 0, 0, 0, 1, 2]) * np.mean(walked["size"] ** 2) + 0.25
    assert np.allclose(forecast.aleatoric["y"], expected, rtol=0.1)
    carried = np.concatenate([np.zeros((DRAWS, 1)), walked["steps"].cumsum(axis=1)], axis=1).var(axis=0)
    assert np.allclose(forecast.epistemic["y"][:4], carried, rtol=1e-6)
    assert np.allclose(forecast.epistemic["y"][4:], carried[3], atol=0.25)


@pytest.mark.parametrize(
    "times", [np.arange(3.0), np.arange(6.0) + 0.5, np.array([0.0, 1.0, 2.0, 9.0, 3.0, 4.0])]
)
def test_a_change_that_is_neither_is_an_error_naming_the_site(walked, times):
    words = r"'steps' has shape \(\d,\), in the fit it had \(3,\).*new=\(\.\.\.\) \('steps'.*or give inputs that begin"
    with pytest.raises(ModelError, match=words):
        walked.predict({"times": times}, key=1)


def test_named_in_new_it_is_drawn_anew(walked):
    forecast = walked.predict({"times": np.arange(3.0) + 7}, key=1, new=("steps",), replicates=4)
    assert (forecast.carried, forecast.drawn_anew) == (("size",), ("steps",))
    steps = forecast.latent["steps"].draws
    assert abs(steps.mean()) < 4 * steps.std() / np.sqrt(steps.size)


@pytest.mark.slow
def test_the_steps_of_a_scan_are_carried():
    from numpyro.contrib.control_flow import scan

    def model(times, y=None):
        def step(state, seen):
            state = numpyro.sample("state", dist.Normal(state, 3.0))
            return state, numpyro.sample("y", dist.Normal(state, 1.0), obs=seen)

        scan(step, 0.0, y, length=len(times))

    states = np.random.default_rng(0).normal(5.0, 0.1, (DRAWS, 3))
    found = posterior(model, {"times": np.arange(3.0), "y": np.zeros(3)}, {"state": states})
    forecast = found.predict(key=1)
    assert np.array_equal(forecast.latent["state"].draws, states)
    longer = found.predict({"times": np.arange(5.0)}, key=1, replicates=2).latent["state"].draws
    assert longer.shape == (2 * DRAWS, 5)
    assert np.array_equal(longer[:, :3], np.repeat(states, 2, axis=0))
    jump = longer[:, 3] - longer[:, 2]
    assert abs(jump.mean()) < 4 * 3 / np.sqrt(len(jump))
    assert abs(jump.std() - 3) < 0.4


# Units: an old one is carried, a new one drawn


def population(x, y=None):
    middle = numpyro.sample("middle", dist.Normal(0.0, 10.0))
    with numpyro.plate("unit", len(x)):
        effect = numpyro.sample("effect", dist.Normal(middle, 2.0))
        numpyro.sample("y", dist.Normal(effect + x, 0.5), obs=y)


@pytest.fixture(scope="module")
def units() -> Posterior:
    generator = np.random.default_rng(4)
    samples = {
        "middle": generator.normal(5.0, 0.3, DRAWS),
        "effect": generator.normal([1.0, 9.0], 0.1, (DRAWS, 2)),
    }
    return posterior(population, {"x": np.zeros(2), "y": np.zeros(2)}, samples)


def test_old_units_are_carried(units):
    forecast = units.predict({"x": np.ones(2)}, key=1)
    assert forecast.carried == ("middle", "effect")
    assert np.allclose(forecast.epistemic["y"], units["effect"].var(axis=0))
    assert np.allclose(forecast.aleatoric["y"], 0.25)
    assert forecast.replicates == 1


def test_new_units_are_drawn_from_the_population(units):
    forecast = units.predict({"x": np.zeros(3)}, key=1, new=("unit",), replicates=16)
    assert (forecast.carried, forecast.drawn_anew) == (("middle",), ("effect",))
    assert np.allclose(forecast.aleatoric["y"], 0.25 + 4.0, rtol=0.05)
    assert np.allclose(forecast.epistemic["y"], units["middle"].var(), atol=0.1)
    effect = forecast.latent["effect"].draws
    assert np.allclose(effect.mean(axis=0), 5.0, atol=0.2)


def test_another_number_of_units_is_an_error(units):
    with pytest.raises(ModelError, match=r"'effect' has shape \(1,\), in the fit it had \(2,\)"):
        units.predict({"x": np.zeros(1)}, key=1)
    with pytest.raises(
        ModelError, match=r"'effect' has shape \(3,\).*name it or its plate.*\('effect', 'unit'\)"
    ):
        units.predict({"x": np.ones(3)}, key=1)


# A solve: the same path, whatever times are asked


def predators(times, y=None):
    rates = numpyro.sample("rates", dist.LogNormal(jnp.zeros(3), 0.1).to_event(1))

    def field(t, y, rates):
        return jnp.stack([rates[0] * y[0] - rates[1] * y[0] * y[1], rates[2] * y[0] * y[1] - y[1]])

    path = bh.solve_ode(
        "path",
        field,
        jnp.array([1.2, 0.8]),
        times,
        t0=1900.0,
        args=rates,
        labels=("hare", "lynx"),
        unit="kpelt",
    )
    bh.observe("y", dist.LogNormal(jnp.log(path.ys), 0.1), obs=y, labels=("hare", "lynx"), unit="kpelt")


@pytest.fixture(scope="module")
def pelts() -> Posterior:
    rates = np.random.default_rng(5).normal(1.0, 0.03, (40, 3))
    years = np.arange(1900.0, 1906.0)
    return posterior(predators, {"times": years, "y": np.ones((6, 2))}, {"rates": rates})


@pytest.mark.slow
def test_the_end_of_a_forecast_does_not_depend_on_its_beginning(pelts):
    whole = pelts.predict({"times": np.arange(1900.0, 1921.0)}, key=1)
    end = pelts.predict({"times": np.arange(1915.0, 1921.0)}, key=1)
    assert np.allclose(end.latent["path"].draws, whole.latent["path"].draws[:, 15:], rtol=1e-4)
    assert np.allclose(end.total["y"], whole.total["y"][15:], rtol=1e-3)
    assert (end.latent["path"].labels, end.latent["path"].unit) == (("hare", "lynx"), "kpelt")
    # the state is the median of the observation, whose mean is larger
    means = np.exp(np.log(whole.latent["path"].draws) + 0.1**2 / 2).mean(axis=0)
    assert np.allclose(whole.conditional["y"][0][:, 0].mean(axis=0), means, rtol=1e-10)


def test_functions_of_the_trajectory_by_name(pelts):
    forecast = pelts.predict({"times": np.arange(1915.0, 1921.0)}, key=1)
    peak = forecast.of(lambda path: path[:, 0].max(), name="peak", unit="kpelt")
    assert np.allclose(peak.draws, forecast.latent["path"].draws[:, :, 0].max(axis=1))
    assert (peak.name, peak.unit) == ("peak", "kpelt")
    both = forecast.of(lambda y, rates: y[0, 0] * rates[1])
    assert np.allclose(
        both.draws, forecast.observed["y"].draws[:, 0, 0] * forecast.latent["rates"].draws[:, 1]
    )
    plain_numpy = forecast.of(lambda path: float(np.sort(np.asarray(path)[:, 0])[0]))
    assert np.allclose(plain_numpy.draws, forecast.latent["path"].draws[:, :, 0].min(axis=1))
    with pytest.raises(
        ModelError, match=r"asks for 'pth', which is no quantity of this forecast: name its parameters"
    ):
        forecast.of(lambda pth: pth)


def growth(times, y=None):
    """dy/dt = k y^2, y(0) = 1: it leaves at t = 1/k."""
    k = numpyro.sample("k", dist.Uniform(0.0, 1.0))
    path = bh.solve_ode("path", lambda t, y, k: k * y**2, 1.0, times, t0=0.0, args=k, rtol=1e-4, atol=1e-4)
    bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)


@pytest.mark.slow
def test_draws_that_fail_are_dropped_and_counted():
    k = np.linspace(0.1, 0.6, 20)
    found = posterior(growth, {"times": np.array([0.5]), "y": np.ones(1)}, {"k": k})
    forecast = found.predict({"times": np.array([2.0])}, key=1)
    failing = int(np.sum(k >= 0.5))
    assert (forecast.asked, forecast.failures) == (20, failing)
    assert forecast.failed_share == failing / 20
    assert np.allclose(forecast.latent["k"].draws, k[k < 0.5])
    assert np.all(np.isfinite(forecast.latent["path"].draws))
    assert forecast.remarks[0].startswith(
        f"{failing} of 20 draws failed to solve and were left out (the step shrank"
    )
    with pytest.raises(ModelError, match="every one of 20 draws failed to solve at these inputs"):
        found.predict({"times": np.array([20.0])}, key=1)


def drained(times, y=None):
    """A level that falls at a steady rate, observed on the log scale: below zero there is nothing to observe."""
    rate = numpyro.sample("rate", dist.Uniform(0.0, 1.0))
    path = bh.solve_ode("path", lambda t, y, rate: -rate * jnp.ones_like(y), 1.0, times, t0=0.0, args=rate)
    bh.observe("y", dist.LogNormal(jnp.log(path.ys), 0.1), obs=y)


def test_draws_without_a_finite_observation_are_dropped_and_counted():
    rate = np.linspace(0.05, 0.95, 10)
    found = posterior(drained, {"times": np.array([0.5]), "y": np.ones(1)}, {"rate": rate})
    forecast = found.predict({"times": np.array([2.0])}, key=1)
    assert (forecast.asked, forecast.failures) == (10, 5)
    assert np.all(np.isfinite(forecast.observed["y"].draws))
    assert "an observation is NaN or infinite although the model was solved" in forecast.remarks[0]


@pytest.mark.slow
def test_simulate_counts_its_failures():
    forecast = bh.simulate(growth, {"times": np.array([2.0])}, key=0, draws=200)
    assert abs(forecast.failed_share - 0.5) < 4 * np.sqrt(0.25 / 200)
    assert len(forecast.latent["k"].draws) == 200 - forecast.failures


# The split


def linear(x, y=None):
    weights = numpyro.sample("weights", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ weights, 0.7), obs=y)


def test_the_split_of_a_linear_gaussian_model_is_its_algebra():
    """Posterior covariance C: epistemic x'Cx, aleatoric the noise; exact for the draws, near for the formula."""
    generator = np.random.default_rng(6)
    x = generator.normal(size=(5, 2))
    covariance = np.linalg.inv(np.eye(2) / 4 + x.T @ x / 0.49)
    draws = generator.multivariate_normal(np.array([1.0, -1.0]), covariance, 5000)
    later = generator.normal(size=(3, 2))
    forecast = posterior(linear, {"x": x, "y": np.zeros(5)}, {"weights": draws}).predict({"x": later}, key=1)
    assert np.allclose(forecast.aleatoric["y"], 0.49, rtol=1e-12)
    assert np.allclose(
        forecast.epistemic["y"], np.einsum("ni,ij,nj->n", later, np.cov(draws.T, ddof=0), later)
    )
    assert np.allclose(
        forecast.epistemic["y"], np.einsum("ni,ij,nj->n", later, covariance, later), rtol=5 * 0.02
    )
    assert np.allclose(forecast.total["y"], forecast.aleatoric["y"] + forecast.epistemic["y"])


@pytest.mark.parametrize("replicates", [1, 8])
def test_the_total_is_the_variance_of_sampled_observations(replicates):
    def model(x, y=None):
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.3))
        with numpyro.plate("unit", 2):
            effect = numpyro.sample("effect", dist.Normal(jnp.log(scale), 0.5))
            numpyro.sample("y", dist.Gamma(jnp.exp(effect) * x, 1.0), obs=y)

    samples = {
        "scale": np.random.default_rng(7).lognormal(0.0, 0.3, 4000),
        "effect": np.random.default_rng(8).normal(0.0, 0.5, (4000, 2)),
    }
    found = posterior(model, {"x": np.ones(2), "y": np.ones(2)}, samples)
    forecast = found.predict(key=1, new=("unit",) if replicates > 1 else (), replicates=replicates)
    sampled = forecast.observed["y"].draws
    fourth = ((sampled - sampled.mean(axis=0)) ** 4).mean(axis=0)
    error = np.sqrt((fourth - sampled.var(axis=0) ** 2) / 4000)  # replicates of a draw are not independent
    assert np.all(np.abs(forecast.total["y"] - sampled.var(axis=0)) < 4 * error)
    assert np.all(forecast.aleatoric["y"] > 0)
    assert np.all(forecast.epistemic["y"] > 0)


def test_categories_are_split_by_entropy():
    def model(y=None):
        logits = numpyro.sample("logits", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y)

    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]))
    forecast = posterior(model, {"y": np.array(0)}, {"logits": logits}).predict(key=1)
    entropy = lambda p: -np.sum(p * np.log(p))  # noqa: E731
    each, whole = entropy(np.array([0.8, 0.1, 0.1])), entropy(np.array([0.45, 0.45, 0.1]))
    assert np.allclose(forecast.aleatoric["y"], each)
    assert np.allclose(forecast.total["y"], whole)
    assert np.allclose(forecast.epistemic["y"], whole - each)


# Parts, quantities and doors


def test_parts_have_a_root_and_a_share():
    part = Part({"y": np.array([4.0, 0.0])}, {"y": np.array([16.0, 0.0])})
    assert part.sd["y"].tolist() == [2.0, 0.0]
    assert part.share["y"][0] == 0.25
    assert np.isnan(part.share["y"][1])
    assert (list(part), len(part)) == (["y"], 1)


@pytest.mark.parametrize("mass", [0.0, 1.0, 90])
def test_an_interval_holds_a_share(mass):
    quantity = Quantity("y", np.arange(101.0))
    with pytest.raises(
        ValueError, match=rf"interval\(mass={mass}\): write a share between 0 and 1, such as 0\.9"
    ):
        quantity.interval(mass)


def test_a_quantity_tells_its_quantiles():
    quantity = Quantity("y", np.arange(101.0)[:, None])
    assert np.allclose(quantity.interval(0.8)[:, 0], [10.0, 90.0])
    assert quantity.quantile(0.25)[0] == 25.0
    assert (quantity.mean[0], quantity.sd[0]) == (50.0, np.arange(101).std())


def test_fewer_draws_are_evenly_spaced(units):
    forecast = units.predict(key=1, draws=5)
    assert np.array_equal(
        forecast.latent["middle"].draws, units["middle"][np.linspace(0, DRAWS - 1, 5).round().astype(int)]
    )
    with pytest.raises(ModelError, match="draws=0: at least one draw is needed"):
        units.predict(key=1, draws=0)


def test_the_same_key_gives_the_same_forecast(units):
    first, again, other = (units.predict(key=key).observed["y"].draws for key in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_model_that_always_observes_says_which_argument_to_change():
    def model(x, y):
        numpyro.sample("y", dist.Normal(numpyro.sample("a", dist.Normal()) * x, 1.0), obs=y)

    found = posterior(model, {"x": np.ones(3), "y": np.ones(3)}, {"a": np.ones(4)})
    words = r"this model always observes y, so it cannot be asked.*the default None, as in `def model\(x, y=None\)`"
    with pytest.raises(ModelError, match=words):
        found.predict(key=1)


def test_a_moment_that_does_not_exist_is_remarked_upon():
    def model(y=None):
        numpyro.sample("y", dist.Cauchy(numpyro.sample("a", dist.Normal()), 1.0), obs=y)

    forecast = posterior(model, {"y": np.ones(3)}, {"a": np.zeros(4)}).predict(key=1)
    assert (
        "y has no variance in places (a heavy-tailed noise): read its quantiles instead" in forecast.remarks
    )
