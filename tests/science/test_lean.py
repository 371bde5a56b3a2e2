"""Solves on a given grid against closed forms and adaptive solves, and what they must refuse."""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeshybrid as bh
from bayeshybrid.faults import ModelError
from bayeshybrid.science import ode
from bayeshybrid.science.ode import Reason
from tests.loops import counted_loops

TIGHT = {"rtol": 1e-11, "atol": 1e-11}


def oscillator(t, y, frequency):
    position, speed = y
    return jnp.stack([speed, -(frequency**2) * position])


def lotka_volterra(t, y, rates):
    hare, lynx = y
    birth, eaten, death, growth = rates
    return jnp.stack([(birth - eaten * lynx) * hare, (growth * hare - death) * lynx])


def fitzhugh_nagumo(t, y, p):
    voltage, recovery = y
    a, b, c, current = p
    return jnp.stack([voltage - voltage**3 / 3 - recovery + current, c * (voltage + a - b * recovery)])


def with_grid(grid, *times):
    """A grid that also ends steps at these times."""
    return np.unique(np.concatenate([grid, *(np.ravel(x) for x in times)]))


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (diffrax.Heun(), 2),
        (diffrax.Bosh3(), 3),
        (None, 5),
        (diffrax.Dopri5(), 5),
        (diffrax.Dopri8(), 8),
        (diffrax.Kvaerno5(), 5),
    ],
    ids=lambda x: type(x).__name__,
)
def test_error_falls_with_the_order_of_the_method(solver, order):
    times, frequency = np.array([1.0, 2.0]), 1.5
    exact = np.stack([np.cos(frequency * times), -frequency * np.sin(frequency * times)], axis=-1)

    def error(steps):
        grid = np.linspace(0.0, 2.0, steps + 1)
        found = ode.solve(oscillator, jnp.array([1.0, 0.0]), times, 0.0, frequency, solver=solver, grid=grid)
        assert found.ok
        assert found.steps == steps
        return np.abs(found.ys - exact).max()

    assert order - 0.3 < np.log2(error(8) / error(16)) < order + 1


@pytest.mark.parametrize(
    ("field", "start", "parameters", "end"),
    [
        (lotka_volterra, [30.0, 4.0], [0.55, 0.028, 0.8, 0.024], 20.0),
        (fitzhugh_nagumo, [-1.0, 1.0], [0.7, 0.8, 0.08, 0.5], 40.0),
    ],
)
def test_value_and_gradient_agree_with_a_tight_adaptive_solve(field, start, parameters, end):
    times = np.array([0.0, 0.31, 0.7, 0.31, 1.0]) * end  # unsorted, repeated, and the start
    grid = with_grid(np.linspace(0.0, end, 400), times)
    weights = np.linspace(0.5, 2.0, 10).reshape(5, 2)

    def total(start, parameters, **how):
        return (weights * ode.solve(field, start, times, 0.0, parameters, **how).ys).sum()

    given = jnp.array(start), jnp.array(parameters)
    both = jax.value_and_grad(total, argnums=(0, 1))
    value, (by_start, by_parameters) = jax.jit(lambda *x: both(*x, grid=grid))(*given)
    exact, (exact_start, exact_parameters) = jax.jit(lambda *x: both(*x, **TIGHT))(*given)
    np.testing.assert_allclose(value, exact, rtol=1e-7)
    np.testing.assert_allclose(by_start, exact_start, rtol=1e-6)
    np.testing.assert_allclose(by_parameters, exact_parameters, rtol=1e-6)
    forward = jax.jacfwd(lambda p: total(given[0], p, grid=grid))(given[1])
    np.testing.assert_allclose(forward, by_parameters, rtol=1e-10)


def test_derivatives_go_to_times_the_start_and_closed_over_arrays():
    times, grid = jnp.array([1.0, 2.0]), np.linspace(0.0, 2.0, 41)

    def last(rate, t0, times):
        return ode.solve(lambda t, y, _: -rate * y, 2.0, times, t0, grid=grid).ys @ jnp.array([1.0, 3.0])

    by_rate, by_t0, by_times = jax.grad(last, argnums=(0, 1, 2))(0.7, 0.0, times)
    weighted = np.array([1.0, 3.0]) * 2.0 * np.exp(-0.7 * times)
    np.testing.assert_allclose(by_rate, -(times * weighted).sum(), rtol=1e-7)
    np.testing.assert_allclose(by_t0, 0.7 * weighted.sum(), rtol=1e-7)
    np.testing.assert_allclose(by_times, -0.7 * weighted, rtol=1e-7)


def absorbed(times, dose_times, amounts, absorption, elimination):
    """Blood after doses into the gut, one compartment: the sum of Bateman functions; at a dose just before it."""
    since = times[:, None] - dose_times
    passed = np.maximum(since, 0.0)
    each = np.exp(-elimination * passed) - np.exp(-absorption * passed)
    return (np.where(since > 0, each, 0.0) * amounts).sum(1) * absorption / (absorption - elimination)


def gut_and_blood(t, y, rates):
    return jnp.stack([-rates[0] * y[0], rates[0] * y[0] - rates[1] * y[1]])


def test_doses_agree_with_the_closed_form():
    times, given = np.array([0.5, 3.0, 4.0, 9.0, 12.0]), np.array([0.0, 4.0, 9.0, 20.0])
    rates = np.array([1.3, 0.2])
    grid = with_grid(np.linspace(0.0, 12.0, 97), times, [4.0, 9.0])
    grid = np.insert(grid, np.searchsorted(grid, 4.0), [4.0, 4.0])  # repeats beside a jump give no dose twice

    def blood(amounts, rates, grid):
        oral = bh.doses(given, amounts, into=0)
        found = ode.solve(gut_and_blood, jnp.zeros(2), times, 0.0, rates, inputs=[oral], grid=grid, **TIGHT)
        return found.ys[:, 1]

    amounts = np.array([10.0, 5.0, 7.0, 9.0])
    exact = absorbed(times, given, amounts, *rates)
    np.testing.assert_allclose(blood(amounts, rates, grid), exact, rtol=1e-7)
    by_amounts, by_rates = jax.jit(jax.jacobian(blood, argnums=(0, 1)))(amounts, rates, grid)
    for by, which, step in ((by_amounts, amounts, 1e-5), (by_rates, rates, 1e-6)):
        for i, column in enumerate(by.T):
            ends = []
            for sign in (1.0, -1.0):
                which[i] += sign * step
                ends.append(absorbed(times, given, amounts, *rates))
                which[i] -= sign * step
            np.testing.assert_allclose(column, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)


def test_infusions_and_forcing_agree_with_adaptive_solves():
    times = np.array([1.0, 2.5, 6.0])
    rain = bh.forcing([0.0, 1.7, 3.0], [1.0, 4.0, 0.5])
    heat = bh.forcing([0.0, 2.0, 7.0], [1.0, 3.0, 0.0], kind="linear")
    drip = bh.doses([0.6, 2.5], [3.0, 2.0], duration=[1.5, 0.75])
    inputs = [rain, heat, drip]
    grid = with_grid(np.linspace(0.0, 6.0, 97), times, [1.7, 3.0, 2.0, 0.6, 2.1, 2.5, 3.25])

    def field(t, y, rate):
        return rain(t) + heat(t) * jnp.sin(y) - rate * y

    def total(rate, **how):
        return ode.solve(field, 1.0, times, 0.0, rate, inputs=inputs, **how).ys @ jnp.arange(1.0, 4.0)

    on_grid, exact = (
        jax.jit(jax.value_and_grad(lambda rate, how=how: total(rate, **how)))(0.8)
        for how in ({"grid": grid}, TIGHT)
    )
    np.testing.assert_allclose(on_grid, exact, rtol=1e-7)


def test_a_grid_without_a_dose_or_a_time_fails_with_a_reason():
    times, oral = np.array([1.0, 2.0]), bh.doses([0.5], 1.0)

    def solved(grid, **inputs):
        return ode.solve(lambda t, y, _: -y, 1.0, times, 0.0, grid=grid, **inputs)

    assert solved(np.linspace(0.0, 2.0, 5), inputs=[oral]).ok
    for found in (
        solved(np.array([0.0, 1.0, 2.0]), inputs=[oral]),
        solved(np.array([0.0, 0.9, 2.0])),
        solved(np.array([0.1, 1.0, 2.0])),
    ):
        assert found.reason == Reason.OFF_GRID
        assert not found.ok
        assert np.isnan(found.ys[-1])


def test_repeats_are_harmless():
    times, rates = np.array([5.0, 10.0]), jnp.array([0.55, 0.028, 0.8, 0.024])
    grid = np.linspace(0.0, 10.0, 41)
    padded = np.sort(np.concatenate([grid, np.repeat([0.0, 5.0, 10.0], 4), grid[7:9]]))

    def total(rates, grid):
        return ode.solve(lotka_volterra, jnp.array([30.0, 4.0]), times, 0.0, rates, grid=grid).ys.sum()

    plain, longer = (jax.value_and_grad(total)(rates, x) for x in (grid, padded))
    np.testing.assert_allclose(plain[0], longer[0], rtol=1e-13)
    np.testing.assert_allclose(plain[1], longer[1], rtol=1e-12)
    assert ode.solve(lotka_volterra, jnp.ones(2), times, 0.0, rates, grid=padded).steps == 40


def test_units_have_grids_of_their_own():
    times = np.array([[1.0, 2.0], [0.3, 0.9]])
    grids = np.stack([np.linspace(0.0, 2.0, 17), np.linspace(0.0, 0.9, 16).repeat([2] + [1] * 15)])

    def solved(start, times, grid):
        return ode.solve(lambda t, y, _: -0.5 * y, start, times, 0.0, grid=grid)

    start = jnp.array([2.0, 3.0])
    found = jax.vmap(solved)(start, times, grids)
    assert found.ok.all()
    assert found.steps.tolist() == [16, 15]
    np.testing.assert_allclose(found.ys, start[:, None] * np.exp(-0.5 * times), rtol=1e-7)
    assert not jax.vmap(solved)(start, times, grids[::-1]).ok.any()


def test_a_solve_that_is_not_finite_fails():
    found = ode.solve(
        lambda t, y, _: y**2, 1.0, np.array([0.5, 20.0]), 0.0, grid=with_grid(np.arange(21.0), 0.5)
    )
    assert found.reason == Reason.NOT_FINITE
    assert np.isnan(found.ys).all()
    late = ode.solve(lambda t, y, _: y, 1.0, np.array([0.5]), 1.0, grid=np.array([0.5, 1.0]))
    assert late.reason == Reason.BEFORE_START


def test_a_solver_without_steps_that_can_stand_is_refused():
    def refused(solver, states=2, ends=2):
        grid = np.arange(float(ends))
        ode.solve(lambda t, y, _: -y, jnp.ones(states), np.ones(1), 0.0, solver=solver, grid=grid)

    with pytest.raises(ModelError, match=r"Kvaerno5 has 17 states .* more than 16, so there can be no grid"):
        refused(diffrax.Kvaerno5(), 17)
    with pytest.raises(ModelError, match="ReversibleHeun is neither an explicit"):
        refused(diffrax.ReversibleHeun())
    with pytest.raises(ModelError, match=r"grid has shape \(1,\)"):
        refused(None, ends=1)


def test_a_stage_that_only_estimates_the_error_is_left_out():
    """Six stages of Tsitouras's seven, and one evaluation that asks whether the start is possible."""

    def program(y):
        return ode.solve(lambda t, y, _: jnp.sin(y), y, np.ones(1), 0.0, grid=np.linspace(0.0, 1.0, 3)).ys

    assert str(jax.make_jaxpr(program)(1.0)).count("= sin ") == 7


COUNT = """
import bayeshybrid, diffrax, jax, jax.numpy as jnp, numpy as np
from bayeshybrid import configuration
from bayeshybrid.science import ode
def field(t, y, rates):
    return jnp.stack([(rates[0] - rates[1] * y[1]) * y[0], (rates[2] * y[0] - rates[3]) * y[1]])
def total(rates):
    return ode.solve(field, jnp.ones(2), np.arange(1.0, 21.0), 0.0, rates, grid=np.linspace(0.0, 20.0, 61)).ys.sum()
def stiff(rates):
    at = np.concatenate([[0.0], np.geomspace(0.1, 20.0, 30)])
    solver, rates = diffrax.Kvaerno5(), rates * jnp.array([1.0, 1.0, 1.0, 100.0])
    return ode.solve(field, jnp.ones(2), at[1:], 0.0, rates, grid=at, solver=solver).ys.sum()
total = {{"total": total, "stiff": stiff}}["{which}"]
program = jax.jit(jax.vmap(jax.value_and_grad(total)), compiler_options=configuration.compile_options())
text = program.lower(np.ones((16, 4), np.float32)).compile().as_text()
"""


def test_the_loop_and_its_derivative_are_compiled_whole():
    """Forward and backward: all loops folded; with our options switched off neither is."""

    def counted(which="total", **more):
        return counted_loops(COUNT.format(which=which), **more)

    assert counted() == ["2", "2"]
    assert counted("stiff") == ["4", "4"]  # the inverses of both passes are loops of their own
    assert counted(BAYESHYBRID_CONFIGURE="0") == ["2", "0"]
