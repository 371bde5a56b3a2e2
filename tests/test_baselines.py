"""Plain models to compare with: their cells against slow code, what they forecast, what they find in planted series."""

from __future__ import annotations

import inspect
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.sequences import LongShortTermMemory, Transformer, positions

TIMES = np.arange(0.0, 10.0)
LATER = np.arange(10.0, 15.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def filled(net, seed=0):
    """The module with random weights."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.standard_normal(np.shape(leaf))), net)


def test_the_memory_is_that_of_its_equations_number_by_number():
    width, known = 3, 2
    net = filled(LongShortTermMemory(known, 2, width))
    inputs = np.random.default_rng(1).standard_normal((5, known))
    weight, bias = np.asarray(net.gates.weight), np.asarray(net.gates.bias)
    cell = np.asarray(net.start)
    hidden = np.tanh(cell)
    said = [net.readout.weight @ hidden + net.readout.bias]
    for x in inputs:
        given = [*x, *hidden]
        raw = [
            sum(w * z for w, z in zip(row, given, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        keep, forget, new, out = (np.array(raw[k * width : (k + 1) * width]) for k in range(4))
        cell = sigmoid(forget + 1.0) * cell + sigmoid(keep) * np.tanh(new)
        hidden = sigmoid(out) * np.tanh(cell)
        said.append(net.readout.weight @ hidden + net.readout.bias)
    np.testing.assert_allclose(net(jnp.asarray(inputs)), np.stack(said), rtol=1e-12)


def slow_attention(block, x):
    """Head by head and place by place."""
    width, heads = x.shape[1], block.heads
    size = width // heads

    def mapped(layer, row):
        return np.asarray(layer.weight) @ row + np.asarray(layer.bias)

    gathered = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for place in range(len(x)):
            q = mapped(block.query, x[place])[part]
            scores = [q @ mapped(block.key, x[earlier])[part] / np.sqrt(size) for earlier in range(place + 1)]
            shares = np.exp(scores) / np.sum(np.exp(scores))
            gathered[place, part] = sum(
                share * mapped(block.value, x[earlier])[part] for earlier, share in enumerate(shares)
            )
    return np.stack([mapped(block.joined, row) for row in gathered])


def slow_norm(x):
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)


def test_the_transformer_is_that_of_its_equations_place_by_place():
    net = filled(Transformer(1, 2, width=8, heads=2, depth=2))
    places, inputs = positions(6, 8, length=5.0), np.random.default_rng(2).standard_normal((6, 1))
    x = np.concatenate([places, inputs], axis=1) @ np.asarray(net.embed.weight).T + np.asarray(net.embed.bias)
    for block in net.blocks:
        x = x + slow_attention(block, slow_norm(x))
        first, last = block.feed.layers
        inner = np.tanh(slow_norm(x) @ np.asarray(first.weight).T + np.asarray(first.bias))
        x = x + inner @ np.asarray(last.weight).T + np.asarray(last.bias)
    expected = slow_norm(x) @ np.asarray(net.readout.weight).T + np.asarray(net.readout.bias)
    np.testing.assert_allclose(net(jnp.asarray(places), jnp.asarray(inputs)), expected, rtol=1e-10)


def test_no_place_of_a_transformer_sees_a_later_one():
    net = filled(Transformer(1, 1, width=4, heads=1, depth=2))
    places = jnp.asarray(positions(7, 4, length=6.0))
    inputs = np.random.default_rng(3).standard_normal((7, 1))
    changed = inputs.copy()
    changed[4:] += 1.0
    before, after = (np.asarray(net(places, jnp.asarray(each))) for each in (inputs, changed))
    np.testing.assert_array_equal(before[:4], after[:4])
    assert np.all(before[4:] != after[4:])  # and each sees itself


def test_times_are_told_apart_by_their_encoding():
    told = positions(40, 8, length=20.0)
    gaps = np.linalg.norm(told[:, None] - told[None], axis=-1)
    assert np.all(gaps[~np.eye(40, dtype=bool)] > 0.2)
    np.testing.assert_allclose(np.sum(told**2, axis=1), 4.0)


PAIR = bh.baselines.Record(
    "pelts",
    span=(0.0, 9.0),
    center=(30.0, 20.0),
    scale=(20.0, 10.0),
    noise="lognormal",
    unit="kpelt",
    labels=("hare", "lynx"),
    inputs=lambda t: jnp.stack([jnp.sin(t), 0.1 * t]),
)
ONE = bh.baselines.Record("y", span=(0.0, 9.0), center=1.0, scale=2.0, unit="mg")
ALL = {
    "multilayer_perceptron": bh.baselines.multilayer_perceptron,
    "long_short_term_memory": bh.baselines.long_short_term_memory,
    "transformer": bh.baselines.transformer,
    "neural_ode": bh.baselines.neural_ode,
    "physics_informed": lambda record: bh.baselines.physics_informed(
        record,
        lambda t, y, values: -values.rate * y,
        {"rate": bh.Parameter(bh.prior_interval(0.1, 1.0), unit="1/d")},
        residual_scale=1.0,
        until=14.0,
    ),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("record", [PAIR, pytest.param(ONE, marks=pytest.mark.slow)], ids=["two", "one"])
def test_each_forecasts_later_times_in_the_shape_unit_and_size_of_the_record(name, record):
    model = ALL[name](record)
    assert list(inspect.signature(model).parameters) == ["times", record.name]
    assert model.__name__ == name
    forecast = bh.simulate(model, {"times": LATER}, key=0, draws=200)
    told, state = forecast.observed[record.name], forecast.latent["state"]
    assert told.draws.shape == (200, 5, *record.shape)
    assert np.all(np.isfinite(told.draws))
    assert told.unit == state.unit == record.unit
    assert told.labels == record.labels
    assert not record.positive or np.all(told.draws > 0)
    first = state.draws[:, 0].reshape(200, -1)
    size = (np.log(first) if record.positive else first).std(axis=0) / record.spread
    assert np.all((size > 0.5) & (size < 20.0))  # a slope that is known to a size adds up


@pytest.mark.parametrize(
    "name", ["long_short_term_memory", pytest.param("transformer", marks=pytest.mark.slow)]
)
def test_what_is_said_of_a_time_does_not_depend_on_what_else_is_asked(name):
    model = ALL[name](ONE)

    def state(times):
        drawn = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace(times=times)
        return np.asarray(drawn["state"]["value"])

    whole = state(np.array([0.0, 0.225, 0.45, 3.0, 14.0]))
    np.testing.assert_allclose(state(np.array([3.0, 0.225])), whole[[3, 1]], rtol=1e-12)
    np.testing.assert_allclose(whole[1], 0.5 * (whole[0] + whole[2]))  # between the ends of the first step


def test_that_steps_are_compiled_in_is_said():
    target = bh.Target(ALL["transformer"](ONE), {"times": TIMES, "y": TIMES})
    assert any("concrete value of 'times'" in note for note in target.notes)
    assert set(target.layout.groups) == {"attention", "noise"}


SWING = 2.0 + 1.5 * np.exp(-0.1 * TIMES) * np.cos(0.9 * TIMES)
DECAY = 2.0 + 1.5 * np.exp(-0.4 * TIMES)
ABOUT_TWO = bh.baselines.Record("y", span=(0.0, 9.0), center=2.0, scale=1.0)
PLANTED = {
    "multilayer_perceptron": (bh.baselines.multilayer_perceptron(ABOUT_TWO, width=6), SWING),
    "long_short_term_memory": (bh.baselines.long_short_term_memory(ABOUT_TWO, width=3, step=1.0), DECAY),
    "transformer": (bh.baselines.transformer(ABOUT_TWO, width=4, heads=1, step=1.0), SWING),
    "neural_ode": (bh.baselines.neural_ode(ABOUT_TWO, width=4), DECAY),
}


def measured(name):
    """The planted series with noise of 0.1."""
    noise = 0.1 * np.random.default_rng(5).standard_normal(len(TIMES))
    return {"times": TIMES, "y": PLANTED[name][1] + noise}


@cache
def fitted(name):
    return bh.infer(PLANTED[name][0], measured(name), bh.DeepEnsemble(members=8, steps=400), key=0, starts=4)


@pytest.mark.parametrize(
    "name",
    [
        "multilayer_perceptron",
        pytest.param("long_short_term_memory", marks=pytest.mark.slow),
        pytest.param("transformer", marks=pytest.mark.slow),
        pytest.param("neural_ode", marks=pytest.mark.slow),
    ],
)
def test_each_learns_a_planted_series(name):
    """It is followed to half of what the mean of the series misses, or better."""
    y = measured(name)["y"]
    forecast = fitted(name).predict({"times": np.concatenate([TIMES, LATER])}, key=1)
    state = forecast.latent["state"].mean[:10]
    assert np.sqrt(np.mean((state - y) ** 2)) < 0.5 * np.std(y)
    assert forecast.observed["y"].draws.shape[1:] == (15,)
    assert np.all(np.isfinite(forecast.observed["y"].draws))


def decaying(weight):
    """A physics-informed network of a decay with rate 0.5 that was measured early on."""
    record = bh.baselines.Record("y", span=(0.0, 6.0), center=0.5, scale=0.5)
    return bh.baselines.physics_informed(
        record,
        lambda t, y, values: -values.rate * y,
        {"rate": bh.Parameter(bh.prior_interval(0.1, 3.0), unit="1/d")},
        residual_scale=0.02,
        weight=weight,
        points=20,
        width=4,
        depth=1,
        length=3.0,
    )


def rates(weight):
    times = np.linspace(0.0, 6.0, 13)
    y = np.exp(-0.5 * times) + 0.01 * np.random.default_rng(6).standard_normal(13)
    method = bh.DeepEnsemble(members=8, steps=600)
    posterior = bh.infer(decaying(weight), {"times": times, "y": y}, method, key=0, starts=4)
    assert any("'equation'" in told for told in posterior.remarks)
    return posterior["rate"]


def test_the_physics_informed_network_finds_a_planted_rate():
    assert abs(np.mean(rates(20.0)) - 0.5) < 0.05


@pytest.mark.slow
def test_where_the_equation_hardly_counts_the_data_say_nothing_of_its_rate():
    assert np.std(rates(1e-6)) > 5 * np.std(rates(20.0))


@pytest.mark.slow
def test_baselines_stand_beside_one_another_and_are_assessed():
    names = ("multilayer_perceptron", "long_short_term_memory")
    fits = {name: fitted(name) for name in names}
    later = {"times": LATER, "y": 2.0 + 1.5 * np.exp(-0.4 * LATER)}
    told = bh.compare(fits, later, key=1)
    assert set(told["y"].figures) == set(fits)
    assert told.posteriors == fits
    forecast = fits["long_short_term_memory"].predict({"times": LATER}, key=1)
    assert bh.calibration.assess(forecast, later)["y"].compared == 5


def test_noise_may_be_a_function_of_the_mean():
    def noise(mean):
        return dist.StudentT(4.0, mean, numpyro.sample("size", dist.HalfNormal(0.1)))

    record = bh.baselines.Record("y", span=(0.0, 9.0), center=2.0, scale=1.0, noise=noise)
    target = bh.Target(bh.baselines.multilayer_perceptron(record, width=2), measured("transformer"))
    assert "size" in target.layout.groups
    assert "noise" not in target.layout.groups
    assert [site.name for site in target.layout.observed] == ["y"]


def record(**changes):
    return bh.baselines.Record(**{"name": "y", "span": (0.0, 9.0), "center": 1.0, "scale": 1.0, **changes})


WRONG = {
    "must be a word that can name an argument": lambda: record(name="a b"),
    "must be a word that can name an argument, not 'times'": lambda: record(name="times"),
    "write the first time and a later last one": lambda: record(span=(3.0, 3.0)),
    "scale = (1.0, 0.0) must be above zero": lambda: record(scale=(1.0, 0.0)),
    "center = -1.0 must be above zero": lambda: record(center=-1.0, noise="lognormal"),
    'write "normal", "lognormal" or a function': lambda: record(noise="gamma"),
    "there are 3 labels": lambda: record(center=(1.0, 2.0), labels=("a", "b", "c")),
    "step = 0.0 must be above zero": lambda: bh.baselines.transformer(record(), step=0.0),
    "width = 6 must be a multiple of 4": lambda: bh.baselines.transformer(record(), width=6),
    "width = 0 must be a whole number": lambda: bh.baselines.long_short_term_memory(record(), width=0),
    "points = 0 must be": lambda: bh.baselines.physics_informed(
        record(), lambda t, y, v: y, {}, residual_scale=1.0, points=0
    ),
    "until = -1.0 must lie behind": lambda: bh.baselines.physics_informed(
        record(), lambda t, y, v: y, {}, residual_scale=1.0, until=-1.0
    ),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_cannot_be_stated_is_said(told):
    with pytest.raises(bh.ModelError) as error:
        WRONG[told]()
    assert told in str(error.value)


def test_times_before_the_record_and_fields_of_another_shape_are_refused():
    with pytest.raises(bh.ModelError, match="time -1 lies before the record"):
        bh.simulate(
            bh.baselines.transformer(record(), width=4), {"times": np.array([-1.0, 1.0])}, key=0, draws=2
        )
    pair = record(center=(1.0, 2.0))
    model = bh.baselines.physics_informed(pair, lambda t, y, v: y[0], {}, residual_scale=1.0)
    with pytest.raises(bh.ModelError, match="the field gives"):
        bh.simulate(model, {"times": TIMES}, key=0, draws=2)
