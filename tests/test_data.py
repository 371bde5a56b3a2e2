"""Bad data stop at the gate, with the cell and the remedy; odd data are named."""

from __future__ import annotations

import datetime
from typing import NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

from bayeshybrid.data import check_arguments, check_observation, conversions
from bayeshybrid.faults import DataError
from bayeshybrid.observation import Measured


def model(times, pelts=None): ...


class Table:
    """What pandas and xarray have in common."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.asarray(self.values)


def test_numbers_become_arrays_and_the_rest_is_kept():
    class Dose(NamedTuple):
        time: list
        amount: np.ndarray

    def wide(**anything): ...

    given = {
        "floats": np.float32([1.5]),
        "whole": [1, 2],
        "flags": np.array([True]),
        "device": jax.numpy.ones(2),
        "number": 2.5,
        "count": 12,
        "none": None,
        "function": np.sin,
        "table": Table([[1, 2.5]]),
        "gaps": [1.0, None],
        "masked": np.ma.masked_array([1, 2], [False, True]),
        "tree": {"a": [1.0], "b": (np.ones(2), 3)},
        "dose": Dose([0.0], np.ones(1, np.float32)),
        "key": jax.random.key(0),
        "ragged": [np.ones(2), np.ones(3)],
    }
    data = check_arguments(wide, given)
    kinds = {
        name: data[name].dtype for name in ("floats", "flags", "device", "number", "table", "gaps", "masked")
    }
    assert kinds == {name: np.bool_ if name == "flags" else np.float64 for name in kinds}
    assert data["whole"].dtype.kind == "i"
    assert data["count"] == 12
    assert data["none"] is None
    assert data["function"] is np.sin
    assert data["key"] is given["key"]
    assert np.isnan(data["gaps"][1])
    assert np.isnan(data["masked"][1])
    assert isinstance(data["dose"], Dose)
    assert data["dose"].amount.dtype == np.float64
    assert data["tree"]["b"][1] == 3
    assert [part.shape for part in data["ragged"]] == [(2,), (3,)]
    assert type(data) is dict


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"time": 1.0},
            r"model has no argument 'time' \(did you mean 'times'\?\); its arguments are times, pelts",
        ),
        ({"times": 1.0, "x": 1.0}, "has no argument 'x'; its arguments"),
        ({"pelts": [1.0]}, "model needs 'times', which the data lack; they hold pelts"),
        ([1.0], "data is a list; write a mapping"),
    ],
)
def test_row_18_names_are_compared_with_the_signature(data, message):
    with pytest.raises(DataError, match=message):
        check_arguments(model, data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b"], r"times holds text: \[0\] = 'a', \[1\] = 'b'. Give numbers"),
        (np.array([1.0, "n/a", None], object), r"\[1\] = 'n/a'"),
        ("1,2,3", "times = '1,2,3' is text"),
        (Table(np.array([["x", 1.0]], object)), r"\[0, 0\] = 'x'"),
        ({"a": ["b"]}, r"times\['a'\] holds text"),
        (np.array([1j]), "complex"),
        ([datetime.date(2020, 1, 1), 3.0], "mixes dates with 3.0"),
    ],
)
def test_row_16_text_is_refused(values, message):
    with pytest.raises(DataError, match=message):
        check_arguments(model, {"times": values})


def test_row_16_dates_become_days_from_one_origin_and_lost_digits_are_noted():
    dates = [datetime.datetime(1970, 1, 2, 12), datetime.datetime(1970, 1, 5), None]
    given = {
        "times": dates,
        "pelts": {"later": np.array(["1970-01-11"], "datetime64[D]"), "x": np.ones(1, np.float32)},
    }
    data = check_arguments(model, given)
    np.testing.assert_array_equal(data["times"], [1.5, 4.0, np.nan])
    np.testing.assert_array_equal(data["pelts"]["later"], [10.0])
    notes = conversions(given)
    assert notes[0] == "times: dates became days since 1970-01-01"
    assert "pelts['x']: stored as float32, about 7 digits" in notes[2]
    assert conversions({"n": np.array([2**60])})[0].endswith("lose digits in floating point")
    assert conversions({"d": np.array([12], "timedelta64[h]")}) == ("d: durations became days",)
    assert check_arguments(model, {"times": np.array([12], "timedelta64[h]")})["times"] == 0.5
    zone = datetime.timezone(datetime.timedelta(hours=12))
    local = [datetime.datetime(1970, 1, 2, 12, tzinfo=zone)]
    assert check_arguments(model, {"times": local})["times"] == 1.0


VALUES = np.array([[1.0, np.nan], [np.inf, 4.0]])


def test_row_11_undeclared_gaps_are_refused_with_their_cells():
    with pytest.raises(
        DataError, match=r"y: 2 of 4 values are NaN or infinite: \[0, 1\] = nan, \[1, 0\] = inf"
    ) as e:
        check_observation("y", VALUES, None, True, "real", "mg")
    assert "missing=True" in str(e.value)
    many = np.full(9, np.nan)
    with pytest.raises(DataError, match=r"\[4\] = nan and 4 more"):
        check_observation("y", many, None, True, "real")
    assert check_observation("y", VALUES, np.array([[0, 1], [1, 0]]), True, "real") == []


def test_row_13_little_data_is_named():
    empty = check_observation("y", np.zeros(3), np.ones(3, int), True, "real")
    assert empty == ["y: no value was measured; what depends on it alone is known from the prior only"]
    single = check_observation("y", np.ones(1), None, True, "real")
    assert "a single value was measured" in single[0]
    assert "prior only" in single[0]
    assert "no value" in check_observation("y", np.zeros((0, 2)), None, np.ones((0, 2), bool), "real")[0]


@pytest.mark.parametrize("base", [dist.LogNormal(0.0, 1.0), dist.Exponential(1.0), dist.Gamma(1.0, 1.0)])
def test_row_14_zeros_and_negatives_under_a_positive_distribution(base):
    values = np.array([1.0, -2.0, 3.0, -1e-3])
    with pytest.raises(
        DataError, match=r"zero or negative, .*\[1\] = -2, \[3\] = -0.001 \(in kpelt\)"
    ) as caught:
        check_observation("y", values, None, np.asarray(base.support(values)), base.support, "kpelt")
    assert "left=" in str(caught.value)


def test_values_outside_other_supports_are_named():
    share = dist.Uniform(0.0, 1.0).support
    with pytest.raises(DataError, match=r"\(from 0 to 1\): \[0\] = 3"):
        check_observation("y", np.array([3.0]), None, np.array([False]), share)


def test_row_15_contradicting_bounds_are_refused():
    fn = Measured(dist.Normal(0.0, 1.0), upper=np.array([np.nan, 1.0]))
    values = np.array([0.0, 2.0])
    with pytest.raises(DataError, match=r"contradicts itself: \[1\] = 2. .*upper must lie above the value"):
        check_observation("y", values, fn.kinds(values), True, "real")


@pytest.mark.parametrize("size", [3e-12, 4e12])
def test_row_17_extreme_sizes_come_with_a_proposal(size):
    (warning,) = check_observation("y", size * np.array([1.0, 1.1]), None, True, "real", "mol")
    assert f"state it in units of {10.0 ** round(np.log10(size)):.0e} mol" in warning


def test_row_17_a_wide_range_is_named():
    (warning,) = check_observation("y", np.array([1e-7, 1.0, 1e7]), None, True, "real")
    assert "sizes range from 1e-07 to 1e+07" in warning


def test_ordinary_data_pass_silently_and_earlier_notes_come_first():
    assert check_observation("y", np.array([0.0, 2.0]), None, True, "real", notes=["y: a note"]) == [
        "y: a note"
    ]
    events = check_observation("y", np.ones((3, 2)), np.array([0, 1, 0]), np.ones(3, bool), "real vector")
    assert events == []
