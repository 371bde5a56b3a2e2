"""The lynx and the hare: agreement with the published posterior, and a command line that runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import bayeshybrid as bh
from bayeshybrid.diagnostics import effective_sample_size
from case_studies.predator_prey import model
from case_studies.predator_prey.__main__ import main

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


def test_the_command_line_fits_forecasts_and_writes(tmp_path, capsys):
    """Tables and pictures of a run much too short to be believed, which its verdict says."""
    settings = "--chains 2 --draws 40 --warmup 60 --key 3".split()
    assert main([*settings, "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert "not assessable" in told.out
    assert "of 12 held-out values lie inside the central 90%" in told.out
    assert "sampling" in told.err
    written = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {
        f"{name}.{kind}" for name in ("summary", "verdict", "fit", "forecast") for kind in ("txt", "json")
    }
    assert written == tables | {"fit.png", "forecast.png", "parameters.png"}
    rows = json.loads((tmp_path / "out" / "forecast.json").read_text())
    assert [row["year"] for row in rows] == [year for year in range(1915, 1921) for _ in range(2)]
    assert rows[0]["measured"] == 19.5
    assert all(row["interval"]["90%"][0] < row["median"] < row["interval"]["90%"][1] for row in rows)
    assert set(json.loads((tmp_path / "out" / "summary.json").read_text())) == set(EXPECTED["quantities"])


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
