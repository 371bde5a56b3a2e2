"""Jumps in time that a field makes by itself: found where they are, and nowhere else."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import bayeshybrid as bh
from bayeshybrid.science.jumps import undeclared

TABLE = (0.0, 1.0, 2.0)


def found(field, forcings=()):
    return undeclared(field, 0.0, 1.0, 0.5, forcings)


def counted(t, y, k):
    return jax.lax.fori_loop(0, 3, lambda i, total: total + jnp.where(t > i, 1.0, 0.0), 0.0)


def scanned(t, y, k):
    return jax.lax.scan(lambda total, cut: (total + (t > cut), None), 0.0, jnp.array(TABLE))[0]


def waited(t, y, k):
    return jax.lax.while_loop(lambda left: left > 1.0, lambda left: left - 1.0, t)


@pytest.mark.parametrize(
    "field",
    [
        lambda t, y, k: jnp.where(t > 3.0, 1.0, 0.0) - k * y,
        lambda t, y, k: (t < 3.0) * y,
        lambda t, y, k: jnp.select([t < 1.0], [2.0], 3.0),
        lambda t, y, k: jnp.piecewise(t, [t < 1.0, t >= 1.0], [0.0, 1.0]),
        lambda t, y, k: jnp.heaviside(t - 1.0, 0.5),
        lambda t, y, k: jnp.sign(jnp.sin(t)),
        lambda t, y, k: jnp.floor(t / 24.0) * y,
        lambda t, y, k: jnp.sin(t % 24.0),
        lambda t, y, k: jnp.array(TABLE)[t.astype(int)],
        lambda t, y, k: jnp.array(TABLE)[jnp.searchsorted(jnp.array(TABLE), t)],
        lambda t, y, k: jnp.array(TABLE)[jnp.argmin(jnp.abs(jnp.array(TABLE) - t))],
        lambda t, y, k: jnp.interp(t, jnp.array(TABLE), jnp.array(TABLE)),
        lambda t, y, k: jax.lax.cond(t > 2.0, lambda: 1.0, lambda: y),
        lambda t, y, k: jax.jit(lambda s: jnp.where(s > 2.0, y, 1.0))(t - 1.0),
        counted,
        scanned,
        waited,
    ],
)
def test_a_jump_in_time_is_told_with_its_line(field):
    (sentence,) = found(field)
    assert "test_jumps.py:" in sentence
    assert "bh.doses" in sentence
    assert "bh.forcing" in sentence


def test_each_line_is_told_once():
    def field(t, y, k):
        rain = jnp.where((t > 1.0) & (t < 2.0), 1.0, 0.0)
        light = jnp.where(t % 24.0 < 12.0, 1.0, 0.0)
        return rain * light - k * y

    told = found(field)
    assert len(told) == 2
    assert "(rain = jnp.where" in told[0] or "(rain = jnp.where" in told[1]


ACTIVATIONS = [
    jnp.tanh,
    jax.nn.relu,
    jax.nn.elu,
    jax.nn.leaky_relu,
    jax.nn.gelu,
    jax.nn.softplus,
    jax.nn.swish,
]


def learned(activation):
    net = eqx.nn.MLP(2, 1, 4, 2, activation=activation, key=jax.random.key(0))
    return lambda t, y, k: net(jnp.stack([t, y]))[0] + net(jnp.stack([t, 2 * t]))[0]


@pytest.mark.parametrize(
    "field",
    [
        lambda t, y, k: -k * y,
        lambda t, y, k: jnp.sin(t) * jnp.exp(-t) + t**2 + jnp.sqrt(1 + t**2) - y,
        lambda t, y, k: jnp.where(y > 0.5, -y, 1.0) + jax.lax.cond(y > 1.0, lambda: y, lambda: 0.0),
        lambda t, y, k: jnp.where(y > 0.5, jnp.sin(t), t) + jnp.floor(y),
        lambda t, y, k: jnp.where(y > 2.0 + jnp.sin(t), 1.0, 0.0),  # its time is the state's
        lambda t, y, k: jnp.maximum(t, 1.0) + jnp.abs(t - 2.0) + jnp.clip(t, 0.0, 1.0),
        lambda t, y, k: jax.nn.softplus(t) + jnp.logaddexp(t, y) + jnp.sinc(t) + jnp.hypot(t, 1.0),
        lambda t, y, k: jnp.nan_to_num(t) + jax.scipy.stats.norm.cdf(t) + jax.scipy.special.erf(t),
        lambda t, y, k: [jnp.where(t > 1.0, 1.0, 0.0), -k * y][1],  # a jump that goes nowhere
        *map(learned, ACTIVATIONS),
    ],
)
def test_no_false_alarm(field):
    assert found(field) == ()


def test_declared_forcings_are_exempt_and_others_told():
    rain, heat = bh.forcing(TABLE, TABLE), bh.forcing(TABLE, TABLE, kind="linear")

    def field(t, y, k):
        return rain(t) + heat(t) * y

    assert found(field, [rain, heat]) == ()
    (sentence,) = found(field, [heat])
    assert "not declared" in sentence
    assert "inputs=[...]" in sentence


def test_a_forcing_asked_at_another_time_jumps_elsewhere():
    rain = bh.forcing(TABLE, TABLE)
    (sentence,) = found(lambda t, y, k: rain(t - 2.0), [rain])
    assert "at another time than the field's own t" in sentence
    assert found(lambda t, y, k: rain(jnp.asarray(t)), [rain]) == ()


def test_a_jitted_part_of_a_field_raises_no_false_alarm():
    """What is asked inside it at another time is not seen: there the field's own t goes by another name."""
    rain = bh.forcing(TABLE, TABLE)
    assert found(eqx.filter_jit(lambda t, y, k: rain(t) - y), [rain]) == ()
    assert found(lambda t, y, k: jax.jit(lambda t: rain(t - 2.0))(t), [rain]) == ()
