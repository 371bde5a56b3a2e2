"""Lynx and hare by Lotka-Volterra and a small network for what the equation leaves out.

The `hybrid` of the case study with four hidden entries, on the log scale, where no population can turn negative:
(log y)' = equation / y + missing(y) / (y + 1), missing(y) = 2 net((y - center) / spread) in kpelt/yr, center (30, 20),
spread (20, 15) kpelt; net has one hidden layer of four tanh. Priors as in the row without a network; hidden weights
~ Normal(0, 1 / sqrt 2), hidden biases ~ Normal(0, 1), outer weights ~ Normal(0, r / 2), outer biases ~ Normal(0, r),
r such that a net output has unit variance at a typical input (0.84). The weights are exchangeable, so the network
is judged by what it says at six states of the region that the record visits. rtol and atol 1e-6.
"""

from __future__ import annotations

import numpy as np

from tests.benchmarks.rows.lotka_volterra import read_pelts
from tests.benchmarks.rows.row import Row

WIDTH, SCALE = 4, 2.0
CENTER, SPREAD = np.array([30.0, 20.0]), np.array([20.0, 15.0])
STATES = np.array([[10.0, 8.0], [30.0, 5.0], [60.0, 10.0], [70.0, 35.0], [35.0, 50.0], [20.0, 20.0]])
WEIGHTS = ("inner_weight", "inner_bias", "outer_weight", "outer_bias")


def outer_spread() -> float:
    """1 / sqrt(E[tanh(sqrt 2 z)^2] + 1), z standard normal: then the network's output has unit variance."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(1.0 / np.sqrt(np.sum(weights * np.tanh(np.sqrt(2.0) * points) ** 2) / weights.sum() + 1.0))


def outputs(samples) -> dict[str, np.ndarray]:
    """What the network says at `STATES`, `(chain, draw)` each, in kpelt/yr."""
    inner, inner_bias, outer, outer_bias = (samples[name] for name in WEIGHTS)
    standard = (STATES - CENTER) / SPREAD
    hidden = np.tanh(np.einsum("cdhi,si->cdsh", inner, standard) + inner_bias[:, :, None, :])
    said = SCALE * (np.einsum("cdoh,cdsh->cdso", outer, hidden) + outer_bias[:, :, None, :])
    return {
        f"missing({hare:g}, {lynx:g})[{species}]": said[:, :, state, index]
        for state, (hare, lynx) in enumerate(STATES)
        for index, species in enumerate(("hare", "lynx"))
    }


def ours():
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import bayeshybrid as bh

    def field(t, log_y, args):
        rates, missing = args
        y = jnp.exp(log_y)
        known = jnp.stack([rates.birth - rates.eaten * y[1], rates.growth * y[0] - rates.death])
        return known + missing(y) / (y + 1.0)

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
        scaling = {"scale": SCALE, "center": CENTER, "spread": SPREAD}
        missing = bh.network("missing", bh.MLP(2, 2, width=WIDTH), unit="kpelt/yr", initial="zero", **scaling)
        path = bh.solve_ode("log_path", field, jnp.log(start), times, t0=1900.0, args=(rates, missing))
        bh.observe("pelts", dist.LogNormal(path.ys, noise), obs=pelts, unit="kpelt")

    times, pelts = read_pelts()
    return model, {"times": times, "pelts": pelts}


def by_hand(rtol, atol):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    from tests.benchmarks.rows.by_hand import solve

    times, pelts = read_pelts()
    outer_sd = outer_spread()

    def field(t, log_y, args):
        (birth, eaten, death, growth), (inner, inner_bias, outer, outer_bias) = args
        y = jnp.exp(log_y)
        hidden = jnp.tanh(inner @ ((y - CENTER) / SPREAD) + inner_bias)
        missing = SCALE * (outer @ hidden + outer_bias)
        return jnp.array([birth - eaten * y[1], growth * y[0] - death]) + missing / (y + 1.0)

    def normal(name, sd, *shape):
        return numpyro.sample(name, dist.Normal(0.0, sd).expand(shape).to_event(len(shape)))

    def model():
        birth = numpyro.sample("birth", dist.TruncatedNormal(1.0, 0.5, low=0.0))
        eaten = numpyro.sample("eaten", dist.TruncatedNormal(0.05, 0.05, low=0.0))
        death = numpyro.sample("death", dist.TruncatedNormal(1.0, 0.5, low=0.0))
        growth = numpyro.sample("growth", dist.TruncatedNormal(0.05, 0.05, low=0.0))
        start = numpyro.sample("start", dist.LogNormal(np.log(10.0), 1.0).expand([2]).to_event(1))
        noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))
        weights = (
            normal("inner_weight", np.sqrt(0.5), WIDTH, 2),
            normal("inner_bias", 1.0, WIDTH),
            normal("outer_weight", outer_sd / np.sqrt(WIDTH), 2, WIDTH),
            normal("outer_bias", outer_sd, 2),
        )
        args = ((birth, eaten, death, growth), weights)
        ys = solve(field, jnp.log(start), times, 1900.0, args, rtol, atol, forward=False)
        numpyro.sample("pelts", dist.LogNormal(ys, noise), obs=pelts)

    return model


STAN = """
functions {
  vector field(real t, vector log_y, vector rates, matrix inner, vector inner_bias, matrix outer,
               vector outer_bias, vector center, vector spread) {
    vector[2] y = exp(log_y);
    vector[2] missing = 2 * (outer * tanh(inner * ((y - center) ./ spread) + inner_bias) + outer_bias);
    return [rates[1] - rates[2] * y[2], rates[4] * y[1] - rates[3]]' + missing ./ (y + 1);
  }
}
data {
  int N;
  int W;
  array[N] real times;
  array[2] real first;
  array[N, 2] real pelts;
  vector[2] center;
  vector[2] spread;
  real outer_sd;
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
  matrix[W, 2] inner_weight;
  vector[W] inner_bias;
  matrix[2, W] outer_weight;
  vector[2] outer_bias;
}
model {
  array[N] vector[2] y
    = ode_rk45_tol(field, log(start), 0.0, times, rtol, atol, 100000, [birth, eaten, death, growth]',
                   inner_weight, inner_bias, outer_weight, outer_bias, center, spread);
  birth ~ normal(1, 0.5);
  death ~ normal(1, 0.5);
  eaten ~ normal(0.05, 0.05);
  growth ~ normal(0.05, 0.05);
  start ~ lognormal(log(10), 1);
  noise ~ lognormal(-1, 1);
  to_vector(inner_weight) ~ normal(0, sqrt(0.5));
  inner_bias ~ normal(0, 1);
  to_vector(outer_weight) ~ normal(0, outer_sd / sqrt(W));
  outer_bias ~ normal(0, outer_sd);
  for (k in 1 : 2) {
    first[k] ~ lognormal(log(start[k]), noise[k]);
    pelts[ : , k] ~ lognormal(y[ : , k], noise[k]);
  }
}
"""


# Gradients backwards in time: forward sensitivities of thirty unknowns would be 60 equations more.
ADJOINT = STAN.replace(
    "ode_rk45_tol(field, log(start), 0.0, times, rtol, atol, 100000, [",
    """ode_adjoint_tol_ctl(field, log(start), 0.0, times, rtol, rep_vector(atol, 2), rtol, rep_vector(atol, 2),
                          rtol, atol, 100000, 200, 1, 1, 1, [""",
)


def stan_data():
    times, pelts = read_pelts()
    data = {"times": (times[1:] - times[0]).tolist(), "first": pelts[0].tolist(), "pelts": pelts[1:].tolist()}
    scaling = {"center": CENTER.tolist(), "spread": SPREAD.tolist(), "outer_sd": outer_spread()}
    return {"N": len(times) - 1, "W": WIDTH, **data, **scaling}


ROW = Row(
    name="lynx_hare_hybrid",
    title="lynx and hare with a network residual",
    unknowns=("birth", "eaten", "death", "growth", "start", "noise"),
    ours=ours,
    by_hand=by_hand,
    stan=STAN,
    reference=ADJOINT,
    stan_data=stan_data,
    renamed={
        f"missing/layers[{layer}].{part}": f"{name}_{part}"
        for layer, name in enumerate(("inner", "outer"))
        for part in ("weight", "bias")
    },
    functions=outputs,
    hidden=WEIGHTS,
    forward=False,
)
