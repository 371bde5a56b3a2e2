"""Priors say what they were told; parameters carry it into the model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import log_density

from bayeshybrid import sites
from bayeshybrid.elicitation import SkewTransform, bounded, prior_interval, prior_quantiles
from bayeshybrid.faults import ModelError
from bayeshybrid.priors import Covariate, Parameter, parameter, parameters


def trace_of(model, key=0):
    return handlers.trace(handlers.seed(model, key)).get_trace()


@pytest.mark.parametrize(("low", "high", "mass"), [(0.3, 1.2, 0.95), (-3.0, 5.0, 0.5), (1e-9, 1e9, 0.9)])
def test_the_interval_holds_its_mass_with_equal_tails(low, high, mass):
    prior = prior_interval(low, high, mass)
    np.testing.assert_allclose(
        prior.icdf(jnp.array([(1 - mass) / 2, (1 + mass) / 2])), [low, high], rtol=1e-6
    )
    assert isinstance(prior, dist.LogNormal) == (low > 0)


def test_an_interval_takes_arrays():
    prior = prior_interval(np.array([1.0, 2.0]), np.array([3.0, 9.0]))
    assert prior.batch_shape == (2,)
    assert Parameter(prior).value_shape == (2,)


def test_bounds_are_hard():
    prior = bounded(-1.0, 4.0)
    assert prior.support.lower_bound == -1.0
    assert prior.support.upper_bound == 4.0


@pytest.mark.parametrize(
    "quantiles",
    [
        {0.05: 1.0, 0.5: 2.0, 0.95: 8.0},
        {0.1: -3.0, 0.5: -2.0, 0.9: 0.0},
        {0.25: 2.0, 0.75: 3.0},
        {0.9: 5.0, 0.1: -5.0},
        {0.025: 0.5, 0.25: 1.0, 0.5: 1.42, 0.975: 4.0},
    ],
)
def test_quantiles_are_met(quantiles):
    prior = prior_quantiles(quantiles)
    probabilities, values = jnp.array(list(quantiles)), jnp.array(list(quantiles.values()))
    np.testing.assert_allclose(prior.cdf(values), probabilities, atol=0.005)
    if len(quantiles) <= 3:
        np.testing.assert_allclose(prior.icdf(probabilities), values, rtol=1e-6, atol=1e-9)


def test_the_skewed_density_integrates_to_its_distribution_function():
    prior = prior_quantiles({0.05: -1.0, 0.5: 0.0, 0.95: 2.5})
    grid = jnp.linspace(-6.0, 3.0, 20001)
    mass = jnp.trapezoid(jnp.exp(prior.log_prob(grid)), grid)
    np.testing.assert_allclose(mass, prior.cdf(grid[-1]) - prior.cdf(grid[0]), rtol=1e-6)


def test_the_bend_passes_through_jit_as_a_pytree():
    bend = SkewTransform(0.0, 2.0, jnp.array(1.0))
    assert jnp.allclose(jax.jit(lambda t, x: t.inv(t(x)))(bend, 0.4), 0.4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: prior_interval(3, 1),
            r"low = 3.0 is not below high = 1.0; write prior_interval\(low, high\)",
        ),
        (lambda: bounded(2, 2), "low = 2.0 is not below high = 2.0"),
        (lambda: prior_interval(1, 2, 95), "mass = 95.0 is a probability between 0 and 1"),
        (lambda: prior_interval(1, np.inf), "high is inf; it must be finite"),
        (lambda: prior_interval("a", 2), "low is 'a'; give a number"),
        (lambda: prior_quantiles({0.5: 1.0}), "two quantiles or more"),
        (lambda: prior_quantiles({5: 1.0, 95: 2.0}), r"must lie inside \(0, 1\)"),
        (lambda: prior_quantiles({0.1: 2.0, 0.9: 1.0}), "must rise with the probabilities"),
        (lambda: prior_quantiles({0.05: -1.0, 0.5: -0.99, 0.95: 9.0}), "can lie between"),
        (lambda: prior_quantiles({0.1: 1.0, 0.2: 2.9, 0.8: 3.1, 0.9: 9.0}), "cannot be met together"),
        (lambda: Parameter(3.0), r"prior is 3.0; give a numpyro distribution"),
        (lambda: Parameter(dist.Normal(), shape=(0,)), "whole numbers above zero"),
        (lambda: Parameter(dist.Normal(), shape=(3,), labels=("a", "b")), "2 labels .* for 3 entries"),
        (lambda: Parameter(dist.Normal(), shape=(2,), labels=("a", "a")), "name an entry twice"),
        (lambda: Parameter(dist.Normal(), labels="prey"), "is one string"),
        (
            lambda: Parameter(dist.Normal(jnp.zeros(2)), shape=(3,)),
            r"shape = \(3,\), but the prior itself has",
        ),
        (
            lambda: Parameter(dist.Normal(), across="subject"),
            "size is missing; a parameter of each unit needs",
        ),
        (lambda: Parameter(dist.Normal(), across="s", size=3, spread=dist.Normal()), "can be negative"),
        (lambda: Parameter(dist.Normal(), across="s", size=3, spread=-0.5), "spread = -0.5 is a number"),
        (
            lambda: Parameter(dist.Normal(), across="s", size=0, spread=dist.HalfNormal()),
            "size = 0; give how many",
        ),
        (
            lambda: trace_of(lambda: parameters("rates", k=dist.Normal())),
            r"write k=Parameter\(prior_interval",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_when_built(build, message):
    with pytest.raises(ModelError, match=message):
        build()


def test_a_name_repeated_in_a_group_is_refused():
    pooled = Parameter(prior_interval(1, 2), across="subject", size=3, spread=dist.HalfNormal(0.5))
    with pytest.raises(ModelError, match="the name 'k_spread' is repeated: 'k' and 'k_spread' both use it"):
        trace_of(lambda: parameters("rates", k=pooled, k_spread=Parameter(dist.HalfNormal())))


def test_parameters_are_a_named_tree_of_one_class():
    def model():
        return parameters(
            "rates", birth=Parameter(prior_interval(1, 2), unit="1/yr"), eaten=Parameter(dist.Normal())
        )

    first, second = handlers.seed(model, 0)(), handlers.seed(model, 1)()
    assert type(first) is type(second)
    assert first._fields == ("birth", "eaten")
    assert jax.tree.structure(first) == jax.tree.structure(second)
    trace = trace_of(model)
    assert sites.read(trace["birth"]) == sites.Tag("rates", unit="1/yr")
    assert list(trace) == ["birth", "eaten"]


def test_one_parameter_is_its_own_group_unless_told():
    trace = trace_of(lambda: (parameter("a", dist.Normal()), parameter("b", dist.Normal(), group="noise")))
    assert sites.read(trace["a"]).group == "a"
    assert sites.read(trace["b"]).group == "noise"


def test_a_shaped_parameter_keeps_its_axes_inside_a_plate():
    def model():
        with numpyro.plate("n", 5):
            return parameter("x", dist.Normal(), shape=(3,), labels=("a", "b", "c"))

    assert handlers.seed(model, 0)().shape == (5, 3)


SUPPORTS = [prior_interval(1.0, 4.0), dist.Normal(1.0, 2.0), bounded(0.0, 1.0), dist.Beta(2.0, 3.0)]


@pytest.mark.parametrize("prior", SUPPORTS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_pooling_is_the_stated_formula(prior, shape):
    def model():
        return parameter(
            "k", prior, unit="1/h", shape=shape, across="subject", size=6, spread=dist.HalfNormal(0.4)
        )

    trace = trace_of(model)
    value, population, spread, offset = (
        np.asarray(trace[n]["value"]) for n in ("k", "k_population", "k_spread", "k_offset")
    )
    assert value.shape == (6, *shape)
    assert trace["k"]["type"] == "deterministic"
    assert trace["subject"]["type"] == "plate"
    if isinstance(prior, dist.LogNormal):
        expected = population * np.exp(spread * offset)
    elif isinstance(prior, dist.Normal):
        expected = population + spread * offset
    else:
        odds = np.log(population / (1 - population)) + spread * offset
        expected = 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    kinds = {n: sites.read(trace[n]).kind for n in ("k", "k_population", "k_spread", "k_offset")}
    assert list(kinds.values()) == ["parameter", "population", "spread", "offset"]
    assert {sites.read(trace[n]).group for n in kinds} == {"k"}


def pooled_model(y=None):
    k = parameter(
        "k",
        prior_interval(1, 4),
        unit="1/h",
        across="subject",
        size=3,
        spread=dist.HalfNormal(0.4),
        labels=("a", "b", "c"),
    )
    numpyro.sample("y", dist.Normal(k, 1.0).to_event(1), obs=y)


def test_the_pooled_value_keeps_its_tag_under_numpyros_handlers():
    values = {"k_population": jnp.array(2.0), "k_spread": jnp.array(0.1), "k_offset": jnp.ones(3)}
    wrapped = [
        pooled_model,
        handlers.substitute(pooled_model, data=values),
        handlers.block(pooled_model, hide=["y"]),
        handlers.mask(pooled_model, mask=False),
        handlers.scale(pooled_model, scale=2.0),
        handlers.condition(pooled_model, data=values),
    ]
    for model in wrapped:
        tag = sites.read(trace_of(model)["k"])
        assert tag == sites.Tag("k", unit="1/h", labels=("a", "b", "c"), across="subject")
    assert "s/k" in trace_of(handlers.scope(pooled_model, prefix="s"))
    draws = Predictive(pooled_model, num_samples=7)(jax.random.key(0))
    assert draws["k"].shape == (7, 3)
    density = jax.jit(lambda v: log_density(pooled_model, (jnp.ones(3),), {}, v)[0])(values)
    assert jnp.isfinite(density)


def test_pooling_inside_a_plate_is_refused():
    def model():
        with numpyro.plate("n", 2):
            parameter("k", dist.Normal(), across="subject", size=3, spread=dist.HalfNormal())

    with pytest.raises(ModelError, match="stands inside another plate"):
        trace_of(model)


def test_priors_follow_the_precision_they_are_used_in():
    with jax.enable_x64(False):
        assert prior_interval(1, 2).sample(jax.random.key(0)).dtype == jnp.float32
        assert prior_quantiles({0.1: 1, 0.5: 2, 0.9: 9}).sample(jax.random.key(0)).dtype == jnp.float32


def test_units_without_pooling_have_independent_values_of_their_own():
    def model():
        return parameter("k", dist.LogNormal(0.0, 1.0), across="subject", size=3, unit="1/h")

    trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace()
    assert {name for name, site in trace.items() if site["type"] == "sample"} == {"k"}
    site = trace["k"]
    assert site["value"].shape == (3,)
    assert site["cond_indep_stack"][0].name == "subject"
    np.testing.assert_allclose(
        site["fn"].log_prob(site["value"]), dist.LogNormal(0.0, 1.0).log_prob(site["value"])
    )
    assert sites.read(site).across == "subject"


def test_covariates_shift_the_parameter_on_its_own_scale():
    weight = np.array([50.0, 70.0, 100.0])

    def model(spread):
        return parameter(
            "clearance",
            dist.LogNormal(0.0, 1.0),
            across="subject",
            size=3,
            spread=spread,
            covariates={
                "weight": Covariate(np.log(weight / 70), 0.75),
                "age": Covariate(np.array([-1.0, 0.0, 1.0]), dist.Normal(0.0, 1.0)),
            },
        )

    given = {"clearance_population": 2.0, "clearance_age": 0.1}
    placed = numpyro.handlers.substitute(numpyro.handlers.seed(model, 0), given)
    alone = placed(None)  # differing by their covariates and nothing else
    np.testing.assert_allclose(
        alone, 2.0 * (weight / 70) ** 0.75 * np.exp(0.1 * np.array([-1.0, 0.0, 1.0])), rtol=1e-6
    )
    given |= {"clearance_spread": 0.3, "clearance_offset": np.array([1.0, 0.0, -1.0])}
    pooled = numpyro.handlers.substitute(numpyro.handlers.seed(model, 0), given)(dist.HalfNormal(1.0))
    np.testing.assert_allclose(pooled, alone * np.exp([0.3, 0.0, -0.3]), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"covariates": {"weight": np.ones(3)}}, "write Covariate"),
        ({"covariates": {"weight": Covariate(np.ones(2), 1.0)}}, "2 values for 3"),
        ({"across": None, "size": None, "covariates": {"w": Covariate(np.ones(3), 1.0)}}, "across, size"),
    ],
)
def test_covariates_that_cannot_be_used_say_why(settings, told):
    stated = {"across": "subject", "size": 3, **settings}
    with pytest.raises(ModelError, match=told):
        Parameter(dist.LogNormal(0.0, 1.0), **stated)
