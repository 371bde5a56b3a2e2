"""What a row of the comparison is: one posterior, written once for each tool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """One posterior and how each tool states it. Nothing heavy is imported until a tool is asked.

    - `name`, `title`: its name on the command line and in the table.
    - `unknowns`: the sites that are compared, called alike in every tool.
    - `ours`: makes the model and the data for `bayeshybrid.infer`.
    - `by_hand`: makes the numpyro model with diffrax in it, a function without arguments, from `rtol` and `atol`.
    - `stan`, `stan_data`: the program, and its data without tolerances.
    - `reference`: the Stan program that makes the reference, where it solves the equation more exactly (in closed form)
      or sooner (by the adjoint method) than that which is compared.
    - `rtol`, `atol`: tolerances that every tool uses; `atol` has the unit of the states.
    - `heavy`: unknowns with heavy tails, compared by the quantiles of their logarithm (of their size, where they
      have a sign).
    - `renamed`: sites of ours that are called otherwise, to the common name.
    - `functions`: for a network, whose weights are exchangeable: what is compared beside `unknowns`.
    - `hidden`: the sites that only `functions` reads.
    - `forward`: whether the model by hand differentiates forward, which pays for few unknowns.
    - `exact`: the reference where it is known in closed form.
    - `pymc`: makes the PyMC model where PyMC can express it without an equation.
    - `published`: quantity to the published mean and its standard error, where there are such.
    - `kernel`: the name of the C kernel that gives the floor.
    """

    name: str
    title: str
    unknowns: tuple[str, ...]
    ours: Callable[[], tuple[Callable[..., Any], dict[str, Any]]]
    by_hand: Callable[[float, float], Callable[[], None]]
    stan: str
    stan_data: Callable[[], dict[str, Any]]
    rtol: float = 1e-6
    atol: float = 1e-6
    heavy: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    functions: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] | None = None
    hidden: tuple[str, ...] = ()
    forward: bool = True
    exact: Callable[[], dict[str, dict[str, Any]]] | None = None
    pymc: Callable[[], Any] | None = None
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kernel: str | None = None
    reference: str | None = None

    @property
    def has_equation(self) -> bool:
        """Whether anything is solved, so that tolerances mean something."""
        return "ode_" in self.stan

    @property
    def sites(self) -> tuple[str, ...]:
        """Everything that draws must hold, by its common name."""
        return self.unknowns + self.hidden

    def common(self, samples: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Draws of one tool under the common names, `(chain, draw, ...)`, nothing else."""
        named = {self.renamed.get(name, name): value for name, value in samples.items()}
        return {name: np.asarray(named[name], dtype=float) for name in self.sites}

    def stan_input(self, rtol: float, atol: float) -> dict[str, Any]:
        """The data of the Stan program with these tolerances."""
        tolerances = {"rtol": rtol, "atol": atol} if self.has_equation else {}
        return {**self.stan_data(), **tolerances}

    def quantities(self, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is judged, one number each: common draws to `(chain, draw)`, heavy-tailed ones as logarithms."""
        found = {}
        for name in self.unknowns:
            values = samples[name]
            entries = values.reshape(*values.shape[:2], -1)
            logarithmic = name in self.heavy
            if logarithmic:
                entries = np.log(np.abs(entries))
            label = f"log {name}" if logarithmic else name
            for index in range(entries.shape[2]):
                entry = f"{label}[{index}]" if values.ndim > 2 else label
                found[entry] = entries[..., index]
        if self.functions is not None:
            found |= self.functions(samples)
        return found

    def is_heavy(self, quantity: str) -> bool:
        """Whether a quantity is judged by its quantiles alone."""
        return quantity.startswith("log ")
