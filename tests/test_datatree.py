"""The tree keeps names, labels and units, and ArviZ works on it."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.inference.judgement import quantities_of
from tests.posteriors import from_draws


def growth(times, group, y=None):
    rates = bh.parameter("rates", dist.Normal(0.0, 1.0), unit="1/yr", shape=(2,), labels=("birth", "death"))
    numpyro.deterministic("net", rates[0] - rates[1])
    mean = (rates[0] + rates[1] * times)[:, None] * np.array([[1.0, 2.0]])
    noise = dist.Normal(mean, 0.5)
    return bh.observe(
        "y", noise, obs=y, unit="mg", labels=("prey", "predators"), missing=True, left=group["low"]
    )


LOW = np.array([[False, True], [False, False], [False, False]])
DATA = {
    "times": np.array([0.0, 1.0, 2.0]),
    "group": {"low": LOW},
    "y": np.array([[0.1, 0.2], [np.nan, 0.4], [0.5, 0.6]]),
}


@pytest.fixture
def posterior(generator):
    return from_draws(growth, DATA, generator.normal(size=(4, 60, 2)))


def test_quantities_keep_their_names_labels_and_units(posterior):
    tree = posterior.to_datatree()
    rates = tree["posterior"]["rates"]
    assert rates.dims == ("chain", "draw", "rates_dim_0")
    assert rates.coords["rates_dim_0"].values.tolist() == ["birth", "death"]
    assert rates.attrs["units"] == "1/yr"
    assert np.array_equal(rates.sel(rates_dim_0="death").values, posterior.samples["rates"][..., 1])
    assert np.array_equal(tree["posterior"]["net"].values, posterior.samples["net"])
    assert set(tree["sample_stats"].data_vars) == set(posterior.statistics)
    assert {
        "lp",
        "diverging",
        "energy",
        "n_steps",
        "tree_depth",
        "acceptance_rate",
        "step_size",
        "failed",
    } <= set(tree["sample_stats"].data_vars)


def test_data_are_missing_where_nothing_was_measured(posterior):
    tree = posterior.to_datatree()
    observed = tree["observed_data"]["y"]
    assert np.array_equal(observed.values, DATA["y"], equal_nan=True)
    assert observed.coords["y_dim_1"].values.tolist() == ["prey", "predators"]
    assert observed.attrs["units"] == "mg"
    assert tree["constant_data"]["y_kinds"].values.tolist() == [[0, 2], [1, 0], [0, 0]]
    assert np.array_equal(tree["constant_data"]["times"].values, DATA["times"])
    assert np.array_equal(tree["constant_data"]["group.low"].values, LOW)


def test_predictions_keep_the_chains_of_the_fit(posterior):
    inputs = {"times": np.array([3.0]), "group": {"low": np.zeros((1, 2), bool)}}
    forecast = posterior.predict(inputs, key=1)
    tree = posterior.to_datatree(predictions=forecast, log_likelihood=True)
    assert tree["predictions"]["y"].shape == (4, 60, 1, 2)
    assert np.array_equal(tree["predictions"]["y"].values[2, 5], forecast.observed["y"].draws[125])
    assert tree["predictions_constant_data"]["times"].values.tolist() == [3.0]
    cells = tree["log_likelihood"]["y"]
    assert cells.coords["y_cell"].values.tolist() == ["[0, 0]", "[0, 1]", "[1, 1]", "[2, 0]", "[2, 1]"]
    assert np.array_equal(cells.values[..., 2], posterior.log_likelihood()["y"][..., 1, 1])
    fewer = posterior.to_datatree(predictions=posterior.predict(inputs, key=1, draws=30))
    assert fewer["predictions"]["y"].shape == (1, 30, 1, 2)


@pytest.mark.rank_promotion_allowed(
    "arviz_stats works with NumPy and xarray only; nothing of ours runs in it"
)
def test_arviz_summarises_the_tree(posterior):
    import arviz_stats

    table = arviz_stats.summary(posterior.to_datatree(), round_to="none")
    assert set(table.index) == {"rates[birth]", "rates[death]", "net"}
    assert np.isclose(float(table.loc["net", "mean"]), posterior["net"].mean())
    ess = arviz_stats.ess(posterior.to_datatree())
    assert 100 < float(ess["net"]) < 400


def test_arviz_compares_by_the_log_likelihood(posterior):
    import arviz_stats

    exact = from_draws(
        growth, {**DATA, "group": {"low": np.zeros((3, 2), bool)}}, 0.1 * posterior.unconstrained
    )
    loo = arviz_stats.loo(exact.to_datatree(log_likelihood=True))
    assert loo.n_data_points == 5
    assert np.isfinite(loo.elpd)


def test_arviz_plots_the_tree(posterior):
    import arviz_plots

    drawn = arviz_plots.plot_dist(posterior.to_datatree(), var_names=["net"], backend="matplotlib")
    assert "net" in str(drawn.viz)


def test_names_that_become_one_stay_apart(generator):
    def model(y=None):
        numpyro.sample("a/b", dist.Normal())
        numpyro.sample("a.b", dist.Normal())
        return numpyro.sample("y", dist.Normal(), obs=y)

    posterior = from_draws(model, {"y": np.array(0.0)}, generator.normal(size=(1, 5, 2)))
    tree = posterior.to_datatree()["posterior"]
    assert set(tree.data_vars) == {"a.b", "a.b_"}
    assert np.array_equal(tree["a.b"].values, posterior.samples["a.b"])
    assert tree["a.b_"].attrs["site"] == "a/b"
    assert np.array_equal(tree["a.b_"].values, posterior.samples["a/b"])


class Subjects(dict):
    labels = {"subject": ("ann", "bob")}  # noqa: RUF012


def two_subjects(dose, y=None):
    k = bh.parameter(
        "k", dist.LogNormal(0.0, 1.0), across="subject", size=len(dose), spread=dist.HalfNormal()
    )
    bh.observe("y", dist.Normal(k * dose, 1.0), obs=y, across="subject")


def test_named_units_are_a_dimension_of_their_own(generator):
    data = Subjects(dose=np.ones(2), y=np.zeros(2))
    posterior = from_draws(two_subjects, data, generator.normal(size=(2, 10, 4)))
    tree = posterior.to_datatree(predictions=posterior.predict(key=0))
    assert tree["posterior"]["k"].dims == ("chain", "draw", "subject")
    assert tree["posterior"]["k_offset"].coords["subject"].values.tolist() == ["ann", "bob"]
    assert np.array_equal(
        tree["predictions"]["y"].sel(subject="bob").values,
        posterior.predict(key=0).observed["y"].draws[:, 1].reshape(2, 10),
    )
    named = {"k[subject ann]", "k_offset[subject bob]"}
    assert named <= {row.name for row in posterior.summary()}
    assert "k_offset[subject bob]" in quantities_of(posterior.target, posterior.unconstrained)[0]
