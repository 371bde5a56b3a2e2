"""Each row states one posterior: our model's log density is that of the model by hand, at draws from the prior."""

from __future__ import annotations

import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers

from tests.benchmarks.agreement import compare, estimates
from tests.benchmarks.density import by_hand, ours, tight
from tests.benchmarks.floor import Kernel, logarithms
from tests.benchmarks.rows import NAMES, read_row
from tests.benchmarks.rows import by_hand as rows_by_hand

DRAWS = 3
SLOW = ("fitzhugh_nagumo", "theophylline", "robertson", "lynx_hare_hybrid")


def prior_draws(row, count):
    """Draws from the prior by common name, `(count, ...)`, without solving anything."""
    with mock.patch.object(
        rows_by_hand, "solve", lambda _, y0, times, *more, **settings: _constant(y0, times)
    ):
        model = row.by_hand(*tight(row))
    found = []
    for seed in range(count):
        with handlers.seed(rng_seed=seed), handlers.trace() as trace:
            model()
        found.append({name: np.asarray(trace[name]["value"]) for name in row.sites})
    return {name: np.stack([draw[name] for draw in found]) for name in row.sites}


def _constant(y0, times):
    return jnp.ones((len(times), *np.shape(y0)))


@pytest.mark.rank_promotion_allowed("numpyro broadcasts the parameters of a prior over its events")
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES])
def test_ours_and_the_model_by_hand_agree(name):
    row = read_row(name)
    points = prior_draws(row, 4 * DRAWS)
    theirs = by_hand(row, points, True)
    solved = np.flatnonzero(np.isfinite(theirs))[:DRAWS]
    assert len(solved) == DRAWS
    mine = ours(row, {site: values[solved] for site, values in points.items()}, True)
    # Far from the data the log density is large, and so are the solvers' errors in it.
    np.testing.assert_allclose(mine, theirs[solved], rtol=1e-5, atol=1e-3)


def test_the_funnel_is_known_exactly(generator):
    row = read_row("funnel")
    v = 3.0 * generator.standard_normal((4, 5000))
    x = np.exp(v / 2.0)[..., None] * generator.standard_normal((4, 5000, 9))
    found = estimates(row.quantities({"v": v, "x": x}))
    assert compare(row, found, row.exact()).passed
    shifted = estimates(row.quantities({"v": v + 0.3, "x": x}))
    assert not compare(row, shifted, row.exact()).passed


def test_a_wrong_program_is_noticed():
    row = read_row("eight_schools")
    points = prior_draws(row, 20)
    wrong = {**points, "mu": points["mu"] + 1.0}
    difference = ours(row, wrong, True) - by_hand(row, points, True)
    assert np.std(difference, ddof=1) > 0.01
    assert jax.config.jax_enable_x64


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernel_of_the_floor_is_the_row():
    row, kernel = read_row("lotka_volterra"), Kernel()
    points = {"birth": 0.55, "eaten": 0.028, "death": 0.8, "growth": 0.024}
    points |= {"start": [34.0, 5.9], "noise": [0.25, 0.25]}
    given = {
        name: np.array(value) * np.array([0.97, 1.0, 1.02]).reshape(-1, *(1,) * np.ndim(value))
        for name, value in points.items()
    }
    values = [kernel.value_and_gradient(q, 40)[0] for q in logarithms(row, given)]
    difference = values - by_hand(row, given, True)
    assert np.ptp(difference) < 1e-4
    q, step = logarithms(row, given)[0], 1e-6
    numeric = [
        (kernel.value_and_gradient(q + e, 4)[0] - kernel.value_and_gradient(q - e, 4)[0]) / (2 * step)
        for e in step * np.eye(8)
    ]
    np.testing.assert_allclose(kernel.value_and_gradient(q, 4)[1], numeric, rtol=1e-5, atol=1e-5)
