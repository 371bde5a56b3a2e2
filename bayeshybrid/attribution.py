"""Which groups of unknowns the variance of a quantity comes from, where the groups depend on each other.

Shapley effects (Owen and Prieur 2017, "On Shapley value for measuring importance of dependent inputs") of the
value function `c(S) = Var(E[f | T_S])`, found from draws by regression that never predicts what it was fitted to.
Arrays in, arrays out: nothing here knows of a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import factorial

import numpy as np

DRAWS_PER_COLUMN = 20
MOST_COLUMNS = 300
FEWEST_DRAWS = 20
FOLDS = 10
BLOCKS = 20
EXACT_GROUPS = 10
PERMUTATIONS = 128
ROUNDING = 1e-11
PENALTIES = (ROUNDING, 1e-3, 1e-2, 1e-1, 1.0)

__all__ = ["Attribution", "attribute"]


@dataclass(frozen=True)
class Attribution:
    """How a variance divides among groups; `(group, entry)` or `(entry,)`, in the square of the quantity's unit.

    - `shapley`: the Shapley effect of each group; `alone`: `Var(E[f | T_g])`, what knowing it would take off.
    - `rest`: what no group was found to explain; `shapley` and `rest` sum to the variance that was divided.
    - `errors`, `rest_error`: jackknife standard errors over blocks of draws, and that of the permutations.
    - `parts`, `joint`: variance of each group's part of the linear fit, and of all parts together.
    - `draws`, `coordinates`: what there was to fit with; `leading`: how many of the coordinates entered with
      squares and products; `shrunk`: whether the draws were so few that coefficients had to be shrunk.
    - `reduced`: groups of which only leading principal components were used; `permutations`: 0 where exact.
    """

    groups: tuple[str, ...]
    shapley: np.ndarray
    alone: np.ndarray
    rest: np.ndarray
    errors: np.ndarray
    rest_error: np.ndarray
    parts: np.ndarray
    joint: np.ndarray
    draws: int
    coordinates: int
    leading: int
    shrunk: bool
    reduced: tuple[str, ...]
    permutations: int


def attribute(
    values: np.ndarray, coordinates: Mapping[str, np.ndarray], chain: np.ndarray, variance: np.ndarray
) -> Attribution:
    """Divide the variance of `values` among groups of coordinates that may depend on each other.

    The conditional means `E[f | T_S]` are linear regressions with squares and products where there are 20 draws
    for each column (else with those of the leading coordinates, else linear, else shrunk), fitted to other
    chains than they predict. `c(S)` is the covariance of `f` with that prediction: the noise of the coefficients
    is independent of the draws predicted, so that it neither adds to nor takes from the mean of this estimate.

    **Arguments:**

    - `values`: the quantity by draw, `(draw, entry)`.
    - `coordinates`: group to its coordinates `T_g`, `(draw, number)`; none for a group without influence.
    - `chain`: the chain of each draw, `(draw,)`; one chain is cut into ten blocks.
    - `variance`: what is divided, `(entry,)`; less than that of `values` where these carry noise.

    **Returns:** an `Attribution`.

    ```python
    from bayeshybrid.attribution import attribute
    a, b = np.random.default_rng(0).normal(size=(2, 1000, 1))
    found = attribute(3 * a + 4 * b, {"a": a, "b": b}, np.arange(1000) // 250, np.array([25.0]))
    assert np.allclose(found.shapley[:, 0], [9, 16], atol=1.5) and np.allclose(found.rest, 0, atol=1.5)
    ```
    """
    groups, centred = tuple(coordinates), _centred(values)
    draws, entries = values.shape
    kept, reduced = _reduced(coordinates)
    linear, owners = _standardised(kept)
    size = linear.shape[1]
    if draws < FEWEST_DRAWS or size == 0 or not np.any(centred) or not np.any(variance > 0):
        nothing = np.zeros((len(groups), entries))
        none, whole = np.zeros(entries), np.maximum(0.0, variance)
        return Attribution(
            groups, nothing, nothing, whole, nothing, none, nothing, none, draws, size, 0, False, reduced, 0
        )
    room = min(draws // DRAWS_PER_COLUMN, MOST_COLUMNS) - size - 1
    columns, column_owners, leading = _with_products(linear, owners, centred, room)
    chains = len(np.unique(chain))
    folds = _segments(chain, chains if 2 <= chains <= FOLDS else FOLDS)
    penalty = _penalty(columns, centred, folds) if room < 0 else ROUNDING
    fit = _CrossFit(columns, column_owners, centred, folds, penalty)
    division = _shapley(fit, len(groups), _segments(chain, BLOCKS), variance)
    parts, joint = _parts(linear, owners, centred, folds, penalty, len(groups))
    return Attribution(
        groups, *division[:5], parts, joint, draws, size, leading, room < 0, reduced, division[5]
    )


# Coordinates and columns


def _reduced(coordinates):
    """Leading principal components of the largest groups where all together are too many; chosen without `f`."""
    total = sum(x.shape[1] for x in coordinates.values())
    if total <= MOST_COLUMNS:
        return dict(coordinates), ()
    most = MOST_COLUMNS // len(coordinates)
    kept = {name: _leading(x, most) if x.shape[1] > most else x for name, x in coordinates.items()}
    return kept, tuple(name for name, x in coordinates.items() if x.shape[1] > most)


def _leading(x, most):
    scaled, _ = _standardised({"": x})
    if scaled.shape[1] > len(scaled):
        return np.linalg.eigh(scaled @ scaled.T)[1][:, ::-1][:, :most]
    return scaled @ np.linalg.eigh(scaled.T @ scaled)[1][:, ::-1][:, :most]


def _standardised(coordinates):
    """All coordinates side by side with mean 0 and sd 1, and the group of each as a bit."""
    columns, owners = [np.zeros((len(next(iter(coordinates.values()), ())), 0))], []
    for bit, x in enumerate(coordinates.values()):
        moving = _moving(x)
        columns.append((x[:, moving] - x[:, moving].mean(axis=0)) / x[:, moving].std(axis=0))
        owners += [1 << bit] * int(moving.sum())
    return np.concatenate(columns, axis=1), np.array(owners, dtype=int)


def _centred(values):
    """Values less their means, and zero where they move by rounding alone."""
    return np.where(_moving(values), values - values.mean(axis=0), 0.0)


def _moving(x):
    """Which columns move by more than rounding."""
    return x.std(axis=0) > 1e-12 * np.maximum(np.abs(x.mean(axis=0)), 1e-300)


def _with_products(linear, owners, centred, room):
    """The coordinates and, as far as there is room, squares and products of those that tell most about `f`."""
    count = linear.shape[1]
    leading = min(count, int((np.sqrt(8 * max(room, 0) + 1) - 1) / 2))
    chosen = np.sort(_told(linear, centred)[:leading])
    pairs = np.array(list(combinations_with_replacement(chosen, 2)), dtype=int).reshape(-1, 2)
    products = linear[:, pairs[:, 0]] * linear[:, pairs[:, 1]]
    products = products - products.mean(axis=0)
    sd = products.std(axis=0)
    products, pairs = products[:, sd > 0] / sd[sd > 0], pairs[sd > 0]
    joint = owners[pairs[:, 0]] | owners[pairs[:, 1]]
    return np.concatenate([linear, products], axis=1), np.concatenate([owners, joint]), leading


def _told(linear, centred):
    """The coordinates, first the one that alone explains most of `f` by itself and its square."""
    square = linear**2 - 1.0
    square = square - linear * (linear * square).mean(axis=0)
    square = square / np.maximum(square.std(axis=0), 1e-300)
    sd = centred.std(axis=0)
    scaled = centred[:, sd > 0] / sd[sd > 0]
    told = sum(((part.T @ scaled / len(linear)) ** 2).sum(axis=1) for part in (linear, square))
    return np.argsort(-told, kind="stable")


# The regression


def _segments(chain, count):
    """About `count` sets of draws, numbered: whole chains where there are enough, else runs within each chain."""
    numbers = np.unique(chain)
    label = np.empty(len(chain), dtype=int)
    if len(numbers) >= count:
        for i, some in enumerate(np.array_split(numbers, count)):
            label[np.isin(chain, some)] = i
        return label
    each, found = max(1, count // len(numbers)), 0
    for number in numbers:
        for run in np.array_split(np.flatnonzero(chain == number), each):
            if len(run):
                label[run] = found
                found += 1
    return label


class _CrossFit:
    """Regressions on any set of columns, each set of draws predicted by what was fitted to the others."""

    def __init__(self, columns, owners, centred, folds, penalty):
        self.columns, self.owners, self.centred, self.penalty = columns, owners, centred, penalty
        self.rows = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
        own = [(columns[rows].T @ columns[rows], columns[rows].T @ centred[rows]) for rows in self.rows]
        gram, moment = (sum(part[i] for part in own) for i in (0, 1))
        self.others = [(gram - a, moment - b) for a, b in own]

    def predicted(self, coalition: int) -> np.ndarray:
        """`E[f | T_S]` for the groups whose bits are set, by draw."""
        chosen = np.flatnonzero((self.owners & ~coalition) == 0)
        told = np.zeros_like(self.centred)
        for rows, (gram, moment) in zip(self.rows, self.others, strict=True):
            count = len(self.columns) - len(rows)
            told[rows] = self.columns[np.ix_(rows, chosen)] @ _solved(
                gram[np.ix_(chosen, chosen)], moment[chosen], self.penalty * count
            )
        return told


def _solved(gram, moment, penalty):
    return np.linalg.solve(gram + penalty * np.eye(len(gram)), moment)


def _penalty(columns, centred, folds):
    """The shrinkage under which all groups together predict best what was not fitted."""
    centred = centred[:, np.any(centred, axis=0)]
    sd = centred.std(axis=0)

    def missed(penalty):
        told = _CrossFit(columns, np.zeros(columns.shape[1], int), centred, folds, penalty).predicted(0)
        return np.mean(((centred - told) / sd) ** 2)

    return min(PENALTIES, key=missed)


# The division


def _shapley(fit, count, blocks, variance):
    """Effects, values alone, rest, errors of effects and of the rest, and how many permutations were used."""
    orders = _orders(count) if count > EXACT_GROUPS else None
    weights = _sampled_weights(orders, count) if orders is not None else _exact_weights(count)
    whole = (1 << count) - 1
    numbers = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    values = {0: np.zeros(len(variance))}
    effects = np.zeros((count, len(variance)))
    by_block = np.zeros((count, len(numbers), len(variance)))
    for coalition, weight in weights:
        told = fit.predicted(coalition)
        values[coalition] = np.clip((fit.centred * told).mean(axis=0), 0.0, np.maximum(0.0, variance))
        explained = told * (2.0 * fit.centred - told)
        pieces = np.stack([explained[rows].mean(axis=0) for rows in numbers])
        effects += weight[:, None] * values[coalition]
        by_block += weight[:, None, None] * pieces
        if coalition == whole:
            missed = np.stack([(fit.centred[rows] ** 2).mean(axis=0) for rows in numbers]) - pieces
    errors = _jackknife(by_block, axis=1) ** 2
    if orders is not None:
        errors += _variance_of_orders(orders, values)
    alone = np.stack([values[1 << g] for g in range(count)])
    rest = np.maximum(0.0, variance) - effects.sum(axis=0)
    return (
        effects,
        alone,
        rest,
        np.sqrt(errors),
        _jackknife(missed, axis=0),
        0 if orders is None else len(orders),
    )


def _jackknife(pieces, axis):
    """Standard error of a mean of blocks with one block left out in turn.

    The coefficients stay as they are: where they minimise the square error its derivative with respect to
    them is zero, so that refitting them changes the figure in second order only.
    """
    return pieces.std(axis=axis, ddof=1) / np.sqrt(pieces.shape[axis])


def _exact_weights(count) -> Iterator[tuple[int, np.ndarray]]:
    """Each coalition with the weight of its value in the effect of each group."""
    for coalition in range(1, 1 << count):
        members = np.array([coalition >> g & 1 for g in range(count)], dtype=bool)
        size = int(members.sum())
        joined = factorial(size - 1) * factorial(count - size) / factorial(count)
        left = factorial(size) * factorial(count - size - 1) / factorial(count) if size < count else 0.0
        yield coalition, np.where(members, joined, -left)


def _orders(count):
    """Random orders of the groups, each followed by its reverse, whose errors cancel in part."""
    generator = np.random.default_rng(0)
    orders = [generator.permutation(count) for _ in range(PERMUTATIONS // 2)]
    return [order for one in orders for order in (one, one[::-1])]


def _sampled_weights(orders, count) -> Iterator[tuple[int, np.ndarray]]:
    weights: dict[int, np.ndarray] = {1 << g: np.zeros(count) for g in range(count)}
    for order in orders:
        coalition = 0
        for g in order:
            if coalition:
                weights[coalition][g] -= 1 / len(orders)
            coalition |= 1 << int(g)
            weights.setdefault(coalition, np.zeros(count))[g] += 1 / len(orders)
    yield from weights.items()


def _variance_of_orders(orders, values):
    """Squared standard error of the effects from using some orders instead of all, by pairs of orders."""
    gains = np.zeros((len(orders), len(orders[0]), len(values[0])))
    for row, order in zip(gains, orders, strict=True):
        coalition = 0
        for g in order:
            row[g] = values[coalition | 1 << int(g)] - values[coalition]
            coalition |= 1 << int(g)
    pairs = (gains[::2] + gains[1::2]) / 2
    return pairs.var(axis=0, ddof=1) / len(pairs)


def _parts(linear, owners, centred, folds, penalty, count):
    """Variances of the groups' parts of the linear fit and of their sum.

    Each variance is the covariance of two fits to different halves of the draws, so that the noise of
    coefficients, large where groups can hardly be told apart, does not pass for spread.
    """
    halves = []
    for half in (folds % 2 == 0, folds % 2 == 1):
        x, f = linear[half], centred[half]
        halves.append(_solved(x.T @ x, x.T @ f, penalty * len(x)))
    parts = np.zeros((count, centred.shape[1]))
    for g in range(count):
        own = owners == 1 << g
        one, other = (linear[:, own] @ half[own] for half in halves)
        parts[g] = np.maximum(0.0, (one * other).mean(axis=0))
    one, other = (linear @ half for half in halves)
    return parts, np.maximum(0.0, (one * other).mean(axis=0))
