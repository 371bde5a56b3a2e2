"""Each early error says what is wrong, where, the value, and what to write instead, through the public door."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.faults import DataError, ModelError, StartError
from bayeshybrid.inference.gates import scout

SHORT = bh.NUTS(chains=1, draws=4, warmup=0)
TIMES = np.array([1.0, 2.0])
PATHS = {"times": TIMES, "y": np.ones((2, 2))}


def infer(model: Callable[..., Any], data: Any, **settings: Any) -> bh.Posterior:
    return bh.infer(model, data, SHORT, **{"key": 0, "starts": 2, **settings})


def measured(noise: Callable[[Any], Any]) -> Callable[..., Any]:
    """One unknown `a`, observations `y` with the noise that `noise(a)` gives."""

    def model(y=None):
        bh.observe("y", noise(bh.parameter("a", dist.Normal())), obs=y, unit="mV")

    return model


def moving(field: Callable[..., Any], t0: float = 0.0) -> Callable[..., Any]:
    """Prey and predator under `field(t, y, k)` with one unknown `k`."""

    def model(times, y=None):
        k = bh.parameter("k", dist.Uniform(0.5, 1.5))
        path = bh.solve_ode(
            "path",
            field,
            jnp.ones(2),
            times,
            t0=t0,
            args=k,
            labels=("prey", "predator"),
            rtol=1e-3,
            atol=1e-3,
        )
        bh.observe("y", dist.Normal(path.ys, 0.5), obs=y)

    return model


def decay(t, y, k):
    return -k * y


# The model: before anything is computed


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda y: y[jnp.array([0, 1, 1])], "field returned (3,), state is (2,): prey, predator"),
        (lambda y: y[None], "field returned (1, 2), state is (2,): prey, predator"),
        (
            lambda y: (y[0], y[1]),
            "field returned a tuple of 2, state is (2,): prey, predator; write `return jnp.stack",
        ),
    ],
)
def test_a_field_of_the_wrong_shape_is_named_with_its_labels(returned, words):
    with pytest.raises(ModelError, match=re.escape(f"solve_ode('path'): {words}")):
        infer(moving(lambda t, y, k: returned(k * y)), PATHS)


def branching(y=None):
    a = numpyro.sample("a", dist.Normal())
    if a > 0:  # the branch
        a = 2 * a
    numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def branchless(y=None):
    numpyro.sample("y", dist.Bernoulli(logits=numpyro.sample("a", dist.Normal())), obs=y)


def test_a_python_if_on_an_unknown_is_shown_with_its_line():
    with pytest.raises(
        ModelError, match=r"test_faults\.py:\d+: if a > 0:.*write jnp\.where\(condition, a, b\)"
    ):
        infer(branching, {"y": np.ones(3)})


def test_a_python_if_inside_a_field_is_shown_with_its_line():
    def field(t, y, k):
        return -k * y if y[0] > 0 else y

    with pytest.raises(ModelError, match=r"test_faults\.py:\d+: return -k \* y if y\[0\] > 0 else y"):
        infer(moving(field), PATHS)


def test_the_same_site_name_twice():
    def model(y=None):
        a = bh.parameter("a", dist.Normal()) + bh.parameter("a", dist.Normal())
        bh.observe("y", dist.Normal(a, 1.0), obs=y)

    with pytest.raises(
        ModelError, match="the site 'a' stands twice in the model: give each statement a name"
    ):
        infer(model, {"y": np.ones(3)})


def test_the_same_observation_name_as_a_parameter():
    def model(y=None):
        bh.observe("a", dist.Normal(bh.parameter("a", dist.Normal()), 1.0), obs=y)

    with pytest.raises(ModelError, match="the site 'a' stands twice"):
        infer(model, {"y": np.ones(3)})


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("path", "path", "the name 'path' is used by two solves: every statement needs its own name"),
        ("k", "path", "the name 'k' is used by a site and by a solve: every statement needs its own"),
    ],
)
def test_names_of_solves_clash(first, second, words):
    def model(times, y=None):
        k = bh.parameter("k", dist.LogNormal())
        ends = [bh.solve_ode(name, decay, 1.0, times, t0=0.0, args=k).ys for name in (first, second)]
        bh.observe("y", dist.Normal(ends[0] + ends[1], 1.0), obs=y)

    with pytest.raises(ModelError, match=words):
        infer(model, {"times": TIMES, "y": np.ones(2)})


class Normalised(eqx.Module):
    """A network with a running state."""

    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self) -> None:
        self.linear = eqx.nn.Linear(2, 2, key=jax.random.key(0))
        self.norm = eqx.nn.BatchNorm(2, "batch", mode="batch")

    def __call__(self, x):
        return self.linear(x)


def test_a_network_with_batch_normalisation():
    def model(y=None):
        bh.observe("y", dist.Normal(bh.network("net", Normalised(), scale=1.0)(jnp.ones(2)), 1.0), obs=y)

    with pytest.raises(
        ModelError, match=r"network 'net': BatchNorm keeps a running state.*use eqx\.nn\.LayerNorm"
    ):
        infer(model, {"y": np.ones(2)})


@pytest.mark.parametrize("statement", [bh.observe, numpyro.sample])
def test_data_and_distribution_that_enlarge_each_other(statement):
    def model(x, y=None):
        a = bh.parameter("a", dist.Normal())
        statement("y", dist.Normal(a * x, 1.0), obs=y)

    with pytest.raises(
        DataError, match=r"'y'.*data have shape \(5, 1\), the distribution \(5,\)\. Broadcasting"
    ):
        infer(model, {"x": np.ones(5), "y": np.ones((5, 1))})


def test_one_constraint_on_many_entries_is_no_broadcast_of_data():
    def model(y=None):
        a = numpyro.sample("a", dist.Normal().expand([3]))
        numpyro.sample("zero", dist.Normal(jnp.sum(a), 0.1), obs=0.0)
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    assert bh.Target(model, {"y": np.ones(3)}).layout.soft == ("zero",)


@pytest.mark.parametrize(
    "wrapped", [jax.vmap, lambda f: lambda k: jax.lax.map(f, k), lambda f: jax.jit(jax.vmap(f))]
)
@pytest.mark.parametrize("door", [infer, lambda model, data: bh.simulate(model, data, key=0)])
def test_a_solve_wrapped_by_hand(wrapped, door):
    def model(times, y=None):
        k = bh.parameter("k", dist.LogNormal(), shape=(3,))
        paths = wrapped(lambda k: bh.solve_ode("path", decay, 1.0, times, t0=0.0, args=k).ys)(k)
        bh.observe("y", dist.Normal(paths, 1.0), obs=y)

    words = (
        r"solve_ode\('path'\) stands inside a mapped or compiled function.*give in_axes to solve many units"
    )
    with pytest.raises(ModelError, match=words):
        door(model, {"times": TIMES})


def test_a_solve_compiled_by_hand():
    def model(times, y=None):
        k = bh.parameter("k", dist.LogNormal())
        path = jax.jit(lambda k: bh.solve_ode("path", decay, 1.0, times, t0=0.0, args=k).ys)(k)
        bh.observe("y", dist.Normal(path, 1.0), obs=y)

    with pytest.raises(
        ModelError, match=r"stands inside a mapped or compiled function \(jax\.vmap, jax\.jit"
    ):
        infer(model, {"times": TIMES, "y": np.ones(2)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"in_axes": (0, 0)}, "in_axes has 2 entries, it needs three: (y0, times, args)"),
        ({"in_axes": (0, None, 0)}, "in_axes=(0, None, 0) maps axes of different length: y0 has shape (3,)"),
        (
            {"y0": jnp.ones((3, 1))},
            "y0 has shape (3, 1), a state is () or (states,); to solve many units side by side",
        ),
        (
            {"t0": jnp.zeros(3)},
            "t0 has shape (3,), expected one time; to solve many units side by side give in_axes",
        ),
        ({"times": jnp.ones((3, 2))}, "times has shape (3, 2), expected (times,); to solve many units"),
        ({"labels": ("a", "b")}, "2 labels ('a', 'b') for 3 states"),
        ({"rtol": 1e-20, "atol": 0.0}, "are below what float64 can give: write a tolerance of at least"),
    ],
)
def test_statements_that_cannot_be_solved(change, words):
    def model(times, y=None):
        k = bh.parameter("k", dist.LogNormal(), shape=(2,))
        settings = {"y0": jnp.ones(3), "times": times, "t0": 0.0, "args": k, **change}
        path = bh.solve_ode("path", lambda t, y, k: -y * jnp.sum(k), **settings)
        bh.observe("y", dist.Normal(path.ys, 1.0), obs=y)

    with pytest.raises(ModelError, match=re.escape("solve_ode('path'): ") + ".*" + re.escape(words)):
        infer(model, {"times": TIMES, "y": np.ones((2, 3))})


def test_a_parameter_without_prior():
    def model(y=None):
        numpyro.sample("y", dist.Normal(numpyro.param("a", 1.0), 1.0), obs=y)

    with pytest.raises(ModelError, match=r"numpyro\.param\('a'\) has no prior.*write numpyro\.sample"):
        infer(model, {"y": np.ones(3)})


def test_a_discrete_unknown():
    def model(y=None):
        numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Bernoulli(0.5)), 1.0), obs=y)

    with pytest.raises(
        ModelError, match=r"the unknown 'z' is discrete.*numpyro\.distributions\.MixtureSameFamily"
    ):
        infer(model, {"y": np.ones(3)})


def test_nothing_unknown():
    with pytest.raises(ModelError, match="the model has no unknowns: nothing can be inferred"):
        infer(lambda y=None: numpyro.sample("y", dist.Normal(), obs=y), {"y": np.ones(3)})


# The verb's own arguments


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"method": "nuts"},
            "method='nuts' is not a method: write one of DeepEnsemble(), NUTS(), SharedHMC(), SVI()",
        ),
        ({"method": bh.NUTS}, "method=NUTS: write NUTS(), with its settings in the brackets"),
        ({"key": "seed"}, "key='seed': write an integer, such as key=0, or jax.random.key(0)"),
        ({"key": 1.5}, "key=1.5: write an integer, such as key=0, or jax.random.key(0)"),
        ({"key": None}, "key=None: write an integer"),
        ({"starts": 0}, "starts=0: at least one search must begin somewhere"),
        ({"model": 3}, "model=3 is no function: write the numpyro model itself"),
    ],
)
def test_arguments_of_infer(settings, words):
    model = settings.pop("model", measured(lambda a: dist.Normal(a, 1.0)))
    method = settings.pop("method", SHORT)
    with pytest.raises(ModelError, match=re.escape(words)):
        bh.infer(model, {"y": np.ones(3)}, method, **{"key": 0, **settings})


def test_counts_of_a_method_are_whole():
    with pytest.raises(ModelError, match=r"NUTS\(draws=2\.5\): it must be at least 1, a whole number"):
        bh.NUTS(draws=2.5)  # pyright: ignore[reportArgumentType]


# The data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"time": TIMES, "y": np.ones((2, 2))}, "model has no argument 'time' (did you mean 'times'?)"),
        ({"y": np.ones((2, 2))}, "model needs 'times', which the data lack; they hold y"),
        ({**PATHS, "y": np.array([["a", "b"], ["c", "d"]])}, "y holds text: [0, 0] = 'a', [0, 1] = 'b'"),
        ([1.0, 2.0], "data is a list; write a mapping from the model's argument names to arrays"),
    ],
)
def test_arguments_that_the_model_cannot_take(data, words):
    with pytest.raises(DataError, match=re.escape(words)):
        infer(moving(decay), data)


@pytest.mark.parametrize(
    ("noise", "y", "words"),
    [
        (
            lambda a: dist.Normal(a, 1.0),
            [1.0, np.nan, np.inf],
            "y: 2 of 3 values are NaN or infinite: [1] = nan, [2] = inf (in mV). Correct them, or declare them missing",
        ),
        (
            lambda a: dist.LogNormal(a, 1.0),
            [1.0, 0.0, -2.0],
            "y: 2 of 3 values are zero or negative, but outside what the distribution can give (positive): "
            "[1] = 0, [2] = -2 (in mV). A zero is often a value below the detection limit",
        ),
        (
            lambda a: dist.Uniform(0.0, 1.0),
            [0.5, 2.0],
            "y: 1 of 2 values are outside what the distribution can give (from 0 to 1): [1] = 2 (in mV)",
        ),
    ],
)
def test_values_that_the_observation_cannot_be(noise, y, words):
    with pytest.raises(DataError, match=re.escape(words)):
        infer(measured(noise), {"y": np.array(y)})


def test_a_support_that_moves_with_an_unknown_need_not_hold_the_data_everywhere():
    model = measured(lambda a: dist.Uniform(0.0, jnp.exp(a)))
    assert infer(model, {"y": np.array([0.5, 1.0])}).size == 4
    with pytest.raises(DataError, match=r"y: 1 of 2 values are outside.*\[1\] = -1"):
        infer(model, {"y": np.array([0.5, -1.0])})


def test_a_value_pinned_where_its_prior_has_no_mass():
    def model(y=None):
        a = bh.parameter("a", dist.Normal())
        numpyro.sample("start", dist.HalfNormal(), obs=-1.0)
        bh.observe("y", dist.Normal(a, 1.0), obs=y)

    with pytest.raises(DataError, match=r"start: 1 of 1 values are zero or negative.*\(positive\): -1\."):
        infer(model, {"y": np.ones(3)})


def test_an_undeclared_gap_under_plain_numpyro():
    def model(y=None):
        numpyro.sample("y", dist.Normal(numpyro.sample("a", dist.Normal()), 1.0), obs=y)

    with pytest.raises(DataError, match=r"y: 1 of 2 values are NaN or infinite: \[0\] = nan"):
        infer(model, {"y": np.array([np.nan, 1.0])})


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ({"upper": np.array([2.0, 1.5])}, "y: the censoring of 1 values contradicts itself: [1] = 2"),
        (
            {"left": np.array([True, False]), "right": np.array([True, False])},
            "y: the censoring of 1 values contradicts itself: [0] = 1. A cell is left, right or interval-censored",
        ),
    ],
)
def test_censoring_that_contradicts_itself(marks, words):
    def model(y=None, left=None, right=None, upper=None):
        a = bh.parameter("a", dist.Normal())
        bh.observe("y", dist.Normal(a, 1.0), obs=y, left=left, right=right, upper=upper)

    with pytest.raises(DataError, match=re.escape(words)):
        infer(model, {"y": np.array([1.0, 2.0]), **marks})


def test_times_before_the_start():
    table = {"times": [-1.0, -1.0, 2.0, 2.0], "species": ["prey", "predator"] * 2, "y": np.ones(4)}
    words = (
        r"solve_ode\('path'\): times \[0\] = -1 lie before t0 = 0, the time .*: give an earlier t0, or leave those "
        r"times out\. In the table: row 0 of the table\.$"
    )
    with pytest.raises(ModelError, match=words):
        infer(moving(decay), bh.measurements(table, time="times", value="y", variable="species"))


# The same faults in a table: with the individual and the row of the file


LAB = {
    "subject": ["a", "a", "b", "b", "c"],
    "hours": [1.0, 2.0, 2.0, 1.0, 0.5],
    "conc": [3.0, 0.0, 1.0, 2.0, None],
}


def elimination(noise: Callable[..., Any] = dist.Normal) -> Callable[..., Any]:
    """Subjects with a rate of their own, their concentration under the noise `noise(mean, 0.5)`."""

    def model(hours, conc=None):
        k = bh.parameter("k", dist.Uniform(0.5, 1.5), shape=(3,))
        bh.observe("conc", noise(jnp.exp(-k[:, None] * hours), 0.5), obs=conc, unit="mg/L", across="subject")

    return model


def lab(**columns: Any) -> bh.Measurements:
    return bh.measurements({**LAB, **columns}, individual="subject", time="hours", value="conc")


def test_row_11_a_gap_that_a_mapping_does_not_declare():
    table = lab()
    conc = {**table["conc"], "missing": np.zeros((3, 2), bool)}
    words = (
        r"conc: 3 of 6 values are NaN or infinite: \[0, 1\].*|conc: .* are NaN or infinite: \[2, 0\] = nan"
    )
    with pytest.raises(DataError, match=words):
        infer(elimination(), table | {"conc": conc})


def test_row_14_a_zero_under_log_normal_noise_is_found_in_the_table():
    words = (
        "conc: 1 of 6 values are zero or negative, but outside what the distribution can give (positive): "
        "[0, 1] = 0 (in mg/L)"
    )
    noise = lambda mean, spread: dist.LogNormal(jnp.log(mean), spread)  # noqa: E731
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        infer(elimination(noise), lab())
    assert str(caught.value).endswith("In the table: subject a, row 1 of the table.")


def test_rows_12_13_16_and_17_what_is_odd_in_a_table_is_used_and_said():
    """That a scout's remarks and a target's losses reach the verdict is shown below."""
    table = lab(conc=np.float32([3e12, 1e12, 1e12, 2e12, np.nan]))
    with configuration.scope():
        target = bh.Target(elimination(lambda mean, spread: dist.Normal(1e12 * mean, 1e12 * spread)), table)
        said = scout(target, jax.random.key(0), wanted=2).remarks
    assert "conc: nothing was measured of subject c; what is their own is known from the prior only" in said
    assert "conc: typical size 1e+12 mg/L; state it in units of 1e+12 mg/L, values near one" in said
    assert target.losses == (
        "conc: stored as float32, about 7 digits; what was lost before cannot come back",
    )
    assert "hours: not in order in 1 of 3; sorted" in target.notes


def test_row_15_censoring_that_contradicts_itself_in_a_table():
    both = {**lab()["conc"], "left": np.eye(3, 2) > 0, "right": np.eye(3, 2) > 0}
    words = (
        r"contradicts itself: \[0, 0\] = 3.*In the table: subject a, row 0 of the table; subject b, row 2 of"
    )
    with pytest.raises(DataError, match=words):
        infer(elimination(), lab() | {"conc": both})


def test_row_18_columns_that_the_model_does_not_have():
    table = bh.measurements({**LAB, "hour": LAB["hours"]}, "subject", time="hour", value="conc")
    with pytest.raises(DataError, match=r"model has no argument 'hour' \(did you mean 'hours'\?\)"):
        infer(elimination(), table)


# Doses and jumps in time


def dosed(times, given, amounts, y=None):
    """One state that decays, with doses at given times."""
    k = bh.parameter("k", dist.Uniform(0.5, 1.5))
    doses = bh.doses(given, amounts, into="blood")
    path = bh.solve_ode(
        "path", lambda t, y, k: -k * y, jnp.ones(1), times, t0=0.0, args=k, inputs=[doses], labels=("blood",)
    )
    bh.observe("y", dist.Normal(path.ys[:, 0], 0.5), obs=y)


def switched(times, y=None):
    """A field that jumps at time 2 without saying so."""
    k = bh.parameter("k", dist.Uniform(0.5, 1.5))
    field = lambda t, y, k: jnp.where(t > 2.0, 1.0, 0.0) - k * y  # noqa: E731
    path = bh.solve_ode("path", field, jnp.ones(1), times, t0=0.0, args=k)
    bh.observe("y", dist.Normal(path.ys[:, 0], 0.5), obs=y)


def test_row_6_a_jump_in_time_that_was_not_declared():
    with configuration.scope():
        target = bh.Target(switched, {"times": np.array([1.0, 3.0]), "y": np.ones(2)})
    (odd,) = next(solve.oddities for solve in target.layout.solves)
    assert "bh.forcing" in odd
    assert "bh.doses" in odd
    with configuration.scope():
        remarks = scout(target, jax.random.key(0), 10).remarks
    assert f"path: {odd}" in remarks


@pytest.mark.parametrize(
    ("given", "amounts", "words"),
    [
        ([1.0, 2.0], [1.0, -3.0], r"-3.* at time 2|-3"),
        ([-1.0, 2.0], [1.0, 3.0], r"-1.*before t0|before"),
    ],
)
def test_row_19_doses_that_are_negative_or_too_early(given, amounts, words):
    data = {"times": np.array([1.0, 3.0]), "given": np.array(given), "amounts": np.array(amounts)}
    with pytest.raises((ModelError, DataError), match=words):
        infer(dosed, {**data, "y": np.ones(2)})


def test_row_19_a_dose_at_a_measurement_acts_after_it_and_one_after_the_end_not_at_all():
    data = {"times": np.array([1.0, 3.0]), "given": np.array([3.0, 9.0]), "amounts": np.array([5.0, 7.0])}
    with configuration.scope():
        target = bh.Target(dosed, {**data, "y": np.ones(2)})
        path = target.outcome({"k": jnp.array(1.0)}, target.inputs()).latent["path"]
    np.testing.assert_allclose(path[:, 0], np.exp([-1.0, -3.0]), rtol=1e-5)


# Remarks that reach the verdict


ODD = {
    "one": (1.0, np.array([1.0]), "one: a single value was measured; its noise is known from the prior only"),
    "none": (
        1.0,
        np.zeros(0),
        "none: no value was measured; what depends on it alone is known from the prior only",
    ),
    "coarse": (1.0, np.float32([1.0, 2.0]), "coarse: stored as float32, about 7 digits"),
    "small": (1e-10, np.array([1e-11, 2e-11]), "small: typical size 1e-11 mV; state it in units of 1e-11 mV"),
    "large": (1e12, np.array([1e11, 2e12]), "large: typical size 1e+12 mV; state it in units of 1e+12 mV"),
    "wide": (1.0, np.array([1e-6, 1.0, 2e6]), "wide: sizes range from 1e-06 to 2e+06; noise of one size"),
}


@pytest.fixture(scope="module")
def oddities() -> tuple[str, ...]:
    """The remarks of one fit to all odd data, and to an unknown that nothing depends on."""

    def model(one=None, none=None, coarse=None, small=None, large=None, wide=None):
        a = bh.parameter("a", dist.Normal())
        numpyro.deterministic("unused", bh.parameter("k2", dist.Normal()))
        given = {"one": one, "none": none, "coarse": coarse, "small": small, "large": large, "wide": wide}
        for name, values in given.items():
            size = ODD[name][0]
            bh.observe(name, dist.Normal(size * a, size), obs=values, unit="mV")

    return infer(model, {name: values for name, (_, values, _) in ODD.items()}).verdict.remarks


@pytest.mark.parametrize("name", ODD)
def test_odd_data_are_used_and_remarked_upon(oddities, name):
    assert any(remark.startswith(ODD[name][2]) for remark in oddities), oddities


def test_an_unknown_without_influence(oddities):
    assert "the likelihood does not depend on k2: its posterior is its prior" in oddities
    assert not any("depend on a:" in remark for remark in oddities)


def test_integers_and_dates_are_used_and_noted():
    def model(days, y=None):
        bh.observe("y", dist.Normal(bh.parameter("a", dist.Normal()) * 1e-4 * days, 1.0), obs=y)

    days = np.array(["2020-01-01", "2021-01-01"], "datetime64[D]")
    posterior = infer(model, {"days": days, "y": np.array([1, 2])})
    assert "days: dates became days since 1970-01-01" in posterior.remarks
    assert posterior.verdict.remarks == ()


def test_data_that_observe_nothing():
    """Whether `bh.observe` says it or numpyro's own statement, and also where the observation is discrete."""
    counted = measured(lambda a: dist.Poisson(jnp.exp(a)))
    words = r"nothing that this model observes was given \(y\): give it, or write bh\.simulate"
    for model in (measured(lambda a: dist.Normal(a, 1.0)), counted, branchless):
        with pytest.raises(DataError, match=words):
            infer(model, {})
    assert bh.simulate(counted, {}, key=0, draws=10).observed["y"].unit == "mV"


def test_one_of_two_observations_is_lacking_and_discrete():
    def model(y=None, n=None):
        a = bh.parameter("a", dist.Normal())
        bh.observe("y", dist.Normal(a, 1.0), obs=y)
        bh.observe("n", dist.Poisson(jnp.exp(a)), obs=n)

    with pytest.raises(
        DataError, match=r"the observation 'n' was not given and is discrete.*give it, or leave it"
    ):
        infer(model, {"y": np.ones(2)})


# The start


def test_no_draw_of_finite_density():
    def model(x, y=None):
        a = bh.parameter("a", dist.Normal())
        numpyro.factor("impossible", jnp.log(-jnp.exp(a)))
        bh.observe("y", dist.Normal(a + x, 1.0), obs=y)

    table = (
        "none of 500 prior draws has a finite density with a finite gradient, so no chain can start:\n"
        "  500 of 500: the log probability of impossible is not finite\n"
        "  500 of 500: the log probability of y is not finite\n"
        "  the argument x holds nan at [1]\n"
    )
    with pytest.raises(StartError, match=re.escape(table)):
        infer(model, {"x": np.array([0.0, np.nan]), "y": np.ones(2)})


def test_no_draw_of_finite_gradient():
    words = re.escape("  500 of 500: the density is finite but its gradient is not\nNarrow the priors")
    with pytest.raises(StartError, match=words):
        infer(measured(lambda a: dist.Normal(jnp.sqrt(0.0 * a), 1.0)), {"y": np.ones(2)})


def test_a_field_that_is_nan_at_every_start():
    words = (
        r"solve_ode\('path'\): the field is NaN or infinite at the start for all of 100 prior draws. At time 0 with "
        r"prey = 1, predator = 1, k = [\d.]+ the field is \(-?[\d.]+, nan\)\. Look for a logarithm"
    )
    with pytest.raises(ModelError, match=words):
        infer(moving(lambda t, y, k: jnp.stack([-k * y[0], jnp.log(-k)])), PATHS)


def test_a_field_that_is_nan_at_some_starts():
    """What `scout` remarks upon reaches the verdict, as the tests above show; a fit here would cost half a minute."""
    with configuration.scope():
        target = bh.Target(moving(lambda t, y, k: -y * jnp.sqrt(k - 0.7)), PATHS)
        remarks = scout(target, jax.random.key(0), wanted=2).remarks
    remark = next(r for r in remarks if r.startswith("path: the field is NaN or infinite"))
    share = float(re.findall(r"for (\d+) % of prior draws", remark)[0])
    assert 10 <= share <= 30  # 20 % of the prior lie below 0.7; 100 draws
    assert re.search(
        r"At time 0 with prey = 1, predator = 1, k = 0\.[56]\d* the field is \(nan, nan\)", remark
    )


# Predictions


def test_a_prediction_that_changes_the_shape_of_an_unknown():
    def model(x, y=None):
        with numpyro.plate("unit", len(x)):
            effect = numpyro.sample("effect", dist.Normal())
            numpyro.sample("y", dist.Normal(effect + x, 1.0), obs=y)

    posterior = infer(model, {"x": np.zeros(3), "y": np.ones(3)})
    words = (
        "at these inputs 'effect' has shape (2,), in the fit it had (3,), and nothing says what becomes of the "
        "posterior draws: name it or its plate in new=(...) ('effect', 'unit') to draw it anew"
    )
    with pytest.raises(ModelError, match=re.escape(words)):
        posterior.predict({"x": np.zeros(2)}, key=1)
    with pytest.raises(
        ModelError, match=r"new='units' is neither an unknown nor a plate.*did you mean 'unit'\?"
    ):
        posterior.predict({"x": np.zeros(2)}, key=1, new=("units",))
    with pytest.raises(DataError, match=r"model has no argument 'z'"):
        posterior.predict({"x": np.zeros(3), "z": 1.0}, key=1)
    assert posterior.predict({"x": np.zeros(2)}, key=1, new=("unit",)).drawn_anew == ("effect",)


def test_a_model_that_always_observes_says_which_argument_to_change():
    def model(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("a", dist.Normal()), 1.0), obs=y)

    posterior = infer(model, {"y": np.ones(3)})
    with pytest.raises(
        ModelError, match=r"this model always observes y.*give the argument.*the default None"
    ):
        posterior.predict(key=0)
