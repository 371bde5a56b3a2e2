"""Forecasts made of draws that are given: what reads a forecast can be tested without compiling its model twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import bayeshybrid as bh
from bayeshybrid.forecast import Origin, Part, Quantity


def made(
    model: Callable[..., Any],
    inputs: Mapping[str, Any],
    latent: Mapping[str, np.ndarray],
    observed: Mapping[str, np.ndarray],
    *,
    data: Mapping[str, Any] | None = None,
    target: bh.Target | None = None,
    origin: Origin | None = None,
) -> bh.Forecast:
    """The forecast at `inputs` that holds these draws, of a model fitted to `data`."""
    total = {name: draws.var(axis=0) for name, draws in observed.items()}
    part = Part(total, total)
    return bh.Forecast(
        observed={name: Quantity(name, draws) for name, draws in observed.items()},
        latent={name: Quantity(name, draws) for name, draws in latent.items()},
        aleatoric=part,
        epistemic=part,
        total=part,
        inputs=dict(inputs),
        carried=tuple(latent),
        continued=(),
        drawn_anew=(),
        asked=len(next(iter(observed.values()))),
        failures=0,
        remarks=(),
        conditional={},
        replicates=1,
        target=target or bh.Target(model, {**inputs, **(data or {})}),
        kept=np.arange(len(next(iter(observed.values())))),
        key=0,
        origin=origin,
    )
