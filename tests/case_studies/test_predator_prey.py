"""The lynx and the hare: agreement with the published posterior, and a command line that runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.diagnostics import effective_sample_size
from case_studies.predator_prey import comparison, model, shares
from case_studies.predator_prey.__main__ import main

PAGES = ("report_equation.html", "report.html")
EXPECTED = json.loads(Path(model.__file__).with_name("expected.json").read_text(encoding="utf-8"))


def draws_of(posterior: bh.Posterior, name: str) -> np.ndarray:
    """Draws of one expected quantity, `(chain, draw)`."""
    site, _, label = name.partition("[")
    values = posterior.samples[site]
    return values[..., model.SPECIES.index(label[:-1])] if label else values


@pytest.mark.slow
def test_the_equation_agrees_with_the_published_posterior():
    """The full rule at an effective size of 10,000: means within 0.05 sd, sds within 5 %, quantiles within 0.1 sd.

    At 10,000 effective draws on either side the standard error of a difference is 0.014 sd for a mean, about 1 %
    for an sd and 0.03 sd for an outer quantile, so that a run of another key fails by chance about once in a
    hundred; a mean that is wrong by 0.1 sd is missed less than once in a thousand.
    """
    assert EXPECTED["until"] == 1920
    method = bh.NUTS(draws=6000)
    posterior = bh.infer(model.equation, model.read_pelts(1920), method, key=1)
    assert posterior.verdict.state in ("pass", "pass with remarks"), str(posterior.verdict)
    for name, expected in EXPECTED["quantities"].items():
        draws = draws_of(posterior, name)
        assert effective_sample_size(draws) >= 10_000, name
        assert abs(draws.mean() - expected["mean"]) < 0.05 * expected["sd"], name
        assert abs(draws.std() / expected["sd"] - 1) < 0.05, name
        for level, quantile in expected.get("quantiles", {}).items():
            assert abs(np.quantile(draws, float(level)) - quantile) < 0.1 * expected["sd"], (name, level)


def test_the_record_is_complete():
    """21 years without a gap, and the sums of both columns."""
    record = model.read_pelts()
    assert record["times"].tolist() == list(range(1900, 1921))
    assert record["pelts"].sum(axis=0) == pytest.approx([715.7, 423.5])
    assert len(model.read_pelts(1914)["times"]) == 15


FILES = {
    f"{name}.{kind}" for name in ("summary", "verdict", "fit", "forecast") for kind in ("txt", "json")
} | {f"{name}.png" for name in ("fit", "forecast", "parameters")}
TINY = "--chains 2 --draws 40 --warmup 60 --members 4 --steps 20 --key 3".split()


def test_the_command_line_fits_forecasts_and_writes(tmp_path, capsys, monkeypatch):
    """Tables and pictures of a run much too short to be believed, which its verdict says, and what its page is told."""
    told_page = {}

    def page(posterior, forecast, *, path, **rest):
        told_page.update(rest, horizon=forecast.inputs["times"][[0, -1]].tolist())
        path.write_text("page")
        return path

    monkeypatch.setattr(bh, "report", page)
    assert main([*TINY, "--model", "equation", "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "not assessable" in told.out
    assert "of 12 held-out values lie inside the central 90%" in told.out
    assert "sampling" in told.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"equation", "report.html"}
    out = tmp_path / "out" / "equation"
    assert {path.name for path in out.iterdir()} == FILES
    rows = json.loads((out / "forecast.json").read_text())
    assert [row["year"] for row in rows] == [year for year in range(1915, 1921) for _ in range(2)]
    assert rows[0]["measured"] == 19.5
    assert all(row["interval"]["90%"][0] < row["median"] < row["interval"]["90%"][1] for row in rows)
    assert set(json.loads((out / "summary.json").read_text())) == set(EXPECTED["quantities"])
    assert told_page["title"] == "Lynx and hare, 1900 to 1914: the equation of Lotka and Volterra"
    assert told_page["horizon"] == [1914.0, 1925.0]
    assert told_page["data"]["times"].tolist() == list(range(1915, 1921))
    assert told_page["data"]["pelts"][0].tolist() == [19.5, 51.1]


@pytest.mark.slow
def test_without_options_equation_and_hybrid_are_fitted(tmp_path, capsys):
    """Both verdicts are printed, and each has its folder and its page; members of 20 steps are still on their way."""
    assert main([*TINY, "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.count("scientific parameters: not assessable") == 1
    assert told.count("scientific parameters: fail") == 1
    assert told.count("movement in the second half of the training") == 1
    assert "not draws of a posterior" in told
    assert {path.name for path in (tmp_path / "hybrid").iterdir()} == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"equation", "hybrid", *PAGES}
    for own, other in (PAGES, PAGES[::-1]):
        page = (tmp_path / own).read_text(encoding="utf-8")
        assert f"see {other}" in page
        assert "1925" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid", "network"])
def test_the_models_with_a_network_are_sampled_and_judged(name):
    """A few draws: every state finite and positive, and a verdict that claims nothing."""
    method = bh.NUTS(chains=2, draws=10, warmup=20, max_doublings=6)
    posterior = bh.infer(model.MODELS[name], model.read_pelts(1914), method, key=0)
    assert np.isfinite(posterior["path"]).all()
    assert (posterior["path"] > 0).all()
    assert posterior.verdict.state in ("fail", "not assessable")
    assert "network functions" in posterior.verdict.claims
    ahead = posterior.predict({"times": np.arange(1915.0, 1921.0)}, key=1)
    assert np.isfinite(ahead.observed["pelts"].draws).all()


QUICK = (
    comparison.Contestant(
        comparison.BASELINE, "NUTS", model.any_year, bh.NUTS(chains=4, draws=100, warmup=100)
    ),
    comparison.Contestant(
        comparison.BASELINE, "ensemble", model.any_year, bh.DeepEnsemble(members=8, steps=300)
    ),
)


@pytest.fixture(scope="module")
def rows():
    """The quick contestants from two origins."""
    with jax.enable_x64(True):
        return list(comparison.compare(QUICK, key=0, origins=(1911, 1914)))


@pytest.mark.slow
def test_the_comparison_pools_three_to_six_years_ahead(rows):
    """Two origins, four years and two species make 16 values; one and two years ahead make 8."""
    assert [row.contestant for row in rows] == list(QUICK)
    for row in rows:
        assert (row.pooled.compared, row.nearer.compared) == (16, 8)
        assert (row.pooled.missing, row.nearer.missing) == (8, 16)
        assert set(row.pooled.counts) == {0.5, 0.8, 0.9}
        assert len(row.verdicts) == len(row.seconds) == 2


@pytest.mark.slow
def test_the_scores_are_those_of_the_years_held_back(rows):
    """A model without dynamics has a forecast in closed form but for its unknowns: the pelts of any year.

    Its CRPS is here taken anew from draws of a log-normal at the fit's own moments. With 15 years the unknowns
    widen that a little, which moves the score by a few per cent.
    """
    generator = np.random.default_rng(0)
    scores = []
    for origin in (1911, 1914):
        record = model.read_pelts(origin + 6)
        seen, later = (
            record["pelts"][choose] for choose in (record["times"] <= origin, record["times"] > origin + 2)
        )
        drawn = np.exp(
            np.log(seen).mean(axis=0) + np.log(seen).std(axis=0) * generator.normal(size=(2000, 2))
        )
        for value in later:
            spread = np.abs(drawn - drawn[generator.permutation(len(drawn))]).mean(axis=0)
            scores.append(np.abs(drawn - value).mean(axis=0) - 0.5 * spread)
    assert rows[0].crps == pytest.approx(np.mean(scores), rel=0.1)


@pytest.mark.slow
def test_the_table_shows_every_verdict_as_it_is(rows):
    """An ensemble cannot pass, and the table says so in its row and below."""
    table = comparison.in_words(rows)
    assert "(3, 4, 5 and 6), pooled: 16 values" in table
    exact, ensemble = (line for line in table.splitlines() if line.startswith(comparison.BASELINE + "  "))
    assert exact.split()[4] == "0%"
    assert exact.endswith(" / ".join(dict.fromkeys(verdict.state for verdict in rows[0].verdicts)))
    assert ensemble.endswith("not assessable")
    assert table.count("not draws of a posterior") == 2
    assert f"by NUTS, up to 1914: {rows[0].verdicts[1].state}" in table


@pytest.mark.slow
def test_the_table_without_the_baseline_claims_no_skill(rows):
    """A table is made after every row, whichever comes first."""
    other = replace(rows[1], contestant=replace(QUICK[1], name="other"))
    (line,) = (line for line in comparison.in_words([other]).splitlines() if line.startswith("other  "))
    assert "%" not in line


@pytest.mark.slow
def test_the_comparison_is_written_by_the_command_line(tmp_path, capsys, monkeypatch, rows):
    """Text and JSON, anew after each row."""
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: iter(rows))
    assert main(["--compare", "--output", str(tmp_path)]) == 0
    assert comparison.in_words(rows) in capsys.readouterr().out
    assert (tmp_path / "comparison.txt").read_text() == comparison.in_words(rows) + "\n"
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["method"] for row in written] == ["NUTS", "ensemble"]
    pooled = written[0]["three_to_six_years_ahead"]
    assert pooled["figures"]["CRPS"]["value"] == rows[0].crps
    assert set(pooled["inside"]) == {"50%", "80%", "90%"}
    assert written[1]["verdicts"][0]["state"] == "not assessable"


def test_every_model_is_compared_under_the_methods_that_apply():
    """The equation by three methods, what holds a network by an ensemble, the hybrid also by NUTS, and a baseline."""
    methods = {"nuts": bh.NUTS(), "svi": bh.SVI(), "ensemble": bh.DeepEnsemble()}
    several = comparison.contestants(methods)
    assert sorted((one.name, type(one.method).__name__) for one in several) == [
        ("any year", "NUTS"),
        ("equation", "DeepEnsemble"),
        ("equation", "NUTS"),
        ("equation", "SVI"),
        ("hybrid", "DeepEnsemble"),
        ("hybrid", "NUTS"),
        ("network", "DeepEnsemble"),
    ]
    assert several[0].name == comparison.BASELINE


def test_what_is_judged_comes_after_what_is_fitted():
    for until in shares.SHARES.values():
        far = shares.later(until, (4, 5, 6))
        assert far["times"].tolist() == [until + 4, until + 5, until + 6]
        assert far["pelts"].shape == (3, 2)


def test_the_equation_at_the_published_rates_has_no_residual():
    """An ensemble of the equation that starts where the rates are known to a thousandth."""

    def known(times, pelts=None):
        rates = bh.parameters("rates", **{
            name: bh.Parameter(bh.prior_interval(0.999 * value, 1.001 * value))
            for name, value in shares.PUBLISHED.items()
        })  # fmt: skip
        start = jnp.array([34.0, 5.9])
        path = bh.solve_ode("path", model.lotka_volterra, start, times, t0=model.FIRST_YEAR, args=rates)
        bh.observe("pelts", dist.LogNormal(jnp.log(path.ys), 0.25), obs=pelts)

    posterior = bh.infer(known, model.read_pelts(1914), bh.DeepEnsemble(members=4, steps=2), key=0, starts=2)
    assert shares.residual(posterior, np.array([1915.0, 1918.0]), 0) < 0.01
    assert set(shares.rates(posterior)) == set(shares.PUBLISHED)


@pytest.mark.slow
def test_the_whole_comparison(tmp_path, capsys):
    """All rows with their own settings: scores are finite, and the equation beats a model without dynamics."""
    assert main(["--compare", "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "comparison.json").read_text())
    assert len(rows) == 7
    crps = {
        (row["model"], row["method"]): row["three_to_six_years_ahead"]["figures"]["CRPS"]["value"]
        for row in rows
    }
    assert np.isfinite(list(crps.values())).all()
    assert crps["equation", "NUTS"] < crps["any year", "NUTS"]
    states = {(row["model"], row["method"]): [v["state"] for v in row["verdicts"]] for row in rows}
    assert set(states["hybrid", "ensemble"]) <= {
        "not assessable",
        "fail",
    }  # no ensemble passes; some still move
    assert "pass" not in states["hybrid", "NUTS, short"]
