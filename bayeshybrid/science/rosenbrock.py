"""Steps for stiff systems: a Rosenbrock method, which solves linear systems alone and so repeats nothing.

An implicit Runge-Kutta method iterates until its Newton steps end, calls LAPACK for them, and waits for the slowest
lane. Here a step is a fixed number of plain operations: one Jacobian, its inverse, eight products with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from bayeshybrid.science.elimination import inverse, product
from bayeshybrid.science.stepping import Problem

# Rodas5P: Steinebach (2023), "Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the
# Julia Differential Equations package", BIT 63:27, doi:10.1007/s10543-023-00967-x. Eight stages, order five, L-stable,
# stiffly accurate; in the transformed form of Hairer and Wanner (1996, IV.7, equation 7.25).
GAMMA = 0.21193756319429014
MOVES = (
    (),
    (3.0,),
    (2.849394379747939, 0.45842242204463923),
    (-6.954028509809101, 2.489845061869568, -10.358996098473584),
    (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
    (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946),
)
COUPLINGS = (
    (),
    (-14.155112264123755,),
    (-17.97296035885952, -2.859693295451294),
    (147.12150275711716, -1.41221402718213, 71.68940251302358),
    (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
    (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
    (
        30.91273214028599,
        -3.1208243349937974,
        77.79954646070892,
        34.28646028294783,
        -19.097331116725623,
        -28.087943162872662,
    ),
    (
        37.80277123390563,
        -3.2571969029072276,
        112.26918849496327,
        66.9347231244047,
        -40.06618937091002,
        -54.66780262877968,
        -9.48861652309627,
    ),
)
NODES = (
    0.0,
    0.6358126895828704,
    0.4095798393397535,
    0.9769306725060716,
    0.4288403609558664,
    1.0,
    1.0,
    1.0,
)
TIME_WEIGHTS = (
    GAMMA,
    -0.42387512638858027,
    -0.3384627126235924,
    1.8046452872882734,
    2.325825639765069,
    0.0,
    0.0,
    0.0,
)

__all__ = ["rosenbrock_step"]


def rosenbrock_step(problem: Problem, inputs: PyTree) -> Callable:
    """One step of Rodas5P, for `jax.lax.scan`: as the steps of `science.lean`."""

    def step(y, at):
        start, end, doses, inflow = at
        y = y if doses is None else y + doses
        shape = y.shape

        def field(t, flat):
            slope = problem.field(t, flat.reshape(shape), inputs)
            return (slope if inflow is None else slope + inflow).ravel()

        moved = _moved(field, start, end, y.ravel()).reshape(shape)
        # Where steps are repeated beside a jump the length is just below zero.
        y = jnp.where(end > start, moved, y)
        return y, y

    return step


def _moved(field, start, end, y):
    """The state at the end of a step."""
    length = jnp.where(end > start, end - start, 1.0)
    slope, by_state = jax.linearize(lambda flat: field(start, flat), y)
    jacobian = jax.vmap(by_state, out_axes=1)(jnp.eye(len(y), dtype=y.dtype))
    _, drift = jax.jvp(lambda t: field(t, y), (start,), (jnp.ones_like(start),))
    matrix = jnp.eye(len(y), dtype=y.dtype) - GAMMA * length * jacobian
    inverted = inverse(matrix)
    increments: list[Any] = []
    at = y
    for i, (couplings, node, weight) in enumerate(zip(COUPLINGS, NODES, TIME_WEIGHTS, strict=True)):
        if i:
            # The last three stages each begin where the one before them ended.
            at = y + _weighted(MOVES[i], increments) if i < len(MOVES) else at + increments[-1]
            # At the end exactly: a rounding further on lies a jump.
            slope = field(end if node == 1 else start + node * length, at)
        right = length * slope
        right = right + _weighted(couplings, increments) if couplings else right
        right = right + weight * length**2 * drift if weight else right
        increments.append(product(inverted, GAMMA * right))
    return at + increments[-1]


def _weighted(weights, vectors):
    terms = [weight * vector for weight, vector in zip(weights, vectors, strict=True)]
    return sum(terms[1:], terms[0])
