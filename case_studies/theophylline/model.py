"""One compartment with absorption from the gut, for twelve subjects at once; and the same with a network in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.distributions import Distribution

import bayeshybrid as bh

RECORD = Path(__file__).with_name("data.csv")
COMPARTMENTS = ("gut", "blood")
LAST_DIGIT = 0.01  # mg/L
TOLERANCE = 1e-5
FASTEST = 12.0  # 1/h: half of what is dissolved is absorbed in three and a half minutes
KNOTS = (0.25, 0.75, 2.0, 6.0)  # h since a dose, where the bumps lie that the network joins
SINCE = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # h since a dose, at which absorption is told
WIDTH = 0.8  # of a bump, on the logarithm of time


def read_record(path: Path = RECORD) -> bh.Measurements:
    """The record as arguments of the models: `hours` and `conc` `(subject, time)`, `dose` with `(subject, dose)`.

    No assay reads nine times exactly nothing: a 0 stands for whatever lies below the last digit given.
    """
    return bh.measurements(
        path, individual="subject", time="hours", value="conc", dose="dose", lower_limit=LAST_DIGIT
    )


def _pooled(low: float, high: float, unit: str, subjects: int) -> bh.Parameter:
    """Log-normal between subjects; 95 % of the prior of the typical value lies between the two figures."""
    # People rarely differ less than 5 % or more than e-fold (a standard deviation of 1 on the log scale).
    spread = bh.prior_interval(0.05, 1.0)
    prior = bh.prior_interval(low, high)
    return bh.Parameter(prior, unit=unit, across="subject", size=subjects, spread=spread)


def kinetics(subjects: int) -> Any:
    """Absorption, clearance and volume of each subject."""
    return bh.parameters(
        "kinetics",
        absorption=_pooled(0.3, 6.0, "1/h", subjects),  # a plain tablet: half is absorbed in 7 min to 2.3 h
        clearance=_pooled(0.01, 0.15, "L/h/kg", subjects),  # from severe liver disease to heavy smokers
        volume=_pooled(0.15, 1.5, "L/kg", subjects),  # from extracellular water to twice all body water
    )


def noise(concentration: Any) -> Distribution:
    """What an assay adds: a part of one size and a part in proportion."""
    additive = bh.parameter("additive", bh.prior_interval(0.05, 2.0), unit="mg/L", group="noise")
    proportional = bh.parameter("proportional", bh.prior_interval(0.02, 0.5), unit="1", group="noise")
    return bh.noise.combined(concentration, additive, proportional)


def oral(t, amounts, rates):
    """What is in the gut is absorbed, what is in the blood is cleared: `rates` of both, in 1/h."""
    absorbed, cleared = rates
    gut, blood = amounts
    return jnp.stack([-absorbed * gut, absorbed * gut - cleared * blood])


def equation(hours, dose, conc=None):
    """The equation alone: amounts in mg/kg, in the gut and in the blood of each subject."""
    k = kinetics(len(hours))
    rates = (k.absorption, k.clearance / k.volume)
    _observe(_solve(oral, hours, dose, rates, (0, 0)), k.volume, conc)


def hybrid(hours, dose, conc=None):
    """The same, with absorption that a radial basis network lets change over the hours since the last dose.

    What is dissolved is absorbed through the wall of the gut no faster than `FASTEST`, in series with what the network
    says, so that no course is stiff. `absorption_over_time` is the rate at `SINCE` in the middle of the subjects.
    """
    k = kinetics(len(hours))
    change = bh.network(
        "change", bh.MLP(len(KNOTS), 1, depth=0), scale=0.7, unit="1", center=0.0, spread=1.0, initial="zero"
    )
    given = jnp.where(dose["amounts"] > 0, dose["times"], 0.0)
    last = bh.forcing(given, given)  # at any time, when the last dose was given

    def absorbed(absorption, change, since):
        free = absorption * jnp.exp(change(bumps(since))[..., 0])
        return free / (1 + free / FASTEST)

    def field(t, amounts, args):
        absorption, cleared, change = args
        return oral(t, amounts, (absorbed(absorption, change, t - last(t)), cleared))

    args = (k.absorption, k.clearance / k.volume, change)
    _observe(_solve(field, hours, dose, args, (0, 0, None), last), k.volume, conc)
    middle = jnp.exp(jnp.mean(jnp.log(k.absorption)))
    numpyro.deterministic("absorption_over_time", absorbed(middle, change, jnp.array(SINCE)))


def bumps(since):
    """The basis of the network, `(..., knots)`: bumps over the logarithm of the hours since a dose."""
    apart = jnp.subtract.outer(jnp.log(since + 0.1), jnp.log(jnp.array(KNOTS)))
    return jnp.exp(-0.5 * (apart / WIDTH) ** 2)


def _solve(field, hours, dose, args, in_axes, *more):
    return bh.solve_ode(
        "amounts",
        field,
        jnp.zeros((len(hours), 2)),
        hours,
        t0=0.0,
        args=args,
        inputs=[bh.doses(**dose, into="gut"), *more],
        in_axes=(0, 0, in_axes),
        across="subject",
        labels=COMPARTMENTS,
        unit="mg/kg",
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


def _observe(path, volume, conc):
    concentration = path.ys[..., 1] / volume[:, None]
    bh.observe("conc", noise(concentration), obs=conc, unit="mg/L", across="subject")


def closed_form(hours, dose, absorption, clearance, volume) -> np.ndarray:
    """Concentration in mg/L after one dose in mg/kg at time 0: the equation solved by hand (absorption not clearance
    over volume)."""
    cleared = clearance / volume
    share = absorption / (absorption - cleared)
    return dose / volume * share * (np.exp(-cleared * hours) - np.exp(-absorption * hours))


MODELS = {"equation": equation, "hybrid": hybrid}
