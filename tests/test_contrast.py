"""Two forecasts of one posterior, paired draw by draw, and what of their difference came through networks."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from posteriors import from_draws

import bayeshybrid as bh

NET = bh.MLP(1, 1, width=2)
TIMES = np.linspace(0.0, 2.0, 5)


def additive(x, y=None):
    """A direct effect of the input, and one through a network."""
    slope = bh.parameter("slope", dist.Normal(0.0, 1.0))
    f = bh.network("f", NET, scale=1.0, center=0.0, spread=1.0)
    mean = numpyro.deterministic("mean", slope * x + f(x[:, None])[:, 0])
    bh.observe("y", dist.Normal(mean, 0.5), obs=y)


def growth(start, times, y=None):
    """A rate by an equation and by a network of the state."""
    rate = bh.parameter("rate", dist.LogNormal(-1.0, 0.2))
    f = bh.network("f", NET, scale=0.5, center=0.0, spread=1.0)

    def field(t, state, args):
        rate, f = args
        return -rate * state + f(state)

    path = bh.solve_ode("path", field, start, times, t0=0.0, args=(rate, f))
    bh.observe("y", dist.Normal(path.ys[:, 0], 0.1), obs=y)


def level(group, y=None):
    """Nothing but a level, with new units each time."""
    mean = bh.parameter("mean", dist.Normal(0.0, 1.0))
    with numpyro.plate("unit", len(group)):
        unit = numpyro.sample("unit_effect", dist.Normal(0.0, 1.0))
    bh.observe("y", dist.Normal(mean * group + unit, 0.5), obs=y)


def _posterior(model, data, size, seed=0, shift=0.0):
    draws = shift + 0.3 * np.random.default_rng(seed).standard_normal((2, 20, size))
    return from_draws(model, data, draws)


@pytest.fixture(scope="module")
def posterior():
    data = {"x": np.array([0.0, 1.0, 2.0]), "y": np.zeros(3)}
    return _posterior(additive, data, bh.Target(additive, data).layout.size)


@pytest.fixture(scope="module")
def solved():
    data = {"start": np.array([1.0]), "times": TIMES, "y": np.zeros(5)}
    return _posterior(growth, data, bh.Target(growth, data).layout.size)


def test_draws_are_paired_and_noise_is_left_out(posterior):
    changed, baseline = (
        posterior.predict(key=1, change={"slope": lambda v: v + 1.0}),
        posterior.predict(key=2),
    )
    effect = changed - baseline
    np.testing.assert_allclose(
        effect.observed["y"].draws, np.broadcast_to([0.0, 1.0, 2.0], (40, 3)), atol=1e-12
    )
    np.testing.assert_allclose(effect.latent["slope"].draws, 1.0)


def test_a_function_of_the_trajectory_is_contrasted_draw_by_draw(posterior):
    changed, baseline = (
        posterior.predict(key=1, change={"slope": lambda v: v + 1.0}),
        posterior.predict(key=1),
    )
    peak = (changed - baseline).of(lambda mean: mean.max())
    by_hand = changed.latent["mean"].draws.max(axis=1) - baseline.latent["mean"].draws.max(axis=1)
    np.testing.assert_allclose(peak.draws, by_hand)
    up = (changed - baseline).probability(lambda mean: mean[2] > 1.5)
    assert up.value == 1.0
    assert 0 < up.error < 0.1


def test_what_came_through_a_network_is_its_answer_now_less_its_answer_then(posterior):
    changed, baseline = posterior.predict(key=1, change={"x": lambda x: 2.0 * x}), posterior.predict(key=1)
    effect = changed - baseline
    slope = baseline.latent["slope"].draws[:, None]
    x = np.array([0.0, 1.0, 2.0])
    network = [f.latent["mean"].draws - slope * x * factor for f, factor in ((changed, 2.0), (baseline, 1.0))]
    np.testing.assert_allclose(
        effect.through_networks["mean"].draws, network[0] - network[1], rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        effect.through_networks["y"].draws, effect.through_networks["mean"].draws, atol=1e-12
    )
    assert 0 < effect.network_share("y") < 10
    assert "through a network" in str(effect)
    assert "lies outside what it saw" in str(effect)  # the input was doubled


def test_nothing_comes_through_a_network_that_is_asked_the_same(posterior):
    changed, baseline = (
        posterior.predict(key=1, change={"slope": lambda v: 2.0 * v}),
        posterior.predict(key=1),
    )
    np.testing.assert_allclose((changed - baseline).through_networks["y"].draws, 0.0, atol=1e-12)


@pytest.mark.slow
def test_along_a_solution_the_network_answers_as_it_did_at_the_same_time(solved):
    """Against Euler steps a thousand times smaller, in which the network's answers are kept from the baseline."""
    changed = solved.predict(key=1, change={"rate": lambda v: 2.0 * v})
    baseline = solved.predict(key=1)
    effect = changed - baseline
    target, points = solved.target, solved.unconstrained.reshape(-1, solved.target.layout.size)
    for row in (0, 17):
        net, rate = target.networks(points[row])["f"], float(baseline.latent["rate"].draws[row])
        held = _held_path(net, rate, 2.0 * rate)
        expected = (changed.latent["path"].draws[row, :, 0] - baseline.latent["path"].draws[row, :, 0]) - (
            held - baseline.latent["path"].draws[row, :, 0]
        )
        np.testing.assert_allclose(effect.through_networks["path"].draws[row, :, 0], expected, atol=3e-4)
    assert np.abs(effect.through_networks["path"].draws).max() > 3e-3


def _held_path(net, rate, changed, steps=4000):
    import jax

    h = TIMES[-1] / steps

    def step(state, _):
        plain, held = state
        answer = net(plain[None])[0]
        return (plain + h * (-rate * plain + answer), held + h * (-changed * held + answer)), held

    _, path = jax.lax.scan(step, (jnp.ones(()), jnp.ones(())), None, length=steps + 1)
    return np.asarray(path)[np.round(TIMES / h).astype(int)]


def test_new_units_pair_under_one_key_only():
    data = {"group": np.ones(2), "y": np.zeros(2)}
    posterior = _posterior(level, data, 3)
    ask = {"new": ("unit",), "replicates": 4}
    baseline = posterior.predict(key=1, **ask)
    changed = posterior.predict(key=1, change={"group": lambda g: 2.0 * g}, **ask)
    effect = changed - baseline
    mean = np.repeat(baseline.latent["mean"].draws, 1)[:, None]
    np.testing.assert_allclose(effect.observed["y"].draws, np.broadcast_to(mean, (160, 2)), atol=1e-12)
    assert effect.through_networks == {}
    assert effect.network_share("y") == 0.0
    with pytest.raises(bh.ModelError, match="same key"):
        changed - posterior.predict(key=2, **ask)


def test_what_does_not_pair_is_refused(posterior):
    other = _posterior(level, {"group": np.ones(2), "y": np.zeros(2)}, 3)
    with pytest.raises(bh.ModelError, match="do not pair"):
        posterior.predict(key=1) - other.predict(key=1)
    with pytest.raises(bh.ModelError, match="do not pair"):
        posterior.predict(key=1, draws=20) - posterior.predict(key=1)
    prior = bh.simulate(additive, {"x": np.zeros(3)}, key=0, draws=40)
    with pytest.raises(bh.ModelError, match="not from the prior"):
        posterior.predict(key=1) - prior
