"""Solves against closed forms, and every way in which a solve can fail."""

from __future__ import annotations

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayeshybrid.science import ode
from bayeshybrid.science.ode import Reason

TIMES = np.array([0.0, 0.4, 1.0, 2.5])
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def decay(t, y, rate):
    return -rate * y


def oscillator(t, y, frequency):
    position, speed = y
    return jnp.stack([speed, -(frequency**2) * position])


def solved(solution: ode.Solution) -> np.ndarray:
    assert bool(solution.ok), ode.describe(int(solution.reason))
    return np.asarray(solution.ys)


@pytest.mark.parametrize(
    "solver", [None, diffrax.Dopri5(), diffrax.Kvaerno5()], ids=["tsit5", "dopri5", "kvaerno5"]
)
def test_oscillator_agrees_with_its_closed_form(solver):
    solution = jax.jit(
        lambda f: ode.solve(oscillator, jnp.array([1.0, 0.0]), TIMES, 0.0, f, solver=solver, **TIGHT)
    )(2.0)
    expected = np.stack([np.cos(2.0 * TIMES), -2.0 * np.sin(2.0 * TIMES)], axis=-1)
    np.testing.assert_allclose(solved(solution), expected, atol=1e-7)
    assert int(solution.steps) > 0


@pytest.mark.parametrize("sensitivities", ["forward", "reverse"])
def test_gradients_by_every_input_agree_with_the_closed_form(sensitivities):
    def last(rate, start, t0, times):
        return ode.solve(decay, start, times, t0, rate, sensitivities=sensitivities, **TIGHT).ys @ jnp.arange(
            1.0, 5.0
        )

    rate, start, t0 = 0.7, 2.0, -0.5
    weights = np.arange(1.0, 5.0)
    ys = start * np.exp(-rate * (TIMES - t0))
    by_rate, by_start, by_t0, by_times = jax.jit(jax.grad(last, argnums=(0, 1, 2, 3)))(
        rate, start, t0, jnp.asarray(TIMES)
    )
    np.testing.assert_allclose(by_rate, weights @ (-(TIMES - t0) * ys), rtol=1e-7)
    np.testing.assert_allclose(by_start, weights @ ys / start, rtol=1e-7)
    np.testing.assert_allclose(by_t0, rate * weights @ ys, rtol=1e-7)
    np.testing.assert_allclose(by_times, -rate * weights * ys, rtol=1e-7)


def test_time_derivative_at_the_start_is_the_field():
    slope = jax.jacfwd(lambda times: ode.solve(decay, 2.0, times, 0.0, 0.5).ys)(jnp.zeros(1))
    np.testing.assert_allclose(slope, [[-1.0]])


@pytest.mark.slow
def test_implicit_solver_has_gradients_both_ways():
    def last(f, sensitivities):
        y0 = jnp.array([1.0, 0.0])
        solution = ode.solve(
            oscillator,
            y0,
            TIMES,
            0.0,
            f,
            solver=diffrax.Kvaerno5(),
            sensitivities=sensitivities,
            rtol=1e-8,
            atol=1e-8,
        )
        return solution.ys[-1, 0]

    for sensitivities in ("forward", "reverse"):
        gradient = jax.jit(jax.grad(last), static_argnums=1)(2.0, sensitivities)
        np.testing.assert_allclose(gradient, -2.5 * np.sin(5.0), rtol=1e-5)


@pytest.mark.slow
def test_forward_rule_serves_jvp_and_second_derivatives():
    def last(rate):
        return ode.solve(decay, 2.0, np.array([1.5]), 0.0, rate, **TIGHT).ys[0]

    value = 2.0 * np.exp(-0.75)
    np.testing.assert_allclose(jax.jvp(last, (0.5,), (1.0,)), (value, -1.5 * value), rtol=1e-7)
    np.testing.assert_allclose(jax.hessian(last)(0.5), 2.25 * value, rtol=1e-6)


def test_choice_is_by_the_count_of_traced_numbers():
    def chosen(size):
        seen = []
        outside = jnp.zeros(2)

        def probe(x, constant):
            seen.append(ode._chosen("auto", outside, {"x": x, "constant": constant}))
            return x.sum()

        jax.make_jaxpr(lambda x: probe(x, np.zeros(1000)))(jnp.zeros(size))
        return seen[0]

    assert chosen(ode.FORWARD_INPUTS) is ode._forward
    assert chosen(ode.FORWARD_INPUTS + 1) is ode._reverse


def test_order_and_repeats_come_back_as_given():
    times = np.array([2.5, 0.0, 1.0, 1.0, 0.4])
    solution = ode.solve(decay, jnp.array([2.0, 1.0]), times, 0.0, 0.5)
    ys = solved(solution)
    ordered = solved(ode.solve(decay, jnp.array([2.0, 1.0]), np.sort(times), 0.0, 0.5))
    np.testing.assert_array_equal(ys, ordered[[4, 0, 2, 3, 1]])
    np.testing.assert_array_equal(ys[1], [2.0, 1.0])


def test_only_the_start_and_no_times_at_all():
    at_start = ode.solve(decay, 3.0, np.full(2, 7.0), 7.0, 0.5)
    np.testing.assert_array_equal(solved(at_start), [3.0, 3.0])
    nothing = ode.solve(decay, jnp.ones(2), np.zeros(0), 0.0, 0.5)
    assert nothing.ys.shape == (0, 2)
    assert bool(nothing.ok)


def test_lanes_keep_their_own_status_and_gradient():
    def one(rate, t0):
        return ode.solve(
            lambda t, y, args: rate * y**2, 1.0, jnp.array([0.5, 2.0]), t0, None, rtol=1e-9, atol=1e-9
        )

    rates, starts = jnp.array([-1.0, 1.0, -1.0, jnp.nan]), jnp.array([0.0, 0.0, 1.0, 0.0])
    lanes = jax.jit(jax.vmap(one))(rates, starts)
    assert list(np.asarray(lanes.reason)) == [
        Reason.SOLVED, Reason.STEP_UNDERFLOW, Reason.BEFORE_START, Reason.NOT_FINITE
    ]  # fmt: skip
    assert list(np.asarray(lanes.ok)) == [True, False, False, False]
    np.testing.assert_allclose(lanes.ys[0], [1 / 1.5, 1 / 3.0], rtol=1e-6)
    np.testing.assert_allclose(lanes.ys[1], [2.0, np.nan], rtol=1e-6)
    assert np.isnan(lanes.ys[2:]).all()
    gradients = jax.jit(jax.vmap(jax.grad(lambda rate, t0: one(rate, t0).ys[0])))(rates, starts)
    np.testing.assert_allclose(gradients[:2], [0.5 / 1.5**2, 0.5 / 0.5**2], rtol=1e-5)
    outside = jax.jit(jax.grad(lambda rates: jax.vmap(one)(rates, starts[:2]).ys[:, 0].sum()))(rates[:2])
    np.testing.assert_allclose(outside, gradients[:2], rtol=1e-12)


def fails(field, args=None, y0=1.0, **options) -> tuple[Reason, np.ndarray]:
    solution = jax.jit(lambda y0, args: ode.solve(field, y0, TIMES, 0.0, args, **options))(y0, args)
    assert not bool(solution.ok)
    return Reason(int(solution.reason)), np.asarray(solution.ys)


def test_pole_is_a_step_underflow_and_keeps_the_rows_before_it():
    reason, ys = fails(lambda t, y, args: y**2)
    assert reason is Reason.STEP_UNDERFLOW
    np.testing.assert_allclose(ys[:2], [1.0, 1 / 0.6], rtol=1e-4)
    assert np.isnan(ys[3])


@pytest.mark.parametrize(
    "field",
    [
        lambda t, y, args: jnp.sqrt(-y),
        lambda t, y, args: -1.0 - jnp.sqrt(y),
        lambda t, y, args: jnp.where(t > 0.5, jnp.nan, -y),
        lambda t, y, args: 40.0 * (y + 1e300),
        lambda t, y, args: 900.0 * y,
    ],
    ids=["at-the-start", "later", "after-a-time", "overflow", "overflow-after-long"],
)
def test_field_or_state_that_is_not_finite(field):
    reason, ys = fails(field)
    assert reason is Reason.NOT_FINITE
    assert np.isnan(ys[-1])


def test_nan_in_the_arguments_makes_no_step():
    solution = ode.solve(decay, 1.0, TIMES, 0.0, jnp.nan)
    assert Reason(int(solution.reason)) is Reason.NOT_FINITE
    assert int(solution.steps) == 0
    assert np.isnan(solution.ys).all()


def test_field_undefined_beyond_the_first_guess_of_a_step_still_ends_soon():
    # The automatic first step looks ahead to where this field is NaN.
    solution = ode.solve(lambda t, y, args: jnp.where(y < 1.0, jnp.nan, -1.0), 1.0, TIMES, 0.0)
    assert Reason(int(solution.reason)) is Reason.NOT_FINITE
    assert int(solution.steps) < 100


def test_too_many_steps():
    reason, ys = fails(lambda t, y, args: -1e6 * (y - jnp.cos(t)), max_steps=200)
    assert reason is Reason.MAX_STEPS
    assert np.isnan(ys[1:]).all()
    assert ys[0] == 1.0


def test_newton_that_cannot_converge():
    # The sign of the field's derivative is never what Newton's method needs at the jump.
    reason, _ = fails(lambda t, y, args: jnp.where(y > 0.5, -1.0, 1.0), solver=diffrax.Kvaerno5())
    assert reason is Reason.NEWTON_DIVERGED


def test_jacobian_that_is_not_finite():
    # diffrax alone stays at zero here and calls it a success.
    def infinite_slope(t, y, args):
        return 1.0 - jnp.sqrt(jnp.abs(y))

    reason, _ = fails(infinite_slope, y0=0.0, solver=diffrax.Kvaerno5())
    assert reason is Reason.SINGULAR


def test_time_before_the_start_is_refused():
    solution = ode.solve(decay, 1.0, np.array([1.0, -0.1]), 0.0, 0.5)
    assert Reason(int(solution.reason)) is Reason.BEFORE_START
    assert np.isnan(solution.ys).all()


def test_every_reason_is_described():
    assert len({ode.describe(reason) for reason in Reason}) == len(Reason)


class Rate(eqx.Module):
    """Arrays, a function and an integer in one argument."""

    net: eqx.nn.MLP
    power: int
    kind: jax.Array

    def __call__(self, y):
        return self.net(y) ** self.power * self.kind


@pytest.mark.slow
def test_equinox_module_with_functions_and_integers_as_argument_or_closure(key):
    net = eqx.nn.MLP(2, 2, width_size=3, depth=1, activation=jnp.tanh, key=key)
    rate = Rate(net, 1, jnp.array(1))
    y0 = jnp.array([0.5, -0.2])

    def as_argument(rate):
        return ode.solve(lambda t, y, rate: rate(y), y0, TIMES, 0.0, rate).ys.sum()

    def as_closure(rate):
        return ode.solve(lambda t, y, args: rate(y), y0, TIMES, 0.0).ys.sum()

    one = eqx.filter_jit(eqx.filter_grad(as_argument))(rate)
    two = eqx.filter_jit(eqx.filter_grad(as_closure))(rate)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-10)

    def bent(step):
        moved = eqx.tree_at(lambda r: r.net.layers[0].bias, rate, rate.net.layers[0].bias.at[0].add(step))
        return ode.solve(lambda t, y, rate: rate(y), y0, TIMES, 0.0, moved, **TIGHT).ys.sum()

    finite_difference = (bent(1e-5) - bent(-1e-5)) / 2e-5
    np.testing.assert_allclose(one.net.layers[0].bias[0], finite_difference, rtol=1e-4)


@pytest.mark.slow
def test_closed_over_scalar_is_differentiated_by_vmapped_lane():
    def last(rate, y0):
        return ode.solve(lambda t, y, args: -rate * y, y0, np.array([1.0]), 0.0, **TIGHT).ys[0]

    rates = jnp.array([0.1, 0.5, 2.0])
    gradients = jax.vmap(jax.grad(last), in_axes=(0, None))(rates, 3.0)
    np.testing.assert_allclose(gradients, -3.0 * np.exp(-rates), rtol=1e-7)


@pytest.mark.slow
def test_single_precision_follows_its_inputs():
    with jax.enable_x64(False):
        solution = ode.solve(
            decay, jnp.float32(2.0), np.array([1.0], np.float32), 0.0, 0.5, rtol=1e-5, atol=1e-5
        )
        gradient = jax.grad(lambda rate: ode.solve(decay, 2.0, np.array([1.0]), 0.0, rate).ys[0])(0.5)
    assert solution.ys.dtype == jnp.float32
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(solved(solution), 2 * np.exp([-0.5]), rtol=1e-4)
    np.testing.assert_allclose(gradient, -2 * np.exp(-0.5), rtol=1e-3)


@pytest.mark.parametrize(("dtype", "message"), [(np.float32, "use 64-bit"), (np.float64, "at least 2e-15")])
def test_tolerance_below_the_precision(dtype, message):
    with jax.enable_x64(dtype is np.float64), pytest.raises(ValueError, match=f"1e-16.*{message}"):
        ode.solve(decay, dtype(1.0), np.ones(1, dtype), dtype(0), 0.5, rtol=1e-16, atol=1e-16)


@pytest.mark.parametrize("tolerances", [(0.0, 0.0), (-1.0, 1e-6), (np.nan, 1e-6)])
def test_tolerances_that_make_no_sense(tolerances):
    with pytest.raises(ValueError, match="of which one is positive"):
        ode.solve(decay, 1.0, TIMES, 0.0, 0.5, rtol=tolerances[0], atol=tolerances[1])


def test_tolerances_may_be_traced():
    tolerances = jnp.array([1e-3, 1e-9])
    steps = jax.jit(jax.vmap(lambda tol: ode.solve(decay, 1.0, TIMES, 0.0, 0.5, rtol=tol, atol=tol).steps))(
        tolerances
    )
    assert steps[0] < steps[1]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (lambda t, y, args: jnp.ones(3), r"field returned \(3,\), state is \(2,\): prey, predator"),
        (lambda t, y, args: jnp.ones((2, 1)), r"field returned \(2, 1\), state is \(2,\)"),
        (lambda t, y, args: (y[0], y[1]), r"field returned a tuple of 2, .*jnp.stack"),
        (lambda t, y, args: None, r"field returned a NoneType, "),
        (lambda t, y, args: y > 0, "field returned bool numbers"),
    ],
)
def test_field_of_a_wrong_form_is_named(field, message):
    with pytest.raises(ValueError, match=message):
        ode.solve(field, jnp.ones(2), TIMES, 0.0, labels=("prey", "predator"))


@pytest.mark.parametrize(
    ("y0", "times", "t0", "message"),
    [
        (np.ones((2, 2)), TIMES, 0.0, r"y0 has shape \(2, 2\)"),
        (np.ones(0), TIMES, 0.0, r"y0 has shape \(0,\)"),
        (1.0, 2.0, 0.0, r"times has shape \(\)"),
        (1.0, TIMES, np.zeros(1), r"t0 has shape \(1,\)"),
    ],
)
def test_shapes_that_cannot_be(y0, times, t0, message):
    with pytest.raises(ValueError, match=message):
        ode.solve(decay, y0, times, t0, 0.5)


def test_solver_without_an_error_estimate():
    with pytest.raises(ValueError, match="no estimate of its error"):
        ode.solve(decay, 1.0, TIMES, 0.0, 0.5, solver=diffrax.Euler())


def test_whole_numbers_are_taken_as_real_ones():
    ys = solved(ode.solve(decay, 2, np.array([1901, 1900]), 1900, 1, rtol=1e-8, atol=1e-8))
    np.testing.assert_allclose(ys, [2 * np.exp(-1.0), 2.0], rtol=1e-6)
