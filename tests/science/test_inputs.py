"""Doses, infusions and forcing against closed forms and against solves cut by hand at every jump."""

from __future__ import annotations

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import bayeshybrid as bh
from bayeshybrid.faults import DataError, ModelError
from bayeshybrid.science import ode, punctuated
from bayeshybrid.science.events import gather
from bayeshybrid.science.inputs import binding
from bayeshybrid.science.jumps import undeclared
from bayeshybrid.science.ode import Reason

TIGHT = {"rtol": 1e-9, "atol": 1e-9}
ORAL = (1.5, 0.2)
TIMES = np.array([36.0, 0.0, 0.5, 12.0, 12.5, 24.0, 30.0])


def oral(t, y, k):
    return jnp.stack([-k[0] * y[0], k[0] * y[0] - k[1] * y[1]])


@jax.jit
def repeated(times, doses, k=ORAL):
    return ode.solve(oral, jnp.zeros(2), times, 0.0, k, inputs=[doses], labels=("gut", "blood"), **TIGHT)


def superposed(times, given, k=ORAL):
    """One-compartment model with first-order absorption (Gibaldi and Perrier 1982): a sum over doses before."""
    total = np.zeros(len(times))
    for at, amount in given:
        since = np.maximum(times - at, 0.0)
        total += (
            (times > at) * amount * k[0] / (k[0] - k[1]) * (np.exp(-k[1] * since) - np.exp(-k[0] * since))
        )
    return total


def solved(solution):
    assert bool(jnp.all(solution.ok)), [ode.describe(code) for code in np.ravel(solution.reason)]
    return np.asarray(solution.ys)


# Doses


GIVEN = [(0.0, 10.0), (12.0, 20.0), (24.0, 5.0), (36.0, 7.0), (99.0, 3.0)]


def dosed(given, into="gut"):
    times, amounts = np.array(given, float).T
    return bh.doses(times, amounts, into=into)


def test_repeated_doses_superpose():
    """At the start, at times that are wanted (where the state is the one before) and after the end."""
    ys = solved(repeated(TIMES, dosed(GIVEN)))
    np.testing.assert_allclose(ys[:, 1], superposed(TIMES, GIVEN), atol=1e-7)
    gut = sum(amount * np.exp(-1.5 * np.maximum(TIMES - at, 0)) * (at < TIMES) for at, amount in GIVEN)
    np.testing.assert_allclose(ys[:, 0], gut, atol=1e-7)
    assert ys[1].tolist() == [0.0, 0.0]


def test_order_and_padding_change_nothing():
    whole = repeated(TIMES, dosed(GIVEN))
    turned = repeated(TIMES, dosed(GIVEN[::-1]))
    assert np.array_equal(whole.ys, turned.ys)
    paddings = (
        [(np.nan, 7.0), (np.inf, 1.0)],
        [(5.0, 0.0), (-9.0, 0.0)],
        [(0.0, 0.0), (np.nan, np.nan)],
    )
    padded = [repeated(TIMES, dosed(GIVEN[:3] + padding)) for padding in paddings]
    np.testing.assert_allclose(solved(padded[0])[:, 1], superposed(TIMES, GIVEN[:3]), atol=1e-7)
    for other in padded[1:]:
        assert np.array_equal(other.ys, padded[0].ys)
        assert other.steps == padded[0].steps


def test_times_that_differ_by_rounding_are_one_moment():
    third = 0.1 * 3  # larger than 0.3 by its last digit
    assert third > 0.3
    times = np.array([0.3, third, 0.30001, 1, 2, 3, 4])
    both = repeated(times, dosed([(0.3, 10.0), (third, 10.0), (5.0, 1.0), (5.0, 1.0), (9.0, 1.0)]))
    assert both.ys[0].tolist() == both.ys[1].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(both.ys[2:, 1], superposed(times[2:], [(0.3, 20.0)]), atol=1e-7)
    assert both.steps < 300


def test_a_long_rest_before_a_dose():
    """At rest steps grow without limit, and the slope of zeros is zero: what follows the dose must be refused."""
    rest = 1e5
    times = rest + np.array([0.0, 0.5, 4.0, 50.0, 100.0, 101.0, 200.0])
    given = [(rest, 1.0), (rest + 100.0, 3.0), (np.nan, 1.0), (np.nan, 1.0), (np.nan, 1.0)]
    solution = repeated(times, dosed(given))
    np.testing.assert_allclose(solved(solution)[:, 1], superposed(times, given[:2]), atol=1e-7)
    assert solution.steps < 1000


def test_a_long_rest_and_an_implicit_solver():
    """Which could take a step of any length without blowing up."""
    times = np.array([1e5, 1e5 + 0.5, 1e5 + 4.0, 1e6])
    solution = jax.jit(
        lambda dose: ode.solve(
            oral,
            jnp.zeros(2),
            times,
            0.0,
            ORAL,
            inputs=[dose],
            solver=diffrax.Kvaerno5(),
            rtol=1e-6,
            atol=1e-6,
        )
    )(bh.doses([1e5, 1e5 + 3.0], [1.0, 3.0]))
    expected = superposed(times, [(1e5, 1.0), (1e5 + 3.0, 3.0)])
    np.testing.assert_allclose(solved(solution)[:, 1], expected, atol=1e-4)
    assert solution.steps < 400


def test_a_dose_has_its_derivative_only_where_its_time_has_one():
    """The slopes on both sides of a jump are evaluated where a time is differentiated, and nowhere else."""
    asked = []

    def field(t, y, inputs):
        asked.append(1)
        return -y

    events = gather([bh.doses([1.0], [2.0])], 1, (), jnp.array(0.0), jnp.array(3.0))
    now, since = jnp.array(1.5), jnp.array(0.5)

    def behind(y, moving):
        return punctuated.cross(field, events._replace(moving=moving), (None, events), y, since, now)

    assert jax.jvp(lambda y: behind(y, events.moving), (jnp.ones(1),), (jnp.ones(1),))[1] == 1.0
    assert not asked
    value, tangent = jax.jvp(lambda moving: behind(jnp.ones(1), moving), (events.moving,), (jnp.ones(1),))
    assert (value, tangent) == (3.0, 2.0)
    assert len(asked) == 3


def test_inputs_count_for_the_choice_only_where_they_are_differentiated():
    seen = []

    def choose(k, times):
        seen.append(ode._chosen("auto", k, {}, {"times": times}))
        return k.sum() + times.sum()

    k, times = jnp.zeros(2), jnp.zeros(20)
    jax.jit(jax.grad(choose, argnums=0))(k, times)
    jax.jit(jax.grad(choose, argnums=(0, 1)))(k, times)
    jax.jit(jax.grad(lambda k, rows: jax.vmap(choose, (None, 0))(k, rows).sum(), argnums=1))(k, times[None])
    assert [each is ode._forward for each in seen] == [True, False, False]


# Everything at once, against solves that are cut by hand

EVERYTHING = {
    "times": np.array([0.3, 2.0, 2.0, 5.5, 9.0]),
    "amounts": np.array([1.0, 2.0, 3.0, 1.0, 5.0]),
    "duration": np.array([0.0, 1.5, 0.0, 2.0, 0.0]),
    "rain_times": np.array([-1.0, 1.0, 4.0, 6.0]),
    "rain": np.array([0.5, 2.0, 0.0, 1.0]),
    "warm_times": np.array([-1.0, 2.1, 3.5, 8.0]),
    "warm": np.array([0.0, 3.0, 1.0, 2.0]),
    "y0": np.array([1.0, 0.5]),
    "k": np.array([0.8, 0.3]),
    "t0": np.array(-0.1),
}
WANTED = np.array([0.0, 0.5, 3.0, 5.0, 7.7])
WEIGHTS = np.linspace(-1.0, 2.0, 10).reshape(5, 2)


def weather(t, y, k, rain, warm):
    absorbed = k[0] * y[0]
    return jnp.stack([-absorbed * (1 + 0.1 * warm) + rain, absorbed - k[1] * y[1] ** 2])


def everything(given, sensitivities):
    rain = bh.forcing(given["rain_times"], given["rain"])
    warm = bh.forcing(given["warm_times"], given["warm"], kind="linear")
    doses = bh.doses(given["times"], given["amounts"], duration=given["duration"])
    solution = ode.solve(
        lambda t, y, k: weather(t, y, k, rain(t), warm(t)),
        given["y0"], WANTED, given["t0"], given["k"],
        inputs=[doses, rain, warm], sensitivities=sensitivities, **TIGHT,
    )  # fmt: skip
    return (solution.ys * WEIGHTS).sum(), solution


@jax.jit
def piece(y, start, end, k, rain, warm):
    """Between two jumps: constant rain and infusions, and a straight line of warmth through (time, value) twice."""
    (a, left), (b, right) = warm
    line = lambda t: left + (right - left) * (t - a) / (b - a)  # noqa: E731
    return ode.solve(lambda t, y, k: weather(t, y, k, rain, line(t)), y, end[None], start, k, **TIGHT).ys[0]


def by_hand(given):
    """The same as a loop over pieces, in NumPy."""
    given = {name: np.asarray(value) for name, value in given.items()}
    ends = given["times"] + given["duration"]
    cuts = [given["times"], ends, given["rain_times"], given["warm_times"], WANTED]
    cuts = np.unique(np.concatenate(cuts))
    cuts = [cut for cut in cuts if given["t0"] < cut <= WANTED[-1]]
    y, now, rows = given["y0"], given["t0"], []
    for cut in cuts:
        middle = 0.5 * (now + cut)
        running = (given["times"] < middle) & (middle < ends)
        rate = (given["amounts"][running] / given["duration"][running]).sum()
        rain = given["rain"][np.searchsorted(given["rain_times"], middle) - 1] + rate
        i = np.searchsorted(given["warm_times"], middle)
        warm = tuple((given["warm_times"][j], given["warm"][j]) for j in (i - 1, i))
        y = np.array(piece(y, now, cut, given["k"], rain, warm))
        rows += [y] if cut in WANTED else []
        y = y + np.array([given["amounts"][(given["times"] == cut) & (given["duration"] == 0)].sum(), 0.0])
        now = cut
    return (np.array(rows) * WEIGHTS).sum()


@pytest.mark.parametrize("sensitivities", ["forward", pytest.param("reverse", marks=pytest.mark.slow)])
def test_value_and_every_derivative_agree_with_solves_cut_by_hand(sensitivities):
    """By rates, amounts, times and durations of doses, values and times of forcings, start and initial state."""
    flat, unravel = ravel_pytree(EVERYTHING)
    (value, solution), gradient = jax.jit(jax.value_and_grad(everything, has_aux=True), static_argnums=1)(
        EVERYTHING, sensitivities
    )
    assert bool(solution.ok)
    np.testing.assert_allclose(value, by_hand(EVERYTHING), atol=1e-6)
    gradient, _ = ravel_pytree(gradient)
    names = unravel(np.arange(flat.size))
    step = 1e-4
    sided = {int(names["duration"][i]) for i in (0, 2, 4)}  # a duration cannot be below zero
    for i in set(range(flat.size)) - sided:
        up, down = (by_hand(unravel(flat.at[i].add(by))) for by in (step, -step))
        np.testing.assert_allclose(gradient[i], (up - down) / (2 * step), atol=2e-5, err_msg=f"number {i}")
    assert {float(gradient[i]) for i in sided} == {0.0}


@pytest.mark.parametrize("sensitivities", [pytest.param("forward", marks=pytest.mark.slow), "reverse"])
def test_an_unknown_lag_moves_all_doses(sensitivities):
    def end(lag):
        doses = bh.doses(np.array([0.0, 1.0]) + lag, 10.0)
        options = {"inputs": [doses], "sensitivities": sensitivities, **TIGHT}
        return ode.solve(oral, jnp.zeros(2), np.array([3.0]), 0.0, ORAL, **options).ys[0, 1]

    def exact(lag):
        return superposed(np.array([3.0]), [(lag, 10.0), (1 + lag, 10.0)])[0]

    value, slope = jax.jit(jax.value_and_grad(end))(0.4)
    np.testing.assert_allclose(value, exact(0.4), rtol=1e-7)
    np.testing.assert_allclose(slope, (exact(0.4001) - exact(0.3999)) / 2e-4, rtol=1e-6)


# Forcing


@jax.jit
def stored(forcing, times, k):
    return ode.solve(
        lambda t, y, k: forcing(t) - k * y, 1.0, times, 0.0, k, inputs=[forcing], rtol=1e-5, atol=1e-5
    )


def test_a_year_of_daily_rain(generator):
    """Each day by its closed form, at hardly more than the step a day that the jumps demand."""
    days, rain, k = np.arange(365.0), generator.gamma(0.3, 10.0, 365), 0.3
    solution = stored(bh.forcing(days, rain), days + 1.0, k)
    level, expected = 1.0, []
    for fallen in rain:
        level = fallen / k + (level - fallen / k) * np.exp(-k)
        expected.append(level)
    np.testing.assert_allclose(solved(solution), expected, rtol=1e-4, atol=1e-4)
    assert 365 <= solution.steps < 2 * 365


def test_a_short_pulse_is_never_stepped_over():
    """Three seconds of rain in a dry year, and the same pulse undeclared: missed by the solver, but told."""
    begin, end = 200.0, 200.0 + 3 / 86400
    cuts, values = np.append(0.0, np.linspace(begin, 1000.0, 364)), np.zeros(365)
    cuts[2], values[1] = end, 1e5
    times, k = np.full(365, 300.0), 0.01
    expected = np.exp(-k * 300) + 1e5 * 3 / 86400 * np.exp(-k * 100)
    np.testing.assert_allclose(solved(stored(bh.forcing(cuts, values), times, k)), expected, rtol=1e-4)

    def hidden(t, y, k):
        return jnp.where((t > begin) & (t < end), 1e5, 0.0) - k * y

    missed = jax.jit(lambda k: ode.solve(hidden, 1.0, times[:1], 0.0, k, **TIGHT))(k)
    np.testing.assert_allclose(solved(missed), np.exp(-k * 300), rtol=1e-4)
    assert "bh.forcing" in undeclared(hidden, 0.0, 1.0, k)[0]


def test_what_a_forcing_answers():
    steps = bh.forcing([0.0, 1.0, 1.0, 2.0], [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    asked = jnp.array([-0.1, 0.0, 0.5, 1.0, 9.0])
    nan = np.nan
    assert np.array_equal(steps(asked), [[nan, nan], [0, 1], [0, 1], [4, 5], [6, 7]], equal_nan=True)
    line = bh.forcing([0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 5.0, 6.0], kind="linear")
    asked = jnp.array([-0.1, 0.25, 1.0, 1.5, 2.0, 2.1])
    assert np.array_equal(line(asked), [nan, 0.25, 5.0, 5.5, 6.0, nan], equal_nan=True)
    long = bh.forcing(np.arange(1000.0), np.arange(1000.0))
    assert long(777.5) == 777.0


def test_a_forcing_is_the_lanes_own_by_declaration():
    rain = bh.forcing(np.zeros((2, 1)), np.array([[1.0], [2.0]]))
    with pytest.raises(ModelError, match=r"unit axis, times of shape \(2, 1\).*in_axes"):
        rain(0.5)

    def lane(own):
        with binding([own]):
            return rain(0.5)

    assert jax.vmap(lane)(rain).tolist() == [1.0, 2.0]


@jax.jit
def driven_inside(t, rain):
    return rain(t)


def driven(t, y, args):
    rain, rate = args
    return driven_inside(t, rain) - rate * y


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(driven, id="part"),
        pytest.param(jax.jit(driven), id="jax", marks=pytest.mark.slow),
        pytest.param(eqx.filter_jit(driven), id="equinox", marks=pytest.mark.slow),
    ],
)
def test_a_field_may_be_compiled_already(field):
    """Constant rain at either rate: y = rain / rate * (1 - exp(-rate t)), in one trace and in the next."""

    @jax.jit
    def path(amount):
        rain = bh.forcing(jnp.array([0.0, 1.0]), amount * jnp.ones(2))
        return ode.solve(field, 0.0, TIMES, 0.0, (rain, 0.5), inputs=[rain], **TIGHT).ys

    expected = 1.0 - np.exp(-0.5 * TIMES)
    for amount in (1.0, jnp.array([2.0, 3.0])):
        found = jax.vmap(path)(jnp.atleast_1d(amount))
        np.testing.assert_allclose(
            found, np.atleast_1d(amount)[:, None] * expected / 0.5, rtol=1e-7, atol=1e-9
        )


def test_a_forcing_in_the_arguments_and_a_state_that_is_a_number():
    """A forcing mapped by hand as any other tree; the one that was declared is the one that is called."""
    rain = bh.forcing(jnp.zeros((2, 1)), jnp.array([[1.0], [2.0]]))

    def lane(own):
        inputs = [own, bh.doses(1.0, 4.0)]
        return ode.solve(lambda t, y, f: f(t), 0.0, np.array([2.0, 1.0]), 0.0, own, inputs=inputs).ys

    np.testing.assert_allclose(jax.jit(jax.vmap(lane))(rain), [[6.0, 1.0], [8.0, 2.0]], rtol=1e-6)


# What cannot be


@jax.jit
def reason_of(doses, steps, line):
    solution = ode.solve(
        lambda t, y, k: steps(t) + line(t) - y, 1.0, np.array([0.0, 2.0]), 0.0, inputs=[doses, steps, line]
    )
    return solution, jnp.isnan(solution.ys)


SOUND = (([1.0, 9.0], [1.0, 2.0], [0.0, 1.0]), [0.0, 1.0, 2.0], [-1.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("doses", "steps", "line", "reason"),
    [
        (*SOUND, Reason.SOLVED),
        (([-1.0, 1.0], [1.0, 2.0], [0.0, 1.0]), *SOUND[1:], Reason.DOSE_BEFORE_START),
        (([0.5, 1.0], [1.0, -2.0], [0.0, 1.0]), *SOUND[1:], Reason.DOSE_NEGATIVE),
        (([0.5, 1.0], [1.0, 2.0], [0.0, -1.0]), *SOUND[1:], Reason.DOSE_NEGATIVE),
        (([0.5, 1.0], [1.0, np.nan], [0.0, 1.0]), *SOUND[1:], Reason.DOSE_NEGATIVE),
        (SOUND[0], [0.1, 1.0, 2.0], SOUND[2], Reason.FORCING_UNKNOWN),
        (SOUND[0], SOUND[1], [-1.0, 0.5, 1.9], Reason.FORCING_UNKNOWN),
        (SOUND[0], [0.0, 1.0, 0.5], SOUND[2], Reason.FORCING_UNSORTED),
        (SOUND[0], [0.0, np.nan, 3.0], SOUND[2], Reason.FORCING_UNSORTED),
    ],
)
def test_inputs_that_cannot_be_used_end_the_solve_before_it_begins(doses, steps, line, reason):
    value = jnp.array([1.0, 2.0, 3.0])
    doses = bh.Doses(*map(jnp.asarray, doses), into=0)
    steps, line = (
        bh.Forcing(jnp.asarray(times), value, kind, bh.forcing([0.0], [0.0]).token)
        for times, kind in ((steps, "previous"), (line, "linear"))
    )
    solution, lost = reason_of(doses, steps, line)
    assert Reason(int(solution.reason)) is reason
    assert bool(lost.all()) == (reason is not Reason.SOLVED)
    assert bool(solution.steps == 0) == (reason is not Reason.SOLVED)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bh.doses([0.0, 1.0], [1.0, -2.0]), r"amounts \[1\] = -2 at time 1 is negative"),
        (lambda: bh.doses(2.0, 1.0, duration=-1.0), r"duration \[0\] = -1 at time 2 is negative"),
        (lambda: bh.doses(0.0, np.ones(12)), r"times of shape \(\), amounts \(12,\).*amounts\[:, None\]"),
        (lambda: bh.doses([0.0, 1.0], np.ones((3, 4))), r"amounts \(3, 4\)"),
        (lambda: bh.doses(["1 h"], 1.0), "not numbers"),
        (lambda: bh.doses(0.0, 1.0, into=1.5), "into = 1.5"),
        (lambda: bh.forcing([1.0, 0.5], [1.0, 2.0]), r"times\[1\] = 0.5 comes after 1"),
        (lambda: bh.forcing([1.0, np.nan], [1.0, 2.0]), r"times\[1\] is nan"),
        (lambda: bh.forcing([1.0, 2.0], [1.0, 2.0, 3.0]), r"times of shape \(2,\), values \(3,\)"),
        (lambda: bh.forcing([], []), "no times"),
        (lambda: bh.forcing([0.0], [1.0], kind="next"), r"kind = 'next'; write \"previous\" or \"linear\""),
        (lambda: bh.forcing([0.0], ["wet"]), "not numbers"),
    ],
)  # fmt: skip
def test_faults_that_are_seen_at_once(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_doses_of_units_may_share_their_times():
    each = bh.doses([0.0, 12.0], np.array([[1.0], [2.0], [3.0]]))
    assert each.times.shape == each.amounts.shape == (3, 2)
    assert each.duration is None
    assert bh.doses(0.0, np.ones((3, 1))).times.shape == (3, 1)
    assert bh.doses([0.0, 12.0], 5.0, duration=[0.0, 1.0]).duration.shape == (2,)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            [bh.doses(0.0, 1.0, into="gutt")],
            r"enters 'gutt', the components are gut, blood: did you mean 'gut'\?",
        ),
        ([bh.doses(0.0, 1.0, into=2)], r"component 2, the state has 2: write 0 to 1"),
        ([{"times": 0.0}], r"inputs\[0\] is a dict: write bh.doses"),
        ([bh.doses(np.zeros((3, 1)), 1.0)], r"inputs\[0\] has a unit axis.*in_axes"),
    ],
)
def test_inputs_that_do_not_fit_the_solve(inputs, message):
    with pytest.raises(ModelError, match=message):
        ode.solve(oral, jnp.zeros(2), TIMES, 0.0, ORAL, inputs=inputs, labels=("gut", "blood"))
    if inputs[0] is not None and getattr(inputs[0], "into", None) == "gutt":
        with pytest.raises(ModelError, match=r"no labels="):
            ode.solve(oral, jnp.zeros(2), TIMES, 0.0, ORAL, inputs=inputs)
