"""What a run is expected to take, told before it begins and kept with its result."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.inference.cost import listening
from bayeshybrid.progress import Progress


class Kept(Progress):
    """Every phase that was opened, with what was said at its end."""

    def __init__(self):
        self.phases = []

    def start(self, title, total):
        self.phases.append([title, ""])

    def update(self, done, note=""):
        pass

    def finish(self, note=""):
        self.phases[-1][1] = note


def normal(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0).expand([5]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("square", slope**2)
    bh.observe("y", dist.Normal(x @ slope, scale), obs=y)


X = np.random.default_rng(0).normal(size=(40, 5))
DATA = {"x": X, "y": X @ np.arange(5.0) + 0.5 * np.random.default_rng(1).normal(size=40)}


@pytest.mark.parametrize(
    "method", [bh.SharedHMC(), bh.NUTS(draws=200, warmup=200)], ids=lambda m: type(m).__name__
)
def test_it_is_told_before_the_draws_and_near_what_they_took(method):
    progress = Kept()
    posterior = bh.infer(normal, DATA, method, key=0, progress=progress)
    titles = [title for title, _ in progress.phases]
    assert titles.index("search for basins") < titles.index("expected cost") < titles.index("warm-up")
    said = dict(progress.phases)["expected cost"]
    assert said.startswith(f"{type(method).__name__}: ")
    assert "microseconds a gradient" in said
    expected = posterior.record["expected"]
    assert f"about {expected['gradients']:,} of them" in said
    assert 1 / 3 < expected["gradients"] / posterior.record["gradients"] < 3
    assert expected["microseconds"] > 0
    assert posterior.record["seconds"]["compiling"] > 0
    draws = 1000 if isinstance(method, bh.SharedHMC) else 4 * 200
    assert expected["megabytes"] == pytest.approx(8e-6 * draws * (2 * 6 + 5))


def test_nothing_is_compiled_for_a_second_fit():
    for key in (0, 1):
        posterior = bh.infer(normal, DATA, bh.NUTS(draws=20, warmup=20), key=key)
    assert posterior.record["seconds"]["compiling"] == 0
    assert posterior.record["expected"]["compile_seconds"] == 0


def test_what_settings_fix_is_known_exactly():
    assert bh.DeepEnsemble(members=5, steps=70).expected(3, 1, 1000.0).gradients == 350
    assert bh.NUTS(chains=2, draws=30).expected(3, 2, 1000.0).draws == 120
    assert bh.SVI(guides=3, draws=50).expected(3, 2, 1000.0).draws == 150
    few, many = (bh.SharedHMC(most_draws=20).expected(3, 1, ess).draws for ess in (500.0, 1e6))
    assert (few, many) == (500, 20 * 64)


def test_listening_tells_functions_apart_and_ends():
    with listening() as spent:
        jax.jit(named)(jnp.ones(7))
        assert spent["named"] > 0
    before = dict(spent)
    jax.jit(lambda x: named(x) + 1)(jnp.ones(7))
    assert spent == before


def named(x):
    return jnp.sin(x).sum()
