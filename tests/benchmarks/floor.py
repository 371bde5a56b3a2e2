"""The floor: how fast effective draws could come, were there nothing but gradients by a kernel in C.

    python -m tests.benchmarks.floor --draws folder/draws.npz

`F1 = cores / (G t)`: `t` is the time of one value and gradient on one core, `G = 3 (d / 5)^(1/4)` the gradients of an
effective draw of a well whitened sampler with `d` unknowns. The kernel takes as few steps a year as pass the
importance certificate: the weights against forty steps have a coefficient of variation below 0.1 over posterior draws.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.density import thinned
from tests.benchmarks.rows import Row, read_row
from tests.benchmarks.rows.lotka_volterra import read_pelts

SOURCE = Path(__file__).with_name("kernels") / "lotka_volterra.c"
COMPILER = ["-O3", "-march=native", "-ffast-math", "-fPIC", "-shared"]
STEPS, ACCURATE, CERTIFIED = (1, 2, 3, 4, 6, 8), 40, 0.1
ROUNDS, GRADIENTS = 7, 20_000


@dataclass(frozen=True)
class Floor:
    """`rate` in effective draws a second on all cores, and what it is made of."""

    rate: float
    cores: int
    microseconds: float
    gradients_per_effective: float
    steps: int
    variation: float


class Kernel:
    """The compiled kernel of a row."""

    def __init__(self) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise RuntimeError("no C compiler (cc) was found, so there is no floor")
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "kernel.so"
            subprocess.run([compiler, *COMPILER, str(SOURCE), "-o", str(built), "-lm"], check=True)
            self.library = ctypes.CDLL(str(built))
        self.library.value_and_gradient.restype = self.library.many.restype = ctypes.c_double
        self.log_pelts = np.ascontiguousarray(np.log(read_pelts()[1]))

    def value_and_gradient(self, q: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
        """Log density up to a constant and its gradient at the logarithms `q` of the eight unknowns."""
        gradient, q = np.empty(8), np.ascontiguousarray(q)
        value = self.library.value_and_gradient(
            _pointer(q), _pointer(self.log_pelts), len(self.log_pelts), steps, _pointer(gradient)
        )
        return value, gradient

    def microseconds(self, points: np.ndarray, steps: int) -> float:
        """Of one value and gradient on one core, median of some rounds."""
        points, told = np.ascontiguousarray(points), []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            self.library.many(
                _pointer(points), len(points), GRADIENTS, _pointer(self.log_pelts), len(self.log_pelts), steps
            )
            told.append(time.perf_counter() - began)
        return float(np.median(told)) / GRADIENTS * 1e6


def logarithms(row: Row, points: dict[str, np.ndarray]) -> np.ndarray:
    """Draws by name as the kernel takes them, `(draw, 8)`."""
    return np.log(
        np.concatenate([points[name].reshape(len(points[name]), -1) for name in row.unknowns], axis=1)
    )


def variation(kernel: Kernel, points: np.ndarray, steps: int) -> float:
    """Coefficient of variation of the weights of an accurate solve over one with `steps` steps a year."""
    ratio = [
        kernel.value_and_gradient(q, ACCURATE)[0] - kernel.value_and_gradient(q, steps)[0] for q in points
    ]
    weights = np.exp(np.array(ratio) - np.max(ratio))
    return float(weights.std() / weights.mean())


def measure(row: Row, points: dict[str, np.ndarray]) -> Floor:
    """The floor of a row at posterior draws by common name."""
    kernel, at = Kernel(), logarithms(row, points)
    told = {steps: variation(kernel, at, steps) for steps in STEPS}
    steps = next(steps for steps in STEPS if told[steps] < CERTIFIED)
    microseconds, cores = kernel.microseconds(at, steps), len(os.sched_getaffinity(0))
    gradients = 3.0 * (at.shape[1] / 5.0) ** 0.25
    rate = cores / (gradients * microseconds * 1e-6)
    return Floor(rate, cores, microseconds, gradients, steps, told[steps])


def _pointer(array: np.ndarray):
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_double))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=Path, required=True)
    parser.add_argument("--fit", default="warm")
    given = parser.parse_args()
    row = read_row("lotka_volterra")
    print(asdict(measure(row, thinned(row, given.draws, given.fit))))


if __name__ == "__main__":
    main()
