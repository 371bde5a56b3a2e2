"""What each process of `test_hosts` runs.

Its arguments: "programs" or "fits", its number, how many there are, the port they meet at, where results go.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import bayeshybrid as bh  # isort: skip

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayeshybrid import configuration
from bayeshybrid.inference import devices, hosts
from bayeshybrid.progress import Silent
from bayeshybrid.target import Target

DEVICES = 4
TIMES = np.linspace(0.5, 4.0, 8)
DATA = {"times": TIMES, "y": 3.0 * np.exp(-0.7 * TIMES) + np.resize([0.05, -0.04, 0.02, -0.06], 8)}
POINTS = np.random.default_rng(0).normal(0.0, 0.3, (8, 2))
SAMPLING = bh.SharedHMC(chains=32)
ENDLESS = bh.SharedHMC(chains=32, most_draws=10**6)


def decay(times, y=None):
    rate = bh.parameter("rate", dist.LogNormal(0.0, 0.5), unit="1/s")
    start = bh.parameter("start", dist.LogNormal(1.0, 0.5), unit="g")
    path = bh.solve_ode("path", lambda t, y, rate: -rate * y, start, times, t0=0.0, args=rate)
    bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)


class Interrupting(Silent):
    """Presses Ctrl-C once, while chains are sampling."""

    def __init__(self):
        self.sampling = False

    def start(self, title, total):
        self.sampling = title == "sampling"

    def update(self, done, note=""):
        if self.sampling:
            self.sampling = False
            signal.raise_signal(signal.SIGINT)


def programs():
    """What programs give that are spread as chains are; the second has a row more than devices, the third waits."""

    def spread(function, target, rows):
        return devices.over_devices(function, len(rows))(target, devices.settled(rows))

    def solved(_, rows):
        return jax.scipy.linalg.solve_triangular(jnp.eye(2), rows.T).T

    with configuration.scope():
        found = {
            "densities": spread(
                lambda target, q: jax.vmap(target.log_density)(q), Target(decay, DATA), POINTS
            ),
            "filled": spread(lambda factor, rows: factor * rows, 2.0, POINTS[: DEVICES + 1]),
            "waiting": spread(solved, 0.0, POINTS),
        }
        over = {f"{name}_over": len(x.sharding.device_set) for name, x in found.items()}
        return over | {name: np.asarray(x) for name, x in found.items()}


def listening():
    """Of each program that chains run from now on: the first of the rows that each device here has computed."""
    heard = []
    gathered = devices._gathered

    def listen(results, mesh, chains):
        shards = jax.tree.leaves(results)[0].addressable_shards
        heard.append(sorted(shard.index[0].start or 0 for shard in shards))
        return gathered(results, mesh, chains)

    devices._gathered = listen
    return heard


def first_turn():
    """The transitions of the first turn that chains make from now on."""
    kept = []
    advance = bh.SharedHMC.advance

    def noting(self, target, state, length):
        state, chunk = advance(self, target, state, length)
        kept.append(chunk.draws)
        return state, chunk

    bh.SharedHMC.advance = noting
    return kept


def refused(process):
    """What is said where processes do not ask for the same; it is found before anything is compiled."""
    try:
        bh.infer(decay, DATA, SAMPLING, key=process)
    except RuntimeError as error:
        return str(error)
    return ""


def fitted(prefix, method, **more):
    posterior = bh.infer(decay, DATA, method, key=0, **more)
    told = {"draws": posterior.unconstrained, "ended": posterior.record["ended"]}
    told |= {"over": posterior.record["devices"], "verdict": posterior.verdict["scientific parameters"]}
    return {f"{prefix}_{name}": value for name, value in told.items()}


def fits(process, processes):
    """The chains and their first turn; of joined processes also what ends a run."""
    heard, turns = listening(), first_turn()
    found = fitted("fit", SAMPLING)
    found["first"] = turns[0]
    if processes > 1:
        found["rows"] = np.unique(heard, axis=0)
        endless = {"target_ess": 1e9}
        found |= fitted("limited", ENDLESS, time_limit=1000.0 if process else 6.0, **endless)
        found |= fitted("interrupted", ENDLESS, progress=Interrupting() if process else None, **endless)
    return found


def main(what: str, process: int, processes: int, port: int, folder: str) -> None:
    bh.configure(devices=DEVICES // processes)
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, process, heartbeat_timeout_seconds=10)
    found: dict[str, Any] = programs() if what == "programs" else fits(process, processes)
    if processes > 1 and what == "programs":
        found["refused"] = refused(process)
    np.savez(Path(folder, f"{process}_of_{processes}.npz"), **found)
    if processes > 1 and what == "programs":
        if process == 1:
            os._exit(7)
        hosts.first(0.0)  # waits for the one that is gone


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5])
