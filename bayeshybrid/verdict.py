"""Verdicts as data: claim by claim, what was measured, its limit, and what these checks cannot see."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["pass", "pass with remarks", "fail", "not assessable"]
ORDER: tuple[State, ...] = ("pass", "pass with remarks", "not assessable", "fail")

PARAMETERS = "scientific parameters"
FUNCTIONS = "network functions"
FORECASTS = "forecasts"

Nature = Literal["draws of the posterior", "approximate", "not draws of a posterior"]

__all__ = ["FORECASTS", "FUNCTIONS", "PARAMETERS", "Check", "Nature", "State", "Verdict", "worst"]


def worst(states: Iterable[State]) -> State:
    """The gravest of several states; of none, `"not assessable"`.

    ```python
    from bayeshybrid.verdict import worst
    assert worst(["pass", "fail", "pass with remarks"]) == "fail"
    assert worst([]) == "not assessable"
    ```
    """
    found = list(states)
    return max(found, key=ORDER.index) if found else "not assessable"


@dataclass(frozen=True)
class Check:
    """One check of a computation.

    - `name`: what was measured, in the field's terms.
    - `state`: how it came out. A figure that is NaN is never a pass: it is turned into a failure here.
    - `figure`, `limit`: the number measured and the number it is held against.
    - `place`: the site, chain or region that it was measured at.
    - `remedy`: what to do about it.
    - `claims`: the claims that rest on it.

    ```python
    from bayeshybrid.verdict import Check
    assert Check("R-hat", "pass", float("nan"), 1.01, "birth").state == "fail"
    assert Check("R-hat", "pass", 1.002, 1.01, "birth").state == "pass"
    ```
    """

    name: str
    state: State
    figure: float = 0.0
    limit: float = 0.0
    place: str = ""
    remedy: str = ""
    claims: tuple[str, ...] = (PARAMETERS, FUNCTIONS, FORECASTS)

    def __post_init__(self) -> None:
        if math.isnan(self.figure) and self.state in ("pass", "pass with remarks"):
            object.__setattr__(self, "state", "fail")

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        measured = f": {self.figure:.4g} (limit {self.limit:.4g})" if self.limit or self.figure else ""
        mend = f". {self.remedy}" if self.remedy and self.state != "pass" else ""
        return f"{self.state:<17} {self.name}{measured}{where}{mend}"


@dataclass(frozen=True)
class Verdict:
    """Whether the draws are the posterior of this model, claim by claim.

    It answers the question of computation only: a pass does not mean that the model is right.

    - `checks`: everything that was measured.
    - `claims`: what the run was held to, among `"scientific parameters"`, `"network functions"`, `"forecasts"`.
    - `remarks`: what a reader must know, in words.
    - `unchecked`: what was not checked; `blind`: what these checks cannot see.
    - `nature`: what the draws are by construction: no check makes an approximation exact.

    ```python
    from bayeshybrid.verdict import Check, Verdict
    verdict = Verdict((Check("divergences", "fail", 12, 0),), ("scientific parameters",))
    assert verdict.state == "fail" and "divergences" in str(verdict)
    ```
    """

    checks: tuple[Check, ...]
    claims: tuple[str, ...] = (PARAMETERS, FORECASTS)
    remarks: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()
    nature: Nature = "draws of the posterior"

    @property
    def state(self) -> State:
        """The gravest state of any claim."""
        return worst(self[claim] for claim in self.claims)

    def __getitem__(self, claim: str) -> State:
        """The state of one claim."""
        if claim not in self.claims:
            raise KeyError(f"no claim {claim!r} was made: {', '.join(self.claims)}")
        found = worst(check.state for check in self.checks if claim in check.claims)
        return "pass with remarks" if found == "pass" and self.remarks else found

    @property
    def reasons(self) -> tuple[Check, ...]:
        """The checks that did not pass, gravest first."""
        failing = [check for check in self.checks if check.state != "pass"]
        return tuple(sorted(failing, key=lambda check: -ORDER.index(check.state)))

    def __str__(self) -> str:
        said = [self.nature] if self.nature != "draws of the posterior" else []
        lines = said + [f"{claim}: {self[claim]}" for claim in self.claims]
        lines += [f"  {check}" for check in (self.reasons or self.checks)]
        lines += [f"  remark: {remark}" for remark in self.remarks]
        lines += [f"  not checked: {what}" for what in self.unchecked]
        lines += [f"  cannot be seen: {what}" for what in self.blind]
        return "\n".join(
            [*lines, "  This judges the computation; a pass does not mean that the model is right."]
        )

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain lists and numbers, for a file."""
        return asdict(self)

    @staticmethod
    def from_dict(stored: dict[str, Any]) -> Verdict:
        """The verdict from what `to_dict` gave."""
        checks = tuple(Check(**{**check, "claims": tuple(check["claims"])}) for check in stored["checks"])
        lists = {k: tuple(v) for k, v in stored.items() if k not in ("checks", "nature")}
        return Verdict(checks, **lists, nature=stored.get("nature", Verdict.nature))
