"""Prediction errors equal a slow computation, are normal for a right model, and name what is wrong with others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bayeshybrid.prediction_errors import UnitScores, score_replicates

UNITS, VALUES, SETS = 8, 6, 1000
NAMES = tuple(f"subject {i}" for i in range(UNITS))


def hierarchical(generator, sets, between=1.0, within=0.5):
    """Values of units that differ: those of a unit are correlated, 0.8 at these settings."""
    level = between * generator.normal(size=(sets, UNITS, 1))
    return 3.0 + level + within * generator.normal(size=(sets, UNITS, VALUES))


def slowly(y, drawn):
    """Scores of one unit by regression of each value on those before it, one replicate at a time."""
    sets, scores = len(drawn), []
    for j in range(len(y)):
        before = np.column_stack([np.ones(sets), drawn[:, :j]])
        weights = np.linalg.lstsq(before, drawn[:, j], rcond=None)[0]
        left = drawn[:, j] - before @ weights
        # the sum of squares of a regression on j columns tells of sets - j - 1 values, and a new value of the
        # noise of the weights too
        own = np.sqrt(np.sum(left**2) / (sets - 1))
        ahead = np.sqrt((1 + 1 / sets) * (sets - 1) * (sets - 2) / ((sets - j - 1) * (sets - j - 2)))
        z = (y[j] - np.append(1.0, y[:j]) @ weights) / own / ahead
        below = 0
        for one in left / own:
            below += one < z
        scores.append(stats.norm.ppf(min(max(below / sets, 0.5 / sets), 1 - 0.5 / sets)))
    return np.array(scores)


def test_scores_equal_a_slow_computation(generator):
    drawn = hierarchical(generator, 300)
    y = hierarchical(generator, 1)[0]
    y[2, [1, 4]], y[5] = np.nan, np.nan
    found = score_replicates(y, drawn, NAMES)
    for i in (0, 2, 7):
        known = ~np.isnan(y[i])
        np.testing.assert_allclose(
            found.scores[i, known], slowly(y[i, known], drawn[:, i][:, known]), atol=1e-9
        )
    assert np.isnan(found.scores).sum() == 2 + VALUES
    assert [row.count for row in found.units] == [6, 6, 4, 6, 6, 0, 6, 6]
    assert found.decorrelated


def test_scores_of_a_right_model_are_standard_normal_and_raise_no_alarm(generator):
    """Kolmogorov and Smirnov over 60 data sets, and one alarm in a hundred is allowed to each statement."""
    drawn = hierarchical(generator, SETS)
    sets = [score_replicates(one, drawn, NAMES, refitted=False) for one in hierarchical(generator, 60)]
    scores = np.stack([found.scores for found in sets])
    assert stats.kstest(scores.ravel(), "norm").pvalue > 0.05
    assert abs(np.corrcoef(scores[:, :, 0].ravel(), scores[:, :, 1].ravel())[0, 1]) < 0.12
    assert abs(scores.var() - 1) < 0.05
    assert sum(any(row.unusual for row in found.units) for found in sets) <= 3
    assert sum(bool(found.unusual) for found in sets) <= 6


def test_the_covariance_is_estimated_and_the_data_pay_no_more_for_it(generator):
    """With ten replicates a value, plain errors would have a variance of 1.12 on average."""
    names = [str(i) for i in range(60)]
    drawn, y = generator.normal(size=(400, 60, 40)), generator.normal(size=(60, 40))
    assert abs(score_replicates(y, drawn, names).scores.var() - 1) < 0.07


def test_noise_stated_half_as_large_is_noticed(generator):
    y = hierarchical(generator, 1)[0]
    found = score_replicates(y, hierarchical(generator, SETS, within=0.25), NAMES)
    assert found.overall.variance > found.overall.variance_range[1]
    assert "their variance is" in " ".join(found.unusual)
    assert "variance" in str(found)


def test_correlation_that_the_model_ignores_is_noticed(generator):
    """Each value has the right mean and variance; only together are they not what the model gives."""
    y = hierarchical(generator, 1)[0]
    alone = 3.0 + np.sqrt(1.25) * generator.normal(size=(SETS, UNITS, VALUES))
    assert score_replicates(y, alone, NAMES).unusual or any(
        row.unusual for row in score_replicates(y, alone, NAMES).units
    )


def test_a_unit_that_is_off_is_named(generator):
    y = 3.0 + 0.5 * generator.normal(size=(UNITS, VALUES))
    y[5] += 1.0
    drawn = 3.0 + 0.5 * generator.normal(size=(SETS, UNITS, VALUES))
    found = score_replicates(y, drawn, NAMES, inside=np.abs(y - 3) < 0.82)
    assert [row.unit for row in found.units if row.unusual] == ["subject 5"]
    row = found.units[5]
    assert row.inside == np.sum(np.abs(y[5] - 3) < 0.82)
    assert row.mean_range[1] == pytest.approx(stats.norm.ppf(1 - 0.01 / 32) / np.sqrt(VALUES), rel=0.06)
    high = stats.chi2.ppf(1 - 0.01 / 32, VALUES - 1) / (VALUES - 1)
    assert row.variance_range == (0.0, pytest.approx(high, rel=0.2))
    assert f"subject 5: its scores are {row.mean:.1f} sd high on average" in str(found)


def test_a_unit_that_is_off_as_a_whole_has_one_odd_score(generator):
    """What the data of a unit share is one fact, however many its values: a shift of two sd between units is that."""
    y = 3.0 + 0.5 * generator.normal(size=(UNITS, VALUES))
    y[5] += 2.0
    row = score_replicates(y, hierarchical(generator, SETS), NAMES).units[5]
    assert not row.unusual


def test_counts_are_scored_within_their_step(generator):
    names = [str(i) for i in range(120)]
    drawn, data = generator.poisson(1.3, size=(SETS, 120, 5)), generator.poisson(1.3, size=(120, 5))
    spread = score_replicates(data, drawn, names, discrete=True).scores
    stepped = score_replicates(data, drawn, names).scores
    assert stats.kstest(spread.ravel(), "norm").pvalue > 0.05
    assert stats.kstest(stepped.ravel(), "norm").pvalue < 1e-3


def test_too_few_replicates_are_not_decorrelated_and_it_says_so(generator):
    drawn = hierarchical(generator, 50)
    found = score_replicates(drawn[0], drawn, NAMES)
    assert not found.decorrelated
    assert "6 values need 60 of them; 50 replicated data sets" in str(found)
    assert found.overall.mean_range[1] > 1.5 * 2.58 / np.sqrt(UNITS * VALUES)  # neighbours are alike


def test_values_that_repeat_each_other_are_not_decorrelated(generator):
    drawn = np.repeat(generator.normal(size=(SETS, 1, 1)), 3, axis=2)
    found = score_replicates(drawn[0], drawn, ("a",))
    assert "singular" in found.note
    assert np.ptp(found.scores) == 0
    assert found.units[0].mean_range[1] > 2.5  # three copies of one value tell as much as one


def test_what_cannot_vary_or_was_not_measured_has_no_score(generator):
    drawn = hierarchical(generator, SETS)
    drawn[:, :, 0] = 7.0
    y = drawn[0].copy()
    found = score_replicates(y, drawn, NAMES)
    assert np.isnan(found.scores[:, 0]).all()
    assert np.isfinite(found.scores[:, 1:]).all()
    nothing = score_replicates(np.full(y.shape, np.nan), drawn, NAMES)
    assert str(nothing) == "no scores: nothing was measured exactly"
    assert nothing.overall.count == 0
    assert not nothing.unusual


def test_one_unit_for_a_whole_site(generator):
    drawn = generator.normal(size=(SETS, 4, 2))
    found = score_replicates(drawn[0], drawn)
    assert found.units == ()
    assert found.overall.count == 8
    single = score_replicates(np.array(0.3), generator.normal(size=SETS))
    assert abs(single.scores - 0.3) < 0.15
    assert np.isnan(single.overall.variance)


def test_a_flexible_fit_hides_what_is_wrong(generator):
    """What these scores cannot see: with a free level for each value the replicates follow any data.

    Under flat priors on as many means as values the replicated data are normal about the data themselves, with
    twice the noise: the wildest data have scores of zero.
    """
    wild = 100 * generator.normal(size=(UNITS, VALUES))
    drawn = wild + np.sqrt(2) * 0.5 * generator.normal(size=(SETS, UNITS, VALUES))
    found = score_replicates(wild, drawn, NAMES)
    assert np.abs(found.scores).max() < 0.2
    assert not any(row.unusual for row in found.units)
    assert not found.overall.unusual
    assert any(row.unusual for row in score_replicates(wild, drawn, NAMES, refitted=False).units)


def test_nothing_measured_in_a_unit_is_nothing_unusual():
    nan = float("nan")
    assert UnitScores("a", 0, 0, nan, nan, (nan, nan), (nan, nan)).unusual == ()
