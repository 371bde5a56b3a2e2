"""Fisher information agrees with quadrature, sums and draws, and the algebra on it with slow independent code."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import integrate, special, stats

import bayeshybrid as bh
from bayeshybrid import information
from bayeshybrid.families import stated_information
from bayeshybrid.noise_information import CENSORED, COUNTED, LEFT_OUT, MISSING, cell_information
from bayeshybrid.observation import Measured
from tests import problems

A = np.array([0.5, 2.0, 7.0])
B = np.array([0.3, 1.0, 4.0])
P = np.array([0.1, 0.5, 0.97])

LOGISTIC = dist.Logistic(A, B)
# Each with the same distribution in scipy, by the parameters that the family is read by
FAMILIES = {
    "normal": (dist.Normal(A, B), lambda m, s: stats.norm(m, s)),
    "log-normal": (dist.LogNormal(A / 4, B / 4), lambda m, s: stats.lognorm(s, scale=np.exp(m))),
    "Laplace": (dist.Laplace(A, B), lambda m, s: stats.laplace(m, s)),
    "Student's t": (dist.StudentT(A + 1.0, A, B), lambda df, m, s: stats.t(df, m, s)),
    "exponential": (dist.Exponential(A), lambda r: stats.expon(scale=1 / r)),
    "gamma": (dist.Gamma(A + 1.0, B), lambda a, b: stats.gamma(a, scale=1 / b)),
    "beta": (dist.Beta(A + 1.0, B + 1.0), lambda a, b: stats.beta(a, b)),
    "Poisson": (dist.Poisson(10 * A), lambda r: stats.poisson(r)),
    "overdispersed": (dist.NegativeBinomial2(20 * A, B), lambda m, k: stats.nbinom(k, k / (k + m))),
    "Bernoulli": (dist.BernoulliProbs(P), lambda p: stats.bernoulli(p)),
    "Bernoulli by logits": (dist.BernoulliLogits(A), lambda a: stats.bernoulli(special.expit(a))),
    "binomial": (dist.BinomialProbs(P, 20), lambda p: stats.binom(20, p)),
    "binomial by logits": (dist.BinomialLogits(A, 20), lambda a: stats.binom(20, special.expit(a))),
    "logistic, without a closed form": (LOGISTIC, lambda m, s: stats.logistic(m, s)),
}
COUNTS = {"binomial": 1, "binomial by logits": 1}


def mean_square_score(make, parameters, step=1e-4):
    """E[score score'] with the score by differences and the mean by quadrature or by summing, one cell."""

    def score(y):
        log = (
            (lambda d: d.logpmf(y))
            if hasattr(make(*parameters), "logpmf") and discrete
            else (lambda d: d.logpdf(y))
        )
        out = []
        for i in range(len(parameters)):
            ends = [np.array(parameters, float) for _ in range(2)]
            width = step * max(1e-2, abs(parameters[i]))
            ends[0][i] += width
            ends[1][i] -= width
            out.append((log(make(*ends[0])) - log(make(*ends[1]))) / (2 * width))
        return np.array(out)

    found = make(*parameters)
    discrete = isinstance(found.dist, stats.rv_discrete)
    if discrete:
        y = np.arange(0, found.ppf(1 - 1e-13) + 2)
        y = y[found.pmf(y) > 0]
        return np.einsum("iy,jy,y->ij", score(y), score(y), found.pmf(y))
    # By the quantile function, in the logit of the level: heavy tails and ends of supports alike
    t = np.linspace(-34.0, 34.0, 8001)
    level, weight = special.expit(t), special.expit(t) * special.expit(-t)
    y = np.where(t < 0, found.ppf(level), found.isf(special.expit(-t)))
    kept = np.isfinite(y) & (found.pdf(y) > 0)
    values = np.einsum("iy,jy->ijy", score(y[kept]), score(y[kept])) * weight[kept]
    return integrate.trapezoid(values, t[kept], axis=-1)


def told(distribution, value, scale=None):
    """As one compiled program, which is faster than operation by operation."""
    return jax.tree.map(np.asarray, jax.jit(lambda: cell_information(distribution, value, scale))())


@pytest.mark.parametrize("name", FAMILIES)
def test_information_of_a_family_is_the_mean_square_of_its_score(name):
    distribution, make = FAMILIES[name]
    found = told(distribution, np.ones(3))
    count = COUNTS.get(name, found.parameters.shape[1])
    order = np.arange(count)
    if "without" in name:  # numpyro keeps the order of its parameters to itself
        pair = (LOGISTIC.loc, LOGISTIC.scale)
        order = [int(np.argmax(np.all(found.parameters == p[:, None], axis=0))) for p in pair]
    assert np.all(found.told == COUNTED)
    assert np.all(found.error < 1e-3)
    for cell in range(3):
        block = np.asarray(found.information[cell])[np.ix_(order, order)]
        expected = mean_square_score(make, np.asarray(found.parameters[cell])[order])
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert np.all(np.abs(block - expected) < 3e-3 * scale)


@pytest.mark.parametrize("name", ["Poisson", "Bernoulli by logits", "exponential", "normal"])
def test_the_route_without_closed_forms_gives_the_same(name):
    distribution, _ = FAMILIES[name]
    exact, other = jax.jit(lambda: [stated_information(distribution, (3,), c) for c in (True, False)])()
    total = [np.sort(np.linalg.eigvalsh(np.asarray(x.information)), axis=1) for x in (exact, other)]
    assert np.allclose(total[0], total[1], rtol=1e-6)


def test_fixed_draws_come_with_their_error():
    gamma = dist.Gamma(A + 1.0, 1.0)
    exact, drawn = jax.jit(lambda: [stated_information(gamma, (3,), c) for c in (True, False)])()
    errors = np.asarray(drawn.error)
    assert np.all((errors > 0.01) & (errors < 0.3))
    largest = [
        np.max(np.diagonal(np.asarray(x.information), axis1=1, axis2=2), axis=1) for x in (exact, drawn)
    ]
    assert np.all(np.abs(largest[1] / largest[0] - 1) < 4 * errors)


def test_large_and_scattered_counts_are_summed_in_steps():
    """A long tail of counts, and counts so large that each step stands for many."""
    means, spreads = np.array([1e5, 100.0, 3e4]), np.array([1e5, 0.1, 2.0])
    found = told(dist.NegativeBinomial2(means, spreads), np.ones(3))
    y = np.unique(np.concatenate([np.arange(20_000), np.geomspace(2e4, 1e7, 200_000).round()]))
    width = np.diff(y, append=y[-1] + 1)
    for cell, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        law = stats.nbinom(spread, spread / (spread + mean))
        score = special.digamma(y + spread) - special.digamma(spread) + np.log(spread / (spread + mean))
        score = score + 1 - (y + spread) / (spread + mean)
        expected = np.sum(law.pmf(y) * width * score**2)
        assert abs(found.information[cell, 1, 1] / expected - 1) < 0.02
        assert found.error[cell] < 0.01


def test_categories_tell_as_much_by_probabilities_as_by_logits():
    logits = np.array([[0.3, -1.0, 0.5], [0.0, 0.0, 2.0]])
    by_logits = told(dist.Categorical(logits=logits), np.zeros(2, int))
    probs = np.asarray(jax.nn.softmax(logits))
    by_probs = told(dist.Categorical(probs=probs), np.zeros(2, int))
    for cell in range(2):
        jacobian = np.diag(probs[cell]) - np.outer(probs[cell], probs[cell])
        assert np.allclose(jacobian @ by_probs.information[cell] @ jacobian, by_logits.information[cell])


def test_a_multivariate_normal_tells_of_its_mean_and_covariance():
    """By its correlation, `(1 + r^2) / (1 - r^2)^2`; by its mean, the inverse covariance."""

    def rows(q):
        covariance = jnp.eye(2) + q[2] * jnp.array([[0.0, 1.0], [1.0, 0.0]])
        return cell_information(dist.MultivariateNormal(q[:2], covariance), np.zeros(2)).parameters[0]

    q = jnp.array([0.3, -0.2, 0.6])
    whitened = np.asarray(jax.jit(jax.jacfwd(rows))(q))  # in coordinates in which the information is one
    told = whitened.T @ whitened
    covariance = np.array([[1.0, 0.6], [0.6, 1.0]])
    assert np.allclose(told[:2, :2], np.linalg.inv(covariance))
    assert np.isclose(told[2, 2], (1 + 0.36) / (1 - 0.36) ** 2)
    assert np.allclose(told[2, :2], 0.0)


def test_missing_cells_tell_nothing_and_censored_ones_a_yes_or_no():
    base = dist.Normal(A, B).to_event(1)
    y = np.array([0.2, 1.0, 9.0])
    left, missing = np.array([False, True, False]), np.array([True, False, False])
    found = told(Measured(base, missing=missing, left=left), y)
    assert found.told.tolist() == [MISSING, CENSORED, COUNTED]
    assert np.all(np.asarray(found.information[0]) == 0)
    below = stats.norm.cdf(-1.0)
    slope = -stats.norm.pdf(-1.0)  # of the probability by the mean, the limit one standard deviation below
    assert np.isclose(found.information[1, 0, 0], slope**2 / (below * (1 - below)))
    theirs = told(dist.LeftCensoredDistribution(dist.Normal(A, B), left), y)
    assert np.allclose(theirs.information[1], found.information[1])
    assert theirs.told.tolist() == [COUNTED, CENSORED, COUNTED]


def test_masks_and_scales_and_scalars_over_many_data():
    masked = cell_information(dist.Normal(A, B).mask(np.array([True, False, True])), np.ones(3))
    assert masked.told.tolist() == [COUNTED, MISSING, COUNTED]
    found = told(dist.Normal(0.0, 0.5), np.ones((2, 3)), scale=4.0)
    assert found.information.shape == (6, 2, 2)
    assert np.allclose(found.information[:, 0, 0], 16.0)


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Uniform(A, A + 1.0),
        dist.Dirichlet(np.ones((3, 2))),
        dist.MixtureSameFamily(dist.Categorical(np.ones((3, 2)) / 2), dist.Normal(np.zeros((3, 2)), 1.0)),
        dist.Poisson(np.zeros(3)),
    ],
)
def test_what_has_no_information_is_left_out_and_counted(distribution):
    found = told(distribution, np.ones(distribution.shape()) / 2)
    assert found.told.tolist() == [LEFT_OUT] * 3
    assert np.all(np.asarray(found.information) == 0)


# Roots at draws of a model


@pytest.mark.parametrize("rows", [1, 12])
def test_a_root_is_the_algebra_of_a_linear_model(rows, generator):
    x = problems.LINEAR_X[:rows]
    target = bh.Target(problems.linear, {"x": x, "y": np.zeros(rows)})
    found = information.fisher_roots(target, generator.normal(size=(3, 2)))
    assert found.root.shape == (3, 2, 2)
    for root in found.root:
        assert np.allclose(root.T @ root, x.T @ x / problems.LINEAR_NOISE**2)
    assert found.cells == {"y": (rows, 0, 0, 0)}
    assert found.lost == 0


def two_sites(counts=None, level=None):
    size = numpyro.sample("size", dist.LogNormal(0.0, 1.0))
    noise = numpyro.sample("noise", dist.LogNormal(0.0, 1.0))
    bh.observe("counts", dist.Poisson(3.0 * size).expand([5]).to_event(1), obs=counts)
    bh.observe("level", dist.Normal(size, noise), obs=level, missing=True)


def test_a_root_joins_sites_and_counts_cells():
    """On the log scale: Poisson tells `5 * 3 size`, the levels `size^2 / noise^2` and 2 of the noise, each."""
    data = {"counts": np.ones(5, int), "level": np.array([0.3, np.nan, 0.1, 2.0])}
    found = information.fisher_roots(bh.Target(two_sites, data), np.log([[2.0, 0.5]]))
    assert np.allclose(found.root[0].T @ found.root[0], [[30.0 + 3 * 16.0, 0.0], [0.0, 3 * 2.0]], atol=1e-9)
    assert found.cells == {"counts": (5, 0, 0, 0), "level": (3, 1, 0, 0)}


def one_way(y=None):
    @jax.custom_vjp
    def doubled(x):
        return 2.0 * x

    doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (2.0 * g,))
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    bh.observe("y", dist.Normal(doubled(x), 0.5), obs=y)


def test_a_model_that_can_only_be_differentiated_backwards_is_so():
    found = information.fisher_roots(bh.Target(one_way, {"y": np.zeros(4)}), np.zeros((1, 1)))
    assert np.isclose(found.root[0, 0, 0] ** 2, 4 * 4.0 / 0.25)


def test_the_sensitivities_of_a_solve_are_those_of_its_solution():
    data = {"times": problems.EXPLODING_TIMES, "y": problems.EXPLODING_Y}
    rate = 0.5
    found = information.fisher_roots(bh.Target(problems.exploding, data), np.log([[rate]]))
    slope = 0.2 * rate / (1 - 0.2 * rate) ** 2
    assert np.isclose(np.sum(found.root**2), (slope / problems.EXPLODING_NOISE) ** 2, rtol=5e-3)


# Algebra on roots


@pytest.fixture
def parts(generator):
    """Science (3), weights (7) and others (2) over 5 rows, and a prior covariance of the science with correlation."""
    science, weights, others = (generator.normal(size=(5, n)) * 3 for n in (3, 7, 2))
    half = generator.normal(size=(3, 3))
    return science, weights, others, half @ half.T + np.eye(3)


def gain_by_inversion(science, prior, free):
    """Prior over posterior variance minus one, from the whole covariance by conditioning on data."""
    size = free.shape[1]
    whole = np.zeros((3 + size, 3 + size))
    whole[:3, :3], whole[3:, 3:] = prior, np.eye(size)
    design = np.concatenate([science, free], axis=1)
    gain = whole @ design.T @ np.linalg.inv(design @ whole @ design.T + np.eye(len(design)))
    posterior = whole - gain @ design @ whole
    return np.diag(prior) / np.diag(posterior)[:3] - 1


def test_gained_precision_is_that_of_the_exact_posterior(parts):
    science, weights, others, prior = parts
    factor = np.linalg.cholesky(prior)
    for free in (weights, others, np.zeros((5, 0))):
        told = information.precision_gain(science, factor, free)
        assert np.allclose(told, gain_by_inversion(science, prior, free), rtol=1e-8)


def test_gained_precision_is_the_contracts_formula_for_independent_priors(parts):
    """`P_i J_i' (R + N)^-1 J_i` with `N = J_o P_o J_o'`."""
    science, weights, _, prior = parts
    sds = np.sqrt(np.diag(prior))
    told = information.precision_gain(science, np.diag(sds), weights)
    for i in range(3):
        rest = np.delete(science * sds, i, axis=1)
        noise = np.eye(5) + rest @ rest.T + weights @ weights.T
        assert np.isclose(told[i], sds[i] ** 2 * science[:, i] @ np.linalg.solve(noise, science[:, i]))


def test_gained_precision_keeps_its_digits_where_data_are_precise():
    told = information.precision_gain(np.array([[1e7, 0.0], [0.0, 1.0]]), np.eye(2), np.array([[0.0], [1.0]]))
    assert np.allclose(told, [1e14, 0.5], rtol=1e-6)


def test_absorption_is_the_loss_of_gained_precision(parts):
    science, weights, others, prior = parts
    factor = np.linalg.cholesky(prior)
    told = information.absorbed(science, factor, others, weights)
    known = gain_by_inversion(science, prior, others)
    left = gain_by_inversion(science, prior, np.concatenate([others, weights], axis=1))
    assert np.allclose(told[known >= 1], (1 - left / known)[known >= 1])
    assert np.array_equal(np.isnan(told), known < 1)
    assert np.all(np.isnan(information.absorbed(1e-3 * science, factor, others, weights)))


def test_what_is_told_while_weights_are_free(parts):
    """`A' (1 + W W')^-1 A`, for fewer and for more weights than rows."""
    science, weights, others, _ = parts
    for free in (weights, others, np.zeros((5, 0))):
        root = information.given_free(science, free)
        expected = science.T @ np.linalg.solve(np.eye(5) + free @ free.T, science)
        assert np.allclose(root.T @ root, expected)


def test_unknown_directions_are_turned_to_be_read():
    """Two pairs of which the sums are told and one parameter without influence, in one space of unknowns."""
    sums = np.array([[1.0, 1, 0, 0, 0], [0, 0, 1.0, 1.0, 0]])
    values, directions = information.principal_directions(sums.T @ np.diag([90.0, 50.0]) @ sums)
    assert np.allclose(values, [180, 100, 0, 0, 0], atol=1e-9)
    left = {tuple(np.abs(np.round(d, 6))) for d in directions.T[2:]}
    half = round(float(np.sqrt(0.5)), 6)
    assert left == {(half, half, 0, 0, 0), (0, 0, half, half, 0), (0, 0, 0, 0, 1)}
    assert np.allclose(directions.T @ directions, np.eye(5))


def test_the_collinearity_index_of_two_columns_is_known():
    """`1 / sqrt(1 - |cos|)` (Brun, Reichert and Künsch 2001)."""
    angle = 0.2
    columns = np.array([[3.0, 7.0 * np.cos(angle)], [0.0, 7.0 * np.sin(angle)]])
    assert np.isclose(information.collinearity(columns), 1 / np.sqrt(1 - np.cos(angle)))
    assert information.collinearity(columns[:1]) == np.inf


def test_only_the_smallest_collinear_sets_are_named(generator):
    one, two, four, five = generator.normal(size=(4, 20)) * 10
    columns = np.stack([one, two, one + two, four, 1.01 * four, five, 1e-3 * five], axis=1)[None]
    found = information.collinear_sets(columns, 10.0)
    assert [chosen for chosen, _, _ in found] == [(0, 1, 2), (3, 4)] or [
        chosen for chosen, _, _ in found
    ] == [(3, 4), (0, 1, 2)]
    assert all(weakest < 1 for _, _, weakest in found)


def test_prior_units_know_what_a_prior_correlates():
    target = bh.Target(nested, {"y": np.array(0.0)})
    found = information.prior_units(target, jax.random.key(2))
    covariance = found.factor @ found.factor.T
    assert found.names == ("centre", "x[0]", "x[1]", "apart")
    expected = np.array([[4.0, 4, 4, 0], [4, 5, 4, 0], [4, 4, 5, 0], [0, 0, 0, 9]])
    assert np.allclose(covariance, expected, atol=0.6)
    assert np.all(covariance[3, :3] == 0)
    assert np.allclose(np.diag(covariance), found.sds**2)


def nested(y=None):
    centre = numpyro.sample("centre", dist.Normal(0.0, 2.0))
    x = numpyro.sample("x", dist.Normal(centre, 1.0).expand([2]).to_event(1))
    apart = numpyro.sample("apart", dist.Normal(0.0, 3.0))
    numpyro.sample("y", dist.Normal(x.sum() + apart, 0.5), obs=y)


def at_the_end(y=None):
    share = numpyro.sample("share", dist.Beta(0.02, 0.02))
    numpyro.sample("y", dist.Normal(share, 0.5), obs=y)


def test_prior_draws_at_the_end_of_a_support_are_passed_over():
    found = information.prior_units(bh.Target(at_the_end, {"y": np.array(0.0)}), jax.random.key(2))
    assert np.all(np.isfinite(found.factor))
