"""Influenza in a boarding school: the equations against a solver of our own, the tables, and the whole run."""

from __future__ import annotations

import inspect
import json
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import numpyro
import pytest
from scipy.integrate import solve_ivp

from bayeshybrid.quantities import probability
from case_studies.influenza import model, tables, what_if
from case_studies.influenza.__main__ import main

VALUES = {"transmission": 1.7, "recovery": 0.5, "overdispersion": 0.1}
LATENT = {**VALUES, "transmission": 3.4, "latency": 0.7}
OPEN = {**LATENT, "start": 2.5, "reached": 0.8, "put_to_bed": 0.6}
SHARE = 0.75


def test_the_record_is_complete():
    """Fourteen counts, their sum and largest, with units and no isolation."""
    read = model.read_cases()
    assert str(read) == "14 values"
    assert read["day"].tolist() == list(range(1, 15))
    counts = read["in_bed"]["values"]
    assert (counts.sum(), counts.max(), counts.argmax()) == (1559, 298, 5)
    assert not read["in_bed"]["missing"].any()
    assert (read.units["day"], read.units["in_bed"]) == ("d", "boys")
    assert read["isolation"]["values"].tolist() == [0.0, 0.0]


def beds_of(name):
    """Boys in bed by the model, compiled once: `(values, day, isolation) -> (day,)`."""

    @jax.jit
    def beds(values, day, isolation):
        fixed = numpyro.handlers.substitute(model.MODELS[name], values)
        seeded = numpyro.handlers.seed(fixed, 0)
        sites = numpyro.handlers.trace(seeded).get_trace(day, isolation)
        return sites["in_bed"]["fn"].mean

    return beds


BEDS = {name: beds_of(name) for name in model.MODELS}


def by_scipy(values, days, share, jump=model.ISOLATION_DAY, log=False):
    """The same by another solver, piece by piece, so that nothing is stepped over; on the log scale if asked."""
    start, reached = values.get("start", 1.0), values.get("reached", 1.0)
    latency, recovery = values.get("latency"), values["recovery"]
    first = [model.BOYS * reached - start, start] if latency is None else None
    first = first or [model.BOYS * reached - start, 0.0, start]

    def field(t, y, rate):
        new = rate * y[0] * y[-1] / model.BOYS
        if latency is None:
            return np.array([-new, new - recovery * y[-1]])
        return np.array([-new, new - y[1] / latency, y[1] / latency - recovery * y[-1]])

    def log_field(t, z, rate):
        return field(t, np.exp(z), rate) / np.exp(z)

    right, y = (log_field, np.log(first)) if log else (field, np.array(first))
    ill = np.empty(len(days))
    for begin, end, rate in (
        (0.0, jump, values["transmission"]),
        (jump, max(days[-1], jump + 1), values["transmission"] * (1 - share)),
    ):
        here = (days >= begin) & (days <= end)
        found = solve_ivp(right, (begin, end), y, args=(rate,), rtol=1e-10, atol=1e-10, dense_output=True)
        ill[here] = found.sol(days[here])[-1]
        y = found.y[:, -1]
    return (np.exp(ill) if log else ill) * values.get("put_to_bed", 1.0)


DAILY = np.arange(1.0, 15.0)


@pytest.mark.parametrize("share", [0.0, SHARE])
@pytest.mark.parametrize(
    ("name", "values"),
    [("sir", VALUES), ("open", OPEN), pytest.param("seir", LATENT, marks=pytest.mark.slow)],
)
def test_the_solution_is_that_of_another_solver(name, values, share):
    """With and without isolation, whose jump is on day 4 sharp: a little later would be seen."""
    found = BEDS[name](values, DAILY, model.isolation(share))
    np.testing.assert_allclose(found, by_scipy(values, DAILY, share) + model.STRAY, rtol=1e-5, atol=1e-5)
    if share:
        later = by_scipy(values, DAILY, share, jump=model.ISOLATION_DAY + 0.01)
        assert np.max(np.abs(later / found - 1)) > 2e-3


def test_the_scale_of_the_solve_does_not_matter():
    """On the log scale no population can turn negative; here one that dies out strays by less than is added."""
    corner = {"transmission": 0.02, "recovery": 1.5, "overdispersion": 0.1}
    for values in (VALUES, corner):
        found = np.asarray(BEDS["sir"](values, DAILY, model.isolation()))
        assert (found > 0).all()
        by_log = by_scipy(values, DAILY, 0.0, log=True)
        np.testing.assert_allclose(found, by_log + model.STRAY, rtol=1e-5, atol=1e-5)


def test_no_data_tell_reach_from_transmission():
    """Half as many boys who meet twice as often, twice as many of them put to bed: the same counts."""
    other = {**OPEN, "reached": 0.4, "transmission": 6.8, "put_to_bed": 1.2, "start": 1.25}
    found = BEDS["open"](OPEN, DAILY, model.isolation(SHARE))
    np.testing.assert_allclose(BEDS["open"](other, DAILY, model.isolation(SHARE)), found, rtol=1e-4)


class Drawn:
    """As much of a forecast as is asked: heights of an outbreak around day 10 in a school where 100 stay healthy."""

    def __init__(self, heights):
        self.origin = SimpleNamespace(chain=np.repeat(np.arange(len(heights)), heights.shape[1]))
        beds = heights.reshape(-1, 1) * np.exp(-np.abs(what_if.DAYS - 10.0))
        healthy = np.full_like(beds, model.BOYS)
        healthy[:, 1:] = 100.0
        days_ill = np.full(len(beds), 2.0)
        self.quantities = {
            "beds": beds,
            "days_ill": days_ill,
            "path": np.stack([healthy, np.zeros_like(beds)], axis=-1),
        }

    def of(self, function):
        given = (self.quantities[name] for name in inspect.signature(function).parameters)
        return SimpleNamespace(draws=np.asarray(jax.vmap(function)(*given)))

    def probability(self, function):
        return probability(self.of(function).draws[:, None], self.origin.chain)

    def __sub__(self, other):
        return SimpleNamespace(
            of=lambda function: SimpleNamespace(draws=self.of(function).draws - other.of(function).draws)
        )


def drawn(heights) -> Any:
    """The forecast of such an outbreak."""
    return Drawn(heights)


@pytest.fixture
def answered(generator):
    """What the questions answer where isolation takes three quarters away, and the heights."""
    heights = 200.0 * np.exp(0.5 * generator.standard_normal((4, 100)))
    return what_if.answers(drawn(0.25 * heights), drawn(heights)), heights


def test_the_questions_are_answered_draw_by_draw(answered):
    """Peak, day, total and event in closed form, with Monte Carlo errors of independent draws."""
    (peak, day, total, never), heights = answered
    assert peak.without.mean == pytest.approx(heights.mean())
    assert peak.isolated.mean == pytest.approx(0.25 * heights.mean())
    assert peak.difference.mean == pytest.approx(-0.75 * heights.mean())
    assert (peak.without.low, peak.without.high) == pytest.approx(np.quantile(heights, [0.05, 0.95]))
    assert peak.without.error == pytest.approx(heights.std() / 20, rel=0.25)
    assert (day.without.mean, day.without.error, day.difference.mean) == (10.0, 0.0, 0.0)
    assert total.without.mean == total.isolated.mean == model.BOYS - 100
    assert never.without.mean == pytest.approx((heights < 100).mean())
    assert never.isolated.mean == pytest.approx((0.25 * heights < 100).mean())
    assert 0 < never.isolated.error < 0.03
    assert never.difference is None


def test_models_are_held_against_the_rest_of_the_record(answered):
    """Boys in bed are days in bed over days each; 1559 days of 512 boys are three days each."""
    heights = answered[1]
    found = (what_if.put_to_bed(drawn(heights)), what_if.days_in_bed(drawn(heights)))
    assert found[0].mean == pytest.approx(
        heights.mean(), rel=0.02
    )  # two days' worth of height, two days each
    assert (found[1].mean, found[1].error) == (2.0, 0.0)
    told = tables.record_in_words({"sir": found}).splitlines()
    assert "ever in bed, boys: 512 on record" in told
    assert "in bed each, days: 3.045 on record" in told
    assert tables.record_plain({"sir": found})["sir"]["in bed each, days"]["mean"] == 2.0


def test_the_answers_stand_side_by_side(answered):
    """A table of all models, and the same as plain numbers."""
    found = {"sir": answered[0], "seir": answered[0]}
    told = tables.answers_in_words(found, 0.75, 4.0)
    assert "reduced by 75% from day 4 on" in told
    assert told.count("  seir ") == told.count("  sir ") == 4
    plain = json.loads(json.dumps(tables.answers_plain(found)))
    assert plain["sir"]["ever infected"]["isolated"]["mean"] == 663
    assert plain["seir"]["never 100 in bed"]["difference"] is None


def test_the_published_posterior_stands_beside_this_one():
    """How far apart means are in published standard deviations."""
    rows = {name: SimpleNamespace(mean=row["mean"], sd=row["sd"]) for name, row in PUBLISHED.items()}
    rows["R0"].mean += 0.14
    posterior: Any = SimpleNamespace(summary=lambda: rows)
    found = tables.published_rows(posterior)
    assert [row["apart"] for row in found] == pytest.approx([0, 0, 0.5, 0], abs=1e-9)
    told = tables.published_in_words(found).splitlines()
    assert told[-1].split()[:4] == ["days_ill", "recovery", "time", "1.860"]


@pytest.mark.parametrize("wrong", ["--share 1.5", "--day 20", "--model sis"])
def test_the_command_line_refuses_what_cannot_be(wrong, capsys):
    """Before anything is computed."""
    with pytest.raises(SystemExit):
        main(wrong.split())
    assert wrong.split()[0] in capsys.readouterr().err


EXPECTED = tables.expected()
PUBLISHED = EXPECTED["published"]["quantities"]
HERE = EXPECTED["here"]
FILES = {f"{name}.{kind}" for name in ("summary", "verdict", "fit") for kind in ("txt", "json")} | {
    f"{name}.png" for name in ("fit", "as_it_was", "isolated", "difference", "parameters")
}


def agree(found, expected, words):
    """Two runs with different keys: means within four Monte Carlo errors, ends of intervals within a tenth of it."""
    error = np.hypot(found["error"], expected["error"])
    assert abs(found["mean"] - expected["mean"]) <= 4 * error + 1e-3, words
    for end in ("low", "high"):
        if expected[end] is not None:
            width = expected["high"] - expected["low"]
            assert abs(found[end] - expected[end]) <= 0.1 * width + what_if.DAYS[1], (words, end)


@pytest.mark.slow
def test_the_whole_case(tmp_path, capsys):
    """All three models pass, the SIR agrees with the published posterior, and the answers with those of another key."""
    assert main(["--key", "5", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("14 values, of 763 boys")
    assert "Remark on the forecasts" not in told
    for name in model.MODELS:
        folder = tmp_path / name
        assert {path.name for path in folder.iterdir()} >= FILES
        assert "scientific parameters: pass" in (folder / "verdict.txt").read_text()
        counted = json.loads((folder / "fit.json").read_text())["inside"]["in_bed"]
        assert counted[0] >= 12
    for row in json.loads((tmp_path / "sir" / "published.json").read_text()):
        rounded, size = 0.005, 1500  # printed with two digits; draws that either run is worth, at least
        allowed = rounded + 4 * row["published_sd"] * np.sqrt(2 / size)
        assert abs(row["mean"] - row["published_mean"]) < allowed, row["quantity"]
        assert abs(row["sd"] - row["published_sd"]) < rounded + 0.15 * row["published_sd"], row["quantity"]
    for file in ("what_if", "record"):
        found = json.loads((tmp_path / f"{file}.json").read_text())
        for name in model.MODELS:
            for words, expected in HERE[file][name].items():
                pairs = [(found[name][words], expected)]
                if file == "what_if":
                    parts = [part for part in ("without", "isolated", "difference") if expected[part]]
                    pairs = [(found[name][words][part], expected[part]) for part in parts]
                for pair in pairs:
                    agree(*pair, (file, name, words))
    assert "put_to_bed" in (tmp_path / "open" / "identifiability.txt").read_text()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "had the sick been isolated on day 4" in page


@pytest.mark.slow
def test_a_run_of_one_model_says_that_it_is_too_short(tmp_path, capsys):
    """Tables, pictures and page of a run much too short to be believed, which its verdict says."""
    tiny = "--model seir --chains 2 --draws 40 --warmup 60 --share 1 --day 6".split()
    assert main([*tiny, "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "reduced by 100% from day 6 on" in told
    assert "scientific parameters: not assessable" in told or "scientific parameters: fail" in told
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"seir", "report.html", "record.txt", "record.json", "what_if.txt", "what_if.json"}
