"""Functions expanded in bases: what their terms are, and that the data choose the right ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration

BASES = {
    "polynomial": lambda: bh.Polynomial(2, 2, degree=3),
    "fourier": lambda: bh.Fourier(2, 2, harmonics=2, period=3.0),
    "spline": lambda: bh.Spline(2, 2, pieces=4),
    "radial": lambda: bh.Radial([[0.0, 0.0], [1.0, -1.0]], 2, width=0.7),
}


def test_polynomials_are_all_products_up_to_their_degree():
    with configuration.scope():
        basis = bh.Polynomial(3, 1, degree=4)
        x = np.array([0.3, -1.2, 0.7])
        found = basis.evaluated(jnp.asarray(x))
    assert len(basis.terms) == 35  # (4 + 3 over 3)
    names = {"1": 1.0, "x1 x2^2": x[0] * x[1] ** 2, "x3^4": x[2] ** 4}
    for name, value in names.items():
        assert found[basis.terms.index(name)] == pytest.approx(value)
    assert "1" not in bh.Polynomial(3, 1, degree=4, constant=False).terms


def test_splines_hold_every_cubic_between_their_knots():
    """A cubic polynomial is a sum of cubic splines, so that least squares leave nothing over."""
    basis = bh.Spline(1, 1, pieces=6)
    x = np.linspace(-2.5, 2.5, 60)
    with configuration.scope():
        terms = np.asarray(jax.vmap(basis.evaluated)(jnp.asarray(x[:, None])))
    wanted = 1.0 - x + 0.5 * x**3
    fitted = terms @ np.linalg.lstsq(terms, wanted, rcond=None)[0]
    np.testing.assert_allclose(fitted, wanted, atol=1e-12)
    np.testing.assert_allclose(terms.sum(axis=1), 1.0)
    assert np.all(terms >= 0)


@pytest.mark.parametrize("kind", BASES)
def test_gradients_of_each_basis_are_those_of_central_differences(kind):
    """By the inputs, also at zero, where powers have no logarithm, and by the weights."""

    def model(x, y=None):
        law = bh.network("law", BASES[kind](), scale=1.0, center=0.0, spread=1.0)
        shift = bh.parameter("shift", dist.Normal(0.0, 1.0), shape=(2,))
        bh.observe("y", dist.Normal(law(x + shift[None]), 0.5), obs=y)

    x = np.array([[0.0, 0.0], [0.5, -1.0], [1.2, 0.4]])
    with configuration.scope():
        target = bh.Target(model, {"x": x, "y": np.ones((3, 2))})
        for q in (
            np.zeros(target.layout.size),
            0.3 * np.random.default_rng(1).normal(size=target.layout.size),
        ):
            gradient = np.asarray(jax.grad(target.log_density)(jnp.asarray(q)))
            step = 1e-5 * np.eye(len(q))
            values = jax.jit(jax.vmap(target.log_density))(np.concatenate([q + step, q - step]))
            differences = (values[: len(q)] - values[len(q) :]) / 2e-5
            np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", BASES)
def test_the_stated_scale_is_the_prior_spread_of_an_output(kind):
    def model():
        return bh.network("law", BASES[kind](), scale=3.0, center=0.0, spread=1.0)

    def said(x):
        numpyro.deterministic("said", model()(x))

    x = np.random.default_rng(0).standard_normal((4000, 2))  # a power of three has rare large values
    draws = bh.simulate(said, {"x": x}, key=0, draws=300).latent["said"].draws
    assert draws.std() == pytest.approx(3.0, rel=0.1)


def test_planted_terms_are_chosen_among_twenty_and_the_others_are_not():
    """y = 1.5 x1 x2 - 0.8 x3^2 among all products of three inputs up to the third degree, and noise of 0.1."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-2.0, 2.0, (80, 3))
    y = 1.5 * x[:, :1] * x[:, 1:2] - 0.8 * x[:, 2:] ** 2 + 0.1 * rng.standard_normal((80, 1))

    def model(x, y=None):
        basis = bh.Polynomial(3, 1, degree=3)
        law = bh.network("law", basis, scale=2.0, center=0.0, spread=1.0, prior=bh.Horseshoe(expected=3))
        noise = bh.parameter("noise", bh.prior_interval(0.01, 1.0))
        bh.observe("y", dist.Normal(law(x), noise), obs=y)

    posterior = bh.infer(model, {"x": x, "y": y}, bh.NUTS(draws=400, warmup=400), key=0)
    found = bh.formula(posterior, "law")
    assert [term for term, chosen in zip(found.terms, found.chosen[0], strict=True) if chosen] == [
        "x1 x2",
        "x3^2",
    ]
    at = [found.terms.index(name) for name in ("x1 x2", "x3^2")]
    np.testing.assert_allclose(found.mean[0, at], [1.5, -0.8], atol=0.05)
    others = np.delete(found.mean[0], at)
    assert np.abs(others).max() < 0.03
    assert str(found).startswith("law = 1.")


def test_without_sparsity_terms_that_are_not_there_stay_uncertain():
    """What the sparse prior is for: with a plain one the other coefficients are as wide as the noise leaves them."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-2.0, 2.0, (25, 3))
    y = 1.5 * x[:, :1] * x[:, 1:2] + 0.1 * rng.standard_normal((25, 1))

    def widths(prior):
        def model(x, y=None):
            basis = bh.Polynomial(3, 1, degree=3)
            law = bh.network("law", basis, scale=2.0, center=0.0, spread=1.0, prior=prior)
            bh.observe("y", dist.Normal(law(x), 0.1), obs=y)

        found = bh.formula(bh.infer(model, {"x": x, "y": y}, bh.NUTS(draws=300, warmup=300), key=0), "law")
        return np.delete(found.sd[0], found.terms.index("x1 x2")).mean()

    assert widths(bh.Horseshoe(expected=1)) < 0.5 * widths(None)


WRONG = {
    "degree = 0 must be a whole number": lambda: bh.Polynomial(1, 1, degree=0),
    "period = 0 must be above zero": lambda: bh.Fourier(1, 1, harmonics=1, period=0),
    "pieces = 2.5 must be a whole number": lambda: bh.Spline(1, 1, pieces=2.5),
    "write one row of finite numbers": lambda: bh.Radial([0.0, 1.0], 1, width=1.0),
    "width = -1 must be above zero": lambda: bh.Radial([[0.0]], 1, width=-1),
    r"Horseshoe\(expected=0\)": lambda: bh.Horseshoe(expected=0),
}


@pytest.mark.parametrize("told", WRONG)
def test_bases_that_cannot_be_are_refused(told):
    with pytest.raises(bh.ModelError, match=told):
        WRONG[told]()


def test_more_terms_must_be_possible_than_are_expected():
    def model(x):
        bh.network("law", bh.Polynomial(1, 1, 1), scale=1.0, center=0.0, spread=1.0, prior=bh.Horseshoe(2))

    with pytest.raises(bh.ModelError, match="for the 2 weights of law/weight"):
        bh.simulate(model, {"x": np.ones(1)}, key=0, draws=2)


def test_a_network_without_terms_has_no_formula():
    def model(x, y=None):
        law = bh.network("law", bh.MLP(1, 1, width=2), scale=1.0, center=0.0, spread=1.0)
        bh.observe("y", dist.Normal(law(x), 0.5), obs=y)

    posterior = bh.infer(
        model, {"x": np.ones((3, 1)), "y": np.ones((3, 1))}, bh.NUTS(draws=20, warmup=20), key=0
    )
    with pytest.raises(bh.ModelError, match="is MLP, which has no terms"):
        bh.formula(posterior, "law")
    with pytest.raises(bh.ModelError, match="no network is called 'other'; the model has law"):
        bh.formula(posterior, "other")
