"""The program that searches and shared chains ask: right, compiled once, its loops compiled whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.inference.trajectories import Points, march, slopes
from tests.loops import counted_loops


def decay(times, y=None):
    rate = bh.parameter("rate", dist.LogNormal(0.0, 0.5))
    start = bh.parameter("start", dist.LogNormal(0.0, 0.5))
    path = bh.solve_ode("path", lambda t, y, rate: -rate * y, start, times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)


@pytest.fixture(scope="module")
def target():
    stated = bh.Target(decay, {"times": np.arange(1.0, 4.0), "y": np.array([0.5, 0.2, 0.1])})
    return stated.frozen({"path": np.linspace(0.0, 3.0, 13)})


def walled(y=None):
    x = numpyro.sample("x", dist.Normal())
    numpyro.sample("y", dist.Normal(jnp.log(x), 1.0), obs=y)


@pytest.mark.parametrize("count", [1, 64, 70])
def test_slopes_are_the_density_and_its_gradient(target, count):
    points = np.random.default_rng(0).normal(0.0, 0.3, (count, target.layout.size))
    with configuration.scope():
        values, gradients = slopes(target, points)
        wanted = jax.vmap(jax.value_and_grad(target.log_density))(points)
    np.testing.assert_allclose(values, wanted[0], rtol=1e-12)
    np.testing.assert_allclose(gradients, wanted[1], rtol=1e-9, atol=1e-9)


def test_slopes_are_nothing_where_the_density_is_zero():
    with configuration.scope():
        values, gradients = slopes(bh.Target(walled, {"y": np.array(0.0)}), np.array([[-1.0], [1.0]]))
    assert values[0] == -np.inf
    assert np.isfinite(values[1])
    assert gradients[:, 0].tolist() == [0.0, -1.0]


def test_trajectories_run_backwards_and_keep_energy_to_second_order(target):
    """Hairer, Lubich and Wanner 2006: the map is its own inverse with momenta turned; the error falls with h^2."""
    generator = np.random.default_rng(1)
    size = target.layout.size
    factor = np.tril(generator.normal(0.0, 0.02, (size, size))) + 0.1 * np.eye(size)
    points = generator.normal(0.0, 0.1, (8, size))
    limit = np.full(8, np.inf)
    with configuration.scope():
        values, gradients = slopes(target, points)
        start = Points(points, generator.normal(size=(8, size)), values, gradients)

        def drift(steps):
            end = march(target, start, factor, steps, 1.0 / steps, limit)
            assert not np.any(end.diverged)
            return end.points, np.abs(end.points.energy - start.energy).max()

        end, coarse = drift(20)
        _, fine = drift(40)
        back = march(target, end._replace(momentum=-end.momentum), factor, 20, 0.05, limit).points
    np.testing.assert_allclose(back.position, points, atol=1e-9)
    assert 3.5 < coarse / fine < 4.5


def test_search_and_shared_chains_share_one_executable():
    """A model of its own, so that nothing of it has been compiled before."""

    def model(times, y=None):
        rate = bh.parameter("rate", dist.LogNormal(0.0, 0.5))
        bh.observe("y", dist.Normal(jnp.exp(-rate * times**1.01), 0.1), obs=y)

    compiled = []

    def heard(event, duration_secs, **about):
        if event.endswith("backend_compile_duration") and "_march" in about.get("fun_name", ""):
            compiled.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        posterior = bh.infer(model, {"times": np.arange(1.0, 4.0), "y": np.array([0.5, 0.2, 0.1])}, key=0)
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    assert "SharedHMC" in posterior.method
    assert len(compiled) == 1


COUNT = """
import bayeshybrid as bh, jax, numpy as np
from bayeshybrid import configuration
from bayeshybrid.inference.trajectories import _march
from tests.benchmarks.rows import read_row
with configuration.scope():
    target = bh.Target(*read_row("lotka_volterra").ours())
    target = target.frozen({"path": np.linspace(1900.0, 1920.0, 61)})
    program = jax.jit(_march, compiler_options=configuration.compile_options())
    text = program.lower(target, np.zeros((16, 25)), np.zeros(66)).compile().as_text()
"""


def test_the_loops_of_a_trajectory_are_compiled_whole():
    """The solve forwards and backwards, within the loop over the steps; with our options switched off neither is."""

    assert counted_loops(COUNT) == ["3", "2"]
    assert counted_loops(COUNT, BAYESHYBRID_CONFIGURE="0") == ["3", "0"]
