"""The driver: it owns the loop, the progress bar, interruption, the time limit and the counting of failures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bayeshybrid.inference import hosts
from bayeshybrid.inference.convergence import FEW, reasons_in_words
from bayeshybrid.inference.grids import APART
from bayeshybrid.inference.method import Basin, Chunk, Method
from bayeshybrid.inference.search import OUT_OF_REACH
from bayeshybrid.inference.stopping import Precision
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.progress import Progress
from bayeshybrid.survey import ask
from bayeshybrid.target import Target

SECONDS_PER_CHUNK = 1.0
TARGET_ESS = 1000.0
FIRST_LENGTH = 5
MOST_EXPLAINED = 64
SURELY, PROBABLY = 3.0, 2.0  # standard deviations of a count above what is allowed
MISLED = "misled by its grids"

__all__ = ["MISLED", "TARGET_ESS", "Run", "drive"]


@dataclass(frozen=True)
class Run:
    """What a drive ended with.

    - `state`: the last state; `chunks`: everything drawn.
    - `failures`: failed transitions by reason in words, exact in number.
    - `failed_at`: where they failed, unconstrained, and `failed_in`: in which transition.
    - `missed_at`: where transitions failed or flew off on frozen grids alone, and `missed_in`: in which transition.
    - `ended`: `"finished"`, `"interrupted"`, `"out of time"`, `"hard"` where it was given up for its shape, or `MISLED`
      where it was for the share of those.
    - `seconds`: wall time, compiling included.
    """

    state: Any
    chunks: list[Chunk]
    failures: dict[str, int]
    failed_at: np.ndarray
    failed_in: np.ndarray
    missed_at: np.ndarray
    missed_in: np.ndarray
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
    of `target_ess`; with `give_up` it is also left when it meets a shape that it is not made for, or diverges too
    often. Whether and why a proposal failed is asked of the model as `stated`, where the target solves on grids; it
    ends once these refuse more than a few that would count. Of several processes the first one's clock decides for all,
    and an interruption of one ends all after the chunk.
    """
    began = time.monotonic()
    precision = Precision(stated or target, target_ess)
    chunks: list[Chunk] = []
    seen = _Failures(target, stated)
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
                seen.count(chunk, sum(earlier.draws.shape[1] for earlier in chunks))
                chunks.append(chunk)
                if len(chunks) > 1:  # the first turn compiles
                    length = max(1, int(length * min(4.0, SECONDS_PER_CHUNK / max(spent, 1e-3))))
                progress.update(method.progress(state)[0], _words(chunk))
                if _misled(method, state, chunks, seen):
                    ended = MISLED
                    break
                if give_up and (method.hardness(state) or _diverging(method, state, chunks)):
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
    return Run(state, chunks, seen.counts, *seen.places(), ended, time.monotonic() - began)


def _diverging(method, state, chunks):
    """Whether so many of the kept transitions diverged that more draws will not bring their share below the limit."""
    began = method.sampling_since(state)
    if began is None or "diverging" not in chunks[0].statistics:
        return False
    kept = np.concatenate([chunk.statistics["diverging"] for chunk in chunks], axis=1)[:, began:]
    return _more_than_few(kept.sum(), kept.size, SURELY)


def _misled(method, state, chunks, seen):
    """Whether more draws will not bring the share of kept transitions that grids alone refuse below the limit."""
    began = method.sampling_since(state)
    if began is None:
        return False
    made = sum(chunk.draws.shape[1] for chunk in chunks) - began
    count = sum(transition >= began for transition in seen.within_reach)
    return _more_than_few(count, made * len(chunks[0].draws), PROBABLY)


def _more_than_few(count, tried, deviations):
    allowed = FEW * tried
    return count > allowed + deviations * np.sqrt(allowed)


def _words(chunk):
    steps, bound = chunk.statistics.get("n_steps"), chunk.statistics.get("elbo")
    if bound is not None and bound.size:
        return f"lower bound {np.mean(bound[:, -1]):.2f}"
    diverging = int(np.sum(chunk.statistics.get("diverging", 0)))
    told = f"{np.mean(steps):.0f} gradients per draw" if steps is not None and steps.size else ""
    return told + (f", {diverging} divergent" if diverging else "")


class _Failures:
    """Failed ends of trajectories: how many of each reason, where, and which failed or flew off on grids alone.

    Of the latter `within_reach` tells in which transitions the model as stated might have accepted the proposal.
    """

    def __init__(self, target: Target, stated: Target | None):
        self.target, self.stated, self.on_grids = target, stated or target, stated is not None
        self.counts: dict[str, int] = {}
        nowhere = np.zeros((0, target.layout.size)), np.zeros(0, int)
        self.failed, self.missed = [nowhere], [nowhere]
        self.within_reach: list[int] = []

    def count(self, chunk: Chunk, made: int) -> None:
        """Ask why the ends in a chunk failed, after so many transitions, and drop them from it.

        Those that the model as stated solves did not fail, and where its density is another nothing flew off: they are
        proposals that were refused.
        """
        places = chunk.statistics.pop("failed_at", None)
        if places is None:
            return
        reasons = None
        if self.on_grids:
            reasons = self._forgive(chunk, "failed", places, made)
            self._forgive(chunk, "diverging", places, made)
        at = np.nonzero(chunk.statistics["failed"])
        self.failed.append((places[at], made + at[1]))
        if len(at[0]):
            self._explain(places[at], reasons)

    def _forgive(self, chunk, kind, places, made):
        """Leave with a chunk those of a kind of refused proposals that are no fault of the grids; their reasons."""
        refused = np.array(chunk.statistics.get(kind, False), bool)
        if not refused.any():
            return None
        at = np.nonzero(refused)
        told = ask(self.stated, places[at], ["log_density", "reasons"])
        stated = told["log_density"]
        near = stated > np.asarray(chunk.statistics["lp"])[at] - OUT_OF_REACH
        if kind == "failed":
            missed = np.isfinite(stated)
        else:
            missed = near & ~(np.abs(stated - slopes(self.target, places[at])[0]) <= APART)
        refused[tuple(axis[missed] for axis in at)] = False
        chunk.statistics[kind] = refused
        self.missed.append((places[at][missed], made + at[1][missed]))
        self.within_reach += (made + at[1][missed & near]).tolist()
        return jax.tree.map(lambda rows: rows[~missed], told["reasons"])

    def _explain(self, where, reasons):
        """The reasons at all of the places, or at some where they are not known yet, in proportion to all."""
        asked = len(where)
        if reasons is None:
            asked = min(asked, MOST_EXPLAINED)
            reasons = ask(self.stated, where[:asked], ["reasons"])["reasons"]
        counted = reasons_in_words(reasons)
        counted["the density or its gradient is not finite"] = asked - sum(counted.values())
        for reason, count in counted.items():
            if count:
                self.counts[reason] = self.counts.get(reason, 0) + round(count * len(where) / asked)

    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Where proposals failed and in which transition, and the same of those refused by grids alone."""
        failed_at, failed_in = map(np.concatenate, zip(*self.failed, strict=True))
        missed_at, missed_in = map(np.concatenate, zip(*self.missed, strict=True))
        return failed_at, failed_in, missed_at, missed_in
