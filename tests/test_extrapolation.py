"""How far a forecast leads a network out of what it was asked in the fit."""

import numpy as np
import numpyro.distributions as dist
import pytest
from posteriors import from_draws

import bayeshybrid as bh

NET = bh.MLP(1, 1, width=2)


def line(x, y=None):
    f = bh.network("f", NET, scale=1.0, center=0.0, spread=1.0)
    shift = bh.parameter("shift", dist.Normal(0.0, 1.0), shape=(len(x),))
    bh.observe("y", dist.Normal(f(x[:, None])[:, 0] + shift, 0.5), obs=y)


@pytest.fixture(scope="module")
def posterior():
    data = {"x": np.array([0.0, 1.0, 2.0]), "y": np.zeros(3)}
    size = bh.Target(line, data).layout.size
    return from_draws(line, data, 0.3 * np.random.default_rng(0).standard_normal((2, 20, size)))


def test_questions_beyond_the_range_of_the_fit_are_counted(posterior):
    ahead = posterior.predict(key=0, change={"x": lambda x: 2.0 * x})
    asked = ahead.extrapolation["f"]
    assert asked.along.tolist() == [0.0, 0.0, 1.0]
    assert np.isclose(asked.outside, 1 / 3)
    assert asked.ranges.tolist() == [[0.0, 2.0, 0.0, 4.0]]
    assert "33 % of what this network is asked" in str(ahead)


def test_the_fit_itself_is_inside(posterior):
    again = posterior.predict(key=0)
    assert again.extrapolation["f"].outside == 0.0
    assert "lies outside" not in str(again)


def test_fewer_places_than_in_the_fit_are_no_trouble(posterior):
    """The unknown that counts the places is drawn anew, with another shape."""
    ahead = posterior.predict({"x": np.array([5.0])}, key=0, new=("shift",))
    assert ahead.extrapolation["f"].outside == 1.0


@pytest.mark.slow
def test_draws_of_the_prior_were_never_fitted():
    assert bh.simulate(line, {"x": np.zeros(2)}, key=0, draws=5).extrapolation == {}
