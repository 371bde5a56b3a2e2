"""Bases in which an unknown function is expanded: sums of fixed terms with unknown weights.

Each is a module for `network`, which scales its inputs and gives its weights priors: a function that is linear in its
weights and, with a sparse prior, can be read as a law.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .faults import ModelError

__all__ = ["Basis", "Fourier", "Polynomial", "Radial", "Spline"]

REACH = 2.5  # spreads from the centre, between which splines have their knots


class Basis(eqx.Module):
    """A sum of fixed terms of the inputs with a weight for each output and term.

    - `weight`: `(outputs, terms)`.
    - `terms`: their names, in the inputs `x1`, `x2`, ..., which are standardised: `(input - center) / spread`.
    """

    weight: Float[Any, "outputs terms"]
    in_size: int = eqx.field(static=True)
    terms: tuple[str, ...] = eqx.field(static=True)

    def evaluated(self, x: Float[Array, " inputs"]) -> Float[Array, " terms"]:
        """Each term at one point."""
        raise NotImplementedError

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """The sums at one point."""
        return jnp.asarray(self.weight) @ self.evaluated(jnp.asarray(x))


class Polynomial(Basis):
    """Products of powers of the inputs, up to a total degree.

    **Arguments:**

    - `in_size`, `out_size`: numbers of inputs and outputs.
    - `degree`: the largest total power.
    - `constant`: whether a constant term is among them.

    **Raises:** `ModelError` for sizes and degrees that are no whole numbers above zero.

    ```python
    quadratic = bh.Polynomial(2, 1, degree=2)
    assert quadratic.terms == ("1", "x1", "x2", "x1^2", "x1 x2", "x2^2")
    assert quadratic.evaluated(jnp.array([2.0, 3.0])).tolist() == [1.0, 2.0, 3.0, 4.0, 6.0, 9.0]
    ```
    """

    powers: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __init__(self, in_size: int, out_size: int, degree: int, constant: bool = True):
        _check_counts("Polynomial", in_size=in_size, out_size=out_size, degree=degree)
        chosen = [
            tuple(picked.count(place) for place in range(in_size))
            for total in range(0 if constant else 1, degree + 1)
            for picked in combinations_with_replacement(range(in_size), total)
        ]
        self.powers = tuple(chosen)
        self.terms = tuple(_product(powers) for powers in chosen)
        self.in_size = in_size
        self.weight = np.zeros((out_size, len(chosen)))

    def evaluated(self, x: Float[Array, " inputs"]) -> Float[Array, " terms"]:
        """Each product at one point."""
        products = []
        for powers in self.powers:
            product = jnp.ones((), x.dtype)
            for place, power in enumerate(powers):
                for _ in range(
                    power
                ):  # exact and smooth at zero, where x**p has a logarithm in its derivative
                    product = product * x[place]
            products.append(product)
        return jnp.stack(products)


class Fourier(Basis):
    """Sines and cosines of each input, of a period and its fractions, and a constant.

    **Arguments:**

    - `in_size`, `out_size`: numbers of inputs and outputs.
    - `harmonics`: how many: the period, half of it, a third, ...
    - `period`: in spreads of the inputs, since these are standardised.

    **Raises:** `ModelError` for counts that are no whole numbers above zero, and a period that is not above zero.

    ```python
    wave = bh.Fourier(1, 1, harmonics=1, period=4.0)
    assert wave.terms == ("1", "sin(2 pi x1 / 4)", "cos(2 pi x1 / 4)")
    assert jnp.allclose(wave.evaluated(jnp.array([1.0])), jnp.array([1.0, 1.0, 0.0]), atol=1e-7)
    ```
    """

    harmonics: int = eqx.field(static=True)
    period: float = eqx.field(static=True)

    def __init__(self, in_size: int, out_size: int, harmonics: int, period: float):
        _check_counts("Fourier", in_size=in_size, out_size=out_size, harmonics=harmonics)
        if not period > 0:
            raise ModelError(f"Fourier: period = {period!r} must be above zero, in spreads of the inputs.")
        self.harmonics, self.period, self.in_size = harmonics, float(period), in_size
        waves = [
            f"{wave}({2 * k:g} pi x{place} / {period:g})"
            for place in range(1, in_size + 1)
            for k in range(1, harmonics + 1)
            for wave in ("sin", "cos")
        ]
        self.terms = ("1", *waves)
        self.weight = np.zeros((out_size, len(self.terms)))

    def evaluated(self, x: Float[Array, " inputs"]) -> Float[Array, " terms"]:
        """Each wave at one point."""
        angles = 2 * jnp.pi / self.period * x[:, None] * jnp.arange(1, self.harmonics + 1)[None]
        waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return jnp.concatenate([jnp.ones(1, waves.dtype), waves.reshape(-1)])


class Spline(Basis):
    """Cubic B-splines of each input, with equal distances between their knots, summed over inputs.

    Beyond 2.5 spreads from the centre, where the last knots are, they fall to zero. They add up to one in between, so
    that a constant is among their sums. Smooth to the second derivative.

    **Arguments:**

    - `in_size`, `out_size`: numbers of inputs and outputs.
    - `pieces`: into how many pieces the five spreads are cut; three more splines than that are needed.

    **Raises:** `ModelError` for counts that are no whole numbers above zero.

    ```python
    spline = bh.Spline(1, 1, pieces=5)
    assert len(spline.terms) == 8
    assert jnp.allclose(spline.evaluated(jnp.array([0.3])).sum(), 1.0)
    ```
    """

    pieces: int = eqx.field(static=True)

    def __init__(self, in_size: int, out_size: int, pieces: int):
        _check_counts("Spline", in_size=in_size, out_size=out_size, pieces=pieces)
        self.pieces, self.in_size = pieces, in_size
        self.terms = tuple(
            f"spline of x{place} about {middle:.3g}"
            for place in range(1, in_size + 1)
            for middle in self._middles()
        )
        self.weight = np.zeros((out_size, len(self.terms)))

    def _middles(self):
        width = 2 * REACH / self.pieces
        return -REACH + width * np.arange(-1, self.pieces + 2)

    def evaluated(self, x: Float[Array, " inputs"]) -> Float[Array, " terms"]:
        """Each spline at one point."""
        away = jnp.abs(x[:, None] - jnp.asarray(self._middles(), x.dtype)[None]) * self.pieces / (2 * REACH)
        outer = jnp.maximum(2.0 - away, 0.0)
        inner = jnp.maximum(1.0 - away, 0.0)
        return ((outer**3 - 4.0 * inner**3) / 6.0).reshape(-1)


class Radial(Basis):
    """Bells about given centres: `exp(-|x - c|^2 / (2 width^2))`.

    **Arguments:**

    - `centers`: `(terms, inputs)`, in standardised inputs.
    - `out_size`: number of outputs.
    - `width`: of each bell, in spreads of the inputs.

    **Raises:** `ModelError` for centres that are no table of finite numbers, a width that is not above zero.

    ```python
    bells = bh.Radial([[0.0], [1.0]], 1, width=1.0)
    assert jnp.allclose(bells.evaluated(jnp.array([0.0])), jnp.array([1.0, jnp.exp(-0.5)]))
    ```
    """

    centers: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    width: float = eqx.field(static=True)

    def __init__(self, centers: Sequence[Sequence[float]], out_size: int, width: float):
        _check_counts("Radial", out_size=out_size)
        table = np.asarray(centers, float)
        if table.ndim != 2 or not table.size or not np.all(np.isfinite(table)):
            raise ModelError(
                f"Radial: centers of shape {table.shape}; write one row of finite numbers for each bell, "
                "as in [[0.0, 0.0], [1.0, 0.0]] for two inputs."
            )
        if not width > 0:
            raise ModelError(f"Radial: width = {width!r} must be above zero, in spreads of the inputs.")
        self.centers = tuple(map(tuple, table.tolist()))
        self.width, self.in_size = float(width), table.shape[1]
        self.terms = tuple(f"bell about ({', '.join(f'{c:.3g}' for c in row)})" for row in self.centers)
        self.weight = np.zeros((out_size, len(self.terms)))

    def evaluated(self, x: Float[Array, " inputs"]) -> Float[Array, " terms"]:
        """Each bell at one point."""
        away = x[None] - jnp.asarray(self.centers, x.dtype)
        return jnp.exp(-0.5 * jnp.sum(away**2, axis=-1) / self.width**2)


def _product(powers: Iterable[int]) -> str:
    """The name of a product of powers."""
    factors = [
        f"x{place}" if power == 1 else f"x{place}^{power}" for place, power in enumerate(powers, 1) if power
    ]
    return " ".join(factors) or "1"


def _check_counts(kind: str, **counts: Any) -> None:
    for what, count in counts.items():
        if not isinstance(count, int | np.integer) or count < 1:
            raise ModelError(f"{kind}: {what} = {count!r} must be a whole number above zero.")
