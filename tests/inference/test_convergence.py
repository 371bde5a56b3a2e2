"""What fails a run, and with which reason; and, at the end, what no check of these can see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import bayeshybrid as bh
from bayeshybrid.inference import convergence, training
from bayeshybrid.inference.convergence import (
    basin_checks,
    convergence_checks,
    divergence_check,
    energy_check,
    failure_check,
    reasons_in_words,
    resolvable_check,
    saturation_check,
    tolerance_check,
)
from bayeshybrid.inference.method import Basin, Chunk
from bayeshybrid.science.ode import Reason
from bayeshybrid.verdict import FORECASTS, PARAMETERS
from tests.problems import LINEAR_X, PROBLEMS, linear_answer, mirrored_log_density, share_above

SETTINGS: dict[str, Any] = {"draws": 500, "warmup": 500}


def independent(generator, chains=4, draws=500):
    return generator.standard_normal((chains, draws))


def named(posterior):
    return {check.name: check for check in posterior.verdict.checks}


# One check at a time.


def test_good_chains_pass(generator):
    checks = convergence_checks({"x": independent(generator)}, [PARAMETERS])
    assert [check.state for check in checks] == ["pass", "pass"]
    assert all(check.claims == (PARAMETERS,) for check in checks)


def test_shifted_chains_fail_at_the_worst_quantity(generator):
    shifted = independent(generator) + np.array([0.0, 0.0, 0.0, 0.5])[:, None]
    checks = convergence_checks({"good": independent(generator), "bad": shifted}, [PARAMETERS])
    assert (checks[0].name, checks[0].state, checks[0].place) == ("R-hat", "fail", "bad")
    assert checks[0].figure > 1.01


def test_chains_of_unequal_spread_fail(generator):
    """Same mean, so only the folded R-hat can tell."""
    wider = independent(generator) * np.array([1.0, 1.0, 1.0, 3.0])[:, None]
    assert convergence_checks({"x": wider}, [PARAMETERS])[0].state == "fail"


def test_drifting_chains_fail(generator):
    """All alike, so only the split R-hat can tell."""
    drifting = independent(generator) + np.linspace(-1, 1, 500)
    assert convergence_checks({"x": drifting}, [PARAMETERS])[0].state == "fail"


def test_few_effective_draws_fail(generator):
    checks = convergence_checks({"x": independent(generator, draws=60)}, [PARAMETERS])
    assert (checks[1].name, checks[1].state) == ("effective sample size", "fail")
    assert checks[1].figure < 400


@pytest.mark.parametrize(("chains", "draws"), [(1, 5000), (3, 1000), (4, 49), (1, 1)])
def test_few_chains_or_draws_are_not_assessable(generator, chains, draws):
    (check,) = convergence_checks({"x": independent(generator, chains, draws)}, [PARAMETERS])
    assert check.state == "not assessable"
    assert check.place == f"{chains} chain(s) of {draws} draws"


def test_nothing_to_judge_is_not_assessable():
    assert convergence_checks({}, [PARAMETERS])[0].state == "not assessable"


@pytest.mark.parametrize("chains", [2, 4])
def test_a_stuck_chain_is_named(generator, chains):
    draws = independent(generator, chains)
    draws[1] = 0.3
    (check,) = convergence_checks({"fine": independent(generator, chains), "x": draws}, [PARAMETERS])
    assert (check.name, check.state, check.place) == ("stuck chain", "fail", "x, chain 1")
    draws[0, 7] = np.nan
    (check,) = convergence_checks({"x": draws}, [PARAMETERS])
    assert check.place == "x, chain 0, 1"


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_quantity_that_is_constant_or_not_finite_never_passes(value):
    (check,) = convergence_checks({"x": np.full((4, 200), value)}, [PARAMETERS])
    assert check.state == "fail"


def test_an_r_hat_that_is_not_a_number_never_passes(generator, monkeypatch):
    monkeypatch.setattr(convergence, "rhat", lambda draws: np.nan)
    monkeypatch.setattr(convergence, "effective_sample_size", lambda draws: np.nan)
    checks = convergence_checks({"x": independent(generator)}, [PARAMETERS])
    assert [check.state for check in checks] == ["fail", "fail"]


@pytest.mark.parametrize(
    ("where", "state"),
    [
        ([], "pass"),
        ([(0, 3), (2, 700)], "pass with remarks"),  # 2 of 4,000: 0.05 %
        ([(0, 1), (1, 1), (2, 1), (3, 1)], "pass with remarks"),  # 0.1 %, spread out
        ([(3, i) for i in range(4)], "fail"),  # as many, all in one chain
        ([(i % 4, i) for i in range(5)], "fail"),  # more
    ],
)
def test_divergences(where, state):
    diverging = np.zeros((4, 1000), bool)
    for place in where:
        diverging[place] = True
    check = divergence_check(diverging)
    assert check.state == state
    assert check.figure == len(where) / 4000
    assert check.place == ("chain 3" if state == "fail" and len(where) == 4 else "")


@pytest.mark.parametrize(
    ("share", "state"), [(0.0, "pass"), (0.001, "pass"), (0.01, "pass with remarks"), (1.0, "fail")]
)
def test_saturated_trajectories(share, state):
    saturated = np.arange(4000).reshape(4, 1000) < 4000 * share
    assert saturation_check(saturated).state == state


def test_energy(generator):
    which = np.zeros(4, int)
    fresh = generator.standard_normal((4, 500))
    assert energy_check(fresh, which).state == "pass"
    fresh[2] = np.cumsum(fresh[2])  # a random walk: each momentum changes the energy little
    check = energy_check(fresh, which)
    assert (check.state, check.place) == ("fail", "chain 2")
    fresh[1] = 3.0
    assert (energy_check(fresh, which).state, energy_check(fresh, which).place) == ("fail", "chain 1")
    assert energy_check(fresh[:, :10], which).state == "not assessable"


def test_failures_are_a_remark_and_name_the_edge():
    assert failure_check({}, 0, 1000, ()).state == "pass"
    few = failure_check({"path: needed more than max_steps steps": 1}, 1, 4000, ("rate",))
    assert (few.state, "rate" in few.remedy) == ("pass with remarks", False)
    many = failure_check({"path: needed more than max_steps steps": 40}, 40, 4000, ("rate",))
    assert (many.state, many.place) == ("pass with remarks", "40 x path: needed more than max_steps steps")
    assert many.remedy.endswith("it is cut off in rate")


def test_reasons_are_counted_once_each():
    """Three points: both solves failed, the second did, none did. Units of a mapped solve are one point."""
    codes = {
        "one": np.array([int(Reason.MAX_STEPS), 0, 0]),
        "two": np.array([[0, int(Reason.NOT_FINITE)], [int(Reason.NOT_FINITE), 0], [0, 0]]),
    }
    counts = reasons_in_words(codes)
    assert sum(counts.values()) == 2
    assert [name.split(":")[0] for name in counts] == ["one", "two"]


def basin(mode: float, mass: float, log_density: float = 0.0, factor: float | None = 1.0) -> Basin:
    place = np.array([mode])
    shape = None if factor is None else np.array([[factor]])
    return Basin(place, log_density, place[None], shape, np.ones(1), mass, 0.01)


def draws_at(*places):
    return np.concatenate([np.full((1, 10, 1), place) for place in places])


def test_basins():
    left, right = basin(-5.0, 0.4), basin(5.0, 0.6)
    (check,) = basin_checks((left, right), (), draws_at(-5.0, 5.0))
    assert (check.state, check.place) == ("pass", "all visited")
    (check,) = basin_checks((left, right), (), draws_at(5.0, 5.0))
    assert (check.name, check.state, check.figure) == ("basin with mass that no chain visited", "fail", 0.4)
    (check,) = basin_checks((right,), (basin(-5.0, 0.02),), draws_at(5.0))
    assert check.state == "fail"
    (check,) = basin_checks((right,), (basin(-5.0, 0.002),), draws_at(5.0))
    assert check.state == "pass"


def test_basins_whose_masses_are_not_known():
    (check,) = basin_checks((basin(-5.0, np.nan), basin(5.0, np.nan)), (), draws_at(-5.0, 5.0))
    assert (check.name, check.state) == ("masses of the basins", "not assessable")
    (check,) = basin_checks((basin(-5.0, np.nan), basin(5.0, np.nan)), (), draws_at(-5.0))
    assert check.state == "fail"


def test_searches_off_a_maximum():
    (check,) = basin_checks((basin(0.0, np.nan, factor=None),), (), draws_at(0.0))
    assert check.state == "pass with remarks"
    unsettled = basin(5.0, np.nan, log_density=-1.0, factor=None)
    (check,) = basin_checks((basin(0.0, 1.0),), (unsettled,), draws_at(0.0))
    assert (check.state, check.place) == ("pass with remarks", "log density -1.00 beside 0.00")
    lower = basin(5.0, np.nan, log_density=-9.0, factor=None)
    assert basin_checks((basin(0.0, 1.0),), (lower,), draws_at(0.0))[0].state == "pass"


def test_a_loose_tolerance_moves_the_posterior(generator):
    """The weights' variation is the bound on how far a mean may move, so noise of size e in the log gives about e."""
    noise = generator.standard_normal(1000)
    states = [tolerance_check(size * noise) for size in (0.0, 0.01, 0.3, 3.0)]
    assert [check.state for check in states] == ["pass", "pass", "pass with remarks", "fail"]
    assert states[2].figure == pytest.approx(0.3, rel=0.15)


def test_a_shift_of_the_whole_likelihood_is_no_error_of_the_posterior():
    assert tolerance_check(np.full(100, -7.0)).state == "pass"


def test_draws_that_an_accurate_solver_cannot_solve_fail():
    check = tolerance_check(np.array([0.0, -np.inf]))
    assert check.state == "fail"
    assert check.figure == 0.5


def test_a_cut_that_only_the_solver_makes_fails():
    assert resolvable_check(0.0005).state == "pass"
    assert resolvable_check(0.002).state == "fail"


# Whole runs that must fail.


@dataclass(frozen=True)
class Frozen(bh.NUTS):
    """A sampler whose third chain stands still."""

    def advance(self, target, state, length):
        state, chunk = super().advance(target, state, length)
        draws = chunk.draws.copy()
        draws[2] = 0.5
        return state, Chunk(draws, chunk.statistics)


def test_a_run_with_a_stuck_chain_fails_and_names_it():
    problem = PROBLEMS["linear"]
    posterior = bh.infer(problem.model, problem.data, Frozen(**SETTINGS), key=0)
    assert posterior.verdict.state == "fail"
    assert named(posterior)["stuck chain"].place == "w[0], chain 2"


def test_a_run_of_saturated_trajectories_fails():
    problem = PROBLEMS["linear"]
    posterior = bh.infer(problem.model, problem.data, bh.NUTS(**SETTINGS, max_doublings=1), key=0)
    check = named(posterior)["trajectories at their greatest length"]
    assert check.state == posterior.verdict.state == "fail"
    assert check.figure > 0.5
    assert named(posterior)["divergent transitions"].state == "pass"


@dataclass(frozen=True)
class OneBasin(bh.NUTS):
    """A sampler that runs in the first basin alone."""

    def start(self, target, basins, key):
        return super().start(target, basins[:1], key)

    def finish(self, target, state, chunks, basins):
        return super().finish(target, state, chunks, basins[:1])


def test_a_run_that_misses_a_basin_with_mass_fails():
    problem = PROBLEMS["bimodal"]
    posterior = bh.infer(problem.model, problem.data, OneBasin(**SETTINGS), key=0)
    check = named(posterior)["basin with mass that no chain visited"]
    assert check.state == posterior.verdict.state == "fail"
    assert abs(check.figure - 0.33) < 0.05
    assert named(posterior)["R-hat"].state == "pass"  # which alone would not have noticed


@pytest.mark.slow
def test_a_funnel_fails(fit):
    posterior = fit("funnel")
    assert posterior.verdict.state == "fail"
    failing = {check.name for check in posterior.verdict.reasons if check.state == "fail"}
    assert "divergent transitions" in failing
    assert np.all(np.isfinite(posterior.unconstrained))


def test_claims_of_a_run(fit):
    verdict = fit("linear").verdict
    assert verdict.claims == (PARAMETERS, FORECASTS)
    assert "evidence" in verdict.unchecked
    assert any("no search and no chain ever reached" in what for what in verdict.blind)
    assert any("model that is wrong" in what for what in verdict.blind)


# What the verdict cannot see. Should one of these tests fail, a check has learnt something: move it up.


def test_unseen_a_mode_that_no_search_reached(monkeypatch):
    """All searches and so all chains stay above zero, where there is only two thirds of the posterior."""
    monkeypatch.setattr(training, "at_initial_values", lambda target, starts: np.abs(starts))
    problem = PROBLEMS["bimodal"]
    posterior = bh.infer(problem.model, problem.data, bh.NUTS(**SETTINGS), key=0)
    assert np.all(posterior["x"] > 0)
    assert {check.state for check in posterior.verdict.checks} == {"pass"}


@pytest.mark.slow
def test_unseen_a_mode_that_predicts_the_same(monkeypatch):
    """As one basin it has one mass, and nothing tells that chains in one half have missed the other."""
    monkeypatch.setattr(training, "at_initial_values", lambda target, starts: np.abs(starts))
    problem = PROBLEMS["mirrored"]
    posterior = bh.infer(problem.model, problem.data, bh.NUTS(**SETTINGS), key=0)
    assert share_above(mirrored_log_density) < 0.6
    assert np.all(posterior["x"] > 0)
    assert {check.state for check in posterior.verdict.checks} == {"pass"}


def test_unseen_chains_that_are_wrong_alike(generator):
    """R-hat compares chains with each other, not with the posterior."""
    checks = convergence_checks({"x": 10 + 5 * independent(generator)}, [PARAMETERS])
    assert {check.state for check in checks} == {"pass"}


def test_unseen_a_wrong_model():
    """A straight line through a parabola is computed well. The residuals show it, the verdict does not."""
    x = LINEAR_X[:, 1]
    y = 4 * (x - x.mean()) ** 2
    posterior = bh.infer(PROBLEMS["linear"].model, {"x": LINEAR_X, "y": y}, bh.NUTS(**SETTINGS), key=0)
    assert posterior.verdict.state == "pass"
    assert np.allclose(posterior["w"].mean(axis=0), linear_answer(y=y)[0], atol=0.05)
    assert np.max(np.abs(posterior.check(key=1).residuals["y"])) > 4
