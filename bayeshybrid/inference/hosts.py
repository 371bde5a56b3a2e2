"""Several processes that make one run together, joined by `jax.distributed`: what they have to agree on.

Each runs the same script. What is not spread over devices each computes by itself and finds the same; what only a
clock or a keyboard can tell is told by one of them to all. With one process nothing here compiles or waits.
"""

from __future__ import annotations

import signal
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

__all__ = ["anyone", "first", "interruptions", "of_each_process", "same", "several"]


def several() -> bool:
    """Whether `jax.distributed` has joined this process to others.

    ```python
    from bayeshybrid.inference import hosts
    assert hosts.several() == (jax.process_count() > 1)
    ```
    """
    return jax.process_count() > 1


def of_each_process() -> list[list[Any]]:
    """The devices of each process.

    ```python
    from bayeshybrid.inference import hosts
    assert hosts.of_each_process()[jax.process_index()] == jax.local_devices()
    ```
    """
    return [jax.local_devices(process_index=process) for process in range(jax.process_count())]


def first(value: Any) -> float:
    """A number as the first process has it: what a clock tells must be the same everywhere.

    ```python
    from bayeshybrid.inference import hosts
    assert hosts.first(0.5) == 0.5
    ```
    """
    return _told(value)[0]


def anyone(value: bool) -> bool:
    """Whether it holds in any process.

    ```python
    from bayeshybrid.inference import hosts
    assert hosts.anyone(True) and not hosts.anyone(False)
    ```
    """
    return any(_told(value))


def same(what: str, *values: Any) -> None:
    """Make sure that all processes hold the same arrays and texts, bit by bit: from others they would drift apart.

    **Raises:** `RuntimeError` in every process where they do not.

    ```python
    from bayeshybrid.inference import hosts
    hosts.same("the data", {"y": np.arange(3.0)}, "NUTS()")
    ```
    """
    if several() and len(set(_told(_fingerprint(values)))) > 1:
        raise RuntimeError(
            f"{what} differ between the {jax.process_count()} processes that jax.distributed has joined: run the "
            "same script with the same data and key in each, on machines of one kind with the same versions"
        )


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Ctrl-C in one of several processes is noted, so that all can end together; a second one is raised at once.

    ```python
    from bayeshybrid.inference import hosts
    with hosts.interruptions() as interrupted:
        assert not interrupted()
    ```
    """
    noted: list[int] = []
    if not several() or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    usual = signal.getsignal(signal.SIGINT)

    def note(number, frame):
        noted.append(number)
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, usual)


def _told(value):
    """The number that each process has.

    It goes over one device of each, which may wait for one another as long as they like once they are connected.
    Devices that share a process may not: XLA ends it after 40 s.
    """
    if not several():
        return [float(value)]
    spread, gathered = _exchange()
    with jax.enable_x64(True):
        numbers = jax.make_array_from_process_local_data(spread, np.array([value], np.float64))
        return np.asarray(gathered(numbers)).tolist()


@lru_cache(maxsize=1)
def _exchange():
    """Where each process lays its number, and the program that gives all of them to each."""
    devices = [own[0] for own in of_each_process()]
    mesh = jax.make_mesh((len(devices),), ("processes",), devices=devices, axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("processes")), jax.jit(lambda x: x, out_shardings=everywhere)


def _fingerprint(values):
    """A checksum of 32 bits, which a double holds exactly."""
    found = 0
    for leaf in jax.tree.leaves(values):
        found = zlib.crc32(leaf.encode() if isinstance(leaf, str) else np.asarray(leaf).tobytes(), found)
    return found
