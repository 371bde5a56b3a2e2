"""What a network is made of before it has priors: layers, and any module applied along the last axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .faults import ModelError

__all__ = ["MLP", "Layer", "MonotoneMLP", "along_last", "apply_along_last", "check_stateless", "input_size"]


def along_last(vector: ArrayLike, rank: int) -> Array:
    """A vector, or a single number, as an array of `rank` axes lying along the last one.

    ```python
    from bayeshybrid.architecture import along_last
    assert along_last(jnp.ones(2), 3).shape == (1, 1, 2)
    ```
    """
    vector = jnp.asarray(vector)
    return vector if vector.ndim == 0 else vector.reshape((1,) * (rank - vector.ndim) + vector.shape)


class Layer(eqx.Module):
    """One affine map along the last axis: `weight` of shape `(out, in)`, `bias` of shape `(out,)`.

    ```python
    from bayeshybrid.architecture import Layer
    layer = Layer(np.ones((2, 3)), np.zeros(2))
    assert layer(jnp.ones((5, 3))).shape == (5, 2)
    ```
    """

    weight: Float[ArrayLike, "out in"]
    bias: Float[ArrayLike, " out"]

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        """The layer's outputs, axes in front kept."""
        product = jnp.matmul(x, jnp.swapaxes(self.weight, 0, 1))
        return product + along_last(self.bias, product.ndim)


class MLP(eqx.Module):
    """A fully connected network of `depth` hidden layers of `width`, whose weights `network` gives priors.

    It is built with placeholders (zeros): only the shapes matter to the statement.

    **Arguments:**

    - `in_size`, `out_size`: numbers of inputs and outputs, along the last axis.
    - `width`: entries of each hidden layer.
    - `depth`: number of hidden layers; zero makes it affine.
    - `activation`: elementwise function between layers. The default is smooth, so that an adaptive solver
      keeps its order.

    **Raises:** `ModelError` for sizes that are no whole numbers above zero.

    ```python
    net = bh.MLP(2, 2, width=8)
    assert net(jnp.ones((5, 2))).shape == (5, 2)
    ```
    """

    layers: tuple[Layer, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    in_size: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        width: int = 8,
        depth: int = 1,
        activation: Callable[[Array], Array] = jnp.tanh,
    ):
        sizes = {"in_size": in_size, "out_size": out_size, "width": width}
        for key, size in sizes.items():
            if not isinstance(size, int | np.integer) or size < 1:
                raise ModelError(f"MLP: {key} = {size!r} must be a whole number above zero.")
        if not isinstance(depth, int | np.integer) or depth < 0:
            raise ModelError(f"MLP: depth = {depth!r} must be a whole number, zero or more.")
        widths = (in_size, *(width,) * depth, out_size)
        self.layers = tuple(
            Layer(np.zeros((after, before)), np.zeros(after)) for before, after in pairwise(widths)
        )
        self.activation = activation
        self.in_size = in_size
        self.out_size = out_size

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        """The network's outputs, axes in front kept."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class MonotoneMLP(eqx.Module):
    """A fully connected network that rises or falls with some of its inputs, whatever its weights.

    Behind the first layer all weights are positive, by a softplus, and so are those of the inputs it rises with; those
    of inputs that it falls with are negative, and the others free. With two hidden layers it can come near any
    function that is monotone in up to two inputs, and with as many layers as there are such inputs any other (Daniels
    and Velikova 2010, "Monotone and partially monotone neural networks", IEEE Transactions on Neural Networks 21).

    **Arguments:**

    - `in_size`, `out_size`: numbers of inputs and outputs, along the last axis.
    - `rises`, `falls`: places of the inputs that every output rises or falls with.
    - `width`: entries of each hidden layer; `depth`: number of hidden layers.

    **Raises:** `ModelError` for sizes that are no whole numbers above zero, places that are no inputs or stand in
    both, and where there is none.

    ```python
    net = bh.MonotoneMLP(2, 1, rises=(0,))
    assert net(jnp.array([1.0, 0.0])) > net(jnp.array([0.0, 0.0]))
    ```
    """

    layers: tuple[Layer, ...]
    signs: tuple[int, ...] = eqx.field(static=True)
    in_size: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        rises: Sequence[int] = (),
        falls: Sequence[int] = (),
        width: int = 8,
        depth: int = 2,
    ):
        self.layers = MLP(in_size, out_size, width, depth).layers
        if depth < 1:
            raise ModelError(f"MonotoneMLP: depth = {depth!r} must be a whole number above zero.")
        places = (*rises, *falls)
        if not places or len(set(places)) < len(places) or not set(places) <= set(range(in_size)):
            raise ModelError(
                f"MonotoneMLP: rises={tuple(rises)} and falls={tuple(falls)} must name inputs among 0 to "
                f"{in_size - 1}, at least one and none twice."
            )
        self.signs = tuple((place in rises) - (place in falls) for place in range(in_size))
        self.in_size, self.out_size = in_size, out_size

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """The network's outputs at one point."""
        first, *others = self.layers
        signs = np.array(self.signs)[None]
        weight = jnp.where(signs == 0, first.weight, signs * jax.nn.softplus(first.weight))
        x = Layer(weight, first.bias)(x)
        for layer in others:
            positive = jax.nn.softplus(layer.weight) / np.sqrt(np.shape(layer.weight)[1])
            x = Layer(positive, layer.bias)(jnp.tanh(x))
        return x


def apply_along_last(net: Any, x: Array) -> Array:
    """The module's outputs along the last axis: ours takes axes in front, a foreign one a point at a time.

    **Arguments:** the module, and inputs of shape `(..., in)`.

    **Returns:** outputs of shape `(..., out)`; a module that returns a single number has `out` of one.

    ```python
    from bayeshybrid.architecture import apply_along_last
    assert apply_along_last(bh.MLP(2, 3), jnp.ones((5, 2))).shape == (5, 3)
    ```
    """
    if isinstance(net, MLP):
        return net(x)
    if getattr(net, "in_size", None) == "scalar":
        x = x[..., 0]
        points, lead = x.reshape(-1), x.shape
    else:
        points, lead = x.reshape((-1, x.shape[-1])), x.shape[:-1]
    outputs = (
        jnp.atleast_1d(net(points[0]))[None]
        if not lead
        else jax.vmap(lambda p: jnp.atleast_1d(net(p)))(points)
    )
    return outputs.reshape(lead + outputs.shape[1:])


def check_stateless(name: str, net: Any) -> None:
    """Raise `ModelError` unless every part of the module is a fixed function or a weight.

    A weight has a posterior; a running mean or a dropped unit has none.

    ```python
    from bayeshybrid.architecture import check_stateless
    check_stateless("f", bh.MLP(2, 1))
    ```
    """
    if not isinstance(net, eqx.Module) or not callable(net):
        raise ModelError(
            f"network {name!r}: {net!r} is no callable Equinox module; write MLP(2, 1) or eqx.nn.MLP(...)."
        )
    special = (eqx.nn.StateIndex, eqx.nn.BatchNorm, eqx.nn.Dropout)
    for part in jtu.tree_leaves(net, is_leaf=lambda leaf: isinstance(leaf, special)):
        if isinstance(part, eqx.nn.StateIndex | eqx.nn.BatchNorm):
            raise ModelError(
                f"network {name!r}: {type(part).__name__} keeps a running state, which cannot be sampled; "
                "use "
                "eqx.nn.LayerNorm, or leave it out: center and spread already standardise the inputs."
            )
        if isinstance(part, eqx.nn.Dropout) and not part.inference:
            raise ModelError(
                f"network {name!r}: Dropout draws new noise at each call, so the weights have no density; "
                "leave it "
                "out (the prior regularises), or write eqx.nn.inference_mode(net)."
            )
    if not jtu.tree_leaves(eqx.filter(net, eqx.is_inexact_array)):
        raise ModelError(f"network {name!r}: {type(net).__name__} has no weights (floating-point arrays).")


def input_size(net: Any) -> int | None:
    """How many inputs a module takes, `None` where it does not say.

    ```python
    from bayeshybrid.architecture import input_size
    assert input_size(bh.MLP(2, 1)) == 2
    ```
    """
    for attribute in ("in_size", "in_features"):
        size = getattr(net, attribute, None)
        if size == "scalar":
            return 1
        if isinstance(size, int | np.integer):
            return int(size)
    known = (eqx.nn.Linear, eqx.nn.MLP, MLP)
    for part in jtu.tree_leaves(net, is_leaf=lambda leaf: isinstance(leaf, known)):
        if isinstance(part, known) and part is not net:
            return input_size(part)
    return None
