"""Three laws of how an untreated tumour grows, each with numbers of its own for every mouse.

Every law begins with the 10^6 injected cells, about 1 mm^3, and is written as its closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import bayeshybrid as bh

RECORD = Path(__file__).with_name("data.csv")
LAST_FITTED = 14.0  # d
FIRST_VOLUME = 1.0  # mm^3


def read_record() -> bh.Measurements:
    """Days and volumes of each mouse, `(mouse, day)`."""
    return bh.measurements(RECORD, individual="animal", time="day", value="volume")


def early(record: bh.Measurements) -> bh.Measurements:
    """What is fitted: the volumes up to day 14."""
    return _only(record, record["day"] <= LAST_FITTED)


def late(record: bh.Measurements) -> bh.Measurements:
    """What the laws are judged by: the volumes after that."""
    return _only(record, record["day"] > LAST_FITTED)


def _only(record, kept):
    volume = record["volume"]
    return record | {"volume": volume | {"missing": volume["missing"] | ~kept}}


def gompertz(day, start, fall):
    """`V' = (start - fall log(V / V0)) V`: growth that slows as it were ageing."""
    return FIRST_VOLUME * jnp.exp(start / fall * -jnp.expm1(-fall * day))


def logistic(day, start, capacity):
    """`V' = start V (1 - V / capacity)`: growth that ends where space does."""
    return capacity / (1.0 + (capacity / FIRST_VOLUME - 1.0) * jnp.exp(-start * day))


def power(day, rate, exponent):
    """`V' = rate V^exponent`: growth of a part of the tumour only, such as its rim."""
    left = 1.0 - exponent
    return (FIRST_VOLUME**left + left * rate * day) ** (1.0 / left)


def _numbers(mice: int, **priors: tuple[Any, str]) -> Any:
    """What each mouse has of its own, about what is typical."""
    # Mice of one strain rarely differ less than 5 % or more than by half (standard deviations on the log scale).
    pooled = {"across": "animal", "size": mice, "spread": bh.prior_interval(0.05, 0.5)}
    return bh.parameters(
        "growth", **{name: bh.Parameter(prior, unit=unit, **pooled) for name, (prior, unit) in priors.items()}
    )


LAWS: Mapping[str, tuple[Any, dict[str, tuple[Any, str]]]] = {
    "Gompertz": (
        gompertz,
        {"start": (bh.prior_interval(0.3, 2.0), "1/d"), "fall": (bh.prior_interval(0.01, 0.3), "1/d")},
    ),
    "logistic": (
        logistic,
        {"start": (bh.prior_interval(0.2, 1.5), "1/d"), "capacity": (bh.prior_interval(500, 2e4), "mm3")},
    ),
    "power law": (
        power,
        {"rate": (bh.prior_interval(0.2, 4.0), "mm3^(1-g)/d"), "exponent": (bh.bounded(0.5, 0.99), "1")},
    ),
}


def law(name: str) -> Any:
    """The model of all mice by one law."""
    curve, priors = LAWS[name]

    def model(day, volume=None):
        own = _numbers(len(day), **priors)
        additive = bh.parameter("additive", bh.prior_interval(3.0, 100.0), unit="mm3", group="noise")
        proportional = bh.parameter("proportional", bh.prior_interval(0.03, 0.5), unit="1", group="noise")
        expected = curve(day, *(each[:, None] for each in own))
        noise = bh.noise.combined(expected, additive, proportional)
        bh.observe("volume", noise, obs=volume, unit="mm3", across="animal")

    return model
