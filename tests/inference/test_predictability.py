"""The horizon of chaotic solves, what is cut by it, and what is said beyond it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.inference.predictability import beyond_horizon, horizons, windows

LORENZ = np.array([10.0, 28.0, 8.0 / 3.0])


def flow(t, y, p):
    return jnp.stack([p[0] * (y[1] - y[0]), y[0] * (p[1] - y[2]) - y[1], y[0] * y[1] - p[2] * y[2]])


def lorenz(times, y=None):
    scale = bh.parameter("scale", dist.LogNormal(0.0, 0.1), shape=(3,))
    path = bh.solve_ode("path", flow, jnp.array([-5.0, -6.0, 22.0]), times, t0=0.0, args=scale * LORENZ)
    bh.observe("y", dist.Normal(path.ys, 1.0), obs=y)


def of(span):
    times = np.linspace(0.2, span, 20)
    return bh.Target(lorenz, {"times": times, "y": np.zeros((20, 3))})


def test_the_exponent_and_horizon_of_lorenz():
    """0.9056 (Sprott 2003, Chaos and Time-Series Analysis, table 4.2); spread and noise 8 give 2.3 time units."""
    found = horizons(of(8.0), np.zeros(3))["path"]
    assert abs(found.exponent - 0.9056) < 4 * found.error + 0.1
    assert found.span == pytest.approx(8.0)
    assert 1.5 < found.horizon < 4.0


def test_windows_lie_within_the_horizon():
    target = of(20.0)
    cut = windows(target, np.zeros((2, 3)), 2)
    assert 20.0 / cut <= horizons(target, np.zeros(3))["path"].horizon
    assert windows(of(0.5), np.zeros((1, 3)), 2) == 2


def test_what_is_asked_beyond_the_horizon_is_said():
    (said,) = beyond_horizon(of(12.0), np.zeros((1, 3)))
    assert "solve_ode('path') is chaotic" in said
    assert "bh.recipes.MultipleShooting()" in said
    assert beyond_horizon(of(1.0), np.zeros((1, 3))) == ()


def test_units_that_begin_at_different_times_cover_their_own_time():
    def model(times, t0, y=None):
        scale = bh.parameter("scale", dist.LogNormal(0.0, 0.1), shape=(3,))
        start = jnp.tile(jnp.array([-5.0, -6.0, 22.0]), (2, 1))
        path = bh.solve_ode("path", flow, start, times, t0=t0, args=scale * LORENZ, in_axes=(0, 0, None))
        bh.observe("y", dist.Normal(path.ys, 1.0), obs=y)

    begins = np.array([0.0, 50.0])
    times = begins[:, None] + np.array([0.5, 1.0])
    target = bh.Target(model, {"times": times, "t0": begins, "y": np.zeros((2, 2, 3))})
    assert horizons(target, np.zeros(3))["path"].span == pytest.approx(1.0)


def test_a_tame_mode_does_not_hide_it():
    """Where rho is a tenth all solutions end at a point."""
    tame = np.array([0.0, np.log(0.1) / 0.1, 0.0])
    assert horizons(of(12.0), tame)["path"].horizon == np.inf
    assert "is chaotic" in beyond_horizon(of(12.0), np.stack([tame, np.zeros(3)]))[0]


def test_an_oscillation_is_not_chaotic():
    def model(times, y=None):
        rate = bh.parameter("rate", dist.LogNormal(0.0, 0.1))
        path = bh.solve_ode(
            "path",
            lambda t, y, k: 20 * k * jnp.stack([y[1], -y[0]]),
            jnp.array([1.0, 0.0]),
            times,
            t0=0.0,
            args=rate,
        )
        bh.observe("y", dist.Normal(path.ys, 0.001), obs=y)

    target = bh.Target(model, {"times": np.linspace(1.0, 30.0, 30), "y": np.zeros((30, 2))})
    assert horizons(target, np.zeros(1))["path"].horizon == np.inf
    assert beyond_horizon(target, np.zeros((1, 1))) == ()


def test_infer_says_so_in_its_verdict():
    times = np.linspace(0.1, 12.0, 60)
    truth = bh.simulate(lorenz, {"times": times}, key=0, draws=1).observed["y"].draws[0]
    posterior = bh.infer(
        lorenz, {"times": times, "y": truth}, bh.DeepEnsemble(members=2, steps=2), key=0, starts=2
    )
    assert any("is chaotic" in remark for remark in posterior.remarks)
