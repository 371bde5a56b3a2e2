"""Networks under constraints: sums that are to stay as they are, inputs with which they rise or fall."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh


def test_what_a_network_conserves_stays_constant_to_rounding():
    """Four pools that exchange by a network's rule: their sum, and a second weighted one, over many turnover times."""
    sums = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]])

    def model(times):
        flow = bh.network("flow", bh.MLP(4, 4), scale=1.0, center=0.5, spread=0.5, conserves=sums)
        bh.solve_ode(
            "pools", lambda t, y, flow: flow(y), jnp.array([1.0, 0.3, 0.2, 0.6]), times, t0=0.0, args=flow
        )

    told = bh.simulate(model, {"times": np.linspace(0.5, 5.0, 10)}, key=0, draws=20).latent["pools"].draws
    assert np.ptp(told, axis=1).min() > 1e-3
    np.testing.assert_allclose(told @ sums.T, np.broadcast_to([2.1, 4.6], (20, 10, 2)), rtol=1e-13)


@pytest.mark.parametrize(
    ("conserves", "more", "told"),
    [
        ((1.0, 1.0, 1.0), {}, "conserves has 3 weights, and there are 2 outputs"),
        ((0.0, 0.0), {}, "write the weights of the outputs"),
        ((1.0, np.nan), {}, "write the weights of the outputs"),
        ((1.0, 1.0), {"bounds": (0.0, 1.0)}, "give one of the two"),
    ],
)
def test_sums_that_cannot_be_conserved_are_refused(conserves, more, told):
    def model(x):
        net = bh.network("f", bh.MLP(1, 2), scale=1.0, center=0.0, spread=1.0, conserves=conserves, **more)
        numpyro.deterministic("said", net(x))

    with pytest.raises(bh.ModelError, match=told):
        bh.simulate(model, {"x": np.ones((3, 1))}, key=0, draws=2)


def test_a_monotone_network_rises_and_falls_as_it_must_under_prior_and_posterior():
    """Data that fall where the network may only rise: the posterior rises all the same."""
    x = np.stack(np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 5), indexing="ij"), axis=-1)
    y = -x[..., :1] + np.sin(3 * x[..., 1:])

    def model(x, y=None):
        net = bh.MonotoneMLP(3, 1, rises=(0,), falls=(2,), width=3)
        f = bh.network("f", net, scale=1.0, center=0.0, spread=1.0)
        inputs = jnp.concatenate([x, jnp.zeros((*x.shape[:-1], 1))], axis=-1)
        steps = jnp.stack(
            [f(inputs + h * jnp.eye(3)[None, None, place]) for place in (0, 2) for h in (0.0, 0.01)]
        )
        numpyro.deterministic("rise", steps[1] - steps[0])
        numpyro.deterministic("fall", steps[3] - steps[2])
        bh.observe("y", dist.Normal(f(inputs), 0.5), obs=y)

    before = bh.simulate(model, {"x": x}, key=0, draws=100).latent
    posterior = bh.infer(model, {"x": x, "y": y}, bh.NUTS(draws=50, warmup=100), key=0)
    for told in ({name: before[name].draws for name in ("rise", "fall")}, posterior.samples):
        assert np.all(told["rise"] > 0)
        assert np.all(told["fall"] < 0)


def test_a_monotone_network_comes_near_a_monotone_curve():
    x = np.linspace(-2.0, 2.0, 40)[:, None]
    y = np.tanh(2 * x) + 0.2 * x

    def model(x, y=None):
        f = bh.network("f", bh.MonotoneMLP(1, 1, rises=(0,), width=4), scale=1.0, center=0.0, spread=1.0)
        numpyro.deterministic("said", f(x))
        bh.observe("y", dist.Normal(f(x), 0.05), obs=y)

    posterior = bh.infer(model, {"x": x, "y": y}, bh.NUTS(draws=100, warmup=300), key=0)
    assert np.abs(posterior.samples["said"].mean(axis=(0, 1)) - y).max() < 0.06


@pytest.mark.parametrize("places", [{}, {"rises": (2,)}, {"rises": (0,), "falls": (0,)}])
def test_a_monotone_network_needs_inputs_to_rise_or_fall_with(places):
    with pytest.raises(bh.ModelError, match="must name inputs among 0 to 1"):
        bh.MonotoneMLP(2, 1, **places)
