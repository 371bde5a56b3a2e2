"""Relaxed solves: cut short, in segments, or a curve; each told how far it is from a solution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from bayeshybrid.faults import ModelError
from bayeshybrid.science import ode
from bayeshybrid.science.inputs import doses
from bayeshybrid.science.relaxed import Curve, Free, Segments, Shortened

TIMES = jnp.array([3.0, 0.5, 1.0, 2.0, 4.0, 0.0])
FREE = Free(jnp.array([2.0, 0.5]), jnp.array([True, False]))


def turning(t, y, rate):
    return rate * jnp.stack([y[1], -y[0]])


def turned(times, rate):
    """From (1, 0)."""
    return jnp.stack([jnp.cos(rate * times), -jnp.sin(rate * times)], axis=1)


def unknowns(states):
    """Those at which the second component takes these values, and the first, which is positive, those of `exp`."""
    return jnp.stack([jnp.log(states[:, 0] / 2.0), states[:, 1] / 0.5], axis=1)


def test_a_shortened_solve_is_the_solve_up_to_its_end_and_stands_still_afterwards():
    start = jnp.array([1.0, 0.0])
    found = Shortened(jnp.asarray(0.5)).solve(turning, start, TIMES, 0.0, 0.7)
    assert found.ok
    assert found.defect is None
    np.testing.assert_allclose(found.ys, turned(jnp.minimum(TIMES, 2.0), 0.7), atol=1e-5)


def test_segments_that_join_are_the_solution():
    start = jnp.array([1.0, 0.0])
    rate = 0.3
    inner = turned(jnp.array([1.0, 2.0, 3.0]), rate)
    found = Segments(unknowns(inner), FREE).solve(turning, start, TIMES, 0.0, rate)
    assert found.ok
    assert found.defect.shape == (3, 2)
    assert np.abs(found.defect).max() < 1e-5
    np.testing.assert_allclose(found.ys, turned(TIMES, rate), atol=1e-5)


def test_the_defect_of_segments_is_the_jump_in_units_of_the_scale():
    def still(t, y, args):
        return jnp.zeros_like(y)

    inner = jnp.array([[2.0, 1.0], [5.0, 1.0]])
    found = Segments(unknowns(inner), FREE).solve(
        still, jnp.array([1.0, 0.0]), jnp.array([0.5, 1.5, 3.0]), 0.0, None
    )
    np.testing.assert_allclose(found.defect, [[-0.5, -2.0], [-1.5, 0.0]], atol=1e-12)
    np.testing.assert_allclose(found.ys, [[1.0, 0.0], [2.0, 1.0], [5.0, 1.0]], atol=1e-12)


def test_a_time_on_an_edge_is_read_before_the_jump():
    def still(t, y, args):
        return jnp.zeros_like(y)

    inner = jnp.array([[3.0, 1.0]])
    found = Segments(unknowns(inner), FREE).solve(
        still, jnp.array([1.0, 0.0]), jnp.array([1.0, 2.0]), 0.0, None
    )
    np.testing.assert_allclose(found.ys[0], [1.0, 0.0])


def test_a_curve_is_the_natural_spline_through_its_knots():
    free = Free(jnp.ones(1), jnp.array([False]))
    values = np.random.default_rng(0).normal(size=7)
    spline = CubicSpline(np.linspace(0.0, 3.0, 7), values, bc_type="natural")
    times = jnp.linspace(0.0, 3.0, 40)
    found = Curve(jnp.asarray(values)[:, None], free).solve(
        lambda t, y, args: jnp.zeros_like(y), jnp.array([2.0]), times, 0.0, None
    )
    np.testing.assert_allclose(found.ys[:, 0], spline(times), atol=1e-12)
    places = np.linspace(0.0, 3.0, 13)
    np.testing.assert_allclose(found.defect[:-1, 0], spline(places, 1) * 0.5 / np.sqrt(2), atol=1e-12)
    np.testing.assert_allclose(found.defect[-1, 0], values[0] - 2.0)


def test_the_defect_of_a_curve_through_a_solution_falls_with_its_knots():
    def defect(knots):
        rate = 0.3
        inner = turned(jnp.linspace(0.0, 4.0, knots), rate)
        found = Curve(unknowns(inner), FREE).solve(turning, inner[0], TIMES, 0.0, rate)
        return float(np.abs(found.defect[knots // 2 : -knots // 2]).max()), found

    coarse, _ = defect(11)
    fine, found = defect(41)
    assert fine < coarse / 16
    np.testing.assert_allclose(found.ys, turned(TIMES, 0.3), atol=1e-3)


@pytest.mark.parametrize(("kind", "rows"), [(Segments, 3), (Curve, 6)])
def test_relaxed_solves_have_the_gradient_of_differences(kind, rows):
    given = 0.3 * np.random.default_rng(1).normal(size=(rows, 2))

    def told(packed):
        relaxed = kind(packed[:-1].reshape(rows, 2), FREE)
        found = relaxed.solve(turning, jnp.array([1.0, 0.2]), TIMES, 0.0, packed[-1], rtol=1e-10, atol=1e-10)
        return jnp.sum(found.ys**2) + jnp.sum(jnp.sin(found.defect))

    packed = jnp.append(jnp.asarray(given).ravel(), 0.4)
    slope = jax.grad(told)(packed)
    step = 1e-5 * np.eye(len(packed))
    expected = [(told(packed + row) - told(packed - row)) / 2e-5 for row in step]
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)


def test_doses_are_refused_where_solves_do_not_start_at_their_start():
    given = doses(times=jnp.array([1.0]), amounts=jnp.array([2.0]), into=0)
    with pytest.raises(ModelError, match=r"a solve with doses jumps.*GrowingInterval"):
        Segments(jnp.zeros((2, 2)), FREE).solve(turning, jnp.ones(2), TIMES, 0.0, 0.3, inputs=(given,))
    found = Shortened(jnp.asarray(0.1)).solve(turning, jnp.ones(2), TIMES, 0.0, 0.0, inputs=(given,))
    np.testing.assert_allclose(found.ys, 1.0)  # the dose comes later
    assert ode.describe(int(found.reason)) == "solved"


def test_a_curve_needs_three_knots():
    with pytest.raises(ModelError, match="2 knots cannot bend"):
        Curve(jnp.zeros((2, 2)), FREE).solve(turning, jnp.ones(2), TIMES, 0.0, 0.3)
