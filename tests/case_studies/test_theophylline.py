"""Theophylline: the record, the equation against its closed form, the question by superposition, and a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
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


COUNT = 8
AMOUNTS = np.linspace(3.0, 6.0, COUNT)


@pytest.fixture(scope="module")
def solved():
    """Subjects drawn from the prior: their kinetics, and the concentrations of whole doses and of halves."""
    given = what_if.inputs(np.tile(AMOUNTS, 2))
    halves = what_if.divided(given["dose"])["amounts"]
    given["dose"]["amounts"] = np.where(
        np.arange(2 * COUNT)[:, None] < COUNT, given["dose"]["amounts"], halves
    )

    @jax.jit
    def drawn():
        with numpyro.handlers.trace() as trace, numpyro.handlers.seed(rng_seed=0):
            model.equation(**given)
        kinetics = {name: trace[name]["value"] for name in ("absorption", "clearance", "volume")}
        return kinetics, trace["conc"]["fn"].mean

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, drawn())


def by_hand(hours, amounts, absorption, clearance, volume):
    """Concentrations of whole doses and of two halves six hours apart, `(subject, time)`."""
    k = [x[:, None] for x in (amounts, absorption, clearance, volume)]
    one, later = model.closed_form(hours, *k), hours - what_if.SECOND
    return one, 0.5 * (one + np.where(later > 0, model.closed_form(np.maximum(later, 0.0), *k), 0.0))


def test_the_solution_is_the_closed_form_and_obeys_superposition(solved):
    """The equation is linear in what is given, so two halves are half of the sum of two courses."""
    kinetics, found = solved
    one, two = by_hand(what_if.GRID, np.tile(AMOUNTS, 2), **kinetics)
    scale = one.max(axis=1, keepdims=True)
    assert np.abs((found - one) / scale)[:COUNT].max() < 1e-3
    assert np.abs((found - two) / scale)[COUNT:].max() < 1e-3
    assert np.abs((found - one) / scale)[COUNT:].max(axis=1).min() > 0.1


def test_peak_and_time_above_are_those_of_a_fine_grid():
    """The grid of the question meets the peak and the time above the limit of people like those of the record."""
    fine = np.arange(0, 24.0001, 0.002)
    kinetics = {
        "absorption": np.array([0.7, 1.5, 3.0, 7.0]),
        "clearance": np.array([0.02, 0.06, 0.03, 0.04]),
        "volume": np.array([0.4, 0.5, 0.45, 0.55]),
    }
    amounts = np.array([4.0, 5.5, 4.5, 3.1])
    pairs = zip(*(by_hand(hours, amounts, **kinetics) for hours in (what_if.GRID, fine)), strict=True)
    for coarse, course in pairs:
        blood = (coarse * kinetics["volume"][:, None])[..., None]
        state = jnp.concatenate([jnp.zeros_like(blood), blood], axis=-1)
        found = (np.asarray(f(state, kinetics["volume"])) for f in (what_if.peak, what_if.hours_above))
        peaks, above = found
        assert np.abs(peaks - course.max(axis=1)).max() < 0.02
        assert np.abs(above - 0.002 * (course > what_if.LIMIT).sum(axis=1)).max() < 0.02


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


def test_the_answers_count_what_happens(generator):
    """Mean, range and probability of a difference, with the error of so many draws, replicates taken together."""
    peaks = generator.normal(8.0, 1.0, (2, 40, 2))
    quantities = [lambda function, p=p: SimpleNamespace(draws=p) for p in (*peaks, peaks[1] - peaks[0])]
    before, after, difference = quantities
    contrast = SimpleNamespace(
        changed=SimpleNamespace(of=after, replicates=4), baseline=SimpleNamespace(of=before), of=difference
    )
    found = what_if.answers(contrast, {"the second": 1})
    falls = (peaks[1] - peaks[0])[:, 1].reshape(10, 4)
    assert [one.figure for one in found] == list(what_if.EVENTS)
    assert found[0].difference[0] == pytest.approx(falls.mean())
    assert found[0].probability == pytest.approx(np.mean(falls < -1))
    assert found[1].probability == pytest.approx(np.mean(falls > 0))
    assert found[0].error == pytest.approx(falls.mean(axis=1).std(ddof=1) / np.sqrt(10))
    assert 0.05 <= found[1].probability_error < 0.3
    words = tables.answers_in_words(found)
    assert "the second" in words
    assert "Monte Carlo error" in words


def test_absorption_is_told_hour_by_hour():
    """Medians and central 90 % at each of the hours of the model."""
    draws = np.arange(101.0)[None, :, None] * np.arange(1, len(model.SINCE) + 1)
    fit: Any = SimpleNamespace(samples={"absorption_over_time": draws})
    rows = tables.absorption_rows(fit)
    assert [row["hours"] for row in rows] == list(model.SINCE)
    assert rows[1] == pytest.approx({"hours": 0.25, "median": 100.0, "5 %": 10.0, "95 %": 190.0})
    assert "  0.25   100.00 (10.00 to 190.00)" in tables.absorption_in_words(rows)


def test_bumps_are_highest_at_their_knots():
    """Over the logarithm of time, a tenth of an hour added so that it has one at the dose."""
    since = np.array(model.KNOTS) - 0.1
    found = np.asarray(model.bumps(since))
    assert np.argmax(found, axis=1).tolist() == list(range(len(model.KNOTS)))
    assert np.diag(found) == pytest.approx(1.0)


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

    fit: Any = Fit(draws)
    table = published.rows(fit)
    assert [row["quantity"] for row in table] == [
        name for name in published.QUANTITIES if name != "noise, proportional"
    ]
    assert "Pinheiro" in published.in_words(table)
    assert table[3]["median"] == 1.0


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
def test_the_network_variant_comes_out_as_expected(tmp_path, capsys):
    """The verdict passes, absorption rises within the first hour, and the answers are those of another key."""
    assert main(["--key", "1", "--network", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    more = {f"{name}.{kind}" for name in ("network", "absorption") for kind in ("txt", "json")}
    assert {path.name for path in (tmp_path / "hybrid").iterdir()} == FILES | more
    read = {
        name: json.loads((tmp_path / "hybrid" / f"{name}.json").read_text())
        for name in ("verdict", "network", "what_if", "absorption")
    }
    assert bh.Verdict.from_dict(read["verdict"]).state in ("pass", "pass with remarks"), told
    assert 0.05 < read["network"]["new"]["share"] < 0.2
    assert 0 <= read["network"]["known"]["outside"]["change"] < 0.2
    for row, expected in zip(read["absorption"], EXPECTED["network"]["absorption"], strict=True):
        assert row == pytest.approx(expected, rel=0.1)
    early, later = (read["absorption"][place] for place in (0, 3))
    assert early["95 %"] < later["5 %"]
    compare_answers(read["what_if"], EXPECTED["network"]["what_if"])


def compare_answers(found, expected):
    """Differences and probabilities agree within four Monte Carlo errors of both."""
    found = {f"{one['subject']}, {one['figure']}": one for one in found}
    assert len(found) == 2 * (len(KNOWN) + 1)
    for name, wanted in expected.items():
        for figure, error in (("difference", "error"), ("probability", "probability_error")):
            values = [np.atleast_1d(one[figure])[0] for one in (found[name], wanted)]
            limit = 4 * np.hypot(found[name][error], wanted[error])
            assert abs(values[0] - values[1]) < limit, (name, figure)


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
    assert bh.Verdict.from_dict(read["verdict"]).state in ("pass", "pass with remarks"), told
    for name, expected in EXPECTED["summary"].items():
        row = read["summary"][name]
        limit = 4 * np.hypot(row["error"], expected["error"])
        assert abs(row["mean"] - expected["mean"]) < limit, name
    compare_answers(read["what_if"], EXPECTED["what_if"])


def test_the_expected_answers_are_those_of_the_record():
    """The file names the subjects and the dose that the command asks for."""
    assert EXPECTED["new_dose"] == NEW_DOSE
    assert {name.split(",")[0] for name in EXPECTED["what_if"]} == {
        *(f"subject {k}" for k in KNOWN),
        "a new one",
    }
