"""Steps for stiff systems on a grid, and the elimination that they and implicit solvers share."""

from __future__ import annotations

from itertools import pairwise

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest

import bayeshybrid as bh
from bayeshybrid.science import elimination, ode

TIMES = np.array([0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0])
RATES = np.log([0.04, 3e7, 1e4])
STIFF = diffrax.Kvaerno5()


def robertson(t, y, rates):
    first, second, third = rates[0] * y[0], rates[1] * y[1] ** 2, rates[2] * y[1] * y[2]
    return jnp.stack([third - first, first - second - third, second])


def shares(log_rates, **how):
    start = jnp.array([1.0, 0.0, 0.0])
    return jnp.log(ode.solve(robertson, start, TIMES, 0.0, jnp.exp(log_rates), solver=STIFF, **how).ys)


def steps(per_interval):
    between = [np.linspace(a, b, per_interval + 1)[1:] for a, b in pairwise(TIMES)]
    return np.concatenate([[0.0], np.geomspace(1e-4, 0.3, 4 * per_interval), *between])


def test_robertson_agrees_with_a_tight_adaptive_solve_in_value_and_gradient():
    """The published solution at 40 (Hairer and Wanner 1996, IV.10) is met too."""
    on_grid = jax.jit(jax.value_and_grad(lambda q: shares(q, grid=steps(8)).sum()))
    tight = jax.jit(jax.value_and_grad(lambda q: shares(q, rtol=1e-8, atol=1e-14, max_steps=100_000).sum()))
    value, gradient = on_grid(RATES)
    exact, exact_gradient = tight(RATES)
    assert float(value) == pytest.approx(float(exact), abs=1e-5)
    np.testing.assert_allclose(gradient, exact_gradient, atol=2e-5)
    grid = np.append(0.0, np.geomspace(1e-4, 40.0, 120))
    at_40 = ode.solve(
        robertson, jnp.array([1.0, 0.0, 0.0]), grid[-1:], 0.0, np.exp(RATES), solver=STIFF, grid=grid
    )
    published = [0.7158270688, 0.9185534765e-5, 0.2841637457]
    np.testing.assert_allclose(at_40.ys[0], published, rtol=1e-7)


def van_der_pol(t, y, stiffness):
    return jnp.stack([y[1], stiffness * (1 - y[0] ** 2) * y[1] - y[0]])


def test_derivatives_of_first_and_second_order_are_those_of_the_steps():
    grid = np.linspace(0.0, 0.5, 9)

    def total(given):
        found = ode.solve(van_der_pol, given[:2], grid[4::4], 0.0, given[2], solver=STIFF, grid=grid)
        return (found.ys * np.array([[1.0, 2.0], [3.0, 4.0]])).sum()

    at, width = jnp.array([2.0, 0.0, 50.0]), 1e-5
    backward = jax.jit(jax.grad(total))
    np.testing.assert_allclose(jax.jit(jax.jacfwd(total))(at), backward(at), rtol=1e-10)
    hessian = jax.jit(jax.hessian(total))(at)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-9)
    differences = [(backward(at + width * e) - backward(at - width * e)) / (2 * width) for e in np.eye(3)]
    np.testing.assert_allclose(hessian, differences, rtol=1e-5, atol=1e-7)


def test_order_holds_with_time_in_the_field_and_a_nonlinear_state():
    """y' = cos(t) y^2 from 1/2: y = 1 / (2 - sin t)."""

    def error(count):
        grid = np.linspace(0.0, 2.0, count + 1)
        found = ode.solve(lambda t, y, _: jnp.cos(t) * y**2, 0.5, grid[-1:], 0.0, solver=STIFF, grid=grid)
        return abs(float(found.ys[0]) - 1 / (2 - np.sin(2.0)))

    assert 4.5 < np.log2(error(8) / error(16)) < 6


def test_a_fast_component_is_damped_whatever_the_step():
    """L-stable: of y' = -1e9 (y - cos t) nothing of the start is left after steps a billion times too long."""
    grid = np.linspace(0.0, 1.0, 5)
    found = ode.solve(lambda t, y, _: -1e9 * (y - jnp.cos(t)), 5.0, grid[-1:], 0.0, solver=STIFF, grid=grid)
    assert float(found.ys[0]) == pytest.approx(np.cos(1.0), abs=1e-6)


def test_doses_and_infusions_enter_a_stiff_solve():
    """3 at the start, 1 at 2, and 2 in all between 0.5 and 2, each decaying at the rate."""
    times = np.array([1.0, 2.5, 6.0])
    inputs = [bh.doses([0.0, 2.0], [3.0, 1.0]), bh.doses([0.5], [2.0], duration=[1.5])]
    grid = np.unique(np.concatenate([np.linspace(0.0, 6.0, 97), [0.5, 2.0], times]))

    def on_grid(rate):
        return ode.solve(
            lambda t, y, k: -k * y, 0.0, times, 0.0, rate, solver=STIFF, inputs=inputs, grid=grid
        ).ys

    def exact(rate):
        doses = 3.0 * jnp.exp(-rate * times) + jnp.where(times > 2, jnp.exp(-rate * (times - 2)), 0.0)
        ended, begun = jnp.exp(-rate * (times - np.minimum(times, 2))), jnp.exp(-rate * (times - 0.5))
        return doses + 2.0 / 1.5 / rate * (ended - begun)

    found, by_rate = jax.jit(lambda rate: jax.jvp(on_grid, (rate,), (1.0,)))(0.8)
    truth, truth_by_rate = jax.jvp(exact, (0.8,), (1.0,))
    np.testing.assert_allclose(found, truth, rtol=1e-8)
    np.testing.assert_allclose(by_rate, truth_by_rate, rtol=1e-7)


@pytest.mark.parametrize("size", [1, 3, 16])
def test_the_inverse_is_that_of_lapack(size):
    matrices = np.random.default_rng(size).normal(size=(50, size, size))
    matrices[0] = np.roll(np.eye(size), 1, axis=0)  # every pivot on the diagonal is zero
    found = jax.jit(jax.vmap(elimination.inverse))(matrices)
    worst = np.linalg.cond(matrices)[:, None, None] * np.abs(np.linalg.inv(matrices)).max(
        axis=(1, 2), keepdims=True
    )
    assert np.all(np.abs(found - np.linalg.inv(matrices)) <= 1e-14 * worst)
    singular = jnp.ones((size, size)) * (size > 1)
    assert not np.isfinite(elimination.inverse(singular)).all()


def test_derivatives_of_the_inverse_are_those_of_lapack():
    matrix, direction = np.random.default_rng(0).normal(size=(2, 4, 4))
    for function in (jax.jvp, lambda f, x, v: jax.jvp(lambda y: jax.jvp(f, (y,), v)[1], x, v)):
        ours = function(elimination.inverse, (matrix,), (direction,))[1]
        np.testing.assert_allclose(ours, function(jnp.linalg.inv, (matrix,), (direction,))[1], rtol=1e-9)


def test_implicit_solvers_of_few_states_take_it_and_say_the_same():
    """With a linear solver that was chosen by hand LAPACK is called, and the answer is the same to rounding."""
    chosen = eqx.tree_at(lambda solver: solver.root_finder.linear_solver, STIFF, lineax.LU())
    assert elimination.without_lapack(chosen, 2) is chosen
    assert elimination.without_lapack(STIFF, 17) is STIFF
    assert elimination.without_lapack(diffrax.Tsit5(), 2) == diffrax.Tsit5()

    def solved(solver):
        start, times = jnp.array([2.0, 0.0]), np.array([0.5, 1.0])
        program = jax.jit(lambda q: ode.solve(van_der_pol, start, times, 0.0, q, solver=solver).ys)
        lowered = program.lower(50.0)
        return lowered.as_text(), lowered.compile()(50.0)

    text, states = solved(STIFF)
    lapack_text, lapack_states = solved(chosen)
    assert "getrf" in lapack_text
    assert "getrf" not in text
    np.testing.assert_allclose(states, lapack_states, rtol=1e-9)
