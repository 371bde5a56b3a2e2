"""What a method of inference is: a state machine of arrays that the driver turns.

A method is an immutable object that is its own configuration. It sees a model only as a `Target` and keeps
everything that changes in a state, which is a pytree of arrays and so can be written down at any moment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np

from bayeshybrid.target import Target
from bayeshybrid.verdict import Check, Nature

Claim = Literal["exact", "approximate", "modes only", "predictive only"]

METHODS: dict[str, type[Method]] = {}

__all__ = ["METHODS", "Basin", "Chunk", "Method", "Result", "Work", "register"]


@dataclass(frozen=True)
class Basin:
    """A region that separate searches end in, told apart from others by what it predicts.

    - `mode`: the best point found, unconstrained; `log_density` there.
    - `members`: all end points that fell into it, `(n, size)`, best first.
    - `factor`: `(size, size)` lower triangular, or `(size,)`, with `factor factor'` the inverse curvature at
      the mode; `None` where the curvature is not that of a maximum.
    - `spread`: spread of the starts in each coordinate, for a metric where there is no curvature.
    - `mass`, `mass_error`: its share of the posterior and that share's standard error; NaN where it could not
      be estimated.

    ```python
    from bayeshybrid.inference.method import Basin
    basin = Basin(np.zeros(2), -1.0, np.zeros((1, 2)), np.eye(2), np.ones(2), 1.0, 0.0)
    assert basin.mass == 1.0
    ```
    """

    mode: np.ndarray
    log_density: float
    members: np.ndarray
    factor: np.ndarray | None
    spread: np.ndarray
    mass: float
    mass_error: float


@dataclass(frozen=True)
class Chunk:
    """What one turn of a method hands to the driver, arrays with axes (chain, transition, ...)."""

    draws: np.ndarray
    statistics: dict[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """What a method ends with.

    - `draws`: equally weighted, `(chain, draw, size)`.
    - `statistics`: name to `(chain, draw, ...)`.
    - `raw`: the draws that convergence is judged on, one array per basin.
    - `checks`: the method's own part of the verdict.
    - `notes`: what a reader must know, in words.
    - `nature`: what the draws are by construction; no check makes an approximation exact.
    """

    draws: np.ndarray
    statistics: dict[str, np.ndarray]
    raw: tuple[np.ndarray, ...]
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    nature: Nature = "draws of the posterior"


class Work(NamedTuple):
    """What a method expects to do: gradients of all chains together, draws that it keeps, chains side by side."""

    gradients: int
    draws: int
    chains: int


class Method(ABC):
    """The interface that every method of inference has; the driver calls it in this order.

    `start` makes the first state, `advance` turns it once, `finished` says when to stop, `finish` turns what
    was collected into equally weighted draws. `claims` says what the draws are.
    """

    claims: ClassVar[Claim]

    @abstractmethod
    def start(self, target: Target, basins: tuple[Basin, ...], key: Any) -> Any:
        """The first state: a pytree of arrays."""

    @abstractmethod
    def advance(self, target: Target, state: Any, length: int) -> tuple[Any, Chunk]:
        """At most `length` transitions further: the next state and what was drawn."""

    @abstractmethod
    def finished(self, state: Any) -> bool:
        """Whether nothing is left to do."""

    @abstractmethod
    def finish(self, target: Target, state: Any, chunks: list[Chunk], basins: tuple[Basin, ...]) -> Result:
        """Equally weighted draws from what was collected, even where the run was cut short."""

    @abstractmethod
    def expected(self, size: int, basins: int, target_ess: float) -> Work:
        """What it will take with so many unknowns and basins, as far as can be known beforehand."""

    def sampling_since(self, state: Any) -> int | None:
        """For a method that is stopped when its draws are precise enough: the transition since which it keeps draws."""
        return None

    def judged(self, state: Any, chunks: list[Chunk]) -> tuple[np.ndarray, ...]:
        """For such a method: the draws kept so far, one array `(chain, draw, size)` per basin."""
        raise NotImplementedError(f"{type(self).__name__} ends by itself")

    def hardness(self, state: Any) -> str:
        """What was seen of a posterior that this method is not made for, in words; empty where nothing."""
        return ""

    @abstractmethod
    def progress(self, state: Any) -> tuple[int, int, str]:
        """How far it has come: done, total, and what it is doing."""


Kind = TypeVar("Kind", bound=Method)


def register(method: type[Kind]) -> type[Kind]:
    """Enter a method into the table that the contract tests and the documentation read."""
    METHODS[method.__name__] = method
    return method
