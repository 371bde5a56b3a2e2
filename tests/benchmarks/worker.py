"""One tool, one row, one process: a cold fit and a warm one, written down for the comparison to read.

    python -m tests.benchmarks.worker --row sir --tool stan --seed 1 --began 0 --output folder

Cold is everything from the start of the process (`--began`, seconds since the epoch) to the draws of the first fit:
imports, compiling, search, warm-up. Warm is a second fit with another seed in the same process. Nothing that a tool
does not need is imported before the clock stops.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.rows import read_row
from tests.benchmarks.tools import TOOLS, Fit, Settings

ANOTHER_SEED = 1000


def run(row_name: str, tool_name: str, seed: int, began: float, settings: Settings, warm: bool) -> dict:
    """Fit once, and again if `warm`; returns the figures, and the draws under `"draws"`."""
    row = read_row(row_name)
    tool = TOOLS[tool_name](row, settings)
    fits = {"cold": (tool.fit(seed), time.time() - began)}
    if warm:
        again = time.time()
        fits["warm"] = (tool.fit(seed + ANOTHER_SEED), time.time() - again)
    last = fits["warm" if warm else "cold"][0]
    told = last.kept_seconds is not None
    pace = None if told else tool.seconds_per_gradient()
    figures = {
        name: {"seconds": seconds, **_figures(fit, pace, seconds)} for name, (fit, seconds) in fits.items()
    }
    draws = {f"{name}.{site}": v for name, (fit, _) in fits.items() for site, v in fit.draws.items()}
    about = {"row": row_name, "tool": tool_name, "seed": seed, "target": settings.target}
    return {**about, "fits": figures, "versions": tool.versions(), "draws": draws}


def _figures(fit: Fit, pace: float | None, seconds: float) -> dict:
    # A pace taken from a short run holds its fixed cost too; the kept draws took no longer than the whole fit.
    kept = fit.kept_seconds if fit.kept_seconds is not None else min(fit.gradients * pace, seconds)
    counts = ("gradients", "all_gradients", "divergences", "failures", "record")
    return {"kept_seconds": kept, **{name: getattr(fit, name) for name in counts}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in {"row": str, "tool": str, "seed": int, "output": Path}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--began", type=float, default=0.0)
    for name, kind in {"chains": int, "warmup": int, "draws": int, "target": int}.items():
        parser.add_argument(f"--{name}", type=kind)
    for name, kind in {"rtol": float, "atol": float, "shared": Path}.items():
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--once", action="store_true", help="no second fit")
    parser.add_argument(
        "--reference", action="store_true", help="the program that makes the reference (Stan)"
    )
    given = parser.parse_args()
    began = given.began or time.time()
    names = ("chains", "warmup", "draws", "target", "rtol", "atol", "shared")
    told = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    settings = Settings(**told, reference=given.reference)
    result = run(given.row, given.tool, given.seed, began, settings, not given.once)
    given.output.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.output / "draws.npz", **result.pop("draws"))
    (given.output / "figures.json").write_text(json.dumps(result, indent=1, default=str))


if __name__ == "__main__":
    main()
