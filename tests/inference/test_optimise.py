"""Many climbs side by side: each reaches the top from where it stands, whatever its neighbours do."""

from __future__ import annotations

import numpy as np
import pytest

from bayeshybrid.inference.optimise import FIRST_PHASE, SECOND_PHASE, adam, climb


def quadratic(scales, top):
    """A concave parabola with these curvatures."""
    return lambda x: (-0.5 * np.sum(scales * (x - top) ** 2, axis=1), -scales * (x - top))


def rosenbrock(x):
    """Minus Rosenbrock's valley, (1, 1) at the end of a bent and narrow way."""
    a, b = x[:, 0], x[:, 1]
    bent = b - a**2
    return -((1 - a) ** 2 + 100 * bent**2), np.stack([2 * (1 - a) + 400 * a * bent, -200 * bent], axis=1)


def failing_above(slopes, limit):
    """The same, but without density where the first coordinate is above a limit."""

    def limited(x):
        values, gradients = slopes(x)
        lost = x[:, 0] > limit
        return np.where(lost, -np.inf, values), np.where(lost[:, None], 0.0, gradients)

    return limited


@pytest.mark.parametrize("scales", [np.ones(3), np.array([1e-4, 1.0, 1e4]), np.array([1e-6, 1e-6, 1e6])])
def test_quadratics_of_any_shape(scales, generator):
    top = np.array([3.0, -2.0, 0.5])
    ends, heights = climb(quadratic(scales, top), generator.normal(size=(8, 3)))
    assert np.max(np.sqrt(scales) * np.abs(ends - top)) < 1e-2  # in posterior standard deviations
    assert np.allclose(heights, 0, atol=1e-4)


def test_a_bent_valley(generator):
    ends, _ = climb(rosenbrock, 2 * generator.normal(size=(16, 2)))
    assert np.allclose(ends, 1.0, atol=1e-2)


def test_a_region_that_fails_is_stepped_around(generator):
    """The top lies just below the edge, and first steps overshoot it."""
    slopes = failing_above(quadratic(np.array([1.0, 50.0]), np.array([0.99, 0.0])), 1.0)
    starts = np.minimum(3 * generator.normal(size=(12, 2)), 0.9)
    ends, heights = climb(slopes, starts)
    assert np.all(np.isfinite(heights))
    assert np.allclose(ends, [0.99, 0.0], atol=1e-2)


def test_where_the_top_fails_the_best_point_has_a_density(generator):
    slopes = failing_above(quadratic(np.ones(2), np.array([5.0, 0.0])), 1.0)
    starts = np.minimum(generator.normal(size=(12, 2)), 0.9)
    ends, heights = climb(slopes, starts)
    assert np.all(np.isfinite(heights))
    assert np.all(ends[:, 0] <= 1.0)
    assert np.all(heights >= slopes(starts)[0])
    assert np.all(ends[:, 0] > 0.95)


def test_lanes_do_not_disturb_each_other(generator):
    starts = np.minimum(2 * generator.normal(size=(6, 2)), 0.9)
    together, _ = climb(failing_above(rosenbrock, 1.5), starts)
    for lane in range(6):
        alone, _ = climb(failing_above(rosenbrock, 1.5), starts[lane : lane + 1])
        assert np.allclose(alone[0], together[lane], atol=1e-2)


def test_a_start_without_density_ends_without_one():
    slopes = failing_above(quadratic(np.ones(2), np.zeros(2)), 1.0)
    ends, heights = climb(slopes, np.array([[7.0, 0.0], [0.5, 0.5]]))
    assert heights[0] == -np.inf
    assert np.array_equal(ends[0], [7.0, 0.0])
    assert np.allclose(ends[1], 0.0, atol=1e-4)


def test_a_flat_density_ends_at_once_and_an_endless_one_ends():
    said = []
    flat, _ = climb(lambda x: (np.zeros(len(x)), np.zeros_like(x)), np.ones((3, 2)), said.append)
    assert np.array_equal(flat, np.ones((3, 2)))
    assert said[-1] < FIRST_PHASE + 20
    said.clear()
    ends, heights = climb(lambda x: (x[:, 0], np.ones_like(x)), np.zeros((2, 1)), said.append)
    assert np.all(np.isfinite(ends))
    assert np.all(np.isfinite(heights))
    assert said[-1] <= FIRST_PHASE + SECOND_PHASE
    assert said == list(range(1, said[-1] + 1))


def test_a_lane_that_creeps_far_below_the_others_does_not_keep_them_waiting(generator):
    """At its pace it would need a hundred times the turns that are left; all others have long arrived."""
    said = []

    def slopes(x):
        far = x[:, 0] > 50
        values = np.where(far, -1000 + 1e-3 * x[:, 0], -0.5 * np.sum(x**2, axis=1))
        return values, np.where(far[:, None], np.array([1e-3, 0.0]), -x)

    starts = np.concatenate([generator.normal(size=(7, 2)), [[100.0, 0.0]]])
    ends, heights = climb(slopes, starts, said.append)
    assert np.allclose(ends[:7], 0.0, atol=1e-4)
    assert heights[7] < -990
    assert said[-1] <= FIRST_PHASE + 100 < FIRST_PHASE + SECOND_PHASE


@pytest.mark.parametrize(("rate", "adapted", "fixed"), [(0.002, 1e-3, 2.0), (1.0, 1e-3, 3e-3)])
def test_rates_of_groups_adapt_where_they_are_too_small_or_too_large(rate, adapted, fixed):
    """Two groups of ten coordinates, of which one has a bad rate, on a function with kinks: mean distances from 3."""
    rates, groups = np.array([0.05] * 10 + [rate] * 10), np.repeat([0, 1], 10)
    steep = np.tile(np.geomspace(1.0, 10.0, 10), 2)

    def down(x):
        return np.sum(steep * np.abs(x - 3.0), axis=1), steep * np.sign(x - 3.0)

    away = {}
    for name, given in (("adapted", groups), ("fixed", None)):
        found = adam(down, np.zeros((3, 20)), 250, rates, given)
        away[name] = np.abs(found.points - 3.0).reshape(3, 2, 10).mean(axis=(0, 2))
    assert away["fixed"][1] > fixed
    assert away["adapted"][1] < adapted
    assert away["adapted"][0] < away["fixed"][0]
