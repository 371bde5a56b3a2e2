"""Measured values as a model reads them: which site they belong to, what is known of each cell, what was in the fit."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions.distribution import ExpandedDistribution, Independent, MaskedDistribution

from bayeshybrid.data import check_arguments
from bayeshybrid.faults import DataError
from bayeshybrid.forecast import Forecast
from bayeshybrid.layout import Fixed, trace
from bayeshybrid.moments import is_category
from bayeshybrid.observation import EXACT, LEFT, MISSING, RIGHT, Measured, unpacked
from bayeshybrid.target import Target

Nature = Literal["numbers", "counts", "classes"]
NATURES: tuple[Nature, ...] = ("numbers", "counts", "classes")
BINARY = (dist.BernoulliProbs, dist.BernoulliLogits)

__all__ = [
    "Nature",
    "Reading",
    "bare_inputs",
    "cell_by_cell",
    "class_probabilities",
    "read_data",
    "split_inputs",
]


@dataclass(frozen=True)
class Reading:
    """What was measured at one observed site.

    - `values`: `(cells...)`, NaN where nothing was measured; a limit where censored.
    - `kinds`: of each cell, 0 measured, 1 missing, 2 below, 3 above, 4 between.
    - `upper`: upper ends of what is known to lie between, else NaN.
    - `nature`: `"numbers"`, `"counts"` or `"classes"` (a yes or no too).
    - `seen`: which cells were data of the fit, with the same inputs and the same value.
    - `partial`: whether an event of which some cells are missing has a probability, as noise with memory has.
    """

    values: np.ndarray
    kinds: np.ndarray
    upper: np.ndarray
    nature: Nature
    seen: np.ndarray
    partial: bool = False


def read_data(forecast: Forecast, data: Mapping[str, Any]) -> dict[str, Reading]:
    """Observed site to what was measured there, for the sites of a forecast that data speak of.

    **Arguments:**

    - `forecast`: what was forecast.
    - `data`: measured values by the model's argument or by observed site, NaN where none; or a mapping with
      `"values"` and marks, as `bh.measurements` gives it.

    **Raises:** `DataError`, see `bayeshybrid.held_out.evaluate`.

    ```python
    from bayeshybrid.readings import read_data
    model = lambda y=None: numpyro.sample("y", dist.Poisson(numpyro.sample("x", dist.LogNormal())), obs=y)
    assert read_data(bh.simulate(model, {}, key=0, draws=5), {"y": np.array(2)})["y"].nature == "counts"
    ```
    """
    target = forecast.target
    given, direct = _sorted_names(forecast, data)
    arguments = check_arguments(target.model, {**bare_inputs(forecast), **given})
    direct = {name: _marked(name, value) for name, value in direct.items()}
    for name, value in {**given, **direct}.items():
        if name in forecast.observed and value is not None:
            values = unpacked(name, value)[0] if isinstance(value, Mapping) else value
            _check_shape(name, np.shape(values), forecast)
    try:
        found = _readings(target, arguments, direct)
    except (TypeError, ValueError) as error:
        raise DataError(f"the model cannot take these data: {error}") from error
    found = {name: site for name, site in found.items() if name in forecast.observed}
    if not found:
        raise DataError(
            f"the data hold none of the observations of this forecast: give {', '.join(forecast.observed)}"
        )
    for name, site in found.items():
        _check_values(name, site, forecast)
    if not any(np.any(site["kinds"] != MISSING) for site in found.values()):
        raise DataError("every value is NaN: nothing can be compared")
    seen = _seen(forecast, found)
    return {name: _reading(site, seen[name]) for name, site in found.items()}


def _reading(site, seen):
    nature = NATURES[int(site["nature"])]
    return Reading(site["values"], site["kinds"], site["upper"], nature, seen, bool(site["partial"]))


def bare_inputs(forecast: Forecast) -> dict[str, Any]:
    """The inputs of a forecast as arrays, without observations.

    ```python
    from bayeshybrid.readings import bare_inputs
    model = lambda t, y=None: numpyro.sample("y", dist.Normal(t, 1.0), obs=y)
    assert list(bare_inputs(bh.simulate(model, {"t": [1, 2]}, key=0, draws=5))) == ["t"]
    ```
    """
    layout = forecast.target.layout
    inputs = {k: v for k, v in forecast.inputs.items() if k not in layout.observation_arguments}
    return check_arguments(lambda **_: None, inputs)


def split_inputs(
    target: Target, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[tuple[str, Fixed], ...]]:
    """Arguments as arrays, and those that the model needs as concrete values, as was found in the fit.

    ```python
    from bayeshybrid.readings import split_inputs
    model = lambda t, y=None: numpyro.sample("y", dist.Normal(t, 1.0), obs=y)
    arrays, fixed = split_inputs(bh.Target(model, {"t": np.ones(2)}), {"t": np.ones(3)})
    assert list(arrays) == ["t"] and fixed == ()
    ```
    """
    concrete = dict(target.fixed)
    arrays, fixed = {}, []
    for name, value in arguments.items():
        leaves = jax.tree.leaves(value)
        plain = bool(leaves) and all(isinstance(leaf, np.ndarray) for leaf in leaves)
        if plain and name not in concrete:
            arrays[name] = value
        else:
            fixed.append((name, Fixed(value)))
    return arrays, tuple(sorted(fixed, key=lambda pair: pair[0]))


def cell_by_cell(distribution: Any) -> tuple[Any, list[tuple[Any, int]]]:
    """A distribution without its wrappers, and what these say of cells: a mark and the kind that it means.

    ```python
    from bayeshybrid.readings import cell_by_cell
    cells, marks = cell_by_cell(dist.Normal(jnp.zeros(3), 1.0).to_event(1).mask(False))
    assert isinstance(cells, dist.Normal) and marks[0][1] == 1
    ```
    """
    marks: list[tuple[Any, int]] = []
    while True:
        if isinstance(distribution, Measured):
            marks.append((distribution, EXACT))
            distribution = distribution.base
            continue
        if isinstance(distribution, MaskedDistribution):
            marks.append((~jnp.asarray(distribution._mask, bool), MISSING))
        elif isinstance(distribution, dist.LeftCensoredDistribution):
            marks.append((distribution.censored, LEFT))
        elif isinstance(distribution, dist.RightCensoredDistribution):
            marks.append((distribution.censored, RIGHT))
        elif not isinstance(distribution, ExpandedDistribution | Independent):
            return distribution, marks
        distribution = distribution.base_dist


def class_probabilities(cells: Any, shape: tuple[int, ...]) -> Array | None:
    """The probability of each class, cell by cell, `(*shape, classes)`; `None` for what has no classes.

    ```python
    from bayeshybrid.readings import class_probabilities
    assert class_probabilities(dist.Bernoulli(0.25), (1,)).tolist() == [[0.75, 0.25]]
    ```
    """
    if isinstance(cells, BINARY):
        yes = jnp.broadcast_to(jnp.asarray(cells.probs), shape)
        return jnp.stack([1 - yes, yes], axis=-1)
    if not is_category(cells):
        return None
    return jnp.broadcast_to(cells.probs, (*shape, cells.probs.shape[-1]))


def _sorted_names(forecast, data):
    """What the model takes as arguments, and what is given by the name of a site."""
    parameters = inspect.signature(forecast.target.model).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    bare, given, direct = bare_inputs(forecast), {}, {}
    for name, value in data.items():
        if name in parameters or (takes_any and name not in forecast.observed):
            given[name] = value
            if name in bare and not _same(check_arguments(lambda **_: None, {name: value})[name], bare[name]):
                raise DataError(
                    f"data[{name!r}] differs from the input that this was forecast at: predict at "
                    f"{{{name!r}: ...}} of these data first"
                )
        elif name in forecast.observed:
            direct[name] = value
        else:
            known = {one.lower(): one for one in (*parameters, *forecast.observed)}
            close = difflib.get_close_matches(str(name).lower(), known, 1, 0.5)
            hint = f" (did you mean {known[close[0]]!r}?)" if close else ""
            raise DataError(
                f"{name!r} is neither an observed site nor an argument of the model{hint}; "
                f"observed are {', '.join(forecast.observed)}"
            )
    return given, direct


def _marked(name, value):
    """Values given by the name of a site, with their marks."""
    if not isinstance(value, Mapping):
        return {"values": np.asarray(value, float)}
    values, marks = unpacked(name, value)
    found = {"values": np.asarray(values, float)}
    found |= {key: np.asarray(mark) for key, mark in marks.items() if mark is not None}
    for key, mark in found.items():
        if mark.shape != found["values"].shape:
            raise DataError(f"{name}: {key} has shape {mark.shape}, the values {found['values'].shape}")
    return found


def _same(a, b):
    try:
        return bool(jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b)))
    except (TypeError, ValueError):  # of unlike form, or objects that are no numbers
        return a is b


def _check_shape(name, shape, forecast):
    wanted = forecast.observed[name].draws.shape[1:]
    if shape != wanted:
        raise DataError(
            f"{name}: the data have shape {shape}, the forecast {wanted}: give one value for each that was "
            "forecast, NaN where none was measured"
        )


def _check_values(name, site, forecast):
    values = site["values"]
    _check_shape(name, values.shape, forecast)
    if np.isinf(values).any():
        raise DataError(f"{name}: {int(np.isinf(values).sum())} values are infinite")
    if (site["kinds"] < 0).any():
        raise DataError(
            f"{name}: the censoring of {int((site['kinds'] < 0).sum())} values contradicts itself"
        )
    if NATURES[int(site["nature"])] == "classes":
        met = values[site["kinds"] == EXACT]
        odd = met[(met < 0) | (met >= site["classes"]) | (met != np.round(met))]
        if odd.size:
            raise DataError(
                f"{name}: {odd[0]:g} is no class: they are numbered 0 to {int(site['classes']) - 1}"
            )


def _readings(target, arguments, direct):
    arrays, fixed = split_inputs(target, arguments)
    return jax.tree.map(np.asarray, _read(target, fixed, arrays, direct))


@partial(jax.jit, static_argnums=1)
def _read(target, fixed, arrays, direct):
    """What the model makes of data, at unknowns in the middle of their supports."""
    constants = {name: value.value for name, value in fixed}
    sites = trace(target.model, {**arrays, **constants}).sites
    names = [site.name for site in target.layout.observed if site.name in sites]
    told = {}
    for name in names:
        if name in direct:
            told[name] = _stated(sites[name]["fn"], direct[name])
        elif sites[name]["is_observed"]:
            value = jnp.asarray(sites[name]["value"], float)
            told[name] = {"values": value, **_description(sites[name]["fn"], value)}
    for site in told.values():
        site["values"] = jnp.where(site["kinds"] == MISSING, jnp.nan, site["values"])
    return told


def _stated(distribution, given):
    """As `_description`, with the marks that stand beside values given by the name of their site."""
    values, *marks = (given.get(key) for key in ("values", "missing", "left", "right", "upper"))
    told = {"values": values, **_description(distribution, values)}
    cells = Measured(dist.Normal(jnp.zeros(jnp.shape(values)), 1.0), *marks)
    stated = cells.kinds(values)
    told["kinds"] = jnp.where(stated == EXACT, told["kinds"], stated)
    return told if cells.upper is None else {**told, "upper": cells.upper}


def _description(distribution, value):
    """Kinds, upper ends and nature of a site, cell by cell."""
    cells, marks = cell_by_cell(distribution)
    kinds = jnp.where(jnp.isnan(value), MISSING, EXACT)
    upper = jnp.full(value.shape, jnp.nan)
    for mark, code in marks:
        if isinstance(mark, Measured):
            own = mark.kinds(value)
            own = own.reshape(own.shape + (1,) * (value.ndim - own.ndim))
            kinds = jnp.where(kinds == EXACT, own, kinds)
            upper = upper if mark.upper is None else jnp.broadcast_to(mark.upper, value.shape)
        else:
            mark = jnp.asarray(mark, bool)
            mark = mark.reshape(mark.shape + (1,) * max(0, len(distribution.shape()) - mark.ndim))
            kinds = jnp.where((kinds == EXACT) & mark, code, kinds)
    stated = class_probabilities(cells, value.shape)
    nature = 2 if stated is not None else int(cells.is_discrete)
    number = 0 if stated is None else stated.shape[-1]
    told = {"nature": nature, "classes": number, "partial": hasattr(cells, "without")}
    return {"kinds": kinds, "upper": upper, **{name: jnp.array(value) for name, value in told.items()}}


def _seen(forecast, measured):
    """Which cells were data of the fit: inputs agree as far as both reach, and so does all that was measured."""
    target = forecast.target
    found = {name: np.zeros(site["values"].shape, bool) for name, site in measured.items()}
    before, now = target.inputs(), bare_inputs(forecast)
    if target.layout.absent or not all(
        name in now and _begins(old, now[name]) for name, old in before.items()
    ):
        return found
    fitted = _readings(target, target.arguments(), {})
    for name, site in measured.items():
        if name not in fitted or fitted[name]["values"].ndim != site["values"].ndim:
            continue
        old = fitted[name]
        common = tuple(slice(0, min(n)) for n in zip(old["values"].shape, site["values"].shape, strict=True))
        both = (old["kinds"] != MISSING)[common] & (site["kinds"] != MISSING)[common]
        same = old["values"][common] == site["values"][common]
        if np.all(same[both]):  # a value that differs means that something was measured again
            found[name][common] = both
    return found


def _begins(a, b):
    """Whether two inputs agree as far as both reach."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_begins(a[name], b[name]) for name in a)
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.ndim == b.ndim):
        return _same(a, b)
    common = tuple(slice(0, min(n)) for n in zip(a.shape, b.shape, strict=True))
    return _same(a[common], b[common])
