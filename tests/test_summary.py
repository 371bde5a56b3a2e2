"""The table says what the draws say, in the model's words and units."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeshybrid as bh
from bayeshybrid import diagnostics
from tests.posteriors import from_draws


def growth(y=None):
    rates = bh.parameter("rates", dist.Normal(0.0, 1.0), unit="1/yr", shape=(2,), labels=("birth", "death"))
    size = bh.parameter("size", dist.LogNormal(0.0, 0.5), unit="kg")
    numpyro.deterministic("net", rates[0] - rates[1])
    numpyro.deterministic("grows", rates[0] > rates[1])
    return bh.observe("y", dist.Normal(rates[0], size), obs=y)


@pytest.fixture
def posterior(generator):
    return from_draws(growth, {"y": np.array(0.0)}, 0.5 * generator.normal(size=(4, 200, 3)) + 0.2)


def test_rows_are_named_by_site_and_label(posterior):
    table = posterior.summary()
    assert {row.name for row in table} == {"rates[birth]", "rates[death]", "size", "net", "grows"}
    assert len(table) == 5
    assert (table["rates[birth]"].unit, table["size"].unit, table["net"].unit) == ("1/yr", "kg", "")
    with pytest.raises(KeyError, match=r"no row 'rates'.*rates\[birth\]"):
        table["rates"]


def test_figures_are_those_of_the_draws(posterior):
    row, draws = posterior.summary(mass=0.8)["rates[death]"], posterior.samples["rates"][..., 1]
    assert (row.mean, row.sd) == (draws.mean(), draws.std())
    assert np.allclose((row.low, row.high), np.quantile(draws, [0.1, 0.9]))
    assert row.ess == diagnostics.effective_sample_size(draws)
    assert row.rhat == diagnostics.rhat(draws)
    assert row.error == diagnostics.mean_error(draws)
    assert row.contraction == posterior.contraction["rates"][1]
    assert abs(row.contraction - (1 - draws.var())) < 1e-12
    assert posterior.summary()["grows"].mean == posterior["grows"].mean()


def test_the_prior_stands_beside_the_posterior(posterior):
    table = posterior.summary(mass=0.9)
    assert np.allclose([table["size"].prior_low, table["size"].prior_high], np.exp([-0.82, 0.82]), rtol=0.1)
    assert np.allclose(table["rates[birth]"].prior_high, stats.norm.ppf(0.95), atol=0.12)
    assert np.isnan([table["net"].prior_low, table["net"].contraction]).all()


def test_the_table_reads_from_left_to_right(posterior):
    lines = str(posterior.summary(mass=0.8)).splitlines()
    assert lines[0].split() == "mean sd 10 % 90 % unit moved prior 80 % R-hat ESS".split()
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1
    (birth,) = [line for line in lines if line.startswith("rates[birth]")]
    assert "1/yr" in birth
    assert " to " in birth
    (net,) = [line for line in lines if line.startswith("net")]
    assert " to " not in net
    assert "nan" not in str(posterior.summary())


def test_the_rows_can_be_written_to_a_file(posterior):
    table = posterior.summary()
    told = table.to_dict()
    assert told["size"]["mean"] == table["size"].mean
    assert set(told["size"]) == set(vars(table["size"])) - {"name"}


@pytest.mark.parametrize("mass", [0.0, 1.0, 90])
def test_a_mass_that_is_no_share_is_refused(posterior, mass):
    with pytest.raises(bh.ModelError, match=rf"mass={mass}"):
        posterior.summary(mass=mass)


def improper(y=None):
    level = numpyro.sample("level", dist.ImproperUniform(dist.constraints.real, (), ()))
    apart = numpyro.sample("apart", dist.Normal(0.0, 2.0))
    return numpyro.sample("y", dist.Normal(level + apart, 1.0), obs=y)


def test_an_improper_prior_has_no_interval(generator):
    """What stands in for it when chains are started must not be shown as somebody's prior."""
    table = from_draws(improper, {"y": np.array(0.0)}, generator.normal(size=(4, 50, 2))).summary()
    assert np.isnan([table["level"].prior_low, table["level"].prior_high, table["level"].contraction]).all()
    assert abs(table["apart"].prior_high - 2.0 * stats.norm.ppf(0.95)) < 0.25
    assert not np.isnan(table["apart"].contraction)


def hybrid(x, y=None):
    rate = bh.network("rate", bh.MLP(1, 1, width=2), scale=1.0, center=0.0, spread=1.0)
    offset = bh.parameter("offset", dist.Normal())
    return bh.observe("y", dist.Normal(offset + rate(x[:, None])[:, 0], 0.1), obs=y)


def test_weights_are_listed_only_when_asked_for(generator):
    data = {"x": np.linspace(0.0, 1.0, 3), "y": np.zeros(3)}
    size = bh.Target(hybrid, data).layout.size
    posterior = from_draws(hybrid, data, generator.normal(size=(4, 25, size)))
    assert [row.name for row in posterior.summary()] == ["offset"]
    assert len(posterior.summary(weights=True)) == size


def unbounded(y=None):
    x = numpyro.sample("x", dist.Normal())
    numpyro.deterministic("inverse", 1.0 / (x - x))
    return numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


def test_a_derived_number_that_is_infinite_is_shown_without_figures(generator):
    row = from_draws(unbounded, {"y": np.array(0.0)}, generator.normal(size=(4, 25, 1))).summary()["inverse"]
    assert np.isinf(row.mean)
    assert np.isnan([row.rhat, row.ess, row.error]).all()


def test_the_error_of_a_mean_holds_that_of_the_masses():
    """Two basins at -1 and 1, a quarter and three quarters, shares known to 0.1: 0.1 sqrt(1.5^2 + 0.5^2)."""
    basin = np.resize([0, 1, 1, 1], (4, 100))
    draws = np.where(basin == 0, -1.0, 1.0) + 1e-6 * np.random.default_rng(0).standard_normal((4, 100))
    plain = from_draws(one_number, {}, draws[..., None])
    mixed = dataclasses.replace(
        plain,
        statistics={**plain.statistics, "basin": basin},
        record={"basins": {"mass": [0.25, 0.75], "mass_error": [0.1, 0.1]}},
    )
    before, after = (p.summary()["x"].error for p in (plain, mixed))
    assert np.isclose(after**2 - before**2, 0.1**2 * (1.5**2 + 0.5**2), rtol=1e-4)


def one_number():
    numpyro.sample("x", dist.Normal())
