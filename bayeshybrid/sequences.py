"""Networks that go along a series step by step: a long short-term memory and a causal Transformer.

They are built with placeholders (zeros), like every network here: who draws their weights gives them priors.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayeshybrid.architecture import MLP, Layer
from bayeshybrid.faults import ModelError

__all__ = ["LongShortTermMemory", "Transformer", "positions"]

REMEMBERED = 1.0  # added to the forget gate, so that a memory lasts some steps before anything is learned
SHORTEST, LONGEST = 4.0, 2.0  # wavelengths of the time encoding: in steps, and in lengths of the record


def _affine(out_size: int, in_size: int) -> Layer:
    return Layer(np.zeros((out_size, in_size)), np.zeros(out_size))


class LongShortTermMemory(eqx.Module):
    """A long short-term memory (Hochreiter and Schmidhuber 1997, "Long short-term memory") that runs freely.

    Its state is carried over steps of equal length with known inputs, and no measurement enters: so it forecasts as it
    fits. With the forget gate of Gers, Schmidhuber and Cummins (2000), "Learning to forget", i, f, g, o affine in
    inputs and hidden state: `cell = sigmoid(f + 1) cell + sigmoid(i) tanh(g)`, `hidden = sigmoid(o) tanh(cell)`; the
    output is affine in the hidden state. The cell begins at weights of its own, `start`, and the hidden state at their
    tanh.

    **Arguments:**

    - `in_size`, `out_size`: numbers of known inputs, which may be none, and of outputs.
    - `width`: entries of the cell.

    **Raises:** `ModelError` for sizes that are no whole numbers above zero.

    ```python
    from bayeshybrid.sequences import LongShortTermMemory
    assert LongShortTermMemory(0, 2, width=4)(jnp.zeros((7, 0))).shape == (8, 2)
    ```
    """

    gates: Layer
    readout: Layer
    start: Float[Any, " width"]

    def __init__(self, in_size: int, out_size: int, width: int = 6):
        _check_sizes("LongShortTermMemory", out_size=out_size, width=width)
        self.gates = _affine(4 * width, in_size + width)
        self.readout = _affine(out_size, width)
        self.start = np.zeros(width)

    def __call__(self, inputs: Float[Array, "steps in"]) -> Float[Array, "ends out"]:
        """The outputs at the start and behind each step, one more than there are steps."""

        def step(state, x):
            hidden, cell = self.stepped(state[0], state[1], x)
            return (hidden, cell), hidden

        cell = jnp.asarray(self.start)
        start = jnp.tanh(cell)
        _, hidden = jax.lax.scan(step, (start, cell), inputs)
        return self.readout(jnp.concatenate([start[None], hidden]))

    def stepped(
        self, hidden: Float[Array, " width"], cell: Float[Array, " width"], x: Float[Array, " in"]
    ) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
        """Hidden state and cell one step later."""
        i, f, g, o = jnp.split(self.gates(jnp.concatenate([x, hidden])), 4)
        cell = jax.nn.sigmoid(f + REMEMBERED) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


class Block(eqx.Module):
    """One layer of a Transformer: each place looks at itself and what came before, then thinks for itself.

    Both parts are added to what comes in, which is normalised before (Xiong et al. 2020, "On layer normalization in the
    Transformer architecture"), without weights of the norm.
    """

    query: Layer
    key: Layer
    value: Layer
    joined: Layer
    feed: MLP
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int):
        self.query, self.key, self.value, self.joined = (_affine(width, width) for _ in range(4))
        self.feed = MLP(width, width, width=2 * width)
        self.heads = heads

    def __call__(self, x: Float[Array, "places width"]) -> Float[Array, "places width"]:
        """The places one layer on."""
        x = x + self.attended(normalised(x))
        return x + self.feed(normalised(x))

    def attended(self, x: Float[Array, "places width"]) -> Float[Array, "places width"]:
        """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2), to no later place."""
        q, k, v = (layer(x).reshape(len(x), self.heads, -1) for layer in (self.query, self.key, self.value))
        scores = jnp.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        earlier = jnp.broadcast_to(jnp.tril(jnp.ones((len(x), len(x)), bool))[None], scores.shape)
        shares = jax.nn.softmax(jnp.where(earlier, scores, -jnp.inf), axis=-1)
        return self.joined(jnp.einsum("hqk,khd->qhd", shares, v).reshape(len(x), -1))


class Transformer(eqx.Module):
    """A small causal Transformer encoder (Vaswani et al. 2017, "Attention is all you need") over encoded times.

    What stands at a place is its time, as `positions` writes it, with known inputs; no measurement enters, and no place
    sees a later one: so it forecasts as it fits.

    **Arguments:**

    - `in_size`, `out_size`: numbers of known inputs, which may be none, and of outputs.
    - `width`: entries of each place, a multiple of twice the heads.
    - `heads`, `depth`: attention heads in a layer, and layers.

    **Raises:** `ModelError` for sizes that are no whole numbers above zero or do not go together.

    ```python
    from bayeshybrid.sequences import Transformer, positions
    places = positions(7, 8, length=6)
    assert Transformer(0, 2, width=8)(places, jnp.zeros((7, 0))).shape == (7, 2)
    ```
    """

    embed: Layer
    blocks: tuple[Block, ...]
    readout: Layer

    def __init__(self, in_size: int, out_size: int, width: int = 8, heads: int = 2, depth: int = 1):
        _check_sizes("Transformer", out_size=out_size, width=width, heads=heads, depth=depth)
        if width % (2 * heads):
            raise ModelError(
                f"Transformer: width = {width} must be a multiple of {2 * heads}, twice the heads: each head has "
                "pairs of a sine and a cosine"
            )
        self.embed = _affine(width, width + in_size)
        self.blocks = tuple(Block(width, heads) for _ in range(depth))
        self.readout = _affine(out_size, width)

    def __call__(
        self, places: Float[Array, "places width"], inputs: Float[Array, "places in"]
    ) -> Float[Array, "places out"]:
        """The outputs at each place."""
        x = self.embed(jnp.concatenate([places, inputs], axis=-1))
        for block in self.blocks:
            x = block(x)
        return self.readout(normalised(x))


def normalised(x: Float[Array, "places width"]) -> Float[Array, "places width"]:
    """Each place with mean zero and variance one (Ba, Kiros and Hinton 2016, "Layer normalization").

    ```python
    from bayeshybrid.sequences import normalised
    assert jnp.allclose(normalised(jnp.array([[1.0, 3.0]])), jnp.array([[-1.0, 1.0]]), atol=1e-4)
    ```
    """
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + 1e-5)


def positions(count: int, width: int, length: float) -> np.ndarray:
    """The times of equal steps as sines and cosines of many wavelengths (Vaswani et al. 2017, section 3.5).

    Wavelengths rise geometrically from four steps to twice the length of the record; theirs, up to 60,000 steps, are
    made for sentences.

    **Arguments:**

    - `count`: how many places; `width`: entries of each, an even number; `length`: of the record, in steps.

    **Returns:** `(count, width)`.

    ```python
    from bayeshybrid.sequences import positions
    assert positions(3, 4, length=20)[0].tolist() == [0.0, 0.0, 1.0, 1.0]
    ```
    """
    wavelengths = np.geomspace(SHORTEST, max(LONGEST * length, SHORTEST), width // 2)
    angles = 2.0 * np.pi * np.arange(count)[:, None] / wavelengths
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _check_sizes(kind: str, **sizes: Any) -> None:
    for what, size in sizes.items():
        if not isinstance(size, int | np.integer) or size < 1:
            raise ModelError(f"{kind}: {what} = {size!r} must be a whole number above zero.")
