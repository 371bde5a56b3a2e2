"""Observations: what was measured, and what was only known to be missing, below, above or between.

`observe` is a statement. `Measured` is the noise distribution of a site some of whose cells are missing or
censored; its gradient is finite everywhere, so that a sampler never meets a NaN from a cell that was never
measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int
from numpyro.primitives import _PYRO_STACK

from . import sites
from .faults import DataError, ModelError
from .tails import log_between, log_cdf, log_sf

EXACT, MISSING, LEFT, RIGHT, INTERVAL = 0, 1, 2, 3, 4
"""What is known of a cell, as `Measured.kinds` codes it; -1 where the statements about it contradict."""
CONTRADICTION = -1


class Measured(dist.Distribution):
    """The distribution of a measurement some of whose cells are missing or censored.

    Log probability of a cell with value y under `base`: log density if it was measured, 0 if missing,
    log P(Y <= y) if it lies below y, log P(Y > y) if above, log P(y < Y <= upper) if between. Mean, variance
    and draws are those of `base`: a forecast is of the quantity, not of the instrument's limits.

    **Arguments:**

    - `base`: the noise distribution. If its events are independent cells (`.to_event`) each cell counts on
      its own; a truly multivariate one can only be missing, event by event. One that has the method
      `without(missing)`, itself with these cells left out, can miss single cells of an event.
    - `missing`, `left`, `right`: boolean arrays of the shape of the cells, or `None`.
    - `upper`: upper ends, NaN where the cell is not interval-censored, or `None`.

    **Raises:** `ModelError` for censoring under a multivariate or cdf-less distribution.

    ```python
    from bayeshybrid.observation import Measured
    noise = Measured(dist.Normal(0.0, 1.0), left=np.array([True, False]))
    assert np.allclose(noise.log_prob(jnp.zeros(2)), [np.log(0.5), -0.9189385])
    ```
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("base", "missing", "left", "right", "upper")

    def __init__(
        self,
        base: dist.Distribution,
        missing: ArrayLike | None = None,
        left: ArrayLike | None = None,
        right: ArrayLike | None = None,
        upper: ArrayLike | None = None,
        *,
        validate_args: bool | None = None,
    ):
        own = _own(base)
        shape = base.shape()[: len(base.shape()) - own]
        marks = {"missing": missing, "left": left, "right": right, "upper": upper}
        if _cells(base).event_shape and not (left is None and right is None and upper is None):
            raise ModelError(
                f"observe: {type(base).__name__} has events of shape {base.event_shape}, which cannot be "
                "censored; "
                "only whole events can be missing. Use independent noise, such as dist.Normal."
            )
        joint = lax.broadcast_shapes(shape, *(jnp.shape(mark) for mark in marks.values() if mark is not None))
        event_dim = len(base.event_shape) - own
        batch = joint[: len(joint) - event_dim]
        self.base = base if tuple(base.batch_shape) == batch else base.expand(batch)
        self.missing, self.left, self.right, self.upper = (
            None if mark is None else jnp.broadcast_to(jnp.asarray(mark), joint) for mark in marks.values()
        )
        self.base = self.base if self.missing is None else _left_out(self.base, self.missing)
        super().__init__(batch, base.event_shape, validate_args=validate_args)

    @property
    def support(self):
        """The support of `base`."""
        return self.base.support

    @property
    def mean(self):
        """The mean of `base`."""
        return self.base.mean

    @property
    def variance(self):
        """The variance of `base`."""
        return self.base.variance

    @property
    def has_rsample(self) -> bool:
        """Whether draws are differentiable in the parameters."""
        return self.base.has_rsample

    def sample(self, key, sample_shape=()):
        """Draws of the quantity itself, as if every cell were measured."""
        return self.base.sample(key, sample_shape)

    def rsample(self, key, sample_shape=()):
        """As `sample`, differentiable in the parameters where `base` is."""
        return self.base.rsample(key, sample_shape)

    def expand(self, batch_shape):
        """The same statement over a larger batch, as `numpyro.plate` asks for it."""
        batch_shape = tuple(batch_shape)
        if batch_shape == tuple(self.batch_shape):
            return self
        return Measured(self.base.expand(batch_shape), self.missing, self.left, self.right, self.upper)

    def kinds(self, value: ArrayLike) -> Int[Array, "..."]:
        """What is known of each cell: 0 exact, 1 missing, 2 left, 3 right, 4 interval, -1 contradictory.

        Contradictory: more than one of left, right and interval, or an upper end at or below the value.
        """
        value = _aligned(jnp.asarray(value), self.shape())
        own = _own(self.base)
        shape = value.shape[: value.ndim - own]
        missing, left, right = (_mask(mark, shape) for mark in (self.missing, self.left, self.right))
        codes = jnp.where(right, RIGHT, jnp.where(left, LEFT, EXACT))
        claims = left.astype(int) + right.astype(int)
        if self.upper is not None:
            upper = _aligned(self.upper, shape)
            between = ~jnp.isnan(upper)
            codes = jnp.where(between, INTERVAL, codes)
            claims = claims + between.astype(int) + 2 * (between & (upper <= value)).astype(int)
        codes = jnp.where(claims > 1, CONTRADICTION, codes)
        return jnp.where(missing, MISSING, codes)

    def log_prob(self, value, intermediates=None):
        """Elementwise over the batch; zero where missing, the probability of what is known where censored."""
        total = self.cell_log_prob(value)
        summed = len(self.event_shape) - len(_cells(self.base).event_shape)
        return jnp.sum(total, axis=tuple(range(-summed, 0))) if summed else total

    def cell_log_prob(self, value: ArrayLike) -> Array:
        """As `log_prob`, but cell by cell where independent cells were made one event."""
        cells: Any = _cells(self.base)
        value = _aligned(jnp.asarray(value), self.shape())
        kinds = self.kinds(value)
        inside = _feasible(cells, value)
        if hasattr(cells, "without"):
            gaps = _mask(self.missing, value.shape)
            return cells.without(gaps).log_prob(jnp.where(gaps, inside, value))
        pick = kinds.reshape(kinds.shape + (1,) * len(cells.event_shape))
        total = jnp.where(kinds == EXACT, cells.log_prob(jnp.where(pick == EXACT, value, inside)), 0.0)
        if self.left is not None:
            total = jnp.where(kinds == LEFT, log_cdf(cells, value, kinds == LEFT), total)
        if self.right is not None:
            total = jnp.where(kinds == RIGHT, log_sf(cells, value, kinds == RIGHT), total)
        if self.upper is not None:
            upper = _aligned(self.upper, value.shape)
            from_the_end = (kinds == INTERVAL) & _at_lower_end(cells.support, value)
            between = (kinds == INTERVAL) & ~from_the_end
            total = jnp.where(between, log_between(cells, value, upper, between), total)
            total = jnp.where(from_the_end, log_cdf(cells, upper, from_the_end), total)
        return jnp.where(kinds == CONTRADICTION, -jnp.inf, total)


def _mask(mark: Array | None, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    return jnp.zeros(shape, bool) if mark is None else _aligned(mark, shape).astype(bool)


def _aligned(mark: Array, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(mark, lax.broadcast_shapes(jnp.shape(mark), shape))


def _cells(base: dist.Distribution) -> dist.Distribution:
    """The distribution cell by cell: events that are only independent cells are taken apart."""
    while isinstance(base, dist.Independent):
        base = base.base_dist
    return base


def _own(base: dist.Distribution) -> int:
    """How many axes of an event are missing together."""
    cells = _cells(base)
    return 0 if hasattr(cells, "without") else len(cells.event_shape)


def _left_out(base: Any, missing: Array) -> dist.Distribution:
    """A series that knows which of its cells are missing; any other distribution as it is."""
    if isinstance(base, dist.Independent):
        return _left_out(base.base_dist, missing).to_event(base.reinterpreted_batch_ndims)
    return base.without(missing) if hasattr(base, "without") else base


def _at_lower_end(support: Any, value: Array) -> Bool[Array, "..."]:
    """Where the support ends, so that an interval from here, such as 0 to a limit, is all below its upper end."""
    lowest = getattr(support, "lower_bound", -jnp.inf)
    return value <= _aligned(jnp.asarray(lowest), value.shape)


def _feasible(base: Any, value: Array) -> Array:
    """A value inside the support for every cell, to stand where nothing was measured."""
    try:
        filled = base.support.feasible_like(value)
    except NotImplementedError:
        filled = jnp.zeros_like(value)
    return jnp.broadcast_to(jnp.asarray(filled, value.dtype), value.shape)


def observe(
    name: str,
    distribution: dist.Distribution,
    obs: ArrayLike | Mapping[str, ArrayLike] | None = None,
    *,
    unit: str | None = None,
    labels: tuple[str, ...] | None = None,
    across: str | None = None,
    missing: bool | ArrayLike | None = None,
    left: ArrayLike | None = None,
    right: ArrayLike | None = None,
    upper: ArrayLike | None = None,
) -> Any:
    """Statement: something that was measured, or will be.

    **Arguments:**

    - `name`: name of the observation, in forecasts too.
    - `distribution`: its distribution given the model, noise included.
    - `obs`: the data, `None` where they are to be forecast. A mapping with `"values"` and any of `"missing"`,
      `"left"`, `"right"`, `"upper"`, as `bh.measurements` gives it, holds the marks below too.
    - `unit`: unit of the data.
    - `labels`: names along the last axis of the data.
    - `across`: what the leading axis of the data counts, such as `"subject"`.
    - `missing`: `True` if NaN cells were not measured, or a boolean array of the data's shape.
    - `left`, `right`: boolean arrays: the quantity lies below (above) the value in `obs`.
    - `upper`: array, NaN where not interval-censored, else the quantity lies between `obs` and `upper`.

    Under a discrete distribution "below" includes the value, "above" and "between" leave it out.

    **Returns:** the data, missing cells filled with a value of the support that has no influence; without
    `obs` a draw.

    **Raises:** `ModelError` for labels that do not count up, `across` without an axis to count, or marks beside
    a mapping that holds them; `DataError` for data whose shape the distribution would enlarge, such as `(N,)`
    against `(N, 1)`, masks of another shape, or a mapping with other entries.

    ```python
    def model(y=None):
        mean = bh.parameter("mean", dist.Normal(0.0, 1.0))
        return bh.observe("y", dist.Normal(mean, 1.0), obs=y, missing=True, unit="mV")
    y = numpyro.handlers.seed(model, 0)(np.array([0.3, np.nan]))
    assert np.isfinite(y).all()
    ```
    """
    labels = getattr(_cells(distribution), "entries", None) if labels is None else tuple(map(str, labels))
    tag = sites.Tag(name, unit=unit, labels=labels or (), kind="observation", across=across)
    infer = sites.mapping(tag)
    marks = {"missing": missing, "left": left, "right": right, "upper": upper}
    values: Any = obs
    if isinstance(obs, Mapping):
        values, marks = unpacked(name, obs, marks)
    shape = distribution.shape() if values is None else jnp.shape(values)
    _check_axes(name, labels, across, shape)
    if values is None:
        return numpyro.sample(name, distribution, infer=infer)
    _check_shapes(name, shape, distribution)
    if all(mark is None or mark is False for mark in marks.values()):
        return numpyro.sample(name, distribution, obs=values, infer=infer)
    measured, values = _with_marks(name, distribution, jnp.asarray(values), marks)
    return numpyro.sample(name, measured, obs=values, infer=infer)


def unpacked(
    name: str, obs: Mapping[str, Any], beside: Mapping[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """The values of a mapping of data, and its marks, `None` where it has none.

    **Arguments:**

    - `name`: of the observation; `obs`: the mapping; `beside`: marks that were given beside it.

    **Raises:** `ModelError` for marks beside it, `DataError` for other entries.

    ```python
    from bayeshybrid.observation import unpacked
    values, marks = unpacked("y", {"values": np.ones(2), "left": np.array([True, False])})
    assert marks["missing"] is None and marks["left"][0]
    ```
    """
    marks = ("missing", "left", "right", "upper")
    given = [key for key, mark in (beside or {}).items() if mark is not None and mark is not False]
    if given:
        raise ModelError(
            f"observe({name!r}): {given[0]}= stands beside a mapping of data, which holds its own marks: put it "
            f'there, obs={{"values": ..., "{given[0]}": ...}}'
        )
    unknown = [key for key in obs if key not in ("values", *marks)]
    if unknown or "values" not in obs:
        what = f"holds {unknown[0]!r}" if unknown else "lacks 'values'"
        raise DataError(
            f"observe({name!r}): the mapping of data {what}; its entries are 'values' and any of "
            f"{', '.join(map(repr, marks))}"
        )
    return obs["values"], {key: obs.get(key) for key in marks}


def _with_marks(
    name: str, distribution: dist.Distribution, obs: Array, marks: dict[str, Any]
) -> tuple[Measured, Array]:
    """The distribution that heeds the marks, and the data with what is missing filled."""
    own = _own(distribution)
    if marks["missing"] is True:
        gaps = jnp.isnan(obs)
        marks = {**marks, "missing": jnp.all(gaps, axis=tuple(range(-own, 0))) if own else gaps}
    elif marks["missing"] is False:
        marks = {**marks, "missing": None}
    shape = obs.shape[: obs.ndim - own]
    marks = {
        key: _over_cells(mark, shape, len(distribution.event_shape) - own) for key, mark in marks.items()
    }
    _check_marks(name, shape, marks)
    measured = Measured(distribution, **marks)
    if marks["missing"] is not None:
        gaps = measured.kinds(obs) == MISSING
        gaps = gaps.reshape(gaps.shape + (1,) * own)
        obs = jnp.where(gaps, _feasible(distribution, obs), obs)
    return measured, obs


def _over_cells(mark: Any, shape: tuple[int, ...], cells: int) -> Any:
    """A mark of whole events, such as a mean and its sd, as one of their cells."""
    if mark is None or not cells or jnp.shape(mark) != shape[: len(shape) - cells]:
        return mark
    mark = jnp.asarray(mark)
    return jnp.broadcast_to(mark.reshape(mark.shape + (1,) * cells), shape)


def _check_axes(
    name: str, labels: tuple[str, ...] | None, across: str | None, shape: tuple[int, ...]
) -> None:
    entries = shape[-1] if shape else 1
    if labels and len(labels) != entries:
        raise ModelError(
            f"observe({name!r}): {len(labels)} labels {labels} for {entries} entries along the last axis of shape "
            f"{shape}."
        )
    if across is not None and not shape and not _plates():
        raise ModelError(
            f"observe({name!r}): across={across!r} says what the leading axis counts, but there is one value only."
        )


def _check_marks(name: str, shape: tuple[int, ...], marks: dict[str, Any]) -> None:
    for key, mark in marks.items():
        if mark is not None and jnp.shape(mark) != shape:
            raise DataError(
                f"observe({name!r}): {key} has shape {jnp.shape(mark)}, the data have {shape}; give one "
                "entry per cell."
            )


def _plates() -> tuple[int, ...]:
    """The batch shape that the plates around this statement will ask for."""
    frames = [(p.dim, p.subsample_size) for p in _PYRO_STACK if isinstance(p, numpyro.plate)]
    shape = [1] * max((-dim for dim, _ in frames), default=0)
    for dim, size in frames:
        shape[dim] = size
    return tuple(shape)


def _check_shapes(name: str, shape: tuple[int, ...], distribution: dist.Distribution) -> None:
    """Data are never enlarged, and a distribution is repeated over them only along whole leading axes."""
    batch, event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    try:
        stated = lax.broadcast_shapes(batch, _plates()) + event
    except ValueError:
        raise ModelError(
            f"observe({name!r}): the distribution has shape {batch}, the plates around it {_plates()}."
        ) from None
    whole = math.prod(stated) == 1 and not event
    if shape == stated or (whole and len(stated) <= len(shape)):
        return
    trailing = shape[len(shape) - len(stated) :] if stated else ()
    if len(stated) <= len(shape) and trailing == stated:
        return
    raise DataError(
        f"observe({name!r}): the data have shape {shape}, the distribution {stated}. Broadcasting would "
        "compare "
        f"every value with every other{_reshaping(shape, stated)}."
    )


def _reshaping(shape: tuple[int, ...], stated: tuple[int, ...]) -> str:
    if np.prod(shape, dtype=int) == np.prod(stated, dtype=int):
        return f"; reshape one of them, such as obs.reshape{stated}"
    return "; give both the same shape"
