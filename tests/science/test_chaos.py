"""Exponents of systems whose exponent is known, and what cannot be asked."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from bayeshybrid import ModelError, configuration
from bayeshybrid.science.chaos import horizon, largest_exponent


def lorenz(t, y, args):
    sigma, rho, beta = args
    return jnp.stack([sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2]])


def test_the_exponent_of_lorenz_is_the_published_one():
    """0.9056 at sigma 10, rho 28, beta 8/3 (Sprott 2003, "Chaos and Time-Series Analysis")."""
    with configuration.scope():
        found = largest_exponent(
            lorenz, jnp.array([1.0, 2.0, 20.0]), (10.0, 28.0, 8 / 3), duration=400.0, rtol=1e-7
        )
    assert bool(found.ok)
    assert 0.002 < float(found.error) < 0.05
    assert float(found.value) == pytest.approx(0.9056, abs=4 * float(found.error))


def test_below_the_onset_of_chaos_lorenz_falls_to_a_fixed_point():
    """At rho 10 the slowest eigenvalues at the fixed point are complex, and their real part is the exponent."""
    sigma, rho, beta = 10.0, 10.0, 8 / 3
    x = np.sqrt(beta * (rho - 1))
    jacobian = np.array([[-sigma, sigma, 0.0], [1.0, -1.0, -x], [x, x, -beta]])
    with configuration.scope():
        found = largest_exponent(lorenz, jnp.array([1.0, 2.0, 5.0]), (sigma, rho, beta), duration=200.0)
    assert float(found.value) == pytest.approx(np.linalg.eigvals(jacobian).real.max(), abs=0.02)


def test_an_oscillation_neither_grows_nor_fades():
    with configuration.scope():
        found = largest_exponent(
            lambda t, y, args: jnp.stack([y[1], -y[0]]), jnp.array([1.0, 0.0]), duration=60 * np.pi
        )
    assert abs(float(found.value)) < 0.01


def test_a_small_error_has_grown_to_one_at_the_horizon():
    """Two solutions of Lorenz that start a millionth apart are one apart near the horizon, not before half of it."""
    from bayeshybrid.science import ode

    ahead = horizon(0.9056, 1e-6, 1.0)
    times = jnp.linspace(0.1, 2 * ahead, 200)
    with configuration.scope():
        start = jnp.array([-5.8, -6.2, 23.6])
        one, other = (
            ode.solve(lorenz, y0, times, 0.0, (10.0, 28.0, 8 / 3), rtol=1e-10, atol=1e-10).ys
            for y0 in (start, start + 1e-6)
        )
    apart = np.abs(np.asarray(one - other)).max(axis=1)
    first = float(times[np.argmax(apart > 1.0)])
    assert 0.5 * ahead < first < 1.7 * ahead


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (
            lambda: largest_exponent(lorenz, jnp.ones((3, 1)), (10.0, 28.0, 2.0), duration=1.0),
            "write a vector",
        ),
        (
            lambda: largest_exponent(lorenz, jnp.ones(3), (10.0, 28.0, 2.0), duration=0.0),
            "must be above zero",
        ),
        (lambda: horizon(0.9, 1.0, 0.1), "the first the smaller"),
    ],
)
def test_what_has_no_exponent_is_refused(ask, told):
    with pytest.raises(ModelError, match=told):
        ask()
