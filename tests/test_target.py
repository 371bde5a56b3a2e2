"""The seam: one density for all models that numpyro has, prior and likelihood apart, data as traced leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density, potential_energy

import bayeshybrid as bh
from bayeshybrid.faults import ModelError
from bayeshybrid.science import ode
from bayeshybrid.science.stepping import integrate

Y = np.array([0.3, -0.2, 1.1])


def plain(y=None):
    loc = numpyro.sample("loc", dist.Normal(1.0, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    numpyro.sample("y", dist.Normal(loc, scale), obs=y)


def simplex(y=None):
    p = numpyro.sample("p", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    numpyro.sample("y", dist.Normal(p, 1.0), obs=y)


def cholesky(y=None):
    factor = numpyro.sample("factor", dist.LKJCholesky(3, 2.0))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(3), scale_tril=factor), obs=y)


def interval(y=None):
    low = numpyro.sample("low", dist.Normal())
    inside = numpyro.sample("inside", dist.Uniform(low, low + 2.0))
    ordered = numpyro.sample(
        "ordered",
        dist.TransformedDistribution(
            dist.Normal(jnp.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()
        ),
    )
    numpyro.sample("y", dist.Normal(inside + ordered, 1.0), obs=y)


def plates(y=None):
    common = numpyro.sample("common", dist.Normal())
    with numpyro.plate("group", 3):
        effect = numpyro.sample("effect", dist.Normal(common, 1.0))
        with numpyro.plate("repeat", 2):
            offset = numpyro.sample("offset", dist.Exponential(1.0))
        numpyro.sample("y", dist.Normal(effect + offset.sum(axis=0), 1.0), obs=y)


def scaled(y=None):
    loc = numpyro.sample("loc", dist.Normal())
    with handlers.scale(scale=3.0):
        other = numpyro.sample("other", dist.Gamma(2.0, 1.0))
        numpyro.sample("y", dist.Normal(loc, other), obs=y)


def masked(y=None):
    with handlers.mask(mask=jnp.array([True, False, True])):
        loc = numpyro.sample("loc", dist.Normal(jnp.zeros(3), 1.0))
        numpyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def soft(y=None):
    a, b = numpyro.sample("a", dist.Normal()), numpyro.sample("b", dist.HalfNormal())
    numpyro.factor("together", -((a - b) ** 2))
    numpyro.sample("known", dist.Normal(a + b, 0.1), obs=1.0)
    numpyro.sample("y", dist.Normal(a, b), obs=y)


def derived(y=None):
    a = numpyro.sample("a", dist.HalfNormal())
    double = numpyro.deterministic("double", 2 * a)
    numpyro.sample("y", dist.Normal(double, 1.0), obs=y)


def improper(y=None):
    scale = numpyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(0.0, scale), obs=y)


def reparametrised(y=None):
    loc = numpyro.sample("loc", dist.Normal())
    with handlers.reparam(config={"effect": LocScaleReparam(0.0)}), numpyro.plate("group", 3):
        effect = numpyro.sample("effect", dist.Normal(loc, 2.0))
    numpyro.sample("y", dist.Normal(effect, 1.0), obs=y)


def stepwise(y=None):
    from numpyro.contrib.control_flow import scan

    spread = numpyro.sample("spread", dist.HalfNormal())

    def step(state, now):
        state = numpyro.sample("state", dist.Normal(state, spread))
        return state, numpyro.sample("y", dist.Normal(state, 1.0), obs=now)

    scan(step, 0.0, y, length=3)


MODELS = [
    plain,
    simplex,
    cholesky,
    interval,
    plates,
    scaled,
    masked,
    soft,
    derived,
    improper,
    reparametrised,
    stepwise,
]


def at_random(model: Callable[..., Any], data: dict[str, Any]) -> tuple[bh.Target, jax.Array]:
    target = bh.Target(model, data)
    return target, jax.random.normal(jax.random.key(1), (target.layout.size,))


def pieces(target: bh.Target, q: jax.Array) -> dict[str, jax.Array]:
    """The unconstrained values by name, as numpyro wants them."""
    return {
        site.name: q[site.start : site.stop].reshape(site.unconstrained_shape)
        for site in target.layout.latent
    }


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_density_is_numpyros(model):
    """On the unconstrained scale it is minus the potential of numpyro, and it is prior plus likelihood."""
    target, q = at_random(model, {"y": Y})
    bound = handlers.seed(model, 0)
    density, prior, likelihood = jax.jit(
        lambda t, q: (t.log_density(q), t.log_prior(q), t.log_likelihood(q))
    )(target, q)
    assert np.allclose(density, -potential_energy(bound, (), {"y": Y}, pieces(target, q)), rtol=1e-10)
    assert np.allclose(density, prior + likelihood, rtol=1e-12)


@pytest.mark.parametrize("model", [plain, plates, soft, interval], ids=lambda model: model.__name__)
def test_the_jacobian_is_all_that_parts_it_from_numpyros_constrained_density(model):
    target, q = at_random(model, {"y": Y})
    values = target.constrain(q)
    slope = jax.jacobian(lambda q: jax.flatten_util.ravel_pytree(target.constrain(q))[0])(q)
    difference = target.log_density(q) - log_density(model, (), {"y": Y}, values)[0]
    assert np.allclose(difference, jnp.linalg.slogdet(slope)[1], rtol=1e-8)


def test_observations_that_were_not_given_are_no_unknowns():
    """Where not one is given. The constraint of `soft` is a number in the model, and no observation."""
    for model in (plain, soft, scaled):
        layout = bh.Target(model, {}).layout
        assert layout.absent == ("y",)
        assert [site.name for site in layout.observed] == ["y"]
        assert [site.name for site in layout.latent] == [
            s.name for s in bh.Target(model, {"y": Y}).layout.latent
        ]
    assert bh.simulate(soft, {}, key=0, draws=4).observed["y"].draws.shape == (4,)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_constrain_and_unconstrain_are_inverse(model):
    target, q = at_random(model, {"y": Y})
    assert np.allclose(target.unconstrain(target.constrain(q)), q, atol=1e-8)


def test_what_is_prior_and_what_is_likelihood():
    """Observed with data and latent without: likelihood. Factors and fixed observations: prior."""
    target, q = at_random(soft, {"y": Y})
    values = target.constrain(q)
    expected = dist.Normal(values["a"], values["b"]).log_prob(Y).sum()
    assert np.allclose(target.log_likelihood(q), expected)
    assert set(target.layout.soft) == {"together", "known"}
    assert [site.name for site in target.layout.observed] == ["y"]
    assert [site.name for site in target.layout.pinned] == ["known"]
    assert target.layout.observation_arguments == ("y",)
    assert np.allclose(target.pointwise(q)["y"], dist.Normal(values["a"], values["b"]).log_prob(Y))


def test_scale_and_mask_act_on_the_likelihood_but_not_on_pointwise():
    target, q = at_random(scaled, {"y": Y})
    assert np.allclose(target.log_likelihood(q), 3 * target.pointwise(q)["y"].sum())
    target, q = at_random(masked, {"y": Y})
    cells = dist.Normal(q, 1.0).log_prob(Y)
    assert np.allclose(target.log_likelihood(q), cells[0] + cells[2])


def test_groups_are_slices_in_order():
    def model(y=None):
        first = bh.parameters(
            "rates", birth=bh.Parameter(dist.LogNormal()), death=bh.Parameter(dist.LogNormal())
        )
        middle = bh.parameter("start", dist.Normal(), shape=(2,))
        late = bh.parameter("late", dist.Normal(), group="rates")
        bh.observe("y", dist.Normal(first.birth + first.death + middle.sum() + late, 1.0), obs=y)

    layout = bh.Target(model, {"y": Y}).layout
    assert layout.groups == {"rates": slice(0, 3), "start": slice(3, 5)}
    assert [(site.name, site.start, site.stop) for site in layout.latent] == [
        ("birth", 0, 1),
        ("death", 1, 2),
        ("late", 2, 3),
        ("start", 3, 5),
    ]
    assert layout["late"].tag.group == "rates"


def test_an_auxiliary_site_belongs_to_its_parents_group():
    target, q = at_random(reparametrised, {"y": Y})
    assert list(target.layout.groups) == ["loc", "effect"]
    values = target.constrain(q)
    assert np.allclose(values["effect"], values["loc"] + 2.0 * values["effect_decentered"])


def test_derived_quantities_follow():
    target, q = at_random(derived, {"y": Y})
    values = target.constrain(q)
    assert np.allclose(values["double"], 2 * jnp.exp(q[0]))


def test_an_improper_prior_is_said():
    target, _ = at_random(improper, {"y": Y})
    q, proper = target.draw_prior(jax.random.key(0))
    assert not proper
    assert np.all(np.abs(q) <= 2)
    assert bool(at_random(plain, {"y": Y})[0].draw_prior(jax.random.key(0))[1])


# Subsampled plates


def subsampled(x, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("rows", len(x), subsample_size=3):
        rows, seen = numpyro.subsample(jnp.asarray(x), event_dim=0), None
        if y is not None:
            seen = numpyro.subsample(jnp.asarray(y), event_dim=0)
        numpyro.sample("y", dist.Normal(slope * rows, 1.0), obs=seen)


def test_subsampled_plates_have_all_rows_or_an_unbiased_estimate():
    x = np.linspace(-1, 2, 8)
    y = np.sin(3 * x)
    target = bh.Target(subsampled, {"x": x, "y": y})
    q = jnp.array([0.7])
    whole = dist.Normal().log_prob(q[0]) + dist.Normal(q[0] * x, 1.0).log_prob(y).sum()
    assert np.allclose(target.log_density(q), whole)
    keys = jax.random.split(jax.random.key(0), 4000)
    estimates = jax.jit(jax.vmap(target.log_density, in_axes=(None, 0)))(q, keys)
    assert estimates.std() > 0.1
    assert abs(estimates.mean() - whole) < 4 * estimates.std() / np.sqrt(len(keys))
    slopes = jax.jit(jax.vmap(jax.grad(target.log_density), in_axes=(None, 0)))(q, keys)[:, 0]
    exact = jax.grad(target.log_density)(q)[0]
    assert abs(slopes.mean() - exact) < 4 * slopes.std() / np.sqrt(len(keys))


# Data are leaves


def test_one_program_serves_every_data_set_of_a_shape():
    traced = []

    def model(x, y=None):
        traced.append(1)
        bh.observe("y", dist.Normal(numpyro.sample("a", dist.Normal()) * x, 1.0), obs=y)

    first, second = (bh.Target(model, {"x": Y + shift, "y": Y}) for shift in (0.0, 1.0))
    program = jax.jit(lambda target, q: target.log_density(q))
    q = jnp.array([0.5])
    values = [program(first, q)]
    before = len(traced)
    values.append(program(second, q))
    assert len(traced) == before
    for shift, value in zip((0.0, 1.0), values, strict=True):
        assert np.allclose(
            value, dist.Normal().log_prob(0.5) + dist.Normal(0.5 * (Y + shift), 1.0).log_prob(Y).sum()
        )


def test_data_leaves_can_be_mapped():
    def model(x, y=None):
        bh.observe("y", dist.Normal(numpyro.sample("a", dist.Normal()) * x, 1.0), obs=y)

    target = bh.Target(model, {"x": Y, "y": Y})
    leaves, rest = jax.tree.flatten(target)
    many = [jnp.stack([leaf, 2 * leaf]) for leaf in leaves]
    q = jnp.array([0.5])
    found = jax.vmap(lambda *leaves: jax.tree.unflatten(rest, leaves).log_density(q))(*many)
    for scale, value in zip((1, 2), found, strict=True):
        alone = bh.Target(model, {"x": scale * Y, "y": scale * Y})
        assert np.allclose(value, alone.log_density(q))


def test_a_concrete_value_is_compiled_in_with_a_note():
    def model(group, x, y=None):
        effect = numpyro.sample("effect", dist.Normal().expand([int(group.max()) + 1]))
        bh.observe("y", dist.Normal(effect[group] + x, 1.0), obs=y)

    group = np.array([0, 2, 1])
    target = bh.Target(model, {"group": group, "x": Y, "y": Y})
    assert target.notes == (
        "the model needs the concrete value of 'group', so it is compiled into the program",
    )
    assert set(target.data) == {"x", "y"}
    assert target.layout["effect"].shape == (3,)
    q = jnp.array([0.1, 0.2, 0.3])
    assert np.allclose(target.log_likelihood(q), dist.Normal(q[group] + Y, 1.0).log_prob(Y).sum())
    assert bh.Target(model, {"group": group.copy(), "x": Y + 1, "y": Y}).fixed == target.fixed


def test_arguments_that_are_no_arrays_are_kept():
    def model(link, rows, y=None):
        with numpyro.plate("rows", rows):
            bh.observe("y", dist.Normal(link(numpyro.sample("a", dist.Normal())), 1.0), obs=y)

    target = bh.Target(model, {"link": jnp.exp, "rows": 3, "y": Y})
    assert set(target.data) == {"y"}
    assert np.isfinite(target.log_density(jnp.zeros(3)))


# Value and gradient are one decision


@pytest.mark.parametrize(
    ("term", "at"),
    [
        (lambda a: jnp.sqrt(a**2), 0.0),  # finite value, NaN gradient
        (lambda a: jnp.where(a > 0, jnp.log(a), 0.0), 0.0),  # the NaN of the branch not taken
        (lambda a: jnp.log(a), -1.0),  # NaN value
        (lambda a: 1 / a, 0.0),  # infinite value
    ],
)
def test_neither_nan_nor_infinity_reaches_a_sampler(term, at):
    def model(y=None):
        a = numpyro.sample("a", dist.Normal())
        numpyro.factor("term", term(a))
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    target = bh.Target(model, {"y": Y})
    value, gradient = jax.jit(jax.value_and_grad(target.log_density))(jnp.array([at]))
    assert value == -np.inf
    assert gradient[0] == 0.0
    value, gradient = jax.value_and_grad(target.log_density)(jnp.array([0.5]))
    assert np.isfinite(value)
    assert np.isfinite(gradient[0])
    assert gradient[0] != 0


def test_the_gradient_is_that_of_prior_plus_likelihood():
    target, q = at_random(interval, {"y": Y})
    expected = jax.grad(lambda q: target.log_prior(q) + target.log_likelihood(q))(q)
    assert np.allclose(jax.grad(target.log_density)(q), expected, rtol=1e-12)
    tangent = jnp.ones_like(q)
    assert np.allclose(jax.jvp(target.log_density, (q,), (tangent,))[1], expected.sum(), rtol=1e-10)


def test_explain_names_the_site_that_fails():
    def model(y=None):
        a = numpyro.sample("a", dist.Normal())
        numpyro.factor("edge", jnp.log(a))
        bh.observe("y", dist.LogNormal(a, 1.0), obs=y, left=None)

    told = bh.Target(model, {"y": np.array([1.0, 2.0])}).explain(jnp.array([-1.0]))
    assert {name: bool(finite) for name, finite in told["finite"].items()} == {
        "a": True,
        "edge": False,
        "y": True,
    }
    assert told["support"]["y"].tolist() == [True, True]
    assert told["kinds"]["y"].tolist() == [0, 0]
    assert told["reasons"] == {}


def test_observations_are_arrays_of_moments_and_draws():
    target, q = at_random(plain, {"y": Y})
    values = target.constrain(q)
    found = jax.vmap(lambda key: target.observations(q, None, key))(jax.random.split(jax.random.key(0), 2000))
    assert np.allclose(found.moments["y"].mean[0], values["loc"])
    assert np.allclose(found.moments["y"].variance[0], values["scale"] ** 2)
    assert np.allclose(found.log_likelihood["y"][0], target.pointwise(q)["y"])
    assert abs(found.observed["y"].mean() - values["loc"]) < 5 * values["scale"] / np.sqrt(2000)


def test_a_value_for_every_unknown():
    with pytest.raises(ModelError, match="no value for 'scale': every unknown needs one"):
        bh.Target(plain, {"y": Y}).unconstrain({"loc": 1.0})


def decay(times, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 0.1))
    path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate, rtol=1e-3, atol=1e-3)
    bh.observe("y", dist.Normal(path.ys, 1e-3), obs=y)


def test_a_refined_target_solves_more_accurately():
    """The same model and data; the log likelihood comes nearer to that of exp(-t)."""
    times = np.array([1.0, 2.0, 3.0])
    target = bh.Target(decay, {"times": times, "y": np.exp(-times)})
    exact = 3 * dist.Normal(0.0, 1e-3).log_prob(0.0)
    rough, fine = (abs(t.log_likelihood(jnp.zeros(1)) - exact) for t in (target, target.refined()))
    assert fine < 0.01 * rough
    assert target.refined().layout is target.layout
    assert target.finer == 1.0


@jax.jit
def compiled_decay(rate):
    """A solve inside a jitted function, as models of others have it."""
    return ode.solve(lambda t, y, k: -k * y, 1.0, jnp.array([0.0, 1.0, 2.0]), 0.0, rate).ys


def test_no_solver_is_traced_to_read_a_model(monkeypatch):
    """Tracing a solver is most of the work; its shapes are known without, and so is what depends on it."""
    traced = []
    monkeypatch.setattr(ode, "integrate", lambda *given: traced.append(1) or integrate(*given))
    times = np.array([1.0, 2.0, 3.0])
    target = bh.Target(decay, {"times": times, "y": np.exp(-times)})
    assert not traced
    target.log_density(jnp.zeros(target.layout.size))
    assert traced


def test_reading_a_model_leaves_no_outline_in_compiled_functions():
    def model(y=None):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 0.1))
        numpyro.sample("y", dist.Normal(compiled_decay(rate), 0.1), obs=y)

    target = bh.Target(model, {"y": np.exp(-np.arange(3.0))})
    exact = 3 * dist.Normal(0.0, 0.1).log_prob(0.0)
    assert target.log_likelihood(jnp.zeros(1)) == pytest.approx(float(exact), abs=1e-6)


def relayed(times, y=None):
    """The prior of `level` is about the end of a solution, so that neither can be known without solving."""
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 0.1))
    path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate)
    level = numpyro.sample("level", dist.Normal(path.ys[-1], 1e-3))
    bh.observe("y", dist.Normal(level, 0.1), obs=y)


def decaying(times, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 0.1))
    path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys[-1], 0.1), obs=y)


@pytest.mark.parametrize(("model", "solves"), [(relayed, True), (decaying, False)])
def test_priors_are_solved_for_only_where_they_depend_on_a_solution(model, solves):
    target = bh.Target(model, {"times": np.array([1.0]), "y": np.array(0.4)})
    assert target.layout.prior_solves is solves
    assert ("while" in str(jax.make_jaxpr(target.draw_prior)(jax.random.key(0)))) is solves


def test_a_prior_about_a_solution_is_drawn_and_weighed_with_it():
    target = bh.Target(relayed, {"times": np.array([1.0]), "y": np.array(0.4)})
    draw = jax.jit(jax.vmap(lambda key: target.constrain(target.draw_prior(key)[0])))
    drawn = draw(jax.random.split(jax.random.key(1), 50))
    np.testing.assert_allclose(drawn["level"], np.exp(-drawn["rate"]), atol=5e-3)
    q = target.unconstrain({"rate": jnp.array(1.0), "level": jnp.array(0.37)})
    expected = dist.LogNormal(0.0, 0.1).log_prob(1.0) + dist.Normal(np.exp(-1), 1e-3).log_prob(0.37)
    assert abs(target.log_prior(q) - expected) < 1e-3
