"""Theophylline of twelve people after one oral dose: hierarchical, written without centring.

The model of the case study (`case_studies/theophylline/model.py`, `equation`), its tolerance of 1e-5 included.
Priors by their central 95 %: typical absorption 0.3 to 6 /h, clearance 0.01 to 0.15 L/h/kg, volume 0.15 to 1.5 L/kg,
the spread of each between people 0.05 to 1 on the log scale, noise of one size 0.05 to 2 mg/L and in proportion
0.02 to 0.5, all log-normal; offsets of people ~ Normal(0, 1). Nine readings of exactly nothing lie below 0.01 mg/L.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import NormalDist

import numpy as np

from tests.benchmarks.rows.row import Row

RECORD = Path(__file__).parents[3] / "case_studies" / "theophylline" / "data.csv"
TOLERANCE, LIMIT = 1e-5, 0.01
TYPICAL = {"absorption": (0.3, 6.0), "clearance": (0.01, 0.15), "volume": (0.15, 1.5)}
SPREAD = (0.05, 1.0)
NOISE = {"additive": (0.05, 2.0), "proportional": (0.02, 0.5)}


def log_normal(low: float, high: float) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm, for a prior with 95 % between the two figures."""
    below, above = np.log(low), np.log(high)
    return float(below + above) / 2, float(above - below) / 2 / NormalDist().inv_cdf(0.975)


def read_record() -> dict[str, np.ndarray]:
    """`hours` and `conc` `(subject, time)`, `dose` in mg/kg `(subject,)`, given at time 0."""
    with open(RECORD, newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    names = sorted({row["subject"] for row in rows}, key=int)
    people = [[row for row in rows if row["subject"] == name] for name in names]
    taken = {"hours": "hours [h]", "conc": "conc [mg/L]"}
    read = {
        key: np.array([[float(r[column]) for r in p if r[column]] for p in people])
        for key, column in taken.items()
    }
    return {**read, "dose": np.array([float(p[0]["dose [mg/kg]"]) for p in people])}


def ours():
    from case_studies.theophylline.model import equation
    from case_studies.theophylline.model import read_record as read_measurements

    return equation, read_measurements()


def by_hand(rtol, atol):
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from tests.benchmarks.rows.by_hand import solve

    record = read_record()
    hours, conc, dose = (jnp.asarray(record[key]) for key in ("hours", "conc", "dose"))

    def oral(t, y, k):
        return jnp.array([-k[0] * y[0], k[0] * y[0] - k[1] * y[1]])

    def person(hours, dose, absorption, cleared):
        start = jnp.array([dose, 0.0])
        return solve(oral, start, hours, 0.0, (absorption, cleared), rtol, atol, forward=False)[:, 1]

    def draw(name):
        typical = numpyro.sample(f"{name}_population", dist.LogNormal(*log_normal(*TYPICAL[name])))
        spread = numpyro.sample(f"{name}_spread", dist.LogNormal(*log_normal(*SPREAD)))
        offset = numpyro.sample(f"{name}_offset", dist.Normal(0.0, 1.0).expand([len(dose)]).to_event(1))
        return typical * jnp.exp(spread * offset)

    def model():
        absorption, clearance, volume = (draw(name) for name in TYPICAL)
        additive, proportional = (
            numpyro.sample(name, dist.LogNormal(*log_normal(*ends))) for name, ends in NOISE.items()
        )
        amounts = jax.vmap(person)(hours, dose, absorption, clearance / volume)
        mean = amounts / volume[:, None]
        noise = dist.Normal(mean, jnp.sqrt(additive**2 + (proportional * mean) ** 2))
        below = jax.scipy.stats.norm.logcdf((LIMIT - noise.loc) / noise.scale)
        numpyro.factor("conc", jnp.where(conc < LIMIT, below, noise.log_prob(conc)).sum())

    return model


STAN = """
functions {
  vector oral(real t, vector y, real absorbed, real cleared) {
    return [-absorbed * y[1], absorbed * y[1] - cleared * y[2]]';
  }
}
data {
  int P;
  int N;
  array[P, N] real hours;
  array[P, N] real conc;
  array[P] real dose;
  real limit;
  array[6, 2] real log_prior;
  real rtol;
  real atol;
}
parameters {
  real<lower=0> absorption_population;
  real<lower=0> absorption_spread;
  vector[P] absorption_offset;
  real<lower=0> clearance_population;
  real<lower=0> clearance_spread;
  vector[P] clearance_offset;
  real<lower=0> volume_population;
  real<lower=0> volume_spread;
  vector[P] volume_offset;
  real<lower=0> additive;
  real<lower=0> proportional;
}
model {
  vector[P] absorption = absorption_population * exp(absorption_spread * absorption_offset);
  vector[P] clearance = clearance_population * exp(clearance_spread * clearance_offset);
  vector[P] volume = volume_population * exp(volume_spread * volume_offset);
  absorption_population ~ lognormal(log_prior[1, 1], log_prior[1, 2]);
  clearance_population ~ lognormal(log_prior[2, 1], log_prior[2, 2]);
  volume_population ~ lognormal(log_prior[3, 1], log_prior[3, 2]);
  {absorption_spread, clearance_spread, volume_spread} ~ lognormal(log_prior[4, 1], log_prior[4, 2]);
  additive ~ lognormal(log_prior[5, 1], log_prior[5, 2]);
  proportional ~ lognormal(log_prior[6, 1], log_prior[6, 2]);
  absorption_offset ~ std_normal();
  clearance_offset ~ std_normal();
  volume_offset ~ std_normal();
  for (p in 1 : P) {
    // the first measurement is at the time of the dose, just before it
    array[N - 1] vector[2] y = ode_rk45_tol(oral, [dose[p], 0]', 0.0, hours[p, 2 : N], rtol, atol, 100000,
                                            absorption[p], clearance[p] / volume[p]);
    for (n in 1 : N) {
      real mean = n == 1 ? 0 : y[n - 1, 2] / volume[p];
      real sd = sqrt(square(additive) + square(proportional * mean));
      if (conc[p, n] < limit) {
        target += normal_lcdf(limit | mean, sd);
      } else {
        conc[p, n] ~ normal(mean, sd);
      }
    }
  }
}
"""

# The same with the two equations solved: what leaves the gut at one rate and the blood at another. The mean rate of
# leaving between the two is (1 - e^-x) / x, x the difference of the rates times the time.
CLOSED = (
    STAN.replace(
        STAN[STAN.index("  vector oral(") : STAN.index("}\ndata {")],
        """  real in_blood(real dose, real t, real absorbed, real cleared) {
    real x = (absorbed - cleared) * t;
    return dose * absorbed * t * exp(-cleared * t) * (abs(x) < 1e-8 ? 1 - x / 2 : -expm1(-x) / x);
  }
""",
    )
    .replace(STAN[STAN.index("    // the first measurement") : STAN.index("    for (n in 1 : N)")], "")
    .replace(
        "n == 1 ? 0 : y[n - 1, 2] / volume[p]",
        "in_blood(dose[p], hours[p, n], absorption[p], clearance[p] / volume[p]) / volume[p]",
    )
)


def stan_data():
    record = read_record()
    people, times = record["hours"].shape
    priors = [log_normal(*ends) for ends in (*TYPICAL.values(), SPREAD, *NOISE.values())]
    plain = {key: value.tolist() for key, value in record.items()}
    return {"P": people, "N": times, "limit": LIMIT, "log_prior": priors, **plain}


ROW = Row(
    name="theophylline",
    title="theophylline, hierarchical",
    unknowns=(*(f"{name}_{part}" for name in TYPICAL for part in ("population", "spread", "offset")), *NOISE),
    ours=ours,
    by_hand=by_hand,
    stan=STAN,
    reference=CLOSED,
    stan_data=stan_data,
    rtol=TOLERANCE,
    atol=TOLERANCE,
    forward=False,
)
