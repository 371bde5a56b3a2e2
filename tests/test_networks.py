"""A network has the size its user states, priors by path, and notes what it was asked."""

from __future__ import annotations

import threading

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import log_density
from numpyro.primitives import Messenger

from bayeshybrid import sites
from bayeshybrid.faults import ModelError
from bayeshybrid.networks import INPUTS, MLP, network, recording, replaying


def trace_of(model, key=0):
    return handlers.trace(handlers.seed(model, key)).get_trace()


def built(net, **settings):
    return handlers.seed(lambda: network("f", net, **{"scale": 1.0, **settings}), 0)()


FOREIGN = eqx.nn.MLP(2, 2, 8, 2, key=jax.random.key(0))
SEQUENCE = eqx.nn.Sequential(
    [
        eqx.nn.Linear(2, 4, key=jax.random.key(1)),
        eqx.nn.Lambda(jnp.tanh),
        eqx.nn.Linear(4, 2, key=jax.random.key(2)),
    ]
)
SIZES = {
    "default": (MLP(2, 2), {}),
    "deep": (MLP(3, 2, width=16, depth=3), {}),
    "softplus": (MLP(2, 2, activation=jax.nn.softplus), {}),
    "affine": (MLP(4, 2, depth=0), {}),
    "own prior": (MLP(2, 2), {"prior": dist.Normal(0.0, 0.3)}),
    "one path": (MLP(2, 2), {"prior": {"layers[1].bias": dist.Normal(0.0, 0.01)}}),
    "by shape": (MLP(2, 2), {"prior": lambda path, shape: dist.Laplace(0.0, 0.5 if "bias" in path else 1.0)}),
    "equinox MLP": (FOREIGN, {}),
    "equinox Sequential": (SEQUENCE, {}),
}


OFTEN = ("default", "equinox MLP")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in OFTEN else pytest.mark.slow) for case in SIZES]
)
def test_the_prior_sd_of_an_output_at_a_typical_input_is_the_scale(case):
    net, settings = SIZES[case]
    size = getattr(net, "in_size", 2)

    def one(key):
        x = 5.0 + 2.0 * jax.random.normal(jax.random.fold_in(key, 1), (size,))
        statement = lambda: network("f", net, scale=jnp.array([3.0, 0.1]), center=5.0, spread=2.0, **settings)  # noqa: E731
        return handlers.seed(statement, key)()(x)

    outputs = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 3000))
    np.testing.assert_allclose(outputs.std(0), [3.0, 0.1], rtol=0.15)


def test_weights_are_named_by_path_and_tagged():
    trace = trace_of(
        lambda: network("missing", MLP(2, 3, width=4), scale=2.0, unit="kpelt/yr", initial="zero")
    )
    weights = {name: site for name, site in trace.items() if site["type"] == "sample"}
    assert list(weights) == [f"missing/layers[{i}].{part}" for i in (0, 1) for part in ("weight", "bias")]
    tags = [sites.read(site) for site in weights.values()]
    assert [tag.initial for tag in tags] == [None, None, "zero", "zero"]
    assert {(tag.group, tag.kind, tag.unit) for tag in tags} == {("missing", "weight", None)}
    assert weights["missing/layers[0].weight"]["value"].shape == (4, 2)


@pytest.mark.parametrize(
    "net", [MLP(2, 2), FOREIGN, SEQUENCE], ids=["own", "equinox MLP", "equinox Sequential"]
)
def test_a_zero_start_says_nothing(net):
    model = lambda: network("f", net, scale=1.0, initial="zero")  # noqa: E731
    trace = trace_of(model)
    zero = {
        name: jnp.zeros_like(site["value"])
        for name, site in trace.items()
        if site["type"] == "sample" and sites.read(site).initial == "zero"
    }
    assert len(zero) == 2
    f = handlers.seed(handlers.substitute(model, data=zero), 0)()
    assert not np.any(f(jnp.ones((3, 2))))


@pytest.mark.parametrize(
    "net", [MLP(2, 3), eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))], ids=["own", "foreign"]
)
def test_axes_in_front_are_kept_and_agree_with_vmap(net):
    f = built(net)
    x = jax.random.normal(jax.random.key(1), (5, 4, 2))
    assert f(x).shape == (5, 4, 3)
    np.testing.assert_allclose(f(x), jax.vmap(jax.vmap(f))(x), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda g, x: g(x))(f, x[0]), f(x[0]), rtol=1e-12)
    assert jax.grad(lambda x: f(x).sum())(x[0, 0]).shape == (2,)


@pytest.mark.slow
def test_equinox_scalars_are_one_input_and_one_output():
    net = eqx.nn.MLP("scalar", "scalar", 4, 1, key=jax.random.key(0))
    assert built(net)(jnp.ones((7, 1))).shape == (7, 1)


def test_inputs_are_standardised_inside():
    plain, shifted = built(MLP(2, 1)), built(MLP(2, 1), center=jnp.array([3.0, -1.0]), spread=4.0)
    np.testing.assert_allclose(shifted(jnp.array([7.0, 3.0])), plain(jnp.array([1.0, 1.0])))


def test_the_statement_asks_for_what_it_is_not_told():
    class Answer(Messenger):
        asked = None

        def process_message(self, msg):
            if msg["type"] == INPUTS:
                self.asked = msg["network"], msg["size"]
                msg["value"] = (jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))

    with Answer() as _, handlers.block(hide=["nothing"]), handlers.scope(prefix="s"):
        answered = built(MLP(2, 1))
        assert answered.center.tolist() == [1.0, 2.0]
        assert built(MLP(2, 1), spread=5.0).spread.tolist() == [5.0, 5.0]
    assert built(MLP(2, 1)).spread.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 1e6), (0.0, None), (None, -2.0), (100.0, np.inf)])
def test_bounds_hold_strictly_and_smoothly(bounds):
    f = built(MLP(1, 1), scale=1e9, bounds=bounds)
    low, high = (None if b is None or np.isinf(b) else b for b in bounds)
    x = jnp.linspace(-50.0, 50.0, 101)[:, None]
    outputs = f(x)
    assert low is None or (outputs > low).all()
    assert high is None or (outputs < high).all()
    assert np.isfinite(jax.jacobian(f)(x[0])).all()


def test_a_bounded_network_keeps_its_scale_where_the_bounds_are_far():
    free, limited = built(MLP(1, 1)), built(MLP(1, 1), bounds=(-1e4, 1e4))
    np.testing.assert_allclose(limited(jnp.ones(1)), free(jnp.ones(1)), rtol=1e-6)


def test_a_recording_notes_inside_a_mapped_function():
    f = built(MLP(2, 1))

    def asked(x):
        with recording() as notes:
            f(2.0 * x)
            f(x)
        return notes

    notes = jax.jit(jax.vmap(asked))(jnp.ones((5, 2)))
    assert [part.shape for part in notes["f"][0]] == [(5, 2), (5, 1)]
    assert len(notes["f"]) == 2
    np.testing.assert_allclose(notes["f"][0][0], 2.0)


def test_calls_of_another_transformation_leave_no_tracers_behind():
    f = built(MLP(2, 1))
    with recording() as notes:
        jax.vmap(f)(jnp.ones((3, 2)))
        f(jnp.ones(2))
    assert len(notes["f"]) == 1
    f(jnp.ones(2))
    assert len(notes["f"]) == 1


def test_each_thread_records_for_itself():
    f = built(MLP(2, 1))

    def elsewhere():
        with jax.enable_x64(True):
            f(jnp.ones(2))

    with recording() as notes:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert notes == {}


def test_a_network_works_inside_a_solvers_field_and_its_gradient_is_right():
    f = built(MLP(1, 1), center=0.0, spread=1.0)

    def end(net):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: args(y)),
            diffrax.Tsit5(),
            0.0,
            1.0,
            0.05,
            jnp.ones(1),
            args=net,
        )
        return solution.ys[-1, 0]

    gradient = eqx.filter_jit(eqx.filter_grad(end))(f)
    step = 1e-5
    nudged = eqx.tree_at(lambda n: n.weights.layers[1].bias, f, f.net.layers[1].bias + step)
    np.testing.assert_allclose(gradient.weights.layers[1].bias[0], (end(nudged) - end(f)) / step, rtol=1e-3)


def test_the_density_counts_every_weight_and_predictive_runs():
    def model(x, y=None):
        f = network("f", MLP(1, 1, width=3), scale=1.0, center=0.0, spread=1.0)
        handlers.numpyro.sample("y", dist.Normal(f(x)[..., 0], 1.0), obs=y)

    x = jnp.ones((4, 1))
    draws = Predictive(model, num_samples=6)(jax.random.key(0), x)
    assert draws["y"].shape == (6, 4)
    values = {
        name: site["value"] for name, site in trace_of(lambda: model(x)).items() if site["type"] == "sample"
    }
    assert jnp.isfinite(log_density(model, (x,), {}, values)[0])


NORM = eqx.nn.Sequential(
    [eqx.nn.Linear(2, 2, key=jax.random.key(0)), eqx.nn.BatchNorm(2, "batch", mode="batch")]
)
DROP = eqx.nn.Sequential([eqx.nn.Linear(2, 2, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])


class Residual(eqx.Module):
    inner: eqx.nn.Linear

    def __call__(self, x):
        return x + self.inner(x)


class Nameless(eqx.Module):
    matrix: jax.Array

    def __call__(self, x):
        return self.matrix @ x


@pytest.mark.parametrize(
    ("net", "settings", "message"),
    [
        (NORM, {}, "keeps a running state, which cannot be sampled; use eqx.nn.LayerNorm"),
        (DROP, {}, r"write eqx.nn.inference_mode\(net\)"),
        (jnp.tanh, {}, "is no callable Equinox module"),
        (eqx.nn.Lambda(jnp.tanh), {}, "has no weights"),
        (MLP(2, 1), {"scale": 0.0}, "scale = 0.0 must be above zero"),
        (MLP(2, 1), {"spread": -1.0}, "spread = -1.0 must be above zero"),
        (MLP(2, 1), {"center": jnp.zeros(3)}, r"center has shape \(3,\), the network takes 2 inputs"),
        (MLP(2, 1), {"bounds": (1.0, 0.0)}, "low must be below high"),
        (MLP(2, 1), {"initial": "zeros"}, 'initial = \'zeros\'; write "prior" or "zero"'),
        (MLP(2, 1), {"prior": {"layer[0]": dist.Normal()}}, r"prior names \['layer\[0\]'\]; the weights are"),
        (MLP(2, 1), {"prior": 3.0}, "is 3.0; give a numpyro distribution"),
        (
            Residual(eqx.nn.Linear(2, 2, key=jax.random.key(0))),
            {"initial": "zero"},
            "with all weights zero its output",
        ),
        (Nameless(jnp.ones((1, 2))), {}, "the number of inputs of its module cannot be told; give center"),
    ],
)
def test_what_cannot_be_meant_is_refused(net, settings, message):
    with pytest.raises(ModelError, match=message):
        built(net, **settings)


def test_the_module_whose_inputs_cannot_be_told_takes_them_from_center():
    assert built(Nameless(jnp.ones((1, 2))), center=(0.0, 0.0), spread=(1.0, 1.0))(
        jnp.ones((4, 2))
    ).shape == (4, 1)


def test_wrong_inputs_are_refused_at_the_call():
    with pytest.raises(ModelError, match=r"takes 2 inputs along the last axis, got an array of shape \(3,\)"):
        built(MLP(2, 1))(jnp.ones(3))
    with pytest.raises(ModelError, match="in_size = 0"):
        MLP(0, 1)
    with pytest.raises(ModelError, match="depth = -1"):
        MLP(1, 1, depth=-1)


def test_a_replay_answers_with_what_was_noted():
    f = handlers.seed(lambda: network("f", MLP(1, 1), scale=1.0, center=0.0, spread=1.0), 0)()
    with recording() as notes:
        first, second = f(jnp.zeros(1)), f(jnp.ones(1))
    with replaying(notes), recording() as again:
        assert (f(jnp.ones(1)), f(jnp.zeros(1))) == (first, second)
    assert [inputs.item() for inputs, _ in again["f"]] == [1.0, 0.0]
    with replaying({"f": []}), pytest.raises(ModelError, match="asked more often here"):
        f(jnp.ones(1))
    with pytest.raises(ModelError, match="asked less often here"), replaying(notes):
        f(jnp.ones(1))
    assert f(jnp.ones(1)) == second
