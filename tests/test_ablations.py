"""Models without their parts, held against the same models written by hand; and all of them refitted side by side."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.ablations import variants

STATES = np.linspace(0.2, 2.0, 6)[:, None]
DATA = {"x": STATES, "y": np.exp(0.5 * STATES)}
RATE, NOISE = bh.prior_interval(0.3, 1.2), dist.LogNormal(-1.0, 1.0)


def net(name="missing"):
    return bh.network(name, bh.MLP(1, 1, width=3), scale=0.5, center=2.0, spread=2.0)


def slope(field, x, y):
    """A field that is measured at states directly, so that nothing is solved."""
    noise = bh.parameter("noise", NOISE)
    bh.observe("y", dist.Normal(field(x), noise), obs=y)


def hybrid(x, y=None):
    """Growth at an unknown rate beside a network of the state."""
    rate = bh.parameter("rate", RATE, unit="1/d")
    slope(bh.residual("growth", lambda x: rate * x, net()), x, y)


def equation(x, y=None):
    rate = bh.parameter("rate", RATE, unit="1/d")
    slope(lambda x: rate * x, x, y)


def equation_held(x, y=None):
    slope(lambda x: 0.6 * x, x, y)


def beside_held(x, y=None):
    missing = net()
    slope(lambda x: 0.6 * x + missing(x), x, y)


def network_alone(x, y=None):
    bh.parameter("rate", RATE, unit="1/d")
    slope(net(), x, y)


BY_HAND = {
    "science with free parameters": (bh.ablate(hybrid, without=["missing"]), equation),
    "by the part and its network": (bh.ablate(hybrid, without=["growth.missing", "missing"]), equation),
    "fixed science": (bh.ablate(hybrid, without="missing", fixed={"rate": 0.6}), equation_held),
    "network with fixed science": (bh.ablate(hybrid, fixed={"rate": 0.6}), beside_held),
    "network alone": (bh.ablate(hybrid, without=["growth.known"]), network_alone),
    "nothing": (bh.ablate(hybrid), hybrid),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_an_ablated_hybrid_is_the_model_written_by_hand(case):
    ablated, by_hand = (bh.Target(model, DATA) for model in BY_HAND[case])
    assert [site.name for site in ablated.layout.latent] == [site.name for site in by_hand.layout.latent]
    assert ablated.layout.networks == by_hand.layout.networks
    assert ablated.layout.soft == ()
    for q in 0.3 * np.random.default_rng(0).standard_normal((3, by_hand.layout.size)):
        np.testing.assert_array_equal(ablated.log_density(q), by_hand.log_density(q))


def test_the_whole_is_another_model():
    """What the test above compares is not the same anyway."""
    whole, line = bh.Target(hybrid, DATA), bh.Target(bh.ablate(hybrid, without=["growth.missing"]), DATA)
    q = 0.3 * np.random.default_rng(0).standard_normal(whole.layout.size)
    assert (
        whole.layout == line.layout or whole.layout.size == line.layout.size
    )  # weights stay where not named
    assert whole.log_density(q) != line.log_density(q)


def test_arguments_name_and_held_values_stay_in_sight():
    model = bh.ablate(hybrid, fixed={"rate": 0.6})
    assert inspect.signature(model) == inspect.signature(hybrid)
    assert model.__name__ == "hybrid with rate fixed"
    before = bh.simulate(model, {"x": STATES}, key=0, draws=3)
    np.testing.assert_array_equal(before.latent["rate"].draws, 0.6)
    assert before.latent["rate"].unit == "1/d"


def test_a_network_that_is_off_takes_all_its_unknowns_with_it():
    def model(x, y=None):
        left = bh.discrepancy("left", 0.0, 10.0, length=bh.prior_interval(2.0, 5.0), scale=1.0)
        other = bh.network("other", bh.MLP(1, 1), scale=1.0)
        slope = bh.parameter("slope", dist.Normal(0.0, 1.0))
        bh.observe("y", dist.Normal(slope * x + (left(x[:, None]) + other(x[:, None]))[:, 0], 0.1), obs=y)

    x = np.linspace(0.0, 10.0, 5)
    target = bh.Target(bh.ablate(model, without=["left", "other"]), {"x": x, "y": x})
    assert [site.name for site in target.layout.latent] == ["slope"]
    assert target.layout.networks == target.layout.asking == ()


X = np.linspace(-1.0, 1.0, 5)[:, None]


def line(x):
    return 2.0 * x


def curve(x):
    return x**2 - 0.5


def bend(x):
    return jnp.cos(x)


def said(make, without, **given):
    """What a join says without some of its parts, with the unknowns that are given in place of draws."""

    def model(x):
        numpyro.deterministic("said", make()(x))

    drawn = numpyro.handlers.substitute(
        numpyro.handlers.seed(bh.ablate(model, without=without), 0), data=given
    )
    return np.asarray(numpyro.handlers.trace(drawn).get_trace(x=jnp.asarray(X))["said"]["value"])


PARTS = {"line": line, "curve": curve, "bend": bend}
WEIGHTS = np.array([0.2, 0.3, 0.5])
JOINS = {
    "factor, missing": (
        lambda: bh.residual("f", line, curve, how="factor"), ["f.missing"], {}, line(X)),
    "factor, known": (
        lambda: bh.residual("f", line, curve, how="factor"), ["f.known"], {}, np.exp(curve(X))),
    "sum": (lambda: bh.parallel("f", PARTS, fusion="sum"), ["f.line"], {}, curve(X) + np.cos(X)),
    "linear": (
        lambda: bh.parallel("f", PARTS), ["f.curve"], {"f_coefficient": WEIGHTS}, 0.2 * line(X) + 0.5 * np.cos(X)),
    "levels": (
        lambda: bh.hierarchical("f", {"coarse": line, "fine": curve}), ["f.coarse"],
        {"f_coupling": np.array([0.5])}, curve(X)),
    "gate": (
        lambda: bh.gated("f", PARTS), ["f.curve"], {"f_weight": WEIGHTS}, (0.2 * line(X) + 0.5 * np.cos(X)) / 0.7),
    "gate, one left": (lambda: bh.gated("f", PARTS), ["f.curve", "f.line"], {"f_weight": WEIGHTS}, np.cos(X)),
    "series": (lambda: bh.series("f", PARTS), ["f.curve"], {}, np.cos(line(X))),
    "series, first": (lambda: bh.series("f", PARTS), ["f.line"], {}, np.cos(curve(X))),
}  # fmt: skip


@pytest.mark.parametrize("kind", JOINS)
def test_a_part_that_is_off_leaves_what_the_others_say(kind):
    make, without, given, expected = JOINS[kind]
    np.testing.assert_allclose(said(make, without, **given), expected, rtol=1e-12)
    assert np.max(np.abs(said(make, [], **given) - expected)) > 0.01


def test_a_gate_that_is_a_network_shares_what_is_left():
    """The softmax over three parts without one of them is the softmax over the other two."""

    def made(parts, outputs):
        gate = bh.network("gate", bh.MLP(1, outputs, width=2), scale=1.0, center=0.0, spread=1.0)
        return bh.gated("f", parts, gate)

    weights = {
        f"gate/layers[{i}].{part}": np.random.default_rng(i).standard_normal(shape)
        for i, part, shape in (
            (0, "weight", (2, 1)),
            (0, "bias", (2,)),
            (1, "weight", (3, 2)),
            (1, "bias", (3,)),
        )
    }
    two = {name: value[[0, 2]] if "layers[1]" in name else value for name, value in weights.items()}
    left = {"line": line, "bend": bend}
    without = said(lambda: made(PARTS, 3), ["f.curve"], **weights)
    np.testing.assert_allclose(without, said(lambda: made(left, 2), [], **two), rtol=1e-12)
    even = said(lambda: made(PARTS, 3), ["gate"])
    np.testing.assert_allclose(even, (line(X) + curve(X) + np.cos(X)) / 3, rtol=1e-12)


def test_a_part_that_fails_is_not_asked():
    broken = {"line": line, "curve": lambda x: x / 0.0}
    left = said(lambda: bh.parallel("f", broken, fusion="sum"), ["f.curve"])
    np.testing.assert_allclose(left, line(X))


def narrowing(x):
    return x[:, 0]


WRONG = {
    "no unknown 'rat' to be held; it has rate, noise, missing/": lambda: bh.ablate(
        hybrid, fixed={"rat": 0.6}
    ),
    "called 'growth.left'; it has missing, growth.known, growth.missing": lambda: bh.ablate(
        hybrid, without=["growth.left"]
    ),
    "'rate' has shape (), and the value it is to be held at (2,)": lambda: bh.ablate(
        hybrid, fixed={"rate": np.ones(2)}
    ),
    "'rate' cannot be held at -1.0, outside the support": lambda: bh.ablate(hybrid, fixed={"rate": -1.0}),
}


@pytest.mark.parametrize("told", WRONG)
def test_names_and_values_that_the_model_does_not_have_are_refused(told):
    with pytest.raises(bh.ModelError) as error:
        bh.Target(WRONG[told](), DATA)
    assert told in str(error.value)


def test_what_cannot_be_switched_off_is_refused():
    with pytest.raises(bh.ModelError, match="nothing is left behind the gate of 'f'"):
        said(lambda: bh.gated("f", {"line": line, "curve": curve}), ["f.line", "f.curve"])
    with pytest.raises(bh.ModelError, match=r"f.second makes \(5,\) of \(5, 1\), so a series cannot"):
        said(lambda: bh.series("f", {"first": line, "second": narrowing}), ["f.second"])


# The helper that fits them all


def test_the_rows_are_read_off_the_model():
    assert list(variants(hybrid, DATA)) == ["whole", "without growth.known", "without growth.missing"]
    held = list(variants(hybrid, DATA, fixed={"rate": 0.6}))
    assert held[3:] == ["fixed", "fixed, without growth.known", "fixed, without growth.missing"]
    alone = variants(hybrid, DATA)["without growth.missing"]
    assert [site.name for site in bh.Target(alone, DATA).layout.latent] == ["rate", "noise"]


def test_networks_that_parts_ask_for_themselves_go_with_them():
    def model(x, y=None):
        inside, shared, gate = net("inside"), net("shared"), net("gate")
        parts = {
            "first": lambda x: inside(x) + shared(x),
            "second": bh.residual("inner", lambda x: shared(x), lambda x: 0.1 * x),
        }
        slope(bh.gated("mixed", parts, gate), x, y)

    made = variants(model, DATA)
    rows = ["inner.known", "inner.missing", "mixed.first", "mixed.second", "shared", "gate"]
    assert list(made) == ["whole", *(f"without {name}" for name in rows)]
    networks = {name: set(bh.Target(each, DATA).layout.networks) for name, each in made.items()}
    assert networks["without mixed.first"] == {"shared", "gate"}
    assert networks["without mixed.second"] == {"inside", "shared", "gate"}
    assert networks["without gate"] == {"inside", "shared"}


def straight(x, y=None):
    """A slope, a network beside it, and a series that cannot do without its last part."""
    slope = bh.parameter("slope", dist.Normal(0.0, 3.0))
    missing = bh.network("missing", bh.MLP(1, 1, width=2), scale=1.0, center=0.0, spread=1.0)
    law = bh.residual("law", lambda x: slope * x, missing)
    read = bh.series("read", {"law": law, "single": narrowing})
    bh.observe("y", dist.Normal(read(x), 0.1), obs=y)


X12 = np.linspace(-1.0, 1.0, 12)[:, None]
STRAIGHT = {"x": X12, "y": 2.0 * X12[:, 0] + 0.1 * np.random.default_rng(7).standard_normal(12)}
QUICK = bh.DeepEnsemble(members=16, steps=100)


def test_rows_are_fitted_and_those_that_fail_are_told():
    later = {"x": X12 + 2.0, "y": 2.0 * (X12[:, 0] + 2.0)}
    rows = ["without law.missing", "without law.known", "without read.single", "fixed, without law.missing"]
    told = bh.ablation(straight, STRAIGHT, QUICK, key=0, fixed={"slope": 2.0}, held_out=later, rows=rows)
    figures = told["y"].figures
    assert list(figures) == list(told.posteriors) == rows[:2]
    assert list(told.failures) == rows[2:]
    assert "a series cannot do without it" in told.failures["without read.single"]
    assert "no unknowns" in told.failures["fixed, without law.missing"]
    assert "not fitted" in str(told)
    assert figures["without law.missing"]["RMSE"] < 0.3 < figures["without law.known"]["RMSE"]
    assert not told["y"].in_sample


def test_a_posterior_that_stands_alone_is_kept():
    told = bh.ablation(straight, STRAIGHT, QUICK, key=0, rows=["without law.missing", "without read.single"])
    assert list(told.posteriors) == ["without law.missing"]
    assert "fewer than two rows" in told.words[0]
    with pytest.raises(bh.ModelError, match="there is no row 'without law'; there are whole, without law"):
        bh.ablation(straight, STRAIGHT, QUICK, key=0, rows=["without law"])


@pytest.mark.slow
def test_all_rows_of_a_model_stand_side_by_side_and_are_kept_where_they_cannot_be_scored():
    told = bh.ablation(straight, STRAIGHT, bh.DeepEnsemble(members=32, steps=100), key=0)
    rows = ["whole", "without law.known", "without law.missing", "without read.law"]
    assert list(told["y"].figures) == rows
    assert told["y"].in_sample
    odd = bh.ablation(straight, STRAIGHT, QUICK, key=0, rows=rows[:2], held_out={"x": X12, "z": X12[:, 0]})
    assert list(odd.posteriors) == rows[:2]
    assert "could not be scored" in odd.words[0]
