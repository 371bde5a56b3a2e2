"""From what the workers wrote down to the columns of the table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.agreement import Estimates, compare, estimates
from tests.benchmarks.rows import Row

TARGETS = (1_000, 10_000)
REFERENCES = Path(__file__).with_name("references")


@dataclass(frozen=True)
class Seen:
    """One fit of one tool, judged.

    - `seconds`: wall time; `kept`: that of the kept draws alone.
    - `effective`: the smallest of bulk, tail and squares effective sample size over all quantities; `slowest`: whose.
    """

    seconds: float
    kept: float
    effective: float
    slowest: str
    rhat: float
    gradients: int | None
    all_gradients: int | None
    divergences: int | None
    failures: int | None
    estimates: Estimates = field(repr=False)
    record: dict[str, Any] = field(repr=False, default_factory=dict)

    def seconds_to(self, target: int, stops_at_target: bool) -> float:
        """Wall seconds to an effective sample size, at the measured rate of drawing after the warm-up.

        A tool that was asked for that size is taken at its word where it reached it.
        """
        if stops_at_target and self.effective >= target:
            return self.seconds
        return self.seconds + (target / self.effective - 1.0) * self.kept


def read_fits(row: Row, folder: Path) -> dict[str, Seen]:
    """The cold and the warm fit of one worker."""
    told = json.loads((folder / "figures.json").read_text())
    with np.load(folder / "draws.npz") as stored:
        return {
            name: _judge(row, figures, {site: stored[f"{name}.{site}"] for site in row.sites})
            for name, figures in told["fits"].items()
        }


def _judge(row: Row, figures: Mapping[str, Any], draws: Mapping[str, np.ndarray]) -> Seen:
    from bayeshybrid.diagnostics import rhat

    quantities = row.quantities(draws)
    found = estimates(quantities)
    sizes = {name: each["ess"] for name, each in found.items()}
    # A quantity that never moved has no size and no R-hat: nothing was found out about it.
    slowest = min(sizes, key=lambda name: sizes[name] if np.isfinite(sizes[name]) else -1.0)
    counts = ("gradients", "all_gradients", "divergences", "failures", "record")
    return Seen(
        seconds=figures["seconds"],
        kept=figures["kept_seconds"],
        effective=float(sizes[slowest]),
        slowest=slowest,
        rhat=float(np.max([rhat(values) for values in quantities.values()])),
        estimates=found,
        **{name: figures[name] for name in counts},
    )


def read_reference(row: Row) -> Estimates | None:
    """What the row is compared with: exact, or what was computed and stored; `None` where there is nothing yet."""
    if row.exact is not None:
        return row.exact()
    stored = REFERENCES / f"{row.name}.json"
    return json.loads(stored.read_text())["quantities"] if stored.exists() else None


def tool_figures(
    row: Row, seeds: Iterable[Mapping[int, Mapping[str, Seen]]], stops_at_target: bool, floor: float | None
) -> dict[str, Any]:
    """One line of the table: medians over the seeds.

    **Arguments:**

    - `seeds`: for each seed the fits by target; a tool that does not stop at a target has the same under each.
    - `stops_at_target`: whether the tool was asked for each target.
    - `floor`: effective draws a second at the floor.
    """
    seeds = list(seeds)
    times = {
        str(target): {
            temperature: _median(
                [fits[target][temperature].seconds_to(target, stops_at_target) for fits in seeds]
            )
            for temperature in ("cold", "warm")
        }
        for target in TARGETS
    }
    longest = [fits[TARGETS[-1]]["warm"] for fits in seeds]
    rates = [seen.effective / seen.kept for seen in longest]
    return {
        "seconds_to": times,
        "effective": _median([seen.effective for seen in longest]),
        "slowest": longest[0].slowest,
        **_gradients(longest),
        "rhat": max(seen.rhat for seen in longest),
        "divergences": _sum(seen.divergences for seen in longest),
        "failures": _sum(seen.failures for seen in longest),
        **_agreement(row, longest),
        "effective_per_second": _median(rates),
        "floor_over_rate": None if floor is None else floor / _median(rates),
        "record": longest[0].record,
    }


def _gradients(seen: list[Seen]) -> dict[str, float | None]:
    told = [each for each in seen if each.gradients]
    if not told:
        return dict.fromkeys(("gradients", "gradients_per_effective", "microseconds_per_gradient"))
    return {
        "gradients": _median([each.all_gradients or each.gradients for each in told]),
        "gradients_per_effective": _median([each.gradients / each.effective for each in told]),
        "microseconds_per_gradient": _median([1e6 * each.kept / each.gradients for each in told]),
    }


def _agreement(row: Row, seen: list[Seen]) -> dict[str, Any]:
    """How many seeds agree with the reference, and the realised error in units of the claimed one."""
    reference = read_reference(row)
    if reference is None:
        return {"agreement": "no reference", "worst": None, "realised_over_claimed": None}
    found = [compare(row, each.estimates, reference) for each in seen]
    worst = max(found, key=lambda each: each.worst if np.isfinite(each.worst) else np.inf)
    errors = np.concatenate([each.errors for each in found])
    return {
        "agreement": f"{sum(each.passed for each in found)} of {len(found)}",
        "worst": f"{worst.worst:.2f} of what is allowed, {worst.where}",
        "realised_over_claimed": float(np.sqrt(np.mean(errors**2))),
    }


def agrees(figures: Mapping[str, Any]) -> bool:
    """Whether a tool met the rule with every seed."""
    count, _, total = str(figures.get("agreement", "")).partition(" of ")
    return bool(total) and count == total


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """All rows as one Markdown table, then how many times sooner ours was than each other tool."""
    columns = ("row", "tool", "to 1,000: cold", "warm", "to 10,000: cold", "warm", "ESS", "gradients")
    columns += ("per ESS", "us each", "R-hat", "divergences", "failures", "agrees", "realised / claimed")
    lines = [" | ".join(columns), " | ".join("---" if c in ("row", "tool") else "---:" for c in columns)]
    for name, result in results.items():
        for tool, figures in result["tools"].items():
            lines.append(" | ".join([name, tool, *_cells(figures)]))
    return "\n".join([*(f"| {line} |" for line in lines), "", *ratios(results), *_floors(results)])


def _cells(figures: Mapping[str, Any]) -> list[str]:
    if "missing" in figures:
        return [figures["missing"], *[""] * 12]
    to = figures["seconds_to"]
    cells = [_number(to[str(n)][t], ".3g") for n in TARGETS for t in ("cold", "warm")]
    cells += [_number(figures["effective"], ",.0f"), _number(figures["gradients"], ",.0f")]
    cells += [
        _number(figures[name], ".3g") for name in ("gradients_per_effective", "microseconds_per_gradient")
    ]
    cells += [_number(figures["rhat"], ".3f")]
    cells += [_number(figures[name], "d") for name in ("divergences", "failures")]
    return [*cells, figures["agreement"], _number(figures["realised_over_claimed"], ".2f")]


def ratios(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How many times sooner ours reached each target, row by row, where both it and the other agree."""
    lines, collected = [], {}
    for name, result in results.items():
        tools = result["tools"]
        mine = tools.get("ours", {})
        if not any(agrees(figures) for figures in tools.values()):
            lines.append(f"- {name}: no tool met the agreement rule (or there is no reference), so no ratio")
            continue
        for tool, figures in tools.items():
            if tool.startswith("ours") or not (agrees(figures) and agrees(mine)):
                continue
            told = {}
            for target in map(str, TARGETS):
                for temperature in ("cold", "warm"):
                    ratio = (
                        figures["seconds_to"][target][temperature] / mine["seconds_to"][target][temperature]
                    )
                    told[f"to {int(target):,} {temperature}"] = ratio
                    collected.setdefault((tool, target, temperature), []).append(ratio)
            lines.append(f"- {name}, {tool} over ours: " + ", ".join(f"{k} {v:.3g}" for k, v in told.items()))
    for (tool, target, temperature), found in collected.items():
        lines.append(
            f"- median over {len(found)} rows, {tool} over ours, to {int(target):,} {temperature}: "
            f"{np.median(found):.3g}"
        )
    return lines


def _floors(results):
    for name, result in results.items():
        if (floor := result.get("floor")) is None:
            continue
        rates = [f"{t} {f['floor_over_rate']:.3g}" for t, f in result["tools"].items() if "missing" not in f]
        yield (
            f"- {name}, floor {floor['rate']:,.0f} effective draws a second: {floor['cores']} cores, "
            f"{floor['gradients_per_effective']:.2f} gradients of {floor['microseconds']:.2f} us with "
            f"{floor['steps']} steps a year; the floor over the rate after warm-up: {', '.join(rates)}"
        )


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _sum(values: Iterable[int | None]) -> int | None:
    told = [value for value in values if value is not None]
    return sum(told) if told else None


def _number(value: float | None, form: str) -> str:
    return "not told" if value is None else format(value, form)
