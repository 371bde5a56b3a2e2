"""Three tables with a planted truth, read, fitted and forecast as a new user would; the truth lies where it should.

The tables were made by `tables/make_tables.py`, which does not know this package.
"""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from test_tables import pad

import bayeshybrid as bh

TABLES = Path(__file__).resolve().parent / "tables"
METHOD = bh.NUTS(draws=500)

pytestmark = pytest.mark.slow


def planted(name: str) -> dict[str, float]:
    """The truth that a table states in its second line."""
    line = (TABLES / name).read_text(encoding="utf-8").splitlines()[1]
    return {key: float(value) for key, value in re.findall(r"(\w+) = ([\d.]+)", line)}


def assert_recovered(posterior: bh.Posterior, truth: dict[str, float], named: dict[str, str]) -> None:
    """Every planted value lies inside the central 99 % of its posterior."""
    for name, quantity in named.items():
        low, high = np.quantile(posterior[quantity], [0.005, 0.995])
        assert low < truth[name] < high, f"{name}: {truth[name]} is not in {low:.4g} to {high:.4g}"


def oral(time, dose, conc=None):
    """One compartment with absorption; each subject eliminates at a rate of its own."""
    absorption = bh.parameter("absorption", bh.prior_interval(0.3, 5.0), unit="1/h")
    volume = bh.parameter("volume", bh.prior_interval(5.0, 80.0), unit="L")
    rate = bh.parameter(
        "rate",
        bh.prior_interval(0.03, 0.6),
        unit="1/h",
        across="subject",
        size=len(time),
        spread=dist.HalfNormal(0.5),
    )
    noise = bh.parameter("noise", bh.prior_interval(0.02, 0.5), unit="1")

    def field(t, y, args):
        absorption, rate = args
        return jnp.stack([-absorption * y[0], absorption * y[0] - rate * y[1]])

    amounts = bh.solve_ode(
        "amounts",
        field,
        jnp.zeros((len(time), 2)),
        time,
        t0=0.0,
        args=(jnp.full(len(time), absorption), rate),
        in_axes=(0, 0, 0),
        across="subject",
        inputs=[bh.doses(**dose, into="gut")],
        labels=("gut", "blood"),
        unit="mg",
    )
    level = jnp.maximum(amounts.ys[..., 1] / volume, 1e-9)
    bh.observe("conc", dist.LogNormal(jnp.log(level), noise), obs=conc, unit="mg/L", across="subject")


def test_ragged_subjects_with_doses_and_a_limit():
    """Each subject's rate is told so well by its own data that offsets and spread trade off.

    At an acceptance of 0.95 the verdict fails for two keys of three, by divergent transitions (0.4 and 3.9 %). As it
    advises, steps are smaller here: none diverges for two keys, and one in 2,000 for this one.
    """
    data = bh.measurements(
        TABLES / "ragged.csv", individual="subject", time="time", value="conc", dose="dose"
    )
    posterior = bh.infer(oral, data, bh.NUTS(draws=1500, target_acceptance=0.99), key=0)
    assert posterior.verdict["scientific parameters"] in ("pass", "pass with remarks")
    named = {"clearance": "rate_population", "spread": "rate_spread"}
    named |= {name: name for name in ("absorption", "volume", "noise")}
    assert_recovered(posterior, planted("ragged.csv"), named)


def aquifer(day, rain, level=None):
    """Rain fills the soil, the soil drains into ground water, of which alone the level is measured."""
    inflow = bh.parameter("inflow", bh.bounded(0.2, 1.5), unit="1")
    drain = bh.parameter("drain", bh.prior_interval(0.05, 2.0), unit="1/d")
    loss = bh.parameter("loss", bh.prior_interval(0.02, 0.5), unit="1/d")
    start = bh.parameter("start", bh.prior_interval(1.0, 30.0), unit="mm")
    noise = bh.parameter("noise", bh.prior_interval(0.05, 3.0), unit="mm")
    wet = bh.forcing(**rain)

    def field(t, y, args):
        inflow, drain, loss = args
        drained = drain * y[0]
        return jnp.stack([inflow * wet(t) - drained, drained - loss * y[1]])

    stores = bh.solve_ode(
        "stores",
        field,
        jnp.stack([0.0, start]),
        day,
        t0=0.0,
        args=(inflow, drain, loss),
        inputs=[wet],
        labels=("soil", "ground"),
        unit="mm",
    )
    bh.observe("level", dist.Normal(stores.ys[:, 1], noise), obs=level, unit="mm")


def test_forcing_and_one_hidden_state():
    data = bh.measurements(TABLES / "forcing.csv", time="day", value="level", covariates=["rain"])
    posterior = bh.infer(aquifer, data, METHOD, key=0)
    assert_recovered(posterior, planted("forcing.csv"), {name: name for name in planted("forcing.csv")})
    assert posterior.verdict["scientific parameters"] in ("pass", "pass with remarks")


def growth(hours, n, mean=None):
    """Logistic growth in closed form, read several times each."""
    rate = bh.parameter("rate", bh.prior_interval(0.1, 2.0), unit="1/h")
    capacity = bh.parameter("capacity", bh.prior_interval(10.0, 100.0))
    start = bh.parameter("start", bh.prior_interval(0.5, 10.0))
    noise = bh.parameter("noise", bh.prior_interval(0.2, 10.0))
    level = capacity / (1 + (capacity - start) / start * jnp.exp(-rate * hours))
    bh.observe("count", bh.noise.replicates(level, noise, n), obs=mean, across="flask")


def test_replicates_as_mean_sd_and_number():
    data = bh.measurements(
        TABLES / "replicates.csv", individual="flask", time="hours", value="mean", sd="sd", n="n"
    )
    posterior = bh.infer(growth, data, METHOD, key=0)
    named = {"growth": "rate"} | {name: name for name in ("capacity", "start", "noise")}
    assert_recovered(posterior, planted("replicates.csv"), named)
    assert posterior.verdict["scientific parameters"] in ("pass", "pass with remarks")


@jax.jit
def density(target, q):
    return jax.value_and_grad(lambda q: target.log_likelihood(q))(q)


def test_padding_has_no_influence_through_a_solve_with_doses():
    table = {"id": list("aaabb"), "time": [0, 1.0, 7.0, 0, 3.0], "conc": [None, 3.0, 1.5, None, 2.5]}
    table["dose"] = [100, None, None, 80, None]
    data = bh.measurements(table, "id", time="time", value="conc", dose="dose")
    padded = {
        "time": pad(data["time"], 3),
        "conc": {"values": pad(data["conc"]["values"], 3), "missing": pad(data["conc"]["missing"], 3, True)},
        "dose": {k: pad(part, 2, None if k == "times" else 0.0) for k, part in data["dose"].items()},
    }
    q = jnp.array([0.3, 3.0, -1.8, -1.0, 0.2, -0.3, -2.0])  # the offsets of the two rates before the noise
    value, slope = density(bh.Target(oral, data), q)
    again, same = density(bh.Target(oral, padded), q)
    np.testing.assert_allclose(again, value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(same, slope, rtol=0, atol=1e-12)
    total = 0.0
    for unit in (0, 1):
        alone = jax.tree.map(lambda part, unit=unit: part[unit : unit + 1], dict(data))
        total += density(bh.Target(oral, alone), jnp.delete(q, 5 - unit))[0]
    np.testing.assert_allclose(total, value, rtol=0, atol=1e-12)
