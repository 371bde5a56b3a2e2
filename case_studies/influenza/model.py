"""Three models of the same fourteen counts: SIR, SEIR, and SEIR with what its reader would take for granted unknown.

All take `isolation`, a forcing: the share by which transmission is reduced at each time. In the fit it is zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayeshybrid as bh

BOYS = 763
FIRST_DAY = 0.0
ISOLATION_DAY = 4.0

SIR = ("susceptible", "ill", "recovered")
SEIR = ("susceptible", "latent", "ill", "recovered")
LATENCY = (0.5, 3.0)  # days; nineteen in twenty by the prior
SOLVED_TO = 1e-6  # boys
STRAY = 100 * SOLVED_TO  # what dies out may stray below zero by that, where no count is possible


def isolation(share: float = 0.0, day: float = ISOLATION_DAY) -> dict[str, np.ndarray]:
    """What a forcing is made of: transmission as it is until `day`, reduced by `share` from then on."""
    return {"times": np.array([FIRST_DAY, day]), "values": np.array([0.0, share])}


def read_cases(day: float = ISOLATION_DAY) -> bh.Measurements:
    """Days and boys in bed from the table, with no isolation; `day` is when a change may begin."""
    read = bh.measurements(Path(__file__).with_name("data.csv"), time="day", value="in bed")
    return read | {"isolation": isolation(0.0, day)}


def _positive(location: float, scale: float) -> dist.Distribution:
    return dist.TruncatedNormal(location, scale, low=0.0)


def _published_priors(**more: bh.Parameter):
    """Rates with the priors of Grinsztajn, Semenova, Margossian and Riou (2021): there beta, gamma and 1/phi."""
    rates = bh.parameters(
        "rates",
        transmission=bh.Parameter(_positive(2.0, 1.0), unit="1/d"),
        recovery=bh.Parameter(_positive(0.4, 0.5), unit="1/d"),
        **more,
    )
    return rates, bh.parameter("overdispersion", dist.Exponential(5.0), unit="1")


def infections(t, susceptible, ill, rates, less):
    """Boys infected a day: each ill boy meets all others alike, and isolation takes its share away."""
    return rates.transmission * (1.0 - less(t)) * susceptible * ill / BOYS


def sir_field(t, y, args):
    """Kermack and McKendrick (1927): who is infected is ill and infectious at once."""
    rates, less = args
    susceptible, ill, _ = y
    new, gone = infections(t, susceptible, ill, rates, less), rates.recovery * ill
    return jnp.stack([-new, new - gone, gone])


def seir_field(t, y, args):
    """The same, with a latent time between infection and illness."""
    rates, less = args
    susceptible, latent, ill, _ = y
    new, breaks_out, gone = (
        infections(t, susceptible, ill, rates, less),
        latent / rates.latency,
        rates.recovery * ill,
    )
    return jnp.stack([-new, new - breaks_out, breaks_out - gone, gone])


def _solve(field, start, day, isolation, rates, labels):
    """How many are ill on each day, and for the tables what the rates mean."""
    less = bh.forcing(isolation["times"], isolation["values"], kind="previous")
    path = bh.solve_ode(
        "path",
        field,
        start,
        day,
        t0=FIRST_DAY,
        args=(rates, less),
        inputs=[less],
        labels=labels,
        unit="boys",
        atol=SOLVED_TO,
    )
    numpyro.deterministic("R0", rates.transmission / rates.recovery * start.sum() / BOYS)
    numpyro.deterministic("days_ill", 1.0 / rates.recovery)
    return path.ys[:, labels.index("ill")]


def _observe(ill, put_to_bed, overdispersion, in_bed):
    """Counts that scatter more than by chance alone."""
    beds = numpyro.deterministic("beds", put_to_bed * ill)
    numpyro.deterministic("peak", jnp.max(beds))
    noise = bh.noise.overdispersed_counts(beds + STRAY, 1.0 / overdispersion)
    bh.observe("in_bed", noise, obs=in_bed, unit="boys")


def sir(day, isolation, in_bed=None):
    """One boy ill on day 0, everybody can be infected, every ill boy is in bed, as in the published analysis."""
    rates, overdispersion = _published_priors()
    ill = _solve(sir_field, jnp.array([BOYS - 1.0, 1.0, 0.0]), day, isolation, rates, SIR)
    _observe(ill, 1.0, overdispersion, in_bed)


def _latency() -> bh.Parameter:
    return bh.Parameter(bh.prior_interval(*LATENCY), unit="d")


def seir(day, isolation, in_bed=None):
    """The same with a latent time."""
    rates, overdispersion = _published_priors(latency=_latency())
    ill = _solve(seir_field, jnp.array([BOYS - 1.0, 0.0, 1.0, 0.0]), day, isolation, rates, SEIR)
    _observe(ill, 1.0, overdispersion, in_bed)


def open_seir(day, isolation, in_bed=None):
    """SEIR that does not know how many were ill on day 0, could be infected at all, or are put to bed when ill."""
    rates, overdispersion = _published_priors(latency=_latency())
    start = bh.parameter("start", bh.prior_interval(0.2, 20.0), unit="boys")
    reached = bh.parameter("reached", bh.bounded(0.3, 1.0), unit="1")
    put_to_bed = bh.parameter("put_to_bed", bh.bounded(0.3, 1.0), unit="1")
    first = jnp.stack([BOYS * reached - start, 0.0 * start, start, 0.0 * start])
    ill = _solve(seir_field, first, day, isolation, rates, SEIR)
    _observe(ill, put_to_bed, overdispersion, in_bed)


MODELS: dict[str, Any] = {"sir": sir, "seir": seir, "open": open_seir}
