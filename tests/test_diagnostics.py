"""What is measured of chains of known autocorrelation, and of chains that are no sample at all."""

from __future__ import annotations

import numpy as np
import pytest

from bayeshybrid.diagnostics import effective_sample_size, mean_error, rhat

CHAINS, DRAWS = 4, 4000


def autoregressive(generator, memory, shape=(CHAINS, DRAWS)):
    """Stationary AR(1) with unit variance."""
    noise = generator.normal(size=shape) * np.sqrt(1 - memory**2)
    values = np.empty(shape)
    values[:, 0] = generator.normal(size=shape[0])
    for i in range(1, shape[1]):
        values[:, i] = memory * values[:, i - 1] + noise[:, i]
    return values


def test_correlated_draws_are_worth_what_theory_says(generator):
    """The mean of an AR(1) with coefficient r has n (1 - r) / (1 + r) effective draws; its square has r squared."""
    draws = autoregressive(generator, 0.8)
    expected = draws.size * 0.2 / 1.8
    assert effective_sample_size(draws) <= expected * 1.15
    assert effective_sample_size(draws) > 0.6 * expected
    assert abs(mean_error(draws) / np.sqrt(1.0 / expected) - 1.0) < 0.15
    assert rhat(draws) < 1.01


def test_precise_means_do_not_hide_an_unknown_spread(generator):
    """Antithetic draws: each is nearly minus the last, so the mean converges at once and the spread slowly."""
    memory = autoregressive(generator, 0.98)
    draws = memory * (-1.0) ** np.arange(DRAWS)
    from arviz_stats.base import array_stats

    bulk = array_stats.ess(draws, method="bulk")
    assert bulk > draws.size
    assert effective_sample_size(draws) < 0.1 * draws.size
    assert effective_sample_size(draws) < 0.05 * bulk
    squares = array_stats.ess((draws - draws.mean()) ** 2, method="bulk")
    assert np.isclose(effective_sample_size(draws), squares, rtol=1e-6)
    assert squares < 0.9 * array_stats.ess(draws, method="tail", prob=(0.05, 0.95))


@pytest.mark.parametrize("scale", [1e-140, 1e-3, 1.0, 1e6, 1e200])
def test_units_do_not_matter(generator, scale):
    draws = autoregressive(generator, 0.5, (4, 500))
    assert np.isclose(effective_sample_size(scale * draws), effective_sample_size(draws), rtol=1e-6)
    assert np.isclose(rhat(scale * draws), rhat(draws), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("another mean", lambda draws: draws + np.array([0.0, 0.0, 0.0, 2.0])[:, None]),
        ("another spread", lambda draws: draws * np.array([1.0, 1.0, 1.0, 5.0])[:, None]),
        ("a trend", lambda draws: draws + np.linspace(-2, 2, draws.shape[1])),
        ("a chain that stands still", lambda draws: np.where(np.arange(4)[:, None] == 2, 0.3, draws)),
    ],
)
def test_chains_that_disagree_are_seen(generator, name, spoil):
    draws = generator.normal(size=(4, 500))
    assert rhat(draws) < 1.01 < rhat(spoil(draws))


@pytest.mark.parametrize("measure", [effective_sample_size, rhat, mean_error])
@pytest.mark.parametrize("value", [0.0, 7.5, np.nan, np.inf])
def test_what_does_not_vary_or_is_not_finite_has_no_figure(measure, value):
    assert np.isnan(measure(np.full((4, 100), value)))
    one = np.random.default_rng(0).normal(size=(4, 100))
    if not np.isfinite(value):
        one[2, 3] = value
        assert np.isnan(measure(one))


def test_too_few_draws_or_chains_have_no_figure():
    few = np.random.default_rng(0).normal(size=(4, 3))
    assert np.isnan([effective_sample_size(few), rhat(few), mean_error(few)]).all()
    assert np.isnan(rhat(np.random.default_rng(0).normal(size=(1, 500))))


def test_a_coin_has_an_effective_sample_size(generator):
    """Its squares about the mean are nearly constant, which must not turn the figure into NaN."""
    coin = np.where(generator.random((4, 500)) < 0.5, -1.0, 1.0)
    assert effective_sample_size(coin) > 500
    balanced = np.tile([-1.0, 1.0], (4, 250))
    assert not np.isnan(effective_sample_size(balanced))
