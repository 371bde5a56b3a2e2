"""The whole system of Lorenz (1996), both scales: it makes the records that the models of this case are given.

`python -m case_studies.lorenz96_closure.truth` makes them anew. The system is chaotic, so that another processor, which
rounds otherwise, gives other windows of the same climate: that is why the records are kept as files.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from case_studies.lorenz96_closure import records
from case_studies.lorenz96_closure.records import AHEAD, FORCING, NOISE, OTHER_FORCINGS, SLOW, WINDOW

FAST = 32  # for each slow variable
COUPLING, AMPLITUDE, PACE = 1.0, 10.0, 10.0  # h, b and c
STEP = 0.001
EVERY = 0.05  # between the states that a run keeps
SPIN_UP, CLIMATE = 10.0, 60.0

TRAINED, TESTED = 32, 48  # windows
LEVELS = np.linspace(0.005, 0.995, 199)
LAGS = np.arange(0.1, 2.01, 0.1)
BINS = np.arange(-8.0, 16.1, 1.0)

State = tuple[Any, Any]


def slow(x, forcing, subgrid):
    """Slopes of the slow variables, `(..., slow)`, under what the fast ones take from each."""
    advected = jnp.roll(x, 1, axis=-1) * (jnp.roll(x, -1, axis=-1) - jnp.roll(x, 2, axis=-1))
    return advected - x + forcing - subgrid


def subgrid(y):
    """What the fast variables, `(..., slow * fast)`, take from the slope of each slow one."""
    grouped = y.reshape(*y.shape[:-1], SLOW, FAST)
    return COUPLING * PACE / AMPLITUDE * grouped.sum(axis=-1)


def slopes(state: State, forcing: float) -> State:
    """Slopes of both scales. The fast variables go once around all slow ones."""
    x, y = state
    advected = jnp.roll(y, -1, axis=-1) * (jnp.roll(y, 1, axis=-1) - jnp.roll(y, -2, axis=-1))
    driven = COUPLING / AMPLITUDE * jnp.repeat(x, FAST, axis=-1)
    return slow(x, forcing, subgrid(y)), PACE * (AMPLITUDE * advected - y + driven)


def stepped(state: State, forcing: float) -> State:
    """One step of the classical Runge-Kutta method of order four."""

    def moved(slope, share):
        return jax.tree.map(lambda z, dz: z + share * STEP * dz, state, slope)

    first = slopes(state, forcing)
    second = slopes(moved(first, 0.5), forcing)
    third = slopes(moved(second, 0.5), forcing)
    fourth = slopes(moved(third, 1.0), forcing)
    mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, first, second, third, fourth)
    return moved(mean, 1.0)


@partial(jax.jit, static_argnames=("kept", "every"))
def run(state: State, forcing: float, kept: int, every: float = EVERY) -> tuple[State, Any, Any]:
    """The last state, and `kept` states from the first on, `every` apart: slow variables and their subgrid terms."""
    steps = round(every / STEP)

    def onward(state, _):
        last = jax.lax.fori_loop(0, steps, lambda _, z: stepped(z, forcing), state)
        return last, (state[0], subgrid(state[1]))

    last, (x, u) = jax.lax.scan(onward, state, length=kept)
    return last, x, u


def on_the_attractor(count: int, forcing: float, seed: int) -> State:
    """So many independent states, from noise and a spin-up."""
    draw = np.random.default_rng(seed).standard_normal
    start = (2.5 + 3.0 * draw((count, SLOW)), 0.1 * draw((count, SLOW * FAST)))
    return run(start, forcing, round(SPIN_UP / EVERY))[0]


def measured(x: np.ndarray, times: np.ndarray, seed: int) -> np.ndarray:
    """What is read off a run, `(window, time, slow)`: at these times, each reading with its own error."""
    read = np.moveaxis(np.asarray(x)[np.rint(times / EVERY).astype(int)], 0, 1)
    return read + NOISE * np.random.default_rng(seed).standard_normal(read.shape)


def climate(x: np.ndarray, u: np.ndarray) -> Iterator[tuple[str, float, float]]:
    """Statistics of a long run, `(time, member, slow)`: name, where, value."""
    yield from (("mean", 0.0, x.mean()), ("sd", 0.0, x.std()))
    quantiles = np.quantile(x, LEVELS)
    yield from (("quantile", level, value) for level, value in zip(LEVELS, quantiles, strict=True))
    correlation = records.autocorrelation(x, np.rint(LAGS / EVERY).astype(int))
    yield from (("autocorrelation", lag, value) for lag, value in zip(LAGS, correlation, strict=True))
    middles = 0.5 * (BINS[1:] + BINS[:-1])
    for low, high, middle in zip(BINS[:-1], BINS[1:], middles, strict=True):
        inside = u[(x >= low) & (x < high)]
        if len(inside) > 200:
            yield from (("subgrid mean", middle, inside.mean()), ("subgrid sd", middle, inside.std()))


def main() -> int:
    """Write the records beside this file."""
    began = time.monotonic()
    windows, pairs, told = [], [], []
    with jax.enable_x64(True):
        _, x, _ = run(on_the_attractor(TRAINED, FORCING, 1), FORCING, round(WINDOW[-1] / EVERY) + 1)
        _write("training", records.WINDOWED, _rows(x, FORCING, WINDOW, 2))
        for place, forcing in enumerate((FORCING, *OTHER_FORCINGS)):
            count = TESTED if forcing == FORCING else TESTED // len(OTHER_FORCINGS)
            start = on_the_attractor(count, forcing, 10 + place)
            x, u = map(np.asarray, run(start, forcing, round(CLIMATE / EVERY))[1:])
            windows += _rows(x, forcing, AHEAD, 20 + place)
            pairs += [[forcing, w, *x[0, w], *u[0, w]] for w in range(count)]
            told += [[forcing, *row] for row in climate(x, u)]
    _write("held_out", records.WINDOWED, windows)
    _write("subgrid", records.PAIRED, pairs)
    _write("climate", records.TOLD, told)
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0


def _rows(x, forcing, ahead, seed):
    """A row for each reading: at the start of a window, and at the times after it."""
    times = np.array([0.0, *ahead])
    return [
        [forcing, window, at, *values]
        for window, several in enumerate(measured(x, times, seed))
        for at, values in zip(times, several, strict=True)
    ]


def _write(name: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with open(records.FOLDER / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_short(value) for value in row] for row in rows)


def _short(value):
    return value if isinstance(value, str | int) else f"{value:.3f}".rstrip("0").rstrip(".")


if __name__ == "__main__":
    raise SystemExit(main())
