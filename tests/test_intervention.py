"""What is changed from outside, and everything that follows from it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from posteriors import from_draws

import bayeshybrid as bh

TIMES = np.array([0.5, 1.0, 2.0])


class Table(dict):
    labels = {"subject": ("a", "b")}  # noqa: RUF012


def decay(dose, t, y=None):
    rate = bh.parameter(
        "rate",
        dist.LogNormal(0.0, 1.0),
        across="subject",
        size=len(dose),
        spread=dist.HalfNormal(1.0),
        unit="1/h",
    )
    slope = numpyro.deterministic("slope", 2.0 * rate)
    noise = bh.parameter("noise", dist.LogNormal(-2.0, 1.0))
    path = dose[:, None] * jnp.exp(-slope[:, None] * t[None])
    bh.observe("y", dist.Normal(path, noise), obs=y, across="subject")


@pytest.fixture(scope="module")
def posterior():
    data = Table(dose=np.array([1.0, 2.0]), t=TIMES, y=np.ones((2, 3)))
    draws = 0.1 * np.random.default_rng(0).standard_normal((2, 50, 5))
    return from_draws(decay, data, draws)


def _expected(forecast):
    return forecast.conditional["y"][0][:, 0]


def test_a_changed_input_is_what_predict_would_have_been_given(posterior):
    by_hand = posterior.predict({"dose": np.array([0.5, 1.0]), "t": TIMES}, key=1)
    changed = posterior.predict(key=1, change={"dose": lambda dose: dose / 2})
    np.testing.assert_array_equal(_expected(changed), _expected(by_hand))
    np.testing.assert_array_equal(changed.inputs["dose"], [0.5, 1.0])
    assert changed.changed == ("dose",)


def test_a_value_replaces_as_a_function_does(posterior):
    changed = posterior.predict(key=1, change={"dose": np.array([3.0, 3.0])})
    np.testing.assert_array_equal(changed.inputs["dose"], [3.0, 3.0])
    quiet = posterior.predict(key=1, change={"noise": 0.25})
    np.testing.assert_allclose(quiet.conditional["y"][1], 0.0625)


def test_a_changed_unknown_keeps_all_others_and_is_shown_changed(posterior):
    before, after = posterior.predict(key=1), posterior.predict(key=1, change={"noise": lambda v: 3.0 * v})
    np.testing.assert_allclose(after.latent["noise"].draws, 3.0 * before.latent["noise"].draws)
    np.testing.assert_array_equal(after.latent["rate"].draws, before.latent["rate"].draws)
    np.testing.assert_array_equal(_expected(after), _expected(before))


def test_a_changed_derived_quantity_moves_what_follows_and_nothing_before(posterior):
    before, after = posterior.predict(key=1), posterior.predict(key=1, change={"rate": lambda v: 0.5 * v})
    np.testing.assert_allclose(after.latent["rate"].draws, 0.5 * before.latent["rate"].draws)
    np.testing.assert_allclose(after.latent["slope"].draws, 0.5 * before.latent["slope"].draws)
    np.testing.assert_array_equal(
        after.latent["rate_population"].draws, before.latent["rate_population"].draws
    )
    slope = before.latent["rate"].draws  # half of twice the rate
    np.testing.assert_allclose(
        _expected(after), np.array([1.0, 2.0])[None, :, None] * np.exp(-slope[:, :, None] * TIMES), rtol=1e-12
    )


def test_new_units_are_changed_as_well(posterior):
    inputs = {"dose": np.ones(1), "t": TIMES}
    before = posterior.predict(inputs, key=1, new=("subject",))
    after = posterior.predict(inputs, key=1, new=("subject",), change={"rate": lambda v: 0.5 * v})
    np.testing.assert_allclose(after.latent["rate"].draws, 0.5 * before.latent["rate"].draws)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"nois": 1.0}, "did you mean 'noise'"),
        ({"y": 1.0}, "only inputs, parameters and derived quantities"),
        ({"dose": lambda dose: dose[:1]}, "keeps the shape"),
        ({"noise": lambda noise: jnp.stack([noise, noise])}, "keeps the shape"),
        ({"slope": lambda slope: slope[:1]}, "keeps the shape"),
    ],
)
def test_a_change_that_cannot_be_made_says_why(posterior, change, told):
    with pytest.raises(bh.ModelError, match=told):
        posterior.predict(key=1, change=change)


def test_an_unknown_that_is_drawn_anew_has_no_value_to_change(posterior):
    with pytest.raises(bh.ModelError, match="drawn anew"):
        posterior.predict(key=1, new=("subject",), change={"rate_offset": 0.0})


def test_the_budget_of_a_changed_forecast_is_of_the_changed_model(posterior):
    changed = posterior.predict(key=1, change={"rate": lambda v: 0.0 * v})
    budget = bh.uncertainty.budget(changed)
    np.testing.assert_allclose(sum(budget.rows.values()), budget.total, rtol=1e-9)
    np.testing.assert_allclose(budget.epistemic, 0.0, atol=1e-20)  # nothing but the dose is left in the mean


def test_units_of_the_table_name_the_entries_of_a_forecast(posterior):
    forecast = posterior.predict(key=1)
    assert forecast.labels == {"subject": ("a", "b")}
    assert forecast.observed["y"].across == "subject"
    assert forecast.latent["rate"].across == "subject"


def test_probability_is_the_share_of_draws_with_an_error_that_covers():
    """Fifty forecasts of 400 draws each: the standardised errors of a known probability have unit variance."""
    true, scores = 0.3085375387259869, []  # P(z > 0.5)
    for seed in range(50):
        happened = np.random.default_rng(seed).standard_normal((400, 1)) > 0.5
        found = bh.forecast.probability(happened, np.repeat(np.arange(4), 100))
        scores.append((found.value - true) / found.error)
    assert 0.7 < np.std(scores) < 1.35


def test_correlated_draws_are_worth_fewer():
    rng = np.random.default_rng(0)
    path = np.zeros((4, 500))
    for i in range(1, 500):
        path[:, i] = 0.95 * path[:, i - 1] + rng.standard_normal(4)
    found = bh.forecast.probability((path > 0).reshape(-1, 1), np.repeat(np.arange(4), 500))
    assert found.draws < 400
    assert found.error > 0.025


def test_an_event_must_be_a_comparison(posterior):
    forecast = posterior.predict(key=1)
    with pytest.raises(bh.ModelError, match="comparison"):
        forecast.probability(lambda rate: rate[0])
    above = forecast.probability(lambda rate: rate > jnp.median(rate))
    assert above.value.shape == (2,)
    assert jax.tree.leaves(above.error).__len__() == 1
