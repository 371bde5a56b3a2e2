"""Three models of the same pelts: the equation, the equation with a small network beside it, a network alone."""

from __future__ import annotations

import csv
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import bayeshybrid as bh

SPECIES = ("hare", "lynx")
FIRST_YEAR = 1900.0


def read_pelts(until: float = np.inf) -> dict[str, np.ndarray]:
    """Years and pelts (thousands; hare, lynx) up to and including the year `until`."""
    with open(Path(__file__).with_name("data.csv"), newline="") as file:
        rows = [row for row in csv.DictReader(line for line in file if not line.startswith("#"))]
    years = np.array([float(row["year"]) for row in rows])
    pelts = np.array([[float(row[name]) for name in SPECIES] for row in rows])
    return {"times": years[years <= until], "pelts": pelts[years <= until]}


def _positive(location: float, scale: float) -> dist.Distribution:
    return dist.TruncatedNormal(location, scale, low=0.0)


def _published_priors():
    """Rates, start and noise with the priors of the published model (posteriordb, lotka_volterra)."""
    rates = bh.parameters(
        "rates",
        birth=bh.Parameter(_positive(1.0, 0.5), unit="1/yr"),
        eaten=bh.Parameter(_positive(0.05, 0.05), unit="1/yr/kpelt"),
        death=bh.Parameter(_positive(1.0, 0.5), unit="1/yr"),
        growth=bh.Parameter(_positive(0.05, 0.05), unit="1/yr/kpelt"),
    )
    start, noise = _start_and_noise()
    return rates, start, noise


def _start_and_noise():
    start = bh.parameter("start", dist.LogNormal(jnp.log(10.0), 1.0), shape=(2,), unit="kpelt", labels=SPECIES)
    noise = bh.parameter("noise", dist.LogNormal(-1.0, 1.0), shape=(2,), unit="1", labels=SPECIES)
    return start, noise


def lotka_volterra(t, y, rates):
    """Hares breed and are eaten; lynx starve and grow by what they eat."""
    hare, lynx = y
    return jnp.stack(
        [(rates.birth - rates.eaten * lynx) * hare, (rates.growth * hare - rates.death) * lynx]
    )


def _observe(path, noise, pelts):
    bh.observe("pelts", dist.LogNormal(jnp.log(path.ys), noise), obs=pelts, unit="kpelt", labels=SPECIES)


def equation(times, pelts=None):
    """Lotka-Volterra alone, with the published priors and log-normal counting noise."""
    rates, start, noise = _published_priors()
    path = bh.solve_ode(
        "path", lotka_volterra, start, times, t0=FIRST_YEAR, args=rates, labels=SPECIES, unit="kpelt"
    )
    _observe(path, noise, pelts)
