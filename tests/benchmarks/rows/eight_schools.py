"""Eight schools (Rubin 1981), written without centring: posteriordb's `eight_schools-eight_schools_noncentered`.

mu ~ Normal(0, 5), tau ~ half-Cauchy(5), theta_raw ~ Normal(0, 1); y ~ Normal(mu + tau theta_raw, s), s known.
tau has a heavy tail and is compared on the log scale.
"""

from __future__ import annotations

import numpy as np

from tests.benchmarks.rows.row import Row

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def ours():
    import numpyro.distributions as dist

    import bayeshybrid as bh

    def model(errors, effects=None):
        mu = bh.parameter("mu", dist.Normal(0.0, 5.0), unit="points")
        tau = bh.parameter("tau", dist.HalfCauchy(5.0), unit="points")
        raw = bh.parameter("theta_raw", dist.Normal(0.0, 1.0), shape=(8,), unit="1")
        bh.observe("effects", dist.Normal(mu + tau * raw, errors), obs=effects, unit="points")

    return model, {"errors": ERRORS, "effects": EFFECTS}


def by_hand(rtol, atol):
    import numpyro
    import numpyro.distributions as dist

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        raw = numpyro.sample("theta_raw", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
        numpyro.sample("effects", dist.Normal(mu + tau * raw, ERRORS), obs=EFFECTS)

    return model


def with_pymc():
    import pymc

    with pymc.Model() as model:
        mu = pymc.Normal("mu", 0.0, 5.0)
        tau = pymc.HalfCauchy("tau", 5.0)
        raw = pymc.Normal("theta_raw", 0.0, 1.0, shape=8)
        pymc.Normal("effects", mu + tau * raw, ERRORS, observed=EFFECTS)
    return model


STAN = """
data {
  vector[8] effects;
  vector[8] errors;
}
parameters {
  real mu;
  real<lower=0> tau;
  vector[8] theta_raw;
}
model {
  mu ~ normal(0, 5);
  tau ~ cauchy(0, 5);
  theta_raw ~ std_normal();
  effects ~ normal(mu + tau * theta_raw, errors);
}
"""

ROW = Row(
    name="eight_schools",
    title="eight schools",
    unknowns=("mu", "tau", "theta_raw"),
    ours=ours,
    by_hand=by_hand,
    stan=STAN,
    stan_data=lambda: {"effects": EFFECTS.tolist(), "errors": ERRORS.tolist()},
    heavy=("tau",),
    forward=False,
    pymc=with_pymc,
    published={"mu": (4.41051833695493, 0.0330374705950917)},  # posteriordb's reference draws
)
