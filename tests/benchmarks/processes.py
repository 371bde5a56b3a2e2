"""Fresh processes for the fits, one at a time, with caches of their own and a limit on their time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# What would carry compiled programs from one process to the next, or change what is being compared.
DROPPED = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "JAX_ENABLE_X64", "PYTHONSTARTUP")


class Failed(RuntimeError):
    """A worker ended without a result; the message says why."""


def run_module(module: str, options: Mapping[str, Any], log: Path, limit: float, cache: Path) -> None:
    """`python -m tests.benchmarks.<module> --option value ...` in a fresh process; raises `Failed`.

    **Arguments:**

    - `options`: `None` leaves an option out, `True` is a flag.
    - `log`: where its output goes.
    - `limit`: seconds after which it, and all it started, is ended.
    - `cache`: the folder in which it may keep compiled programs.
    """
    command = [sys.executable, "-m", f"tests.benchmarks.{module}"]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    environment = {name: value for name, value in os.environ.items() if name not in DROPPED}
    environment["XDG_CACHE_HOME"] = str(cache)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            _end(process)
            raise Failed(f"not done in {limit:.0f} s") from None
        except BaseException:
            _end(process)
            raise
    if code != 0:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        raise Failed(f"ended with code {code}: {' '.join(last)[:200]}")


def run_worker(options: Mapping[str, Any], folder: Path, limit: float, cache: Path | None = None) -> Path:
    """One worker with its result in `folder`, its clock starting just before its process; returns the folder.

    Without `cache` it starts with none, which is what cold means.
    """
    with tempfile.TemporaryDirectory() as own:
        told = {**options, "began": repr(time.time()), "output": folder}
        run_module("worker", told, folder / "log.txt", limit, cache or Path(own))
    return folder


def _end(process: subprocess.Popen) -> None:
    """The process and what it started; it leads a group of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
