"""Lynx and hare of the Hudson Bay, 1900 to 1920, by the equation of Lotka and Volterra.

The model of posteriordb (`hudson_lynx_hare-lotka_volterra`, after Carpenter 2018), its tolerances included:
rtol 1e-5, atol 1e-3. Priors: birth, death ~ Normal+(1, 0.5); eaten, growth ~ Normal+(0.05, 0.05); start of both
~ LogNormal(log 10, 1); noise of both ~ LogNormal(-1, 1). Pelts are log-normal about the populations.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tests.benchmarks.rows.row import Row

RECORD = Path(__file__).parents[3] / "case_studies" / "predator_prey" / "data.csv"
RTOL, ATOL = 1e-5, 1e-3


def read_pelts() -> tuple[np.ndarray, np.ndarray]:
    """Years, and pelts in thousands, `(year, 2)`: hare, lynx."""
    with open(RECORD, newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    table = np.array([[float(row[name]) for name in ("year", "hare", "lynx")] for row in rows])
    return table[:, 0], table[:, 1:]


def ours():
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import bayeshybrid as bh

    def field(t, y, rates):
        hare, lynx = y
        return jnp.stack(
            [(rates.birth - rates.eaten * lynx) * hare, (rates.growth * hare - rates.death) * lynx]
        )

    def model(times, pelts=None):
        fast, small = (dist.TruncatedNormal(m, s, low=0.0) for m, s in ((1.0, 0.5), (0.05, 0.05)))
        rates = bh.parameters(
            "rates",
            birth=bh.Parameter(fast, unit="1/yr"),
            eaten=bh.Parameter(small, unit="1/yr/kpelt"),
            death=bh.Parameter(fast, unit="1/yr"),
            growth=bh.Parameter(small, unit="1/yr/kpelt"),
        )
        start = bh.parameter("start", dist.LogNormal(np.log(10.0), 1.0), shape=(2,), unit="kpelt")
        noise = bh.parameter("noise", dist.LogNormal(-1.0, 1.0), shape=(2,), unit="1")
        path = bh.solve_ode("path", field, start, times, t0=1900.0, args=rates, rtol=RTOL, atol=ATOL)
        bh.observe("pelts", dist.LogNormal(jnp.log(path.ys), noise), obs=pelts, unit="kpelt")

    times, pelts = read_pelts()
    return model, {"times": times, "pelts": pelts}


def by_hand(rtol, atol):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from tests.benchmarks.rows.by_hand import solve

    times, pelts = read_pelts()

    def field(t, y, rates):
        birth, eaten, death, growth = rates
        return jnp.array([(birth - eaten * y[1]) * y[0], (growth * y[0] - death) * y[1]])

    def model():
        birth = numpyro.sample("birth", dist.TruncatedNormal(1.0, 0.5, low=0.0))
        eaten = numpyro.sample("eaten", dist.TruncatedNormal(0.05, 0.05, low=0.0))
        death = numpyro.sample("death", dist.TruncatedNormal(1.0, 0.5, low=0.0))
        growth = numpyro.sample("growth", dist.TruncatedNormal(0.05, 0.05, low=0.0))
        start = numpyro.sample("start", dist.LogNormal(np.log(10.0), 1.0).expand([2]).to_event(1))
        noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))
        ys = solve(field, start, times, 1900.0, (birth, eaten, death, growth), rtol, atol)
        numpyro.sample("pelts", dist.LogNormal(jnp.log(ys), noise), obs=pelts)

    return model


STAN = """
functions {
  vector field(real t, vector y, real birth, real eaten, real death, real growth) {
    return [(birth - eaten * y[2]) * y[1], (growth * y[1] - death) * y[2]]';
  }
}
data {
  int N;
  array[N] real times;
  array[2] real first;
  array[N, 2] real pelts;
  real rtol;
  real atol;
}
parameters {
  real<lower=0> birth;
  real<lower=0> eaten;
  real<lower=0> death;
  real<lower=0> growth;
  vector<lower=0>[2] start;
  vector<lower=0>[2] noise;
}
model {
  array[N] vector[2] y = ode_rk45_tol(field, start, 0.0, times, rtol, atol, 100000, birth, eaten, death, growth);
  birth ~ normal(1, 0.5);
  death ~ normal(1, 0.5);
  eaten ~ normal(0.05, 0.05);
  growth ~ normal(0.05, 0.05);
  start ~ lognormal(log(10), 1);
  noise ~ lognormal(-1, 1);
  for (k in 1 : 2) {
    first[k] ~ lognormal(log(start[k]), noise[k]);
    pelts[ : , k] ~ lognormal(log(y[ : , k]), noise[k]);
  }
}
"""


def stan_data():
    times, pelts = read_pelts()
    later = {"times": (times[1:] - times[0]).tolist(), "pelts": pelts[1:].tolist()}
    return {"N": len(times) - 1, "first": pelts[0].tolist(), **later}


# Means of posteriordb's reference draws, and their standard errors.
PUBLISHED = {
    "birth": (0.546864499783931, 0.00062626907415417),
    "eaten": (0.0277472877678081, 4.11604266143508e-05),
    "death": (0.800095360233122, 0.000884603225898987),
    "growth": (0.0240859152534545, 3.50047668143892e-05),
    "start[0]": (34.0352224770469, 0.0293082761729642),
    "start[1]": (5.93589713368062, 0.00533872103038814),
    "noise[0]": (0.24805686320252, 0.000439337727695207),
    "noise[1]": (0.251016914583618, 0.000439525598676463),
}

ROW = Row(
    name="lotka_volterra",
    title="Lotka-Volterra, lynx and hare",
    unknowns=("birth", "eaten", "death", "growth", "start", "noise"),
    ours=ours,
    by_hand=by_hand,
    stan=STAN,
    stan_data=stan_data,
    rtol=RTOL,
    atol=ATOL,
    published=PUBLISHED,
    kernel="lotka_volterra",
)
