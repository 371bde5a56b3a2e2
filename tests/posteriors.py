"""Posteriors made of draws that are given instead of found: what comes after inference can be tested without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.survey import ask
from bayeshybrid.verdict import Check, Verdict

VERDICT = Verdict((Check("R-hat", "pass", 1.001, 1.01, "x"), Check("energy", "fail", float("nan"), 0.3)))


def from_draws(
    model: Callable[..., Any], data: Mapping[str, Any], unconstrained: np.ndarray, key: Any = 0, **more: Any
) -> bh.Posterior:
    """A posterior that holds the given unconstrained draws, `(chain, draw, size)`."""
    with configuration.scope():
        target = more.pop("target", None) or bh.Target(model, data)
        flat = unconstrained.reshape(-1, target.layout.size)
        values = ask(target, flat, ["values"])["values"]
    shape = unconstrained.shape[:2]
    statistics = {
        "lp": np.arange(float(np.prod(shape))).reshape(shape),
        "energy": np.ones(shape),
        "acceptance_rate": np.full(shape, 0.8),
        "step_size": np.full(shape, 0.3),
        "n_steps": np.full(shape, 7),
        "tree_depth": np.full(shape, 3),
        "diverging": np.zeros(shape, bool),
        "failed": np.zeros(shape, bool),
    }
    fields = {"statistics": statistics, "verdict": VERDICT, "method": "NUTS()", "key": key, **more}
    samples = {name: draws.reshape(*shape, *draws.shape[1:]) for name, draws in values.items()}
    return bh.Posterior(target=target, unconstrained=unconstrained, samples=samples, **fields)
