"""Importance weights: their Pareto shape, what they count for, and draws that they make."""

from __future__ import annotations

import numpy as np
import pytest

from bayeshybrid.inference.importance import certificate, choose, resample, shape_limit, weigh


def log_ratios(generator: np.random.Generator, wider: float, draws: int = 4000) -> np.ndarray:
    """Of a normal target `wider` times as wide as the normal that is drawn from."""
    z = generator.standard_normal(draws)
    return -0.5 * (z / wider) ** 2 + 0.5 * z**2


@pytest.mark.parametrize("wider", [1.3, 2.0, 4.0])
def test_the_shape_is_that_of_the_tail(generator, wider):
    """Weights of a normal approximation that is too narrow have a Pareto tail of shape `1 - 1 / wider**2`."""
    assert weigh(log_ratios(generator, wider, 100_000)).shape == pytest.approx(1 - wider**-2, abs=0.12)


def test_the_limit_is_lower_for_few_draws():
    assert shape_limit(1000) == pytest.approx(2 / 3)
    assert shape_limit(10**6) == 0.7
    assert shape_limit(5) == 0.0


def test_weights_mend_the_spread(generator):
    """Resampled draws of a guide four fifths as wide as the target are as wide as the target."""
    z = generator.standard_normal(40_000)
    weights = weigh(-0.5 * (z / 1.25) ** 2 + 0.5 * z**2)
    assert abs(np.sqrt(np.sum(weights.values * z**2)) - 1.25) < 0.03
    chosen = z[resample(weights.values, 10_000, 0.3)]
    assert abs(chosen.std() - 1.25) < 0.04
    assert abs(z.std() - 1.0) < 0.02
    assert weights.effective < 40_000


def test_failed_draws_have_no_weight(generator):
    solved = log_ratios(generator, 1.2)
    weights = weigh(np.concatenate([solved, np.full(100, -np.inf)]))
    assert np.all(weights.values[4000:] == 0)
    assert np.allclose(weights.values[:4000], weigh(solved).values)
    assert (weights.count, weights.shape) == (4000, weigh(solved).shape)


@pytest.mark.parametrize(
    "log_weights",
    [
        np.full(50, -np.inf),
        np.array([0.0, 1.0, 3.0]),
        np.append(np.linspace(-3000.0, -2000.0, 500), 0.0),
        np.concatenate([np.zeros(400), np.linspace(-3.0, -1.0, 600)]),
    ],
    ids=["none solved", "too few", "one counts", "no tail"],
)
def test_weights_without_a_tail_never_pass(log_weights):
    weights = weigh(log_weights)
    assert weights.shape == np.inf
    assert not np.any(np.isnan(weights.values))
    assert certificate([weigh(np.zeros(50)), weights]).state == "fail"
    assert certificate([weigh(np.zeros(50)), weights]).place == "guide 1"


def test_weights_that_are_all_the_same_pass(generator):
    weights = weigh(1e-3 * generator.standard_cauchy(500).clip(-5, 5))
    assert weights.shape == 0
    check = certificate([weights])
    assert (check.name, check.state) == ("variation of the importance weights", "pass")
    assert check.figure < 0.01


def test_a_tiny_variation_makes_up_for_a_long_tail(generator):
    """One weight far above others that are nearly the same has a heavy tail and moves nothing."""
    log_weights = 0.02 * generator.standard_normal(2000)
    log_weights[7] = 1.0
    weights = weigh(log_weights)
    assert weights.variation < 0.1
    assert certificate([weights]).state == "pass"


def test_the_worst_guide_counts(generator):
    fine, heavy = weigh(log_ratios(generator, 1.2)), weigh(log_ratios(generator, 8.0))
    assert certificate([fine, fine]).state == "pass"
    check = certificate([fine, heavy])
    assert (check.state, check.place, check.limit) == ("fail", "guide 1", 0.7)
    assert check.figure == heavy.shape > 0.7


def test_resampling_is_unbiased(generator):
    """Over all offsets a draw is taken in proportion to its weight, and each time within one of that."""
    weights = generator.dirichlet(np.full(7, 0.5))
    counts = np.array(
        [np.bincount(resample(weights, 20, u), minlength=7) for u in (np.arange(2000) + 0.5) / 2000]
    )
    assert np.allclose(counts.mean(axis=0), 20 * weights, atol=0.01)
    assert np.all(np.abs(counts - 20 * weights) < 1)
    assert np.all(np.diff(resample(weights, 20, 0.2)) >= 0)


def test_draws_are_chosen_by_weight_or_evenly(generator):
    lost = weigh(np.full(40, -np.inf))
    half = weigh(np.where(np.arange(40) % 2 == 0, 0.1 * np.arange(40), -np.inf))
    which, by_weight = choose([lost, half], 10, True, np.array([3, 4], np.uint32))
    assert which.tolist() == [[1] * 10]
    assert by_weight.mean() > 25 > np.mean(np.arange(0, 40, 2))
    _, evenly = choose([lost, half], 20, False, np.array([3, 4], np.uint32))
    assert evenly.tolist() == [list(range(0, 40, 2))]
    again = choose([lost, half], 10, True, np.array([3, 4], np.uint32))[1]
    assert np.array_equal(by_weight, again)
