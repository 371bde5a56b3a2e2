"""The page of a model of many units: small pictures, folded tables, counts of what was measured."""

from __future__ import annotations

import re

import numpy as np
import pytest

import bayeshybrid as bh
from bayeshybrid.faults import DataError
from bayeshybrid.identifiability import Identifiability, Thresholds
from bayeshybrid.plots.panels import forecast_panels
from bayeshybrid.reporting.numbers import span
from bayeshybrid.reporting.placing import placed
from bayeshybrid.reporting.technical import fingerprint
from tests.posteriors import from_draws
from tests.test_plots_of_units import ahead, decay, table
from tests.test_reporting import JARGON, Page

UNITS = 14
SKIPPED = Identifiability((), np.zeros(0), (), (), {}, (), (), Thresholds(), 0)


@pytest.fixture(scope="module")
def posterior():
    data = table(UNITS)
    layout = bh.Target(decay, data).layout
    drawn = 0.1 * np.random.default_rng(1).standard_normal((4, 50, layout.size))
    drawn[..., layout["rate_population"].start] += np.log(0.4)
    drawn[..., layout["rate_spread"].start] += np.log(0.1)
    return from_draws(decay, data, drawn)


@pytest.fixture(scope="module")
def page(posterior, tmp_path_factory):
    forecast = posterior.predict({"times": np.full((UNITS, 3), [2.0, 6.0, 12.0])}, key=1)
    path = tmp_path_factory.mktemp("page") / "page.html"
    return Page(bh.report(posterior, forecast, path=path, identifiability=SKIPPED)), forecast


def test_the_first_sentence_counts_units_values_and_what_is_not_known(page):
    data = table(UNITS)["conc"]
    values, below = int((~data["missing"]).sum()), int(data["left"].sum())
    told = page[0].text(1)
    assert (
        f"{values} measurements ({below} of them known only to lie beyond a limit and 1 more missing)" in told
    )
    assert (
        "on 14 subjects of conc in mg/L, times from 0.5 to" in told
    )  # what only fills up a row is not missing
    low, high = page[1].observed["conc"].interval(0.9)[:, 0, -1]
    assert f"subject P0 {span(low, high, 'mg/L')}" in told
    assert "11 more in the part on the forecast" in told


def test_units_stand_side_by_side_and_no_more_than_twelve(page):
    shown = [told["aria-label"] for tag, told in page[0].elements if tag == "svg" and "aria-label" in told]
    fits = [words for words in shown if "data as dots" in words]
    assert len(fits) == 12
    assert fits[0].startswith("conc of subject P0:")
    assert fits[-1].startswith("conc of subject P13:")
    assert "12 of 14 subjects, evenly chosen; 2 are not shown" in page[0].text(3)
    assert sum("bands that hold" in words for words in shown) == 12
    assert len(page[0].source) < 1_200_000


def test_quantiles_over_all_units_are_told(page):
    assert re.search(r"Over all 14 subjects together, \d+ of \d+ quantiles of the data", page[0].text(3))


def test_values_of_units_are_folded_and_named(page):
    rows = re.findall(r'<th scope="row">([^<]*)</th>', page[0].source)
    assert "rate_population" in rows
    assert "rate[subject P3]" in rows
    unfolded = re.sub(r"(?s)<details>.*?</details>", "", page[0].source)
    assert "rate[subject P3]" not in unfolded
    assert "rate_population" in unfolded
    assert "rate_offset" not in page[0].text(4)
    assert "rate_offset[subject P3]" in page[0].text(11)  # a statistician wants them all


def test_how_far_ahead_is_told_of_all_units_together(page):
    told = page[0].text(5)
    assert re.search(r"Beyond the data the 9-in-10 range is narrower .* of 14 subjects", told)
    assert told.count("9-in-10 range is") < 4


def test_above_the_fold_there_is_no_jargon(page):
    for n in range(1, 11):
        assert not JARGON.search(page[0].text(n))


def test_measurements_find_their_place_unit_by_unit():
    data = table(3)
    forecast = ahead(bh.Target(decay, data), np.full((3, 4), [1.0, 2.0, 3.0, 4.0]))
    given = {
        "times": np.array([[2.0, 9.0], [1.0, 4.0], [3.0, 3.0]]),
        "conc": {
            "values": np.array([[5.0, 0.0], [6.0, 7.0], [8.0, 0.0]]),
            "missing": np.array([[False, True], [False, False], [False, True]]),
            "left": np.array([[False, False], [False, True], [False, False]]),
        },
    }
    found = placed(forecast, given)
    nan = np.nan
    expected = [[nan, 5.0, nan, nan], [6.0, nan, nan, 7.0], [nan, nan, 8.0, nan]]
    assert np.array_equal(found["conc"]["values"], expected, equal_nan=True)
    assert np.array_equal(found["conc"]["missing"], np.isnan(expected))
    assert np.argwhere(found["conc"]["left"]).tolist() == [[1, 3]]
    assert forecast_panels(forecast, None, None).units == 3
    given["conc"]["missing"][0, 1] = False
    with pytest.raises(DataError, match="the measurements stand at times 9, which was not forecast"):
        placed(forecast, given)
    twice = {"times": np.full((3, 2), 2.0), "conc": np.ones((3, 2))}
    with pytest.raises(DataError, match="subject P0 has two measurements at one times"):
        placed(forecast, twice)


def test_the_fingerprint_reads_the_parts_of_a_table():
    first, second = table(3), table(3)
    second["conc"] = {**second["conc"], "left": ~second["conc"]["left"]}
    marks = [fingerprint(bh.Target(decay, one)) for one in (first, table(3), second)]
    assert marks[0] == marks[1] != marks[2]
