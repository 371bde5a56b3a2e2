"""Models of the slow variables alone: one equation with what may stand for the fast ones, and a network instead of it.

All solve the windows side by side, each from its measured start, under the forcing of that window.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayeshybrid as bh
from case_studies.lorenz96_closure.records import NAMES

# Where slow variables lie, for the inputs of networks and for errors that grow no more: by eye, from the windows.
MIDDLE, SPREAD = 3.0, 5.0
GROWTH = 1.5  # of errors, per time unit: the largest Lyapunov exponent of the equation with Wilks' closure, 1.57 (0.11)

NO_CLOSURE = np.zeros(5)
WILKS = np.array([0.262, 1.45, -0.0121, -0.00713, 0.000296])  # quartic, Wilks (2005)
ARNOLD = np.array([0.341, 1.30, -0.0136, -0.00235, 0.0])  # cubic, Arnold, Moroz and Palmer (2013)

KNOTS, WIDTH = (-5.0, 0.0, 5.0, 10.0), 4.0  # of the closure's network: over what windows visit
SOLVED_TO = 1e-4


def polynomial(coefficients, x):
    """The closure with these coefficients, of powers from zero on."""
    value = 0.0 * x
    for coefficient in coefficients[::-1]:
        value = value * x + coefficient
    return value


def advected(x):
    """What each slow variable gains from its neighbours, `(..., slow)`."""
    return jnp.roll(x, 1, axis=-1) * (jnp.roll(x, -1, axis=-1) - jnp.roll(x, 2, axis=-1))


def resolved(t, x, args):
    """The equation without the fast scale; `args` are the forcing and the coefficient of advection."""
    forcing, advection = args
    return advection * advected(x) - x + forcing


def neighbours(x):
    """Of each slow variable those that its slope depends on, `(..., slow, 4)`: two before, itself, one after."""
    return jnp.stack([jnp.roll(x, shift, axis=-1) for shift in (2, 1, 0, -1)], axis=-1)


def _advection():
    return bh.parameter("advection", bh.prior_interval(0.5, 2.0), unit="1")


def _tell(field, slope, start, forcing, times, x, advection=1.0):
    """Solve the windows and observe them; `slope` says at their starts what `field` says along the way.

    What no closure can know, where the fast variables happen to be, makes errors all along the way, each of which grows
    as the system's own do, until they are as large as the climate's spread.
    """
    forcing = jnp.asarray(forcing)[:, None]
    numpyro.deterministic("tendency", slope(0.0, jnp.asarray(start), (forcing, advection)))
    path = bh.solve_ode(
        "path",
        field,
        start,
        times,
        t0=0.0,
        args=(forcing, advection),
        in_axes=(0, None, (0, None)),
        across="window",
        labels=NAMES,
        rtol=SOLVED_TO,
        atol=SOLVED_TO,
    )
    noise = bh.parameter("noise", bh.prior_interval(0.03, 0.5), group="noise")
    drift = bh.parameter("drift", bh.prior_interval(0.3, 30.0), unit="1/time unit", group="noise")
    grown = drift * jnp.expm1(GROWTH * jnp.asarray(times)) / GROWTH
    grown = SPREAD * jnp.tanh(grown / SPREAD)
    error = jnp.broadcast_to(jnp.sqrt(noise**2 + grown**2)[None, :, None], path.ys.shape)
    bh.observe("x", dist.Normal(path.ys, error), obs=x, across="window", labels=NAMES)


def published(start, forcing, times, coefficients, x=None):
    """The equation with a polynomial that is given: nothing, Wilks' or Arnold's. Only the errors are unknown."""

    def field(t, x, args):
        return resolved(t, x, args) - polynomial(coefficients, x)

    _tell(field, field, start, forcing, times, x)


def linear(start, forcing, times, x=None):
    """The equation with a closure of two free parameters, a drag and an offset, and free advection."""
    drag = bh.parameter("drag", dist.Normal(0.0, 2.0), unit="1/time unit")
    offset = bh.parameter("offset", dist.Normal(0.0, 5.0), unit="1/time unit")

    def field(t, x, args):
        return resolved(t, x, args) - offset - drag * x

    _tell(field, field, start, forcing, times, x, _advection())


def bent(z):
    """A sigmoid from -1 to 1 like tanh, and several times faster."""
    return z / jnp.sqrt(1.0 + z**2)


def stairs(x):
    """What the closure's network is asked of a slow variable: hidden units of fixed places, `(..., len(KNOTS))`."""
    apart = x[..., None] - jnp.asarray(KNOTS).reshape((1,) * jnp.ndim(x) + (-1,))
    return bent(apart / WIDTH)


def hybrid(start, forcing, times, x=None):
    """The equation with free advection, and a network, the same for all slow variables, for what the fast ones take.

    Its hidden units stand where they are put and only their weights are learned, so that the posterior is round enough
    to be sampled; beyond the outermost it levels off.
    """
    closure = bh.network(
        "closure",
        bh.MLP(len(KNOTS), 1, depth=0),
        scale=10.0,
        unit="1/time unit",
        center=0.0,
        spread=1.0,
        initial="zero",
    )

    def taken(t, x, args):
        return -closure(stairs(x))[..., 0]

    change = bh.residual("change", resolved, taken, unit="1/time unit", labels=NAMES)
    _tell(change, lambda *at: resolved(*at) + taken(*at), start, forcing, times, x, _advection())


def network(start, forcing, times, x=None):
    """No equation: a network, the same for all, of a slow variable and its neighbours gives its slope.

    It is told what no data of one forcing could tell, that the forcing adds to the slope.
    """
    slope = bh.network(
        "slope",
        bh.MLP(4, 1, width=10, activation=bent),
        scale=30.0,
        unit="1/time unit",
        center=MIDDLE,
        spread=SPREAD,
    )

    def field(t, x, args):
        return slope(neighbours(x))[..., 0] + args[0]

    _tell(field, field, start, forcing, times, x)


def arguments(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """What the model of this name is given of a record: published closures are told their coefficients."""
    given = GIVEN.get(name)
    return record if given is None else record | {"coefficients": given}


GIVEN = {"no closure": NO_CLOSURE, "quartic (Wilks)": WILKS, "cubic (Arnold)": ARNOLD}
MODELS = dict.fromkeys(GIVEN, published) | {"linear": linear, "hybrid": hybrid, "network": network}
