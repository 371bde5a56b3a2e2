"""A solve inside a model: its value, its failures and its units, under our verbs and under numpyro's own."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, Predictive

import bayeshybrid as bh
from bayeshybrid.faults import DataError, ModelError
from bayeshybrid.inference.gates import scout
from bayeshybrid.posterior import Posterior
from bayeshybrid.science import ode
from bayeshybrid.statements import HELD, SOLUTION

UNITS = 12
LOOSE = {"rtol": 1e-4, "atol": 1e-4}


def decay(t, y, args):
    return -args["rate"] * y + args["inflow"]


def units(times, t0, y=None):
    """Twelve units in a plate with own start, times, t0 and rate; one common inflow; a second solve beside it."""
    inflow = numpyro.sample("inflow", dist.LogNormal(-2.0, 0.5))
    with numpyro.plate("unit", UNITS):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 0.3))
        start = numpyro.sample("start", dist.LogNormal(0.0, 0.3))
        path = bh.solve_ode(
            "path",
            decay,
            start,
            times,
            t0=t0,
            args={"rate": rate, "inflow": inflow},
            in_axes=(0, 0, {"rate": 0, "inflow": None}),
            unit="mg",
            **LOOSE,
        )
    common = bh.solve_ode("common", lambda t, y, k: -k * y, 1.0, jnp.ones(1), t0=0.0, args=inflow, **LOOSE)
    bh.observe("y", dist.Normal(path.ys + common.ys[None], 0.1), obs=y, unit="mg")


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    t0 = generator.uniform(-1.0, 1.0, UNITS)
    return {"t0": t0, "times": t0[:, None] + np.array([2.0, 0.5, 0.5])}


@pytest.fixture(scope="module")
def fitted(inputs) -> Posterior:
    method = bh.NUTS(chains=1, draws=4, warmup=4, max_doublings=3)
    return bh.infer(units, {**inputs, "y": np.full((UNITS, 3), 1.5)}, method, key=0, starts=2)


@jax.jit
def alone(start, times, t0, rate, inflow):
    return ode.solve(decay, start, times, t0, {"rate": rate, "inflow": inflow}, **LOOSE).ys


def one_by_one(values, inputs):
    """Twelve single solves in a Python loop."""
    return np.stack(
        [
            alone(
                values["start"][i], inputs["times"][i], inputs["t0"][i], values["rate"][i], values["inflow"]
            )
            for i in range(UNITS)
        ]
    )


@pytest.mark.slow
def test_units_equal_single_solves(inputs):
    """Each unit with its own start, times, t0 and rate is what a solve of its own would be."""
    target = bh.Target(units, {**inputs, "y": np.full((UNITS, 3), 1.5)})
    run = jax.jit(lambda target, q: (target.constrain(q), target.run_at(q).solutions["path"]["value"]))
    values, path = run(target, jnp.linspace(-0.5, 0.5, target.layout.size))
    assert np.allclose(path.ys, one_by_one(values, inputs), rtol=1e-6)
    assert path.ok.shape == path.steps.shape == path.reason.shape == (UNITS,)


@pytest.mark.slow
def test_units_under_infer_and_predict(fitted, inputs):
    assert [(solve.name, solve.shape, solve.unit) for solve in fitted.target.layout.solves] == [
        ("path", (UNITS, 3), "mg"),
        ("common", (1,), None),
    ]
    forecast = fitted.predict(key=1)
    path = forecast.latent["path"]
    assert path.unit == "mg"
    for draw in range(4):
        drawn = {name: fitted[name][draw] for name in ("inflow", "rate", "start")}
        assert np.allclose(path.draws[draw], one_by_one(drawn, inputs), rtol=1e-6)
    assert np.array_equal(path.draws[:, :, 1], path.draws[:, :, 2])
    assert np.allclose(forecast.latent["common"].draws[:, 0], np.exp(-fitted["inflow"]), atol=1e-3)


@pytest.mark.slow
def test_numpyros_own_sampler_and_predictive(key):
    def model(times, y=None):
        k = numpyro.sample("k", dist.LogNormal(-1.0, 1.0))
        path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=k, **LOOSE)
        numpyro.deterministic("state", path.ys)
        numpyro.sample("y", dist.Normal(path.ys, 0.1), obs=y)

    times = jnp.array([1.0, 0.5])
    sampler = MCMC(NUTS(model, max_tree_depth=2), num_warmup=2, num_samples=3, progress_bar=False)
    sampler.run(key, times, y=jnp.full(2, 0.5))
    samples = sampler.get_samples()
    expected = np.exp(-samples["k"][:, None] * times[None])
    assert np.allclose(samples["state"], expected, atol=1e-3)
    drawn = Predictive(model, {"k": samples["k"]})(key, times)
    assert np.allclose(drawn["state"], expected, atol=1e-3)
    assert drawn["y"].shape == (3, 2)


# What handlers of numpyro do to it


def simple(times, y=None, steps=4096):
    """dy/dt = k y^2, y(0) = 1: it leaves at t = 1/k."""
    k = numpyro.sample("k", dist.LogNormal(-1.0, 1.0))
    path = bh.solve_ode(
        "path", lambda t, y, k: k * y**2, 1.0, times, t0=0.0, args=k, max_steps=steps, **LOOSE
    )
    numpyro.deterministic("state", path.ys)
    numpyro.sample("y", dist.Normal(path.ys, 0.1), obs=y)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda model: model,
        handlers.block(hide=["y"]),
        lambda model: handlers.block(model),
        lambda model: handlers.mask(model, mask=False),
        lambda model: handlers.scale(model, scale=3.0),
        lambda model: handlers.lift(model, prior=dist.Normal()),
        lambda model: handlers.infer_config(model, config_fn=lambda site: {}),
    ],
)
def test_the_value_under_handlers(wrapped):
    conditioned = handlers.condition(simple, {"k": 0.5})
    kept = []

    def model(times):
        conditioned(times)
        kept.append(1)

    caught = handlers.trace(conditioned)
    with handlers.seed(rng_seed=0):
        wrapped(caught)(jnp.ones(2))
    assert np.allclose(caught.trace["state"]["value"], 2.0, rtol=1e-3)
    assert "path" not in caught.trace


@jax.jit
def at(target, k):
    """Log density and gradient at `k`, and all solutions."""
    q = jnp.log(k)[None]
    solutions = {name: message["value"] for name, message in target.run_at(q).solutions.items()}
    return *jax.value_and_grad(target.log_density)(q), solutions


def test_a_failed_solve_has_no_density_and_a_finite_value():
    target = bh.Target(simple, {"times": np.array([0.5, 0.9]), "y": np.ones(2)})
    value, gradient, found = at(target, 0.5)
    assert np.isfinite(value)
    assert gradient[0] != 0
    value, gradient, found = at(target, 1.5)
    assert value == -np.inf
    assert gradient[0] == 0
    assert not found["path"].ok
    assert np.allclose(found["path"].ys, [4.0, 1.0], rtol=1e-3)  # the start stands where the solution is lost


def test_a_failure_is_not_scaled_masked_or_hidden():
    """Four solves that fail alike, each under a handler or a plate that would change a site's log probability."""
    wrappers = {
        "plain": lambda solve: solve,
        "masked": lambda solve: handlers.mask(solve, mask=False),
        "scaled": lambda solve: handlers.scale(solve, scale=1e-9),
        "blocked": lambda solve: handlers.block(solve),
    }

    def model(wrapper, y=None):
        k = numpyro.sample("k", dist.LogNormal(-1.0, 1.0))
        field = lambda t, y, k: k * y**2  # noqa: E731
        solve = lambda: bh.solve_ode("path", field, 1.0, jnp.array([0.9]), t0=0.0, args=k, **LOOSE)  # noqa: E731
        path = wrappers[wrapper.name](solve)()
        numpyro.sample("y", dist.Normal(path.ys, 0.1), obs=y)

    for name in wrappers:
        target = bh.Target(model, {"wrapper": SimpleNamespace(name=name), "y": np.ones(1)})
        assert [solve.name for solve in target.layout.solves] == ["path"]
        prior, likelihood = jax.jit(
            lambda target: target.densities(target.run_at(jnp.log(jnp.full(1, 1.5))))
        )(target)
        assert np.isfinite(prior), name
        assert likelihood == -np.inf, name


def test_a_solve_inside_a_plate_is_counted_once():
    def model(times, y=None):
        k = numpyro.sample("k", dist.LogNormal(-1.0, 1.0))
        with numpyro.plate("rows", 2):
            path = bh.solve_ode("path", lambda t, y, k: k * y**2, 1.0, times, t0=0.0, args=k, **LOOSE)
            numpyro.sample("y", dist.Normal(path.ys, 0.1), obs=y)

    target = bh.Target(model, {"times": np.array([0.1, 0.2]), "y": np.ones(2)})
    expected = dist.Normal(1 / (1 - 0.5 * np.array([0.1, 0.2])), 0.1).log_prob(1.0).sum()
    assert np.allclose(
        jax.jit(lambda t, q: t.log_likelihood(q))(target, jnp.log(jnp.full(1, 0.5))), expected, atol=1e-2
    )
    assert target.layout.solves[0].shape == (2,)


def test_the_same_part_twice_under_scopes():
    def model(times, y=None):
        for prefix in ("first", "second"):
            with handlers.scope(prefix=prefix):
                simple(times, None if y is None else y[prefix])

    target = bh.Target(model, {"times": np.array([0.1]), "y": {"first": np.ones(1), "second": np.ones(1)}})
    assert [solve.name for solve in target.layout.solves] == ["first/path", "second/path"]
    assert list(target.layout.groups) == ["first/k", "second/k"]


# Nobody listens


def test_an_eager_failure_nobody_hears_warns_and_stays_finite():
    with (
        handlers.seed(rng_seed=0),
        handlers.trace() as found,
        pytest.warns(RuntimeWarning, match=r"solve_ode\('path'\)"),
    ):
        handlers.condition(simple, {"k": 1.0})(jnp.array([0.1, 2.0]))
    assert np.allclose(found["state"]["value"], [1 / 0.9, 1.0], rtol=1e-3)


def test_a_traced_failure_nobody_hears_is_nan():
    @jax.jit
    def end(k):
        with numpyro.validation_enabled(False), handlers.seed(rng_seed=0), handlers.trace() as found:
            handlers.condition(simple, {"k": k})(jnp.array([0.1, 2.0]))
        return found["state"]["value"]

    assert np.isnan(end(1.0)).tolist() == [False, True]
    assert np.allclose(end(0.1), [1 / 0.99, 1 / 0.8], rtol=1e-3)


def test_a_lane_that_fails_leaves_the_others_alone():
    def model(times, y=None):
        k = numpyro.sample("k", dist.LogNormal().expand([3]))
        path = bh.solve_ode(
            "path", lambda t, y, k: k * y**2, 1.0, times, t0=0.0, args=k, in_axes=(None, None, 0), **LOOSE
        )
        numpyro.sample("y", dist.Normal(path.ys, 1.0), obs=y)

    target = bh.Target(model, {"times": np.array([0.1, 2.0]), "y": np.ones((3, 2))})
    ask = jax.jit(lambda target, q: (target.run_at(q).solutions["path"]["value"], target.log_likelihood(q)))
    path, likelihood = ask(target, jnp.log(jnp.array([0.2, 1.0, 0.3])))
    assert path.ok.tolist() == [True, False, True]
    assert path.steps.shape == path.reason.shape == (3,)
    assert np.allclose(path.ys[2], [1 / 0.97, 1 / 0.4], rtol=1e-3)
    assert np.allclose(path.ys[1], [1 / 0.9, 1.0], rtol=1e-3)
    assert likelihood == -np.inf


# Networks that a solve asks


def hybrid(times, many=False, y=None):
    net = bh.network("net", bh.MLP(2, 2, width=2), scale=0.1, center=0.0, spread=1.0)

    def field(t, y, k):
        return -k * y + net(y)

    start, axes = (
        (jnp.array([[1.0, 2.0], [3.0, 4.0]]), (0, None, None)) if many else (jnp.array([1.0, 2.0]), None)
    )
    path = bh.solve_ode("path", field, start, times, t0=0.0, args=0.5, in_axes=axes, **LOOSE)
    numpyro.deterministic("direct", net(jnp.array([[9.0, 9.0]])))
    bh.observe("y", dist.Normal(path.ys, 1.0), obs=y)


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_a_network_was_asked_is_noted(many):
    shape = (2, 2, 2) if many else (2, 2)
    target = bh.Target(hybrid, {"times": np.array([1.0, 0.0]), "many": many, "y": np.ones(shape)})
    q = jnp.linspace(-0.5, 0.5, target.layout.size)
    visit = jax.jit(
        lambda target, q: (target.visited(q)["net"], target.run_at(q).solutions["path"]["value"].ys)
    )
    (inputs, outputs), path = visit(target, q)
    path = path.reshape(-1, 2)
    rows = {tuple(np.round(row, 10)) for row in np.asarray(inputs)}
    assert rows == {tuple(np.round(row, 10)) for row in [*np.asarray(path), np.array([9.0, 9.0])]}
    assert np.allclose(target.networks(q)["net"](inputs), outputs)
    assert len(inputs) == len(path) + 1


def test_a_network_at_the_models_own_level():
    def model(x, y=None):
        net = bh.network("net", bh.MLP(1, 1, width=2), scale=1.0)
        bh.observe("y", dist.Normal(net(x[:, None])[:, 0], 1.0), obs=y)

    x = np.array([1.0, 2.0, 3.0])
    target = bh.Target(model, {"x": x, "y": x})
    assert target.layout.asking == (("net", 1),)
    inputs, outputs = target.visited(jnp.zeros(target.layout.size))["net"]
    assert np.array_equal(inputs[:, 0], x)
    assert outputs.shape == (3, 1)


def test_a_solve_within_a_scan_of_numpyro_is_refused():
    from numpyro.contrib.control_flow import scan

    def model(times):
        k = numpyro.sample("k", dist.LogNormal())

        def step(carry, _):
            path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=k, **LOOSE)
            return carry + path.ys[-1], None

        scan(step, 0.0, jnp.arange(3))

    with pytest.raises(ModelError, match=r"stands inside a mapped or compiled function"):
        bh.Target(model, {"times": np.ones(1)})


# Doses and forcing

LANES = {
    "dose": {
        "times": np.array([[0.0, 1.0], [0.5, np.nan], [2.0, 1.0]]),
        "amounts": np.array([[3.0, 2.0], [1.0, 0.0], [4.0, 5.0]]),
    },
    "rain": {"times": np.array([[0.0, 1.5], [0.0, 0.0], [0.0, 2.0]]), "values": np.arange(6.0).reshape(3, 2)},
    "times": np.array([[0.5, 2.0], [1.0, 3.0], [2.0, 2.5]]),
}


def absorbed(t, y, rate, rain):
    return jnp.stack([rain - y[0], y[0] - rate * y[1]])


def treated(times, dose, rain, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(jnp.zeros(3), 0.3).to_event(1))
    rain = bh.forcing(**rain)
    path = bh.solve_ode(
        "path",
        lambda t, y, rate: absorbed(t, y, rate, rain(t)),
        jnp.zeros(2),
        times,
        t0=0.0,
        args=rate,
        in_axes=(None, 0, 0),
        inputs=[bh.doses(**dose, into="blood"), rain],
        labels=("gut", "blood"),
        across="subject",
        **LOOSE,
    )
    bh.observe("y", dist.Normal(path.ys[..., 1], 1.0), obs=y)


@jax.jit
def one_treated(rate, times, dose, rain):
    rain = bh.forcing(**rain)
    doses = bh.doses(**dose, into=1)
    field = lambda t, y, rate: absorbed(t, y, rate, rain(t))  # noqa: E731
    return ode.solve(field, jnp.zeros(2), times, 0.0, rate, inputs=[doses, rain], **LOOSE)


def test_units_with_their_own_doses_and_forcing_equal_single_solves():
    target = bh.Target(treated, {**LANES, "y": np.ones((3, 2))})
    (solve,) = target.layout.solves
    assert (solve.across, solve.labels, solve.oddities) == ("subject", ("gut", "blood"), ())
    run = jax.jit(
        lambda target, q: (target.constrain(q)["rate"], target.run_at(q).solutions["path"]["value"])
    )
    rate, path = run(target, jnp.linspace(-0.5, 0.5, 3))
    for i in range(3):
        given = sorted(zip(LANES["dose"]["times"][i], LANES["dose"]["amounts"][i], strict=True))
        times, amounts = np.array([each for each in given if each[1] > 0]).T
        rain = {name: value[i] for name, value in LANES["rain"].items()}
        alone = one_treated(rate[i], LANES["times"][i], {"times": times, "amounts": amounts}, rain)
        assert np.allclose(path.ys[i], alone.ys, rtol=1e-12, atol=1e-12)
        assert path.steps[i] == alone.steps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dose": {**LANES["dose"], "times": np.array([[0.0, 1.0], [-0.5, np.nan], [2.0, 1.0]])}},
            r"inputs\[0\] of subject 1: the dose \[0\] of 1 at time -0.5 lies before t0",
        ),
        (
            {"dose": {**LANES["dose"], "amounts": np.array([[3.0, -2.0], [1.0, 0.0], [4.0, 5.0]])}},
            r"the dose \[1\] at time 1 has an amount or a duration of -2",
        ),
        (
            {"rain": {**LANES["rain"], "times": np.array([[0.5, 1.5], [0.0, 0.0], [0.0, 2.0]])}},
            r"the forcing is given from 0.5 and asked at 0: give values that cover",
        ),
        (
            {"rain": {**LANES["rain"], "times": np.array([[0.0, 1.5], [0.0, 0.0], [0.0, -2.0]])}},
            r"inputs\[1\] of subject 2: the forcing's time \[1\] = -2 follows 0",
        ),
    ],
)
def test_the_gate_names_the_input_at_fault(change, message, key):
    target = bh.Target(treated, {**LANES, **change, "y": np.ones((3, 2))})
    with pytest.raises(DataError, match=message):
        scout(target, key, 10)


@pytest.mark.slow
def test_an_undeclared_jump_reaches_the_remarks(key):
    def model(times, y=None):
        k = numpyro.sample("k", dist.LogNormal(-1.0, 1.0))
        field = lambda t, y, k: jnp.where(t > 0.5, 1.0, 0.0) - k * y  # noqa: E731
        path = bh.solve_ode("path", field, 1.0, times, t0=0.0, args=k, **LOOSE)
        numpyro.sample("y", dist.Normal(path.ys, 0.1), obs=y)

    target = bh.Target(model, {"times": np.ones(1), "y": np.ones(1)})
    (remark,) = [each for each in scout(target, key, 10).remarks if "bh.forcing" in each]
    assert remark.startswith("path: the field compares time at ")
    assert "test_statements.py" in remark


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"inputs": [bh.doses(np.zeros((2, 1)), 1.0)]},
            r"solve_ode\('path'\): inputs\[0\] has a unit axis.*in_axes",
        ),
        ({"inputs": bh.doses(0.0, 1.0, into="gut")}, r"enters 'gut', but the solve has no labels"),
        ({"across": "subject"}, r"across='subject' names the axis of units.*in_axes"),
        (
            {"inputs": [bh.doses(np.zeros((2, 1)), 1.0)], "in_axes": (None, None, 0), "args": np.ones(3)},
            r"different length.*times of the inputs \[\(2, 1\)\]",
        ),
    ],
)
def test_inputs_that_the_statement_refuses(options, message):
    with pytest.raises(ModelError, match=message):
        bh.solve_ode("path", lambda t, y, k: -y, 1.0, np.ones(1), t0=0.0, **options)


# Networks held at another run


class Beside(numpyro.primitives.Messenger):
    """Hears what a statement publishes, and answers which run its networks are held at."""

    hears_solutions = True

    def __init__(self, held=None):
        super().__init__()
        self.held, self.message = held, None

    def process_message(self, msg):
        if msg["type"] == HELD:
            msg["value"] = self.held
        elif msg["type"] == SOLUTION:
            msg["heard"] = True
            self.message = msg


DOSE_TIMES = np.array([[0.5, 2.0], [1.0, np.nan]])
LOSSES = np.array([0.5, 0.3])


def fed(net, y, k):
    return jnp.stack([net[0] - k * y[0], k * y[0] - 0.2 * y[1]])


def driven(net, amount, held=None):
    """The solution, and the message of the statement."""
    listener = Beside(held)
    with listener:
        solution = bh.solve_ode(
            "path",
            lambda t, y, k: fed(net(y), y, k),
            jnp.array([1.0, 0.0]),
            np.tile([0.0, 1.0, 2.5, 6.0], (2, 1)),
            t0=0.0,
            args=LOSSES,
            in_axes=(None, 0, 0),
            inputs=[bh.doses(DOSE_TIMES, amount * jnp.ones((2, 2)), into="b")],
            labels=("a", "b"),
            rtol=1e-7,
            atol=1e-7,
        )
    return solution.ys, listener.message


@pytest.mark.slow
def test_networks_held_at_another_run():
    """Against a fine table of what the network said along that run, given as a forcing."""
    net = handlers.seed(lambda: bh.network("f", bh.MLP(2, 1), scale=0.5, center=0.0, spread=1.0), 0)()
    grid = np.sort(np.append(np.linspace(0.0, 6.0, 601), [0.5 + 1e-9, 1.0 + 1e-9, 2.0 + 1e-9]))

    @jax.jit
    def held(net, amount):
        base, message = driven(net, 1.0)
        return base, driven(net, amount, message)[0]

    @jax.jit
    def by_table(net, k, times):
        once = bh.doses(times, 1.0, into=1)
        field = lambda t, y, k: fed(net(y), y, k)  # noqa: E731
        base = ode.solve(field, jnp.array([1.0, 0.0]), grid, 0.0, k, inputs=[once], rtol=1e-7, atol=1e-7)
        said = bh.forcing(grid, net(base.ys)[:, 0], kind="linear")
        field = lambda t, y, k: fed(said(t)[None], y, k)  # noqa: E731
        wanted, twice = np.array([0.0, 1.0, 2.5, 6.0]), bh.doses(times, 2.0, into=1)
        options = {"inputs": [twice, said], "rtol": 1e-6, "atol": 1e-6}
        return ode.solve(field, jnp.array([1.0, 0.0]), wanted, 0.0, k, **options).ys

    base, same = held(net, 1.0)
    assert np.allclose(base, same, atol=1e-6)
    _, changed = held(net, 2.0)
    expected = [by_table(net, k, times) for k, times in zip(LOSSES, DOSE_TIMES, strict=True)]
    assert np.allclose(changed, expected, atol=1e-4)
    assert not np.allclose(changed, base, atol=1e-2)


def test_a_message_tells_all_that_a_second_solve_needs():
    net = handlers.seed(lambda: bh.network("f", bh.MLP(2, 1), scale=0.5, center=0.0, spread=1.0), 0)()
    found = []

    def runs(net):
        found.append(driven(net, 1.0)[1])
        return driven(net, 2.0, found[0])[0]

    assert jax.eval_shape(runs, net).shape == (2, 4, 2)
    (message,) = found
    assert {"field", "args", "axes", "settings", "inputs", "across", "y0", "times", "start"} <= set(message)
    assert message["axes"] == (None, 0, 0, None, (0,))
    assert message["inputs"][0].into == "b"
