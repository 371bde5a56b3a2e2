"""One compartment, a bolus into the vein, Michaelis-Menten elimination observed only well above saturation.

C' = -V_m C / (K_m + C), C(0) = dose / volume. Truth: dose 20 mg, volume 2 L, V_m 1 mg/L/h, K_m 0.4 mg/L,
log-normal noise of 0.1: the concentration falls from 10 to 6.7 mg/L, so the data tell the speed there, and V_m and
K_m only together (a ridge, on which K_m may be almost nothing or far above all that was measured). Priors: volume,
V_m, K_m, sigma ~ half-Cauchy(1), after posteriordb's `one_comp_mm_elim_abs`, which leave the ridge heavy tails.
The noise was drawn once by `numpy.random.default_rng(1913)` and rounded to 0.01. Solved for log C, in which no
V_m makes the equation stiff or its solution negative.
"""

from __future__ import annotations

import numpy as np

from tests.benchmarks.rows.row import Row

DOSE = 20.0
TIMES = np.array([0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
CONCENTRATIONS = np.array([10.58, 10.73, 8.37, 10.11, 7.93, 7.9, 6.11, 6.63])


def ours():
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import bayeshybrid as bh

    def field(t, log_c, k):
        return -k.V_m / (k.K_m + jnp.exp(log_c))

    def model(times, concentrations=None):
        prior = dist.HalfCauchy(1.0)
        k = bh.parameters(
            "kinetics",
            volume=bh.Parameter(prior, unit="L"),
            V_m=bh.Parameter(prior, unit="mg/L/h"),
            K_m=bh.Parameter(prior, unit="mg/L"),
        )
        sigma = bh.parameter("sigma", prior, unit="1")
        start = jnp.log(DOSE / k.volume)[None]
        path = bh.solve_ode("log_c", field, start, times, t0=0.0, args=k)
        noise = dist.LogNormal(path.ys[:, 0], sigma)
        bh.observe("concentrations", noise, obs=concentrations, unit="mg/L")

    return model, {"times": TIMES, "concentrations": CONCENTRATIONS}


def by_hand(rtol, atol):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from tests.benchmarks.rows.by_hand import solve

    def field(t, log_c, k):
        return -k[0] / (k[1] + jnp.exp(log_c))

    def model():
        volume, v_m, k_m, sigma = (
            numpyro.sample(name, dist.HalfCauchy(1.0)) for name in ("volume", "V_m", "K_m", "sigma")
        )
        ys = solve(field, jnp.log(DOSE / volume)[None], TIMES, 0.0, (v_m, k_m), rtol, atol)
        numpyro.sample("concentrations", dist.LogNormal(ys[:, 0], sigma), obs=CONCENTRATIONS)

    return model


STAN = """
functions {
  vector field(real t, vector log_c, real V_m, real K_m) {
    return [-V_m / (K_m + exp(log_c[1]))]';
  }
}
data {
  int N;
  real dose;
  array[N] real times;
  array[N] real concentrations;
  real rtol;
  real atol;
}
parameters {
  real<lower=0> volume;
  real<lower=0> V_m;
  real<lower=0> K_m;
  real<lower=0> sigma;
}
model {
  array[N] vector[1] y = ode_rk45_tol(field, [log(dose / volume)]', 0.0, times, rtol, atol, 100000, V_m, K_m);
  volume ~ cauchy(0, 1);
  V_m ~ cauchy(0, 1);
  K_m ~ cauchy(0, 1);
  sigma ~ cauchy(0, 1);
  concentrations ~ lognormal(y[ : , 1], sigma);
}
"""


def stan_data():
    data = {"times": TIMES.tolist(), "concentrations": CONCENTRATIONS.tolist()}
    return {"N": len(TIMES), "dose": DOSE, **data}


ROW = Row(
    name="michaelis_menten",
    title="Michaelis-Menten above saturation",
    unknowns=("volume", "V_m", "K_m", "sigma"),
    ours=ours,
    by_hand=by_hand,
    stan=STAN,
    stan_data=stan_data,
    heavy=("V_m", "K_m"),
)
