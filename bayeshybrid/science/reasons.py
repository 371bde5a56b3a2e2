"""Why a solve ended, as codes that travel through compiled programs, and in words."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Reason", "describe"]


class Reason(IntEnum):
    """Why a solve ended; `SOLVED` is zero, so a sum over lanes is zero where all went well.

    `LEFT_DOMAIN` is for callers that bound the state; `solve` itself has no bounds to leave.

    ```python
    from bayeshybrid.science import ode

    assert ode.Reason.SOLVED == 0
    ```
    """

    SOLVED = 0
    MAX_STEPS = 1
    STEP_UNDERFLOW = 2
    NOT_FINITE = 3
    NEWTON_DIVERGED = 4
    SINGULAR = 5
    BEFORE_START = 6
    LEFT_DOMAIN = 7
    DOSE_BEFORE_START = 8
    DOSE_NEGATIVE = 9
    FORCING_UNKNOWN = 10
    FORCING_UNSORTED = 11
    OFF_GRID = 12


_DESCRIPTIONS = {
    Reason.SOLVED: "solved",
    Reason.MAX_STEPS: "needed more than max_steps steps: raise max_steps, or use a stiff solver such as "
    "diffrax.Kvaerno5()",
    Reason.STEP_UNDERFLOW: "the step shrank below the resolution of time: the solution has a pole or the "
    "field a jump there, or the tolerance is too tight",
    Reason.NOT_FINITE: "the field or the state became NaN or infinite",
    Reason.NEWTON_DIVERGED: "Newton's method of the implicit solver diverged: try an explicit solver, or a "
    "smoother field",
    Reason.SINGULAR: "the Jacobian of the field is singular or not finite: an implicit solver cannot use it, "
    "try an explicit one",
    Reason.BEFORE_START: "a time lies before t0",
    Reason.LEFT_DOMAIN: "the state left its declared domain",
    Reason.DOSE_BEFORE_START: "a dose lies before t0",
    Reason.DOSE_NEGATIVE: "an amount or a duration of a dose is negative or not a number",
    Reason.FORCING_UNKNOWN: "a forcing was asked outside the times for which it is given",
    Reason.FORCING_UNSORTED: "the times of a forcing run backwards or are not numbers",
    Reason.OFF_GRID: "the frozen step grid does not hold the start, a time wanted or a jump of an input: "
    "learn it anew at these times, or solve adaptively",
}


def describe(reason: int) -> str:
    """A reason code in words, with what to do about it.

    **Arguments:**

    - `reason`: a concrete code of `Reason`, for instance `int(solution.reason)`.

    ```python
    from bayeshybrid.science import ode

    assert ode.describe(0) == "solved"
    ```
    """
    return _DESCRIPTIONS[Reason(int(reason))]
