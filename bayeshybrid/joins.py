"""Joins of several parts as functions: what each part says is noted, in the transformation of the caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayeshybrid.architecture import along_last
from bayeshybrid.faults import ModelError
from bayeshybrid.networks import Network
from bayeshybrid.recorder import Recorder

JOIN = "bayeshybrid.join"
"""Type of the message by which a join says that it has been built."""

GATE = "gate"

_answers = Recorder()
listening = _answers.open

__all__ = [
    "GATE", "JOIN", "Function", "Gated", "Hierarchical", "Join", "Parallel", "Residual", "Series", "listening",
    "together",
]  # fmt: skip


def together(said: dict[str, list[dict[str, Array]]]) -> dict[str, dict[str, Array]]:
    """By join what each part said: of several calls one behind the other, along a new first axis.

    ```python
    from bayeshybrid.joins import together
    assert together({"f": [{"known": jnp.ones(2)}, {"known": jnp.zeros(2)}]})["f"]["known"].shape == (2, 2)
    ```
    """
    return {
        join: calls[0] if len(calls) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *calls)
        for join, calls in said.items()
    }


class Function(eqx.Module):
    """A part without arrays of its own."""

    call: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        """What the function says."""
        return self.call(*arguments)


class Join(eqx.Module):
    """Several parts as one function. What `series`, `parallel`, `residual`, `hierarchical` and `gated` return.

    It is a pytree, so it can be handed to a solver in `args`, and it may be mapped, compiled and differentiated. Each
    call notes the output of every part, in the transformation of the caller: call it in the field itself, not within
    another `vmap` there.
    """

    parts: dict[str, Any]
    name: str = eqx.field(static=True)
    kind: str = eqx.field(static=True)
    inputs: Callable[..., Any] | None = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Array:
        """What the parts say together at these arguments."""
        output, told = self.joined(arguments)
        _answers.note(self.name, told)
        return output

    def joined(self, arguments: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
        """The output, and what each part said."""
        raise NotImplementedError

    def _ask(self, what: str, part: Any, arguments: tuple[Any, ...]) -> Array:
        """What a part says; a network is asked at `inputs` of the arguments."""
        if isinstance(part, Network):
            arguments = (self._asked(what, arguments),)
        said = part(*arguments)
        if said is None:
            raise ModelError(
                f"{self.kind}({self.name!r}): part {what!r} returns nothing: end it with `return`"
            )
        return jnp.asarray(said)

    def _asked(self, what, arguments):
        if self.inputs is not None:
            return self.inputs(*arguments)
        if len(arguments) == 1:
            return arguments[0]
        raise ModelError(
            f"{self.kind}({self.name!r}) is called with {len(arguments)} arguments, and {what!r} is a network, which "
            "takes one array: say of which, such as inputs=lambda t, y, args: y"
        )

    def _all(self, arguments):
        """What each part says at the same arguments, all of one shape."""
        told = {what: self._ask(what, part, arguments) for what, part in self.parts.items()}
        _same_shape(self, told)
        return told


class Series(Join):
    """Parts one behind the other."""

    keep: bool = eqx.field(static=True, default=False)

    def joined(self, arguments: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
        """The output, and what each part said."""
        told: dict[str, Array] = {}
        given = arguments
        for what, part in self.parts.items():
            later = bool(told) and isinstance(part, Network)
            told[what] = jnp.asarray(part(given[0])) if later else self._ask(what, part, given)
            given = (told[what], *arguments) if self.keep else (told[what],)
        return told[what], told


class Residual(Join):
    """What is known, and a term for what it leaves out."""

    into: tuple[int, ...] | None = eqx.field(static=True, default=None)
    how: str = eqx.field(static=True, default="sum")

    def joined(self, arguments: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
        """The output, and what each part said."""
        told = {what: self._ask(what, part, arguments) for what, part in self.parts.items()}
        known, missing = told["known"], told["missing"]
        if self.into is None:
            _same_shape(self, told)
            whole = missing
        else:
            whole = self._placed(known, missing, self.into)
        if self.how == "factor":
            return known * jnp.exp(whole), told
        return known + whole, told

    def _placed(self, known, missing, into):
        """The missing term among zeros."""
        size = known.shape[-1] if known.ndim else 0
        fits = len(set(into)) == len(into) and all(0 <= place < size for place in into)
        if not fits or missing.shape != (*known.shape[:-1], len(into)):
            raise ModelError(
                f"residual({self.name!r}): into={into} says to which of {size} entries of `known` the missing "
                f"term is added, and that has shape {missing.shape}: give it one entry for each"
            )
        return jnp.zeros(known.shape, jnp.result_type(known, missing)).at[..., list(into)].set(missing)


class Parallel(Join):
    """Parts side by side, summed, weighed by `fusion`, or fused by a network."""

    fusion: Any = None

    def joined(self, arguments: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
        """The output, and what each part said."""
        told = self._all(arguments)
        said = list(told.values())
        if self.fusion is None:
            return reduce(jnp.add, said), told
        if isinstance(self.fusion, Network):
            return self.fusion(jnp.concatenate([jnp.atleast_1d(x) for x in said], axis=-1)), told
        return jnp.tensordot(self.fusion, jnp.stack(said), 1), told


class Hierarchical(Join):
    """Levels from coarse to fine, each a correction of what came before."""

    coupling: Any = None
    lift: Callable[..., Any] | None = eqx.field(static=True, default=None)

    def joined(self, arguments: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
        """The output, and what each part said."""
        told = {what: self._ask(what, part, arguments) for what, part in self.parts.items()}
        (first, value), *finer = told.items()
        for place, (what, own) in enumerate(finer):
            coarse = value if self.lift is None else jnp.asarray(self.lift(value))
            if coarse.shape != own.shape:
                raise ModelError(
                    f"hierarchical({self.name!r}): what comes from {first!r} has shape {coarse.shape}, and {what!r} "
                    f"says {own.shape}: write lift=..., a function from coarse outputs to the shape of finer ones"
                )
            first, value = what, self.coupling[place] * coarse + own
        return value, told


class Gated(Join):
    """Parts weighed by positive weights that sum to one; those that are `off` have none, and the others theirs."""

    gate: Any = None
    attention: bool = eqx.field(static=True, default=False)
    off: tuple[str, ...] = eqx.field(static=True, default=())

    def joined(self, arguments: tuple[Any, ...]) -> tuple[Array, dict[str, Array]]:
        """The output, and what each part said."""
        told = self._all(arguments)
        said = jnp.stack(list(told.values()))
        weights = self._weights(arguments, said)
        if self.off:
            on = along_last(np.array([part not in self.off for part in told], float), weights.ndim)
            weights = on * weights / jnp.sum(on * weights, axis=-1, keepdims=True)
        share = jnp.moveaxis(weights, -1, 0)
        if share.shape != said.shape[: share.ndim]:
            raise ModelError(
                f"gated({self.name!r}): the gate is asked at places of shape {share.shape[1:]}, and the parts say "
                f"{said.shape[1:]}: give inputs=..., what networks are asked, with one row for each output"
            )
        share = jnp.expand_dims(share, range(share.ndim, said.ndim))  # for all entries of an output
        return jnp.sum(share * said, axis=0), {**told, GATE: weights}

    def _weights(self, arguments, said):
        """Of each part, along the last axis; they sum to one."""
        if not isinstance(self.gate, Network):
            return jnp.asarray(self.gate)
        asked = jnp.asarray(self._asked(GATE, arguments))
        if self.attention:
            seen = [each[..., None] if each.ndim < asked.ndim else each for each in said]
            scores = jnp.concatenate(
                [self.gate(jnp.concatenate([asked, each], axis=-1)) for each in seen], axis=-1
            )
        else:
            scores = self.gate(asked)
            if scores.shape[-1] == 1 and len(said) == 2:
                scores = jnp.concatenate([scores, jnp.zeros_like(scores)], axis=-1)
        if scores.shape[-1] != len(said):
            raise ModelError(
                f"gated({self.name!r}): the gate has {scores.shape[-1]} outputs for {len(said)} parts "
                f"({', '.join(self.parts)}): give it one for each" + (" question" if self.attention else "")
            )
        return jax.nn.softmax(scores, axis=-1)


def _same_shape(join, told):
    shapes = {what: said.shape for what, said in told.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{what} {shape}" for what, shape in shapes.items())
        more = (
            ", or say with into=(...) which entries the missing term has" if join.kind == "residual" else ""
        )
        raise ModelError(
            f"{join.kind}({join.name!r}): its parts have different shapes, {said}: give all the same{more}"
        )
