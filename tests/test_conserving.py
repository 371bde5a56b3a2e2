"""Networks under constraints: sums of their outputs that are to stay as they are."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
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
