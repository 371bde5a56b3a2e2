"""Theophylline: the record, the equation against its closed form, the question by superposition, and a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayeshybrid as bh
from case_studies.theophylline import model, published, tables, what_if
from case_studies.theophylline.__main__ import KNOWN, NEW_DOSE, main

EXPECTED = json.loads(Path(model.__file__).with_name("expected.json").read_text(encoding="utf-8"))


def test_the_record_is_complete():
    """Twelve subjects with eleven values each, one dose each, and the sums of the public record."""
    record = model.read_record()
    assert str(record).startswith("12 subjects, 132 values, 9 below 0.01, 12 doses")
    assert record["hours"].shape == record["conc"]["values"].shape == (12, 11)
    assert not record["conc"]["missing"].any()
    below = record["conc"]["left"]
    assert below.sum(axis=0).tolist() == [9] + [0] * 10
    assert record["conc"]["values"][~below].sum() == pytest.approx(654.78)
    assert record["dose"]["amounts"].sum() == pytest.approx(55.51)
    assert not record["dose"]["times"].any()
    assert record.units == {"hours": "h", "conc": "mg/L", "dose": "mg/kg"}
    assert record.labels["subject"][:2] == ("1", "2")


@pytest.fixture(scope="module")
def pair():
    """Prior draws of two subjects, one with a whole dose and one with the same in halves; and of both divided."""
    whole = what_if.inputs(np.array([4.0, 6.0]))
    halves = {**whole, "dose": what_if.divided(whole["dose"])}
    with jax.enable_x64(True):
        return tuple(bh.simulate(model.equation, given, key=0, draws=20) for given in (whole, halves))


def by_hand(forecast, amounts):
    """Concentrations of the whole dose and of two halves six hours apart, `(draw, subject, time)`."""
    k = {name: forecast.latent[name].draws[..., None] for name in ("absorption", "clearance", "volume")}
    one = model.closed_form(what_if.GRID, np.asarray(amounts)[:, None], **k)
    later = what_if.GRID - what_if.SECOND
    two = np.where(later > 0, model.closed_form(np.maximum(later, 0), np.asarray(amounts)[:, None], **k), 0.0)
    return one, 0.5 * (one + two)


def solved(forecast):
    return forecast.latent["amounts"].draws[..., 1] / forecast.latent["volume"].draws[..., None]


def test_the_solution_is_the_closed_form_and_obeys_superposition(pair):
    """The equation is linear in what is given, so two halves are half of the sum of two courses."""
    one, two = by_hand(pair[0], [4.0, 6.0])
    assert np.abs(solved(pair[0]) - one).max() < 1e-4 * one.max()
    assert np.abs(solved(pair[1]) - two).max() < 1e-4 * two.max()
    assert np.abs(solved(pair[1]) - one).max() > 0.1 * one.max()


def test_peak_and_time_above_are_those_of_a_fine_grid(pair):
    """The grid of the question meets the peak to 0.02 mg/L and the time above the limit to a hundredth of an hour."""
    k = {name: pair[0].latent[name].draws for name in ("absorption", "clearance", "volume")}
    fine = np.arange(0, 24.0001, 0.002)
    amounts, volume = pair[0].latent["amounts"].draws, pair[0].latent["volume"].draws
    peaks = np.stack([what_if.peak(*row) for row in zip(amounts, volume, strict=True)])
    above = np.stack([what_if.hours_above(*row) for row in zip(amounts, volume, strict=True)])
    for subject, dose in enumerate((4.0, 6.0)):
        course = model.closed_form(fine, dose, **{name: v[:, subject, None] for name, v in k.items()})
        assert np.abs(peaks[:, subject] - course.max(axis=1)).max() < 0.02 * course.max()
        assert np.abs(above[:, subject] - 0.002 * (course > what_if.LIMIT).sum(axis=1)).max() < 0.03


def test_a_constant_course_is_above_all_the_time_or_never():
    """Where a course is flat there is no slope to cut it by."""
    amounts = jnp.stack([jnp.full((len(what_if.GRID), 2), level) for level in (6.0, 4.0)])
    assert what_if.hours_above(amounts, jnp.ones(2)).tolist() == pytest.approx([24.0, 0.0])


def test_dividing_keeps_the_amount():
    """Half of what is given at each of the two times."""
    dose = what_if.inputs(np.array([4.0, 6.0]))["dose"]
    halves = what_if.divided(dose)
    assert halves["amounts"].tolist() == [[2.0, 2.0], [3.0, 3.0]]
    assert halves["times"] is dose["times"]


def test_the_answers_count_what_happens(pair):
    """Mean, range and probability of a difference, with the error of so many draws."""
    quantities = [SimpleNamespace(of=lambda f, p=p: p.of(f), replicates=1) for p in pair]

    def difference(function):
        draws = pair[1].of(function).draws - pair[0].of(function).draws
        return SimpleNamespace(draws=draws)

    contrast = SimpleNamespace(changed=quantities[1], baseline=quantities[0], of=difference)
    found = what_if.answers(contrast, {"the second": 1})
    one, two = by_hand(pair[0], [4.0, 6.0])
    falls = (two.max(axis=-1) - one.max(axis=-1))[:, 1]
    assert [one.figure for one in found] == list(what_if.EVENTS)
    assert found[0].difference[0] == pytest.approx(falls.mean(), abs=0.01)
    assert found[0].probability == np.mean(falls < -1)
    assert found[0].error == pytest.approx(falls.std(ddof=1) / np.sqrt(20), rel=0.01)
    assert 0.025 <= found[1].probability_error < 0.2
    words = tables.answers_in_words(found)
    assert "the second" in words
    assert "Monte Carlo error" in words


def test_the_comparison_lists_what_others_found():
    """Rates as logarithms become clearance and volume; a spread that two rates share is that of their ratio."""
    correlated, independent, *rest = (one.values for one in published.PUBLISHED)
    assert independent["volume"] == pytest.approx(0.462, abs=0.001)
    assert correlated["spread of volume"] == pytest.approx(0.1216, abs=0.001)
    for values in (correlated, independent, *rest):
        assert set(values) <= set(published.QUANTITIES)
        assert values["clearance"] / values["volume"] == pytest.approx(values["elimination"], rel=1e-6)
    draws = {
        f"{name}_{part}": np.full(9, 0.5)
        for name in ("absorption", "clearance", "volume")
        for part in ("population", "spread")
    }
    draws |= {"additive": np.full(9, 0.3)}

    class Fit(dict):
        samples = draws

    table = published.rows(Fit(draws))
    assert [row["quantity"] for row in table] == [
        name for name in published.QUANTITIES if name != "noise, proportional"
    ]
    assert "Pinheiro" in published.in_words(table)
    assert table[3]["median"] == 1.0


TINY = "--draws 40 --warmup 60 --members 4 --steps 20 --key 3".split()
FILES = {
    f"{name}.{kind}"
    for name in ("before", "summary", "verdict", "fit", "population", "published", "what_if")
    for kind in ("txt", "json")
} | {
    f"{name}.png"
    for name in (
        "fit",
        "residuals",
        "visual_predictive_check",
        "divided_dose",
        "difference_new_subject",
    )
}


@pytest.mark.slow
def test_the_network_variant_runs_and_says_what_came_through_it(tmp_path, capsys):
    """Much too short to be believed; every table and picture is there."""
    assert main([*TINY, "--network", "--output", str(tmp_path)]) == 0
    assert "not draws of a posterior" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "hybrid").iterdir()} == FILES | {"network.txt", "network.json"}
    told = json.loads((tmp_path / "hybrid" / "network.json").read_text())
    assert 0 <= told["known"]["outside"]["change"] <= 1
    assert told["new"]["share"] >= 0


@pytest.mark.slow
def test_the_whole_case_comes_out_as_expected(tmp_path, capsys):
    """Fit and answers agree with a longer run within four standard errors of both, and the verdict passes."""
    assert main(["--key", "1", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "12 subjects, 132 values, 9 below 0.01, 12 doses" in told
    assert {path.name for path in (tmp_path / "equation").iterdir()} == FILES
    assert "Theophylline" in (tmp_path / "report.html").read_text(encoding="utf-8")
    read = {
        name: json.loads((tmp_path / "equation" / f"{name}.json").read_text())
        for name in ("summary", "verdict", "what_if")
    }
    assert read["verdict"]["state"] in ("pass", "pass with remarks"), told
    for name, expected in EXPECTED["summary"].items():
        row = read["summary"][name]
        limit = 4 * np.hypot(row["error"], expected["error"])
        assert abs(row["mean"] - expected["mean"]) < limit, name
    answers = {f"{one['subject']}, {one['figure']}": one for one in read["what_if"]}
    assert len(answers) == 2 * (len(KNOWN) + 1)
    for name, expected in EXPECTED["what_if"].items():
        found = answers[name]
        for figure, error in (("difference", "error"), ("probability", "probability_error")):
            value, wanted = (np.atleast_1d(one[figure])[0] for one in (found, expected))
            assert abs(value - wanted) < 4 * np.hypot(found[error], expected[error]), (name, figure)


def test_the_expected_answers_are_those_of_the_record():
    """The file names the subjects and the dose that the command asks for."""
    assert EXPECTED["new_dose"] == NEW_DOSE
    assert {name.split(",")[0] for name in EXPECTED["what_if"]} == {
        *(f"subject {k}" for k in KNOWN),
        "a new one",
    }
