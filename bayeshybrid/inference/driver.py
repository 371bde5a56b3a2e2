"""The driver: it owns the loop, the progress bar, interruption, the time limit and the counting of failures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshybrid.inference import hosts
from bayeshybrid.inference.convergence import reasons_in_words
from bayeshybrid.inference.method import Basin, Chunk, Method
from bayeshybrid.inference.stopping import Precision
from bayeshybrid.progress import Progress
from bayeshybrid.survey import ask
from bayeshybrid.target import Target

SECONDS_PER_CHUNK = 1.0
TARGET_ESS = 1000.0
FIRST_LENGTH = 5
MOST_EXPLAINED = 64

__all__ = ["TARGET_ESS", "Run", "drive"]


@dataclass(frozen=True)
class Run:
    """What a drive ended with.

    - `state`: the last state; `chunks`: everything drawn.
    - `failures`: failed transitions by reason in words, exact in number; `failed_at`: where, unconstrained, and
      `failed_in`: in which transition.
    - `ended`: `"finished"`, `"interrupted"`, `"out of time"`, or `"hard"` where it was given up for its shape.
    - `seconds`: wall time, compiling included.
    """

    state: Any
    chunks: list[Chunk]
    failures: dict[str, int]
    failed_at: np.ndarray
    failed_in: np.ndarray
    ended: str
    seconds: float


def drive(
    method: Method,
    target: Target,
    basins: tuple[Basin, ...],
    key: Any,
    progress: Progress,
    deadline: float | None = None,
    target_ess: float = TARGET_ESS,
    give_up: bool = False,
    stated: Target | None = None,
) -> Run:
    """Turn a method until it is finished, in chunks of about a second, so that Ctrl-C is heard.

    Interrupted, or past the deadline (of `time.monotonic`), what was drawn so far is kept. How the work is cut into
    chunks changes nothing about the draws. A method that does not end by itself is stopped at an effective sample size
    of `target_ess`; with `give_up` it is also left when it meets a shape that it is not made for. Why a proposal failed
    is asked of the model as `stated`, where the target solves on grids. Of several processes the first one's clock
    decides for all, and an interruption of one ends all after the chunk.
    """
    began = time.monotonic()
    precision = Precision(stated or target, target_ess)
    chunks: list[Chunk] = []
    failures: dict[str, int] = {}
    failed: list[tuple[np.ndarray, np.ndarray]] = []
    ended = "finished"
    state = None
    try:
        with hosts.interruptions() as interrupted:
            hosts.same("the model's data and its basins", target, [vars(basin) for basin in basins])
            state = method.start(target, basins, key)
            length, phase = FIRST_LENGTH, ""
            while not method.finished(state):
                _, total, doing = method.progress(state)
                if doing != phase:
                    progress.start(doing, total)
                    phase = doing
                turned = time.monotonic()
                state, chunk = method.advance(target, state, length)
                spent = hosts.first(time.monotonic() - turned)
                hosts.same("the states of the method", state)
                made = sum(earlier.draws.shape[1] for earlier in chunks)
                chunks.append(chunk)
                _count_failures(stated or target, chunk, failures, failed, made)
                if len(chunks) > 1:  # the first turn compiles
                    length = max(1, int(length * min(4.0, SECONDS_PER_CHUNK / max(spent, 1e-3))))
                progress.update(method.progress(state)[0], _words(chunk))
                if give_up and method.hardness(state):
                    ended = "hard"
                    break
                if precision.reached(method, state, chunks):
                    break
                if deadline is not None and hosts.first(time.monotonic() > deadline):
                    ended = "out of time"
                    break
                if hosts.anyone(interrupted()):
                    ended = "interrupted"
                    break
    except KeyboardInterrupt:
        if not chunks or hosts.several():  # the others would wait for one that goes on alone
            raise
        ended = "interrupted"
    progress.finish(ended if ended != "finished" else "")
    nowhere = np.zeros((0, target.layout.size)), np.zeros(0, int)
    places, when = (np.concatenate(parts) for parts in zip(nowhere, *failed, strict=True))
    return Run(state, chunks, failures, places, when, ended, time.monotonic() - began)


def _words(chunk):
    steps, bound = chunk.statistics.get("n_steps"), chunk.statistics.get("elbo")
    if bound is not None and bound.size:
        return f"lower bound {np.mean(bound[:, -1]):.2f}"
    diverging = int(np.sum(chunk.statistics.get("diverging", 0)))
    told = f"{np.mean(steps):.0f} gradients per draw" if steps is not None and steps.size else ""
    return told + (f", {diverging} divergent" if diverging else "")


def _count_failures(target, chunk, failures, failed, made):
    """Ask the target why the failed ends of trajectories failed, once a chunk, and drop them from the chunk.

    `made` is how many transitions came before this chunk.
    """
    places = chunk.statistics.pop("failed_at", None)
    if places is None:
        return
    ended_badly = np.asarray(chunk.statistics["failed"], bool)
    where = places[ended_badly]
    if not len(where):
        return
    failed.append((where, made + np.nonzero(ended_badly)[1]))
    asked = where[:MOST_EXPLAINED]
    counted = reasons_in_words(ask(target, asked, ["reasons"])["reasons"])
    counted["the density or its gradient is not finite"] = len(asked) - sum(counted.values())
    for reason, count in counted.items():
        if count:
            failures[reason] = failures.get(reason, 0) + round(count * len(where) / len(asked))
