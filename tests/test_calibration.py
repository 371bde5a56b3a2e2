"""Calibration: wrong posteriors are caught, right ones pass, and every figure has a fair reference beside it."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from forecasts import made
from posteriors import VERDICT
from problems import LINEAR_NOISE, LINEAR_X, LINEAR_Y, linear, linear_answer
from scipy import stats

import bayeshybrid as bh
from bayeshybrid import calibration
from bayeshybrid.calibration import Figure
from bayeshybrid.faults import DataError
from bayeshybrid.forecast import Origin
from bayeshybrid.verdict import Check, Verdict

# Two hundred simulated data sets: four points near zero are fitted, two far away are forecast

NEAR = np.array([[1.0, t] for t in (-0.2, 0.0, 0.1, 0.3)])
FAR = np.array([[1.0, 2.0], [1.0, -1.5]])
DRAWS = 200


def studies(count, spread=1.0, shift=0.0, seed=0, x=NEAR, new=FAR):
    """Forecasts from posteriors that are exact, too narrow, or shifted by a share of their sd; and the truth."""
    generator = np.random.default_rng(seed)
    target = bh.Target(linear, {"x": x, "y": np.zeros(len(x))})
    covariance = np.linalg.inv(np.eye(2) + x.T @ x / LINEAR_NOISE**2)
    forecasts, data = [], []
    for _ in range(count):
        truth = generator.normal(size=2)
        y = x @ truth + LINEAR_NOISE * generator.normal(size=len(x))
        middle = covariance @ x.T @ y / LINEAR_NOISE**2 + shift * np.sqrt(np.diag(covariance))
        w = middle + spread * generator.multivariate_normal(np.zeros(2), covariance, size=DRAWS)
        drawn = w @ new.T + LINEAR_NOISE * generator.normal(size=(DRAWS, len(new)))
        forecasts.append(made(linear, {"x": new}, {"w": w}, {"y": drawn}, target=target))
        data.append({"y": new @ truth + LINEAR_NOISE * generator.normal(size=len(new))})
    return forecasts, data


def test_the_right_posterior_passes():
    found = calibration.assess(*studies(200))["y"]
    assert found.compared == 400
    assert not [name for name, figure in found.figures.items() if figure.unusual]
    for level in (0.5, 0.8, 0.9):
        assert abs(found.figures[f"coverage {100 * level:.0f} %"].expected - level) < 0.01
    assert "outside" not in " ".join(found.words)


def test_half_the_spread_is_caught():
    found = calibration.assess(*studies(200, spread=0.5))["y"]
    for name in ("coverage 50 %", "coverage 80 %", "coverage 90 %", "log score"):
        assert found.figures[name].unusual
        assert found.figures[name].rank == 0.0
    for name in ("quantile calibration error", "interval calibration error", "CRPS", "interval score 90 %"):
        assert found.figures[name].rank == 1.0
    assert "the forecast is too narrow" in found.words
    grid, low, high = found.pit_bands
    gap = np.searchsorted(np.sort(found.pit), grid, side="right") / len(found.pit) - grid
    assert np.any((gap < low) | (gap > high))


def test_a_shift_by_half_an_sd_is_caught():
    found = calibration.assess(*studies(200, shift=0.5))["y"]
    assert found.figures["PIT, mean"].rank == 0.0
    assert found.figures["CRPS"].rank == 1.0
    assert found.figures["log score"].rank == 0.0
    assert "the values lie lower than was forecast" in found.words


def test_too_wide_is_caught_too():
    found = calibration.assess(*studies(60, spread=2.0))["y"]
    assert found.figures["coverage 50 %"].rank == 1.0
    assert found.figures["CRPS"].rank == 0.0  # better than the forecast thought of itself
    assert "the forecast is too wide" in found.words


def test_one_series_of_42_noisy_points_does_not_show_half_the_spread():
    """What this cannot see: where noise dominates, a posterior of half its spread passes like the right one."""
    x = np.array([[1.0, t] for t in np.linspace(-1.0, 1.5, 42)])
    right = calibration.assess(*studies(1, x=x, new=x))["y"]
    wrong = calibration.assess(*studies(1, spread=0.5, x=x, new=x))["y"]
    assert right.compared == wrong.compared == 42
    assert abs(right.counts[0.9][0] - wrong.counts[0.9][0]) <= 1
    for found in (right, wrong):
        assert not [name for name, figure in found.figures.items() if figure.unusual]


def test_the_reference_is_fair():
    """Of right forecasts, taken one by one, a tenth of the figures lie outside, and ranks are uniform.

    Nine comparisons, false alarm of the family 1 %. Over 600 forecasts the shares were 0.06 to 0.12.
    """
    x = np.array([[1.0, t] for t in np.linspace(-1.0, 2.0, 8)])
    found = [calibration.assess(f, d)["y"].figures for f, d in zip(*studies(100, new=x), strict=True)]
    for name in ("CRPS", "log score", "PIT, mean", "rms error", "interval score 90 %"):
        figures = [one[name] for one in found]
        assert stats.binomtest(sum(figure.unusual for figure in figures), 100, 0.1).pvalue > 0.001
        if name != "interval score 90 %":  # often the mean width, a tie
            assert stats.kstest([figure.rank for figure in figures], "uniform").pvalue > 0.001


def test_values_of_one_series_depend_on_one_another():
    """A whole series that shares one unknown is covered or missed together: the reference says so."""
    x = np.tile([[1.0, 2.0]], (30, 1))
    (forecast,), (data,) = studies(1, new=x)
    figure = calibration.assess(forecast, data)["y"].figures["coverage 50 %"]
    independent = stats.binom(30, 0.5).ppf([0.05, 0.95]) / 30
    assert figure.high - figure.low > 2 * (independent[1] - independent[0])


def test_few_members_are_expected_to_cover_less():
    """Against the coverage of mixtures of three exact draws, found by simulation."""
    forecasts, _ = studies(300)
    figures = calibration.assess(*few(forecasts[:50]))["y"].figures
    generator = np.random.default_rng(1)
    inside = []
    for forecast in forecasts:
        w, y = forecast.latent["w"].draws, forecast.observed["y"].draws
        below = stats.norm(w[:3] @ FAR.T, LINEAR_NOISE).cdf(y[generator.integers(3, DRAWS)]).mean(axis=0)
        inside.append(np.mean((below > 0.05) & (below < 0.95)))
    error = np.std(inside) / np.sqrt(300)
    assert abs(figures["coverage 90 %"].expected - np.mean(inside)) < 4 * error
    assert figures["coverage 90 %"].expected < 0.8


def few(forecasts):
    """The same with four draws each, and values from the rest of them."""
    parts = [
        made(
            linear,
            {"x": FAR},
            {"w": one.latent["w"].draws[:4]},
            {"y": one.observed["y"].draws[:4]},
            target=one.target,
        )
        for one in forecasts
    ]
    return parts, [{"y": one.observed["y"].draws[10]} for one in forecasts]


# Pooling, names and words


def test_forecasts_are_pooled():
    forecasts, data = studies(3)
    single = [calibration.assess(f, d)["y"] for f, d in zip(forecasts, data, strict=True)]
    found = calibration.assess(forecasts, data, levels=(0.9, 0.6))
    assert found.forecasts == 3
    assert found["y"].counts[0.9] == (sum(one.counts[0.9][0] for one in single), 6)
    assert list(found["y"].counts) == [0.6, 0.9]
    for name in ("CRPS", "log score", "interval score 90 %"):
        mean = np.mean([one.figures[name].value for one in single])
        assert np.isclose(found["y"].figures[name].value, mean)
    assert np.allclose(found["y"].pit, np.concatenate([one.pit for one in single]))
    assert "3 forecasts pooled" in found.words[0]


def test_what_cannot_be_assessed_is_an_error():
    (forecast,), (data,) = studies(1)
    with pytest.raises(DataError, match="1 forecasts and 2 sets of data"):
        calibration.assess(forecast, [data, data])
    with pytest.raises(ValueError, match="levels"):
        calibration.assess(forecast, data, levels=(0.5, 90))
    with pytest.raises(KeyError, match=r"no site 'z'.*there are y"):
        calibration.assess(forecast, data)["z"]


def test_counts_in_words():
    (forecast,), (data,) = studies(1)
    found = calibration.assess(forecast, data)
    inside = found["y"].counts[0.9][0]
    text = str(found)
    assert (
        f"{inside} of 2 values lie inside the central 90 %; a perfectly calibrated forecast of this size"
        in text
    )
    assert "nine times in ten" in text
    assert "2 values: only gross faults can show" in text
    assert "0.5 (calibrated: 0.9, 0.8 to 1)" in str(Figure(0.5, 0.9, 0.8, 1.0, "as expected"))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (VERDICT, "coverage judges the fit that was made, not the posterior"),
        (Verdict((Check("k-hat", "pass"),), nature="approximate"), "the fit gives approximate"),
        (Verdict((Check("R-hat", "pass"),)), ""),
    ],
)
def test_a_failed_computation_gets_a_word(verdict, words):
    (forecast,), (data,) = studies(1)
    origin = Origin(forecast.latent["w"].draws, np.zeros(DRAWS, int), "NUTS()", verdict)
    found = calibration.assess(replace(forecast, origin=origin), data)
    assert words in " ".join(found.words)
    assert bool(found.words) == bool(words)


def test_a_figure_that_is_nan_is_not_called_unusual():
    assert not Figure(np.nan, np.nan, np.nan, np.nan, "low").unusual


# Data of the fit


@pytest.fixture(scope="module")
def in_sample() -> bh.Forecast:
    generator = np.random.default_rng(0)
    mean, covariance, _ = linear_answer()
    w = generator.multivariate_normal(mean, covariance, size=2000)
    y = w @ LINEAR_X.T + LINEAR_NOISE * generator.normal(size=(2000, 12))
    origin = Origin(w, np.repeat(np.arange(4), 500), "NUTS()", Verdict((Check("R-hat", "pass"),)))
    target = bh.Target(linear, {"x": LINEAR_X, "y": LINEAR_Y})
    return made(linear, {"x": LINEAR_X}, {"w": w}, {"y": y}, target=target, origin=origin)


def without(i: int) -> stats.rv_continuous:
    """The exact distribution of one datum given all others."""
    rest = np.arange(12) != i
    mean, covariance, _ = linear_answer(LINEAR_X[rest], LINEAR_Y[rest])
    variance = LINEAR_X[i] @ covariance @ LINEAR_X[i] + LINEAR_NOISE**2
    return stats.norm(LINEAR_X[i] @ mean, np.sqrt(variance))


def test_data_of_the_fit_are_left_out_one_by_one(in_sample):
    found = calibration.assess(in_sample, {"x": LINEAR_X, "y": LINEAR_Y})
    assert found.in_sample
    site = found["y"]
    assert (site.in_sample, len(site.pareto_k)) == (12, 12)
    exact = [without(i) for i in range(12)]
    assert np.allclose(site.pit, [one.cdf(y) for one, y in zip(exact, LINEAR_Y, strict=True)], atol=0.02)
    log_score = np.mean([one.logpdf(y) for one, y in zip(exact, LINEAR_Y, strict=True)])
    assert abs(site.figures["log score"].value - log_score) < 0.02
    crps = np.mean([crps_normal(one, y) for one, y in zip(exact, LINEAR_Y, strict=True)])
    assert abs(site.figures["CRPS"].value - crps) < 0.01
    assert any("12 of 12 values were data of the fit (in sample)" in word for word in site.words)
    # as they are, they look better
    plain = calibration.assess(replace(in_sample, origin=None), {"y": LINEAR_Y})["y"]
    assert plain.figures["log score"].value > site.figures["log score"].value + 0.02
    assert any("look better than new ones" in word for word in plain.words)


def crps_normal(one, y):
    z = (y - one.mean()) / one.std()
    return one.std() * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


def test_left_out_values_agree_with_arviz(in_sample):
    import arviz_base
    import arviz_stats

    middle = in_sample.latent["w"].draws @ LINEAR_X.T
    groups = {
        "posterior": {"w": in_sample.latent["w"].draws},
        "log_likelihood": {"y": stats.norm(middle, LINEAR_NOISE).logpdf(LINEAR_Y)},
        "posterior_predictive": {"y": in_sample.observed["y"].draws},
    }
    groups = {
        group: {name: x.reshape(4, 500, -1) for name, x in values.items()} for group, values in groups.items()
    }
    tree = arviz_base.from_dict({**groups, "observed_data": {"y": LINEAR_Y}})
    site = calibration.assess(in_sample, {"y": LINEAR_Y})["y"]
    assert np.allclose(site.pit, arviz_stats.loo_pit(tree)["y"].values, atol=0.04)  # it samples the noise
    assert np.isclose(site.figures["log score"].value * 12, arviz_stats.loo(tree).elpd, atol=0.02)


def test_new_values_at_the_inputs_of_the_fit_are_not_in_sample(in_sample):
    found = calibration.assess(in_sample, {"y": LINEAR_Y + 0.2})
    assert not found.in_sample
    assert len(found["y"].pareto_k) == 0


# Cells that are not numbers measured exactly


def limited(x, y=None, left=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    bh.observe("y", dist.Normal(slope * x, 1.0), obs=y, left=left, missing=True)


def test_censored_cells_count_in_the_log_score_alone(generator):
    x = np.ones(100)
    slope = np.full(200, 0.3)
    draws = slope[:, None] + generator.normal(size=(200, 100))
    forecast = made(limited, {"x": x}, {"slope": slope}, {"y": draws}, data={"y": np.zeros(100)})
    values = 0.3 + generator.normal(size=100)
    left = values < 0
    found = calibration.assess(forecast, {"y": np.where(left, 0.0, values), "left": left})["y"]
    assert (found.censored, found.compared) == (left.sum(), (~left).sum())
    expected = np.where(left, stats.norm(0.3, 1).logcdf(0.0), stats.norm(0.3, 1).logpdf(values))
    assert np.isclose(found.figures["log score"].value, expected.mean())
    assert len(found.pit) == found.compared
    assert any("censored values count in the log score" in word for word in found.words)
    # in their place a play lies below the limit or not
    below = stats.norm(0.3, 1).cdf(0.0)
    event = below * np.log(below) + (1 - below) * np.log(1 - below)
    share = left.mean()
    assert abs(found.figures["log score"].expected - (share * event - (1 - share) * 1.4189)) < 0.03


def counted(x, y=None):
    rate = numpyro.sample("rate", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Poisson(jnp.exp(rate) * x), obs=y)


def test_counts_are_not_called_miscalibrated_for_being_whole(generator):
    rate = generator.normal(0.3, 0.05, 200)
    draws = generator.poisson(np.exp(rate)[:, None], (200, 80))
    forecast = made(counted, {"x": np.ones(80)}, {"rate": rate}, {"y": draws}, data={"y": np.ones(80, int)})
    right = calibration.assess(forecast, {"y": generator.poisson(np.exp(0.3), 80)})["y"]
    assert right.nature == "counts"
    assert (
        right.figures["coverage 50 %"].expected > 0.6
    )  # of whole numbers an interval holds more than it says
    assert not right.figures["coverage 50 %"].unusual
    assert not right.figures["quantile calibration error"].unusual
    wrong = calibration.assess(forecast, {"y": generator.negative_binomial(1.0, 1 / (1 + np.exp(0.3)), 80)})[
        "y"
    ]
    assert wrong.figures["log score"].unusual
    assert wrong.figures["interval calibration error"].unusual


# Classes


def sorts(x, y=None):
    weight = numpyro.sample("weight", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    numpyro.sample("y", dist.Categorical(logits=jnp.outer(x, weight)), obs=y)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def drawn_classes(generator, p):
    return (p.cumsum(axis=-1) < generator.uniform(size=(*p.shape[:-1], 1))).sum(axis=-1)


@pytest.fixture
def classes(generator):
    x = np.linspace(-2.0, 2.0, 300)
    weight = np.array([1.0, 0.0, -1.0]) + 0.1 * generator.normal(size=(250, 3))
    p = softmax(x[None, :, None] * weight[:, None, :])
    data = {"y": np.zeros(300, int)}
    forecast = made(sorts, {"x": x}, {"weight": weight}, {"y": drawn_classes(generator, p)}, data=data)
    return forecast, p, drawn_classes(generator, softmax(np.outer(x, [1.0, 0.0, -1.0]))), x


def test_classes_have_scores_entropies_and_a_reliability_table(classes):
    forecast, p, y, _ = classes
    found = calibration.assess(forecast, {"y": y})["y"]
    mixed = p.mean(axis=0)
    figures = found.figures
    assert np.isclose(figures["log score"].value, np.log(mixed[np.arange(300), y]).mean())
    assert np.isclose(figures["Brier score"].value, np.sum((mixed - np.eye(3)[y]) ** 2, axis=1).mean())
    parts = figures["reliability"].value - figures["resolution"].value + figures["uncertainty"].value
    assert np.isclose(parts + figures["within bins"].value, figures["Brier score"].value)
    assert figures["accuracy"].value == np.mean(mixed.argmax(axis=1) == y)
    total = -np.sum(mixed * np.log(mixed), axis=1).mean()
    aleatoric = -np.sum(p * np.log(p), axis=2).mean()
    assert np.isclose(found.entropies["total"], total)
    assert np.isclose(found.entropies["aleatoric"], aleatoric)
    assert np.isclose(found.entropies["mutual information"], total - aleatoric)
    assert found.reliability.count.sum() == 300
    assert found.pit.size == 0
    for name in ("log score", "Brier score", "ECE", "accuracy", "coverage 80 %"):
        assert not figures[name].unusual


def test_overconfident_classes_are_caught(classes, generator):
    forecast, _, y, x = classes
    weight = 3.0 * forecast.latent["weight"].draws
    drawn = drawn_classes(generator, softmax(x[None, :, None] * weight[:, None, :]))
    bold = made(sorts, {"x": x}, {"weight": weight}, {"y": drawn}, target=forecast.target)
    figures = calibration.assess(bold, {"y": y})["y"].figures
    for name in ("log score", "accuracy"):
        assert figures[name].rank == 0.0
    for name in ("Brier score", "reliability", "ECE", "ECE (debiased)"):
        assert figures[name].rank == 1.0


def yes_or_no(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Bernoulli(jax.nn.sigmoid(slope * x)), obs=y)


def test_a_yes_or_no_is_two_classes(generator):
    x = np.linspace(-3.0, 3.0, 200)
    slope = generator.normal(1.0, 0.05, 200)
    p = 1 / (1 + np.exp(-slope[:, None] * x))
    drawn = (generator.uniform(size=p.shape) < p).astype(int)
    forecast = made(yes_or_no, {"x": x}, {"slope": slope}, {"y": drawn}, data={"y": np.zeros(200, int)})
    y = (generator.uniform(size=200) < 1 / (1 + np.exp(-x))).astype(int)
    found = calibration.assess(forecast, {"y": y})["y"]
    assert np.isclose(found.figures["Brier score"].value, np.mean((p.mean(axis=0) - y) ** 2))
    table = found.reliability
    assert table.stated[0] < 0.1 < 0.9 < table.stated[-1]  # of the yes, not of the likelier one
    assert np.mean((table.met >= table.low) & (table.met <= table.high)) > 0.6
