"""Lines of a preflight, and those that tell which draws of a prior fail, why, and by which unknowns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bayeshybrid.target import Target
from bayeshybrid.verdict import State

SHOWN = 5
TELLING = 0.75

__all__ = ["Finding", "failed_units", "failing_densities", "failing_solves", "percent", "state_of"]


@dataclass(frozen=True)
class Finding:
    """One line of a preflight.

    - `about`: what was looked at. `state`: how it came out, in the words of a verdict.
    - `share`, `limits`: the share measured, and those above which it is a remark and a failure.
    - `words`, `remedy`: what was found, and what to do about it.

    ```python
    from bayeshybrid.preflight import Finding
    assert "narrow" in str(Finding("solving", "fail", 0.9, (0.05, 0.5), "90 % fail", "narrow the prior"))
    ```
    """

    about: str
    state: State
    share: float
    limits: tuple[float, ...]
    words: str
    remedy: str = ""

    def __str__(self) -> str:
        limits = ", ".join(f"{100 * limit:.0f} %" for limit in self.limits)
        held = f" (limits {limits})" if self.limits else ""
        mend = f". {self.remedy}" if self.remedy and self.state != "pass" else ""
        return f"{self.state:<17} {self.about}: {self.words}{held}{mend}"


def state_of(share: float, limits: tuple[float, float]) -> State:
    """How a share comes out that is a remark above the first limit and a failure above the second.

    ```python
    from bayeshybrid.findings import state_of
    assert state_of(0.06, (0.05, 0.5)) == "pass with remarks"
    ```
    """
    return "pass" if share <= limits[0] else "pass with remarks" if share <= limits[1] else "fail"


def percent(share: float) -> str:
    """A share in words.

    ```python
    from bayeshybrid.findings import percent
    assert percent(0.123) == "12 %" and percent(0.002) == "0.2 %"
    ```
    """
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else f"{100 * share:.1g} %"


def failing_solves(
    target: Target, told: Mapping[str, Any], failures: Mapping[str, float], limits: tuple[float, float]
) -> list[Finding]:
    """The line on draws that cannot be solved; none for a model without a solve.

    **Arguments:**

    - `told`: `values` and `reasons` of the draws, as `survey.ask` gives them.
    - `failures`: share of the draws by reason.
    - `limits`: shares above which it is a remark and a failure.
    """
    if not target.layout.solves:
        return []
    share = sum(failures.values())
    if not share:
        return [Finding("solving", "pass", 0.0, limits, "every draw can be solved")]
    reasons = "; ".join(f"{percent(one)} {reason}" for reason, one in failures.items())
    failed = np.any([r.reshape(len(r), -1).any(axis=1) for r in told["reasons"].values()], axis=0)
    telling = _telling(target, told["values"], failed)
    words = (
        f"{percent(share)} of the draws cannot be solved ({reasons}){_units_words(target, told['reasons'])}"
    )
    names = ", ".join(one.name for one in telling)
    blame = "".join(f"; draws that fail have {one}" for one in telling)
    remedy = (
        f"Narrow the prior of {names or 'what the field depends on'}, or raise max_steps or the tolerances"
    )
    return [Finding("solving", state_of(share, limits), share, limits, words + blame, remedy)]


class _Telling(NamedTuple):
    """An unknown that tells failed draws from solved ones."""

    name: str
    side: str
    failed: float
    solved: float

    def __str__(self) -> str:
        return f"{self.side} {self.name} (median {self.failed:.3g}, of those solved {self.solved:.3g})"


def _telling(target, values, failed):
    """Scalar unknowns by which a failed draw is told from a solved one in three of four pairs; two at most."""
    found = []
    if failed.all() or not failed.any():
        return found
    for site in target.layout.latent:
        if site.tag.kind == "weight" or np.ndim(values[site.name]) != 1:
            continue
        drawn = values[site.name]
        ranks = np.argsort(np.argsort(drawn))
        n, m = failed.sum(), (~failed).sum()
        above = (ranks[failed].sum() - n * (n - 1) / 2) / (n * m)
        if max(above, 1 - above) > TELLING:
            side = "high" if above > 0.5 else "low"
            medians = float(np.median(drawn[failed])), float(np.median(drawn[~failed]))
            found.append((max(above, 1 - above), _Telling(site.name, side, *medians)))
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])[:2]]


def failed_units(target: Target, reasons: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Share of failed draws by solve and unit, for solves with units."""
    found = {}
    for solve in target.layout.solves:
        codes = reasons[solve.name]
        if codes.ndim == 2:
            across = solve.across or "unit"
            labels = target.labels.get(across) or tuple(map(str, range(codes.shape[1])))
            shares = np.mean(codes > 0, axis=0)
            found[solve.name] = {f"{across} {n}": float(x) for n, x in zip(labels, shares, strict=True)}
    return found


def _units_words(target, reasons):
    """The units that fail more than twice as often as the typical one."""
    words = []
    for solve, shares in failed_units(target, reasons).items():
        typical = float(np.median(list(shares.values())))
        odd = {unit: share for unit, share in shares.items() if share > max(2 * typical, 0.01)}
        if odd:
            worst_units = sorted(odd, key=lambda unit: -odd[unit])[:SHOWN]
            told = ", ".join(f"{unit} {percent(odd[unit])}" for unit in worst_units)
            words.append(f"; in {solve} above all {told}")
    return "".join(words)


def failing_densities(told: Mapping[str, Any], limits: tuple[float, float]) -> list[Finding]:
    """A line for each site to which draws that are solved give no finite log probability."""
    solved = np.all([r.reshape(len(r), -1).max(axis=1) == 0 for r in told["reasons"].values()], axis=0)
    lines = []
    for name, finite in told["finite"].items():
        share = float(np.mean(~finite & solved))
        if share and not name.startswith("_"):
            words = f"{percent(share)} of the draws give it no finite log probability"
            remedy = "Look for noise or shares that can be negative, and for values far out in a tail"
            lines.append(Finding(f"density of {name}", state_of(share, limits), share, limits, words, remedy))
    return lines
