"""Adaptation that many chains share: step size, trajectory length, and when both have settled.

All of it happens between blocks of transitions, from numbers pooled over the chains, in whitened coordinates.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

BLOCK = 10  # transitions between two adaptations

# Trajectory lengths in whitened time. A quarter period, pi / 2, makes the next draw of a normal posterior
# independent of the last one.
LENGTHS = 0.5 * np.pi * 2.0 ** (0.5 * np.arange(-2, 9))
QUARTER = 2
FIRST_LENGTH = 1.0
LENGTH_JITTER, SIZE_JITTER = 0.2, 0.1
GOLDEN = (0.6180339887, 0.7548776662)  # irrational steps fill an interval evenly (Kronecker)
SMALLER = (4.0, 16.0, 64.0)  # steps of the last transition of each block in turn, until draws are kept

METRIC_BLOCKS = 2  # at least so many with another metric each
DRIFT = 0.3  # of a mean between halves of a block, in standard deviations
WIDTH = 1.6  # eigenvalues of the covariance of a block, in the metric, between this and its inverse

NORMAL = NormalDist()
MOVING = 0.4
TINY_STEP, USUAL = 0.15, 0.8  # in four dimensions a quarter of the usual step size at the usual acceptance
MOST_STEPS = 512  # the longest trajectory, at a step size that is not yet tiny, takes half as many
PATIENCE = 150  # transitions in which a step size that is tiny for a while may grow again
STUCK_ACCEPTANCE, STUCK_SHARE = 0.3, 0.02

__all__ = ["BLOCK", "Shared", "adapted", "first", "hardness", "moving", "plan", "trajectory"]


class Shared(NamedTuple):
    """What all chains have in common.

    - `iteration`, `filled`: transitions made, in all and of the present block.
    - `log_step`: logarithm of the step size.
    - `rung`: place in `LENGTHS` of the trajectory length in use, -1 before it is tuned.
    - `scores`: effective draws for a gradient at each of `LENGTHS`, NaN where not tried.
    - `metric_settled`: whether the metric is no longer estimated anew; `blocks`: with how many it was.
    - `began`: the transition from which draws are kept, -1 during warm-up.
    - `converged`: whether the adaptation ended because nothing changed any more.
    - `stuck`: share of chains that accept little in the last block of the warm-up.
    - `shortest`: a step size below this tells of a shape that no linear map makes round.
    """

    iteration: Any
    filled: Any
    log_step: Any
    rung: Any
    scores: Any
    metric_settled: Any
    blocks: Any
    began: Any
    converged: Any
    stuck: Any
    shortest: Any


def first(unknowns: int, target_acceptance: float = USUAL) -> Shared:
    """Before the first transition, of a target with so many unknowns.

    ```python
    from bayeshybrid.inference import tuning
    assert tuning.first(16).log_step == np.log(0.5)
    ```
    """
    whole = {name: np.array(0) for name in ("iteration", "filled", "blocks")}
    return Shared(
        log_step=np.array(-0.25 * np.log(unknowns)),
        rung=np.array(-1),
        scores=np.full(len(LENGTHS), np.nan),
        metric_settled=np.array(False),
        began=np.array(-1),
        converged=np.array(False),
        stuck=np.array(0.0),
        shortest=np.array(TINY_STEP * unknowns**-0.25 * _times_as_long(USUAL, target_acceptance)),
        **whole,
    )


def trajectory(shared: Shared) -> float:
    """The trajectory length in use, in whitened time.

    ```python
    from bayeshybrid.inference import tuning
    assert tuning.trajectory(tuning.first(4)) == tuning.FIRST_LENGTH
    ```
    """
    return float(LENGTHS[int(shared.rung)]) if shared.rung >= 0 else FIRST_LENGTH


def plan(shared: Shared, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Leapfrog steps and their size for the next `length` transitions, each `(BLOCK,)`, the same for all chains.

    Lengths vary by a fifth and sizes by a tenth, so that no period of the posterior is met each time. During warm-up
    the last transition of a block has far smaller steps: a chain that started where the usual ones are never accepted
    comes away from there.

    ```python
    from bayeshybrid.inference import tuning
    steps, sizes = tuning.plan(tuning.first(1), 10)
    assert np.all(steps >= 1) and np.all(abs(sizes[:-1] - 1) <= 0.1) and sizes[-1] < 0.3
    ```
    """
    turns = int(shared.iteration) + np.arange(BLOCK)
    by_length, by_size = (2 * ((turns + 1) * step % 1.0) - 1 for step in GOLDEN)
    sizes = np.exp(float(shared.log_step)) * (1 + SIZE_JITTER * by_size)
    wanted = np.round(trajectory(shared) * (1 + LENGTH_JITTER * by_length) / sizes)
    steps = np.clip(wanted, 1, MOST_STEPS).astype(int)
    if shared.began < 0:
        block = int(shared.iteration - shared.filled) // BLOCK
        sizes = np.where((turns + 1) % BLOCK == 0, sizes / SMALLER[block % len(SMALLER)], sizes)
    kept = np.arange(BLOCK) < length
    return np.where(kept, steps, 0), np.where(kept, sizes, 0.0)


def adapted(
    shared: Shared,
    z: np.ndarray,
    basin: np.ndarray,
    acceptance: np.ndarray,
    target_acceptance: float,
    most_warmup: int,
) -> Shared:
    """The next settings from a block: first the metric settles, then the trajectory length is chosen.

    **Arguments:**

    - `z`: whitened positions of the block, `(chain, transition, unknown)`; `basin`: of each chain.
    - `acceptance`: acceptance rates, `(chain, transition)`.

    ```python
    from bayeshybrid.inference import tuning
    z, rng = np.zeros((32, tuning.BLOCK, 1)), np.random.default_rng(0)
    low = tuning.adapted(tuning.first(1), rng.normal(size=z.shape), np.zeros(32), z[..., 0] + 0.4, 0.8, 1000)
    assert low.log_step < tuning.first(1).log_step
    ```
    """
    z, acceptance = z[:, :-1], acceptance[:, :-1]  # the last transition had steps of its own
    centred = z - np.stack([z[basin == b].mean(axis=(0, 1)) for b in basin])[:, None]
    made = shared
    if not moving(acceptance, basin):
        pass  # chains that stand still tell of the step size alone
    elif not shared.metric_settled:
        settled = shared.blocks + 1 >= METRIC_BLOCKS and _settled(z, centred, basin)
        shared = shared._replace(blocks=shared.blocks + 1, metric_settled=np.array(settled))
        if settled:
            shared = shared._replace(rung=np.array(QUARTER))
    else:
        shared = _next_length(shared, centred)
    shared = shared._replace(
        log_step=shared.log_step + _step_change(acceptance, target_acceptance), filled=np.array(0)
    )
    chosen = _best(shared) if made.rung >= 0 else None
    over = shared.iteration >= most_warmup
    if over or (chosen is not None and moving(acceptance, basin)):
        stuck = np.mean(acceptance.mean(axis=1) < STUCK_ACCEPTANCE)
        tried = np.where(np.isnan(shared.scores), -np.inf, shared.scores)
        rung = (
            chosen if chosen is not None else (int(np.argmax(tried)) if np.isfinite(tried).any() else QUARTER)
        )
        shared = shared._replace(
            rung=np.array(rung),
            metric_settled=np.array(True),
            began=shared.iteration,
            converged=np.array(chosen is not None),
            stuck=np.array(stuck),
        )
    return shared


def moving(acceptance: np.ndarray, basin: np.ndarray) -> bool:
    """Whether in each basin steps are accepted often enough for a block to tell of its shape.

    ```python
    from bayeshybrid.inference import tuning
    assert tuning.moving(np.full((4, 10), 0.5), np.zeros(4)) and not tuning.moving(np.zeros((4, 10)), np.zeros(4))
    ```
    """
    return all(acceptance[basin == b].mean() >= MOVING for b in np.unique(basin))


def _settled(z, centred, basin):
    """Whether neither means nor spreads move any more, up to what so few draws can tell."""
    half = z.shape[1] // 2
    for b in np.unique(basin):
        mine = basin == b
        drift = z[mine, :half].mean(axis=(0, 1)) - z[mine, half:].mean(axis=(0, 1))
        rows = centred[mine].reshape(-1, z.shape[-1])
        widths = np.linalg.eigvalsh(rows.T @ rows / len(rows))
        noise = 2 * np.sqrt(
            z.shape[-1] / (mine.sum() * half / 2)
        )  # of the extreme eigenvalues, Marchenko and Pastur
        low, high = np.log(widths[0]), np.log(widths[-1])
        if np.abs(drift).max() > DRIFT or max(-low, high) > np.log(WIDTH) + noise:
            return False
    return True


def _step_change(acceptance, target):
    """How the logarithm of the step size should change.

    The error of the energy is about normal with a standard deviation s that grows with the square of the step
    size, and the mean acceptance is 2 Phi(-s / 2) (Beskos et al. 2013, "Optimal tuning of the hybrid Monte Carlo
    algorithm").
    """
    mean = float(np.clip(np.mean(acceptance), 0.01, 0.995))
    return float(np.clip(np.log(_times_as_long(mean, target)), -0.7, 0.7))


def _times_as_long(mean, target):
    """The step size with this target acceptance, in units of that which gave such a mean."""
    return np.sqrt(NORMAL.inv_cdf(0.5 * target) / NORMAL.inv_cdf(0.5 * mean))


def _next_length(shared, centred):
    """The score of the length in use, and the neighbour to try next."""
    scores = shared.scores.copy()
    scores[int(shared.rung)] = _score(centred, np.exp(shared.log_step), trajectory(shared))
    shared = shared._replace(scores=scores)
    untried = _neighbours(shared)
    return shared._replace(rung=np.array(untried[0])) if untried else shared


def _score(centred, step, length):
    """Effective draws for a gradient, of the slowest among all unknowns and their squares.

    Successive draws of stationary chains are taken for a first-order autoregression.
    """
    squares = centred**2 - np.mean(centred**2, axis=(0, 1))
    slowest = max(_correlation(centred), _correlation(squares))
    return (1 - slowest) / (1 + slowest) / max(1.0, length / step)


def _correlation(x):
    """The largest correlation of a column with itself one transition later, at least 0."""
    products = np.mean(x[:, 1:] * x[:, :-1], axis=(0, 1))
    return float(np.clip(np.max(products / np.mean(x**2, axis=(0, 1))), 0.0, 0.999))


def _neighbours(shared):
    """Lengths beside the best tried one that were not tried, the longer first."""
    tried = np.where(np.isnan(shared.scores), -np.inf, shared.scores)
    best = int(np.argmax(tried))
    return [
        rung for rung in (best + 1, best - 1) if 0 <= rung < len(LENGTHS) and np.isnan(shared.scores[rung])
    ]


def _best(shared):
    """The place of the best length once its neighbours were tried, else `None`."""
    if np.isnan(shared.scores).all() or _neighbours(shared):
        return None
    return int(np.nanargmax(shared.scores))


def hardness(shared: Shared) -> str:
    """What the warm-up saw, or sees, that shared chains are not made for, in words; empty where nothing.

    ```python
    from bayeshybrid.inference import tuning
    assert not tuning.hardness(tuning.first(4))
    ```
    """
    limit = float(shared.shortest)
    step = float(np.exp(shared.log_step))
    warming = shared.began < 0
    if step < limit and not (warming and shared.iteration < PATIENCE):
        return f"the step size is {step:.2g} in the metric's units, where a round posterior takes over {limit:.2g}"
    if warming:
        return ""
    if shared.stuck > STUCK_SHARE:
        return f"{100 * float(shared.stuck):.0f} % of the chains stand where hardly a step is accepted"
    if int(shared.rung) == len(LENGTHS) - 1:
        return "the longest trajectories are still the best: the posterior is much longer than wide"
    if not shared.converged:
        return f"the adaptation had not settled after {int(shared.iteration)} transitions"
    return ""
