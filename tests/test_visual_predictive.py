"""Quantiles by time equal NumPy's, hold for a right model, show a wrong one, and take limits as limits."""

from __future__ import annotations

import numpy as np
import pytest

import bayeshybrid as bh
from bayeshybrid.fit import FitCheck
from bayeshybrid.forecast import Quantity
from bayeshybrid.prediction_errors import score_replicates
from bayeshybrid.visual_predictive import visual_check

UNITS, SETS = 30, 400
TIMES = np.array([0.5, 1.0, 2.0, 4.0])
LEVELS = [0.1, 0.5, 0.9]
ENDS = [0.05, 0.5, 0.95]


def check_of(y, drawn, times=TIMES, kinds=None, labels=(), new=("subject",)):
    """A check of the site y, made of data and replicates that are given."""
    kinds = np.zeros(y.shape, int) if kinds is None else kinds
    data = np.where(kinds == 0, y, np.nan)
    return FitCheck(
        observed={"y": data},
        replicated={"y": Quantity("y", drawn, labels, "mg/L")},
        residuals={},
        inside={"y": (0, 0)},
        probabilities={"y": {}},
        errors={"y": score_replicates(data, drawn)},
        new=new,
        kinds={"y": kinds},
        values={"y": y},
        inputs={"hours": times},
    )


def units(generator, sets, spread=0.4):
    """Positive values of units that differ in size, falling with time."""
    size = np.exp(spread * generator.normal(size=(sets, UNITS, 1)))
    return size * np.exp(-0.5 * TIMES) * np.exp(0.1 * generator.normal(size=(sets, UNITS, len(TIMES))))


def test_quantiles_and_their_ranges_are_those_of_numpy(generator):
    drawn = units(generator, SETS)
    found = check_of(drawn[0], drawn).by_time("hours")
    assert found.counts.tolist() == [UNITS] * 4
    assert found.centres.tolist() == TIMES.tolist()
    np.testing.assert_allclose(found.observed, np.quantile(drawn[0], LEVELS, axis=0).T)
    each = np.quantile(drawn, LEVELS, axis=1)
    np.testing.assert_allclose(
        found.simulated, np.moveaxis(np.quantile(each, ENDS, axis=1), 0, -1).swapaxes(0, 1)
    )
    assert "drawn anew (4 bins, in sample)" in str(found)
    assert "limit" not in str(found)


def test_a_right_model_holds_its_ranges_and_a_wrong_one_does_not(generator):
    drawn, wide = units(generator, SETS), units(generator, 20, spread=1.2)
    right = [check_of(y, drawn).by_time("hours").inside for y in units(generator, 40)]
    assert 0.84 < np.sum(right, axis=0)[0] / np.sum(right, axis=0)[1] < 0.96
    outer = [check_of(y, drawn).by_time("hours", levels=(0.1, 0.9)).inside for y in wide]
    assert np.sum(outer, axis=0)[0] < 0.3 * np.sum(outer, axis=0)[1]


def test_values_below_a_limit_count_as_below_it(generator):
    """Quantiles above the limit are those of the full data, the others are NaN, and the share is compared."""
    drawn = units(generator, SETS)
    y, limit = drawn[0], 0.5
    kinds = np.where(y < limit, 2, 0)
    found = check_of(np.maximum(y, limit), drawn, kinds=kinds).by_time("hours")
    full = check_of(y, drawn).by_time("hours")
    seen = np.isfinite(found.observed)
    np.testing.assert_allclose(found.observed[seen], full.observed[seen])
    assert np.all(full.observed[~seen] < 0.6)
    assert seen.any()
    assert not seen.all()
    np.testing.assert_allclose(found.below, np.mean(y < limit, axis=0))
    expected = np.quantile(np.mean(drawn < limit, axis=1), ENDS, axis=0).T
    np.testing.assert_allclose(found.below_simulated, expected)
    assert "inside in 4 of 4 bins" in str(found)


def test_each_cell_has_its_own_limit(generator):
    """Two laboratories: values of the second are known down to 0.1 only where they were measured so."""
    drawn = units(generator, SETS)
    y, kinds = np.full((UNITS, 4), 0.3), np.zeros((UNITS, 4), int)
    y[:10, 0], kinds[:10, 0] = 0.5, 2
    y[10:15, 0], kinds[10:15, 0] = 0.1, 2
    found = check_of(y, drawn, kinds=kinds).by_time("hours")
    limits = np.where(np.arange(UNITS) < 10, 0.5, 0.1)
    assert found.below[0] == 0.5
    assert found.below_simulated[0, 1] == np.median(np.mean(drawn[:, :, 0] < limits, axis=1))


def test_values_above_a_limit_count_as_above_it(generator):
    drawn = units(generator, SETS)
    kinds = np.where(drawn[0] > 0.6, 3, 0)
    found = check_of(np.minimum(drawn[0], 0.6), drawn, kinds=kinds).by_time("hours")
    assert np.isnan(found.observed[0, 2])
    assert np.isfinite(found.observed[3]).all()
    assert np.all(found.below == 0)


def test_the_correction_takes_the_dose_out(generator):
    """With doses from 1 to 100 the corrected check equals that of the same dose for all; by hand for one bin."""
    dose = np.geomspace(1, 100, UNITS)[:, None]
    y, drawn = units(generator, 1)[0], units(generator, SETS)
    found = check_of(dose * y, dose * drawn).by_time("hours", corrected=True)
    each = np.median(dose * drawn, axis=0)
    expected = np.quantile(dose * y * np.median(each, axis=0) / each, LEVELS, axis=0).T
    np.testing.assert_allclose(found.observed, expected)
    plain = check_of(dose * y, dose * drawn).by_time("hours")
    width = [np.ptp(one.simulated[:, 1, [0, 2]], axis=-1) / one.simulated[:, 1, 1] for one in (found, plain)]
    assert np.all(width[0] < 0.6 * width[1])


def test_the_correction_moves_what_can_be_negative(generator):
    y, drawn = generator.normal(size=(UNITS, 4)), generator.normal(size=(SETS, UNITS, 4))
    start = np.linspace(-5, 5, UNITS)[:, None]
    found = check_of(start + y, start + drawn).by_time("hours", corrected=True)
    each = np.median(start + drawn, axis=0)
    expected = np.quantile(start + y + np.median(each, axis=0) - each, LEVELS, axis=0).T
    np.testing.assert_allclose(found.observed, expected)


def test_bins_hold_about_equally_many_or_have_the_edges_given(generator):
    times = np.sort(generator.uniform(0, 24, (UNITS, 4)), axis=1)
    drawn = units(generator, SETS)
    kinds = np.zeros((UNITS, 4), int)
    kinds[:, 3] = np.where(np.arange(UNITS) < 12, 1, 0)  # missing
    check = check_of(drawn[0], drawn, times=times, kinds=kinds)
    found = check.by_time("hours", bins=5)
    assert np.all(np.abs(found.counts - 108 / 5) <= 2)
    assert found.counts.sum() == 108
    given = check.by_time("hours", bins=[0, 6, 30])
    measured = times[kinds == 0]
    assert given.counts.tolist() == [np.sum(measured < 6), np.sum(measured >= 6)]
    assert given.edges.tolist() == [0, 6, 30]
    late = check.by_time("hours", bins=[-2, -1, 12, 30])
    assert late.edges.tolist() == [-1, 12, 30]


def test_components_are_compared_one_by_one(generator):
    drawn = generator.normal(size=(SETS, UNITS, 4, 2)) + np.array([0.0, 9.0])
    check = check_of(drawn[0], drawn, labels=("hare", "lynx"))
    found = visual_check(check, "hours", entry="lynx")
    np.testing.assert_allclose(found.observed, np.quantile(drawn[0, :, :, 1], LEVELS, axis=0).T)
    assert str(found).startswith("y of lynx by hours")
    with pytest.raises(bh.ModelError, match="write one of 'hare', 'lynx'"):
        check.by_time("hours")


def test_a_site_without_units_is_one_unit(generator):
    drawn = generator.normal(size=(SETS, 4))
    assert check_of(drawn[0], drawn, new=()).by_time("hours").observed.shape == (4, 3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"time": "days"}, "the model has no such argument; there are hours"),
        ({"site": "z"}, "write one of 'y'"),
        ({"bins": [3, 1]}, "edges must increase"),
        ({"bins": 0}, "at least one bin"),
    ],
)
def test_what_cannot_be_compared_is_refused(generator, settings, told):
    drawn = units(generator, 20)
    with pytest.raises(bh.ModelError, match=told):
        check_of(drawn[0], drawn).by_time(**{"time": "hours", **settings})


def test_times_of_another_shape_and_corrected_limits_are_refused(generator):
    drawn = units(generator, 20)
    with pytest.raises(bh.ModelError, match=r"its shape \(3,\) does not fit y"):
        check_of(drawn[0], drawn, times=np.zeros(3)).by_time("hours")
    kinds = np.full((UNITS, 4), 2)
    with pytest.raises(bh.DataError, match="the correction would move the limit"):
        check_of(drawn[0], drawn, kinds=kinds).by_time("hours", corrected=True)
    with pytest.raises(bh.DataError, match="nothing of y was measured"):
        check_of(drawn[0], drawn, kinds=np.ones((UNITS, 4), int)).by_time("hours")
    with pytest.raises(bh.DataError, match="no value of y lies in any bin"):
        check_of(drawn[0], drawn).by_time("hours", bins=[100, 200])
