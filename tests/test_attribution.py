"""Shapley effects of dependent groups against algebra, and the errors that are stated of them."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import pytest

from bayeshybrid import attribution
from bayeshybrid.attribution import attribute

CHAINS, DRAWS = 4, 2000
CHAIN = np.arange(DRAWS) // (DRAWS // CHAINS)


def shapley(worth, count: int) -> np.ndarray:
    """Shapley values by their definition, from a function of a tuple of players."""
    values = np.zeros(count)
    for g in range(count):
        others = [h for h in range(count) if h != g]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for some in combinations(others, size):
                values[g] += weight * (worth((*some, g)) - worth(some))
    return values


def gaussian_worth(covariance: np.ndarray, slope: np.ndarray, group: np.ndarray):
    """`Var(E[f | T_S])` of a linear `f` of Gaussian coordinates, as a function of the groups known."""

    def worth(known):
        inside = np.isin(group, known)
        shared = (covariance @ slope)[inside]
        return shared @ np.linalg.solve(covariance[np.ix_(inside, inside)], shared)

    return worth


def by_group(draws: np.ndarray, group: np.ndarray) -> dict[str, np.ndarray]:
    return {f"g{g}": draws[:, group == g] for g in np.unique(group)}


def divided(values: np.ndarray, coordinates: dict[str, np.ndarray], chain: np.ndarray = CHAIN):
    values = values.reshape(len(values), -1)
    return attribute(values, coordinates, chain, values.var(axis=0))


@pytest.fixture
def normal(generator):
    return lambda *size: generator.normal(size=(DRAWS, *size))


# Against algebra


def test_dependent_groups_and_a_linear_quantity(generator):
    root = generator.normal(size=(6, 6))
    group = np.array([0, 0, 1, 1, 1, 2])
    slopes = generator.normal(size=(6, 2))
    draws = generator.normal(size=(DRAWS, 6)) @ root
    found = divided(draws @ slopes, by_group(draws, group))
    covariance = np.cov(draws.T, ddof=0)
    for entry, slope in enumerate(slopes.T):
        worth, total = gaussian_worth(covariance, slope, group), slope @ covariance @ slope
        assert np.allclose(found.shapley[:, entry], shapley(worth, 3), atol=0.01 * total)
        assert np.allclose(found.alone[:, entry], [worth((g,)) for g in range(3)], atol=0.01 * total)
    assert np.allclose(found.rest, 0.0, atol=1e-6 * found.shapley.sum(axis=0))
    assert (found.draws, found.coordinates, found.leading, found.shrunk) == (DRAWS, 6, 6, False)


def test_products_and_squares(normal):
    """f = ab + c^2 + d: ab is known only to who knows both."""
    x = normal(4)
    f = x[:, 0] * x[:, 1] + x[:, 2] ** 2 + x[:, 3]
    found = divided(f, by_group(x, np.arange(4)))
    assert np.all(np.abs(found.shapley[:, 0] - [0.5, 0.5, 2.0, 1.0]) < 4 * found.errors[:, 0])
    assert np.allclose(found.alone[:, 0], [0.0, 0.0, 2.0, 1.0], atol=0.3)
    assert found.rest[0] < 1e-6
    few = np.arange(80)  # 16 columns for a quadratic: too many for 80 draws, so that only d is found
    found = divided(f[few], by_group(x[few], np.arange(4)), CHAIN[few * 25])
    assert found.leading == 0
    assert found.rest[0] > 0.5 * f[few].var()
    assert np.argmax(found.shapley[:, 0]) == 3


def test_a_group_without_influence_gets_nothing_however_many_coordinates_it_has(normal):
    a, idle = normal(1), normal(20)
    f = a[:, 0] + normal()  # half of the variance is nobody's
    found = divided(f, {"a": a, "idle": idle})
    assert np.all(np.abs(found.shapley[:, 0] - [1.0, 0.0]) < 4 * found.errors[:, 0])
    assert np.all(found.errors[:, 0] < 0.07)
    assert abs(found.rest[0] - 1.0) < 4 * found.rest_error[0]


def test_nothing_is_found_in_noise(generator):
    """A fit to its own draws explains one part in as many as there are draws for each column."""
    own, found = [], []
    for _ in range(20):
        x, f = generator.normal(size=(400, 18)), generator.normal(size=400)
        own.append((x @ np.linalg.lstsq(x, f, rcond=None)[0]).var() / f.var())
        division = divided(f, {"a": x[:, :9], "b": x[:, 9:]}, np.arange(400) // 100)
        found.append(division.shapley.sum() / f.var())
    assert np.mean(own) > 0.035
    assert np.mean(found) < 0.01


def test_what_is_no_quadratic_is_not_attributed(normal):
    a = normal(1)
    found = divided(np.sin(4 * a[:, 0]), {"a": a})
    assert found.rest[0] > 0.9 * np.sin(4 * a[:, 0]).var()
    assert abs(found.rest[0] + found.shapley.sum() - np.sin(4 * a[:, 0]).var()) < 1e-12


def test_many_coordinates_share_the_room_for_products(normal):
    x = normal(30)
    f = x[:, 7] * x[:, 3] + 0.5 * (x[:, 7] + x[:, 3])
    found = divided(f, {"a": x[:, :5], "b": x[:, 5:]})
    assert 2 <= found.leading < 30
    assert found.rest[0] < 0.1 * f.var()
    assert np.allclose(found.shapley[:, 0], [0.75, 0.75], atol=0.25)


@pytest.mark.parametrize("draws", [DRAWS, 40])
def test_more_coordinates_than_can_be_fitted_are_replaced_by_their_components(normal, monkeypatch, draws):
    monkeypatch.setattr(attribution, "MOST_COLUMNS", 10)
    large = (normal(3) @ np.ones((3, 60)) + 0.01 * normal(60))[:draws]
    f = large.mean(axis=1)
    found = divided(f, {"large": large, "small": normal(2)[:draws]}, CHAIN[:draws])
    assert (found.reduced, found.coordinates) == (("large",), 7)
    assert np.allclose(found.shapley[:, 0] / f.var(), [1.0, 0.0], atol=0.05)


# Groups that cancel


@pytest.mark.parametrize("correlation", [0.0, -0.9, -0.999])
def test_groups_that_cancel(generator, correlation):
    draws = generator.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], DRAWS)
    f = draws.sum(axis=1)
    found = divided(f + 0.2 * f.std() * np.sin(5 * draws[:, 0]), by_group(draws, np.arange(2)))
    assert np.allclose(found.shapley[:, 0] / f.var(), [0.5, 0.5], atol=0.05)
    ratio = found.parts.sum() / found.joint[0]
    assert np.isclose(ratio, 1 / (1 + correlation), rtol=0.1)


# Orders


def test_sampled_orders_agree_with_all_orders(generator, monkeypatch):
    root, group, slope = generator.normal(size=(6, 6)), np.arange(6), generator.normal(size=(6, 1))
    draws = generator.normal(size=(DRAWS, 6)) @ root
    exact = divided(draws @ slope, by_group(draws, group))
    monkeypatch.setattr(attribution, "EXACT_GROUPS", 3)
    sampled = divided(draws @ slope, by_group(draws, group))
    assert (exact.permutations, sampled.permutations) == (0, 128)
    off = sampled.shapley - exact.shapley
    assert 0 < np.abs(off).max() < 0.05 * exact.shapley.sum()
    extra = np.sqrt(np.maximum(0.0, sampled.errors**2 - exact.errors**2))
    assert np.all(np.abs(off) < 4 * extra + 1e-12)
    assert np.isclose(sampled.shapley.sum(), exact.shapley.sum(), rtol=1e-12)
    assert np.allclose(sampled.alone, exact.alone)


def test_twelve_groups(normal):
    x, slope = normal(12), np.arange(12.0)
    found = divided(x @ slope, by_group(x, np.arange(12)))
    assert found.permutations == 128
    assert np.all(np.abs(found.shapley[:, 0] - slope**2) < 5 * found.errors[:, 0])


# Errors, draws and chains


def test_stated_errors_are_the_spread_over_repetitions(generator):
    root, group, slope = generator.normal(size=(4, 4)), np.array([0, 0, 1, 2]), np.ones((4, 1))
    effects, errors, rests, rest_errors = [], [], [], []
    for _ in range(60):
        draws = generator.normal(size=(400, 4)) @ root
        f = draws @ slope + generator.normal(size=(400, 1))
        found = divided(f, by_group(draws, group), np.arange(400) // 100)
        effects.append(found.shapley[:, 0])
        errors.append(found.errors[:, 0])
        rests.append(found.rest[0])
        rest_errors.append(found.rest_error[0])
    assert np.all(np.abs(np.log(np.mean(errors, axis=0) / np.std(effects, axis=0))) < np.log(1.4))
    assert abs(np.log(np.mean(rest_errors) / np.std(rests))) < np.log(1.4)
    worth = gaussian_worth(root.T @ root, slope[:, 0], group)
    near = 4 * np.std(effects, axis=0) / np.sqrt(60)
    assert np.all(np.abs(np.mean(effects, axis=0) - shapley(worth, 3)) < near)


def test_chains_that_wander_slowly_have_larger_errors(generator):
    steps = generator.normal(size=(DRAWS, 2))
    slow = np.zeros((DRAWS, 2))
    for i in range(1, DRAWS):
        slow[i] = 0.95 * slow[i - 1] + np.sqrt(1 - 0.95**2) * steps[i]
    fast, slow = (divided(x.sum(axis=1), by_group(x, np.arange(2))) for x in (steps, slow))
    assert np.all(slow.errors > 1.5 * fast.errors)


@pytest.mark.parametrize(
    "chain",
    [
        np.zeros(400),
        np.arange(400),
        np.arange(400) // 8,
        np.minimum(np.arange(400) // 150, 1),
        np.arange(400) % 3,
    ],
    ids=["one", "each its own", "fifty", "two unequal", "three interleaved"],
)
def test_any_number_of_chains(generator, chain):
    x = generator.normal(size=(400, 3))
    found = divided(x @ np.array([1.0, 2.0, 0.0]), by_group(x, np.arange(3)), chain)
    assert np.allclose(found.shapley[:, 0], [1.0, 4.0, 0.0], atol=1.0)
    assert np.all(found.errors > 0)
    assert found.rest[0] < 0.01


def test_few_draws_are_shrunk_and_say_so(generator):
    x = generator.normal(size=(100, 18))
    f = x[:, 0] + x[:, 9] + 0.1 * generator.normal(size=100)
    found = divided(f, {"a": x[:, :9], "b": x[:, 9:]}, np.zeros(100))
    assert found.shrunk
    assert np.allclose(found.shapley[:, 0], [1.0, 1.0], atol=0.6)
    assert np.isclose(found.shapley.sum() + found.rest[0], f.var(), rtol=1e-12)


@pytest.mark.parametrize("draws", [1, 2, 19])
def test_too_few_draws_attribute_nothing(draws, generator):
    x = generator.normal(size=(draws, 1))
    found = divided(x[:, 0], {"a": x}, np.zeros(draws))
    assert not found.shapley.any()
    assert np.allclose(found.rest, x.var())


def test_no_coordinates_and_constant_ones(generator):
    f = generator.normal(size=(100, 1))
    found = divided(f, {"asleep": np.zeros((100, 0)), "fixed": np.full((100, 2), 3.7)}, np.zeros(100))
    assert not found.shapley.any()
    assert np.allclose(found.rest, f.var())


@pytest.mark.parametrize("constant", [0.1, 1e9 + 0.1])
def test_entries_that_move_by_rounding_alone_leave_the_others_as_they_are(constant, generator):
    """The mean of equal values is not always that value; few draws, so that the shrinkage is chosen by all entries."""
    x = generator.normal(size=(70, 18))
    f = (x[:, 0] + x[:, 9])[:, None]
    still = np.full((70, 1), constant)
    assert (still - still.mean(axis=0)).any()
    groups, chain = {"a": x[:, :9], "b": x[:, 9:]}, np.zeros(70)
    both = attribute(np.hstack([f, still]), groups, chain, np.array([f.var(), 0.0]))
    alone = attribute(f, groups, chain, np.array([f.var()]))
    assert both.shrunk
    assert np.allclose(both.shapley[:, 0], alone.shapley[:, 0], rtol=1e-12)
    assert not both.shapley[:, 1].any()
    nothing = attribute(still, groups, chain, np.array([1e-30]))
    assert not nothing.shapley.any()
    assert nothing.rest == 1e-30
