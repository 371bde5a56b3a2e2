"""Seconds that `import bayeshybrid` takes beyond jax, equinox, diffrax and numpyro.

    python tests/benchmarks/import_time.py [repeats]

Fresh interpreters, the two statements in turn so that drift of the machine hits both; the first pair fills
the file cache and is not counted. The aim: under half a second between the medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

STATEMENTS = {
    "jax, equinox, diffrax, numpyro": "import jax, equinox, diffrax, numpyro",
    "bayeshybrid": "import bayeshybrid, jax, equinox, diffrax, numpyro",
}
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    """Wall time of one import in a fresh interpreter, its own start not counted."""
    command = [sys.executable, "-c", TIMED.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(repeats: int = 7) -> None:
    """Print medians, smallest and largest side by side, and the difference of the medians."""
    rounds = [{name: seconds(code) for name, code in STATEMENTS.items()} for _ in range(repeats + 1)][1:]
    columns = {name: [round_[name] for round_ in rounds] for name in STATEMENTS}
    for name, values in columns.items():
        print(
            f"{name:32s} median {statistics.median(values):6.3f} s   ({min(values):.3f} to {max(values):.3f})"
        )
    base, ours = (statistics.median(values) for values in columns.values())
    print(f"{'added by bayeshybrid':32s}        {ours - base:6.3f} s   (aim: under 0.5)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
