"""Shares of failed, implausible and unexpected draws equal closed forms; what cannot work is the error of `infer`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import bayeshybrid as bh
from bayeshybrid.findings import Finding
from bayeshybrid.layout import Layout, Solve
from bayeshybrid.preflight import Implausible
from bayeshybrid.ranges import stated_range

DRAWS = 1000
TIMES = np.array([1.0, 2.0])


def decay(times, y=None, left=None):
    """y' = -sqrt(rate + own) y: without a solution where rate + own is negative, for one subject soonest."""
    rate = bh.parameter("rate", dist.Normal(1.0, 1.0), unit="1/h^2")
    bh.parameter("unused", dist.Normal(0.0, 1.0))

    def field(t, y, rate):
        return -jnp.sqrt(rate) * y

    names = {"labels": ("hare", "lynx"), "unit": "kpelt"}
    start, own = jnp.array([1.0, 10.0]), jnp.array([1.0, 0.0, 1.0])
    path = bh.solve_ode("path", field, start, times, t0=0.0, args=rate + own, in_axes=(None, 0, 0), **names)
    noise = dist.Normal(path.ys, 0.01)
    bh.observe("y", noise, obs=y, missing=True, left=left, across="subject", **names)


HOURS = np.tile(TIMES, (3, 1))
DECAY_Y = np.exp(-np.sqrt([2.0, 1.0, 2.0])[:, None] * HOURS)[..., None] * np.array([1.0, 10.0])
NEGATIVE = stats.norm.cdf(-1.0)


def near(share, expected, draws=DRAWS):
    """Within four standard errors of a share of as many draws."""
    return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / draws)


@pytest.mark.slow
def test_shares_are_those_of_the_priors_and_unexpected_values_have_a_place():
    """One value is wrong, a limit lies below all that is expected and one above, a subject was never measured."""
    y, left = DECAY_Y.copy(), np.zeros(DECAY_Y.shape, bool)
    y[0, 1, 0], y[2] = 3.0, np.nan
    y[1, 0, 0], left[1, 0, 0] = 0.9, True
    y[1, 0, 1], left[1, 0, 1] = 0.01, True
    data = {"times": HOURS, "y": y, "left": left}
    ranges = {"path": {"hare": (0.05, None)}, "rate": (None, 2.0), "y": (0.0, 9.0)}
    found = bh.preflight.assess(decay, data, key=0, draws=DRAWS, plausible=ranges)
    assert near(found.failed_share, NEGATIVE)
    (shares,) = found.failed_units.values()
    assert near(shares["unit 1"], NEGATIVE)
    assert near(shares["unit 0"], stats.norm.cdf(-2.0))
    solved = DRAWS * (1 - found.failed_share)
    # hares of the subjects that lose most lie below 0.05 at time 2 where exp(-2 sqrt(rate + 1)) < 0.05
    few = stats.norm.sf((np.log(20) / 2) ** 2 - 1, 1.0, 1.0) / (1 - NEGATIVE)
    assert near(found.implausible["path"].share, few, solved)
    assert found.implausible["path"].above == 0.0
    assert near(found.implausible["rate"].above, stats.norm.sf(1.0) / (1 - NEGATIVE), solved)
    # the mean of the other's lynx at time 1 lies above 9 where exp(-sqrt(rate)) > 0.9
    slow = (stats.norm.cdf(np.log(0.9) ** 2, 1.0, 1.0) - NEGATIVE) / (1 - NEGATIVE)
    assert near(found.implausible["y"].share, slow, solved)
    assert found.inside["y"] == (6, 8)
    wrong, below = found.outside["y"]
    assert wrong.startswith("y[subject 0, time 2, hare] = 3 kpelt, expected 0.")
    assert below.startswith("y[subject 1, time 1, lynx] = 0.01 kpelt, expected ")
    assert found.state == "pass with remarks"
    assert any("the field is NaN or infinite at the start" in one for one in found.warnings)
    told = str(found)
    for words in (
        "pass with remarks solving: 1",
        "; in path above all unit 1",
        "; draws that fail have low rate",
        "Narrow the prior of rate",
        "hare from 0.05 kpelt",
        "pass with remarks data of y: 6 of 8 measured values",
        "The priors do not expect these data",
        "warning: the likelihood does not depend on unused",
        "warning: no value was measured of subject 2",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"fail": (0.1, 0.2)}, "there are 'failed', 'implausible', 'outside'"),
        ({"failed": (0.5, 0.2)}, "give two shares that rise"),
    ],
)
def test_limits_that_mean_nothing_are_refused(limits, told):
    with pytest.raises(bh.ModelError, match=told):
        bh.preflight.assess(noisy, NOISY_DATA, key=0, limits=limits)


@pytest.mark.parametrize(
    ("plausible", "told"),
    [
        ({"pth": (0, 1)}, "no such quantity: did you mean 'path'"),
        ({"path": {"hares": (0, 1)}}, "no such label: did you mean 'hare'"),
        ({"path": (1, 0)}, "give two ends that rise"),
        ({"path": 3.0}, "give two ends that rise"),
    ],
)
def test_ranges_that_mean_nothing_are_refused(plausible, told):
    labels = {"path": ("hare", "lynx")}
    solves = tuple(Solve(name, (2, 2), given, None) for name, given in labels.items())
    layout = Layout((), (), (), (), (), solves, (), (), (), (), False)
    ((name, pair),) = plausible.items()
    with pytest.raises(bh.ModelError, match=told):
        stated_range(layout, name, pair)


COUNTED = np.array([0, 1, 3, 2, 6, 9])


def growing(times, y=None):
    """Counts whose rate a network gives."""
    net = bh.network("growth", bh.MLP(1, 1, 4), scale=1.0)
    rate = jnp.exp(jnp.stack([net(jnp.atleast_1d(t))[0] for t in times]))
    bh.observe("y", dist.Poisson(rate), obs=y)


@pytest.mark.slow
def test_counts_and_networks():
    found = bh.preflight.assess(growing, {"times": np.arange(6.0), "y": COUNTED}, key=0, draws=400)
    assert found.failed_share == 0.0
    assert found.implausible["y"].low == 4.5 - 45
    assert found.inside["y"][1] == 6
    assert not any(one.about == "solving" for one in found.findings)


def noisy(y=None, group=None):
    """A noise that can be negative, a prior that cannot be drawn from, and classes."""
    level = numpyro.sample("level", dist.ImproperUniform(dist.constraints.real, (), ()))
    spread = numpyro.sample("spread", dist.Normal(1.0, 1.0))
    noise = dist.Normal(jnp.full(3, level), spread, validate_args=False)
    bh.observe("y", noise, obs=y, missing=True, across="subject")
    numpyro.sample("group", dist.Categorical(jnp.full(2, 0.5)), obs=group)


NOISY_DATA = {"y": np.array([0.3, -1.0, np.nan]), "group": np.array(1)}


def test_what_priors_cannot_give_is_told():
    limits = {"failed": (0.01, 0.1)}
    found = bh.preflight.assess(noisy, NOISY_DATA, key=0, draws=400, limits=limits)
    told = {one.about: one for one in found.findings}
    assert told["prior"].state == "not assessable"
    assert near(told["density of y"].share, NEGATIVE, 400)
    assert told["density of y"].state == "fail"
    assert "no finite log probability (limits 1 %, 10 %)" in str(told["density of y"])
    assert found.inside["group"] == (1, 1)
    made = found.implausible["y"]  # the range of the data widened tenfold about its middle
    assert (made.low, made.high) == pytest.approx((-0.35 - 6.5, -0.35 + 6.5))
    assert not made.stated
    assert "a range made from the data" in str(found)
    assert found.state == "fail"
    assert "solving" not in told
    assert found.warnings[-1].startswith("no value was measured of subject 2")


def test_nothing_measured_is_not_assessable():
    nothing = {**NOISY_DATA, "y": np.full(3, np.nan)}
    found = bh.preflight.assess(noisy, nothing, key=0, draws=100)
    assert {one.about: one.state for one in found.findings}["data of y"] == "not assessable"
    assert list(found.implausible) == []
    assert any("no value was measured" in one for one in found.warnings)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"z": 1.0}, "no argument 'z'"),
        ({"y": np.array(["a", "b", "c"])}, "holds text"),
        ({"y": np.array([1.0, np.inf, 2.0])}, "NaN or infinite"),
    ],
)
def test_bad_data_are_the_errors_of_infer(data, told):
    with pytest.raises(bh.DataError, match=told):
        bh.preflight.assess(noisy, {**NOISY_DATA, **data}, key=0)
    with pytest.raises(bh.DataError, match="nothing that this model observes was given"):
        bh.preflight.assess(noisy, {}, key=0)


def test_lines_say_their_limits():
    line = Finding("solving", "fail", 0.9, (0.05, 0.5), "90 % fail", "Narrow the prior")
    assert str(line) == "fail              solving: 90 % fail (limits 5 %, 50 %). Narrow the prior"
    assert Implausible(0.1, 0.0, 0.1, np.array(0.0), np.array(1.0), True).stated
