"""The weights of a network as unknowns: their paths, their priors, and the size of what they make of it.

A user states the size of a network's output, not that of its weights. Here the one becomes the other: by a
formula for our own layers, by draws of the prior for a foreign module.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import numpyro.distributions as dist
from jax.core import Tracer
from jaxtyping import Array

from .architecture import MLP, apply_along_last
from .faults import ModelError

__all__ = ["Prior", "paths_and_shapes", "weight_priors", "zero_paths"]

Prior = (
    dist.Distribution | Mapping[str, dist.Distribution] | Callable[[str, tuple[int, ...]], dist.Distribution]
)

_remembered: dict[Hashable, Any] = {}


def paths_and_shapes(net: Any) -> dict[str, tuple[int, ...]]:
    """Path to shape of every weight, in tree order; the paths are those of `random_eqx_module`.

    ```python
    from bayeshybrid.weights import paths_and_shapes
    assert paths_and_shapes(bh.MLP(2, 1, width=8))["layers[0].weight"] == (8, 2)
    ```
    """
    leaves = jtu.tree_leaves_with_path(eqx.filter(net, eqx.is_inexact_array))
    return {jtu.keystr(path)[1:]: tuple(np.shape(leaf)) for path, leaf in leaves}


def _default_prior(path: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a weight: its inputs are all axes but the first; a vector is a bias."""
    return 1.0 / float(np.sqrt(np.prod(shape[1:]))) if len(shape) > 1 else 1.0


def weight_priors(name: str, net: Any, prior: Any, size: int) -> tuple[dict[str, dist.Distribution], Any]:
    """The prior of each weight, and what the output must be multiplied by so that its sd is one.

    **Arguments:** the network's name, its module, the prior as `network` takes it, the number of inputs.

    **Raises:** `ModelError` for paths that are no weights, and priors under which the output has no size.

    ```python
    from bayeshybrid.weights import weight_priors
    priors, factor = weight_priors("f", bh.MLP(4, 1), None, 4)
    assert np.isclose(priors["layers[0].weight"].scale, 0.5) and factor == 1.0
    ```
    """
    shapes = paths_and_shapes(net)
    spreads = {path: _default_prior(path, shape) for path, shape in shapes.items()}
    if prior is None and isinstance(net, MLP):
        shrink = _last_layer_factor(net.activation, len(net.layers) - 1)
        last = f"layers[{len(net.layers) - 1}]"
        spreads = {path: sd * (shrink if path.startswith(last) else 1.0) for path, sd in spreads.items()}
        return {path: dist.Normal(0.0, sd) for path, sd in spreads.items()}, 1.0
    priors = {path: _prior_of(name, prior, path, shape, spreads[path]) for path, shape in shapes.items()}
    unknown = set(prior) - set(shapes) if isinstance(prior, Mapping) else set()
    if unknown:
        raise ModelError(
            f"network {name!r}: prior names {sorted(unknown)}; the weights are {sorted(shapes)}."
        )
    return priors, _recall("factor", net, priors, size, lambda: _output_factor(name, net, priors, size))


def _recall(question: str, net: Any, priors: Any, size: int, answer: Callable[[], Any]) -> Any:
    """The answer given before for the same module, priors and size: a model is traced many times."""
    fixed = eqx.filter(net, eqx.is_inexact_array, inverse=True)
    leaves, tree = jtu.tree_flatten((fixed, dict(priors)))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return answer()
    marks = tuple(
        (leaf.shape, str(leaf.dtype), np.asarray(leaf).tobytes()) if eqx.is_array(leaf) else leaf
        for leaf in leaves
    )
    asked = (question, tree, marks, tuple(paths_and_shapes(net).items()), size, str(jnp.result_type(float)))
    try:
        if asked not in _remembered:
            if len(_remembered) >= 64:
                _remembered.clear()
            _remembered[asked] = answer()
        return _remembered[asked]
    except TypeError:  # a part of the module that cannot be compared
        return answer()


def _prior_of(name: str, prior: Any, path: str, shape: tuple[int, ...], sd: float) -> dist.Distribution:
    if isinstance(prior, Mapping):
        prior = prior.get(path)
    elif callable(prior) and not isinstance(prior, dist.Distribution):
        prior = prior(path, shape)
    prior = dist.Normal(0.0, sd) if prior is None else prior
    if not isinstance(prior, dist.Distribution):
        raise ModelError(f"network {name!r}: the prior of {path} is {prior!r}; give a numpyro distribution.")
    return prior


@lru_cache(maxsize=64)
def _last_layer_factor(activation: Callable[[Array], Array], depth: int) -> float:
    """By how much the last layer shrinks so that the output's prior sd is one.

    With inputs of size one the variance of a hidden layer's entries before activation is `q + 1`, q the mean
    square of what comes in; `q' = E[activation(sqrt(q + 1) z)^2]`, z standard normal (Neal 1996).
    """
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    square = 1.0
    for _ in range(depth):
        with jax.ensure_compile_time_eval():
            response = np.asarray(activation(jnp.asarray(np.sqrt(square + 1.0) * points)))
        square = float(np.sum(weights * response**2))
    return 1.0 / float(np.sqrt(square + 1.0))


def _output_factor(name: str, net: Any, priors: Mapping[str, dist.Distribution], size: int) -> float:
    """One over the output's prior sd at standard normal inputs, by 4,000 fixed draws.

    Where a prior has no variance half the central 68 % range stands for the sd.
    """
    if any(isinstance(leaf, Tracer) for leaf in jtu.tree_leaves(priors)):
        raise ModelError(
            f"network {name!r}: a prior of the weights depends on another unknown, so the scale of the "
            "output cannot "
            "be set; keep plain numbers in the prior and give that unknown as scale=."
        )
    with jax.ensure_compile_time_eval():
        key = jax.random.key(20)
        draw = jax.jit(jax.vmap(lambda k: _prior_output(net, priors, size, k)))
        outputs = np.asarray(draw(jax.random.split(key, 4000)))
        half = float(np.std(outputs))
        if not all(map(_has_variance, priors.values())):
            half = 0.5 * float(np.diff(np.quantile(outputs, [0.158655, 0.841345]))[0])
    if not np.isfinite(half) or half <= 0.0:
        raise ModelError(
            f"network {name!r}: under its prior the output is "
            f"{'constant' if half == 0.0 else 'not finite'} at typical "
            "inputs; check the module and the prior of its weights."
        )
    return 1.0 / half


def _has_variance(prior: dist.Distribution) -> bool:
    try:
        return bool(np.all(np.isfinite(np.asarray(prior.variance))))
    except NotImplementedError:
        return False


def _prior_output(net: Any, priors: Mapping[str, dist.Distribution], size: int, key: Any) -> Array:
    weights = paths_and_shapes(net)
    keys = jax.random.split(key, len(weights) + 1)
    drawn = {}
    for k, (path, shape) in zip(keys[1:], weights.items(), strict=True):
        d = priors[path]
        drawn[path] = d.expand(shape[: len(shape) - d.event_dim]).sample(k)
    return apply_along_last(_with_weights(net, drawn), jax.random.normal(keys[0], (size,)))


def _with_weights(net: Any, values: Mapping[str, Any]) -> Any:
    arrays, static = eqx.partition(net, eqx.is_inexact_array)
    filled = jtu.tree_map_with_path(lambda path, _: values[jtu.keystr(path)[1:]], arrays)
    return eqx.combine(filled, static)


def zero_paths(name: str, net: Any, size: int) -> frozenset[str]:
    """The fewest weights, counted from the last, whose zeros make the output zero.

    **Raises:** `ModelError` where the output is not zero even with all weights zero.

    ```python
    from bayeshybrid.weights import zero_paths
    assert zero_paths("f", bh.MLP(2, 1), 2) == {"layers[1].weight", "layers[1].bias"}
    ```
    """
    paths = list(paths_and_shapes(net))
    if isinstance(net, MLP):
        return frozenset(paths[-2:])
    return _recall("zero", net, {}, size, lambda: _search_zero(name, net, size, paths))


def _search_zero(name: str, net: Any, size: int, paths: list[str]) -> frozenset[str]:
    shapes = paths_and_shapes(net)
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(7), len(paths) + 1)
        values = {p: jax.random.normal(k, shapes[p]) for p, k in zip(paths, keys[1:], strict=True)}
        inputs = jax.random.normal(keys[0], (5, size))
        for path in reversed(paths):
            values[path] = jnp.zeros(shapes[path])
            if not np.any(np.asarray(apply_along_last(_with_weights(net, values), inputs))):
                return frozenset(p for p in paths if not np.any(np.asarray(values[p])))
    raise ModelError(
        f'network {name!r}: initial="zero", but with all weights zero its output is not; use '
        'initial="prior", or '
        "subtract what it says with zero weights."
    )
