"""Many short chains with one adaptation: right where a linear map helps, and aware where it does not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.diagnostics import effective_sample_size, mean_error, rhat
from bayeshybrid.inference import tuning
from bayeshybrid.inference.method import Basin
from bayeshybrid.inference.stopping import Precision
from bayeshybrid.inference.trajectories import Points, leapfrog
from tests.benchmarks.rows import read_row
from tests.problems import PROBLEMS, linear_answer


def normal(scales):
    def model(y=None):
        x = numpyro.sample("x", dist.Normal(0.0, np.asarray(scales)).to_event(1))
        numpyro.sample("y", dist.Normal(x[0], 100.0 * scales[0]), obs=y)

    return model


def funnel(y=None):
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    numpyro.sample("x", dist.Normal(0.0, np.exp(0.5) ** v).expand([9]))
    numpyro.sample("y", dist.Normal(v, 100.0), obs=y)


def test_the_answer_of_a_linear_model_is_met_within_its_stated_error():
    problem = PROBLEMS["linear"]
    posterior = bh.infer(problem.model, problem.data, bh.SharedHMC(), key=0, target_ess=4000)
    mean, covariance, _ = linear_answer()
    draws = posterior.unconstrained.reshape(-1, len(mean))
    sizes = [effective_sample_size(posterior.unconstrained[..., i]) for i in range(len(mean))]
    sd = np.sqrt(np.diag(covariance))
    assert min(sizes) >= 4000
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 4 * sd / np.sqrt(sizes))
    assert np.all(np.abs(draws.std(axis=0) / sd - 1) < 4 * np.sqrt(0.5 / np.array(sizes)))
    assert posterior.verdict["scientific parameters"] == "pass"


def test_a_round_posterior_costs_a_few_gradients_for_an_effective_draw():
    model = normal(10.0 ** np.arange(-3, 5))
    posterior = bh.infer(model, {"y": np.array(0.0)}, bh.SharedHMC(), key=1, target_ess=2000)
    smallest = min(effective_sample_size(posterior.unconstrained[..., i]) for i in range(8))
    assert posterior.statistics["n_steps"].sum() / smallest < 6
    assert posterior.record["warmup"] <= 100


def test_sampling_ends_at_the_asked_precision_and_not_much_later():
    problem = PROBLEMS["linear"]
    counts = [
        bh.infer(problem.model, problem.data, bh.SharedHMC(), key=2, target_ess=wanted).unconstrained.shape[1]
        for wanted in (1000, 8000)
    ]
    assert counts[0] < counts[1] < 400


def test_the_draws_do_not_depend_on_how_the_work_is_cut():
    problem = PROBLEMS["linear"]
    mean, covariance, _ = linear_answer()
    basins = (Basin(mean, -10.0, mean[None], np.linalg.cholesky(covariance), np.ones(2), 1.0, 0.0),)
    method = bh.SharedHMC(chains=32, most_draws=20, most_warmup=20)

    def draws(lengths):
        target = bh.Target(problem.model, problem.data)
        state, chunks = method.start(target, basins, jax.random.key(3)), []
        while not method.finished(state):
            state, chunk = method.advance(target, state, lengths[len(chunks) % len(lengths)])
            chunks.append(chunk)
        return method.finish(target, state, chunks, basins).draws

    with configuration.scope():
        np.testing.assert_allclose(draws([10]), draws([3, 1, 7]), rtol=1e-12)


def test_the_funnel_is_noticed_and_left_for_another_method_by_its_name():
    data = {"y": np.array(0.0)}
    shared = bh.infer(funnel, data, bh.SharedHMC(most_warmup=300, most_draws=200), key=0)
    assert shared.verdict["scientific parameters"] != "pass"
    chosen = bh.infer(funnel, data, key=0)
    assert "NUTS" in chosen.method
    assert any("instead of shared chains" in remark for remark in chosen.remarks)


@pytest.mark.parametrize(("key", "left"), [(0, True), (1, False)])
def test_eight_schools_need_no_method_and_agree_with_published_draws(key, left):
    """Shared chains with the usual steps are left where they diverge, and what follows meets posteriordb's mean."""
    row = read_row("eight_schools")
    posterior = bh.infer(*row.ours(), key=key)
    assert posterior.verdict["scientific parameters"] != "fail"
    assert any("with an acceptance of 0.8 " in remark for remark in posterior.remarks) == left
    mean, error = row.published["mu"]
    mu = posterior.samples["mu"]
    assert abs(mu.mean() - mean) < 4 * np.hypot(error, mean_error(mu))


def test_without_a_method_shared_chains_are_used_and_said():
    posterior = bh.infer(PROBLEMS["linear"].model, PROBLEMS["linear"].data, key=0)
    assert "SharedHMC" in posterior.method
    assert any("SharedHMC" in remark for remark in posterior.remarks)


@pytest.mark.parametrize("chains", [4, 34, 32.0])
def test_chains_that_make_no_groups_are_refused(chains):
    with pytest.raises(bh.ModelError, match="chains"):
        bh.SharedHMC(chains=chains)


def test_the_step_size_reaches_the_wanted_acceptance_in_a_few_blocks():
    """A made-up acceptance with the law of the energy's error; the change is its inverse."""
    law = tuning.NORMAL
    log_step = 2.0
    for _ in range(8):
        mean = 2 * law.cdf(-0.5 * 0.3 * np.exp(2 * log_step))
        log_step += tuning._step_change(np.array(mean), 0.8)
    assert abs(2 * law.cdf(-0.5 * 0.3 * np.exp(2 * log_step)) - 0.8) < 0.01


def test_a_short_step_is_told_in_relation_to_the_acceptance_that_was_asked():
    """Steps for 0.99 are shorter by the law of the energy's error, which says nothing about the shape."""
    usual, careful = tuning.first(4), tuning.first(4, 0.99)
    law = tuning.NORMAL
    wanted = np.sqrt(law.inv_cdf(0.495) / law.inv_cdf(0.4))
    assert float(careful.shortest / usual.shortest) == pytest.approx(wanted)
    late = {"iteration": np.array(tuning.PATIENCE), "log_step": np.log(0.08)}
    assert "step size" in tuning.hardness(usual._replace(**late))
    assert not tuning.hardness(careful._replace(**late))


def test_until_draws_are_kept_the_last_steps_of_each_block_are_far_smaller():
    warming = tuning.first(1)
    plans = [tuning.plan(warming._replace(iteration=np.array(tuning.BLOCK * turn)), 10) for turn in range(3)]
    last = [sizes[-1] / sizes[:-1].mean() for _, sizes in plans]
    assert np.allclose(last, 1 / np.array(tuning.SMALLER), rtol=0.2)
    cut = tuning.plan(warming._replace(iteration=np.array(7), filled=np.array(7)), 3)
    assert cut[1][2] < 0.3
    sampling = warming._replace(began=np.array(10), iteration=np.array(10))
    assert tuning.plan(sampling, 10)[1].min() > 0.8


@pytest.mark.parametrize("key", [0, 8])
def test_chains_that_start_in_the_neck_of_eight_schools_come_away(key):
    """With these keys one of 64 chains never moved, and it took NUTS and three times the work."""
    posterior = bh.infer(*read_row("eight_schools").ours(), key=key)
    assert "SharedHMC" in posterior.method
    assert np.all(np.ptp(posterior.unconstrained, axis=1) > 0.1)


def test_shared_chains_are_left_as_soon_as_too_many_transitions_diverge():
    """A ridge with heavy tails, where an acceptance of 0.8 diverges: no thousand effective draws are made there."""
    model, data = read_row("michaelis_menten").ours()
    made = []
    advance = bh.SharedHMC.advance

    def counting(self, target, state, length):
        state, chunk = advance(self, target, state, length)
        made.append((self.target_acceptance, state.shared.began >= 0, chunk.draws.shape[1]))
        return state, chunk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bh.SharedHMC, "advance", counting)
        posterior = bh.infer(model, data, key=0)
    assert any("0.8 divergent transitions" in remark for remark in posterior.remarks)
    kept = sum(length for acceptance, sampling, length in made if acceptance == 0.8 and sampling)
    assert 0 < kept < 0.5 * posterior.unconstrained.shape[1]


def test_a_step_size_that_shrinks_without_end_neither_makes_endless_trajectories_nor_goes_unnoticed():
    shrunk = tuning.first(9)._replace(log_step=np.log(1e-9), metric_settled=np.array(True))
    assert tuning.plan(shrunk, tuning.BLOCK)[0].max() == tuning.MOST_STEPS
    assert not tuning.hardness(shrunk)
    assert "step size" in tuning.hardness(shrunk._replace(iteration=np.array(tuning.PATIENCE)))


def test_the_slowest_of_unknowns_and_squares_decides_the_length():
    """Antithetic draws are worth a lot for a mean and nothing for a spread."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 1, 2))
    flips = np.concatenate([x * (-1) ** i for i in range(tuning.BLOCK)], axis=1)
    fresh = rng.normal(size=(64, tuning.BLOCK, 2))
    assert tuning._score(flips, 1.0, 1.0) < 0.01 < 0.5 < tuning._score(fresh, 1.0, 1.0)


def test_nested_rhat_sees_groups_that_disagree_and_passes_short_chains_that_agree():
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(64, 50))
    assert rhat(draws) < 1.01
    apart = draws + np.repeat(np.arange(16) % 2, 4)[:, None]
    assert rhat(apart) > 1.05
    wide = draws * np.repeat(1 + np.arange(16) % 2, 4)[:, None]
    assert rhat(wide) > 1.02


def test_nested_rhat_cannot_see_a_mode_that_no_group_starts_in():
    """Recorded: chains that all stand in one of two modes agree."""
    rng = np.random.default_rng(2)
    assert rhat(5 + rng.normal(size=(64, 100))) < 1.01


def test_two_looks_running_are_needed():
    target = bh.Target(PROBLEMS["linear"].model, PROBLEMS["linear"].data)
    rng = np.random.default_rng(3)
    good, bad = rng.normal(size=(64, 100, 2)), np.ones((64, 100, 2)) * rng.normal(size=(64, 1, 2))
    precision = Precision(target, 1000)
    assert [precision.enough((x,)) for x in (good, bad, good, good)] == [False, False, False, True]


def test_a_trajectory_that_flies_off_has_diverged_whatever_fails_out_there():
    """Steps beyond the border of stability grow without bound; a step into what cannot be solved is no such thing."""
    start = Points(jnp.ones((1, 1)), jnp.ones((1, 1)), -0.5 * jnp.ones(1), -jnp.ones((1, 1)))

    def quadratic(z):
        return -0.5 * jnp.sum(z**2, axis=1), -z

    def walled(z):
        inside = z[:, 0] < 1.2
        return jnp.where(inside, -0.5 * jnp.sum(z**2, axis=1), -jnp.inf), jnp.where(inside[:, None], -z, 0.0)

    for slopes, size, wanted in ((quadratic, 3.0, True), (walled, 0.5, False)):
        end, diverged, _ = leapfrog(slopes, start, jnp.eye(1), 1000, size, jnp.full(1, 1000.0))
        assert not np.isfinite(end.log_density[0])
        assert diverged.tolist() == [wanted]


@pytest.mark.slow
def test_stated_standard_errors_cover_when_sampling_stops_by_precision():
    """200 runs that stop by the rule: the true mean lies within two stated errors in 95 % (central 99 %: 182-197)."""
    model = normal(np.array([1.0, 3.0]))
    inside = 0
    for key in range(200):
        posterior = bh.infer(model, {"y": np.array(0.0)}, bh.SharedHMC(chains=32), key=key, target_ess=500)
        x = posterior.samples["x"][..., 1]
        error = x.std() / np.sqrt(effective_sample_size(x))
        inside += abs(x.mean()) < 1.96 * error
    assert 179 <= inside <= 199
