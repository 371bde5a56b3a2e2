"""Plain models to hold a hybrid against: networks alone, of time, of memory, of slopes, and with an equation beside.

Each function returns a numpyro model with the arguments `times` and the observation, so that `bh.infer`, `predict`,
`bh.compare` and the analyses take it as they take a hybrid. What is known of the series before any of it is seen is
said once, as a `Record`. A baseline that loses because it was given a poor prior shows nothing: state the record's
scale with the same care as the hybrid's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array
from numpyro.contrib.module import random_eqx_module

from bayeshybrid import sites
from bayeshybrid.architecture import MLP
from bayeshybrid.faults import ModelError
from bayeshybrid.networks import network, replaying
from bayeshybrid.penalties import physics_residual
from bayeshybrid.priors import Parameter, parameter, parameters
from bayeshybrid.records import Baseline, Record
from bayeshybrid.sequences import LongShortTermMemory, Transformer, positions
from bayeshybrid.statements import solve_ode

PIECES = 8  # of the span, in each of which a network of time may turn
STEPS = 20  # of the span
SPEED = 10.0  # scales that the state may go through in the span

__all__ = [
    "Record",
    "long_short_term_memory",
    "multilayer_perceptron",
    "neural_ode",
    "physics_informed",
    "transformer",
]


def multilayer_perceptron(
    record: Record, *, width: int = 8, depth: int = 1, length: float | None = None
) -> Callable[..., None]:
    """The series as a network of time: what is learned where there are data, and nothing is carried on from them.

    **Arguments:**

    - `record`: what is known of the series.
    - `width`, `depth`: entries of a hidden layer, and how many layers.
    - `length`: the time within which the series turns; an eighth of the span by default.

    **Returns:** a model with the arguments `times`, `(times,)`, and the record's name.

    **Raises:** `ModelError` for sizes and lengths that are not above zero.

    ```python
    record = bh.baselines.Record("y", span=(0.0, 5.0), center=0.0, scale=1.0)
    before = bh.simulate(bh.baselines.multilayer_perceptron(record), {"times": np.arange(5.0)}, key=0, draws=10)
    assert before.observed["y"].draws.shape == (10, 5)
    ```
    """
    return Baseline("multilayer_perceptron", record, partial(_of_time, record, width, depth, length))


def _of_time(record, width, depth, length, times):
    """The series at times, by a network of time and known inputs."""
    return _function_of_time(record, width, depth, length)(jnp.asarray(times, dtype=float))


def _function_of_time(record, width, depth, length):
    """Statement: a network of time, as a function from times to the series on the scale of the model."""
    length = record.stretch / PIECES if length is None else length
    known = record.acting_size
    net = network(
        "series",
        MLP(1 + known, record.size, width, depth),
        scale=record.spread,
        center=np.array([np.mean(record.span), *np.zeros(known)]),
        spread=np.array([length, *np.ones(known)]),
    )
    return lambda times: (
        net(jnp.concatenate([times[:, None], record.acting(times)], axis=1)) + record.middle[None]
    )


def long_short_term_memory(
    record: Record, *, width: int = 6, step: float | None = None
) -> Callable[..., None]:
    """The series from a long short-term memory that runs freely in steps of equal length from the record's first time.

    Between steps it is interpolated, so that what it says of a time does not depend on what else is asked. The cell is
    that of `bayeshybrid.sequences.LongShortTermMemory`; weights have the priors of `bh.network`, and those of the
    output are shrunk so that the series has about the record's scale. How many steps there are is compiled into the
    program, as a note of the fit says.

    **Arguments:**

    - `record`: what is known of the series; its inputs enter each step at its beginning.
    - `width`: entries of the cell.
    - `step`: in the unit of times; a twentieth of the span by default. Where times are regular, give their distance.

    **Returns:** a model with the arguments `times`, `(times,)`, none before the record, and the record's name.

    **Raises:** `ModelError` for sizes and steps that are not above zero, and for earlier times.

    ```python
    record = bh.baselines.Record("y", span=(0.0, 5.0), center=0.0, scale=1.0)
    model = bh.baselines.long_short_term_memory(record, width=2, step=1.0)
    before = bh.simulate(model, {"times": np.arange(9.0)}, key=0, draws=10)
    assert before.observed["y"].draws.shape == (10, 9)
    ```
    """
    step = _checked_step("long_short_term_memory", record, step)
    net = LongShortTermMemory(record.acting_size, record.size, width)

    def series(times):
        ends = _ends(record, step, times)
        return _scaled(record, _weighted("memory", net)(record.acting(ends[:-1])), step, times)

    return Baseline("long_short_term_memory", record, series)


def transformer(
    record: Record, *, width: int = 8, heads: int = 2, depth: int = 1, step: float | None = None
) -> Callable[..., None]:
    """The series from a small causal Transformer over encoded times, in steps of equal length from the first time.

    It sees no measurement, and no step sees a later one. Between steps it is interpolated. See
    `bayeshybrid.sequences.Transformer`; priors, scale and steps are those of `long_short_term_memory`.

    **Arguments:**

    - `record`: what is known of the series; its inputs enter at each step.
    - `width`, `heads`, `depth`: entries of a place, a multiple of twice the heads; attention heads; layers.
    - `step`: in the unit of times; a twentieth of the span by default.

    **Returns:** a model with the arguments `times`, `(times,)`, none before the record, and the record's name.

    **Raises:** `ModelError` for sizes and steps that are not above zero or do not go together, and for earlier times.

    ```python
    record = bh.baselines.Record("y", span=(0.0, 5.0), center=0.0, scale=1.0)
    model = bh.baselines.transformer(record, width=4, heads=1, step=1.0)
    before = bh.simulate(model, {"times": np.arange(9.0)}, key=0, draws=10)
    assert before.observed["y"].draws.shape == (10, 9)
    ```
    """
    step = _checked_step("transformer", record, step)
    net = Transformer(record.acting_size, record.size, width, heads, depth)

    def series(times):
        ends = _ends(record, step, times)
        places = jnp.asarray(positions(len(ends), width, record.stretch / step))
        return _scaled(record, _weighted("attention", net)(places, record.acting(ends)), step, times)

    return Baseline("transformer", record, series)


def neural_ode(
    record: Record, *, width: int = 8, depth: int = 1, rate: float | None = None, **settings: Any
) -> Callable[..., None]:
    """The slope of the series as a network of the series itself (Chen et al. 2018, "Neural ordinary differential
    equations"), with an unknown start at the record's first time.

    For a positive series state and slope are those of the logarithm.

    **Arguments:**

    - `record`: what is known of the series; its inputs are asked of the network beside the state.
    - `width`, `depth`: entries of a hidden layer, and how many layers.
    - `rate`: how many scales the series may go through in one unit of time; ten in the span by default.
    - `settings`: of `bh.solve_ode`, such as `solver`, `rtol`.

    **Returns:** a model with the arguments `times`, `(times,)`, none before the record, and the record's name.

    **Raises:** `ModelError` for sizes and rates that are not above zero.

    ```python
    record = bh.baselines.Record("y", span=(0.0, 5.0), center=(1.0, 2.0), scale=(1.0, 1.0))
    model = bh.baselines.neural_ode(record, width=4)
    before = bh.simulate(model, {"times": np.arange(9.0)}, key=0, draws=10)
    assert before.latent["path"].draws.shape == (10, 9, 2)
    ```
    """
    known = record.acting_size
    speed = SPEED / record.stretch if rate is None else rate

    def series(times):
        unit = f"log {record.unit}" if record.positive and record.unit else record.unit
        labels = record.labels or None
        start = parameter("start", dist.Normal(record.middle, record.spread), unit=unit, labels=labels)
        slope = network(
            "slope",
            MLP(record.size + known, record.size, width, depth),
            scale=speed * record.spread,
            center=np.concatenate([record.middle, np.zeros(known)]),
            spread=np.concatenate([record.spread, np.ones(known)]),
        )
        path = solve_ode(
            "path",
            lambda t, y, slope: slope(jnp.concatenate([y, record.acting(jnp.reshape(t, (1,)))[0]])),
            start,
            times,
            t0=record.span[0],
            args=slope,
            labels=labels,
            unit=unit,
            **settings,
        )
        return path.ys

    return Baseline("neural_ode", record, series)


def physics_informed(
    record: Record,
    field: Callable[[Array, Array, Any], Array],
    unknowns: Mapping[str, Parameter],
    *,
    residual_scale: ArrayLike,
    weight: float = 1.0,
    points: int = 50,
    until: float | None = None,
    width: int = 8,
    depth: int = 2,
    length: float | None = None,
    unit: str | None = None,
) -> Callable[..., None]:
    """The series as a network of time that about obeys an equation (Raissi, Perdikaris and Karniadakis 2019).

    Nothing is solved: `bh.physics_residual`, site `equation`, holds the slope of the network to the field at points of
    time. What comes out depends on how much that counts, which nobody knows: see there.

    **Arguments:**

    - `record`: what is known of the series.
    - `field`: `field(t, y, values)`, the slope of the series `y` of shape `(components,)`, as for `bh.solve_ode`.
    - `unknowns`: name to `bh.Parameter`; the field is given their values as a named tuple.
    - `residual_scale`, `weight`: the difference of slopes that is put up with, in `unit`, and how much their mean
      square counts; as many as there are `points` counts each of them as one measurement.
    - `points`, `until`: how many collocation points from the first time of the record to this; its last by default.
      Later times are forecast by the network alone, so give the last time that will be asked.
    - `width`, `depth`, `length`: of the network, as for `multilayer_perceptron`.
    - `unit`: of slopes.

    **Returns:** a model with the arguments `times`, `(times,)`, and the record's name.

    **Raises:** `ModelError` for sizes, scales and weights that are not above zero, for `until` before the record,
    and for a field of another shape than the series.

    ```python
    record = bh.baselines.Record("y", span=(0.0, 2.0), center=0.5, scale=0.5)
    model = bh.baselines.physics_informed(
        record, lambda t, y, values: -values.rate * y, {"rate": bh.Parameter(bh.prior_interval(0.3, 3.0))},
        residual_scale=0.1, weight=50.0)
    target = bh.Target(model, {"times": np.arange(3.0), "y": np.exp(-np.arange(3.0))})
    assert target.layout.soft == ("equation",)
    ```
    """
    if not isinstance(points, int | np.integer) or points < 1:
        raise ModelError(f"physics_informed: points = {points!r} must be a whole number above zero")
    end = record.span[1] if until is None else until
    if not end > record.span[0]:
        raise ModelError(
            f"physics_informed: until = {until} must lie behind the first time, {record.span[0]}"
        )
    at = np.linspace(record.span[0], end, points)

    def series(times):
        values = parameters("parameters", **unknowns)
        net = _function_of_time(record, width, depth, length)
        with replaying(None):  # answers that are held are those at the times of the data
            states, slopes = jax.jvp(
                lambda t: record.natural(net(t)), (jnp.asarray(at),), (jnp.ones(points),)
            )
        stated = jax.vmap(lambda t, y: jnp.asarray(field(t, y, values)))(jnp.asarray(at), states)
        if stated.shape != slopes.shape:
            raise ModelError(
                f"physics_informed: the field gives {stated.shape[1:]} for a series of {slopes.shape[1:]}: give the "
                "slope of each component"
            )
        physics_residual("equation", slopes - stated, scale=residual_scale, weight=weight, unit=unit)
        return net(jnp.asarray(times, dtype=float))

    return Baseline("physics_informed", record, series)


# Steps of equal length


def _checked_step(kind, record, step):
    step = record.stretch / STEPS if step is None else step
    if not 0 < step < np.inf:
        raise ModelError(f"{kind}: step = {step!r} must be above zero, in the unit of times")
    return float(step)


def _ends(record, step, times):
    """Where steps end, from the first time of the record until all times are passed; as many as times ask for."""
    last, first = float(np.max(times)), float(np.min(times))
    if first < record.span[0]:
        raise ModelError(
            f"Record({record.name!r}): time {first:g} lies before the record, which begins at {record.span[0]:g}: give "
            "an earlier span"
        )
    count = max(int(np.ceil((last - record.span[0]) / step - 1e-9)), 1)
    return record.span[0] + step * jnp.arange(count + 1)


def _scaled(record, standard, step, times):
    """At times what stands at the ends of steps, between them along a line, on the scale of the model."""
    place = (np.asarray(times, float) - record.span[0]) / step
    left = np.clip(place.astype(int), 0, len(standard) - 2)
    share = (place - left)[:, None]
    between = (1.0 - share) * standard[left] + share * standard[left + 1]
    return record.middle[None] + record.spread[None] * between


def _weighted(name: str, net: eqx.Module) -> Any:
    """Statement: a module whose weights are unknowns.

    Weights are Normal(0, 1 / sqrt(number of inputs)) and biases Normal(0, 1), those of the output shrunk by the root
    of two, so that its standard deviation is one where its inputs have size one.
    """

    def prior(path: str, shape: tuple[int, ...]) -> dist.Distribution:
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1.0
        return dist.Normal(0.0, float((0.5 if path.startswith("readout") else 1.0) ** 0.5 / np.sqrt(fan_in)))

    tag = sites.mapping(sites.Tag(name, kind="weight"))
    with numpyro.handlers.infer_config(config_fn=lambda site: tag):
        return random_eqx_module(name, net, prior=prior)
