"""Metrics of a diagonal and a few directions: their algebra, what they tell apart, and what they save."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.diagnostics import mean_error
from bayeshybrid.inference.driver import drive
from bayeshybrid.inference.low_rank import RANK, LowRank, estimate, nothing_recent, remembered
from bayeshybrid.inference.method import Basin
from bayeshybrid.inference.whitening import inverse_of, pull_back, push_back, unwhiten, whiten

SIZE, DIRECTIONS, NOISE = 160, 5, 0.02


def orthonormal(size, count, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, count)))[0]


def mixed(directions, y=None):
    """Standard normal unknowns of which a few combinations are measured precisely."""
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([SIZE]).to_event(1))
    bh.observe("y", dist.Normal(directions.T @ x, NOISE), obs=y)


DATA = {"directions": orthonormal(SIZE, DIRECTIONS), "y": np.linspace(-1.0, 1.0, DIRECTIONS)}


def test_its_four_maps_are_those_of_the_matrix():
    random = np.random.default_rng(1)
    vectors = np.concatenate([orthonormal(40, 6), np.zeros((40, RANK - 6))], axis=1)
    stretch = np.append(np.exp(random.normal(size=6)), np.ones(RANK - 6))
    factor = LowRank(np.exp(random.normal(size=40)), vectors, stretch)
    dense = factor.scale[:, None] * (np.eye(40) + (vectors * (stretch - 1)) @ vectors.T)
    inverse, z = inverse_of(factor), random.normal(size=40)
    np.testing.assert_allclose(unwhiten(factor, z), dense @ z)
    np.testing.assert_allclose(whiten(inverse, z), np.linalg.solve(dense, z))
    np.testing.assert_allclose(pull_back(factor, z), dense.T @ z)
    np.testing.assert_allclose(push_back(inverse, z), np.linalg.solve(dense.T, z))


@pytest.mark.parametrize("deviation", [30.0, 1 / 30], ids=["wide", "narrow"])
def test_one_direction_is_told_from_fewer_draws_than_unknowns(deviation):
    """A Gaussian of 300 unknowns, 160 draws: the direction is found to a few degrees, all others are left alone."""
    vector = orthonormal(300, 1)[:, 0]
    normal = np.random.default_rng(2).normal(size=(4, 40, 300))
    draws = normal + (deviation - 1) * (normal @ vector)[..., None] * vector
    slopes = -(draws + (deviation**-2 - 1) * (draws @ vector)[..., None] * vector)
    found = estimate(draws, slopes)
    along = np.argmax(np.abs(np.log(found.stretch)))
    scaled = vector / found.scale if deviation > 1 else vector * found.scale  # as the diagonal lets it look
    assert abs(found.vectors[:, along] @ scaled) / np.linalg.norm(scaled) > 0.98
    assert 0.5 < found.stretch[along] * np.exp(np.mean(np.log(found.scale))) / deviation < 2.0
    others = np.delete(found.stretch, along) * np.exp(np.mean(np.log(found.scale)))
    assert np.all((others > 0.4) & (others < 2.5))


def test_chains_that_hardly_moved_tell_no_direction():
    draws = np.zeros((4, 40, 60))
    draws[0, 20:] = np.arange(60.0)
    found = estimate(draws, -draws)
    assert np.all(found.stretch == 1.0)
    assert np.all(np.isfinite(found.scale) & (found.scale > 0))


def test_only_the_last_draws_are_kept():
    recent = nothing_recent(1, 100_000)
    assert recent.positions.shape == (1, 50, 100_000)
    small = jax.tree.map(lambda x: x[0, :3, :2], recent)
    for count in range(5):
        small = remembered(jax.tree.map(jnp.asarray, small), count, jnp.full(2, count), jnp.full(2, -count))
    assert sorted(small.positions[:, 0].tolist()) == [2, 3, 4]
    assert sorted(small.gradients[:, 0].tolist()) == [-4, -3, -2]


def drawn(metric):
    basins = (Basin(np.zeros(SIZE), 0.0, np.zeros((1, SIZE)), None, np.ones(SIZE), 1.0, 0.0),)
    method = bh.NUTS(draws=200, warmup=300, metric=metric)
    with configuration.scope():
        target = bh.Target(mixed, DATA)
        run = drive(method, target, basins, jax.random.key(0), bh.Silent())
        result = method.finish(target, run.state, run.chunks, basins)
    return result.draws, result.statistics["n_steps"].mean()


def test_it_gives_the_posterior_in_few_gradients():
    """Against the closed form: along each measured direction the mean is y / (1 + noise^2), the sd about the noise."""
    draws, steps = drawn("low rank")
    assert steps < 40
    along = draws @ DATA["directions"]
    for i, y in enumerate(DATA["y"]):
        assert abs(along[..., i].mean() - y / (1 + NOISE**2)) < 4 * mean_error(along[..., i])
        assert along[..., i].std() == pytest.approx((1 + NOISE**-2) ** -0.5, rel=0.15)
    across = draws @ orthonormal(SIZE, DIRECTIONS + 1)[:, -1]
    assert abs(across.mean()) < 4 * mean_error(across)
    assert across.std() == pytest.approx(1.0, rel=0.1)


@pytest.mark.slow
def test_a_diagonal_alone_takes_eight_times_as_many():
    assert 8 * drawn("low rank")[1] < drawn("diagonal")[1]


def test_above_150_unknowns_it_is_the_default():
    basin = Basin(np.zeros(SIZE), 0.0, np.zeros((1, SIZE)), None, np.ones(SIZE), 1.0, 0.0)
    with configuration.scope():
        target = bh.Target(mixed, DATA)
        assert isinstance(bh.NUTS().start(target, (basin,), jax.random.key(0)).factor, LowRank)
