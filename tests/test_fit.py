"""Residuals, counts and p-values are what they say, cell by cell, and leave out what was not measured."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.fit import check_fit
from tests.posteriors import from_draws

NOISE = np.array([[0.5, 2.0]])


def two_columns(times, y=None, missing=None, left=None):
    """A known mean, so that replicated data are normal with known moments."""
    numpyro.sample("shift", dist.Normal(0.0, 1.0))
    mean = times[:, None] * jnp.array([[1.0, 10.0]])
    noise = dist.Normal(mean, NOISE)
    return bh.observe("y", noise, obs=y, missing=missing, left=left, labels=("prey", "predators"), unit="mg")


TIMES = np.arange(20.0)
MEAN = TIMES[:, None] * np.array([[1.0, 10.0]])


def check(model, data, generator, chains=4, draws=500, size=1):
    return from_draws(model, data, generator.normal(size=(chains, draws, size))).check(key=0, draws=None)


def test_residuals_are_standardised_cell_by_cell(generator):
    wanted = generator.normal(size=MEAN.shape)
    found = check(two_columns, {"times": TIMES, "y": MEAN + NOISE * wanted}, generator)
    assert np.all(np.abs(found.residuals["y"] - wanted) < 0.1 + 0.08 * np.abs(wanted))
    assert found.replicated["y"].draws.shape == (2000, 20, 2)


def test_inside_counts_the_cells_in_the_central_interval(generator):
    """Of the values one standard deviation off all are inside the central 90 %, of those two off none."""
    signs = np.where(generator.random(MEAN.shape) < 0.5, -1.0, 1.0)
    sizes = np.where(np.arange(20)[:, None] < 7, 2.0, 1.0)
    found = check(two_columns, {"times": TIMES, "y": MEAN + NOISE * sizes * signs}, generator)
    assert found.inside["y"] == (26, 40)
    assert "26 of 40 values inside" in str(found)


def test_cells_that_were_not_measured_exactly_are_left_out(generator):
    wild = MEAN.copy()
    missing, left = np.zeros(MEAN.shape, bool), np.zeros(MEAN.shape, bool)
    missing[3, 0], left[5, 1] = True, True
    wild[3, 0], wild[5, 1] = np.nan, 1e6
    data = {"times": TIMES, "y": wild, "missing": missing, "left": left}
    found = check(two_columns, data, generator)
    assert np.argwhere(np.isnan(found.observed["y"])).tolist() == [[3, 0], [5, 1]]
    assert np.argwhere(np.isnan(found.residuals["y"])).tolist() == [[3, 0], [5, 1]]
    assert found.inside["y"] == (38, 38)
    assert 0.3 < found.probabilities["y"]["largest of predators"] <= 1.0
    assert found.censored["y"] == 1
    assert "1 censored values are left out" in str(found)


def test_statistics_are_told_label_by_label(generator):
    """Prey vary four times as much as the model says, which the spread of the predators' column would hide."""
    off = generator.normal(size=MEAN.shape) * np.array([[4.0, 1.0]])
    found = check(two_columns, {"times": np.zeros(20), "y": NOISE * off}, generator)
    told = found.probabilities["y"]
    assert told["sd of prey"] < 0.001
    assert 0.025 < told["sd of predators"] < 0.975
    assert "sd of prey" in str(found)
    assert "sd of predators" not in str(found)


def ordinary(y=None):
    numpyro.sample("shift", dist.Normal(0.0, 1.0))
    return bh.observe("y", dist.Normal(jnp.zeros(50), 1.0), obs=y)


def test_probabilities_are_uniform_over_data_of_the_model(generator):
    told = []
    forecast = from_draws(ordinary, {"y": np.zeros(50)}, generator.normal(size=(4, 250, 1))).predict(key=1)
    for _ in range(12):
        target = bh.Target(ordinary, {"y": generator.normal(size=50)})
        told.append(check_fit(target, np.zeros((1, 1)), forecast).probabilities["y"])
    means = np.array([row["mean"] for row in told])
    assert means.min() < 0.35
    assert means.max() > 0.65
    assert set(told[0]) == {"mean", "sd", "smallest", "largest"}


@pytest.mark.parametrize(
    ("harm", "statistic", "low"),
    [
        (lambda y: y + 1.0, "mean", True),
        (lambda y: 3.0 * y, "sd", True),
        (lambda y: 0.3 * y, "sd", False),
        (lambda y: np.append(y[1:], 9.0), "largest", True),
        (lambda y: np.append(y[1:], -9.0), "smallest", False),
    ],
)
def test_what_the_model_does_not_reproduce_is_named(generator, harm, statistic, low):
    found = check(ordinary, {"y": harm(generator.normal(size=50))}, generator)
    p = found.probabilities["y"][statistic]
    assert (p < 0.025) if low else (p > 0.975)
    assert statistic in str(found).split("not reproduced: ")[1]


def counts(y=None):
    numpyro.sample("shift", dist.Normal(0.0, 1.0))
    return bh.observe("y", dist.Poisson(jnp.full(30, 0.4)), obs=y)


def test_ties_among_counts_are_no_misfit(generator):
    """The smallest of thirty small counts is 0 in the data and in every replicate: nothing is wrong with that."""
    found = check(counts, {"y": generator.poisson(0.4, size=30)}, generator)
    assert found.probabilities["y"]["smallest"] == 0.5
    assert "smallest" not in str(found)


def test_a_single_value_has_no_spread_to_misfit(generator):
    def one(y=None):
        numpyro.sample("shift", dist.Normal())
        return numpyro.sample("y", dist.Normal(), obs=y)

    found = check(one, {"y": np.array(0.5)}, generator)
    assert found.probabilities["y"]["sd"] == 0.5
    assert str(found) == "y: 1 of 1 values inside the central 90 % of replicated data (in sample)"


SHARES = np.array([0.05, 0.15, 0.5, 0.3])


def classes(y=None, missing=None):
    numpyro.sample("shift", dist.Normal(0.0, 1.0))
    return bh.observe("y", dist.Categorical(jnp.broadcast_to(SHARES, (40, 4))), obs=y, missing=missing)


def test_classes_are_compared_by_their_shares(generator):
    y = np.repeat([0, 1, 2, 3], [2, 6, 20, 12])
    found = check(classes, {"y": y}, generator)
    expected = np.sqrt((1 - SHARES[y]) / SHARES[y])
    assert np.allclose(found.residuals["y"], expected, rtol=0.3)
    assert found.inside["y"] == (38, 40)
    told = found.probabilities["y"]
    assert set(told) == {f"share of class {i}" for i in range(4)}
    assert all(0.2 < p < 0.8 for p in told.values())
    skewed = check(classes, {"y": np.repeat([0, 1, 2, 3], [20, 0, 20, 0])}, generator).probabilities["y"]
    assert skewed["share of class 0"] < 0.001
    assert skewed["share of class 3"] > 0.999


def test_missing_classes_are_left_out(generator):
    y, missing = np.full(40, 2), np.arange(40) < 10
    found = check(classes, {"y": y, "missing": missing}, generator)
    assert np.isnan(found.residuals["y"]).sum() == 10
    assert found.inside["y"] == (30, 30)


def bare(y=None):
    """Without data this site draws one value, with data it is as many as they are."""
    numpyro.sample("shift", dist.Normal(0.0, 1.0))
    return bh.observe("y", dist.Normal(0.0, 1.0), obs=y)


def test_a_model_that_draws_one_value_for_many_data_gets_no_probabilities(generator):
    found = check(bare, {"y": np.array([0.5, -1.0, 4.0])}, generator)
    assert np.all(np.abs(found.residuals["y"] - [0.5, -1.0, 4.0]) < 0.3)
    assert found.inside["y"] == (2, 3)
    assert found.probabilities["y"] == {}


def test_nothing_measured_is_no_error(generator):
    data = {"times": TIMES, "y": np.full(MEAN.shape, np.nan), "missing": np.ones(MEAN.shape, bool)}
    found = check(two_columns, data, generator)
    assert found.inside["y"] == (0, 0)
    assert found.probabilities["y"] == {}


SUBJECTS = 6


def subjects(times, y=None, left=None):
    """Subjects whose levels differ with sd 2 about 10; measured with noise 0.5."""
    level = bh.parameter(
        "level",
        dist.Normal(10.0, 0.1),
        across="subject",
        size=len(times),
        spread=dist.LogNormal(np.log(2.0), 0.01),
    )
    path = numpyro.deterministic("path", level[:, None] - 0.1 * times)
    noise = dist.Normal(path, 0.5)
    return bh.observe("y", noise, obs=y, left=left, missing=True, across="subject", unit="mg/L")


HOURS = np.tile(np.arange(7.0), (SUBJECTS, 1))
LEVELS = np.array([8.0, 9.0, 11.5, 10.5, 12.0, 9.5])


def of_subjects(y, generator, new=(), left=None, levels=LEVELS):
    """The check of a posterior in which every subject's level is known but for 0.1."""
    q = np.zeros((4, 250, 2 + SUBJECTS))
    q[..., 0], q[..., 1] = 10.0, np.log(2.0)
    q[..., 2:] = (levels - 10.0) / 2 + 0.05 * generator.normal(size=(4, 250, SUBJECTS))
    data = {"times": HOURS, "y": y, "left": np.zeros(y.shape, bool) if left is None else left}
    return from_draws(subjects, data, q).check(key=1, new=new)


def measured(generator):
    return LEVELS[:, None] - 0.1 * HOURS + 0.5 * generator.normal(size=HOURS.shape)


def test_units_keep_what_was_inferred_or_are_drawn_anew(generator):
    y = measured(generator)
    kept, anew = of_subjects(y, generator), of_subjects(y, generator, new=("subject",))
    assert np.allclose(kept.replicated["y"].sd, np.hypot(0.5, 0.1), rtol=0.1)
    assert np.allclose(anew.replicated["y"].sd, np.hypot(0.5, 2.0), rtol=0.12)
    assert np.allclose(anew.replicated["y"].mean, 10.0 - 0.1 * HOURS, atol=0.3)
    # the first score of a subject tells where its level lies among subjects, whatever its later values repeat
    first = (y[:, 0] - 10.0) / np.hypot(0.5, 2.0)
    assert np.allclose(anew.scores["y"][:, 0], first, atol=0.2)
    assert kept.new == ()
    assert str(anew).endswith("replicated data are of subject drawn anew")
    assert not any(row.unusual for found in (kept, anew) for row in found.by_unit["y"])


def test_the_subject_that_stands_out_is_named(generator):
    y = measured(generator)
    y[4] += 1.0
    found = of_subjects(y, generator)
    assert [row.unit for row in found.by_unit["y"] if row.unusual] == ["subject 4"]
    assert [row.count for row in found.by_unit["y"]] == [7] * SUBJECTS
    assert sum(row.inside for row in found.by_unit["y"]) == found.inside["y"][0]
    assert "  subject 4: its scores are" in str(found)
    assert str(found).count("in sample") == 1


def test_censored_and_missing_cells_of_subjects_have_no_score(generator):
    y, left = measured(generator), np.zeros(HOURS.shape, bool)
    left[0, 5:], y[1, 3:] = True, np.nan
    y[0, 5:] = 8.0
    found = of_subjects(y, generator, new=("subject",), left=left)
    assert np.argwhere(np.isnan(found.scores["y"])).tolist() == np.argwhere(left | np.isnan(y)).tolist()
    assert [row.count for row in found.by_unit["y"]] == [5, 3, 7, 7, 7, 7]
    checked = found.by_time("times")
    assert checked.counts.tolist() == [6, 6, 6, 5, 5, 5, 5]
    assert checked.below.tolist() == [0, 0, 0, 0, 0, 0.2, 0.2]
    assert np.all(checked.below_simulated[5:, 1] > 0)
    assert checked.unit == "mg/L"


def test_sites_of_classes_and_of_one_draw_have_no_scores(generator):
    found = check(classes, {"y": np.repeat([0, 1, 2, 3], 10)}, generator)
    assert np.isnan(found.scores["y"]).all()
    assert found.by_unit == {"y": ()}
    with pytest.raises(bh.ModelError, match="have no quantiles"):
        found.by_time("y", "y")
    single = check(bare, {"y": np.array([0.5, -1.0, 4.0])}, generator)
    assert np.isnan(single.scores["y"]).all()


def test_counts_have_scores(generator):
    found = check(counts, {"y": generator.poisson(0.4, size=30)}, generator)
    assert found.errors["y"].decorrelated
    assert abs(found.scores["y"].mean()) < 0.6
    assert "normal scores of 30 values" in str(found)
