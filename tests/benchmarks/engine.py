"""The comparison: the same posteriors, the same accuracy, ours and others in turn.

    python -m tests.benchmarks.engine [--rows sir funnel] [--tools ours stan numpyro] [--seeds 3] [--output folder]

For each row and each seed every tool fits in turn, each in a fresh process: a cold fit, then a warm one. Ours is
asked for 1,000 and for 10,000 effective draws in processes of their own; the times of tools that run a fixed length
are carried to those sizes at their measured rate of drawing. It prints a Markdown table and writes
`results.json` and `table.md` into the output folder; `docs/benchmarks.md` says how to read them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks import floor
from tests.benchmarks.density import thinned
from tests.benchmarks.figures import TARGETS, Seen, read_fits, table, tool_figures
from tests.benchmarks.processes import Failed, run_module, run_worker
from tests.benchmarks.rows import NAMES, Row, read_row
from tests.benchmarks.tools import TOOLS

DEFAULT_TOOLS = ("ours", "stan", "stan_dense", "numpyro", "nutpie", "pymc")


def machine() -> dict[str, Any]:
    """Where and when this was measured."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [
            line.split(":")[1].strip()
            for line in information.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    load = [round(each, 2) for each in os.getloadavg()]
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "load_at_start": load,
    }


class Comparison:
    """One run of the comparison; everything it starts leaves its traces under `output`."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.output = given, given.output.resolve()
        self.versions: dict[str, dict[str, str]] = {}

    def run(self) -> dict[str, Any]:
        """All rows; the table is written anew after each of them."""
        results = {"machine": machine(), "versions": self.versions, "rows": {}}
        for name in self.given.rows:
            results["rows"][name] = self.row(read_row(name))
            self.output.mkdir(parents=True, exist_ok=True)
            (self.output / "results.json").write_text(json.dumps(results, indent=1, default=str))
            (self.output / "table.md").write_text(table(results["rows"]) + "\n")
        return results

    def row(self, row: Row) -> dict[str, Any]:
        """All tools on one row, in turn for each seed."""
        missing = {name: why for name in self.given.tools if (why := TOOLS[name].missing(row))}
        fits: dict[str, list[dict[int, dict[str, Seen]]]] = {}
        for seed in range(self.given.seeds):
            for name in self.given.tools:
                if name in missing:
                    continue
                self.say(f"{row.name}: {name}, seed {seed}")
                try:
                    fits.setdefault(name, []).append(self.tool(row, name, seed))
                except Failed as failure:
                    missing[name] = f"seed {seed}: {failure}"
                    self.say(f"{row.name}: {name} {failure}")
        return self.judged(row, missing, fits)

    def tool(self, row: Row, name: str, seed: int) -> dict[int, dict[str, Seen]]:
        """The fits of one tool with one seed by target."""
        settings = {"row": row.name, "tool": name, "seed": seed, "shared": self.output / "shared"}
        settings |= {key: getattr(self.given, key) for key in ("chains", "warmup", "draws")}
        folder = self.folder(row, name, seed)
        if not TOOLS[name].stops_at_target:
            seen = self.fits(row, settings, folder)
            return dict.fromkeys(TARGETS, seen)
        return {
            target: self.fits(row, settings | {"target": target}, folder / str(target)) for target in TARGETS
        }

    def fits(self, row: Row, settings: dict[str, Any], folder: Path) -> dict[str, Seen]:
        """A worker's cold and warm fit. With a cache kept, an earlier process fills it first."""
        if settings["tool"].endswith("_cached"):
            with tempfile.TemporaryDirectory() as cache:
                run_worker(settings | {"once": True}, folder / "first", self.given.limit, Path(cache))
                run_worker(settings, folder, self.given.limit, Path(cache))
        else:
            if (
                settings["tool"] == "stan_dense"
            ):  # its service is made beforehand, as that of the diagonal metric is
                from tests.benchmarks.stan_dense import dense_service

                dense_service(settings["shared"])
            run_worker(settings, folder, self.given.limit)
        told = json.loads((folder / "figures.json").read_text())
        self.versions[settings["tool"]] = told["versions"]
        return read_fits(row, folder)

    def judged(self, row: Row, missing: dict[str, str], fits: dict[str, list]) -> dict[str, Any]:
        """The figures of a row: one entry a tool, the check of the densities, the floor."""
        found: dict[str, Any] = {"tools": {}, "density": None, "floor": None}
        first = next((name for name in self.given.tools if name in fits and name not in missing), None)
        if first is not None:
            stops = TOOLS[first].stops_at_target
            folder = self.folder(row, first, 0) / (str(TARGETS[-1]) if stops else "")
            found["density"] = self.density(row, folder)
            if row.kernel:
                found["floor"] = asdict(floor.measure(row, thinned(row, folder / "draws.npz", "warm")))
        rate = found["floor"]["rate"] if found["floor"] else None
        for name in self.given.tools:
            if name in missing:
                found["tools"][name] = {"missing": missing[name]}
            else:
                told = tool_figures(row, fits[name], TOOLS[name].stops_at_target, rate)
                found["tools"][name] = told
        return found

    def density(self, row: Row, folder: Path) -> Any:
        """Whether the tools state the same posterior, at the draws of one of them."""
        output = self.output / row.name / "density.json"
        options = {"row": row.name, "draws": folder / "draws.npz", "output": output}
        try:
            with tempfile.TemporaryDirectory() as cache:
                run_module("density", options, output.with_suffix(".txt"), self.given.limit, Path(cache))
        except Failed as failure:
            return f"not checked: {failure}"
        return json.loads(output.read_text())

    def folder(self, row: Row, name: str, seed: int) -> Path:
        return self.output / row.name / name / str(seed)

    def say(self, words: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rows", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--tools", nargs="+", choices=tuple(TOOLS), default=DEFAULT_TOOLS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"))
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for one process")
    for name in ("chains", "warmup", "draws"):
        parser.add_argument(f"--{name}", type=int, help="of the tools that run a fixed length")
    return parser.parse_args()


def main() -> None:
    """Run, then print the machine, the check of the densities, and the table."""
    comparison = Comparison(arguments())
    results = comparison.run()
    print("\n" + ", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    for name, row in results["rows"].items():
        print(f"sd of log density differences, {name}: {row['density']}")
    print("\n" + table(results["rows"]))


if __name__ == "__main__":
    main()
