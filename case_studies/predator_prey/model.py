"""Three models of the same pelts: the equation, the equation with a small network beside it, a network alone."""

from __future__ import annotations

import csv
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import bayeshybrid as bh

SPECIES = ("hare", "lynx")
FIRST_YEAR = 1900.0

# Where the populations lie, for the inputs of the networks: from the record's own magnitude, by eye.
TYPICAL_PELTS, SPREAD_PELTS = np.array([30.0, 20.0]), np.array([20.0, 15.0])
TYPICAL_LOG, SPREAD_LOG = np.array([3.3, 2.7]), np.array([0.7, 0.8])


def read_pelts(until: float = np.inf) -> dict[str, np.ndarray]:
    """Years and pelts (thousands; hare, lynx) up to and including the year `until`."""
    with open(Path(__file__).with_name("data.csv"), newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
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
    start = bh.parameter(
        "start", dist.LogNormal(jnp.log(10.0), 1.0), shape=(2,), unit="kpelt", labels=SPECIES
    )
    noise = bh.parameter("noise", dist.LogNormal(-1.0, 1.0), shape=(2,), unit="1", labels=SPECIES)
    return start, noise


def lotka_volterra(t, y, rates):
    """Hares breed and are eaten; lynx starve and grow by what they eat."""
    hare, lynx = y
    return jnp.stack([(rates.birth - rates.eaten * lynx) * hare, (rates.growth * hare - rates.death) * lynx])


def _observe(log_path, noise, pelts):
    bh.observe("pelts", dist.LogNormal(log_path, noise), obs=pelts, unit="kpelt", labels=SPECIES)


def equation(times, pelts=None):
    """Lotka-Volterra alone, with the published priors and log-normal counting noise."""
    rates, start, noise = _published_priors()
    path = bh.solve_ode(
        "path", lotka_volterra, start, times, t0=FIRST_YEAR, args=rates, labels=SPECIES, unit="kpelt"
    )
    _observe(jnp.log(path.ys), noise, pelts)


def _solve_on_log_scale(field, start, times, args):
    """The log populations, solved where no population can turn negative; the populations are a site of their own."""
    log_path = bh.solve_ode(
        "log_path",
        field,
        jnp.log(start),
        times,
        t0=FIRST_YEAR,
        args=args,
        labels=SPECIES,
        unit="log kpelt",
    )
    numpyro.deterministic("path", jnp.exp(log_path.ys))
    return log_path.ys


def lotka_volterra_rates(t, log_y, rates):
    """The equation as rates at which each population grows or falls."""
    y = jnp.exp(log_y)
    return lotka_volterra(t, y, rates) / y


def hybrid(times, pelts=None):
    """Lotka-Volterra plus a small network of the state: what the equation leaves out."""
    rates, start, noise = _published_priors()
    missing = bh.network(
        "missing",
        bh.MLP(2, 2, width=8),
        scale=2.0,
        unit="kpelt/yr",
        center=TYPICAL_PELTS,
        spread=SPREAD_PELTS,
        initial="zero",
    )

    def left_out(t, log_y, rates):
        y = jnp.exp(log_y)
        return missing(y) / (y + 1.0)  # fades below one kpelt: nothing lives, nothing dies

    change = bh.residual("change", lotka_volterra_rates, left_out, unit="1/yr", labels=SPECIES)
    _observe(_solve_on_log_scale(change, start, times, rates), noise, pelts)


def rates_from_network(t, log_y, rates):
    """Each population grows or falls at a rate that the network reads off the state."""
    return rates(log_y)


def network_only(times, pelts=None):
    """A neural ODE: a network of the log state gives both rates, at most 3 per year up or down."""
    start, noise = _start_and_noise()
    rates = bh.network(
        "rates",
        bh.MLP(2, 2, width=8),
        scale=1.0,
        unit="1/yr",
        center=TYPICAL_LOG,
        spread=SPREAD_LOG,
        bounds=(-3.0, 3.0),
    )
    _observe(_solve_on_log_scale(rates_from_network, start, times, rates), noise, pelts)


def any_year(times, pelts=None):
    """No dynamics, for comparison: each year is like any other, log-normal about one level of each species."""
    level = bh.parameter("level", dist.Normal(3.0, 1.0), shape=(2,), unit="log kpelt", labels=SPECIES)
    noise = bh.parameter("noise", dist.LogNormal(-1.0, 1.0), shape=(2,), unit="1", labels=SPECIES)
    _observe(jnp.broadcast_to(level, (len(times), 2)), noise, pelts)


MODELS = {"equation": equation, "hybrid": hybrid, "network": network_only}
