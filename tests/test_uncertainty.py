"""Budgets of the variance of a forecast against algebra, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from posteriors import VERDICT
from test_attribution import gaussian_worth, shapley

import bayeshybrid as bh
from bayeshybrid import attribution, configuration, uncertainty
from bayeshybrid.faults import ModelError
from bayeshybrid.verdict import Verdict

CHAINS, EACH = 4, 500
PASS = Verdict((replace(VERDICT.checks[0]),))
NOISE = 0.5


def posterior(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    draws: np.ndarray,
    verdict: Verdict = PASS,
    values: Mapping[str, np.ndarray] | None = None,
) -> bh.Posterior:
    """A posterior with these unconstrained draws, `(draws, size)`, in four chains where they divide by four."""
    with configuration.scope():
        target = bh.Target(model, data)
        values = values or jax.jit(jax.vmap(target.constrain))(jnp.asarray(draws))
    chains = CHAINS if len(draws) % CHAINS == 0 else 1
    samples = {name: np.asarray(x).reshape(chains, -1, *x.shape[1:]) for name, x in values.items()}
    return bh.Posterior(
        target, draws.reshape(chains, -1, draws.shape[-1]), samples, {}, verdict, "made up", 0
    )


def check_sums(told: uncertainty.Budget) -> None:
    np.testing.assert_allclose(sum(told.rows.values()), told.total, rtol=1e-12)
    epistemic = sum(told.rows[row] for row in (*told.groups, "not attributed"))
    np.testing.assert_allclose(epistemic, told.epistemic, rtol=1e-12, atol=1e-300)
    assert np.all(told.rows["not attributed"] > -1e-12 * told.total)
    assert set(told.errors) == {*told.groups, "not attributed"}
    assert np.isclose(sum(told.shares().values()), 1.0)


# A linear Gaussian model: everything is algebra

X = np.random.default_rng(11).normal(size=(6, 5)) + 1.0
GROUP = np.array([0, 0, 1, 1, 2])


def linear(x, y=None):
    a = bh.parameter("a", dist.Normal(0.0, 1.0), shape=(2,))
    b = bh.parameter("b", dist.Normal(0.0, 1.0), shape=(2,))
    c = bh.parameter("noise", dist.Normal(0.0, 1.0), shape=(1,))
    bh.observe("y", dist.Normal(x @ jnp.concatenate([a, b, c]), NOISE), obs=y, unit="K")


COVARIANCE = np.linalg.inv(np.eye(5) + X.T @ X / NOISE**2)
LATER = np.random.default_rng(12).normal(size=(3, 5))


@pytest.fixture(scope="module")
def fitted() -> bh.Posterior:
    draws = np.random.default_rng(13).multivariate_normal(np.ones(5), COVARIANCE, CHAINS * EACH)
    return posterior(linear, {"x": X, "y": np.zeros(6)}, draws)


@pytest.fixture(scope="module")
def forecast(fitted) -> bh.Forecast:
    return fitted.predict({"x": LATER}, key=1)


def test_a_linear_gaussian_model(forecast):
    told = uncertainty.budget(forecast)
    check_sums(told)
    assert told.groups == ("a", "b", "noise (parameters)")
    assert list(told.rows) == ["noise", *told.groups, "not attributed"]
    np.testing.assert_allclose(told.rows["noise"], NOISE**2, rtol=1e-12)
    np.testing.assert_allclose(told.total, forecast.total["y"], rtol=1e-12)
    np.testing.assert_allclose(told.epistemic, forecast.epistemic["y"], rtol=1e-12)
    for entry, slope in enumerate(LATER):
        worth = gaussian_worth(COVARIANCE, slope, GROUP)
        for g, (name, effect) in enumerate(zip(told.groups, shapley(worth, 3), strict=True)):
            error = told.errors[name][entry]
            assert abs(told.rows[name][entry] - effect) < 4 * error
            assert error < 0.05 * told.epistemic[entry]
            assert np.isclose(told.drop[name][entry], worth((g,)), atol=0.1 * told.epistemic[entry])
        exact = np.diag(slope) @ COVARIANCE @ np.diag(slope)
        parts = [exact[np.ix_(GROUP == g, GROUP == g)].sum() for g in range(3)]
        assert np.isclose(told.compensation[entry], sum(parts) / exact.sum(), rtol=0.1)
    assert not told.solver.any()
    assert told.scale == "identity"


def test_what_it_prints_and_says(forecast):
    told = uncertainty.budget(forecast)
    table = str(told).splitlines()
    assert table[0] == "Where the variance of y comes from, averages over 3 entries"
    assert "sd (K)" in table[1]
    assert [line.split("  ")[1] for line in table[2:8]] == [*told.rows, "total"]
    assert "0.5" in table[2]
    assert "+-" in table[3]
    shares = told.shares()
    first = max(shares, key=shares.__getitem__)
    assert told.words[0].startswith("The main source of doubt about a new measurement of y is ")
    assert f"{100 * shares[first]:.0f} % of the variance of y, averaged over its 3 values" in told.words[0]
    assert not any("computation" in sentence for sentence in told.words)
    assert not any("solver" in sentence for sentence in told.words)


def test_one_draw_has_no_epistemic_part(fitted):
    one = posterior(linear, {"x": X, "y": np.zeros(6)}, np.ones((1, 5)))
    told = uncertainty.budget(one.predict({"x": LATER}, key=1))
    check_sums(told)
    assert not told.epistemic.any()
    assert not any(told.rows[g].any() or told.drop[g].any() or told.errors[g].any() for g in told.groups)
    np.testing.assert_allclose(told.total, NOISE**2)
    assert "measurement noise: 100 %" in told.words[0]
    assert "cannot be divided" not in " ".join(told.words)


def test_few_draws_say_so(fitted):
    told = uncertainty.budget(fitted.predict({"x": LATER}, key=1, draws=40))
    check_sums(told)
    assert any("Only 40 draws for 5 coordinates" in sentence for sentence in told.words)
    told = uncertainty.budget(fitted.predict({"x": LATER}, key=1, draws=10))
    check_sums(told)
    assert np.allclose(told.rows["not attributed"], told.epistemic)
    assert any("With 10 draws" in sentence for sentence in told.words)
    assert any("100 % of what we do not know could not be attributed" in sentence for sentence in told.words)


def test_sampled_orders_and_reduced_groups_are_said(forecast, monkeypatch):
    monkeypatch.setattr(attribution, "EXACT_GROUPS", 2)
    monkeypatch.setattr(attribution, "MOST_COLUMNS", 4)
    told = uncertainty.budget(forecast)
    check_sums(told)
    assert "The 3 groups were put in 128 random orders instead of all." in told.words
    assert any(sentence.startswith("a has more coordinates than can be fitted") for sentence in told.words)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (VERDICT, "The computation behind these draws failed its checks"),
        (Verdict(()), "The computation behind these draws could not be checked"),
        (replace(PASS, nature="approximate"), "The draws approximate the posterior"),
        (replace(PASS, nature="not draws of a posterior"), "The draws are not draws of a posterior"),
        (PASS, None),
        (replace(PASS, remarks=("noted",)), None),
    ],
)
def test_what_the_verdict_means_for_the_shares(forecast, verdict, words):
    told = uncertainty.budget(replace(forecast, origin=replace(forecast.origin, verdict=verdict)))
    said = [sentence for sentence in told.words if "draws" in sentence]
    assert len(said) == (words is not None)
    assert words is None or said[0].startswith(words)


# A network beside a mechanism

NETWORK = bh.MLP(1, 1, width=2)


def hybrid(x, y=None):
    rate = bh.parameter("rate", dist.Normal(0.0, 1.0))
    start = bh.parameter("start", dist.Normal(0.0, 1.0))
    missing = bh.network("missing", NETWORK, scale=1.0, center=0.0, spread=1.0)
    bh.observe("y", dist.Normal(rate + 0.1 * start + missing(x[:, None])[:, 0], 0.1), obs=y)


HYBRID = {"x": np.linspace(-1.0, 1.0, 4), "y": np.zeros(4)}


def hybrid_posterior(correlation: float, swapped: bool = False) -> bh.Posterior:
    """Only the rate, the start and the network's last bias vary; `swapped`: half the draws exchange hidden units."""
    generator = np.random.default_rng(14)
    with configuration.scope():
        layout = bh.Target(hybrid, HYBRID).layout
        draws = np.tile(np.asarray(generator.normal(size=layout.size)), (CHAINS * EACH, 1))
    last = max(site.name for site in layout.latent if "bias" in site.name)
    first = [site for site in layout.latent if site.tag.kind == "weight" and site.name != last]
    three = generator.multivariate_normal(
        np.zeros(3), [[1, 0, correlation], [0, 1, 0], [correlation, 0, 1]], CHAINS * EACH
    )
    for column, name in zip(three.T, ("rate", "start", last), strict=True):
        draws[:, layout[name].start] = column
    if swapped:
        for site in first:  # hidden units are the rows of the first layer and the columns of the last
            axis = site.unconstrained_shape.index(2)
            piece = draws[1::2, site.start : site.stop].reshape(-1, *site.unconstrained_shape)
            draws[1::2, site.start : site.stop] = np.flip(piece, axis + 1).reshape(len(piece), -1)
    return posterior(hybrid, HYBRID, draws)


@pytest.fixture(scope="module")
def cancelling() -> uncertainty.Budget:
    return uncertainty.budget(hybrid_posterior(-0.98).predict(key=1))


def test_science_and_network_that_cancel(cancelling):
    """Shuffling one against the other would claim fifty times the variance; the sum is the total all the same."""
    check_sums(cancelling)
    assert (cancelling.groups, cancelling.networks) == (("rate", "start", "missing"), ("missing",))
    assert cancelling.compensating == ("rate", "missing") or cancelling.compensating == ("missing", "rate")
    bias = cancelling.drop["rate"] - cancelling.drop["missing"]
    assert np.all(np.abs(bias) < 0.2 * cancelling.epistemic)
    trade = next(sentence for sentence in cancelling.words if "trade off" in sentence)
    assert "the network missing" in trade.lower()
    assert "at 4 of 4 values" in trade


@pytest.mark.parametrize("correlation", [-0.98, 0.0])
def test_the_compensation_is_the_ratio_of_variances(correlation):
    found = hybrid_posterior(correlation)
    forecast = found.predict(key=1)
    told = uncertainty.budget(forecast)
    f, science, start = (
        forecast.conditional["y"][0][:, 0],
        found["rate"][:, None],
        0.1 * found["start"][:, None],
    )
    separate = science.var(axis=0) + start.var(axis=0) + (f - science - start).var(axis=0)
    assert np.allclose(told.compensation, separate / f.var(axis=0), rtol=0.1)
    assert (
        bool(told.compensating)
        == any("trade off" in sentence for sentence in told.words)
        == (correlation < 0)
    )


def test_a_network_is_known_by_what_it_answers(cancelling):
    """Exchanged hidden units are other weights and the same function."""
    swapped = uncertainty.budget(hybrid_posterior(-0.98, swapped=True).predict(key=1))
    for row, variance in cancelling.rows.items():
        np.testing.assert_allclose(swapped.rows[row], variance, rtol=1e-6, atol=1e-12)


# What is drawn anew


def population(times, unit, y=None):
    """Each unit has its level, and all follow one random walk."""
    middle = numpyro.sample("middle", dist.Normal(0.0, 10.0))
    with numpyro.plate("units", len(unit)):
        level = numpyro.sample("level", dist.Normal(middle, 2.0))
    steps = numpyro.sample("steps", dist.Normal(0.0, 1.0).expand([len(times) - 1]))
    path = jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)])
    numpyro.sample("y", dist.Normal(level[:, None] + path[None, :], 0.5), obs=y)


@pytest.fixture(scope="module")
def units() -> bh.Posterior:
    draws = (
        np.random.default_rng(15).normal(size=(CHAINS * EACH, 5)) * np.array([0.3, 0.1, 0.1, 0.2, 0.2]) + 5.0
    )
    return posterior(
        population, {"times": np.arange(3.0), "unit": np.arange(2), "y": np.zeros((2, 3))}, draws
    )


@pytest.fixture(scope="module")
def newcomer(units) -> bh.Forecast:
    inputs = {"times": np.arange(3.0), "unit": np.arange(1)}
    return units.predict(inputs, key=1, new=("units",), replicates=16)


def test_new_units(newcomer):
    told = uncertainty.budget(newcomer)
    check_sums(told)
    assert list(told.rows) == ["noise", "differences between units", "middle", "steps", "not attributed"]
    np.testing.assert_allclose(told.total, newcomer.total["y"], rtol=1e-12)
    assert np.allclose(told.rows["differences between units"], 4.0, rtol=0.05)
    assert np.allclose(told.rows["middle"], 0.09, atol=0.05)  # what 16 replicates of variance 4 leave of it
    assert "differences between units, drawn anew" in told.words[0]


def test_a_process_that_goes_on(units):
    told = uncertainty.budget(units.predict({"times": np.arange(5.0), "unit": np.arange(2)}, key=1))
    check_sums(told)
    assert list(told.rows) == ["noise", "process", "middle", "level", "steps", "not attributed"]
    assert np.allclose(told.rows["process"], [[0, 0, 0, 1, 2]] * 2, atol=0.1)
    assert np.allclose(told.rows["steps"][:, 1], 0.04, rtol=0.2)
    assert np.all(np.abs(told.rows["middle"]) < 0.2 * np.maximum(told.epistemic, 0.05))


def test_both_are_one_row_and_one_replicate_is_none(newcomer):
    told = uncertainty.budget(replace(newcomer, continued=("steps",), carried=("middle",)))
    check_sums(told)
    assert list(told.rows)[1] == "process and differences between units"
    once = {"y": tuple(moment[:, :1] for moment in newcomer.conditional["y"])}
    told = uncertainty.budget(replace(newcomer, replicates=1, conditional=once))
    check_sums(told)
    assert list(told.rows) == ["noise", "middle", "steps", "not attributed"]
    assert np.all(told.rows["not attributed"] > 3.0)
    assert any("replicates=8" in sentence for sentence in told.words)


# Scales


def positive(y=None):
    a = bh.parameter("a", dist.Normal(0.0, 1.0))
    b = bh.parameter("b", dist.Normal(0.0, 1.0))
    bh.observe("y", dist.LogNormal(a + 2.0 * b, 0.5).expand([2]).to_event(1), obs=y, unit="mg")


def test_the_logarithm_of_a_log_normal_site():
    draws = np.random.default_rng(16).normal(size=(CHAINS * EACH, 2))
    narrow = posterior(positive, {"y": np.ones(2)}, 0.05 * draws).predict(key=1)
    told = uncertainty.budget(narrow, scale="log")
    check_sums(told)
    assert (told.scale, told.unit) == ("log", "log mg")
    assert np.allclose(told.rows["noise"], 0.25)
    assert np.allclose(told.rows["a"], 0.05**2, rtol=0.15)
    assert np.allclose(told.rows["b"], 4 * 0.05**2, rtol=0.15)
    assert "the logarithm of y" in told.words[0]
    assert uncertainty.budget(narrow).scale == "identity"
    wide = posterior(positive, {"y": np.ones(2)}, 2.0 * draws).predict(key=1)
    told = uncertainty.budget(wide)  # nearly all of the variance of y is that of its highest draws
    check_sums(told)
    assert told.scale == "log"
    assert np.allclose(told.rows["b"], 16.0, rtol=0.15)
    assert uncertainty.budget(wide, scale="identity").scale == "identity"


def heavy(y=None):
    a = numpyro.sample("a", dist.Normal())
    numpyro.sample("tail", dist.Cauchy(a, 1.0), obs=y)
    numpyro.sample("cubed", dist.Normal(jnp.exp(3.0 * a), 1.0), obs=y)
    numpyro.sample(
        "kind", dist.Categorical(logits=jnp.stack([a, -a])), obs=None if y is None else jnp.array(0)
    )


@pytest.fixture(scope="module")
def awkward() -> bh.Forecast:
    draws = np.random.default_rng(17).normal(size=(CHAINS * EACH, 1))
    return posterior(heavy, {"y": np.array(0.0)}, draws).predict(key=1)


@pytest.mark.parametrize(
    ("site", "scale", "words"),
    [
        ("tail", None, r"the variance of tail is infinite or undefined in places.*interval\(0\.9\) instead$"),
        ("cubed", None, r'the variance of cubed rests on few draws.*or write scale="identity"'),
        ("cubed", "log", "cubed is not log-normal"),
        ("kind", None, "kind holds classes.*forecast.epistemic"),
        (
            None,
            None,
            r"several sites are observed; write budget\(forecast, site=...\) with one of cubed, kind, tail",
        ),
        ("tial", None, "no observed site 'tial'"),
        ("cubed", "ln", r"budget\(scale='ln'\): write"),
    ],
)
def test_what_cannot_be_split(awkward, site, scale, words):
    with pytest.raises(ModelError, match=words):
        uncertainty.budget(awkward, site, scale=scale)


def test_few_draws_are_split_where_it_is_asked_for(awkward):
    check_sums(uncertainty.budget(awkward, "cubed", scale="identity"))


def test_draws_of_the_prior_have_no_budget(forecast):
    with pytest.raises(ModelError, match=r"drawn from the prior.*posterior\.predict\(inputs, key=1\)"):
        uncertainty.budget(replace(forecast, origin=None))


# The solver


def decay(times, y=None):
    rate = bh.parameter("rate", dist.LogNormal(0.0, 0.1), unit="1/s")
    path = bh.solve_ode(
        "path", lambda t, y, rate: -rate * y, 1.0, times, t0=0.0, args=rate, rtol=1e-2, atol=1e-2
    )
    bh.observe("y", dist.Normal(path.ys, 0.01), obs=y)


@pytest.mark.slow
def test_the_error_of_the_solver_stands_beside_the_sum():
    draws = 0.002 * np.random.default_rng(18).normal(size=(200, 1))
    times = np.array([0.5, 5.0])
    made = posterior(decay, {"times": times, "y": np.zeros(2)}, draws, values={"rate": np.exp(draws[:, 0])})
    forecast = made.predict(key=1)
    told = uncertainty.budget(forecast)
    check_sums(told)
    chosen = np.linspace(0, 199, 100).round().astype(int)
    exact = np.exp(-np.exp(draws[chosen]) * times)
    wrong = np.sqrt(((forecast.conditional["y"][0][chosen, 0] - exact) ** 2).mean(axis=0))
    assert np.allclose(told.solver * np.sqrt(told.total), wrong, rtol=0.3)
    assert told.solver[1] > 0.1

    def said(solver):
        words = replace(told, solver=np.array(solver)).words
        return [sentence for sentence in words if "solver" in sentence]

    assert said([0.3, 0.2])[0].endswith(
        "at most 30 % of the standard deviation. Write a smaller rtol in solve_ode."
    )
    assert said([0.003, 0.002])[0].endswith("at most 0.3 % of the standard deviation.")
    assert said([0.0, np.nan]) == [
        "Under a 100 times tighter tolerance no solve succeeded: the solver's error is not known."
    ]
    assert said([0.0, 0.0]) == []
