"""Neal's funnel (2003) in ten dimensions, no data: v ~ Normal(0, 3), nine x ~ Normal(0, exp(v / 2)), centred.

Known exactly: v is normal; |x| = exp(v / 2) |z|, so P(|x| < q) = E[2 Phi(q exp(-v / 2)) - 1] by quadrature. The x
have no useful moments (their kurtosis is 3 exp(9)), so they are compared by the quantiles of log |x|.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from tests.benchmarks.rows.row import Row

LEVELS = (0.05, 0.5, 0.95)


def ours():
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import bayeshybrid as bh

    def model():
        v = bh.parameter("v", dist.Normal(0.0, 3.0))
        bh.parameter("x", dist.Normal(0.0, jnp.exp(v / 2.0)), shape=(9,))

    return model, {}


def by_hand(rtol, atol):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def model():
        v = numpyro.sample("v", dist.Normal(0.0, 3.0))
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2.0)).expand([9]).to_event(1))

    return model


def with_pymc():
    import pymc

    with pymc.Model() as model:
        v = pymc.Normal("v", 0.0, 3.0)
        pymc.Normal("x", 0.0, pymc.math.exp(v / 2.0), shape=9)
    return model


def _below(log_size: float) -> float:
    """P(log |x| < log_size), by the trapezoidal rule, which is exact to rounding for such integrands."""
    scores = np.linspace(-9.0, 9.0, 2001)
    weights = np.exp(-0.5 * scores**2)
    inside = [math.erf(math.exp(min(log_size - 1.5 * score, 50.0)) / math.sqrt(2.0)) for score in scores]
    return float(np.sum(weights * inside) / np.sum(weights))


def _quantile(level: float) -> float:
    low, high = -20.0, 20.0
    while high - low > 1e-10:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _below(middle) < level else (low, middle)
    return low


def exact() -> dict[str, dict[str, Any]]:
    """The reference, without errors. log |x| = v / 2 + log |z|, and log |z| has variance pi^2 / 8."""
    v = NormalDist(0.0, 3.0)
    quantiles = {str(level): (_quantile(level), 0.0) for level in LEVELS}
    mean = -0.5 * (np.euler_gamma + math.log(2.0))
    size = {"mean": (mean, 0.0), "sd": (math.sqrt(2.25 + math.pi**2 / 8.0), 0.0), "quantiles": quantiles}
    found = {
        "v": {
            "mean": (0.0, 0.0),
            "sd": (3.0, 0.0),
            "quantiles": {str(p): (v.inv_cdf(p), 0.0) for p in LEVELS},
        }
    }
    return found | {f"log x[{index}]": size for index in range(9)}


STAN = """
parameters {
  real v;
  vector[9] x;
}
model {
  v ~ normal(0, 3);
  x ~ normal(0, exp(v / 2));
}
"""

ROW = Row(
    name="funnel",
    title="Neal's funnel",
    unknowns=("v", "x"),
    ours=ours,
    by_hand=by_hand,
    stan=STAN,
    stan_data=dict,
    heavy=("x",),
    forward=False,
    exact=exact,
    pymc=with_pymc,
)
