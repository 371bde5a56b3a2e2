"""FitzHugh-Nagumo as in the Bayesian set of SciMLBenchmarks (`DiffEqBayesFitzHughNagumo`).

v' = v - 0.33 v^3 - w + l, w' = (v + a - b w) / tau, from (1, 1), observed at t = 1, ..., 10. Truth a = 0.7, b = 0.8,
1/tau = 1/12.5, l = 0.5, normal noise of 0.2. Priors: a, b ~ Normal(1, 0.5) on [0, 1.5]; 1/tau ~ Normal(0, 0.5) on
[0, 0.5]; l ~ Normal(0.5, 0.5) on [0, 1]; the noise of each component ~ InverseGamma(2, 3). The published set draws
its noise anew at each run; here it was drawn once, by `numpy.random.default_rng(1961)`, and rounded to 0.001.
"""

from __future__ import annotations

import numpy as np

from tests.benchmarks.rows.row import Row

TIMES = np.arange(1.0, 11.0)
VALUES = np.array(
    [
        [1.303, 1.027],
        [0.840, 1.294],
        [1.324, 0.927],
        [1.291, 1.422],
        [1.044, 1.256],
        [0.556, 1.773],
        [0.171, 1.297],
        [-0.878, 1.227],
        [-2.072, 0.707],
        [-1.848, 0.781],
    ]
)


def ours():
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import bayeshybrid as bh

    def field(t, y, k):
        v, w = y
        return jnp.stack([v - 0.33 * v**3 - w + k.current, k.tau_inverse * (v + k.a - k.b * w)])

    def model(times, values=None):
        k = bh.parameters(
            "neuron",
            a=bh.Parameter(dist.TruncatedNormal(1.0, 0.5, low=0.0, high=1.5)),
            b=bh.Parameter(dist.TruncatedNormal(1.0, 0.5, low=0.0, high=1.5)),
            tau_inverse=bh.Parameter(dist.TruncatedNormal(0.0, 0.5, low=0.0, high=0.5)),
            current=bh.Parameter(dist.TruncatedNormal(0.5, 0.5, low=0.0, high=1.0)),
        )
        sigma = bh.parameter("sigma", dist.InverseGamma(2.0, 3.0), shape=(2,))
        path = bh.solve_ode("path", field, jnp.ones(2), times, t0=0.0, args=k)
        bh.observe("values", dist.Normal(path.ys, sigma), obs=values)

    return model, {"times": TIMES, "values": VALUES}


def by_hand(rtol, atol):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from tests.benchmarks.rows.by_hand import solve

    def field(t, y, k):
        a, b, tau_inverse, current = k
        return jnp.array([y[0] - 0.33 * y[0] ** 3 - y[1] + current, tau_inverse * (y[0] + a - b * y[1])])

    def model():
        a = numpyro.sample("a", dist.TruncatedNormal(1.0, 0.5, low=0.0, high=1.5))
        b = numpyro.sample("b", dist.TruncatedNormal(1.0, 0.5, low=0.0, high=1.5))
        tau_inverse = numpyro.sample("tau_inverse", dist.TruncatedNormal(0.0, 0.5, low=0.0, high=0.5))
        current = numpyro.sample("current", dist.TruncatedNormal(0.5, 0.5, low=0.0, high=1.0))
        sigma = numpyro.sample("sigma", dist.InverseGamma(2.0, 3.0).expand([2]).to_event(1))
        ys = solve(field, jnp.ones(2), TIMES, 0.0, (a, b, tau_inverse, current), rtol, atol)
        numpyro.sample("values", dist.Normal(ys, sigma), obs=VALUES)

    return model


STAN = """
functions {
  vector field(real t, vector y, real a, real b, real tau_inverse, real current) {
    return [y[1] - 0.33 * y[1] ^ 3 - y[2] + current, tau_inverse * (y[1] + a - b * y[2])]';
  }
}
data {
  int N;
  array[N] real times;
  array[N] vector[2] values;
  real rtol;
  real atol;
}
parameters {
  real<lower=0, upper=1.5> a;
  real<lower=0, upper=1.5> b;
  real<lower=0, upper=0.5> tau_inverse;
  real<lower=0, upper=1> current;
  vector<lower=0>[2] sigma;
}
model {
  array[N] vector[2] y
    = ode_rk45_tol(field, [1, 1]', 0.0, times, rtol, atol, 100000, a, b, tau_inverse, current);
  a ~ normal(1, 0.5);
  b ~ normal(1, 0.5);
  tau_inverse ~ normal(0, 0.5);
  current ~ normal(0.5, 0.5);
  sigma ~ inv_gamma(2, 3);
  for (n in 1 : N) {
    values[n] ~ normal(y[n], sigma);
  }
}
"""

ROW = Row(
    name="fitzhugh_nagumo",
    title="FitzHugh-Nagumo",
    unknowns=("a", "b", "tau_inverse", "current", "sigma"),
    ours=ours,
    by_hand=by_hand,
    stan=STAN,
    stan_data=lambda: {"N": len(TIMES), "times": TIMES.tolist(), "values": VALUES.tolist()},
)
