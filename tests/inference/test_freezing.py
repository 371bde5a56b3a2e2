"""Runs on frozen grids: the answer is that of adaptive solves, and grids that mislead are found out."""

from __future__ import annotations

import dataclasses
from statistics import NormalDist

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.diagnostics import mean_error
from bayeshybrid.inference import driver, freezing, verbs
from bayeshybrid.inference.freezing import Frozen, all_solved, certify, finer, near_basins, rough
from bayeshybrid.inference.grids import refine
from bayeshybrid.inference.method import Basin, Chunk
from bayeshybrid.inference.search import Search
from bayeshybrid.survey import ask, draw_prior

TIMES = np.linspace(0.5, 8.0, 16)
DECAY = {"times": TIMES, "y": np.exp(-0.6 * TIMES)}


def decay(times, y=None):
    rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
    path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys, 0.02), obs=y)


@pytest.fixture(scope="module")
def target():
    with configuration.scope():
        return bh.Target(decay, DECAY)


@pytest.fixture(scope="module")
def lean(target):
    with configuration.scope():
        points = draw_prior(target, jax.random.key(0), 100)[0]
        return rough(target, points, ask(target, points, ["log_likelihood"])["log_likelihood"])


def search_at(mode, spread=0.01):
    basin = Basin(np.array([mode]), 0.0, np.array([[mode]]), np.array([[spread]]), np.ones(1), 1.0, 0.0)
    return Search((basin,), (), 1, 0, ())


def test_a_posterior_on_grids_is_that_of_adaptive_solves():
    posterior = bh.infer(decay, DECAY, key=0)
    assert posterior.record["grids"]["path"][0] >= len(TIMES)
    assert any("frozen step grid" in check.name for check in posterior.verdict.checks)
    log_rate = np.linspace(-0.8, -0.2, 4001)
    fit = np.exp(-np.exp(log_rate)[:, None] * TIMES)
    height = -0.5 * np.sum(((DECAY["y"] - fit) / 0.02) ** 2, axis=1) - 0.5 * log_rate**2
    mass = np.exp(height - height.max())
    mean = np.sum(mass * log_rate) / mass.sum()
    sd = np.sqrt(np.sum(mass * (log_rate - mean) ** 2) / mass.sum())
    draws = np.log(posterior.samples["rate"])
    assert abs(draws.mean() - mean) < 0.15 * sd
    assert abs(draws.std() / sd - 1) < 0.1


@pytest.mark.parametrize(
    ("method", "wanted"), [(None, True), (bh.NUTS(), True), (bh.SVI(), False), (bh.DeepEnsemble(), False)]
)
def test_only_what_is_held_against_adaptive_solves_afterwards_is_drawn_on_grids(method, wanted):
    assert verbs._on_grids(method) is wanted


@pytest.mark.slow
def test_methods_that_are_not_exact_keep_adaptive_solves():
    posterior = bh.infer(decay, DECAY, bh.SVI(draws=60, steps=60), key=0)
    assert posterior.record["grids"] == {}


def test_a_basin_that_only_the_grid_has_is_caught_and_gone_on_a_finer_one(target, monkeypatch):
    """Far out the polynomial of the method comes back to the value that it has at the mode: a second basin."""
    planted = {"path": np.array([0.0, *TIMES])}
    monkeypatch.setattr(
        freezing,
        "learn",
        lambda target, points, earlier: (planted if len(earlier["path"]) == 17 else refine(planted), ()),
    )
    with configuration.scope():
        lean = Frozen(target.frozen(planted))
        found = near_basins(target, lean, search_at(np.log(0.6)), jax.random.key(1))
        again = near_basins(target, finer(target, lean), search_at(np.log(0.6)), jax.random.key(1))
    assert not found.sound
    assert any("differ in log density" in note for note in found.notes)
    assert found.steps == lean.steps
    assert again.sound
    assert again.steps == {"path": [2 * lean.steps["path"][0]]}


def test_a_search_that_ended_on_a_grid_too_coarse_is_not_sound(target):
    """On the times alone a rate of 8 is beyond what the method can follow: the grid of the search misled it."""
    with configuration.scope():
        coarse = Frozen(target.frozen({"path": np.array([0.0, *TIMES])}))
        found = near_basins(target, coarse, search_at(np.log(8.0)), jax.random.key(1))
    assert not found.sound


def test_draws_on_a_grid_too_coarse_are_not_certified_and_on_a_finer_one_they_are(target):
    """Noise of 0.02 and one step of 8: the error of the solver moves the posterior."""
    draws = np.log(0.6) + 0.02 * np.random.default_rng(0).normal(size=(4, 300, 1))
    with configuration.scope():
        coarse = Frozen(target.frozen({"path": np.array([0.0, *TIMES])}))
        one = bh.Target(decay, {"times": TIMES[-1:], "y": DECAY["y"][-1:]})
        crude = Frozen(one.frozen({"path": np.array([0.0, TIMES[-1]])}))
        assert certify(one, crude, draws, 0.0, np.zeros((0, 1)), 1200).verdict != "pass"
        better = finer(one, finer(one, finer(one, crude)))
        assert certify(one, better, draws, 0.0, np.zeros((0, 1)), 1200).verdict == "pass"
        assert certify(target, coarse, draws, 0.0, np.zeros((0, 1)), 1200).verdict == "pass"
    assert better.steps == {"path": [8]}


def test_proposals_that_fail_on_the_grid_alone_are_counted(target, lean):
    draws = np.full((4, 300, 1), np.log(0.6)) + 0.01 * np.random.default_rng(1).normal(size=(4, 300, 1))
    solvable = np.full((10, 1), np.log(0.6))
    with configuration.scope():
        found = certify(target, lean, draws, 0.0, solvable, 1000)
        few = certify(target, lean, draws, 0.0, solvable, 100_000)
        far = certify(target, lean, draws, 0.0, solvable + 2.0, 1000)
    assert found.verdict == "refine"
    assert far.verdict == "pass"  # solved too, and never to be accepted
    assert found.lost == pytest.approx(0.01)
    assert few.verdict == "pass"


@pytest.mark.slow
def test_grids_that_no_refinement_mends_give_way_to_adaptive_solves(monkeypatch):
    """A planted certificate that never passes: the answer is made once more without grids, and says so."""
    real = freezing.certificate
    monkeypatch.setattr(freezing, "certificate", lambda *given: real(*given)._replace(verdict="refine"))
    posterior = bh.infer(decay, DECAY, bh.NUTS(draws=50, warmup=50), key=0)
    assert posterior.record["grids"] == {}
    assert any("so solves are adaptive" in remark for remark in posterior.remarks)


def test_a_later_run_that_is_cut_short_loses_no_draws_of_an_earlier_one(target, lean, monkeypatch):
    """The second run is interrupted before it keeps a draw: the first one's come back, with its failed certificate."""
    real, kept = freezing.certificate, []
    monkeypatch.setattr(freezing, "certificate", lambda *given: real(*given)._replace(verdict="refine"))
    drive = verbs.drive

    def cut(*given, **more):
        run = drive(*given, **more)
        kept.append(run)
        return run if len(kept) == 1 else dataclasses.replace(run, chunks=run.chunks[:1], ended="interrupted")

    monkeypatch.setattr(verbs, "drive", cut)
    settings = verbs._Settings(bh.Silent(), None, 400.0, {})
    with configuration.scope():
        basins = search_at(np.log(0.6)).basins
        method = bh.NUTS(draws=50, warmup=50)
        drawn = verbs._certified(method, target, lean, basins, jax.random.key(0), settings)
    assert len(kept) == 2
    assert drawn.run is kept[0]
    assert drawn.result.draws.shape == (4, 50, 1)
    assert drawn.certificate is not None


@pytest.mark.slow
def test_stiff_solvers_have_grids_and_the_same_posterior():
    import diffrax

    def stiff(times, y=None):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 1.0))
        solver = diffrax.Kvaerno5()
        path = bh.solve_ode("path", lambda t, y, k: -k * y, 1.0, times, t0=0.0, args=rate, solver=solver)
        bh.observe("y", dist.Normal(path.ys, 0.02), obs=y)

    found, expected = (bh.infer(model, DECAY, key=0).samples["rate"] for model in (stiff, decay))
    posterior = bh.infer(stiff, DECAY, key=0)
    assert posterior.record["grids"]["path"][0] >= len(TIMES)
    assert posterior.verdict["scientific parameters"] == "pass"
    assert abs(found.mean() - expected.mean()) < 4 * np.hypot(mean_error(found), mean_error(expected))


def test_a_proposal_that_fails_on_the_grid_alone_is_no_failed_solve(target, lean):
    """Three ends of trajectories: solved by the model as stated, not even by it, and one that did not fail."""
    seen = driver._Failures(lean.target, target)
    places = np.log([[[0.6], [0.6]], [[0.6], [np.inf]]])
    failed = np.array([[False, True], [False, True]])
    chunk = Chunk(places, {"failed": failed, "failed_at": places, "lp": np.zeros((2, 2))})
    with configuration.scope():
        seen.count(chunk, 100)
    failed_at, failed_in, missed_at, missed_in = seen.places()
    assert failed_in.tolist() == [101]
    assert chunk.statistics["failed"].tolist() == [[False, False], [False, True]]
    assert "failed_at" not in chunk.statistics
    assert missed_at.tolist() == [[np.log(0.6)]]
    assert missed_in.tolist() == [101]
    assert len(failed_at) == sum(seen.counts.values()) == 1


FAST, WIDE, STEP = 20.0, 0.5, 0.08
GRID = np.linspace(0.0, 8.0, round(8.0 / STEP) + 1)


def relaxing(times, y=None):
    """Told of by its end alone, where all rates look the same: the posterior of the rate is its prior."""
    rate = numpyro.sample("rate", dist.LogNormal(np.log(FAST), WIDE))
    path = bh.solve_ode("path", lambda t, y, k: k * (1.0 - y), 0.0, times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)


@pytest.fixture(scope="module")
def unstable():
    """On this grid Tsit5 is stable up to rates of 41 (where 3.3 / rate is the step), and flies off above."""
    with configuration.scope():
        adaptive = bh.Target(relaxing, {"times": np.array([8.0]), "y": np.array([1.0])})
        return adaptive, Frozen(adaptive.frozen({"path": GRID}))


def test_what_flies_off_on_the_grid_alone_did_not_diverge(unstable):
    """Of three that flew off: on the grid alone, there too but where no chain would go, and as stated as well."""
    adaptive, lean = unstable
    seen = driver._Failures(lean.target, adaptive)
    places = np.log([[[60.0], [60.0], [FAST]]])
    chunk = Chunk(
        places,
        {
            "failed": np.zeros((1, 3), bool),
            "diverging": np.ones((1, 3), bool),
            "failed_at": places,
            "lp": np.array([[0.0, 30.0, 0.0]]),
        },
    )
    with configuration.scope():
        seen.count(chunk, 100)
    _, _, missed_at, missed_in = seen.places()
    assert chunk.statistics["diverging"].tolist() == [[False, True, True]]
    assert missed_at.tolist() == [[np.log(60.0)]]
    assert missed_in.tolist() == seen.within_reach == [100]


@pytest.mark.parametrize("method", [None, bh.NUTS(draws=500, warmup=200)])
def test_a_grid_on_which_chains_fly_off_gives_way_to_a_stable_one(unstable, method):
    """A twelfth of the posterior lies where the planted grid is not stable; on the next it has its share of draws."""
    adaptive, lean = unstable
    settings = verbs._Settings(bh.Silent(), None, 1000.0, {})
    with configuration.scope():
        basins = search_at(np.log(FAST), WIDE).basins
        drawn = verbs._certified(method, adaptive, lean, basins, jax.random.key(0), settings)
    assert any("Rosenbrock" in note for note in drawn.lean.notes)
    assert drawn.certificate.state == "pass"
    beyond = (drawn.result.draws[..., 0] > np.log(3.3 / STEP)).astype(float)
    assert abs(beyond.mean() - NormalDist().cdf(-np.log(3.3 / STEP / FAST) / WIDE)) < 4 * mean_error(beyond)


def test_a_single_draw_that_cannot_be_solved_is_enough_to_leave_the_grids(target, lean):
    draws = np.log(0.6) + 0.01 * np.random.default_rng(2).normal(size=(4, 300, 1))
    density = np.zeros(1200)
    with configuration.scope():
        passed = certify(target, lean, draws, 0.0, np.zeros((0, 1)), 1200)
    assert all_solved(passed, density).verdict == "pass"
    density[7] = -np.inf
    found = all_solved(passed, density)
    assert found.verdict == "adaptive"
    assert found.check.state == "fail"
