"""A scientist's table becomes padded arrays: nothing is lost, nothing is invented, every fault has its row."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from posteriors import from_draws

import bayeshybrid as bh
from bayeshybrid.faults import DataError

TABLES = Path(__file__).resolve().parent / "tables"
NAN = np.nan


def read(text: str, folder: Path, **asked) -> bh.Measurements:
    """A CSV file of these lines, read with columns `id`, `t` and `y` unless asked otherwise."""
    path = folder / "lab.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return bh.measurements(path, **{"individual": "id", "time": "t", "value": "y", **asked})


def frame(**columns) -> bh.Measurements:
    return bh.measurements(columns, individual="id", time="t", value="y")


# What the three files say


def test_ragged_subjects_with_doses_limits_and_a_gap():
    found = bh.measurements(
        TABLES / "ragged.csv", individual="subject", time="time", value="conc", dose="dose"
    )
    assert str(found) == "8 subjects, 51 values, 6 below 0.3, 1 empty, 12 doses"
    assert list(found) == ["time", "conc", "dose"]
    assert found.units == {"time": "h", "conc": "mg/L", "dose": "mg"}
    assert found.labels == {"subject": tuple("12345678")}
    assert found["time"].shape == found["conc"]["values"].shape == (8, 8)
    assert found["dose"]["amounts"][:3].tolist() == [[120.0, 60.0], [140.0, 0.0], [100.0, 60.0]]
    assert found["conc"]["values"][0, 0] == 2.776
    assert found["conc"]["missing"].sum() == 64 - 51
    assert np.all(found["conc"]["values"][found["conc"]["left"]] == 0.3)
    assert np.all(np.diff(found["time"], axis=1) >= 0)
    assert found.place("conc", (0, 0)) == "subject 1, row 6 of ragged.csv"
    assert found.place("conc", (0, 7)) == ""


def test_a_single_series_with_rain():
    found = bh.measurements(TABLES / "forcing.csv", time="day", value="level", covariates=["rain"])
    assert str(found) == "20 values, 21 empty"
    assert found["day"].shape == found["level"]["values"].shape == found["rain"]["values"].shape == (41,)
    assert found["rain"]["values"][1] == 1.7
    assert found["level"]["values"][2] == 11.974
    assert found.units == {"level": "mm", "rain": "mm/d"}
    assert found.individual is None
    assert found.place("rain", (0,)) == ""
    assert found.place("level", (2,)) == "row 6 of forcing.csv"


def test_replicates_as_mean_sd_and_number():
    found = bh.measurements(
        TABLES / "replicates.csv", individual="flask", time="hours", value="mean", sd="sd", n="n"
    )
    assert str(found) == "3 flasks, 21 values"
    assert found["mean"]["values"].shape == (3, 7, 2)
    assert found["n"].shape == (3, 7)
    alone = found["n"] == 1
    assert found["mean"]["missing"][alone].tolist() == [[False, True]] * 6  # one reading has no sd
    assert not found["mean"]["missing"][~alone].any()
    assert found["mean"]["values"][0, 0].tolist() == [1.7855, 2.0132]


# How files are written


@pytest.mark.parametrize(
    "text",
    [
        "id,t,y\na,0,1.5\na,1,<0.1\nb,0,NA\n",
        "id;t;y\na;0;1,5\na;1;<0,1\nb;0;\n",
        "id\tt\ty\r\na\t0\t1.5\r\na\t1\t< 0.1\r\nb\t0\t.\r\n",
        '\ufeff# from the fridge\n\nid, t, y\n"a", 0, 1.5\n\n# thawed\na,1,"<=0.1"\nb,0\n',
        "id,t,y,,\na,0,1.5,,\na,1,\u22640.1,,\nb,0,n/a,,\n,,,,\n",
    ],
)
def test_one_table_written_in_many_ways(text, tmp_path):
    found = read(text, tmp_path)
    assert str(found).splitlines()[0] == "2 individuals, 2 values, 1 below 0.1, 1 empty"
    np.testing.assert_array_equal(found["y"]["values"], [[1.5, 0.1], [NAN, NAN]])
    assert found["y"]["left"].tolist() == [[False, True], [False, False]]
    assert found["t"].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert found.labels["id"] == ("a", "b")


def test_rows_are_counted_as_in_the_file(tmp_path):
    text = '# one\nid,t,y\n\na,0,"1"\n# five\n"a\nb",1,oops\n'
    with pytest.raises(
        DataError, match=r"lab\.csv: y holds 1 cells that are no numbers: row 6 = 'oops'\. Leave"
    ):
        read(text, tmp_path)


def test_letters_of_an_old_spreadsheet(tmp_path):
    found = read("id,t,y [µg/L]\na,0,1\n".encode("cp1252"), tmp_path)
    assert found.units == {"y": "µg/L"}
    assert "not UTF-8" in found.notes[0]
    assert read("id,t,y [µg/L]\na,0,1\n".encode("utf-16"), tmp_path).notes[:1] != found.notes[:1]


def test_headings_become_identifiers_and_units(tmp_path):
    text = "id,time since dose (h),lambda [1/h],2nd [mg,L]\na,0,1,5\n".replace("[mg,L]", '"[mg,L]"')
    path = tmp_path / "x.csv"
    path.write_text('id,time since dose (h),lambda [1/h],"2nd [mg,L]"\na,0,1,5\n')
    found = bh.measurements(path, "id", time="time since dose", value="lambda", covariates="2nd [mg,L]")
    assert text
    assert list(found) == ["time_since_dose", "lambda_", "_2nd"]
    assert found.units == {"time_since_dose": "h", "lambda_": "1/h", "_2nd": "mg,L"}


def test_frames_and_mappings_and_their_gaps():
    table = pd.DataFrame(
        {
            "id": [2, 2, 1],
            "t": [0.0, 1.0, 0.0],
            "y": pd.array([1.5, None, 2], "Float64"),
            "w": [70.0, NAN, 80],
        }
    )
    found = bh.measurements(table, "id", time="t", value="y", covariates=("w",))
    assert found.labels["id"] == ("2", "1")
    assert found["w"].tolist() == [70.0, 80.0]
    assert str(found) == "2 individuals, 2 values, 1 empty"
    assert found.place("y", (1, 0)) == "id 1, row 2 of the table"
    hidden = np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])
    assert frame(id=[1, 1, 1], t=[0, 1, 2], y=hidden)["y"]["missing"].tolist() == [[False, True, False]]
    with pytest.raises(DataError, match=r"t is infinite in row 1 \(counted from 0\)"):
        frame(id=[1, 1], t=[0.0, np.inf], y=[1.0, 2.0])


def test_dates_and_clock_times_become_days():
    texts = ["2020-01-01", "2020-01-01 12:00", "2020-01-03T00:00+02:00"]
    found = frame(id=[1, 1, 1], t=texts, y=[1.0, 2.0, 3.0])
    first = (np.datetime64("2020-01-01") - np.datetime64("1970-01-01")).astype(float)
    assert (found["t"] - first).round(9).tolist() == [[0.0, 0.5, round(2 - 2 / 24, 9)]]
    assert found.units == {"t": "d"}
    assert found.notes == ("t: dates became days since 1970-01-01",)
    stamps = pd.to_datetime(pd.Series(texts[:2], dtype=object), format="ISO8601")
    assert np.array_equal(frame(id=[1, 1], t=stamps, y=[1.0, 2.0])["t"], found["t"][:, :2])
    with pytest.raises(DataError, match=r"t mixes dates with row 1 = '17'"):
        frame(id=[1, 1], t=["2020-01-01", "17"], y=[1.0, 2.0])


# Rows into arrays


def test_order_repeats_and_individuals_that_come_back():
    found = frame(id=["b", "a", "b", "b"], t=[3.0, 1.0, 1.0, 3.0], y=[1.0, 2.0, 3.0, 4.0])
    assert found.labels["id"] == ("b", "a")
    assert found["t"].tolist() == [[1.0, 3.0, 3.0], [1.0, 1.0, 1.0]]
    assert found["y"]["values"][0].tolist() == [3.0, 1.0, 4.0]
    assert found.rows["y"].tolist() == [[2, 0, 3], [1, -1, -1]]
    assert found.notes == ("t: not in order in 1 of 2; sorted", "t: 1 repeated times are kept as replicates")


def test_several_quantities_share_their_times():
    table = {
        "t": [0, 0, 1, 0, 2],
        "what": ["hare", "lynx", "lynx", "hare", "hare"],
        "y": [30, 4, "<1", 31, 40],
    }
    found = bh.measurements(table, time="t", value="y", variable="what")
    assert found.labels == {"what": ("hare", "lynx")}
    assert found["t"].tolist() == [0.0, 0.0, 1.0, 2.0]
    np.testing.assert_array_equal(found["y"]["values"], [[30, 4], [31, NAN], [NAN, 1], [40, NAN]])
    assert found["y"]["missing"].tolist() == [[False, False], [False, True], [True, False], [False, True]]
    assert str(found).startswith("5 values (hare 3, lynx 2), 1 below 1\n")


def test_limits_as_numbers_and_columns():
    values, limits = [0.0, 0.4, 0.5, 9.0, "BLQ", "<0.2", ">7"], [0.5, 0.5, 0.5, None, 1.5, 0.5, 0.5]
    table = {"t": range(7), "y": values, "loq": limits}
    found = bh.measurements(table, time="t", value="y", lower_limit="loq", upper_limit=8)
    assert found["y"]["values"].tolist() == [0.5, 0.5, 0.5, 8.0, 1.5, 0.2, 7.0]
    assert found["y"]["left"].tolist() == [True, True, False, False, True, True, False]
    assert found["y"]["right"].tolist() == [False, False, False, True, False, False, True]
    assert str(found) == "7 values, 4 below a limit, 2 above a limit"
    assert "left" not in bh.measurements({"t": [0], "y": [1.0]}, time="t", value="y", lower_limit=0.5)["y"]


def test_an_amount_on_every_row_is_one_dose():
    """R's Theoph repeats the dose on each of an individual's rows."""
    table = {"id": [1, 1, 1, 2, 2], "t": [0.5, 0.0, 1.0, 0.0, 1.0], "y": [1.0, 0.7, 2.0, 0.0, 3.0]}
    found = bh.measurements(table | {"dose": [4.0, 4, 4, 5, 5]}, "id", time="t", value="y", dose="dose")
    assert found["dose"]["times"].tolist() == [[0.0], [0.0]]
    assert found["dose"]["amounts"].tolist() == [[4.0], [5.0]]
    assert found["y"]["values"].shape == (2, 3)
    assert "read as one dose each, at the first time" in str(found)
    told = bh.measurements(table | {"dose": [0.0, 4, 0, 5, 5]}, "id", time="t", value="y", dose="dose")
    assert told.rows["dose"].tolist() == [[1], [3]]
    assert "1 of 2" in told.notes[0]


def test_doses_have_rows_of_their_own_or_share_them():
    table = {"t": [0, 0, 1, 2, 2.5], "y": [None, 0.3, 5.0, 2.0, None], "dose": [10, None, 0, 20, 5]}
    found = bh.measurements(table, time="t", value="y", dose="dose")
    assert found["dose"]["times"].tolist() == [0.0, 2.0, 2.5]
    assert found["dose"]["amounts"].tolist() == [10.0, 20.0, 5.0]
    assert found["t"].tolist() == [0.0, 1.0, 2.0]
    assert found.line == "3 values, 3 doses"
    assert found.notes == (
        "dose: 1 rows hold a dose and a measurement: the measurement is of the state before it",
    )
    none = bh.measurements({"t": [0], "y": [1.0], "dose": [0]}, time="t", value="y", dose="dose")
    assert none["dose"]["amounts"].tolist() == [0.0]
    assert none.notes == ("dose holds no dose",)


NONMEM = """\
Id,Time,Dv,Amt,Evid,Mdv,Cens,Limit,Rate,Addl,Ii,Cmt,Wt
1,0,.,100,1,1,0,.,50,2,12,1,70
1,1,3.5,.,0,0,0,.,.,.,.,2,.
1,6,0.5,.,0,0,1,0.1,.,.,.,2,.
1,9,0.5,.,0,0,1,.,.,.,.,2,.
1,12,9,.,0,0,-1,.,.,.,.,2,.
1,15,7,.,0,1,0,.,.,.,.,2,.
1,16,0,.,2,1,0,.,.,.,.,2,.
2,0,0,80,1,1,0,.,0,0,0,1,60
2,2,4,.,0,0,0,.,.,.,.,2,.
"""


def test_the_columns_of_pharmacometrics(tmp_path):
    path = tmp_path / "nm.csv"
    path.write_text(NONMEM)
    found = bh.measurements(path, individual="Id", time="Time", value="Dv", dose="Amt", covariates=["Wt"])
    assert found.line == "2 individuals, 5 values, 1 below 0.5, 1 above 9, 1 between limits, 1 empty, 4 doses"
    assert found["Amt"]["times"].tolist() == [[0.0, 12.0, 24.0], [0.0, 0.0, 0.0]]
    assert found["Amt"]["amounts"].tolist() == [[100.0, 100.0, 100.0], [80.0, 0.0, 0.0]]
    assert found["Amt"]["duration"].tolist() == [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]
    assert found["Time"].tolist() == [[1.0, 6.0, 9.0, 12.0, 15.0], [2.0] * 5]
    np.testing.assert_array_equal(found["Dv"]["values"][0], [3.5, 0.1, 0.5, 9.0, NAN])
    np.testing.assert_array_equal(found["Dv"]["upper"][0], [NAN, 0.5, NAN, NAN, NAN])
    assert found["Dv"]["left"][0].tolist() == [False, False, True, False, False]
    assert found["Dv"]["right"][0].tolist() == [False, False, False, True, False]
    assert found["Wt"].tolist() == [70.0, 60.0]
    assert "EVID, MDV, CENS, LIMIT, RATE, ADDL, II: read as NONMEM" in found.notes[0]
    assert "Cmt varies and is not read" in found.notes[1]
    without = bh.measurements(path, individual="Id", time="Time", value="Dv")
    assert without.line.startswith("2 individuals, 5 values")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("1,16,0,.,2", "1,16,0,.,4"), "EVID resets the system in row 8 = 4"),
        (("Cmt", "SS"), "SS asks for a steady state in row 2, row 3"),
        (("1,1,3.5,.,0", "1,1,3.5,7,0"), "Amt: there is an amount, but EVID does not say dose (1) in row 3."),
        (("1,0,.,100", "1,0,.,0"), "Amt: EVID = 1 says dose, but there is no amount in row 2."),
        (
            ("1,0.1,", "1,0.9,"),
            "LIMIT is on the wrong side of the value in row 4 = 0.9. With CENS = 1 it must lie below",
        ),
        (("1,9,0.5", "1,9,"), "CENS = 1 contradicts the cell in row 5"),
        (("1,9,0.5", "1,9,>5"), "CENS = 1 contradicts the cell in row 5"),
        (("0,-1", "0,3"), "CENS is none of -1, 0, 1 in row 6 = 3"),
        (("50,2,12", "50,2,0"), "ADDL asks for further doses, but II gives no time between them in row 2"),
        (("50,2,12", "50,1.5,12"), "ADDL is no whole number of further doses in row 2"),
        (
            ("50,2,12", "-2,2,12"),
            "RATE is negative, which leaves rate or duration to the model; give the rate in row 2",
        ),
    ],
)
def test_records_that_cannot_be_followed(change, words, tmp_path):
    path = tmp_path / "nm.csv"
    path.write_text(NONMEM.replace(*change))
    with pytest.raises(DataError, match=re.escape(words)):
        bh.measurements(path, individual="Id", time="Time", value="Dv", dose="Amt")


def test_covariates_constant_changing_and_in_words():
    table = {
        "id": [1, 1, 1, 2, 2],
        "t": [2, 0, 1, 0, 5],
        "y": [1.0, 2, 3, 4, 5],
        "w": [None, 70, "", 60, "NA"],
        "sex": ["m", "", "", "f", "f"],
        "rain": [5.0, 0.0, None, 1.0, 1.0],
    }
    found = bh.measurements(table, "id", time="t", value="y", covariates=["w", "sex", "rain"])
    assert found["w"].tolist() == [70.0, 60.0]
    assert found["sex"].tolist() == [1, 0]
    assert found["sex"].dtype.kind == "i"
    assert found.labels["sex"] == ("f", "m")
    assert found["rain"]["times"].tolist() == [[0.0, 2.0], [0.0, 5.0]]
    assert found["rain"]["values"].tolist() == [[0.0, 5.0], [1.0, 1.0]]
    assert "sex: f is 0, m is 1" in found.notes
    alone = bh.measurements({"t": [0, 1], "y": [1, 2], "w": [3, 3]}, time="t", value="y", covariates="w")
    assert alone["w"].shape == ()


def test_what_was_read_cannot_be_changed_by_accident():
    found = frame(id=[1, 1], t=[0, 1], y=[1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        found["t"][0, 0] = 5.0
    found["y"]["values"] = 3.0
    assert found["y"]["values"].shape == (1, 2)
    with pytest.raises(TypeError):
        found["t"] = 1  # pyright: ignore[reportIndexIssue]
    more = found | {"extra": np.ones(1)}
    assert list(more) == ["t", "y", "extra"]
    assert more.labels is found.labels
    assert "extra" not in found
    assert repr(found) == "<Measurements t, y: 1 individual, 2 values>"


# Faults


@pytest.mark.parametrize(
    ("columns", "asked", "words"),
    [
        ({}, {"value": "conc"}, "has no column 'conc', asked for by value='conc' (did you mean 'Conc [mg/L]'?)"),
        ({"y": [1, "x7", "n.d."]}, {}, "y holds 2 cells that are no numbers: row 1 = 'x7', row 2 = 'n.d.' ("),
        ({"y": [1, "1.2.3", 2]}, {}, "y holds 1 cells that are no numbers: row 1 = '1.2.3'"),
        ({"y": [1, np.inf, 2]}, {}, "y is infinite in row 1"),
        ({"y": [None, "", "NA"]}, {}, "y holds no measured value in 3 rows"),
        ({"y": [1, "BLQ", 2]}, {}, "y lies below a limit that is not given in row 1 = 'BLQ'"),
        ({"t": [0, None, 2]}, {}, "t is empty in row 1"),
        ({"t": [0, "noon", 2]}, {}, "t holds 1 cells that are no numbers: row 1 = 'noon'"),
        ({"t": [0, "<1", 2]}, {}, "t holds 1 cells that are no numbers: row 1 = '<1'"),
        ({"id": [1, None, 2]}, {}, "id is empty in row 1"),
        ({"dose": [5, -5, 0]}, {"dose": "dose"}, "dose is negative in row 1 = -5"),
        ({"dose": [5, "five", 0]}, {"dose": "dose"}, "dose holds 1 cells that are no numbers"),
        ({"w": [1, None, None]}, {"covariates": "w"}, "w is nowhere given for id 2: give it on one row of each"),
        ({"w": [1, 2, 3], "t": [0, 0, 1]}, {"covariates": "w"}, "another value at the same time on an earlier row"),
        ({"w": [1, 2, "7O"]}, {"covariates": "w"}, "w holds 1 cells that are no numbers: row 2 = '7O'"),
        ({}, {"lower_limit": 3, "upper_limit": 2}, "lower_limit is not below upper_limit in row 0 = 3"),
        ({"sd": [1, -1, 1], "n": 3}, {"sd": "sd", "n": "n"}, "a standard deviation, must not be negative: row 1 = -1"),
        ({"sd": [1, 1, 1], "n": [2, 2.5, 3]}, {"sd": "sd", "n": "n"}, "a whole number of at least 1: row 1 = 2.5"),
        ({"sd": [1, 1, 1]}, {"sd": "sd"}, "sd= and n= belong together"),
        ({"y": [1, "<1", 2], "sd": 1, "n": 3}, {"sd": "sd", "n": "n"}, "mean of replicates cannot be censored: row 1"),
        ({}, {"covariates": ["t"]}, "two columns would both become the argument 't'"),
        ({"y [mg]": [1, 2, 3], "y [g]": [1, 2, 3], "y": None}, {}, "has 2 columns 'y'"),
        ({"y": [1, 2]}, {}, "the columns of the table have unequal lengths"),
        ({"y": np.ones((3, 2))}, {}, "column 'y' of the table has shape (3, 2)"),
    ],
)  # fmt: skip
def test_faults_in_a_table(columns, asked, words):
    base = {"id": [1, 1, 2], "t": [0, 1, 0], "y": [1.0, 2.0, 3.0], "Conc [mg/L]": [1, 2, 3]}
    table = {k: [v] * 3 if isinstance(v, int) else v for k, v in (base | columns).items() if v is not None}
    with pytest.raises(DataError, match=re.escape(words)):
        bh.measurements(table, **{"individual": "id", "time": "t", "value": "y", **asked})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lab.csv is empty: it has no row of data"),
        ("# nothing\nid,t,y\n\n", "lab.csv is empty: it has no row of data"),
        ("id t y\n1 0 1\n", "lab.csv names a single column, 'id t y': separate columns by commas"),
        (
            "id,t,y\n1,0,1,5\n1,1,2\n",
            "row 2 holds more cells than the heading names (3). Where a comma is the decimal",
        ),
        (
            "id;t;y\n1;0;1,5\n1;1;2.5\n",
            "y has decimal commas (row 2 = '1,5') and decimal points (row 3 = '2.5')",
        ),
        ("id,t,y\n1,0,1\n1,1,\x00\n", "lab.csv"),
    ],
)
def test_faults_in_a_file(text, words, tmp_path):
    with pytest.raises(DataError, match=re.escape(words)):
        read(text, tmp_path)


def test_what_is_no_table_and_no_file(tmp_path):
    with pytest.raises(
        DataError, match="table is a list: give the path of a CSV file, a data frame, or a mapping"
    ):
        bh.measurements([1, 2], time="t", value="y")
    with pytest.raises(FileNotFoundError):
        bh.measurements(tmp_path / "none.csv", time="t", value="y")


def test_an_individual_without_measurement_is_kept_and_named():
    found = frame(id=["a", "b", "b"], t=[0, 0, 1], y=[1.0, None, None])
    assert found["y"]["missing"].tolist() == [[False, True], [True, True]]
    assert found.notes == ("id b: no measured value, so known from the prior only",)


# Padding has no influence


def decaying(hours, conc=None, dose=None):
    """Each subject has its own rate; what is measured is an exponential."""
    count = hours.shape[0]
    rate = bh.parameter(
        "rate", bh.prior_interval(0.02, 1.0), across="subject", size=count, spread=dist.HalfNormal(0.5)
    )
    level = dose["amounts"].sum(axis=1)[:, None] * jnp.exp(-rate[:, None] * hours)
    bh.observe("conc", dist.LogNormal(jnp.log(level), 0.2), obs=conc, across="subject")


def exponential(rows: str = "all") -> dict[str, list]:
    """Three subjects of one, four and two measurements, some censored; or one of them alone."""
    table = {
        "subject": [*"abbbbcc", *"abc"],
        "hours": [1.0, 0.5, 2.0, 4.0, 8.0, 3.0, 1.0, 0, 0, 0],
        "conc": [4.1, 7.0, 4.2, 1.1, "<0.5", ">3", 6.0, None, None, None],
        "dose": [None] * 7 + [8.0, 9.0, 10.0],
    }
    kept = [i for i, who in enumerate(table["subject"]) if rows in ("all", who)]
    return {name: [column[i] for i in kept] for name, column in table.items()}


def pad(entry: np.ndarray, more: int, fill: float | bool | None = None) -> np.ndarray:
    """`more` entries behind the last of each subject; its last value again, or `fill`."""
    last = entry[:, -1:] if fill is None else np.full_like(entry[:, -1:], fill)
    return np.concatenate([entry, *[last] * more], axis=1)


@jax.jit
def density(target, q):
    return jax.value_and_grad(lambda q: target.log_likelihood(q))(q)


def test_more_padding_changes_nothing():
    data = bh.measurements(exponential(), "subject", time="hours", value="conc", dose="dose")
    assert data["hours"].shape == (3, 4)
    conc, dose = data["conc"], data["dose"]
    more = {"values": np.nan, "missing": True, "left": False, "right": False}
    padded = {
        "hours": pad(data["hours"], 3),
        "conc": {name: pad(part, 3, more[name]) for name, part in conc.items()},
        "dose": {name: pad(part, 2, None if name == "times" else 0.0) for name, part in dose.items()},
    }
    q = jnp.array([-1.5, 0.3, -0.4, 0.1, 0.7])
    value, slope = density(bh.Target(decaying, data), q)
    again, same = density(bh.Target(decaying, padded), q)
    assert np.isfinite(value)
    np.testing.assert_allclose(again, value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(same, slope, rtol=0, atol=1e-12)


def test_one_table_is_the_sum_of_its_individuals():
    asked = {"individual": "subject", "time": "hours", "value": "conc", "dose": "dose"}
    data = bh.measurements(exponential(), **asked)
    q = jnp.array([-1.5, 0.3, -0.4, 0.1, 0.7])
    value, slope = density(bh.Target(decaying, data), q)
    total, parts = 0.0, np.zeros(5)
    for i, who in enumerate("abc"):
        target = bh.Target(decaying, bh.measurements(exponential(who), **asked))
        one, own = density(target, q[jnp.array([0, 1, 2 + i])])
        total += one
        parts[[0, 1, 2 + i]] += own
    np.testing.assert_allclose(total, value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(parts, slope, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def fitted() -> bh.Posterior:
    """A posterior of the three subjects, made of draws that are given."""
    data = bh.measurements(exponential(), "subject", time="hours", value="conc", dose="dose")
    draws = np.array([-1.5, -1.0, 0.0, 0.0, 0.0]) + 0.1 * np.random.default_rng(0).normal(size=(2, 20, 5))
    return from_draws(decaying, data, draws)


def test_what_is_missing_counts_in_no_statistic(fitted):
    missing = fitted.target.data["conc"]["missing"]
    likelihood = fitted.log_likelihood()["conc"]
    assert np.all(likelihood[..., missing] == 0.0)
    assert np.all(likelihood[..., ~missing] != 0.0)
    check = fitted.check(key=0)
    exact = ~missing & ~fitted.target.data["conc"]["left"] & ~fitted.target.data["conc"]["right"]
    assert np.array_equal(np.isfinite(check.observed["conc"]), exact)
    assert check.inside["conc"][1] == exact.sum() == 5
    assert check.censored["conc"] == 2


def test_a_table_goes_through_a_file_and_to_other_times(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    again = bh.Posterior.load(tmp_path / "saved", decaying)
    for name, part in fitted.target.data["conc"].items():
        np.testing.assert_array_equal(again.target.data["conc"][name], part)
    assert again.target.labels == {"subject": ("a", "b", "c")}
    data = bh.measurements(exponential(), "subject", time="hours", value="conc", dose="dose")
    ahead = fitted.predict(data | {"hours": np.tile(np.linspace(0.0, 12.0, 4), (3, 1))}, key=1)
    assert ahead.observed["conc"].draws.shape == (40, 3, 4)
