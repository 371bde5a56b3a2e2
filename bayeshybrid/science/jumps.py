"""Finds jumps in time that a field makes by itself, which an adaptive solver may step over without a trace.

The field is traced, nothing is computed. What depends on time is followed through its program; where that is
compared, rounded or counted, and the state has no part in it, the field jumps (or has a corner) at a time that
could have been declared.
"""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid.science.inputs import Forcing, binding

TIME, STATE = 1, 2

COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne", "lt_to", "le_to", "eq_to"}
ROUNDINGS = {"floor", "ceil", "round", "sign", "rem", "argmax", "argmin"}

# Continuous, although their programs compare. JAX names the programs of its functions after them, and what stands
# in its neural and special functions it says itself.
CONTINUOUS = {"clip", "fmax", "fmin", "hypot", "logaddexp", "logaddexp2", "nan_to_num", "sinc"}
SMOOTH_PLACES = ("/jax/_src/nn/", "/jax/_src/scipy/")

PACKAGES = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")})
OURS = str(Path(__file__).parents[1])

__all__ = ["undeclared"]


def undeclared(field: Any, t: Any, y: Any, args: Any, forcings: Sequence[Forcing] = ()) -> tuple[str, ...]:
    """Sentences about jumps in time that the field makes and no input declares.

    Declared forcings are exempt. So is a comparison in which the state takes part: its time is not known ahead.
    Minimum, maximum and absolute value have corners, not jumps.

    **Arguments:**

    - `field`, `t`, `y`, `args`: the field and what it is called with; only shapes count.
    - `forcings`: those that were declared.

    **Returns:** a sentence for each line of the field.

    ```python
    from bayeshybrid.science.jumps import undeclared
    assert undeclared(lambda t, y, args: jnp.where(y > 1, 1.0, jnp.sin(t)), 0.0, 0.0, None) == ()
    assert "bh.doses" in undeclared(lambda t, y, args: jnp.where(t > 1, 1.0, 0.0), 0.0, 0.0, None)[0]
    ```
    """
    reports: list[str] = []

    def asked(t, y):
        with binding(forcings, reports, t):
            return field(t, y, args)

    program = jax.make_jaxpr(asked)(jnp.asarray(t, dtype=float), jnp.asarray(y, dtype=float)).jaxpr
    found: dict[str, str] = {}
    _Search(found).through(program, [TIME, STATE])
    jumps = [
        f"the field {what} time{where}: a jump that the solver does not know of can be stepped over. Declare it: "
        "bh.doses for what enters at known times, bh.forcing for what is given over time, in inputs=[...]"
        for where, what in found.items()
    ]
    return (*dict.fromkeys(reports), *jumps)


class _Search:
    """One walk through a program; `found` gets the places, each with what is done there."""

    def __init__(self, found: dict[str, str]) -> None:
        self.found = found
        self.place: Any = None

    def through(self, program: Any, given: Sequence[int]) -> list[int]:
        """What each output depends on, where the inputs depend on `given`."""
        known = dict.fromkeys(program.constvars, 0) | dict(zip(program.invars, given, strict=True))

        def of(var):
            return 0 if hasattr(var, "val") else known.get(var, 0)  # literals depend on nothing

        outermost = self.place is None
        for step in _alive(program):
            if outermost:
                self.place = step
            results = self.one(step, [of(var) for var in step.invars])
            known.update(zip(step.outvars, results, strict=True))
        if outermost:
            self.place = None
        return [of(var) for var in program.outvars]

    def one(self, step: Any, given: list[int]) -> list[int]:
        """What the outputs of one operation depend on."""
        name, options, count = step.primitive.name, step.params, len(step.outvars)
        together = int(np.bitwise_or.reduce(given)) if given else 0
        if not together & TIME:
            return [together] * count
        if name == "cond":
            branches = [self.through(branch.jaxpr, given[1:]) for branch in options["branches"]]
            return [int(np.bitwise_or.reduce(column)) | given[0] for column in zip(*branches, strict=True)]
        if name == "while":
            return self._while(options, given)
        if name == "scan":
            return self._scan(options, given)
        inner = _inner(options)
        if inner is not None and len(inner.invars) == len(given):
            if options.get("name") in CONTINUOUS:
                return [together] * count
            return self.through(inner, given)
        what = _jump(step)
        if what is None or together & STATE:
            return [together] * count
        self.found.setdefault(_line(self.place), what)
        return [0] * count  # told once

    def _while(self, options, given):
        tests, bodies = options["cond_nconsts"], options["body_nconsts"]
        for_test, for_body, carry = given[:tests], given[tests : tests + bodies], given[tests + bodies :]
        for _ in range(2):  # what a carry depends on is settled after as many rounds as there are kinds
            test = self.through(options["cond_jaxpr"].jaxpr, for_test + carry)[0]
            after = self.through(options["body_jaxpr"].jaxpr, for_body + carry)
            carry = [old | new | test for old, new in zip(carry, after, strict=True)]
        return carry

    def _scan(self, options, given):
        constants, carried = options["num_consts"], options["num_carry"]
        fixed, carry, rows = (
            given[:constants], given[constants : constants + carried], given[constants + carried :]
        )  # fmt: skip
        for _ in range(2):
            after = self.through(options["jaxpr"].jaxpr, fixed + carry + rows)
            carry = [old | new for old, new in zip(carry, after[:carried], strict=True)]
        return carry + after[carried:]


def _alive(program: Any) -> list[Any]:
    """The operations on which the outputs depend, in order."""
    wanted = {var for var in program.outvars if not hasattr(var, "val")}
    kept = []
    for step in reversed(program.eqns):
        if step.effects or any(var in wanted for var in step.outvars):
            kept.append(step)
            wanted |= {var for var in step.invars if not hasattr(var, "val")}
    return kept[::-1]


def _inner(options: dict[str, Any]) -> Any:
    """The program that an operation calls, if it calls one."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        program = options.get(name)
        if program is not None:
            return getattr(program, "jaxpr", program)
    return None


def _jump(step: Any) -> str | None:
    """What an operation does to time, if its result jumps."""
    name = step.primitive.name
    if name in COMPARISONS | ROUNDINGS and any(
        place in Path(frame.file_name).as_posix() for frame in _frames(step) for place in SMOOTH_PLACES
    ):
        return None
    if name in COMPARISONS:
        if len(step.invars) == 2 and step.invars[0] is step.invars[1]:
            return None  # the test for not being a number
        return "compares"
    if name in ROUNDINGS:
        return (
            "rounds or repeats" if name in ("floor", "ceil", "round", "rem") else "takes the sign or place of"
        )
    if name == "convert_element_type":
        before, after = step.invars[0].aval.dtype, step.params["new_dtype"]
        if jnp.issubdtype(before, jnp.inexact) and not jnp.issubdtype(after, jnp.inexact):
            return "rounds or repeats"
    return None


def _line(step: Any) -> str:
    """Where in the user's own code an operation stands, in words; empty where it cannot be told."""
    for frame in _frames(step):
        if not frame.file_name.startswith((*PACKAGES, OURS)):
            code = linecache.getline(frame.file_name, frame.line_num).strip()
            return f" at {frame.file_name}:{frame.line_num}" + (f" ({code})" if code else "")
    return ""


def _frames(step: Any) -> Sequence[Any]:
    """The calls that led to an operation, innermost first."""
    trace = step.source_info.traceback
    return trace.frames if trace is not None else ()
