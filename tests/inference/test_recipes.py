"""Recipes: the same answer where the easy way works, and an answer where it does not."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.faults import ModelError
from bayeshybrid.inference.recipes import (
    LBFGS,
    Adam,
    BestOf,
    Collocation,
    DifferentialEvolution,
    GrowingInterval,
    MultipleShooting,
    SmallPerturbation,
)
from bayeshybrid.inference.relaxing import loosened, shortened
from bayeshybrid.inference.stages import Stage
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.progress import Silent
from bayeshybrid.science.relaxed import Curve, Segments

DAYS = np.linspace(0.5, 6.0, 12)


def logistic(t, y, args):
    return args[0] * y * (1 - y / args[1])


def growing(times, mass=None, **settings):
    """Logistic growth: one basin, which any way finds."""
    rate = bh.parameter("rate", bh.prior_interval(0.3, 3.0), unit="1/d")
    limit = bh.parameter("limit", bh.prior_interval(2.0, 8.0), unit="mg")
    path = bh.solve_ode("path", logistic, jnp.array([0.5]), times, t0=0.0, args=(rate, limit), **settings)
    bh.observe("mass", dist.LogNormal(jnp.log(path.ys[:, 0]), 0.1), obs=mass, unit="mg")


GROWN = 4.0 / (1 + 7.0 * np.exp(-1.2 * DAYS)) * np.exp(0.1 * np.resize([0.5, -1.0, 0.7, -0.2], 12))
GROWTH = {"times": DAYS, "mass": GROWN}

EASY = {
    "Adam": [Adam(200), LBFGS(40)],
    "adapted": [Adam(200, rates={"rate": 0.2}, adapt=True), LBFGS(40)],
    "L-BFGS": [LBFGS(100)],
    "best of": [BestOf(3, steps=10), LBFGS(60)],
    "evolution": [DifferentialEvolution(20), LBFGS(60)],
    "interval": [GrowingInterval((0.4,), Adam(60)), LBFGS(60)],
    "segments": [MultipleShooting((1.0, 10.0), Adam(60), segments=3), LBFGS(60)],
    "curve": [Collocation((1.0, 10.0), Adam(60), knots=13), LBFGS(60)],
}


@pytest.fixture(scope="module")
def easy():
    return bh.train(growing, GROWTH, EASY["Adam"], key=0, starts=6)


@pytest.mark.parametrize("name", [name for name in EASY if name != "Adam"])
def test_every_recipe_gives_the_same_answer_where_the_easy_way_works(name, easy):
    found = bh.train(growing, GROWTH, EASY[name], key=1, starts=6)
    assert len(found.search.basins) == 1
    np.testing.assert_allclose(found.log_density[0], easy.log_density[0], atol=1e-6)
    for unknown in ("rate", "limit"):
        np.testing.assert_allclose(found[unknown][0], easy[unknown][0], rtol=1e-3)
    assert np.all(found.tally.gradients > 0)


def waving(times, y=None):
    """The frequency of a long series: a likelihood with a maximum at every few turns."""
    rate = bh.parameter("rate", bh.bounded(0.5, 6.0), unit="1/d")
    start = bh.parameter("start", dist.Normal(0.0, 1.0), shape=(2,))
    path = bh.solve_ode("path", lambda t, y, k: k * jnp.stack([y[1], -y[0]]), start, times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys[:, 0], 0.2), obs=y)


LONG = np.linspace(0.25, 12.0, 48)
WAVES = {"times": LONG, "y": np.cos(3.0 * LONG) + 0.2 * np.resize([0.4, -0.9, 0.1, 0.6], 48)}


def share_found(recipe, starts=32):
    found = bh.train(waving, WAVES, recipe, key=3, starts=starts)
    return np.mean(np.abs(found["rate"] - 3.0) < 0.05)


@pytest.mark.parametrize(
    "recipe",
    [
        [GrowingInterval((0.1, 0.2, 0.4), Adam(100, 0.1)), LBFGS(60)],
        [MultipleShooting((0.3, 3.0), Adam(150, 0.1), segments=8), LBFGS(60)],
        [Collocation((0.3, 3.0), Adam(150, 0.1), knots=49), LBFGS(60)],
    ],
    ids=lambda recipe: type(recipe[0]).__name__,
)
def test_a_long_oscillation_is_found_by_those_made_for_it(recipe):
    """From most starts the easy way ends at a frequency beside the true one."""
    plain = share_found([Adam(300, 0.1), LBFGS(60)])
    assert plain < 0.6
    assert share_found(recipe) > plain + 0.25


def test_gradients_guards_and_cuts_are_counted():
    def cliff(y=None):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(jnp.log(x), 0.01), obs=y)  # nothing where x is below zero

    found = bh.train(cliff, {"y": np.array(-3.0)}, [Adam(40, 1.0, clip=1.0), LBFGS(10)], key=0, starts=8)
    assert found.tally.gradients.tolist() == [50] * 8
    assert found.tally.clipped.sum() > 100
    assert found.tally.failed.sum() > 0
    assert "evaluations failed" in str(found)


def test_a_group_of_rate_zero_stays():
    recipe = [Adam(50, rates={"limit": 0.0})]
    held = bh.train(growing, GROWTH, recipe, key=0, starts=4)
    start = bh.train(growing, GROWTH, [Adam(1, 1e-12)], key=0, starts=4)
    assert set(np.round(held["limit"], 9)) == set(np.round(start["limit"], 9))
    assert not set(np.round(held["rate"], 6)) & set(np.round(start["rate"], 6))


def test_networks_begin_small():
    def model(times, y=None):
        missing = bh.network("missing", bh.MLP(1, 1, width=4), scale=1.0, center=0.0, spread=1.0)
        numpyro.sample("y", dist.Normal(missing(times[:, None])[:, 0], 0.5), obs=y)

    data = {"times": DAYS, "y": np.sin(DAYS)}
    small = bh.train(model, data, [SmallPerturbation(0.01)], key=0, starts=16)
    usual = bh.train(model, data, [SmallPerturbation(1.0)], key=0, starts=16)
    sizes = [np.sqrt(np.mean(each.unconstrained**2)) for each in (small, usual)]
    np.testing.assert_allclose(sizes[0], 0.01 * sizes[1])


def test_a_recipe_is_the_start_of_any_method():
    posterior = bh.infer(
        growing, GROWTH, bh.NUTS(draws=500, warmup=250), key=0, recipe=EASY["curve"], starts=8
    )
    assert posterior.verdict["scientific parameters"] == "pass"
    assert abs(posterior["rate"].mean() - 1.2) < 0.15
    assert any("a recipe ended (Collocation, LBFGS)" in remark for remark in posterior.remarks)


# What is relaxed


def target():
    return bh.Target(growing, GROWTH)


def points(count=8):
    return np.random.default_rng(0).normal(size=(count, 2))


def test_what_depends_on_later_times_does_not_count():
    early = shortened(target(), points(), 0.5)
    assert early.cells["mass"].tolist() == [float(day <= 3.0) for day in DAYS]
    first = bh.Target(growing, {"times": DAYS[:6], "mass": GROWN[:6]})
    np.testing.assert_allclose(slopes(early, points())[0], slopes(first, points())[0], rtol=1e-6)
    whole = shortened(target(), points(), 1.0)
    np.testing.assert_allclose(slopes(whole, points())[0], slopes(target(), points())[0], rtol=1e-9)


def test_an_interval_without_data_is_an_error():
    assert shortened(target(), points(), 0.05) is None
    with pytest.raises(ModelError, match=r"no observation depends on the first 0\.05 of the time"):
        bh.train(growing, GROWTH, GrowingInterval((0.05,)), key=0, starts=2)
    found = bh.train(growing, GROWTH, GrowingInterval((0.2,), Adam(5)), key=0, starts=2)
    assert found.tally.gradients.tolist() == [6, 6]


def test_what_is_missing_is_no_early_observation():
    def model(times, y=None):
        rate = bh.parameter("rate", bh.prior_interval(0.3, 3.0))
        path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate)
        bh.observe("y", dist.Normal(path.ys, 0.1), obs=y, missing=True)

    y = np.where(DAYS < 3.0, np.nan, np.exp(-DAYS))
    gaps = bh.Target(model, {"times": DAYS, "y": y})
    assert shortened(gaps, points()[:, :1], 0.4) is None
    assert shortened(gaps, points()[:, :1], 0.6).cells["y"].sum() == 2


def test_later_observations_that_are_impossible_do_not_count():
    def model(times, y=None):
        rate = bh.parameter("rate", bh.prior_interval(0.3, 3.0))
        path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate)
        numpyro.sample("y", dist.Uniform(path.ys - 0.3, path.ys + 0.3), obs=y)

    whole = bh.Target(model, {"times": DAYS, "y": np.exp(-DAYS)})
    at = np.zeros((4, 1))
    assert np.isfinite(slopes(whole, at)[0]).all()
    assert np.isfinite(slopes(shortened(whole, at, 0.1), at)[0]).all()


def test_a_default_interval_passes_over_shares_without_data():
    data = {"times": DAYS[3:], "mass": GROWN[3:]}
    found = bh.train(growing, data, GrowingInterval(inner=Adam(10)), key=0, starts=2)
    assert found.tally.gradients.tolist() == [11, 11]  # a half of the time alone has data


def test_a_unit_that_is_only_read_at_its_start_is_curved_too():
    def model(times, y=None):
        rate = bh.parameter("rate", bh.prior_interval(0.3, 3.0))
        start = jnp.ones((2, 1))
        path = bh.solve_ode(
            "path", lambda t, y, k: -k * y, start, times, t0=0.0, args=rate, in_axes=(0, 0, None)
        )
        bh.observe("y", dist.Normal(path.ys[..., 0], 0.1), obs=y)

    data = {"times": np.array([[1.0, 2.0], [0.0, 0.0]]), "y": np.array([[0.4, 0.1], [1.0, 1.0]])}
    loose = loosened(bh.Target(model, data), np.zeros((2, 1)), 5, Curve, 1.0)
    assert np.isfinite(slopes(loose, np.zeros((2, loose.layout.size)))[0]).all()


def zero(times, y=None):
    missing = bh.network("missing", bh.MLP(1, 1, width=4), scale=1.0, center=0.0, spread=1.0, initial="zero")
    numpyro.sample("y", dist.Normal(missing(times[:, None])[:, 0], 0.5), obs=y)


def test_networks_at_zero_stay_there_among_candidates_and_leave_it_in_evolution():
    data = {"times": DAYS, "y": np.sin(DAYS)}
    held = bh.train(zero, data, [BestOf(4, steps=1, rate=1e-9)], key=0, starts=8)
    assert np.abs(held["missing/layers[1].weight"]).max() < 1e-6
    moved = bh.train(zero, data, [DifferentialEvolution(30)], key=0, starts=8)
    assert moved.log_density[0] > held.log_density[0] + 1.0


def test_failures_are_counted_by_every_stage():
    def edge(y=None):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(jnp.sqrt(1.0 - x), 0.01), obs=y)

    found = bh.train(edge, {"y": np.array(0.05)}, LBFGS(30), key=0, starts=6)
    assert found.tally.failed.sum() > 0
    assert found.tally.gradients.max() <= 30


@pytest.mark.parametrize(("kind", "places"), [(Segments, 2), (Curve, 9)])
def test_a_relaxed_density_has_the_gradient_of_differences(kind, places):
    exact = bh.Target(partial(growing, rtol=1e-10, atol=1e-10), GROWTH)
    loose = loosened(exact, points(), places, kind, 2.0)
    size = loose.layout.size
    assert size == 2 + places
    at = 0.2 * np.random.default_rng(2).normal(size=(1, size))
    _, slope = slopes(loose, at)
    step = 1e-4 * np.eye(size)
    values = [slopes(loose, at + sign * step)[0] for sign in (1, -1)]
    np.testing.assert_allclose(slope[0], (values[0] - values[1]) / 2e-4, rtol=1e-4, atol=1e-4)


def racing(times, y=None):
    """Most prior draws grow far beyond the data."""
    rate = numpyro.sample("rate", dist.Normal(5.0, 10.0))
    path = bh.solve_ode("path", lambda t, y, k: k * y, jnp.array([2.0]), times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys[:, 0], 0.2), obs=y)


RACE = {"times": np.linspace(0.0, 3.0, 7), "y": 2.0 * np.exp(-0.5 * np.linspace(0.0, 3.0, 7))}


def test_sizes_of_states_are_those_near_the_data_where_most_solves_explode():
    rates = np.linspace(-2.0, 20.0, 40)[:, None]
    loose = loosened(bh.Target(racing, RACE), rates, 2, Segments)
    assert 1.0 < loose.free["path"].scale[0] < 10.0  # most of these solutions end above a million


class Away(Stage):
    """Where every solution explodes."""

    def improve(self, work, points):
        return np.full_like(points, 20.0)


@pytest.mark.parametrize(
    "easier", [MultipleShooting(inner=Adam(60), segments=3), Collocation(inner=Adam(60))]
)
def test_states_are_freed_where_every_start_explodes(easier):
    found = bh.train(racing, RACE, [Away(), easier, LBFGS(40)], key=0, starts=8)
    np.testing.assert_allclose(found["rate"], -0.5, atol=0.05)
    assert not found.tally.unmoved.any()


def knots_of(model, **data):
    return Collocation()._places(bh.Target(model, data), points())


@pytest.mark.parametrize(
    ("times", "knots"),
    [
        (np.linspace(1.2, 6.0, 5), 41),
        (np.linspace(0.15, 6.0, 40), 81),
        (np.array([6.0, 0.1, 6.0, 3.0]), 121),
        (np.linspace(0.1, 6.0, 500), 201),
    ],
)
def test_a_curve_has_two_knots_in_the_shortest_gap(times, knots):
    assert abs(knots_of(growing, times=times, mass=np.ones(len(times))) - knots) <= 1


def test_the_shortest_gap_is_that_of_any_unit():
    def model(times, y=None):
        rate, start = (bh.parameter(name, bh.prior_interval(0.3, 3.0)) for name in ("rate", "start"))
        path = bh.solve_ode(
            "path",
            lambda t, y, k: -k * y,
            start * jnp.ones((2, 1)),
            times,
            t0=0.0,
            args=rate,
            in_axes=(0, 0, None),
        )
        bh.observe("y", dist.Normal(path.ys[..., 0], 0.1), obs=y)

    padded = np.array([[1.0, 3.0, 3.0], [0.1, 2.0, 5.0]])
    assert abs(knots_of(model, times=padded, y=np.ones((2, 3))) - 101) <= 1


def oral(times, conc=None):
    """A state that starts at zero and is above it at all times measured, most of them early."""
    absorbed, cleared = (
        bh.parameter("absorbed", bh.prior_interval(0.3, 5.0)),
        bh.parameter("cleared", bh.prior_interval(0.03, 0.6)),
    )
    amounts = bh.solve_ode(
        "amounts",
        lambda t, y, k: jnp.stack([-k[0] * y[0], k[0] * y[0] - k[1] * y[1]]),
        jnp.array([10.0, 0.0]),
        times,
        t0=0.0,
        args=(absorbed, cleared),
    )
    bh.observe("conc", dist.Normal(amounts.ys[:, 1], 0.05), obs=conc)


def test_a_curve_begins_at_a_state_of_zero():
    hours = np.array([0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 24.0])
    conc = 10 * 1.3 / (1.3 - 0.15) * (np.exp(-0.15 * hours) - np.exp(-1.3 * hours))
    found = bh.train(oral, {"times": hours, "conc": conc}, Collocation(inner=Adam(200)), key=0, starts=8)
    np.testing.assert_allclose(found["absorbed"][0], 1.3, rtol=0.05)
    np.testing.assert_allclose(found["cleared"][0], 0.15, rtol=0.05)


def test_a_stage_that_leads_nowhere_is_counted():
    found = bh.train(growing, GROWTH, [Adam(3, rate=0.0), Adam(3)], key=0, starts=2)
    assert found.tally.unmoved.tolist() == [1, 1]
    assert "2 stages that ended where they began" in str(found.tally)


def test_units_are_relaxed_each_on_its_own():
    def model(times, y=None):
        rate = bh.parameter("rate", bh.prior_interval(0.3, 3.0))
        path = bh.solve_ode(
            "path",
            lambda t, y, k: -k * y,
            jnp.array([[1.0], [2.0]]),
            times,
            t0=0.0,
            args=rate,
            in_axes=(0, None, None),
        )
        bh.observe("y", dist.Normal(path.ys[..., 0], 0.1), obs=y)

    data = {
        "times": np.array([1.0, 2.0, 3.0]),
        "y": np.exp(-np.array([1.0, 2.0, 3.0])) * np.array([[1.0], [2.0]]),
    }
    found = bh.train(
        model, data, [MultipleShooting((1.0, 10.0), Adam(60), segments=2), LBFGS(40)], key=0, starts=4
    )
    np.testing.assert_allclose(found["rate"][0], 1.0, atol=0.02)
    loose = loosened(found.target, found.unconstrained, 1, Segments, 1.0)
    assert loose.layout.size == 1 + 2


# Errors


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Adam(0), "Adam\\(steps=0\\): write a whole number from 1"),
        (lambda: Adam(rate=-1.0), "the rate of 'rate' is -1.0"),
        (lambda: Adam(clip=0.0), "clip=0.0\\): write a number above 0"),
        (lambda: GrowingInterval((0.5, 0.2)), "write rising shares"),
        (lambda: GrowingInterval(()), "write rising shares"),
        (lambda: MultipleShooting((3.0, 1.0)), "write rising numbers"),
        (lambda: MultipleShooting(segments=1), "segments=1\\): write a whole number from 2"),
        (lambda: Collocation(knots=2), "knots=2"),
        (lambda: BestOf(1), "candidates=1"),
        (lambda: GrowingInterval(0.5), "write rising shares"),
        (lambda: MultipleShooting((1.0, np.inf)), "write rising numbers"),
        (lambda: MultipleShooting(inner=BestOf(2)), "inner=BestOf.*write Adam"),
        (lambda: GrowingInterval(inner=GrowingInterval()), "write Adam"),
        (lambda: Adam(True), "steps=True"),
        (lambda: bh.infer(growing, GROWTH, key=0, recipe=Adam), "write Adam\\(\\), with its settings"),
        (lambda: bh.train(growing, GROWTH, SmallPerturbation(), key=0, starts=2), "no network whose weights"),
        (lambda: bh.train(growing, GROWTH, Adam, key=0), "write Adam\\(\\), with its settings"),
        (lambda: bh.train(growing, GROWTH, [], key=0), "it has no stages"),
        (lambda: bh.train(growing, GROWTH, ["Adam"], key=0), "'Adam' is not a stage"),
        (lambda: bh.train(growing, GROWTH, Adam(), key=0, starts=0), "starts=0"),
        (
            lambda: bh.train(growing, GROWTH, Adam(rates={"rates": 0.1}), key=0, starts=2),
            "no group 'rates'; its groups are",
        ),
        (lambda: bh.train(growing, GROWTH, DifferentialEvolution(3), key=0, starts=2), "2 starts are too few"),
    ],
)  # fmt: skip
def test_bad_recipes_are_errors(make, words):
    with pytest.raises(ModelError, match=words):
        make()


class NoAdam(Silent):
    """Fails where a stage of Adam begins."""

    def start(self, title, total):
        assert title != "Adam"


@pytest.mark.parametrize("last", [MultipleShooting(), Collocation()])
def test_doses_are_refused_before_anything_is_climbed(last):
    def model(times, y=None):
        given = bh.doses(times=np.array([1.0]), amounts=np.array([2.0]), into=0)
        rate = bh.parameter("rate", dist.LogNormal(0.0, 0.5))
        path = bh.solve_ode(
            "path", lambda t, y, k: -k * y, jnp.array([1.0]), times, t0=0.0, args=rate, inputs=[given]
        )
        bh.observe("y", dist.Normal(path.ys[:, 0], 0.2), obs=y)

    with pytest.raises(ModelError, match=r"a solve with doses jumps.*GrowingInterval"):
        bh.train(
            model, {"times": DAYS, "y": np.exp(-DAYS)}, [Adam(5), last], key=0, starts=2, progress=NoAdam()
        )


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (Adam(rates={"rates": 0.1}), "no group 'rates'"),
        (GrowingInterval(inner=Adam(rates={"rates": 0.1})), "no group 'rates'"),
        (MultipleShooting(inner=Adam(rates={"rates": 0.1})), "no group 'rates'"),
        (SmallPerturbation(), "no network whose weights"),
        (DifferentialEvolution(3), "2 starts are too few"),
    ],
)
def test_no_stage_begins_before_all_are_checked(last, words):
    with pytest.raises(ModelError, match=words):
        bh.train(growing, GROWTH, [Adam(5), last], key=0, starts=2, progress=NoAdam())


def test_a_model_without_solves_cannot_be_relaxed():
    def model(y=None):
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)

    with pytest.raises(ModelError, match="solves no equation: there is nothing to relax"):
        bh.train(model, {"y": np.array(1.0)}, MultipleShooting(segments=2), key=0, starts=2)
