"""Robertson's reactions (1966), the standard stiff system: three rates eight orders of magnitude apart.

A -> B at k_1, 2 B -> B + C at k_2, B + C -> A + C at k_3, from pure A, all three measured at eight times from 0.3 to
1000 with log-normal noise. Truth 0.04, 3e7, 1e4 and noise 0.1. Priors: k_1 ~ LogNormal(log 0.1, 1), k_2
~ LogNormal(log 1e7, 1), k_3 ~ LogNormal(log 3e4, 1), sigma ~ LogNormal(-2, 0.5). rtol 1e-6, atol 1e-10 (B is of
the order 1e-5). Drawn once by `numpy.random.default_rng(1966)`, four digits kept. Implicit solvers: Kvaerno5 in
diffrax, `ode_bdf_tol` in Stan.
"""

from __future__ import annotations

import numpy as np

from tests.benchmarks.rows.row import Row

TIMES = np.array([0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0])
SHARES = np.array(
    [
        [1.080, 3.641e-05, 0.009299],
        [1.040, 3.230e-05, 0.03048],
        [1.080, 2.445e-05, 0.07775],
        [0.8965, 1.680e-05, 0.1452],
        [0.7395, 1.111e-05, 0.2685],
        [0.6833, 5.702e-06, 0.3960],
        [0.5282, 3.443e-06, 0.5681],
        [0.3355, 1.843e-06, 0.6542],
    ]
)
MEDIANS = {"k_1": 0.1, "k_2": 1e7, "k_3": 3e4}
RTOL, ATOL = 1e-6, 1e-10


def ours():
    import diffrax
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import bayeshybrid as bh

    def field(t, y, k):
        first, second, third = k.k_1 * y[0], k.k_2 * y[1] ** 2, k.k_3 * y[1] * y[2]
        return jnp.stack([third - first, first - second - third, second])

    def model(times, shares=None):
        priors = {name: dist.LogNormal(np.log(median), 1.0) for name, median in MEDIANS.items()}
        k = bh.parameters("rates", **{name: bh.Parameter(prior) for name, prior in priors.items()})
        sigma = bh.parameter("sigma", dist.LogNormal(-2.0, 0.5), unit="1")
        start, settings = jnp.array([1.0, 0.0, 0.0]), {"rtol": RTOL, "atol": ATOL}
        path = bh.solve_ode(
            "path", field, start, times, t0=0.0, args=k, solver=diffrax.Kvaerno5(), **settings
        )
        bh.observe("shares", dist.LogNormal(jnp.log(path.ys), sigma), obs=shares)

    return model, {"times": TIMES, "shares": SHARES}


def by_hand(rtol, atol):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from tests.benchmarks.rows.by_hand import solve

    def field(t, y, k):
        first, second, third = k[0] * y[0], k[1] * y[1] ** 2, k[2] * y[1] * y[2]
        return jnp.array([third - first, first - second - third, second])

    def model():
        k = [numpyro.sample(name, dist.LogNormal(np.log(m), 1.0)) for name, m in MEDIANS.items()]
        sigma = numpyro.sample("sigma", dist.LogNormal(-2.0, 0.5))
        ys = solve(field, jnp.array([1.0, 0.0, 0.0]), TIMES, 0.0, k, rtol, atol, stiff=True)
        numpyro.sample("shares", dist.LogNormal(jnp.log(ys), sigma), obs=SHARES)

    return model


STAN = """
functions {
  vector field(real t, vector y, real k_1, real k_2, real k_3) {
    real first = k_1 * y[1];
    real second = k_2 * square(y[2]);
    real third = k_3 * y[2] * y[3];
    return [third - first, first - second - third, second]';
  }
}
data {
  int N;
  array[N] real times;
  array[N] vector[3] shares;
  real rtol;
  real atol;
}
parameters {
  real<lower=0> k_1;
  real<lower=0> k_2;
  real<lower=0> k_3;
  real<lower=0> sigma;
}
model {
  array[N] vector[3] y = ode_bdf_tol(field, [1, 0, 0]', 0.0, times, rtol, atol, 100000, k_1, k_2, k_3);
  k_1 ~ lognormal(log(0.1), 1);
  k_2 ~ lognormal(log(1e7), 1);
  k_3 ~ lognormal(log(3e4), 1);
  sigma ~ lognormal(-2, 0.5);
  for (n in 1 : N) {
    shares[n] ~ lognormal(log(y[n]), sigma);
  }
}
"""

ROW = Row(
    name="robertson",
    title="Robertson (stiff)",
    unknowns=("k_1", "k_2", "k_3", "sigma"),
    ours=ours,
    by_hand=by_hand,
    stan=STAN,
    stan_data=lambda: {"N": len(TIMES), "times": TIMES.tolist(), "shares": SHARES.tolist()},
    rtol=RTOL,
    atol=ATOL,
)
