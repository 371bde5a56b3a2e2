"""What a column of mixed cells becomes, and how faults in it are shown."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from bayeshybrid.columns import as_numbers, dates, first_cells, is_absent, is_date, nearest, shown
from bayeshybrid.faults import DataError


def test_numbers_dates_and_durations():
    assert as_numbers("x", np.array([1, 2])).dtype.kind == "i"
    assert as_numbers("x", np.float32([1.5])).dtype == np.float64
    np.testing.assert_array_equal(as_numbers("x", np.array([1.0, None], object)), [1.0, np.nan])
    assert as_numbers("x", np.array([36], "timedelta64[h]")).tolist() == [1.5]
    assert as_numbers("x", dates("x", np.array([datetime.date(1970, 1, 3)], object))).tolist() == [2.0]
    for odd in (np.array([1j]), np.array(["a"]), np.array([object()], object)):
        with pytest.raises(DataError, match="x holds"):
            as_numbers("x", odd)


def test_what_is_absent_and_what_is_a_date():
    assert is_absent(None)
    assert not is_absent(np.nan)
    assert is_date(datetime.datetime(2020, 1, 1))
    assert not is_date("2020-01-01")


def test_messages_show_the_first_five():
    told = first_cells(np.arange(9.0).reshape(3, 3), np.ones((3, 3), bool), "mg")
    assert told == "[0, 0] = 0, [0, 1] = 1, [0, 2] = 2, [1, 0] = 3, [1, 1] = 4 and 4 more (in mg)"
    assert first_cells(np.array(2.0), np.array(True)) == "2"
    assert [shown(v) for v in (1 / 3, np.int64(3), "a")] == ["0.333333", "3", "'a'"]


def test_the_nearest_name_whatever_its_capitals():
    assert nearest("TIME", ["time", "y"]) == " (did you mean 'time'?)"
    assert nearest("weight", ["y"]) == ""
