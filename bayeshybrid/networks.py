"""Networks inside a model: priors on their weights, inputs and outputs in the scientist's units.

`network` is a statement. It gives every weight a prior through numpyro, scales the inputs to order one and the
output to the size that you expect of the unknown term. Each call notes what it was asked while a `recording` is
open, so that later questions (where does it extrapolate, do its functions agree between chains) have inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.extend.core import get_opaque_trace_state
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.contrib.module import random_eqx_module
from numpyro.primitives import apply_stack

from . import sites
from .faults import ModelError

INPUTS = "bayeshybrid.inputs"
"""Type of the message by which a network asks for the centre and spread of its inputs."""

NETWORK = "bayeshybrid.network"
"""Type of the message by which a network says that it has been built."""

Prior = dist.Distribution | Mapping[str, dist.Distribution] | Callable[[str, tuple[int, ...]], dist.Distribution]

_open = threading.local()


@contextmanager
def recording() -> Iterator[dict[str, list[tuple[Array, Array]]]]:
    """While open, every call of a `Network` in the same trace is noted.

    Notes hold values of the transformation (`vmap`, `jit`, a solver's loop) in which the recording was opened;
    calls made in another one are not noted, because their values could not be used here. Open it inside the
    mapped function and return the notes as outputs. Recordings nest; the innermost one notes. Each thread has
    its own.

    **Returns:** a mapping from network name to a list of `(inputs, outputs)`, filled as calls are made.

    ```python
    from bayeshybrid.networks import recording
    def model(x):
        return bh.network("f", bh.MLP(1, 1), scale=1.0, center=0.0, spread=1.0)(x)
    with recording() as notes:
        numpyro.handlers.seed(model, 0)(jnp.ones((3, 1)))
    assert notes["f"][0][1].shape == (3, 1)
    ```
    """
    notes: dict[str, list[tuple[Array, Array]]] = {}
    stack = _recordings()
    stack.append((notes, get_opaque_trace_state()))
    try:
        yield notes
    finally:
        stack.pop()


def _recordings() -> list[tuple[dict[str, list[tuple[Array, Array]]], Any]]:
    if not hasattr(_open, "stack"):
        _open.stack = []
    return _open.stack


def _note(name: str, inputs: Array, outputs: Array) -> None:
    stack = _recordings()
    if stack and stack[-1][1] == get_opaque_trace_state():
        stack[-1][0].setdefault(name, []).append((inputs, outputs))


def _along_last(vector: ArrayLike, rank: int) -> Array:
    """A vector, or a single number, as an array of that rank lying along the last axis."""
    vector = jnp.asarray(vector)
    return vector if vector.ndim == 0 else vector.reshape((1,) * (rank - vector.ndim) + vector.shape)


class Layer(eqx.Module):
    """One affine map along the last axis: `weight` of shape `(out, in)`, `bias` of shape `(out,)`.

    ```python
    from bayeshybrid.networks import Layer
    layer = Layer(np.ones((2, 3)), np.zeros(2))
    assert layer(jnp.ones((5, 3))).shape == (5, 2)
    ```
    """

    weight: Float[ArrayLike, "out in"]
    bias: Float[ArrayLike, " out"]

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        product = jnp.matmul(x, jnp.swapaxes(self.weight, 0, 1))
        return product + _along_last(self.bias, product.ndim)


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
            Layer(np.zeros((after, before)), np.zeros(after))
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        self.activation = activation
        self.in_size = in_size
        self.out_size = out_size

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class Network(eqx.Module):
    """A network of a model: `outputs = limits(scale * net((inputs - center) / spread))`.

    What `network` returns. It is a pytree, so it can be handed to a solver in `args`, and it may be mapped,
    compiled and differentiated. The last axis holds the inputs; axes in front are kept.

    ```python
    def model():
        return bh.network("f", bh.MLP(2, 1), scale=3.0, center=0.0, spread=1.0)
    f = numpyro.handlers.seed(model, 0)()
    assert f(jnp.ones((4, 5, 2))).shape == (4, 5, 1)
    ```
    """

    net: eqx.Module
    center: Float[Array, "..."]
    spread: Float[Array, "..."]
    scale: Float[Array, "..."]
    name: str = eqx.field(static=True)
    in_size: int = eqx.field(static=True)
    bounds: tuple[float | None, float | None] | None = eqx.field(static=True, default=None)
    unit: str | None = eqx.field(static=True, default=None)

    def __call__(self, inputs: Float[ArrayLike, "*batch in"]) -> Float[Array, "*batch out"]:
        inputs = jnp.asarray(inputs)
        if inputs.ndim == 0 or inputs.shape[-1] != self.in_size:
            raise ModelError(
                f"network {self.name!r} takes {self.in_size} inputs along the last axis, got an array of shape "
                f"{inputs.shape}; write jnp.stack([...], axis=-1), or x[..., None] for a single input."
            )
        rank = inputs.ndim
        standard = (inputs - _along_last(self.center, rank)) / _along_last(self.spread, rank)
        raw = _apply(self.net, standard)
        outputs = raw * _along_last(self.scale, raw.ndim)
        if self.bounds is not None:
            outputs = _squash(outputs, *self.bounds)
        _note(self.name, inputs, outputs)
        return outputs


def _apply(net: Any, x: Array) -> Array:
    """The module along the last axis. Ours takes any leading axes; a foreign one takes one point at a time."""
    if isinstance(net, MLP):
        return net(x)
    if getattr(net, "in_size", None) == "scalar":
        x = x[..., 0]
        points, lead = x.reshape(-1), x.shape
    else:
        points, lead = x.reshape((-1, x.shape[-1])), x.shape[:-1]
    outputs = jnp.atleast_1d(net(points[0]))[None] if not lead else jax.vmap(lambda p: jnp.atleast_1d(net(p)))(points)
    return outputs.reshape(lead + outputs.shape[1:])


def _squash(x: Array, low: float | None, high: float | None) -> Array:
    """Smoothly into the open interval, with slope one where the network says zero (half-way, or at the end)."""
    tiny = jnp.finfo(x.dtype).tiny
    if low is not None and high is not None:
        width = high - low
        value = low + width * jax.nn.sigmoid(4.0 * x / width)
    elif low is not None:
        value = low + jax.nn.softplus(x)
    else:
        value = high - jax.nn.softplus(-x)
    # Rounding reaches the limit itself; the nearest number inside keeps the interval open.
    lower = None if low is None else low + max(np.spacing(np.asarray(abs(low), x.dtype)), tiny)
    upper = None if high is None else high - max(np.spacing(np.asarray(abs(high), x.dtype)), tiny)
    return jnp.clip(value, lower, upper)


def network(
    name: str,
    net: eqx.Module,
    *,
    scale: ArrayLike,
    unit: str | None = None,
    center: ArrayLike | None = None,
    spread: ArrayLike | None = None,
    prior: Prior | None = None,
    initial: Literal["prior", "zero"] = "prior",
    bounds: tuple[float | None, float | None] | None = None,
) -> Network:
    """Statement: a network whose weights are unknowns of the model.

    **Arguments:**

    - `name`: its name, and the prefix of its sites `name/path`, such as `missing/layers[0].weight`.
    - `net`: `MLP(...)`, or any Equinox module without state that maps one point to one vector.
    - `scale`: prior standard deviation of an output component at a typical input, in `unit`; a number or one
      per output. With `bounds` it is that of the value before it is squashed.
    - `unit`: unit of the outputs.
    - `center`, `spread`: typical value and size of the inputs; inside, inputs are `(x - center) / spread`.
      Left out, `infer` takes them from the solutions of the prior at the data.
    - `prior`: prior of the weights: one distribution for all, a mapping from path to distribution (other
      weights keep the default), or a function of path and shape. Default: weights Normal(0, 1 / sqrt(number
      of inputs)), biases Normal(0, 1), the last layer shrunk so that `scale` holds (Neal 1996, section 2.1).
    - `initial`: `"zero"` lets a search begin where the network says nothing: its last layer (for a foreign
      module the fewest last weights whose zeros make the output zero) is tagged so.
    - `bounds`: `(low, high)` in `unit`, `None` for an open end; the output lies strictly between.

    **Returns:** a `Network`, called on arrays whose last axis holds the inputs.

    **Raises:** `ModelError` for a module with state (batch norm) or dropout, without weights, or whose number
    of inputs cannot be told; for a scale, spread or bounds that are impossible.

    ```python
    def model(x):
        f = bh.network("f", bh.MLP(1, 1), scale=2.0, center=0.0, spread=1.0)
        return f(x)
    assert numpyro.handlers.seed(model, 0)(jnp.ones((7, 1))).shape == (7, 1)
    ```
    """
    _check_stateless(name, net)
    size = _input_size(net)
    bounds = _checked_bounds(name, bounds)
    _check_positive(name, "scale", scale)
    if spread is not None:
        _check_positive(name, "spread", spread)
    center, spread = _magnitudes(name, size, center, spread)
    size = int(size if size is not None else np.shape(center)[-1])
    priors, factor = _weight_priors(name, net, prior, size)
    zero = _zero_paths(name, net, size) if _checked_initial(name, initial) == "zero" else frozenset()
    tag = sites.Tag(name, kind="weight")

    def configure(site: Any) -> dict[str, Any]:
        path = site["name"][len(name) + 1 :]
        return sites.mapping(replace(tag, initial="zero") if path in zero else tag)

    with numpyro.handlers.infer_config(config_fn=configure):
        weighted = random_eqx_module(name, net, prior=lambda path, shape: priors[path])
    built = Network(
        net=weighted,
        center=jnp.asarray(center, dtype=float),
        spread=jnp.asarray(spread, dtype=float),
        scale=jnp.asarray(scale, dtype=float) * factor,
        name=name,
        in_size=size,
        bounds=bounds,
        unit=unit,
    )
    return apply_stack({"type": NETWORK, "network": name, "value": built})["value"]


def _magnitudes(name: str, size: int | None, center: Any, spread: Any) -> tuple[Any, Any]:
    if size is None and not (np.ndim(center) == 1 or np.ndim(spread) == 1):
        raise ModelError(
            f"network {name!r}: the number of inputs of {type(name).__name__} cannot be told; give center=(...) and "
            "spread=(...) with one number per input."
        )
    size = size if size is not None else np.shape(center if np.ndim(center) == 1 else spread)[0]
    for key, given in {"center": center, "spread": spread}.items():
        if given is not None and np.shape(given) not in ((), (size,)):
            raise ModelError(
                f"network {name!r}: {key} has shape {np.shape(given)}, the network takes {size} inputs; give one "
                "number, or one per input."
            )
    asked = (jnp.zeros(size), jnp.ones(size))
    if center is None or spread is None:
        message = {"type": INPUTS, "network": name, "size": size, "value": asked}
        asked = apply_stack(message)["value"]
    center, spread = (a if given is None else given for given, a in zip((center, spread), asked, strict=True))
    return tuple(jnp.broadcast_to(jnp.asarray(v, dtype=float), (size,)) for v in (center, spread))


def _check_positive(name: str, what: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    if not np.all(np.isfinite(np.asarray(value))) or np.any(np.asarray(value) <= 0.0):
        raise ModelError(f"network {name!r}: {what} = {value} must be above zero.")


def _checked_bounds(name: str, bounds: Any) -> tuple[float | None, float | None] | None:
    if bounds is None:
        return None
    try:
        low, high = bounds
        ends = tuple(None if end is None or np.isinf(end) else float(end) for end in (low, high))
    except (TypeError, ValueError):
        raise ModelError(f"network {name!r}: bounds = {bounds!r}; write bounds=(low, high), numbers or None.") from None
    if ends == (None, None):
        return None
    if None not in ends and not ends[0] < ends[1]:
        raise ModelError(f"network {name!r}: bounds = {bounds!r}: low must be below high.")
    return ends


def _checked_initial(name: str, initial: str) -> str:
    if initial not in ("prior", "zero"):
        raise ModelError(f'network {name!r}: initial = {initial!r}; write "prior" or "zero".')
    return initial


def _check_stateless(name: str, net: Any) -> None:
    """A weight has a posterior; a running mean or a dropped unit has none."""
    if not isinstance(net, eqx.Module) or not callable(net):
        raise ModelError(f"network {name!r}: {net!r} is no callable Equinox module; write MLP(2, 1) or eqx.nn.MLP(...).")
    special = (eqx.nn.StateIndex, eqx.nn.BatchNorm, eqx.nn.Dropout)
    for part in jtu.tree_leaves(net, is_leaf=lambda leaf: isinstance(leaf, special)):
        if isinstance(part, eqx.nn.StateIndex | eqx.nn.BatchNorm):
            raise ModelError(
                f"network {name!r}: {type(part).__name__} keeps a running state, which cannot be sampled; use "
                "eqx.nn.LayerNorm, or leave it out: center and spread already standardise the inputs."
            )
        if isinstance(part, eqx.nn.Dropout) and not part.inference:
            raise ModelError(
                f"network {name!r}: Dropout draws new noise at each call, so the weights have no density; leave it "
                "out (the prior regularises), or write eqx.nn.inference_mode(net)."
            )
    if not _weights(net):
        raise ModelError(f"network {name!r}: {type(net).__name__} has no weights (floating-point arrays).")


def _weights(net: Any) -> dict[str, tuple[int, ...]]:
    """Path to shape of every weight, in tree order; the paths are those of `random_eqx_module`."""
    leaves = jtu.tree_leaves_with_path(eqx.filter(net, eqx.is_inexact_array))
    return {jtu.keystr(path)[1:]: tuple(np.shape(leaf)) for path, leaf in leaves}


def _input_size(net: Any) -> int | None:
    for attribute in ("in_size", "in_features"):
        size = getattr(net, attribute, None)
        if size == "scalar":
            return 1
        if isinstance(size, int | np.integer):
            return int(size)
    known = (eqx.nn.Linear, eqx.nn.MLP, MLP)
    for part in jtu.tree_leaves(net, is_leaf=lambda leaf: isinstance(leaf, known)):
        if isinstance(part, known) and part is not net:
            return _input_size(part)
    return None


def _default_prior(path: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a weight: its inputs are all axes but the first; a vector is a bias."""
    return 1.0 / float(np.sqrt(np.prod(shape[1:]))) if len(shape) > 1 else 1.0


def _weight_priors(name: str, net: Any, prior: Any, size: int) -> tuple[dict[str, dist.Distribution], Any]:
    """The prior of each weight, and what the output must be multiplied by so that its sd is one."""
    shapes = _weights(net)
    spreads = {path: _default_prior(path, shape) for path, shape in shapes.items()}
    if prior is None and isinstance(net, MLP):
        shrink = _last_layer_factor(net.activation, len(net.layers) - 1)
        last = f"layers[{len(net.layers) - 1}]"
        spreads = {path: sd * (shrink if path.startswith(last) else 1.0) for path, sd in spreads.items()}
        return {path: dist.Normal(0.0, sd) for path, sd in spreads.items()}, 1.0
    priors = {path: _prior_of(name, prior, path, shape, spreads[path]) for path, shape in shapes.items()}
    unknown = set(prior) - set(shapes) if isinstance(prior, Mapping) else set()
    if unknown:
        raise ModelError(f"network {name!r}: prior names {sorted(unknown)}; the weights are {sorted(shapes)}.")
    return priors, _output_factor(name, net, priors, size)


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
    """One over the output's size under the prior at standard normal inputs, by 4,000 fixed draws.

    Half the central 68 % range stands for the sd, so that a heavy-tailed prior has a size too.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jtu.tree_leaves(priors)):
        raise ModelError(
            f"network {name!r}: a prior of the weights depends on another unknown, so the scale of the output cannot "
            "be set; multiply the network's output by that unknown instead."
        )
    with jax.ensure_compile_time_eval():
        key = jax.random.key(20)
        outputs = jax.vmap(lambda k: _prior_output(net, priors, size, k))(jax.random.split(key, 4000))
        low, high = np.quantile(np.asarray(outputs), [0.158655, 0.841345])
    half = 0.5 * float(high - low)
    if not np.isfinite(half) or half <= 0.0:
        raise ModelError(
            f"network {name!r}: under its prior the output is {'constant' if half == 0.0 else 'not finite'} at typical "
            "inputs; check the module and the prior of its weights."
        )
    return 1.0 / half


def _prior_output(net: Any, priors: Mapping[str, dist.Distribution], size: int, key: Any) -> Array:
    weights = _weights(net)
    keys = jax.random.split(key, len(weights) + 1)
    drawn = {}
    for k, (path, shape) in zip(keys[1:], weights.items(), strict=True):
        d = priors[path]
        drawn[path] = d.expand(shape[: len(shape) - d.event_dim]).sample(k)
    return _apply(_with_weights(net, drawn), jax.random.normal(keys[0], (size,)))


def _with_weights(net: Any, values: Mapping[str, Any]) -> Any:
    arrays, static = eqx.partition(net, eqx.is_inexact_array)
    filled = jtu.tree_map_with_path(lambda path, _: values[jtu.keystr(path)[1:]], arrays)
    return eqx.combine(filled, static)


def _zero_paths(name: str, net: Any, size: int) -> frozenset[str]:
    """The fewest weights, counted from the last, whose zeros make the output zero."""
    paths = list(_weights(net))
    if isinstance(net, MLP):
        return frozenset(paths[-2:])
    shapes = _weights(net)
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(7), len(paths) + 1)
        values = {p: jax.random.normal(k, shapes[p]) for p, k in zip(paths, keys[1:], strict=True)}
        inputs = jax.random.normal(keys[0], (5, size))
        for path in reversed(paths):
            values[path] = jnp.zeros(shapes[path])
            if not np.any(np.asarray(_apply(_with_weights(net, values), inputs))):
                return frozenset(p for p in paths if not np.any(np.asarray(values[p])))
    raise ModelError(
        f'network {name!r}: initial="zero", but with all weights zero its output is not; use initial="prior", or '
        "subtract what it says with zero weights."
    )
