"""The no-U-turn sampler against closed forms, and how it behaves when it is cut short, short of chains or spread."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.diagnostics import effective_sample_size, mean_error
from bayeshybrid.inference import driver, verbs
from bayeshybrid.inference.chains import middle_of
from bayeshybrid.inference.devices import mesh_of
from bayeshybrid.inference.method import Basin
from bayeshybrid.keys import as_key
from bayeshybrid.progress import Silent
from tests.problems import (
    IMPROPER_Y,
    PROBLEMS,
    WIDE_MEAN,
    WIDE_SD,
    linear_answer,
    narrow_answer,
)

SHORT = bh.NUTS(draws=130, warmup=70)


@pytest.fixture(scope="module")
def target() -> bh.Target:
    with configuration.scope():
        return bh.Target(PROBLEMS["linear"].model, PROBLEMS["linear"].data)


@pytest.fixture(scope="module")
def basins() -> tuple[Basin, ...]:
    """What a search would hand over for the linear problem."""
    mean, covariance, _ = linear_answer()
    return (Basin(mean, -10.0, mean[None], np.linalg.cholesky(covariance), np.ones(2), 1.0, 0.0),)


def drawn(method, target, basins, key=0, length=None):
    """All draws of a method, turned by hand in pieces of `length`, or by the driver."""
    with configuration.scope():
        if length is None:
            run = driver.drive(method, target, basins, as_key(key), Silent())
            return method.finish(target, run.state, run.chunks, basins).draws
        state, chunks = method.start(target, basins, as_key(key)), []
        while not method.finished(state):
            state, chunk = method.advance(target, state, length)
            chunk.statistics.pop("failed_at")
            chunks.append(chunk)
        return method.finish(target, state, chunks, basins).draws


def agree(draws: np.ndarray, mean: float, sd: float) -> None:
    """Mean and sd of `(chain, draw)` within four standard errors."""
    spread_error = mean_error((draws - draws.mean()) ** 2) / (2 * sd)
    assert abs(draws.mean() - mean) < 4 * mean_error(draws)
    assert abs(draws.std() - sd) < 4 * spread_error


def test_linear_gaussian_within_four_standard_errors(fit):
    posterior = fit("linear")
    mean, covariance, _ = linear_answer()
    w = posterior.samples["w"]
    for i in range(2):
        agree(w[..., i], mean[i], np.sqrt(covariance[i, i]))
    product = (w[..., 0] - mean[0]) * (w[..., 1] - mean[1])
    assert abs(product.mean() - covariance[0, 1]) < 4 * mean_error(product)
    assert posterior.verdict.state == "pass"


def test_a_posterior_much_longer_than_wide_is_whitened(fit):
    posterior = fit("narrow")
    mean, covariance = narrow_answer()
    for i, name in enumerate("ab"):
        agree(posterior.samples[name], mean[i], np.sqrt(covariance[i, i]))
    total = posterior["a"] + posterior["b"]
    assert abs(total.std() - 1e-3) < 1e-4
    assert posterior.statistics["n_steps"].mean() < 10
    assert posterior.verdict["scientific parameters"] == "pass with remarks"  # of the single value alone


@pytest.mark.slow
def test_numbers_in_the_ten_thousands_need_no_unit(fit):
    posterior = fit("wide")
    agree(posterior.samples["x"], WIDE_MEAN, WIDE_SD)
    assert "1 basin(s) kept, 0 left out" in posterior.search


def test_an_improper_prior_runs(fit):
    posterior = fit("improper")
    agree(posterior.samples["middle"], IMPROPER_Y.mean(), 0.5)
    assert np.all(np.isnan(posterior.contraction["middle"]))


def test_same_key_same_draws_however_they_are_cut(target, basins):
    whole = drawn(SHORT, target, basins)
    assert whole.shape == (4, 130, 2)
    assert np.array_equal(whole, drawn(SHORT, target, basins, length=7))
    assert np.array_equal(whole, drawn(SHORT, target, basins, length=10_000))
    assert not np.array_equal(whole, drawn(SHORT, target, basins, key=1))


def test_the_drivers_chunks_change_nothing(target, basins, monkeypatch):
    whole = drawn(SHORT, target, basins)
    monkeypatch.setattr(driver, "SECONDS_PER_CHUNK", 1e-9)
    monkeypatch.setattr(driver, "FIRST_LENGTH", 3)
    assert np.array_equal(whole, drawn(dataclasses.replace(SHORT), target, basins))


@pytest.mark.parametrize(("warmup", "draws"), [(0, 3), (0, 101), (1, 1), (99, 257), (200, 100)])
def test_counts_that_are_no_multiples_of_anything(target, basins, warmup, draws):
    found = drawn(bh.NUTS(draws=draws, warmup=warmup), target, basins)
    assert found.shape == (4, draws, 2)
    assert np.all(np.isfinite(found))


def test_state_is_plain_arrays(target, basins):
    with configuration.scope():
        state = SHORT.start(target, basins, as_key(0))
        state, _ = SHORT.advance(target, state, 5)
    for leaf in jax.tree.leaves(state):
        assert isinstance(leaf, jax.Array | np.ndarray)
        assert np.asarray(leaf).dtype.kind in "fiub"  # an array with a key's own dtype could not be written
        assert len(leaf) == 4  # a row a chain


class Interrupting(Silent):
    """Ctrl-C while sampling, when so many transitions are done."""

    def __init__(self, after: int) -> None:
        self.after, self.phase, self.ended = after, "", ""

    def start(self, title: str, total: int) -> None:
        self.phase = title

    def update(self, done: int, note: str = "") -> None:
        if self.phase in ("warm-up", "sampling") and done >= self.after:
            raise KeyboardInterrupt

    def finish(self, note: str = "") -> None:
        self.ended = note


def interrupted(after):
    problem, progress = PROBLEMS["linear"], Interrupting(after)
    method = bh.NUTS(draws=500, warmup=100)
    return bh.infer(problem.model, problem.data, method, key=0, progress=progress), progress


def test_an_interrupted_run_keeps_what_it_has_and_says_so(monkeypatch):
    monkeypatch.setattr(driver, "FIRST_LENGTH", 50)
    posterior, progress = interrupted(150)
    assert 0 < posterior.unconstrained.shape[1] < 500
    assert posterior.record["ended"] == progress.ended == "interrupted"
    assert any(check.name == "run" and check.place == "interrupted" for check in posterior.verdict.reasons)
    assert posterior.verdict.state != "pass"


def test_interrupted_in_warm_up_there_is_nothing_to_keep():
    with pytest.raises(bh.StartError, match=r"interrupted after .* s, before any draw was kept"):
        interrupted(1)


def test_a_time_limit_ends_a_run():
    problem = PROBLEMS["linear"]
    method = bh.NUTS(draws=10_000_000, warmup=50)
    posterior = bh.infer(problem.model, problem.data, method, key=0, time_limit=0.3)
    assert posterior.record["ended"] == "out of time"
    assert 0 < posterior.unconstrained.shape[1] < 10_000_000
    assert any(check.place == "out of time" for check in posterior.verdict.reasons)


@pytest.mark.parametrize(
    "method",
    [
        bh.NUTS(chains=1, draws=100, warmup=100),
        bh.NUTS(draws=3, warmup=0),
        bh.NUTS(chains=1, draws=1, warmup=0),
    ],
    ids=["one chain", "three draws", "one draw"],
)
def test_too_few_to_judge_is_not_assessable(method):
    problem = PROBLEMS["linear"]
    posterior = bh.infer(problem.model, problem.data, method, key=0)
    assert posterior.verdict.state == "not assessable"
    assert np.all(np.isfinite(posterior["w"]))


def test_without_a_number_of_draws_it_ends_when_they_are_precise_enough():
    problem = PROBLEMS["linear"]
    method = bh.NUTS(draws=None, warmup=200)
    counts = [
        bh.infer(problem.model, problem.data, method, key=2, target_ess=wanted).unconstrained.shape[1]
        for wanted in (1000, 4000)
    ]
    assert 250 < counts[0] < counts[1] < 4000


def test_no_warm_up_samples_with_the_curvature(target, basins):
    draws = drawn(bh.NUTS(draws=400, warmup=0), target, basins)[:, 20:]
    assert draws.shape == (4, 380, 2)
    mean, covariance, _ = linear_answer()
    agree(draws[..., 0], mean[0], np.sqrt(covariance[0, 0]))


def test_a_diagonal_metric(target, basins):
    method = bh.NUTS(draws=500, warmup=300, metric="diagonal")
    with configuration.scope():
        assert method.start(target, basins, as_key(0)).factor.shape == (4, 2)
    draws = drawn(method, target, basins)
    mean, covariance, _ = linear_answer()
    for i in range(2):
        agree(draws[..., i], mean[i], np.sqrt(covariance[i, i]))


def test_a_metric_that_is_ten_thousand_times_too_long_is_mended(target, basins):
    wrong = (dataclasses.replace(basins[0], factor=1e4 * np.eye(2)),)
    draws = drawn(bh.NUTS(draws=300, warmup=400), target, wrong)
    assert effective_sample_size(draws[..., 0]) > 200
    mean, covariance, _ = linear_answer()
    agree(draws[..., 1], mean[1], np.sqrt(covariance[1, 1]))


def test_chains_are_spread_over_devices(target, basins):
    if len(jax.local_devices()) < 2:
        pytest.skip("one device")
    with configuration.scope():
        state = SHORT.start(target, basins, as_key(0))
        state, _ = SHORT.advance(target, state, 1)
    count = len(mesh_of(4).devices)
    assert count == max(n for n in (1, 2, 4) if n <= len(jax.local_devices()))
    assert len(state.position.sharding.device_set) == count


def test_a_chain_depends_on_its_index_alone(target, basins):
    """One chain on one device begins as the first of four spread over devices, and ends in the same posterior."""
    with configuration.scope():
        alone = bh.NUTS(chains=1).start(target, basins, as_key(0))
        four = bh.NUTS(chains=4).start(target, basins, as_key(0))
    assert np.array_equal(alone.key[0], four.key[0])
    assert np.array_equal(alone.position[0], four.position[0])
    mean, covariance, _ = linear_answer()
    draws = drawn(bh.NUTS(chains=1, draws=1500, warmup=200), target, basins)
    agree(draws[..., 0], mean[0], np.sqrt(covariance[0, 0]))


def test_starts_are_dispersed(target, basins):
    with configuration.scope():
        state = bh.NUTS(chains=200).start(target, basins, as_key(0))
    white = np.linalg.solve(basins[0].factor, (np.asarray(state.position) - basins[0].mode).T)
    assert abs(white.std() - 2.0) < 0.3  # twice the spread of the basin
    with configuration.scope():
        direct = [float(target.log_density(q)) for q in np.asarray(state.position[:3])]
    assert np.allclose(direct, state.log_density[:3])


def test_chains_go_to_all_searches_of_a_basin():
    members = np.arange(32.0)[:, None]
    basin = Basin(members[0], 0.0, members, np.eye(1), np.ones(1), 1.0, 0.0)
    assert [int(middle_of(basin, turn)[0]) for turn in range(4)] == [0, 16, 8, 24]
    unsettled = dataclasses.replace(basin, factor=None)
    assert [int(middle_of(unsettled, turn)[0]) for turn in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chains": 0}, r"NUTS\(chains=0\): it must be at least 1"),
        ({"draws": -5}, r"NUTS\(draws=-5\): it must be at least 1"),
        ({"max_doublings": 0}, r"NUTS\(max_doublings=0\): it must be at least 1"),
        ({"draws": 10.5}, r"NUTS\(draws=10.5\): it must be at least 1, a whole number"),
        ({"warmup": -1}, r"NUTS\(warmup=-1\)"),
        ({"target_acceptance": 80}, r"NUTS\(target_acceptance=80\): write a share between 0 and 1"),
        ({"metric": "full"}, r'NUTS\(metric=\'full\'\): write "auto", "dense", "diagonal" or "low rank"'),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(bh.ModelError, match=words):
        bh.NUTS(**settings)


@pytest.mark.slow
def test_effective_sample_size_is_checked_and_not_believed():
    """Over 50 seeds: errors of means in units of the stated one, and the real size of squares beside the reported.

    The reported size is the smallest of three, here that of the squares. Both ratios lie between a half and two;
    a mean square of 50 has a relative sd of a fifth, so the false-alarm chance is below 1 in 1,000.
    """
    problem = PROBLEMS["linear"]
    mean, covariance, _ = linear_answer()
    scores, errors, reported = [], [], []
    for seed in range(50):
        posterior = bh.infer(problem.model, problem.data, bh.NUTS(draws=500, warmup=300), key=seed)
        w = posterior.samples["w"][..., 0]
        scores.append((w.mean() - mean[0]) / mean_error(w))
        errors.append(np.mean((w - mean[0]) ** 2) - covariance[0, 0])
        reported.append(effective_sample_size(w))
    assert 0.5 < np.mean(np.square(scores)) < 2.0
    real = 2 * covariance[0, 0] ** 2 / np.mean(np.square(errors))
    assert 0.5 < real / np.mean(reported) < 2.0


def stub(ended, draws):
    """What a run ends with, as far as the choice of the next one asks."""
    result = SimpleNamespace(draws=np.zeros((4, draws, 1)), statistics={"diverging": np.full((4, 10), 0.02)})
    return SimpleNamespace(run=SimpleNamespace(ended=ended), result=result)


@pytest.mark.parametrize(
    ("runs", "chosen"),
    [
        ([stub("finished", 10)], 0),
        ([stub("hard", 10), stub("finished", 10)], 1),
        ([stub("hard", 10), stub("out of time", 0)], 0),  # its draws are all there is
        ([stub("hard", 0), stub("out of time", 0)], 1),
    ],
)
def test_nuts_is_tried_once_more_with_smaller_steps_where_it_diverges(runs, chosen):
    asked = []

    def drawn(method, words, give_up):
        asked.append((method.target_acceptance, give_up, words[0]))
        return runs[len(asked) - 1]

    assert verbs._drawn_carefully(drawn, ["the step size is tiny"]) is runs[chosen]
    assert [each[:2] for each in asked] == [(0.95, True), (0.99, False)][: len(runs)]
    if len(runs) > 1:
        assert (
            "the step size is tiny; with NUTS and an acceptance of 0.95 2.0 % of transitions diverge"
            in asked[1][2]
        )
