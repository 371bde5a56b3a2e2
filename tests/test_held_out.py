"""Measured values under each draw of a forecast: closed forms, what is left out, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from forecasts import made
from numpyro.contrib.control_flow import scan
from problems import LINEAR_NOISE, LINEAR_X, LINEAR_Y, linear, linear_answer
from scipy import stats

import bayeshybrid as bh
from bayeshybrid.faults import DataError
from bayeshybrid.held_out import PLAYS, ROWS, evaluate

NEW_X = np.array([[1.0, t] for t in np.linspace(-1.0, 2.0, 5)])
NEW_Y = np.array([0.1, np.nan, 0.5, -1.0, 2.0])


def of_linear(x, draws=400):
    """The forecast of linear regression at new inputs, from exact posterior draws."""
    generator = np.random.default_rng(0)
    mean, covariance, _ = linear_answer()
    w = generator.multivariate_normal(mean, covariance, size=draws)
    y = w @ x.T + LINEAR_NOISE * generator.normal(size=(draws, len(x)))
    return made(linear, {"x": x}, {"w": w}, {"y": y}, target=FITTED)


FITTED = bh.Target(linear, {"x": LINEAR_X, "y": LINEAR_Y})


@pytest.fixture(scope="module")
def forecast() -> bh.Forecast:
    return of_linear(NEW_X)


def test_each_draw_gives_its_own_density(forecast):
    found = evaluate(forecast, {"y": NEW_Y})["y"]
    noise = stats.norm(forecast.latent["w"].draws @ NEW_X.T, LINEAR_NOISE)
    known = ~np.isnan(NEW_Y)
    assert np.allclose(found.rows.log_probability[:, known], noise.logpdf(NEW_Y)[:, known])
    assert np.allclose(found.rows.below[:, known], noise.cdf(NEW_Y)[:, known])
    assert found.reading.kinds.tolist() == [0, 1, 0, 0, 0]
    assert np.array_equal(found.reading.values, NEW_Y, equal_nan=True)
    assert not found.reading.seen.any()


def test_a_player_meets_every_draw_but_its_own(forecast):
    found = evaluate(forecast, {"y": NEW_Y})["y"]
    assert len(found.players) == PLAYS
    middle = forecast.latent["w"].draws @ NEW_X.T
    for place in (0, 7, 199):
        player = found.players[place]
        value = forecast.observed["y"].draws[player]
        noise = stats.norm(np.delete(middle, player, axis=0), LINEAR_NOISE)
        assert np.allclose(found.plays.below[place], noise.cdf(value).mean(axis=0))
        assert np.allclose(found.plays.log_probability[place], np.log(noise.pdf(value).mean(axis=0)))


@pytest.mark.parametrize("members", [1, 5])
def test_few_draws_are_sampled_more_often(members):
    forecast = of_linear(NEW_X, members)
    found = evaluate(forecast, {"y": NEW_Y})["y"]
    assert len(found.draws) >= 400
    assert len(found.players) == PLAYS
    middle = forecast.latent["w"].draws @ NEW_X.T
    own = found.draws.reshape(members, -1, 5) - middle[:, None]
    assert abs(own.std() - LINEAR_NOISE) < 4 * LINEAR_NOISE / np.sqrt(2 * own.size)
    player = found.players[-1]
    others = middle if members == 1 else middle[:-1]
    expected = stats.norm(others, LINEAR_NOISE).cdf(found.draws[player]).mean(axis=0)
    assert np.allclose(found.plays.below[-1], expected)


def effects(x, y=None):
    middle = numpyro.sample("middle", dist.Normal(0.0, 1.0))
    with numpyro.plate("unit", len(x)):
        effect = numpyro.sample("effect", dist.Normal(middle, 2.0))
        numpyro.sample("y", dist.Normal(effect + x, 0.5), obs=y)


def test_what_is_drawn_anew_counts_by_replicate(generator):
    middle = np.repeat(generator.normal(size=600), 5)
    effect = middle[:, None] + 2.0 * generator.normal(size=(3000, 3))
    draws = {"y": effect + 0.5 * generator.normal(size=(3000, 3))}
    latent = {"middle": middle, "effect": effect}
    forecast = made(effects, {"x": np.zeros(3)}, latent, draws, data={"y": np.zeros(3)})
    forecast = replace(forecast, carried=("middle",), drawn_anew=("effect",), replicates=5)
    found = evaluate(forecast, {"y": np.ones(3)})["y"]
    assert len(found.owner) == ROWS  # of 3000, whole draws
    assert found.block == 5
    assert np.all(np.bincount(found.owner)[np.unique(found.owner)] == 5)
    rows = np.flatnonzero(np.isin(np.arange(3000) // 5, found.owner))
    noise = stats.norm(forecast.latent["effect"].draws[rows], 0.5)
    assert np.allclose(found.rows.below, noise.cdf(1.0))
    place = 3
    apart = found.owner != found.owner[found.players[place]]
    value = found.draws[found.players[place]]
    expected = stats.norm(forecast.latent["effect"].draws[rows][apart], 0.5).cdf(value).mean(axis=0)
    assert np.allclose(found.plays.below[place], expected)


# Distributions


FAMILIES = {
    "t": (lambda w: dist.StudentT(3.0, w, 1.0), lambda w: stats.t(3.0, w, 1.0)),
    "lognormal": (lambda w: dist.LogNormal(w, 0.5), lambda w: stats.lognorm(0.5, scale=np.exp(w))),
    "poisson": (lambda w: dist.Poisson(jnp.exp(w)), lambda w: stats.poisson(np.exp(w))),
    "binomial": (lambda w: dist.Binomial(9, logits=w), lambda w: stats.binom(9, 1 / (1 + np.exp(-w)))),
}


def families(t=None, lognormal=None, poisson=None, binomial=None):
    given = (t, lognormal, poisson, binomial)
    w = numpyro.sample("w", dist.Normal(0.5, 0.5))
    with numpyro.plate("cells", 2):
        for (name, (ours, _)), obs in zip(FAMILIES.items(), given, strict=True):
            numpyro.sample(name, ours(w), obs=obs)


@pytest.fixture(scope="module")
def of_families():
    generator = np.random.default_rng(1)
    w = generator.normal(0.5, 0.5, 200)
    exact = {name: theirs(w[:, None]) for name, (_, theirs) in FAMILIES.items()}
    drawn = {name: one.rvs((200, 2), random_state=generator) for name, one in exact.items()}
    values = np.array([1.0, 3.0])
    forecast = made(families, {}, {"w": w}, drawn, data=dict.fromkeys(FAMILIES, np.array([1, 2])))
    return evaluate(forecast, dict.fromkeys(FAMILIES, values)), exact, values


@pytest.mark.parametrize("family", FAMILIES)
def test_families(of_families, family):
    found, exact, values = of_families[0][family], of_families[1][family], of_families[2]
    counts = found.reading.nature == "counts"
    assert counts == hasattr(exact.dist, "pmf")
    assert np.allclose(found.rows.below, exact.cdf(values))
    assert np.allclose(found.rows.strictly, exact.cdf(values - 1) if counts else exact.cdf(values))
    density = exact.logpmf if counts else exact.logpdf
    assert np.allclose(found.rows.log_probability, density(values))


def circular(y=None):
    middle = numpyro.sample("middle", dist.Normal(0.0, 0.3))
    numpyro.sample("y", dist.VonMises(middle * jnp.ones(30), 2.0), obs=y)


def test_ranks_stand_in_for_an_unknown_distribution_function():
    middle = np.random.default_rng(2).normal(0.0, 0.3, 400)
    draws = np.random.default_rng(3).vonmises(middle[:, None], 2.0, (400, 30))
    forecast = made(circular, {}, {"middle": middle}, {"y": draws}, data={"y": np.zeros(30)})
    found = evaluate(forecast, {"y": np.full(30, 0.4)})["y"]
    shares = np.mean(forecast.observed["y"].draws <= 0.4, axis=0)
    assert np.allclose(found.rows.below.mean(axis=0), (400 * shares + 1) / 401)
    assert np.allclose(found.plays.below - found.plays.strictly, 1 / 400)  # of one more among 399
    assert abs(found.plays.below.mean() - 0.5) < 0.05


def joint(y=None):
    middle = numpyro.sample("middle", dist.Normal(0.0, 1.0))
    covariance = jnp.array([[1.0, 0.5], [0.5, 1.0]])
    numpyro.sample(
        "y", dist.MultivariateNormal(middle * jnp.ones((3, 2)), jnp.stack([covariance] * 3)), obs=y
    )


def test_noise_that_joins_cells_is_scored_by_event():
    middle = np.random.default_rng(4).normal(size=200)
    draws = middle[:, None, None] + np.random.default_rng(5).normal(size=(200, 3, 2))
    forecast = made(joint, {}, {"middle": middle}, {"y": draws}, data={"y": np.zeros((3, 2))})
    values = np.array([[0.1, 0.2], [1.0, -1.0], [0.0, np.nan]])
    found = evaluate(forecast, {"y": values})["y"]
    assert found.rows.log_probability.shape == (200, 3)
    covariance = [[1.0, 0.5], [0.5, 1.0]]
    expected = stats.multivariate_normal([middle[5]] * 2, covariance).logpdf(values[:2])
    assert np.allclose(found.rows.log_probability[5, :2], expected)
    assert found.plays.below.shape == (PLAYS, 3, 2)


def sloped(model, x, site, shape, data):
    """A forecast of a model whose one unknown is a slope; what is sampled at the site does not matter."""
    generator = np.random.default_rng(6)
    draws = {site: generator.normal(size=(200, *shape))}
    return made(model, {"x": x}, {"slope": generator.normal(size=200)}, draws, data=data)


def events(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    bh.observe("y", dist.Normal(jnp.outer(slope * x, jnp.ones(2)), 1.0).to_event(2), obs=y, missing=True)


def test_independent_events_are_taken_apart():
    x = np.arange(3.0)
    forecast = sloped(events, x, "y", (3, 2), {"y": np.zeros((3, 2))})
    values = np.array([[0.0, 1.0], [np.nan, 1.0], [2.0, 3.0]])
    found = evaluate(forecast, {"y": values})["y"]
    noise = stats.norm(forecast.latent["slope"].draws[:, None, None] * x[:, None], 1.0)
    known = np.isfinite(values)
    assert np.allclose(found.rows.log_probability[:, known], noise.logpdf(values)[:, known])
    assert np.array_equal(found.reading.kinds == 1, ~known)


def remembering(times, y=None):
    pull = numpyro.sample("pull", dist.Uniform(0.5, 0.9))

    def step(last, seen):
        value = numpyro.sample("y", dist.Normal(pull * last, 0.3), obs=seen)
        return value, value

    scan(step, 1.0, y, length=len(times))


def test_an_observation_with_memory_is_scored_step_by_step():
    generator = np.random.default_rng(7)
    latent, draws = {"pull": generator.uniform(0.5, 0.9, 200)}, {"y": generator.normal(size=(200, 4))}
    forecast = made(remembering, {"times": np.arange(4.0)}, latent, draws, data={"y": np.zeros(4)})
    values = np.array([0.9, 0.2, 0.5, 0.1])
    found = evaluate(forecast, {"y": values})["y"]
    before = np.array([1.0, 0.9, 0.2, 0.5])
    noise = stats.norm(forecast.latent["pull"].draws[:, None] * before, 0.3)
    assert np.allclose(found.rows.log_probability, noise.logpdf(values))
    assert np.allclose(found.rows.below, noise.cdf(values))


# Cells that were not measured exactly


def limited(x, y=None, left=None, upper=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    bh.observe("level", dist.Normal(slope * x, 1.0), obs=y, left=left, upper=upper, missing=True)


def test_censored_cells_have_the_probability_of_their_interval():
    x = np.arange(4.0)
    forecast = sloped(limited, x, "level", (4,), {"y": np.zeros(4)})
    data = {
        "y": np.array([0.5, 0.0, 1.0, np.nan]),
        "left": np.array([False, True, False, False]),
        "upper": np.array([np.nan, np.nan, 2.0, np.nan]),
    }
    found = evaluate(forecast, data)["level"]
    assert found.reading.kinds.tolist() == [0, 2, 4, 1]
    noise = [stats.norm(forecast.latent["slope"].draws * one, 1.0) for one in x]
    assert np.allclose(found.rows.log_probability[:, 0], noise[0].logpdf(0.5))
    assert np.allclose(found.rows.log_probability[:, 1], noise[1].logcdf(0.0))
    assert np.allclose(found.rows.log_probability[:, 2], np.log(noise[2].cdf(2.0) - noise[2].cdf(1.0)))


def masked(x, y=None, known=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.handlers.mask(mask=jnp.ones(3, bool) if known is None else known):
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def test_masked_cells_are_not_compared():
    forecast = sloped(masked, np.ones(3), "y", (3,), {"y": np.ones(3)})
    found = evaluate(forecast, {"y": np.zeros(3), "known": np.array([True, False, True])})["y"]
    assert found.reading.kinds.tolist() == [0, 1, 0]


def table(x, level=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    bh.observe("y", dist.Normal(slope * x["at"], 1.0), obs=level)


def test_a_mapping_with_marks_by_argument_and_by_site_and_against_plain_values():
    inputs = {"at": np.arange(4.0)}
    plain = {"values": np.zeros(4), "missing": np.zeros(4, bool)}
    forecast = sloped(table, inputs, "y", (4,), {"level": plain})
    marked = {
        "values": np.array([0.5, 0.0, 1.0, np.nan]),
        "missing": np.array([False, False, False, True]),
        "left": np.array([False, True, False, False]),
        "upper": np.array([np.nan, np.nan, 2.0, np.nan]),
    }
    by_argument, by_site = (evaluate(forecast, {name: marked})["y"] for name in ("level", "y"))
    assert by_argument.reading.kinds.tolist() == by_site.reading.kinds.tolist() == [0, 2, 4, 1]
    assert np.array_equal(by_argument.rows.log_probability[:, :3], by_site.rows.log_probability[:, :3])
    noise = stats.norm(forecast.latent["slope"].draws, 1.0)
    assert np.allclose(by_site.rows.log_probability[:, 1], stats.norm(0.0, 1.0).logcdf(-noise.mean()))
    for name in ("level", "y"):  # plain values with NaN mean what the mapping without limits means
        bare = evaluate(forecast, {name: np.array([0.5, np.nan, 1.0, np.nan])})["y"].reading
        assert bare.kinds.tolist() == [0, 1, 0, 1]
    assert evaluate(forecast, {"level": plain})["y"].reading.seen.all()
    for name in ("level", "y"):
        with pytest.raises(DataError, match=r"the mapping of data holds 'below'"):
            evaluate(forecast, {name: {**plain, "below": plain["missing"]}})
        with pytest.raises(DataError, match=r"missing has shape"):
            evaluate(forecast, {name: {**plain, "missing": np.zeros(3, bool)}})


def lasting(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    bh.observe("y", bh.noise.autocorrelated(slope * x, 0.5, x, 2.0), obs=y, missing=True)


def test_noise_with_memory_is_scored_on_what_was_measured_of_a_series():
    x = np.array([0.0, 1.0, 3.0])
    forecast = sloped(lasting, x, "y", (3,), {"y": np.zeros(3)})
    found = evaluate(forecast, {"y": np.array([0.1, np.nan, 0.4])})["y"]
    covariance = 0.25 * np.exp(-np.abs(x[[0, 2]][:, None] - x[[0, 2]]) / 2.0)
    middle = forecast.latent["slope"].draws[:, None] * x[[0, 2]]
    expected = [stats.multivariate_normal(mean, covariance).logpdf([0.1, 0.4]) for mean in middle]
    assert np.allclose(found.rows.log_probability, expected)
    assert found.reading.partial
    score = bh.calibration.assess(forecast, {"y": np.array([0.1, np.nan, 0.4])})["y"]
    assert np.isfinite(score.figures["log score"].value)


# What the data are called, and whether they were in the fit


def test_data_by_the_name_of_the_site():
    forecast = sloped(limited, np.ones(4), "level", (4,), {"y": np.zeros(4)})
    values = np.array([0.1, np.nan, 0.3, 2.0])
    by_site, by_argument = (evaluate(forecast, {name: values})["level"] for name in ("level", "y"))
    assert np.array_equal(by_site.rows.log_probability, by_argument.rows.log_probability)


def test_data_of_the_fit_are_known_again():
    again = of_linear(LINEAR_X)
    assert evaluate(again, {"y": LINEAR_Y})["y"].reading.seen.all()
    some = np.where(np.arange(12) < 3, np.nan, LINEAR_Y)
    assert evaluate(again, {"x": LINEAR_X, "y": some})["y"].reading.seen.tolist() == [False] * 3 + [True] * 9
    assert not evaluate(again, {"y": LINEAR_Y + 0.1})["y"].reading.seen.any()
    longer = of_linear(np.concatenate([LINEAR_X, NEW_X]))
    seen = evaluate(longer, {"y": np.concatenate([LINEAR_Y, np.zeros(5)])})["y"].reading.seen
    assert seen.tolist() == [True] * 12 + [False] * 5


def test_a_cell_that_was_missing_in_the_fit_is_new():
    fitted = np.array([[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]])
    forecast = sloped(events, np.arange(3.0), "y", (3, 2), {"y": fitted})
    found = evaluate(forecast, {"y": np.where(np.isnan(fitted), 9.0, fitted)})["y"]
    assert found.reading.seen.tolist() == [[True, False], [True, True], [True, True]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"z": NEW_Y}, "'z' is neither an observed site nor an argument of the model; observed are y"),
        ({"Y": NEW_Y}, "did you mean 'y'"),
        ({"y": NEW_Y[:3]}, r"y: the data have shape \(3,\), the forecast \(5,\)"),
        ({"x": NEW_X + 1, "y": NEW_Y}, "data\\['x'\\] differs from the input"),
        ({"x": NEW_X}, "hold none of the observations of this forecast: give y"),
        ({"y": NEW_Y * np.nan}, "every value is NaN"),
        ({"y": NEW_Y * np.inf}, "4 values are infinite"),
    ],
)
def test_what_cannot_be_compared_is_an_error(forecast, data, words):
    with pytest.raises(DataError, match=words):
        evaluate(forecast, data)


def kinds(y=None):
    weight = numpyro.sample("weight", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    with numpyro.plate("cases", 4):
        numpyro.sample("y", dist.Categorical(logits=weight), obs=y)


def test_classes_have_probabilities_and_must_exist():
    generator = np.random.default_rng(8)
    weight, drawn = generator.normal(size=(200, 3)), generator.integers(0, 3, (200, 4))
    forecast = made(kinds, {}, {"weight": weight}, {"y": drawn}, data={"y": np.zeros(4, int)})
    found = evaluate(forecast, {"y": np.array([0, 1, 2, 2])})["y"]
    weight = np.exp(weight)
    expected = weight / weight.sum(axis=1, keepdims=True)
    assert np.allclose(found.rows.probabilities[:, 0], expected)
    assert np.allclose(found.rows.log_probability, np.log(expected)[:, [0, 1, 2, 2]])
    with pytest.raises(DataError, match="3 is no class: they are numbered 0 to 2"):
        evaluate(forecast, {"y": np.array([0, 1, 2, 3])})
