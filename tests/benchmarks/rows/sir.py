"""Influenza in a boarding school, 1978: 763 boys, those in bed on fourteen days, by the SIR equations.

The case study of Stan (Grinsztajn, Semenova, Margossian and Riou 2021, "Bayesian workflow for disease transmission
modeling in Stan"). Priors: beta ~ Normal+(2, 1), gamma ~ Normal+(0.4, 0.5), the inverse of the concentration
~ Exponential(5). Counts are negative binomial about the number of infected; from (762, 1, 0) at day 0.
"""

from __future__ import annotations

import numpy as np

from tests.benchmarks.rows.row import Row

IN_BED = np.array([3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4])
DAYS = np.arange(1.0, 15.0)
BOYS = 763.0


def ours():
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import bayeshybrid as bh

    def field(t, y, k):
        infected, recovered = k.beta * y[0] * y[1] / BOYS, k.gamma * y[1]
        return jnp.stack([-infected, infected - recovered, recovered])

    def model(days, in_bed=None):
        k = bh.parameters(
            "epidemic",
            beta=bh.Parameter(dist.TruncatedNormal(2.0, 1.0, low=0.0), unit="1/day"),
            gamma=bh.Parameter(dist.TruncatedNormal(0.4, 0.5, low=0.0), unit="1/day"),
        )
        phi_inverse = bh.parameter("phi_inverse", dist.Exponential(5.0), unit="1")
        path = bh.solve_ode("path", field, jnp.array([BOYS - 1.0, 1.0, 0.0]), days, t0=0.0, args=k)
        counts = bh.noise.overdispersed_counts(path.ys[:, 1], 1.0 / phi_inverse)
        bh.observe("in_bed", counts, obs=in_bed, unit="boys")

    return model, {"days": DAYS, "in_bed": IN_BED}


def by_hand(rtol, atol):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from tests.benchmarks.rows.by_hand import solve

    def field(t, y, k):
        infected, recovered = k[0] * y[0] * y[1] / BOYS, k[1] * y[1]
        return jnp.array([-infected, infected - recovered, recovered])

    def model():
        beta = numpyro.sample("beta", dist.TruncatedNormal(2.0, 1.0, low=0.0))
        gamma = numpyro.sample("gamma", dist.TruncatedNormal(0.4, 0.5, low=0.0))
        phi_inverse = numpyro.sample("phi_inverse", dist.Exponential(5.0))
        ys = solve(field, jnp.array([BOYS - 1.0, 1.0, 0.0]), DAYS, 0.0, (beta, gamma), rtol, atol)
        numpyro.sample("in_bed", dist.NegativeBinomial2(ys[:, 1], 1.0 / phi_inverse), obs=IN_BED)

    return model


STAN = """
functions {
  vector field(real t, vector y, real beta, real gamma) {
    real infected = beta * y[1] * y[2] / 763;
    real recovered = gamma * y[2];
    return [-infected, infected - recovered, recovered]';
  }
}
data {
  int N;
  array[N] real days;
  array[N] int in_bed;
  real rtol;
  real atol;
}
parameters {
  real<lower=0> beta;
  real<lower=0> gamma;
  real<lower=0> phi_inverse;
}
model {
  array[N] vector[3] y = ode_rk45_tol(field, [762, 1, 0]', 0.0, days, rtol, atol, 100000, beta, gamma);
  beta ~ normal(2, 1);
  gamma ~ normal(0.4, 0.5);
  phi_inverse ~ exponential(5);
  in_bed ~ neg_binomial_2(y[ : , 2], 1 / phi_inverse);
}
"""

ROW = Row(
    name="sir",
    title="SIR, boarding school 1978",
    unknowns=("beta", "gamma", "phi_inverse"),
    ours=ours,
    by_hand=by_hand,
    stan=STAN,
    stan_data=lambda: {"N": len(DAYS), "days": DAYS.tolist(), "in_bed": IN_BED.tolist()},
)
