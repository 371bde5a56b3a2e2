"""The reference of a row: long runs of Stan, and of a second sampler that must agree first.

    python -m tests.benchmarks.reference --row sir --minutes 30

Both solve at a relative tolerance of 1e-8, or by the program that the row has for this. Stan runs up to ten chains of
10,000, or what its share of the minutes gives at the rate of a short run; the second sampler likewise. The result is
stored as `tests/benchmarks/references/<row>.json`, only if the two agree by the rules of `agreement.py`, their R-hat
is at most 1.01, and, where figures of the row have been published, those agree too. Otherwise nothing is stored, and
the reasons are printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.agreement import Estimates, compare
from tests.benchmarks.density import tight
from tests.benchmarks.figures import REFERENCES, Seen, read_fits
from tests.benchmarks.processes import Failed, run_worker
from tests.benchmarks.rows import NAMES, Row, read_row
from tests.benchmarks.tools import TOOLS

SHARES = {"first": 0.5, "second": 0.5}
MOST_CHAINS, MOST_DRAWS, WARMUP, PILOT = 10, 10_000, 1_000, 250
RHAT, ERRORS = 1.01, 4.0


def long_run(row: Row, tool: str, seconds: float, folder: Path) -> tuple[Seen, dict[str, Any]]:
    """As long a run as fits into the seconds, and how it was made."""
    rtol, atol = tight(row)
    settings = {"row": row.name, "tool": tool, "rtol": rtol, "atol": atol, "warmup": WARMUP}
    if row.reference is not None and tool in ("stan", "stan_dense"):
        settings["reference"] = True
    settings["shared"] = folder.parent / "shared"
    if tool == "stan_dense":
        from tests.benchmarks.stan_dense import dense_service

        dense_service(settings["shared"])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        pilot = settings | {"seed": 1, "chains": 4, "draws": PILOT}
        # the second fit of the short run compiles nothing, so that its pace is that of the long one
        found = read_fits(row, run_worker(pilot, folder / "pilot", 20 * seconds, Path(cache)))["warm"]
        left = seconds - (time.monotonic() - began)
        chains, draws = _affordable(found, left)
        settings |= {"seed": 2, "chains": chains, "draws": draws, "once": True}
        run_worker(settings, folder / "long", 20 * seconds, Path(cache))
    seen = read_fits(row, folder / "long")["cold"]
    told = json.loads((folder / "long" / "figures.json").read_text())
    made = {"tool": tool, "versions": told["versions"], "chains": chains, "draws": draws, "warmup": WARMUP}
    made |= {
        "program": "reference" if "reference" in settings else "compared",
        "rtol": rtol,
        "atol": atol,
        "seconds": seen.seconds,
        "ess": seen.effective,
        "rhat": seen.rhat,
    }
    return seen, made | {"divergences": seen.divergences}


def _affordable(pilot: Seen, seconds: float) -> tuple[int, int]:
    """Chains, and draws of each, from the pace of four short chains; warm-up costs what it did there."""
    per_draw = pilot.kept / (4 * PILOT)
    warmup = max(0.0, pilot.seconds - pilot.kept) / 4
    chains = int(np.clip(0.5 * seconds / max(warmup, 1e-9), 4, MOST_CHAINS))
    draws = (seconds - warmup * chains) / (per_draw * chains)
    return chains, int(np.clip(draws, WARMUP, MOST_DRAWS))


def objections(row: Row, first: Seen, second: Seen) -> list[str]:
    """Why the two runs make no reference; empty where they do."""
    found = [
        f"{name} run: R-hat {seen.rhat:.3f} is above {RHAT}"
        for name, seen in {"first": first, "second": second}.items()
        if not seen.rhat <= RHAT
    ]
    met = compare(row, second.estimates, first.estimates)
    if not met.passed:
        found.append(f"the runs disagree: {met.worst:.2f} of what is allowed, {met.where}")
    return found + _against_published(row, first.estimates)


def _against_published(row: Row, found: Estimates) -> list[str]:
    """Published means that lie more than four standard errors off, both sides' errors combined."""
    told = []
    for name, (mean, error) in row.published.items():
        mine, own = found[name]["mean"]
        off = abs(mine - mean) / np.hypot(own, error)
        if not off <= ERRORS:
            told.append(f"{name}: mean {mine:.6g}, published {mean:.6g}, {off:.1f} standard errors apart")
    return told


def main() -> None:
    """Run both, compare, store or refuse."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--row", choices=NAMES, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--first", choices=tuple(TOOLS), default="stan")
    parser.add_argument("--second", choices=tuple(TOOLS), default="numpyro_dense")
    parser.add_argument("--output", type=Path, default=Path("reference_output"), help="for draws and logs")
    given = parser.parse_args()
    row = read_row(given.row)
    if row.exact is not None:
        raise SystemExit(f"{row.name} is known exactly and needs no reference")
    runs, made = {}, {}
    for place, share in SHARES.items():
        folder = given.output.resolve() / row.name / place
        try:
            runs[place], made[place] = long_run(
                row, getattr(given, place), 60 * given.minutes * share, folder
            )
        except Failed as failure:
            raise SystemExit(f"the {place} run: {failure}") from None
        print(f"{place}: {made[place]}", flush=True)
    if against := objections(row, runs["first"], runs["second"]):
        raise SystemExit("no reference was stored:\n" + "\n".join(against))
    _store(row, runs, made)


def _store(row: Row, runs: dict[str, Seen], made: dict[str, Any]) -> None:
    """Of the two runs, the estimates of the one with more effective draws; how both were made stands beside them."""
    kept = max(runs, key=lambda place: runs[place].effective)
    met = compare(row, runs["second"].estimates, runs["first"].estimates)
    about = {"row": row.name, "date": time.strftime("%Y-%m-%d"), "kept": kept, "made": made}
    about["agreement"] = {"worst": met.worst, "where": met.where}
    about["published"] = {name: list(told) for name, told in row.published.items()}
    REFERENCES.mkdir(exist_ok=True)
    stored = REFERENCES / f"{row.name}.json"
    stored.write_text(json.dumps(about | {"quantities": runs[kept].estimates}, indent=1) + "\n")
    print(f"stored in {stored}; smallest effective sample size {runs[kept].effective:,.0f}")


if __name__ == "__main__":
    main()
