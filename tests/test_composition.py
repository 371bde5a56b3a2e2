"""Joins of science and networks: what they say, what is kept of their parts, and what cannot be joined."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.joins import listening

X = np.linspace(-1.0, 1.0, 5)[:, None]


def line(x):
    return 2.0 * x


def curve(x):
    return x**2 - 0.5


def built(make, *values, **given):
    """What a model of one join says, with the unknowns that are given in place of draws."""
    with configuration.scope():
        model = numpyro.handlers.substitute(numpyro.handlers.seed(make, 0), data=given)
        return np.asarray(model()(*map(jnp.asarray, values)))


def net(name, outputs=1, inputs=1, **settings):
    return bh.network(name, bh.MLP(inputs, outputs, width=3), scale=1.0, center=0.0, spread=1.0, **settings)


def test_a_series_hands_on_what_each_part_says():
    said = built(lambda: bh.series("f", {"first": line, "second": curve, "third": jnp.cos}), X)
    np.testing.assert_allclose(said, np.cos((2 * X) ** 2 - 0.5))


def test_a_series_may_hand_on_its_arguments_too():
    said = built(lambda: bh.series("f", {"first": line, "second": lambda z, x: z + x}, keep=True), X)
    np.testing.assert_allclose(said, 3 * X)


def test_a_residual_adds_or_multiplies():
    np.testing.assert_allclose(built(lambda: bh.residual("f", line, curve), X), 2 * X + X**2 - 0.5)
    said = built(lambda: bh.residual("f", line, curve, how="factor"), X)
    np.testing.assert_allclose(said, 2 * X * np.exp(X**2 - 0.5))


def test_a_missing_term_may_belong_to_some_entries_only():
    def pair(x):
        return jnp.concatenate([x, -x], axis=-1)

    said = built(lambda: bh.residual("f", pair, curve, into=(1,)), X)
    np.testing.assert_allclose(said, np.concatenate([X, -X + X**2 - 0.5], axis=-1))


def test_parallel_parts_are_summed_or_weighed_or_fused_by_a_network():
    parts = {"line": line, "curve": curve}
    np.testing.assert_allclose(built(lambda: bh.parallel("f", parts, fusion="sum"), X), 2 * X + X**2 - 0.5)
    said = built(lambda: bh.parallel("f", parts), X, f_coefficient=jnp.array([3.0, -1.0]))
    np.testing.assert_allclose(said, 6 * X - X**2 + 0.5)

    def fused():
        fusion = net("fusion", inputs=2)
        join = bh.parallel("f", parts, fusion=fusion)
        return lambda x: join(x) - fusion(jnp.concatenate([line(x), curve(x)], axis=-1))

    np.testing.assert_allclose(built(fused, X), 0.0)


def test_each_level_corrects_the_coarser_one():
    """z_1 = l_1, z_2 = c_1 z_1 + l_2, z_3 = c_2 z_2 + l_3, as in Kennedy and O'Hagan (2000), equation 1."""
    levels = {"coarse": line, "middle": curve, "fine": jnp.cos}
    said = built(lambda: bh.hierarchical("f", levels), X, f_coupling=jnp.array([0.5, 2.0]))
    np.testing.assert_allclose(said, 2.0 * (0.5 * 2 * X + X**2 - 0.5) + np.cos(X))


def test_levels_of_other_shapes_are_lifted():
    levels = {"coarse": lambda x: x[::2], "fine": jnp.zeros_like}
    said = built(
        lambda: bh.hierarchical("f", levels, lift=lambda z: jnp.repeat(z, 2, axis=0)[:5]),
        X,
        f_coupling=jnp.array([1.0]),
    )
    np.testing.assert_allclose(said, np.repeat(X[::2], 2, axis=0)[:5])


def test_constant_weights_mix_the_parts():
    said = built(lambda: bh.gated("f", {"line": line, "curve": curve}), X, f_weight=jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(said, 0.5 * X + 0.75 * (X**2 - 0.5))


@pytest.mark.parametrize("outputs", [1, 2])
def test_weights_that_depend_on_the_input_are_the_softmax_of_a_network(outputs):
    """One output weighs the first of two parts: a logistic function of it."""

    def made():
        gate = net("gate", outputs)
        join = bh.gated("f", {"line": line, "curve": curve}, gate)

        def off(x):
            raw = gate(x)
            logit = raw[:, :1] if outputs == 1 else raw[:, :1] - raw[:, 1:]
            share = jax.nn.sigmoid(logit)
            return join(x) - share * line(x) - (1 - share) * curve(x)

        return off

    np.testing.assert_allclose(built(made, X), 0.0, atol=1e-15)


def test_attention_scores_each_part_by_what_it_says():
    """Parts that say the same have the same weight; a third expert needs no other gate."""

    def made(parts):
        join = bh.gated("f", parts, net("gate", inputs=2), attention=True)

        def weights(x):
            with listening() as said:
                join(x)
            return said["f"][0]["gate"]

        return weights

    two = built(lambda: made({"one": line, "same": line}), X)
    three = built(lambda: made({"one": line, "other": curve, "same": line}), X)
    np.testing.assert_allclose(two, 0.5)
    assert three.shape == (5, 3)
    np.testing.assert_allclose(three.sum(axis=1), 1.0)
    np.testing.assert_allclose(three[:, 0], three[:, 2])
    assert np.ptp(three[:, 1]) > 1e-3


JOINS = {
    "series": lambda f, g: bh.series("join", {"net": f, "law": jnp.tanh}),
    "residual": lambda f, g: bh.residual("join", line, f),
    "factor": lambda f, g: bh.residual("join", line, f, how="factor"),
    "parallel": lambda f, g: bh.parallel("join", {"law": line, "net": f}),
    "fused": lambda f, g: bh.parallel("join", {"law": line, "net": f}, fusion=net("fusion", inputs=2)),
    "hierarchical": lambda f, g: bh.hierarchical("join", {"coarse": line, "fine": f}),
    "constant gate": lambda f, g: bh.gated("join", {"law": line, "net": f}),
    "gate": lambda f, g: bh.gated("join", {"law": line, "net": f}, g),
    "attention": lambda f, g: bh.gated(
        "join", {"law": line, "net": f}, net("score", inputs=2), attention=True
    ),
    "nested": lambda f, g: bh.residual("join", bh.gated("inner", {"law": line, "net": f}), g),
}


@pytest.mark.parametrize("kind", JOINS)
def test_gradients_of_each_join_are_those_of_central_differences(kind):
    def model(x, y=None):
        join = JOINS[kind](net("f"), net("g"))
        bh.observe("y", dist.Normal(join(x), 0.5), obs=y)

    with configuration.scope():
        target = bh.Target(model, {"x": X, "y": np.sin(3 * X)})
        q = 0.5 * np.random.default_rng(0).standard_normal(target.layout.size)
        gradient = np.asarray(jax.grad(target.log_density)(jnp.asarray(q)))
        step = 1e-5 * np.eye(len(q))
        values = jax.jit(jax.vmap(target.log_density))(np.concatenate([q + step, q - step]))
    differences = (values[: len(q)] - values[len(q) :]) / 2e-5
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-7)


TIMES = np.linspace(0.2, 2.0, 6)


def growing(times, y=None):
    """Growth at a known rate and a missing term that a network is to say, as the field of a solve."""
    rate = bh.parameter("rate", bh.prior_interval(0.3, 1.2), unit="1/d")
    missing = net("missing", initial="zero")
    field = bh.residual(
        "growth", lambda t, y, args: args * y, missing, inputs=lambda t, y, args: y, unit="mg/d"
    )
    path = bh.solve_ode("path", field, jnp.ones(1), times, t0=0.0, args=rate, labels=("mass",), unit="mg")
    bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)


def test_a_forecast_has_what_each_part_of_a_field_says_along_the_solution():
    forecast = bh.simulate(growing, {"times": TIMES}, key=0, draws=30)
    known, missing = (forecast.latent[f"growth.{part}"] for part in ("known", "missing"))
    assert known.unit == missing.unit == "mg/d"
    path, rate = forecast.latent["path"].draws, forecast.latent["rate"].draws
    np.testing.assert_allclose(known.draws, rate[:, None, None] * path)
    inner, outer = (forecast.latent[f"missing/layers[{i}].weight"].draws for i in (0, 1))
    biases = [forecast.latent[f"missing/layers[{i}].bias"].draws for i in (0, 1)]
    hidden = np.tanh(np.einsum("dhi,dti->dth", inner, path) + biases[0][:, None])
    said = np.einsum("doh,dth->dto", outer, hidden) + biases[1][:, None]
    ratio = missing.draws / said
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-6)  # one scale for all


def test_parts_of_a_field_of_many_units_count_the_units():
    def model(times):
        rates = bh.parameter(
            "rate", dist.LogNormal(0.0, 0.2), across="plot", size=3, spread=dist.HalfNormal(0.1)
        )
        field = bh.parallel(
            "growth", {"up": lambda t, y, k: k * y, "down": lambda t, y, k: -0.1 * y**2}, fusion="sum"
        )
        bh.solve_ode(
            "path", field, jnp.ones(1), times, t0=0.0, args=rates, in_axes=(None, None, 0), across="plot"
        )

    forecast = bh.simulate(model, {"times": TIMES}, key=0, draws=4)
    down = forecast.latent["growth.down"]
    assert down.draws.shape == (4, 3, 6, 1)
    assert down.across == "plot"
    np.testing.assert_allclose(down.draws, -0.1 * forecast.latent["path"].draws ** 2)


def test_joins_work_on_a_solution_and_for_parameters_from_covariates():
    """A rate from a covariate by network and law, and a detector between two that were proposed."""

    def model(times, weight, y=None):
        rate = bh.series("rate", {"read": net("read"), "law": lambda z: jnp.exp(0.3 * z[0])}, unit="1/d")
        path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate(weight))
        detector = bh.gated("detector", {"linear": lambda z: z, "saturated": lambda z: z / (1 + z)})
        bh.observe("y", dist.Normal(detector(path.ys), 0.05), obs=y)

    forecast = bh.simulate(model, {"times": TIMES, "weight": np.array([0.5])}, key=0, draws=20)
    law, gate = forecast.latent["rate.law"], forecast.latent["detector.gate"]
    assert law.unit == "1/d"
    assert gate.labels == ("linear", "saturated")
    np.testing.assert_allclose(law.draws, np.exp(0.3 * forecast.latent["rate.read"].draws[:, 0]))
    expected = np.exp(-law.draws[:, None] * TIMES)
    np.testing.assert_allclose(forecast.latent["detector.linear"].draws, expected, rtol=1e-4)
    np.testing.assert_allclose(gate.draws.sum(axis=1), 1.0)


def test_a_join_called_several_times_keeps_all_calls():
    def model(times):
        flow = bh.residual("flow", lambda x: x, lambda x: 0.1 * x**2)
        field = lambda t, y, args: jnp.stack([-flow(y[0]), flow(y[0]) - flow(y[1])])  # noqa: E731
        bh.solve_ode("path", field, jnp.array([1.0, 0.5]), times, t0=0.0)

    forecast = bh.simulate(model, {"times": TIMES}, key=0, draws=2)
    path = forecast.latent["path"].draws
    np.testing.assert_allclose(forecast.latent["flow.known"].draws, path[:, :, [0, 0, 1]])


def test_the_budget_gives_each_part_its_planted_share():
    """Two parts with variances 4 and 1 at every place, and noise of 1."""

    def model(x, y=None):
        a, b = (numpyro.sample(name, dist.Normal(0.0, sd)) for name, sd in (("a", 2.0), ("b", 1.0)))
        join = bh.residual("law", lambda x: a * x, lambda x: b * jnp.sign(x))
        bh.observe("y", dist.Normal(join(x), 1.0), obs=y)

    posterior = bh.infer(model, {"x": np.zeros(2), "y": np.zeros(2)}, bh.NUTS(draws=500, warmup=300), key=0)
    forecast = posterior.predict({"x": np.array([1.0, -1.0])}, key=1)
    rows = bh.uncertainty.budget(forecast).rows
    np.testing.assert_allclose(rows["a"], 4.0, rtol=0.15)
    np.testing.assert_allclose(rows["b"], 1.0, rtol=0.15)
    np.testing.assert_allclose(rows["noise"], 1.0)


WRONG = {
    "at least two parts": lambda: bh.gated("f", {}),
    "at least two parts, got": lambda: bh.series("f", {"only": line}),
    "which cannot be called": lambda: bh.residual("f", line, 3.0),
    "is no name for a part": lambda: bh.parallel("f", {"a b": line, "c": curve}),
    "write the parts as": lambda: bh.parallel("f", [line, curve]),
    'write "sum" or "factor"': lambda: bh.residual("f", line, curve, how="product"),
    'write "linear", "sum"': lambda: bh.parallel("f", {"a": line, "b": curve}, fusion="mean"),
    "write a bh.network": lambda: bh.gated("f", {"a": line, "b": curve}, gate=line),
    "needs a bh.network": lambda: bh.gated("f", {"a": line, "b": curve}, attention=True),
    "a part cannot be called 'gate'": lambda: bh.gated("f", {"gate": line, "b": curve}),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_cannot_be_joined_is_said_at_once(told):
    with configuration.scope(), pytest.raises(bh.ModelError, match=told):
        numpyro.handlers.seed(WRONG[told], 0)()


ILL_CALLED = {
    "its parts have different shapes, known (5, 1), missing (5,)": lambda: bh.residual(
        "f", line, lambda x: x[:, 0]
    ),
    "says to which of 1 entries": lambda: bh.residual("f", line, curve, into=(1,)),
    "into=(0, 0) says to which": lambda: bh.residual("f", line, lambda x: x * jnp.ones((1, 2)), into=(0, 0)),
    "part 'second' returns nothing": lambda: bh.series("f", {"first": line, "second": lambda x: None}),
    "write lift=...": lambda: bh.hierarchical("f", {"coarse": lambda x: x[::2], "fine": line}),
    "the gate has 3 outputs for 2 parts (a, b)": lambda: bh.gated("f", {"a": line, "b": curve}, net("g", 3)),
}


@pytest.mark.parametrize("told", ILL_CALLED)
def test_what_does_not_go_together_is_said_when_it_is_called(told):
    with pytest.raises(bh.ModelError) as error:
        built(ILL_CALLED[told], X)
    assert told in str(error.value)
    assert "('f')" in str(error.value)


def test_a_network_cannot_be_asked_three_arguments():
    def model(times):
        field = bh.residual("growth", lambda t, y, args: -y, net("missing"))
        bh.solve_ode("path", field, jnp.ones(1), times, t0=0.0)

    with pytest.raises(bh.ModelError, match="inputs=lambda t, y, args: y"):
        bh.simulate(model, {"times": TIMES}, key=0, draws=2)


def test_names_and_places_of_joins_are_their_own():
    def twice(x):
        for _ in range(2):
            bh.residual("f", line, curve)(x)

    def spread(times):
        flow = bh.residual("flow", line, curve)
        path = bh.solve_ode("path", lambda t, y, args: -flow(y), jnp.ones(1), times, t0=0.0)
        numpyro.deterministic("out", flow(path.ys))

    with pytest.raises(bh.ModelError, match="'f' is used by two joins"):
        bh.simulate(twice, {"x": X}, key=0, draws=2)
    with pytest.raises(bh.ModelError, match="'flow' is called in two places"):
        bh.simulate(spread, {"times": TIMES}, key=0, draws=2)
