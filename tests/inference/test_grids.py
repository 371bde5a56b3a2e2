"""Frozen grids: learned where they may be, held against adaptive solves, and caught where they are wrong."""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid.inference.grids import certificate, compare, learn, refine
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.science import ode
from bayeshybrid.science.pacing import Buckets, Stable, in_buckets, steps_of
from tests.problems import PROBLEMS

TIMES = np.array([1.0, 2.0, 4.0])


def relaxation(times, noise, y=None):
    """Towards 1 at a rate that may be large: a coarse grid leaves the region where the method is stable."""
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
    path = bh.solve_ode("path", lambda t, y, k: k * (1.0 - y), 0.0, times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys, noise), obs=y)


def target(noise=0.05):
    return bh.Target(relaxation, {"times": TIMES, "noise": np.array(noise), "y": 1 - np.exp(-TIMES)})


def draws(at, spread, count, seed=0):
    return at + spread * np.random.default_rng(seed).standard_normal((count, 1))


def test_a_learned_grid_passes_where_it_was_learned():
    adaptive = target()
    near = draws(0.0, 0.1, 1000)
    plans, notes = learn(adaptive, near[:32])
    frozen = adaptive.frozen(plans)
    assert notes == ()
    assert set(TIMES) | {0.0} <= set(np.asarray(plans["path"]))
    found = certificate(adaptive, frozen, near)
    assert found.verdict == found.check.state == "pass"
    assert found.lost == 0
    assert 0 < np.abs(found.differences).max() < 5e-3
    compared = compare(adaptive, frozen, {"near": near[:100], "inflated": 2 * near[:100]})
    assert compared.sound
    assert compared.notes == ()


@pytest.mark.parametrize(
    ("noise", "verdict", "state"),
    [(0.05, "pass", "pass"), (0.01, "weigh", "pass with remarks"), (0.003, "refine", "fail")],
)
def test_the_certificate_of_a_grid_of_the_times_alone(noise, verdict, state):
    """The less noise there is in the data, the more an error of the solver counts."""
    adaptive = target(noise)
    found = certificate(adaptive, adaptive.frozen({"path": np.append(0.0, TIMES)}), draws(0.0, 0.1, 1000))
    assert found.verdict == verdict
    assert found.check.state == state
    ratios = np.exp(found.differences - found.differences.max())
    if verdict != "refine":
        assert found.check.figure == pytest.approx(np.std(ratios) / np.mean(ratios), rel=0.1)


def test_halving_a_grid_lowers_its_error_by_its_order():
    adaptive, near = target(), draws(0.0, 0.1, 64)
    plans, _ = learn(adaptive, near[:16], stretch=4.0)
    coarse, fine = (
        np.abs(certificate(adaptive.refined(1e4), adaptive.frozen(x), near).differences).max()
        for x in (plans, refine(plans))
    )
    assert len(refine(plans)["path"]) == 2 * len(plans["path"]) - 1
    assert fine < coarse / 10


def blow_up(times, y=None):
    """Stays finite, but an explicit step of a quarter throws large rates beyond all numbers."""
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
    path = bh.solve_ode("path", lambda t, y, k: -k * y**3, 3.0, times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys, 0.5), obs=y)


def test_a_tail_that_a_grid_cuts_off_is_told():
    """The grid solves the mode; beyond a rate of about one it fails, and no draw made on it would lie there."""
    adaptive = bh.Target(blow_up, {"times": TIMES, "y": np.array([0.6, 0.45, 0.3])})
    frozen = adaptive.frozen({"path": np.linspace(0.0, 4.0, 33)})
    points = np.linspace(-1.0, 3.0, 200)[:, None]
    told = compare(adaptive, frozen, {"across": points})
    assert not told.sound
    lost = told.lost["across"]
    assert len(lost) > 10
    assert np.isfinite(told.cheap["across"][:20]).all()
    assert np.isfinite(told.accurate["across"][lost]).all()
    assert "of 200 points (across) fail on the frozen grid and are solved adaptively" in told.notes[0]
    kept = points[np.isfinite(told.cheap["across"])]
    assert certificate(adaptive, frozen, np.tile(points[lost], (10, 1))).verdict == "refine"
    found = certificate(adaptive, frozen, np.concatenate([np.tile(kept[:20], (50, 1)), points[lost[:5]]]))
    assert found.lost == pytest.approx(5 / 1005)
    assert found.check.state == "fail"
    assert found.check.name.startswith("points that fail")


def test_a_grid_that_steps_over_a_pole_does_not_serve():
    """On a grid the solve goes on where the solution no longer exists, and no finer one has an end there."""
    problem = PROBLEMS["exploding"]
    adaptive = bh.Target(problem.model, problem.data)
    times = problem.data["times"]
    frozen = adaptive.frozen({"path": np.union1d(np.linspace(0.0, times.max(), 17), times)})
    before, beyond = (np.log(np.linspace(*span))[:, None] for span in ((0.5, 0.9, 990), (1.001, 1.003, 10)))
    assert np.isfinite(slopes(frozen, beyond)[0]).all()
    assert certificate(adaptive, frozen, before).verdict == "pass"
    found = certificate(adaptive, frozen, np.concatenate([before, beyond]))
    assert found.verdict == "adaptive"
    assert found.check.state == "fail"
    assert found.check.figure == pytest.approx(0.01)


def turning(times, y=None):
    """A pendulum: stepped too coarsely, a fast one does what no pendulum does."""
    frequency = numpyro.sample("frequency", dist.LogNormal(1.0, 1.0))
    path = bh.solve_ode(
        "path", swing, jnp.array([1.0, 0.0]), times, t0=0.0, args=frequency, rtol=1e-5, atol=1e-5
    )
    bh.observe("y", dist.Normal(path.ys[:, 0], 0.1), obs=y)


def swing(t, y, frequency):
    return jnp.stack([y[1], -(frequency**2) * y[0]])


def test_a_basin_that_exists_only_on_the_grid_is_told():
    """Data made by the grid's own error at a frequency of 5: there the grid has a mode, and the equation none."""
    times = np.linspace(0.5, 2.0, 4)
    grid = np.append(0.0, times)
    wrong = ode.solve(swing, jnp.array([1.0, 0.0]), times, 0.0, 5.0, grid=grid).ys[:, 0]
    adaptive = bh.Target(turning, {"times": times, "y": np.asarray(wrong)})
    frozen = adaptive.frozen({"path": grid})
    points = np.linspace(-1.0, 2.5, 401)[:, None]
    told = compare(adaptive, frozen, {"starts": points})
    mode = points[np.argmax(told.cheap["starts"])]
    assert mode == pytest.approx(np.log(5.0), abs=0.01)
    assert np.argmax(told.cheap["starts"]) in told.apart["starts"]
    assert not told.sound
    higher = told.cheap["starts"] - told.accurate["starts"]
    assert higher[np.argmax(told.cheap["starts"])] > 10
    assert "points (starts) within reach of the best differ in log density, by up to" in told.notes[-1]
    fine = adaptive.frozen({"path": np.linspace(0.0, 2.0, 513)})
    assert compare(adaptive, fine, {"starts": points}).sound


def late(times, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 0.2))
    start = numpyro.sample("start", dist.Uniform(0.0, 0.5))
    lag = numpyro.sample("lag", dist.Uniform(0.6, 0.9))
    oral = bh.doses(lag, 1.0)
    decay = lambda t, y, k: -k * y  # noqa: E731
    bh.solve_ode("moved", decay, 1.0, times, t0=start, args=rate)
    bh.solve_ode("dosed", decay, 1.0, times, t0=0.0, args=rate, inputs=[oral])
    bh.solve_ode("large", decay, jnp.ones(17), times, t0=0.0, args=rate, solver=diffrax.Kvaerno5())
    bh.solve_ode("failing", decay, 1.0, times, t0=0.0, args=rate, max_steps=1)
    bh.solve_ode("long", lambda t, y, k: 9000 * jnp.cos(9000 * t) * y, 1.0, times, t0=0.0, args=rate)
    path = bh.solve_ode("kept", decay, 1.0, times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)


def test_no_grid_where_none_can_stand_and_why():
    adaptive = bh.Target(late, {"times": TIMES, "y": np.exp(-TIMES)})
    plans, notes = learn(adaptive, np.random.default_rng(0).normal(size=(4, 3)))
    assert set(plans) == {"kept"}
    assert set(notes) == {
        "large: no frozen grid, Kvaerno5 has 17 states to solve for at once, more than 16",
        "moved: no frozen grid, its start, its times or those of its inputs depend on the unknowns",
        "dosed: no frozen grid, its start, its times or those of its inputs depend on the unknowns",
        "failing: no frozen grid, 100% of the adaptive solves to learn it from failed",
        "long: no frozen grid, 100% of the adaptive solves to learn it from failed",
    }


def patients(times, dose, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(jnp.array([0.0, 1.5]), 0.1).to_event(1))
    oral = bh.doses(jnp.array([[0.0, 1.5], [0.0, 3.0]]), dose)
    path = bh.solve_ode(
        "path",
        lambda t, y, k: -k * y,
        jnp.zeros(2),
        times,
        t0=0.0,
        args=rate,
        in_axes=(0, 0, 0),
        inputs=[oral],
    )
    bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)


def test_each_unit_has_its_own_steps_and_the_jumps_of_its_inputs():
    times = np.array([[1.0, 2.0, 6.0], [0.5, 1.0, 4.0]])
    adaptive = bh.Target(patients, {"times": times, "dose": np.array([1.0, 2.0]), "y": np.zeros((2, 3))})
    points = np.array([0.0, 1.5]) + 0.1 * np.random.default_rng(0).standard_normal((80, 2))
    plans, notes = learn(adaptive, points[:20])
    one, two = np.asarray(plans["path"])
    assert notes == ()
    assert {0.0, 1.0, 1.5, 2.0, 6.0} <= set(one)
    assert {0.0, 0.5, 1.0, 3.0, 4.0} <= set(two)
    found = certificate(adaptive, adaptive.frozen(plans), points)
    assert found.verdict == "pass"
    assert np.abs(found.differences).max() < 1e-2


# Target


@jax.jit
def told_at(target, q, later):
    return {
        "density": jax.value_and_grad(target.log_density)(q),
        "parts": (target.log_prior(q), target.log_likelihood(q)),
        "predictions": (target.observations(q), target.observations(q, {"times": later, "noise": 0.05})),
    }


def test_densities_come_from_the_grid_and_predictions_do_not():
    adaptive, q, later = target(), jnp.zeros(1), TIMES + 1
    frozen = adaptive.frozen({"path": np.append(0.0, TIMES)})
    on_grid, thawed, exact = (told_at(t, q, later) for t in (frozen, frozen.frozen({}), adaptive))
    assert jax.tree.all(jax.tree.map(np.array_equal, thawed, exact))
    for value, same in zip(on_grid["density"], exact["density"], strict=True):
        assert np.all(np.abs(value - same) > 1e-6)
    np.testing.assert_allclose(sum(on_grid["parts"]), on_grid["density"][0], rtol=1e-12)
    own, other = (x["predictions"] for x in (on_grid, exact))
    np.testing.assert_allclose(own[0].latent["path"], other[0].latent["path"], rtol=1e-12)
    np.testing.assert_allclose(own[0].log_likelihood["y"], other[0].log_likelihood["y"], rtol=1e-12)
    np.testing.assert_allclose(own[1].latent["path"], 1 - np.exp(-later), atol=1e-4)


def test_finer_tolerances_and_other_models_keep_no_grid():
    frozen = target().frozen({"path": np.append(0.0, TIMES)})
    assert frozen.refined(2.0).grids == frozen.modelled(turning).grids == {}
    assert frozen.labelled({"unit": ("a",)}).grids is frozen.grids


def test_a_grid_of_other_times_gives_no_density():
    frozen = target().frozen({"path": np.array([0.0, 1.0, 4.0])})
    assert frozen.log_density(jnp.zeros(1)) == -np.inf
    told = frozen.explain(jnp.zeros(1))
    assert ode.describe(int(told["reasons"]["path"])).startswith("the frozen step grid does not hold")


def oscillators(times, y=None):
    """Twenty-four units seen eight times each, the last of them 64 times as long as the first."""
    frequency = numpyro.sample("frequency", dist.LogNormal(1.0, 0.1).expand([24]).to_event(1))
    path = bh.solve_ode(
        "path", swing, jnp.array([1.0, 0.0]), times, t0=0.0, args=frequency, in_axes=(None, 0, 0)
    )
    bh.observe("y", dist.Normal(path.ys[..., 0], 0.1), obs=y)


def test_units_of_different_length_are_solved_in_buckets():
    """As exactly as with one number of steps for all, and with less than half of them."""
    times = np.linspace(0.125, 1.0, 8) * np.geomspace(1.0, 64.0, 24)[::-1, None]
    adaptive = bh.Target(oscillators, {"times": times, "y": np.cos(np.e * times)})
    near = 1.0 + 0.003 * np.random.default_rng(3).standard_normal((16, 24))
    plans, notes = learn(adaptive, near)
    plan = plans["path"]
    assert not notes
    assert isinstance(plan, Buckets)
    made = sum(len(units) * steps for units, steps in zip(plan.units, steps_of(plan), strict=True))
    assert 2 * made < 24 * max(steps_of(plan))
    assert sorted(np.concatenate(plan.units).tolist()) == list(range(24))
    for units, ends in zip(plan.units, plan.ends, strict=True):
        for unit, own in zip(units, ends, strict=True):
            assert set(times[unit]) | {0.0} <= set(np.asarray(own))
    longest = max(steps_of(plan)) + 1
    ends = [np.pad(own, ((0, 0), (0, longest - own.shape[1])), mode="edge") for own in plan.ends]
    alike = {"path": np.concatenate(ends)[plan.order]}  # the last time repeated: steps of no length
    for found, wanted in zip(
        slopes(adaptive.frozen(plans), near), slopes(adaptive.frozen(alike), near), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-8)
    fine = adaptive.frozen(refine(refine(plans)))
    np.testing.assert_allclose(slopes(fine, near)[0], slopes(adaptive, near)[0], atol=0.05)
    again, _ = learn(adaptive, near[:4], earlier=plans)
    assert all(map(np.array_equal, again["path"].units, plan.units))
    assert steps_of(again["path"]) == steps_of(plan)


def test_units_of_about_the_same_length_share_one_number_of_steps():
    assert set(in_buckets(np.repeat([100, 128], 20))) == {128}
    assert set(in_buckets(np.array([2, 128]))) == {128}  # little would be spared


def absorbing(times, y=None):
    """Absorption that may be so fast that an explicit method has to make tiny steps for the rest of the time."""
    absorption = numpyro.sample("absorption", dist.LogNormal(0.0, 3.0))
    clearance = numpyro.sample("clearance", dist.LogNormal(-2.0, 0.5))

    def oral(t, y, k):
        return jnp.stack([-k[0] * y[0], k[0] * y[0] - k[1] * y[1]])

    start, settings = jnp.array([10.0, 0.0]), {"rtol": 1e-6, "atol": 1e-6}
    path = bh.solve_ode("path", oral, start, times, t0=0.0, args=(absorption, clearance), **settings)
    bh.observe("y", dist.Normal(path.ys[:, 1], 0.1), obs=y)


def in_blood(times, absorption, clearance):
    return (
        10
        * absorption
        / (absorption - clearance)
        * (np.exp(-clearance * times) - np.exp(-absorption * times))
    )


def test_where_explicit_steps_would_be_tiny_for_some_draws_a_stable_method_takes_their_place():
    """Absorption from 0.05 to 150 per hour over a day, against the closed form."""
    times = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0])
    measured = in_blood(times, 2.0, 0.15)
    adaptive = bh.Target(absorbing, {"times": times, "y": measured})
    wide = np.stack([np.linspace(-3.0, 5.0, 24), np.linspace(-2.5, -1.5, 24)], axis=1)
    plans, notes = learn(adaptive, wide)
    assert isinstance(plans["path"], Stable)
    assert steps_of(plans["path"])[0] <= 64
    assert "draws are made by a Rosenbrock method" in notes[0]

    frozen = adaptive.frozen(refine(plans))
    values, gradients = slopes(frozen, wide)
    assert steps_of(frozen.grids["path"]) == [2 * steps_of(plans["path"])[0]]
    expected = np.stack([in_blood(times, *np.exp(q)) for q in wide])
    residual = np.sum(((measured - expected) / 0.1) ** 2, axis=1)
    prior = (wide[:, 0] / 3.0) ** 2 + ((wide[:, 1] + 2.0) / 0.5) ** 2
    offset = values + 0.5 * (residual + prior)
    assert np.ptp(offset) < 2e-3 * residual.max()
    theirs = slopes(adaptive, wide)[1]
    np.testing.assert_allclose(gradients, theirs, atol=2e-3 * np.abs(theirs).max())

    near = np.log([2.0, 0.15]) + 0.02 * np.random.default_rng(5).standard_normal((200, 2))
    assert certificate(adaptive, adaptive.frozen(plans), near).verdict == "pass"
    again, _ = learn(adaptive, near[:16], earlier=plans)
    assert isinstance(again["path"], Stable)  # so that no program is compiled anew
    narrow, _ = learn(adaptive, near[:16])
    assert not isinstance(narrow["path"], Stable)
