"""Scores of numbers and classes against scoringrules, stored figures of uncertainty-toolbox, and algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules
from scipy.stats import norm

from bayeshybrid import scores

# A small data set, and what uncertainty-toolbox 0.1.1 gives for it (num_bins=100, vectorized=True; check and
# interval score at their default 99 levels). Its levels are linspace(0, 1, 100), 0 and 1 among them, ours are 0.01
# to 0.99 unless given; it takes prediction - value where we take value - prediction, so its quantiles are counted
# from the other side; its miscalibration area integrates between the levels, for which we have no name.

VALUES = np.array([0.31, -1.20, 0.85, 2.10, -0.40, 1.55, 0.05, -0.95, 3.10, 0.62])
MEANS = np.array([0.10, -0.90, 1.20, 1.60, 0.20, 1.10, -0.30, -1.50, 2.00, 0.70])
SDS = np.array([0.50, 0.40, 0.60, 0.80, 0.30, 0.70, 0.50, 0.45, 0.90, 0.35])
TOOLBOX = {
    "mean absolute calibration error, quantile": 0.08048484848484846,
    "root mean squared calibration error, quantile": 0.10477810448014019,
    "mean absolute calibration error, interval": 0.09,
    "miscalibration area, quantile": 0.08026567371056972,
    "sharpness": 0.5809475019311126,
    "CRPS": 0.29018404817210847,
    "negative log likelihood": 0.734497663075707,
    "check score": 0.14652501032944193,
    "interval score": 1.3712666597122434,
}
TOOLBOX_LEVELS = np.linspace(0, 1, 100)


@pytest.fixture
def mixture(generator) -> tuple[np.ndarray, np.ndarray]:
    """Skewed draws and values, `(draws, cells)` and `(cells,)`."""
    return generator.gamma(2.0, 1.0, (50, 7)), generator.gamma(2.0, 1.0, 7)


def test_crps_equals_the_fair_one_of_scoringrules(mixture):
    draws, values = mixture
    ours = scores.crps_from_draws(draws, values)
    assert np.allclose(ours, scoringrules.crps_ensemble(values, draws.T, estimator="fair"), rtol=1e-12)
    plain = scoringrules.crps_ensemble(values, draws.T, estimator="nrg")
    assert np.all(ours < plain)  # which is larger for few draws, and another function


def test_crps_is_fair_for_two_draws(generator):
    two = generator.normal(size=(2, 200_000))
    values = generator.normal(size=200_000)
    found = scores.crps_from_draws(two, values)
    exact = scoringrules.crps_normal(values, 0.0, 1.0).mean()
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(len(found))


def test_crps_with_weights_is_that_of_repeated_draws(generator):
    draws = generator.normal(size=(4, 3))
    counts = np.array([1, 3, 2, 2])
    repeated = np.repeat(draws, counts, axis=0)
    weights = np.broadcast_to((counts / 8)[:, None], (4, 3))
    values = np.zeros(3)
    distance = np.mean(np.abs(repeated - values), axis=0)
    pairs = np.abs(repeated[:, None] - repeated[None]).mean(axis=(0, 1)) / 2
    expected = distance - pairs / (1 - np.sum(weights**2, axis=0))
    assert np.allclose(scores.crps_from_draws(draws, values, weights), expected)


def test_one_draw_has_no_fair_crps():
    assert np.isnan(scores.crps_from_draws(np.zeros((1, 2)), np.zeros(2))).all()


@pytest.mark.parametrize("block", [1, 2, 5])
def test_players_meet_all_draws_but_their_own_block(generator, block):
    draws = generator.normal(size=(20, 3)).round(1)  # with ties
    players = np.array([0, 3, 7, 19])
    crps = scores.crps_left_out(draws, block, players)
    ends = scores.quantiles_left_out(draws, block, players, (0.05, 0.5, 0.95))
    for i, player in enumerate(players):
        first = player // block * block
        others = np.delete(draws, np.s_[first : first + block], axis=0)
        assert np.allclose(crps[i], scores.crps_from_draws(others, draws[player]))
        assert np.allclose(ends[:, i], np.quantile(others, (0.05, 0.5, 0.95), axis=0))


def test_interval_score_equals_scoringrules_and_the_toolbox(mixture):
    draws, values = mixture
    low, high = np.quantile(draws, [0.1, 0.9], axis=0)
    ours = scores.interval_score(low, high, values, 0.8)
    assert np.allclose(ours, scoringrules.interval_score(values, low, high, 0.2))
    masses = np.linspace(0.01, 0.99, 99)
    ends = [(norm(MEANS, SDS).ppf((1 - p) / 2), norm(MEANS, SDS).ppf((1 + p) / 2)) for p in masses]
    found = np.mean([scores.interval_score(a, b, VALUES, p) for (a, b), p in zip(ends, masses, strict=True)])
    assert np.isclose(found, TOOLBOX["interval score"], rtol=1e-10)


def test_log_score_of_a_mixture_equals_scoringrules(generator):
    means, sds = generator.normal(size=(3, 5)), generator.uniform(0.5, 2.0, (3, 5))
    values = generator.normal(size=5)
    ours = scores.mixture_log_score(norm(means, sds).logpdf(values))
    weights = np.full((5, 3), 1 / 3)
    assert np.allclose(ours, -scoringrules.logs_mixnorm(values, means.T, sds.T, weights))
    weighted = scores.mixture_log_score(np.log([[0.2], [0.6]]), np.array([[0.25], [0.75]]))
    assert np.allclose(weighted, np.log(0.5))
    assert scores.mixture_log_score(np.full((2, 1), -np.inf)).item() == -np.inf
    assert np.isclose(-norm(MEANS, SDS).logpdf(VALUES).mean(), TOOLBOX["negative log likelihood"])


def test_figures_of_the_toolbox():
    pit = norm(MEANS, SDS).cdf(VALUES)
    mirrored = scores.quantile_calibration_error(1 - pit, TOOLBOX_LEVELS)
    assert np.isclose(mirrored, TOOLBOX["mean absolute calibration error, quantile"])
    central = scores.interval_calibration_error(pit, TOOLBOX_LEVELS)
    assert np.isclose(central, TOOLBOX["mean absolute calibration error, interval"])
    # the square root of the mean square is no smaller than the mean, and the area is the mean without its ends
    assert TOOLBOX["root mean squared calibration error, quantile"] > mirrored
    area = mirrored * 100 / 99
    assert abs(area - TOOLBOX["miscalibration area, quantile"]) < 0.002
    assert np.isclose(scores.sharpness(SDS**2), TOOLBOX["sharpness"])
    quantiles = norm.ppf((np.arange(20_000) + 0.5)[:, None] / 20_000, MEANS, SDS)
    crps = scores.crps_from_draws(quantiles, VALUES).mean()
    assert np.isclose(crps, TOOLBOX["CRPS"], rtol=1e-3)
    assert np.isclose(2 * TOOLBOX["check score"], crps, rtol=0.02)  # a mean over levels, the CRPS an integral


def test_shift_is_seen_by_quantiles_and_not_by_intervals(generator):
    pit = generator.uniform(0.0, 0.5, 4000)  # all values below the median
    assert scores.quantile_calibration_error(pit) > 0.2
    assert scores.interval_calibration_error(pit) < 0.02
    assert scores.quantile_calibration_error(generator.uniform(size=4000)) < 0.02


def test_weighted_quantiles_of_equal_weights(generator):
    draws = generator.normal(size=(2000, 2))
    found = scores.weighted_quantiles(draws, np.full((2000, 2), 1 / 2000), (0.1, 0.9))
    assert np.allclose(found, np.quantile(draws, (0.1, 0.9), axis=0), atol=2e-3)
    half = scores.weighted_quantiles(np.array([[0.0], [1.0]]), np.array([[0.9], [0.1]]), (0.9,))
    assert 0 < half.item() < 1


def test_randomised_pit_of_counts_is_uniform(generator):
    from scipy.stats import poisson

    values = generator.poisson(1.3, 20_000)
    pit = scores.randomised_pit(
        poisson(1.3).cdf(values - 1), poisson(1.3).cdf(values), generator.uniform(size=20_000)
    )
    assert scores.quantile_calibration_error(pit) < 0.01
    assert scores.quantile_calibration_error(poisson(1.3).cdf(values)) > 0.1  # not so without randomising


@pytest.mark.parametrize("count", [12, 42])
def test_bands_hold_simultaneously(generator, count):
    grid, low, high = scores.ecdf_bands(count)
    runs = 2000
    pits = np.sort(generator.uniform(size=(runs, count)), axis=1)
    gaps = np.stack([np.searchsorted(pit, grid, side="right") / count - grid for pit in pits])
    inside = np.mean(np.all((gaps >= low - 1e-12) & (gaps <= high + 1e-12), axis=1))
    assert 0.92 < inside < 0.98
    assert scores.ecdf_bands(1)[0].size == 0
