"""Models side by side: scores by hand, paired errors, and what cannot be told apart."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeshybrid as bh

X = np.linspace(0.0, 1.0, 30)
LATER = np.linspace(1.0, 2.0, 12)


def known(slope, spread):
    """A line through the origin whose slope is known up to a thousandth: its forecasts are normal."""

    def model(x, y=None):
        a = numpyro.sample("a", dist.Normal(slope, 1e-3))
        bh.observe("y", dist.Normal(a * x, spread), obs=y, unit="mg")

    return model


def measured(x):
    return {"x": x, "y": 2.0 * x + 0.3 * np.random.default_rng(len(x)).standard_normal(len(x))}


@pytest.fixture(scope="module")
def fits():
    method = bh.NUTS(draws=500, warmup=200)
    models = {"right": known(2.0, 0.3), "steep": known(3.0, 0.3), "wide": known(2.0, 1.5)}
    return {name: bh.infer(model, measured(X), method, key=0) for name, model in models.items()}


def test_scores_are_those_of_the_normal_forecasts(fits):
    data = measured(LATER)
    found = bh.compare(fits, data, key=1)["y"]
    assert (found.compared, found.in_sample, found.unit) == (12, False, "mg")
    for name, (slope, spread) in {"right": (2.0, 0.3), "steep": (3.0, 0.3), "wide": (2.0, 1.5)}.items():
        z = (data["y"] - slope * LATER) / spread
        crps = spread * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
        figures = found.figures[name]
        assert figures["log score"] == pytest.approx(np.mean(stats.norm.logpdf(z) - np.log(spread)), abs=0.02)
        assert figures["CRPS"] == pytest.approx(crps.mean(), rel=0.03)
        assert figures["MAE"] == pytest.approx(np.abs(z * spread).mean(), rel=0.03)
        assert figures["RMSE"] == pytest.approx(np.sqrt(np.mean((z * spread) ** 2)), rel=0.03)
        assert figures["coverage 90 %"] == pytest.approx(np.mean(np.abs(z) < 1.645))


def test_differences_are_paired_and_those_that_chance_gives_are_not_told_apart(fits):
    data = measured(LATER)
    found = bh.compare(fits, data, key=1)["y"]
    logs = {
        name: stats.norm.logpdf(data["y"], slope * LATER, spread)
        for name, (slope, spread) in {"right": (2.0, 0.3), "steep": (3.0, 0.3)}.items()
    }
    gap = logs["right"] - logs["steep"]
    worse = found.differences["steep"]["log score"]
    assert worse.value == pytest.approx(gap.mean(), rel=0.02)
    assert worse.error == pytest.approx(gap.std(ddof=1) / np.sqrt(12), rel=0.05)
    assert worse.blocks == 12
    assert worse.told_apart
    assert found.differences["right"]["log score"].value == 0.0
    twins = bh.compare({"one": fits["right"], "other": fits["right"]}, data, key=1)["y"]
    assert not any(d.told_apart for each in twins.differences.values() for d in each.values())


def test_what_was_fitted_is_scored_as_if_left_out(fits):
    told = bh.compare(fits, key=1)
    assert told["y"].in_sample
    assert "as if it had been left out" in told.words[0]
    assert told["y"].figures["right"]["log score"] > told["y"].figures["wide"]["log score"]
    assert "RMSE" in str(told)


def test_cells_of_a_block_count_as_one(fits):
    """Twelve cells in three blocks: the error is that of the blocks' sums."""
    data = measured(LATER)
    labels = np.repeat(["a", "b", "c"], 4)
    alone = bh.compare(fits, data, key=1)["y"].differences["steep"]["CRPS"]
    told = bh.compare(fits, data, key=1, blocks={"y": labels})
    joined = told["y"].differences["steep"]["CRPS"]
    assert joined.value == alone.value
    assert joined.blocks == 3
    assert joined.error > alone.error  # the steep line is ever further off
    assert any("rest on 3 independent values" in word for word in told.words)


def test_the_evidence_of_each_model_is_told_or_why_it_is_not(fits):
    data = measured(X)
    found = bh.compare(fits, key=1)
    for name, (slope, spread) in {"right": (2.0, 0.3), "steep": (3.0, 0.3), "wide": (2.0, 1.5)}.items():
        covariance = spread**2 * np.eye(len(X)) + 1e-6 * np.outer(X, X)
        expected = stats.multivariate_normal.logpdf(data["y"], slope * X, covariance)
        assert found.evidence[name].value == pytest.approx(expected, abs=0.05)
    assert f"right: log evidence {found.evidence['right'].value:.2f} +/-" in str(found)
    members = bh.infer(known(2.0, 0.3), data, bh.DeepEnsemble(members=32, steps=20), key=0)
    told = str(bh.compare({"right": fits["right"], "members": members}, key=1))
    assert "members: log evidence not assessed: not draws of a posterior" in told
    assert bh.compare(fits, key=1, evidence=False).evidence == {}


def test_costs_stand_beside_the_scores(fits):
    told = bh.compare(fits, measured(LATER), key=1)
    assert all(fit > ahead > 0 for fit, ahead in told.seconds.values())
    assert told.megabytes["right"] == fits["right"].unconstrained.nbytes / 1e6


def test_few_draws_cannot_be_weighed_as_if_a_value_were_left_out(fits):
    few = bh.infer(known(2.0, 0.3), measured(X), bh.DeepEnsemble(members=8, steps=20), key=0)
    with pytest.raises(
        bh.DataError, match="'few' has 8 draws, and to leave out one value after another takes 25"
    ):
        bh.compare({"right": fits["right"], "few": few}, key=1)
    assert bh.compare({"right": fits["right"], "few": few}, measured(LATER), key=1)["y"].compared == 12


def test_what_cannot_stand_side_by_side_is_refused(fits):
    def other(x, z=None):
        bh.observe("z", dist.Normal(numpyro.sample("a", dist.Normal()) * x, 1.0), obs=z)

    odd = bh.infer(other, {"x": X, "z": X}, bh.NUTS(draws=20, warmup=20), key=0)
    with pytest.raises(bh.ModelError, match="at least two posteriors"):
        bh.compare({"right": fits["right"]}, key=1)
    with pytest.raises(bh.ModelError, match="nothing of that name"):
        bh.compare({"right": fits["right"], "odd": odd}, key=1)
    with pytest.raises(bh.ModelError, match="give what bh"):
        bh.compare({"right": fits["right"], "odd": "posterior"}, key=1)
    with pytest.raises(bh.DataError, match=r"blocks\['y'\] has shape \(3,\)"):
        bh.compare(fits, key=1, blocks={"y": np.zeros(3)})
