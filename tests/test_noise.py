"""Noise agrees with closed forms, with the readings it sums up, and with differences; and it is finite in corners."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special, stats

import bayeshybrid as bh
from bayeshybrid import noise
from bayeshybrid.data import support_in_words
from bayeshybrid.moments import conditional_moments
from bayeshybrid.noise_information import COUNTED, LEFT_OUT, cell_information
from bayeshybrid.observation import Measured
from bayeshybrid.randomised import perturbation, randomised_density
from bayeshybrid.summaries import SummaryCell, spread_of_sd
from bayeshybrid.tails import incomplete_beta, student_below

# Of each kind: how it is made from two numbers a cell, and the same in scipy
KINDS = {
    "additive": (noise.additive, lambda m, s: stats.norm(m, s)),
    "proportional": (noise.proportional, lambda m, s: stats.norm(m, s * np.abs(m))),
    "combined": (lambda m, s: noise.combined(m, s, 0.3), lambda m, s: stats.norm(m, np.hypot(s, 0.3 * m))),
    "student_t": (lambda m, s: noise.student_t(m, s, 4.0), lambda m, s: stats.t(4.0, m, s)),
    "counts": (lambda m, s: noise.counts(m), lambda m, s: stats.poisson(m)),
    "overdispersed": (noise.overdispersed_counts, lambda m, s: stats.nbinom(s, s / (s + m))),
    "mean of replicates": (
        lambda m, s: SummaryCell(m, s, 5, False),
        lambda m, s: stats.norm(m, s / np.sqrt(5)),
    ),
    "sd of replicates": (
        lambda m, s: SummaryCell(m, s, 5, True),
        lambda m, s: stats.chi(4, scale=s / 2),
    ),
}
AT = np.array([4.0, 1.7])
ALONG = AT * np.array([1.0, -0.6])
STEPS = 1e-5 * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]) * AT
# The value 3 of a cell, and what is known of it: measured, missing, below, above, between 3 and 6
CELLS = np.array([3.0, np.nan, 3.0, 3.0, 3.0])
MARKS = {"missing": np.isnan(CELLS), "left": np.arange(5) == 2, "right": np.arange(5) == 3}
MARKS["upper"] = np.where(np.arange(5) == 4, 6.0, np.nan)


def compiled(function, *arguments):
    return jax.tree.map(np.asarray, jax.jit(function)(*arguments))


def is_count(exact):
    return isinstance(exact.dist, stats.rv_discrete)


@cache
def told(name):
    """Everything that one kind of noise says at `AT`, by one compiled program."""
    make, exact = KINDS[name]
    values, _ = grid(exact(*AT))

    def known(at):
        return Measured(make(*(jnp.full(5, x) for x in at)), **MARKS).log_prob(CELLS)

    def rows(at):
        cells = cell_information(make(*at), jnp.ones(()))
        return cells.parameters[0], cells

    def program(at):
        slope, cells = jax.jacfwd(rows, has_aux=True)(at)
        return {
            "moments": conditional_moments(make(*at), jax.random.key(0)),
            "logs": jax.vmap(lambda step: make(*(at + step)).log_prob(values))(STEPS),
            "information": slope.T @ cells.information[0] @ slope,
            "told": cells.told,
        }

    along = jax.jit(lambda at: jax.jvp(known, (at,), (ALONG,)))
    known_at = {
        "known": along(AT),
        "above": along(AT + 1e-5 * ALONG)[0],
        "below": along(AT - 1e-5 * ALONG)[0],
    }
    return jax.tree.map(np.asarray, jax.jit(program)(AT) | known_at)


def grid(exact):
    """Values and their weights under a distribution: all counts, or evenly spaced quantiles."""
    if is_count(exact):
        values = np.arange(0.0, exact.ppf(1 - 1e-13) + 2)
        return values, exact.pmf(values)
    return exact.ppf((np.arange(20_000) + 0.5) / 20_000), np.full(20_000, 1 / 20_000)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_noise_is_that_of_scipy(name):
    found, exact = told(name), KINDS[name][1](*AT)
    values, _ = grid(exact)
    density = exact.logpmf(values) if is_count(exact) else exact.logpdf(values)
    np.testing.assert_allclose(found["logs"][0], density, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["moments"].mean, exact.mean(), rtol=1e-9)
    np.testing.assert_allclose(found["moments"].variance, exact.var(), rtol=1e-9)
    assert not found["moments"].error.any()


@pytest.mark.parametrize("name", KINDS)
def test_cells_may_be_missing_or_lie_below_above_or_between(name):
    """With slopes as by differences."""
    found, exact = told(name), KINDS[name][1](*AT)
    density = exact.logpmf(3.0) if is_count(exact) else exact.logpdf(3.0)
    between = np.log(exact.sf(3.0) - exact.sf(6.0))
    expected = [density, 0.0, exact.logcdf(3.0), exact.logsf(3.0), between]
    np.testing.assert_allclose(found["known"][0], expected, rtol=1e-8)
    slope = (found["above"] - found["below"]) / 2e-5
    np.testing.assert_allclose(found["known"][1], slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["combined", "overdispersed", "sd of replicates"])
def test_draws_have_the_distribution_of_the_density(name, key):
    make, exact = KINDS[name][0], KINDS[name][1](*AT)
    draws = compiled(lambda at: make(*at).sample(key, (4000,)), AT)
    if is_count(exact):
        counts = np.arange(60)
        shares = np.mean(draws[:, None] <= counts, axis=0) - exact.cdf(counts)
        assert np.max(np.abs(shares)) < 1.9 / np.sqrt(len(draws))
    else:
        assert stats.kstest(draws, exact.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_information_is_the_mean_square_of_the_score(name):
    """Of the score by differences."""
    found = told(name)
    _, weights = grid(KINDS[name][1](*AT))
    logs = found["logs"]
    score = np.stack([logs[1] - logs[2], logs[3] - logs[4]]) / (2e-5 * AT[:, None])
    expected = np.einsum("iy,jy,y->ij", score, score, weights)
    np.testing.assert_allclose(found["information"], expected, rtol=0.01, atol=1e-6)
    assert found["told"].tolist() == [COUNTED]


# Corners


def test_a_zero_predicted_without_noise_is_certain_if_measured_and_nothing_else_is():
    def program(mean):
        made = noise.proportional(mean, 0.2)
        limits = Measured(made, left=np.full(3, True)).log_prob(jnp.array([0.1, 1e-6, 5.0]))
        draws = made.sample(jax.random.key(0), (5,))
        return made.log_prob(jnp.array([0.0, 1e-9, -1.0])), made.variance, draws, limits

    exact, variance, draws, below = compiled(program, np.zeros(3))
    assert exact.tolist() == [0.0, -np.inf, -np.inf]
    assert variance.tolist() == [0.0] * 3
    assert not draws.any()
    np.testing.assert_allclose(below, 0.0, atol=1e-12)


def absorbed(times, limit=None, y=None):
    """A dose at time 1; before it the concentration is zero."""
    size = bh.parameter("size", dist.LogNormal(0.0, 1.0))
    share = bh.parameter("share", dist.LogNormal(-1.0, 1.0))
    mean = jnp.where(times > 1.0, size * times, 0.0)
    bh.observe("y", noise.proportional(mean, share), obs=y, left=limit)


def test_a_series_that_begins_before_the_dose_has_a_density_with_a_finite_slope():
    """A zero before it, or a value below a limit, is certain: both add nothing."""
    times, limit = np.array([0.5, 0.7, 2.0, 3.0]), np.arange(4) == 1
    target = bh.Target(absorbed, {"times": times, "y": np.array([0.0, 0.1, 1.7, 3.6]), "limit": limit})
    value, slope = compiled(jax.value_and_grad(target.log_density), np.array([0.1, -1.5]))

    def by_hand(q):
        mean = np.exp(q[0]) * times[2:]
        likelihood = stats.norm.logpdf([1.7, 3.6], mean, np.exp(q[1]) * mean).sum()
        return likelihood + stats.norm.logpdf(q, [0.0, -1.0], 1.0).sum()

    q = np.array([0.1, -1.5])
    assert np.isclose(value, by_hand(q))
    expected = [(by_hand(q + h) - by_hand(q - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize("make", [noise.counts, lambda m: noise.overdispersed_counts(m, 2.0)])
def test_counts_of_a_mean_near_zero(make):
    """Zero is certain at mean zero, nothing is possible below; the slope is that of the limit."""
    means = np.array([-1e-9, 0.0, 1e-300, 1e-9])

    def program(means):
        slopes = jax.vmap(jax.value_and_grad(lambda m, y: make(m).log_prob(y)), (0, None))
        odd = make(2.0).log_prob(jnp.array([-1.0, 1.5]))
        drawn = make(means[::3]).sample(jax.random.key(0))
        return slopes(means, 0.0), slopes(means, 3.0), odd, drawn, make(means).variance

    (none, by_none), (three, by_three), odd, drawn, variance = compiled(program, means)
    np.testing.assert_allclose(none, [-np.inf, 0.0, 0.0, -1e-9], rtol=1e-5, atol=1e-14)
    np.testing.assert_allclose(by_none, [0.0, -1.0, -1.0, -1.0])
    assert np.isneginf([*three[:2], *odd]).all()
    assert np.isfinite(three[2:]).all()
    np.testing.assert_allclose(by_three[2:], 3.0 / means[2:])
    assert np.isnan(drawn).tolist() == [True, False]
    assert np.isnan(variance).tolist() == [True, False, False, False]


def test_clumped_counts_become_poisson_counts():
    """Where the concentration is large beyond what a difference of gamma functions can tell."""
    mean, value = np.array([0.5, 4.0, 30.0]), np.array([1.0, 3.0, 33.0])
    sizes = np.array([[1e6], [1e9], [1e13]])
    found = compiled(lambda k: noise.overdispersed_counts(mean[None], k).log_prob(value[None]), sizes)
    for row, size in zip(found, sizes[:, 0], strict=True):
        np.testing.assert_allclose(row, stats.poisson.logpmf(value, mean), rtol=200 / size + 1e-11)


def test_noise_that_cannot_be_meant_is_refused():
    for call, message in [
        (lambda: noise.proportional(1.0, 0.0), "proportional: share is 0, but must be positive"),
        (lambda: noise.combined(1.0, -0.1, 0.2), "combined: additive is -0.1, but must be zero or positive"),
        (lambda: noise.replicates(1.0, np.array([1.0, -2.0]), 3), "replicates: sd is -2"),
        (lambda: noise.autocorrelated(np.zeros(3), 1.0, np.arange(3.0), 1.0, white=1.5), "white is 1.5"),
        (
            lambda: noise.autocorrelated(np.zeros((2, 3)), np.ones(2), np.arange(3.0), 1.0),
            "do not fit together",
        ),
        (lambda: noise.autocorrelated(0.0, 1.0, 3.0, 1.0), "do not fit together"),
    ]:
        with pytest.raises(bh.ModelError, match=message):
            call()


# Tails whose shapes are unknown


def test_the_slopes_of_incomplete_beta_are_those_of_scipy():
    a, b, x, step = 2.3, 0.8, 0.4, 1e-5
    found = compiled(jax.grad(incomplete_beta, (0, 1, 2)), a, b, x)
    ends = [(np.array([a, b, x]) + h, np.array([a, b, x]) - h) for h in step * np.eye(3)]
    expected = [(special.betainc(*above) - special.betainc(*below)) / (2 * step) for above, below in ends]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_tail_of_student_t_keeps_its_digits_and_has_slopes():
    t, degrees = np.array([-1e6, -30.0, -1.0, 0.0, 2.0]), 3.5
    value, (by_t, by_degrees) = compiled(
        jax.vmap(jax.value_and_grad(student_below, (0, 1)), (0, None)), t, degrees
    )
    np.testing.assert_allclose(value, stats.t.cdf(t, degrees), rtol=1e-9)
    np.testing.assert_allclose(by_t, stats.t.pdf(t, degrees), rtol=1e-9)
    expected = (stats.t.cdf(t, degrees + 1e-4) - stats.t.cdf(t, degrees - 1e-4)) / 2e-4
    np.testing.assert_allclose(by_degrees, expected, rtol=1e-5, atol=1e-12)


# Replicates


RAW = np.array([[4.0, 5.0, 7.5, 5.2], [-1.0, 0.3, 2.0, 0.1]])
SUMMARY = np.stack([RAW.mean(axis=1), RAW.std(axis=1, ddof=1)], axis=1)


def test_summaries_say_what_the_readings_say():
    """The log densities differ by a constant in mean and sd, so their slopes are equal."""

    def by_summary(mean, sd):
        return noise.replicates(mean, sd, 4).log_prob(SUMMARY)

    def by_reading(mean, sd):
        return jnp.sum(noise.additive(mean[:, None], sd[:, None]).log_prob(RAW), axis=1)

    def program(mean, sd):
        slopes = jax.jacrev(by_summary, (0, 1))(mean, sd), jax.jacrev(by_reading, (0, 1))(mean, sd)
        return slopes, by_summary(mean, sd)

    mean, sd = np.array([4.5, 0.2]), np.array([1.3, 0.4])
    (summarised, read), density = compiled(program, mean, sd)
    np.testing.assert_allclose(np.stack(summarised), np.stack(read), rtol=1e-10)
    expected = stats.norm.logpdf(SUMMARY[:, 0], mean, sd / 2)
    expected += stats.chi.logpdf(SUMMARY[:, 1], 3, scale=sd / np.sqrt(3))
    np.testing.assert_allclose(density, expected)


def test_one_reading_has_no_standard_deviation():
    n = np.array([1, 0, 2])
    y = np.array([[5.4, np.nan], [99.0, 99.0], [5.4, 0.0]])

    def program(sd):
        made = noise.replicates(jnp.full(3, 5.0), sd, n)
        draws = made.sample(jax.random.key(0), (3,))
        return made.log_prob(y), made.mean, made.variance, draws, made.base_dist.support(y)

    cells, mean, variance, draws, possible = compiled(program, 2.0)
    slope = compiled(jax.jacfwd(lambda sd: noise.replicates(jnp.full(3, 5.0), sd, n).log_prob(y)), 2.0)
    np.testing.assert_allclose(cells, [stats.norm.logpdf(5.4, 5.0, 2.0), 0.0, -np.inf])
    np.testing.assert_allclose(slope[:2], [-0.5 + 0.4**2 / 8, 0.0])
    assert mean[0, 1] == variance[0, 1] == 0.0
    assert draws[:, 0, 1].tolist() == [0.0] * 3
    assert possible[2].tolist() == [True, False]
    assert (
        support_in_words(noise.replicates(5.0, 1.0, 3).support)
        == "a mean, and a standard deviation above zero"
    )


def test_the_spread_of_a_standard_deviation_does_not_lose_its_digits():
    degrees = np.array([1.0, 3.0, 999.0, 1001.0, 1e8])
    found = compiled(spread_of_sd, degrees)
    np.testing.assert_allclose(found[:2], stats.chi.var(degrees[:2]) / degrees[:2], rtol=1e-10)
    np.testing.assert_allclose(found[2:], 0.5 / degrees[2:] - 0.125 / degrees[2:] ** 2, rtol=1e-6)


def assay(n, upper=None, y=None):
    level = bh.parameter("level", dist.Normal(5.0, 3.0))
    sd = bh.parameter("sd", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("dish", 3):
        bh.observe("y", noise.replicates(level, sd, n), obs=y, missing=True, upper=upper)


DISHES = {
    "n": np.array([4, 3, 1]),
    "y": np.array([[5.0, 0.0], [np.nan, 0.7], [4.1, np.nan]]),
    "upper": np.array([[np.nan, 0.05], [np.nan, np.nan], [np.nan, np.nan]]),
}


@pytest.mark.slow
def test_summaries_stand_in_a_plate_with_cells_that_are_missing_or_were_rounded_to_zero():
    target = bh.Target(assay, DISHES)
    sd = np.exp(0.1)

    def program(q):
        return (
            target.pointwise(q)["y"],
            jax.grad(target.log_density)(q),
            target.observations(q).moments["y"],
        )

    cells, slope, moments = compiled(program, np.array([4.0, 0.1]))
    rounded = stats.chi.logcdf(0.05, 3, scale=sd / np.sqrt(3))
    alone = stats.chi.logpdf(0.7, 2, scale=sd / np.sqrt(2))
    np.testing.assert_allclose(
        cells, [stats.norm.logpdf(5.0, 4.0, sd / 2) + rounded, alone, stats.norm.logpdf(4.1, 4.0, sd)]
    )
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(moments.mean[:, 0], 4.0)
    np.testing.assert_allclose(moments.variance[:, 0], sd**2 / DISHES["n"])


def test_what_tells_nothing_has_no_information():
    def program(mean):
        return (
            cell_information(noise.proportional(mean, 0.1), jnp.zeros(2)),
            cell_information(noise.replicates(mean[1], 1.0, 1), jnp.zeros(2)),
            cell_information(noise.counts(mean - 2.0), jnp.zeros(2)),
        )

    exact, single, impossible = compiled(program, np.array([0.0, 2.0]))
    assert exact.told.tolist() == [COUNTED] * 2
    assert not exact.information[0].any()
    assert single.information[:, 0, 0].tolist() == [1.0, 0.0]
    assert not single.information[1].any()
    assert impossible.told.tolist() == [LEFT_OUT] * 2


# Ensembles


def dishes(n, y=None):
    level = numpyro.sample("level", dist.ImproperUniform(dist.constraints.real, (), ()))
    log_sd = numpyro.sample("log_sd", dist.ImproperUniform(dist.constraints.real, (), ()))
    bh.observe("y", noise.replicates(level, jnp.exp(log_sd), n), obs=y)


def test_the_optimum_of_moved_summaries_is_a_draw_of_the_posterior(key):
    """That of the readings themselves, under flat priors for the level and the log sd: see `randomised`."""
    y = np.array([[5.0, 1.0], [4.2, 0.7], [4.4, 1.3]])
    target = bh.Target(dishes, {"n": np.full(3, 4), "y": y})
    moved = jax.jit(lambda key: perturbation(target, key))(key)
    e = np.asarray(moved.data["y"])
    chi = stats.chi2.ppf(stats.norm.cdf(e[:, 1]), 3)
    squares = np.sum(3 * y[:, 1] ** 2) + 4 * np.sum((y[:, 0] - y[:, 0].mean()) ** 2)
    sd = np.sqrt(squares / (np.sum((e[:, 0] - e[:, 0].mean()) ** 2) + chi.sum()))
    level = y[:, 0].mean() + sd / 2 * e[:, 0].mean()
    slope = jax.jit(jax.grad(lambda q: randomised_density(target, q, moved)[0]))
    np.testing.assert_allclose(slope(jnp.array([level, np.log(sd)])), 0.0, atol=1e-6)


def test_a_zero_that_is_certain_moves_no_member(key):
    target = bh.Target(absorbed, {"times": np.array([0.5, 2.0, 3.0]), "y": np.array([0.0, 1.7, 3.6])})

    def program(q):
        moved = perturbation(target, key)
        louder = [moved.data["y"], *(moved.data["y"].at[i].add(5.0) for i in range(2))]
        slope = jax.grad(lambda q, y: randomised_density(target, q, moved._replace(data={"y": y}))[0])
        return jax.vmap(slope, (None, 0))(q, jnp.stack(louder))

    plain, before, after = compiled(program, np.array([0.1, -1.0]))
    assert np.isfinite(plain).all()
    np.testing.assert_allclose(before, plain)
    assert np.abs(after - plain).max() > 0.1
