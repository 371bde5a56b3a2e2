"""The Ornstein-Uhlenbeck process along times in any order, as a chain: what each value tells of the others.

A value is in units of its standard deviation: `x(t) + e`, where the state `x` has variance `1 - white` and correlation
`exp(-|dt| / timescale)`, and `e` is independent with variance `white`. Time runs along the last axis; `timescale` and
`white` have the shape of the axes before, and `white=None` is a process without the independent part. Cells marked
`skipped` tell nothing: whatever stands there, their times included, has no influence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

Series = Float[Array, "*batch n"]
Batch = Float[Array, "*batch"]

__all__ = ["draw_path", "predicted", "smoothed"]


def predicted(
    z: Series, skipped: Bool[Array, "*batch n"], times: Series, timescale: Batch, white: Batch | None
) -> tuple[Series, Series]:
    """Mean and variance of each value given those before it in time; among equal times, those before it in the array.

    ```python
    from bayeshybrid.ornstein_uhlenbeck import predicted
    mean, variance = predicted(np.array([2.0, 0.0]), np.zeros(2, bool), np.array([0.0, 1.0]), np.array(1.0), None)
    assert np.allclose(mean, [0.0, 2.0 * np.exp(-1)]) and np.allclose(variance, [1.0, 1 - np.exp(-2)])
    ```
    """
    times = _tidy(times, skipped)
    order, back = _orders(times)
    z, skipped, times = (jnp.take_along_axis(x, order, -1) for x in (z, skipped, times))
    if white is None:
        found = _from_last(z, skipped, times, timescale)
    else:
        chain = _filtered(z, skipped, times, timescale, white)
        found = chain.before_mean, chain.before_variance + white[..., None]
    return jnp.take_along_axis(found[0], back, -1), jnp.take_along_axis(found[1], back, -1)


def smoothed(
    z: Series, skipped: Bool[Array, "*batch n"], times: Series, timescale: Batch, white: Batch | None
) -> tuple[Series, Series]:
    """Mean and variance of the state at each time given all values.

    ```python
    from bayeshybrid.ornstein_uhlenbeck import smoothed
    gap = np.array([False, True])
    mean, variance = smoothed(np.array([2.0, 0.0]), gap, np.array([0.0, 1.0]), np.array(1.0), None)
    assert np.allclose(mean, [2.0, 2.0 * np.exp(-1)]) and np.allclose(variance, [0.0, 1 - np.exp(-2)])
    ```
    """
    times = _tidy(times, skipped)
    order, back = _orders(times)
    z, skipped, times = (jnp.take_along_axis(x, order, -1) for x in (z, skipped, times))
    white = jnp.zeros_like(timescale) if white is None else white
    mean, variance = _smoothed(_filtered(z, skipped, times, timescale, white))
    return jnp.take_along_axis(mean, back, -1), jnp.take_along_axis(variance, back, -1)


def draw_path(key: Any, times: Series, timescale: Batch, white: Batch | None) -> Series:
    """A draw of the state at each time.

    ```python
    from bayeshybrid.ornstein_uhlenbeck import draw_path
    path = draw_path(jax.random.key(0), jnp.array([1.0, 0.0, 1.0]), jnp.array(2.0), None)
    assert path[0] == path[2]
    ```
    """
    order, back = _orders(times)
    kept, fresh = _memory(jnp.take_along_axis(times, order, -1), timescale)
    size = 1.0 if white is None else 1.0 - white[..., None]
    steps = jnp.sqrt(size * fresh) * jax.random.normal(key, times.shape)

    def step(state, cell):
        state = cell[0] * state + cell[1]
        return state, state

    _, path = lax.scan(
        step, jnp.zeros(times.shape[:-1]), tuple(jnp.moveaxis(x, -1, 0) for x in (kept, steps))
    )
    return jnp.take_along_axis(jnp.moveaxis(path, 0, -1), back, -1)


def _orders(times):
    """How to sort the times, and how to undo it."""
    order = jnp.argsort(times, axis=-1, stable=True)
    return order, jnp.argsort(order, axis=-1)


def _from_last(z, skipped, times, timescale):
    """Without an independent part the last value is all that is known."""
    places = jnp.where(skipped, -1, jnp.broadcast_to(jnp.arange(z.shape[-1]), z.shape))
    last = lax.cummax(places, axis=z.ndim - 1)
    last = jnp.concatenate([jnp.full_like(last[..., :1], -1), last[..., :-1]], axis=-1)
    follows = (last >= 0) & ~skipped
    last = jnp.maximum(last, 0)
    gap = jnp.where(follows, times - jnp.take_along_axis(times, last, -1), 1.0) / timescale[..., None]
    mean = jnp.where(follows, jnp.exp(-gap) * jnp.take_along_axis(z, last, -1), 0.0)
    return mean, jnp.where(follows, -jnp.expm1(-2.0 * gap), 1.0)


class _Filtered(NamedTuple):
    """Of the state at each sorted time, before and after its own cell was seen; `kept` is its memory of the last."""

    before_mean: Array
    before_variance: Array
    after_mean: Array
    after_variance: Array
    kept: Array


def _tidy(times, skipped):
    """Times of cells that were not measured may be anything; here they are numbers."""
    first = jnp.min(jnp.where(jnp.isfinite(times), times, jnp.inf), axis=-1, keepdims=True)
    first = jnp.where(jnp.isfinite(first), first, 0.0)
    return jnp.where(skipped & ~jnp.isfinite(times), first, times)


def _memory(times, timescale):
    """Correlation of the state with the one before, 0 for the first, and one minus its square, along sorted times."""
    gaps = jnp.diff(times, axis=-1) / timescale[..., None]
    none = jnp.zeros_like(times[..., :1])
    kept = jnp.concatenate([none, jnp.exp(-gaps)], axis=-1)
    return kept, jnp.concatenate([none + 1.0, -jnp.expm1(-2.0 * gaps)], axis=-1)


def _filtered(z, skipped, times, timescale, white):
    """The Kalman filter of one number (Kalman 1960)."""
    kept, fresh = _memory(times, timescale)

    def step(state, cell):
        (mean, variance), (z, skipped, kept, fresh) = state, cell
        mean, variance = kept * mean, jnp.square(kept) * variance + (1.0 - white) * fresh
        total = variance + white
        gain = jnp.where(total > 0.0, variance / jnp.where(total > 0.0, total, 1.0), 0.0)
        left = jnp.where(total > 0.0, gain * white, 0.0)
        after = (
            jnp.where(skipped, mean, mean + gain * (z - mean)),
            jnp.where(skipped, variance, left),
        )
        return after, (mean, variance, *after)

    start = (jnp.zeros_like(z[..., 0]), jnp.zeros_like(z[..., 0]))
    cells = tuple(jnp.moveaxis(x, -1, 0) for x in (z, skipped, kept, fresh))
    _, found = lax.scan(step, start, cells)
    before_mean, before_variance, after_mean, after_variance = (jnp.moveaxis(x, 0, -1) for x in found)
    return _Filtered(before_mean, before_variance, after_mean, after_variance, kept)


def _smoothed(found):
    """Mean and variance of the state given all cells (Rauch, Tung and Striebel 1965)."""

    def step(later, cell):
        (mean, variance), (after_mean, after_variance, kept, before_mean, before_variance) = later, cell
        sure = before_variance <= 0.0
        gain = jnp.where(sure, 0.0, after_variance * kept / jnp.where(sure, 1.0, before_variance))
        now = (
            after_mean + gain * (mean - before_mean),
            jnp.maximum(after_variance + jnp.square(gain) * (variance - before_variance), 0.0),
        )
        return now, now

    last = (found.after_mean[..., -1], found.after_variance[..., -1])
    earlier = (found.after_mean[..., :-1], found.after_variance[..., :-1])
    later = (found.kept[..., 1:], found.before_mean[..., 1:], found.before_variance[..., 1:])
    cells = tuple(jnp.moveaxis(x, -1, 0) for x in (*earlier, *later))
    _, told = lax.scan(step, last, cells, reverse=True)
    return tuple(
        jnp.concatenate([jnp.moveaxis(x, 0, -1), end[..., None]], axis=-1)
        for x, end in zip(told, last, strict=True)
    )
