"""What the data could not tell: the algebra where there is one, and planted faults that must be named."""

from __future__ import annotations

import re
from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import bayeshybrid as bh
from bayeshybrid import identifiability
from bayeshybrid.faults import ModelError
from bayeshybrid.identifiability import Thresholds
from bayeshybrid.information import prior_units
from bayeshybrid.keys import as_key
from bayeshybrid.parameter_verdict import Evidence, determined, has_separate_values, interval_shift
from bayeshybrid.verdict import Verdict
from tests import problems
from tests.posteriors import from_draws

X = np.linspace(-1.0, 1.0, 14)
NOISE = 0.1


def gaussian(mean, covariance, seed=0, count=1000):
    """Draws `(4, count / 4, size)` whose mean and covariance are exactly these."""
    z = np.random.default_rng(seed).normal(size=(count, len(mean)))
    z = z - z.mean(axis=0)
    z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / count)).T
    return (z @ np.linalg.cholesky(covariance).T + mean).reshape(4, count // 4, len(mean))


def solved(model, data, design, noise=NOISE, prior=None, **more):
    """The exact posterior of a linear Gaussian model whose data are zero, as draws."""
    prior = np.eye(design.shape[1]) if prior is None else prior
    covariance = np.linalg.inv(np.linalg.inv(prior) + design.T @ design / noise**2)
    return from_draws(model, data, gaussian(np.zeros(design.shape[1]), covariance), **more)


# A planted redundant pair, a parameter that is told, and one without influence. The design is data: one program.

PAIR = np.stack([np.ones(14), np.ones(14), X, 0 * X], axis=1)


def straight(design, y=None):
    first = bh.parameter("first", dist.Normal(0.0, 1.0), unit="mV")
    rest = [bh.parameter(name, dist.Normal(0.0, 1.0)) for name in ("second", "slope", "idle")]
    bh.observe("y", dist.Normal(design @ jnp.stack([first, *rest]), NOISE), obs=y)


def pair(**more):
    return solved(straight, {"design": PAIR, "y": np.zeros(14)}, PAIR, **more)


@cache
def pair_found():
    return identifiability.assess(pair(), draws=2)


def test_a_redundant_pair_is_named():
    found = pair_found()
    (named,) = found.collinear
    assert named.names == ("first", "second")
    assert named.index > 1e5
    assert not named.resolved
    assert found["first"].verdict == found["second"].verdict == "only in combination"
    assert any(word.startswith("first and second trade off") for word in found.words)
    assert "first, second (collinearity index" in str(found)


def test_the_directions_of_a_redundant_pair_are_told_in_words():
    stiff, sloppy = ([c for c in pair_found().combinations if (c.eigenvalue > 1) is s] for s in (True, False))
    half = np.sqrt(0.5)
    told = [np.array([c.weights[n] for n in ("first", "second", "idle")]) for c in (*stiff, *sloppy)]
    for expected in ([half, half, 0], [half, -half, 0], [0, 0, 1]):
        assert any(np.allclose(np.abs(w), np.abs(expected), atol=0.02) for w in told)
    words = pair_found().directions
    pattern = r"0.7\d (first|second) {} 0.7\d (first|second): {}.*"
    assert any(re.fullmatch(pattern.format("-", r"hardly told \(0 times the prior\)"), w) for w in words)
    assert any(re.fullmatch(pattern.format(r"\+", "told"), w) for w in words)
    assert "1.00 idle: hardly told (0 times the prior)" in words


def test_what_is_told_and_what_has_no_influence():
    found = pair_found()
    assert found["slope"].verdict == "identified"
    assert found["idle"].verdict == "driven by the prior"
    assert found["idle"].alone == 0.0
    assert found["slope"].alone > 0.99
    assert "About idle the data say too little: what is reported of it is the prior." in found.words
    assert found.words[0].startswith("Known best is slope: -0.0")
    assert "Known least is idle" in found.words[1]
    assert found["first"].unit == "mV"


def test_the_spectrum_is_the_algebra():
    prior = prior_units(bh.Target(straight, {"design": PAIR, "y": np.zeros(14)}), as_key(0))
    expected = np.linalg.eigvalsh(prior.factor.T @ PAIR.T @ PAIR @ prior.factor / NOISE**2)[::-1]
    assert np.allclose(pair_found().spectrum, expected, rtol=1e-9, atol=1e-6)
    exact = np.linalg.eigvalsh(PAIR.T @ PAIR / NOISE**2)[::-1]
    assert np.allclose(pair_found().spectrum, exact, rtol=0.1, atol=1e-6)


def test_contraction_and_intervals_are_those_of_the_posterior():
    posterior = pair()
    found = pair_found()["first"]
    assert found.contraction == posterior.contraction["first"]
    assert np.allclose(found.interval, np.quantile(posterior["first"], [0.05, 0.95]))
    assert abs(found.prior_interval[1] - 1.645) < 0.15


# A product: the pair is redundant in unconstrained coordinates of any prior


def product(y=None):
    a = bh.parameter("a", dist.LogNormal(0.0, 1.0))
    b = bh.parameter("b", dist.LogNormal(0.0, 0.5))
    bh.observe("y", dist.Normal(a * b, 0.02), obs=y)


def test_a_product_is_a_redundant_pair_on_the_log_scale():
    design = np.ones((5, 2))
    prior = np.diag([1.0, 0.25])
    posterior = solved(product, {"y": np.ones(5)}, design, noise=0.02, prior=prior)
    found = identifiability.assess(posterior, draws=2)
    assert [named.names for named in found.collinear] == [("a", "b")]
    assert found["a"].verdict == found["b"].verdict == "only in combination"
    weakest = found.combinations[-1]
    expected = np.array([0.5, -1.0]) / np.sqrt(1.25)  # standard deviations of each prior; exact for one draw
    told = np.array([weakest.weights["a"], weakest.weights["b"]])
    assert np.allclose(np.abs(told), np.abs(expected), atol=0.05)
    assert np.prod(told) < 0


def test_parameters_that_look_alike_but_are_told_apart_are_marked_resolved():
    design = 100.0 * np.stack([np.ones(14), 1.0 + 0.05 * X, X**2, 0 * X], axis=1)
    posterior = solved(straight, {"design": design, "y": np.zeros(14)}, design)
    found = identifiability.assess(posterior, draws=2)
    (named,) = found.collinear
    assert named.names == ("first", "second")
    assert named.resolved
    assert 10 < named.index < 100
    assert found["first"].verdict == found["second"].verdict == "identified"
    assert not any("trade off" in word for word in found.words)


# Networks that are linear in their weights: absorption is algebra


def beside(x, features, y=None):
    """A slope beside two affine networks: `y = slope x + f(features) + g(x^3)`."""
    slope = bh.parameter("slope", dist.Normal(0.0, 1.0))
    f = bh.network("f", bh.MLP(1, 1, depth=0), scale=5.0, center=0.0, spread=1.0)
    g = bh.network("g", bh.MLP(1, 1, depth=0), scale=0.2, center=0.0, spread=1.0)
    mean = slope * x + f(features[:, None])[:, 0] + g(x[:, None] ** 3)[:, 0]
    bh.observe("y", dist.Normal(mean, NOISE), obs=y)


def exact_absorption(design, prior, known, free):
    """One minus the ratio of gains in precision of the first column, by inverting whole posterior precisions."""

    def gain(some):
        precision = np.diag(1 / prior[some]) + design[:, some].T @ design[:, some] / NOISE**2
        return np.linalg.inv(np.linalg.inv(precision)[:1, :1])[0, 0] - 1 / prior[0]

    return 1 - gain(known + free) / gain(known)


def beside_found(features, x=X):
    """The findings, and the exact absorption by each network, the other free, under the priors as drawn."""
    data = {"x": x, "features": features, "y": np.zeros(14)}
    target = bh.Target(beside, data)
    names = [site.name for site in target.layout.latent]
    sds = prior_units(target, as_key(0))
    columns = {"slope": x}
    for network, scale, asked in (("f", 5.0, features), ("g", 0.2, x**3)):
        columns |= {f"{network}/layers[0].weight": scale * asked, f"{network}/layers[0].bias": scale + 0 * x}
    design = np.stack([columns[name] for name in names], axis=1)
    variances = np.array([1.0] * 5)
    for network in "fg":
        variances[sds.networks[network][0]] = sds.networks[network][1] ** 2
    posterior = solved(beside, data, design, prior=np.diag(variances))
    own = {network: sds.networks[network][0].tolist() for network in "fg"}
    exact = {}
    for network, other in ("fg", "gf"):
        for scale in (0.5, 1.0, 2.0):
            scaled = np.where(np.isin(np.arange(5), own[network]), scale**2, 1.0) * variances
            exact[network, scale] = exact_absorption(design, scaled, [0, *own[other]], own[network])
    return identifiability.assess(posterior, draws=2), exact


def test_a_network_that_can_mimic_a_term_absorbs_it():
    found, exact = beside_found(X)
    assert exact["f", 1.0] > 0.9
    for scale, share in found.absorption["slope", "f"].items():
        assert abs(share - exact["f", scale]) < 1e-3
    assert found["slope"].contraction < 0.5
    (said,) = [word for word in found.words if word.startswith("The network f could have taken")]
    assert "of what the data say about slope" in said
    assert "the other networks being free too" in said
    # With f free the data tell less of the slope than its prior: nothing is left that g could take
    assert np.isnan(found.absorption["slope", "g"][1.0])
    assert any(word.startswith("Whether the network g took anything") for word in found.words)


def test_a_network_that_cannot_mimic_a_term_leaves_it():
    found, exact = beside_found(X**2)
    assert exact["f", 1.0] < 1e-6
    assert all(abs(share) < 1e-6 for share in found.absorption["slope", "f"].values())
    assert found["slope"].verdict == "identified"
    assert any("The network f could have taken at most 0 %" in word for word in found.words)


def test_networks_that_mimic_a_term_in_part_absorb_as_the_algebra_says():
    found, exact = beside_found(X + 0.1 * np.sin(9 * X))
    assert 0.1 < exact["f", 1.0] < 0.999
    assert exact["g", 1.0] > 1e-3
    for network in "fg":
        told = found.absorption["slope", network]
        for scale, share in told.items():
            assert abs(share - exact[network, scale]) < 0.005
        assert found["slope"].absorption[network].scales[2.0][0] == told[2.0]
        assert told[0.5] < told[1.0] < told[2.0]


def test_a_weak_prior_hides_what_a_network_would_take():
    """The blind spot that the result names: the weights are kept too small to act."""
    found, exact = beside_found(1e-4 * X)
    assert exact["f", 1.0] < 0.01
    assert found.absorption["slope", "f"][1.0] < 0.01
    assert any("forbids a network to act hides" in line for line in found.blind)


def test_a_parameter_that_the_data_hardly_tell_has_no_absorption():
    found, _ = beside_found(X, x=1e-3 * X)
    assert np.isnan(found.absorption["slope", "f"][1.0])
    assert any(word.startswith("Whether the network f took anything") for word in found.words)


# Kinds of parameters and of posteriors


def pooled(x, y=None):
    rate = bh.parameter(
        "rate",
        dist.LogNormal(0.0, 0.5),
        shape=(2,),
        labels=("in", "out"),
        across="unit",
        size=4,
        spread=dist.HalfNormal(0.3),
    )
    bh.observe("y", dist.Normal(jnp.sum(rate, axis=1)[:, None] * x[None], NOISE), obs=y)


@pytest.mark.slow
def test_pooled_parameters_with_labels_have_findings():
    data = {"x": X, "y": np.ones((4, 14))}
    size = bh.Target(pooled, data).layout.size
    draws = 0.3 * np.random.default_rng(0).normal(size=(4, 50, size))
    draws[:, :, bh.Target(pooled, data).layout["rate_spread"].start + np.arange(2)] -= 3.0
    found = identifiability.assess(from_draws(pooled, data, draws), draws=2)
    assert {p.kind for p in found.parameters} == {"population", "spread", "offset"}
    assert found["rate_population[in]"].kind == "population"
    assert found["rate_offset[3, out]"].unit == "1"
    assert ("rate_population[in]", "rate_population[out]") in [c.names for c in found.collinear]
    assert "8 offsets of single units" in str(found)


def network_only(x, y=None):
    f = bh.network("f", bh.MLP(1, 1, depth=0), scale=1.0, center=0.0, spread=1.0)
    bh.observe("y", dist.Normal(f(x[:, None])[:, 0], NOISE), obs=y)


def test_a_model_of_networks_alone_says_so():
    posterior = from_draws(network_only, {"x": X, "y": X}, gaussian(np.zeros(2), np.eye(2)))
    found = identifiability.assess(posterior, draws=2)
    assert found.parameters == ()
    assert found.spectrum.shape == (0,)
    assert found.words == (
        "The model has no parameters beside its networks: the weights of a network mean nothing one by one.",
    )
    assert "limits: contraction above 0.9" in str(found)


def unmeasured(y=None):
    bh.parameter("x", dist.Normal(0.0, 1.0))


def test_without_an_observation_everything_is_the_prior():
    found = identifiability.assess(from_draws(unmeasured, {}, gaussian([0.0], np.eye(1))), draws=2)
    assert np.all(found.spectrum == 0)
    assert found["x"].verdict == "driven by the prior"
    assert "Nothing was observed: everything here is the prior." in found.words


def half_improper(y=None):
    level = numpyro.sample("level", dist.ImproperUniform(constraints.real, (), ()))
    apart = bh.parameter("apart", dist.Normal(0.0, 2.0))
    bh.observe("y", dist.Normal(level + apart, 1.0), obs=y)


def test_under_an_improper_prior_local_figures_are_not_assessable():
    posterior = from_draws(half_improper, {"y": np.array(0.0)}, gaussian(np.zeros(2), np.diag([1.0, 0.01])))
    found = identifiability.assess(posterior, draws=2)
    assert found["level"].verdict == "not assessable"
    assert found["apart"].verdict == "identified"
    assert np.isnan(found["level"].contraction)
    assert np.isnan(found["level"].prior_interval[0])
    assert np.all(np.isnan(found.spectrum))
    assert found.collinear == ()
    assert any("improper" in word for word in found.words)
    assert "level  not assessable" in str(found)


def shares(y=None):
    x = numpyro.sample("shares", dist.Dirichlet(np.ones(3)))
    bh.observe("y", dist.Normal(x, 0.01).to_event(1), obs=y)


@pytest.mark.slow
def test_a_simplex_has_verdicts_of_entries_and_a_spectrum_of_coordinates():
    posterior = from_draws(shares, {"y": np.array([0.2, 0.3, 0.5])}, gaussian(np.zeros(2), 1e-4 * np.eye(2)))
    found = identifiability.assess(posterior, draws=2)
    assert [p.name for p in found.parameters] == ["shares[0]", "shares[1]", "shares[2]"]
    assert np.isnan(found["shares[0]"].alone)
    assert found["shares[0]"].verdict == "identified"
    assert set(found.combinations[0].weights) == {"shares (coordinate 0)", "shares (coordinate 1)"}


@pytest.mark.slow
def test_a_model_with_a_solve_is_assessed():
    data = {"times": problems.EXPLODING_TIMES, "y": problems.EXPLODING_Y}
    middle, spread = problems.EXPLODING_PRIOR
    posterior = from_draws(problems.exploding, data, gaussian([middle], spread**2 * np.eye(1) / 4))
    found = identifiability.assess(posterior, draws=4)
    rate = np.exp(posterior.unconstrained.reshape(-1)[np.linspace(0, 999, 4).round().astype(int)])
    slope = 0.2 * rate / (1 - 0.2 * rate) ** 2  # of 1 / (1 - 0.2 rate) by log rate
    units = prior_units(posterior.target, as_key(0))
    assert np.allclose(found.spectrum, np.median((slope * units.sds[0] / 0.1) ** 2), rtol=2e-3)


def test_two_values_are_several_separate_values():
    posterior = pair()
    draws = 0.1 * posterior.unconstrained
    draws[:, :, 3] += np.array([1.0, -1.0, 1.0, -1.0])[:, None]
    found = identifiability.assess(from_draws(straight, {"design": PAIR, "y": np.zeros(14)}, draws), draws=2)
    assert found["idle"].verdict == "several separate values"
    assert found["slope"].verdict == "identified"
    assert any("several separate values of idle" in word for word in found.words)


def test_conflict_with_the_prior_is_said_and_does_not_unmake_an_identified_parameter():
    draws = pair().unconstrained + np.array([0.0, 0.0, 3.5, 0.0])
    found = identifiability.assess(from_draws(straight, {"design": PAIR, "y": np.zeros(14)}, draws), draws=2)
    assert found["slope"].conflict
    assert not found["idle"].conflict
    assert found["slope"].verdict == "identified"
    assert any(
        word.startswith("The data put slope where the prior held almost nothing") for word in found.words
    )
    assert "identified, conflict with the prior" in str(found)


def test_an_approximation_is_named():
    verdict = Verdict((), nature="approximate")
    posterior = pair(verdict=verdict, method="SVI(guide='mean field')")
    said = identifiability.assess(posterior, draws=2).words[-1]
    assert said.startswith(
        "All spreads are those of SVI, whose results are an approximation of the posterior"
    )
    assert not any("All spreads" in word for word in pair_found().words)


def test_thresholds_change_the_words_and_are_printed():
    posterior = pair()
    strict = identifiability.assess(posterior, draws=2, thresholds=Thresholds(identified=0.99999))
    assert strict["slope"].verdict == "weakly identified"
    assert "contraction above 0.99999 identified" in str(strict)


def test_no_draws_are_refused():
    with pytest.raises(ModelError, match=r"draws=0"):
        identifiability.assess(pair(), draws=0)


def test_a_name_that_is_no_parameter_is_an_error():
    with pytest.raises(KeyError, match=r"no parameter 'births': there are first"):
        pair_found()["births"]


# The verdict on one parameter


@pytest.mark.parametrize(
    ("evidence", "word"),
    [
        (Evidence(0.95, True, 0.0, 0.99, False, False), "identified"),
        (Evidence(0.95, True, 0.0, 0.99, False, True), "several separate values"),
        (Evidence(0.95, False, 0.3, 0.99, False, False), "driven by the prior"),
        (Evidence(0.95, False, 0.1, 0.99, False, False), "identified"),
        (Evidence(0.7, True, 0.1, 0.8, False, False), "weakly identified"),
        (Evidence(0.7, True, 0.3, 0.8, False, False), "driven by the prior"),
        (Evidence(0.7, True, 0.1, 0.99, True, False), "only in combination"),
        (Evidence(0.4, True, 0.1, 0.9, False, False), "only in combination"),
        (Evidence(0.4, True, 0.1, 0.52, False, False), "weakly identified"),
        (Evidence(0.2, True, 0.1, 0.3, False, False), "driven by the prior"),
        (Evidence(0.4, True, 0.1, float("nan"), False, False), "weakly identified"),
        (Evidence(0.05, True, 0.0, 0.05, False, False), "driven by the prior"),
        (Evidence(-0.5, True, 0.0, 0.0, False, False), "driven by the prior"),
        (Evidence(float("nan"), False, float("nan"), float("nan"), False, False), "not assessable"),
    ],
)
def test_each_rule_of_the_verdict(evidence, word):
    assert determined(evidence, Thresholds()) == word


def test_the_shift_of_an_interval_is_the_algebra_of_gaussians(generator):
    """A posterior N(m, v) on the prior's scores becomes, under a prior twice as wide, N(m w / v, w)."""
    for middle, variance in [(0.0, 0.5), (1.0, 0.3), (-2.0, 0.1)]:
        z = np.sort(generator.normal(size=200_000))
        z = (z - z.mean()) / z.std() * np.sqrt(variance) + middle
        wider = 1 / (1 / variance - 0.75)
        ends = 1.645 * np.array([-1, 1])
        expected = np.abs(
            middle * wider / variance + ends * np.sqrt(wider) - middle - ends * np.sqrt(variance)
        ).max() / (2 * 1.645 * np.sqrt(variance))
        assert abs(interval_shift(z) - expected) < 0.02


def test_separate_values_are_seen_and_chance_is_not(generator):
    z = generator.normal(size=1000)
    side = np.where(generator.random(1000) < 0.15, 1.0, 0.0)
    assert has_separate_values(z + 5 * side)
    assert has_separate_values(0.001 * z + side)
    assert not has_separate_values(z + 1.5 * side)
    assert not has_separate_values(np.full(1000, 3.0))
    false = [
        has_separate_values(kind)
        for _ in range(40)
        for kind in (generator.normal(size=150), generator.standard_t(3, size=400), generator.random(300))
    ]
    assert sum(false) == 0


def test_basins_tell_separate_values_of_few_draws(generator):
    z = 0.1 * generator.normal(size=60)
    basin = np.arange(60) % 2
    assert has_separate_values(z + 3 * basin, basin)
    assert not has_separate_values(z, basin)
    assert not has_separate_values(z + 3 * basin)
    assert not has_separate_values(z + 3 * (np.arange(60) < 2), (np.arange(60) < 2).astype(int))


def test_few_draws_are_said():
    few = from_draws(straight, {"design": PAIR, "y": np.zeros(14)}, pair().unconstrained[:, :5])
    assert (
        "All this rests on 20 draws, so the figures are rough." in identifiability.assess(few, draws=2).words
    )
    assert not any("rests on" in word for word in pair_found().words)
