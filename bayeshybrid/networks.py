"""Networks inside a model: priors on their weights, inputs and outputs in the scientist's units.

`network` is a statement. It gives every weight a prior through numpyro, scales the inputs to order one and
the output to the size that you expect of the unknown term. Each call notes what it was asked while a
`recording` is open, so that later questions (where does it extrapolate, do its functions agree between
chains) have inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.contrib.module import random_eqx_module
from numpyro.primitives import apply_stack

from . import sites
from .architecture import MLP, MonotoneMLP, along_last, apply_along_last, check_stateless, input_size
from .faults import ModelError
from .recorder import Recorder
from .sparsity import Widths
from .weights import Prior, paths_and_shapes, weight_priors, zero_paths

__all__ = ["INPUTS", "MLP", "NETWORK", "MonotoneMLP", "Network", "network", "recording", "replaying"]

INPUTS = "bayeshybrid.inputs"
"""Type of the message by which a network asks for the centre and spread of its inputs."""

NETWORK = "bayeshybrid.network"
"""Type of the message by which a network says that it has been built."""

_calls = Recorder()
_open = threading.local()
# What JAX keeps of a jitted function is no good under a replay, in which its networks answer otherwise.
_retracing = jax.make_user_context(default_value=None)


@contextmanager
def recording() -> Iterator[dict[str, list[tuple[Array, Array]]]]:
    """While open, every call of a `Network` in the same trace is noted.

    As a `Recorder` notes: calls made in another transformation than that in which it was opened are not. Open it inside
    the mapped function and return the notes as outputs.

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
    with _calls.open() as notes:
        yield notes


@contextmanager
def replaying(notes: Mapping[str, list[tuple[Array, Array]]] | None) -> Iterator[None]:
    """While open, each call of a `Network` answers with the next outputs noted under its name, whatever it is asked.

    So a field can be evaluated with its networks held at what they said elsewhere. Calls and notes must go
    together one to one, within one trace, as for `recording`. `None` suspends a replay around it.

    **Raises:** `ModelError` at a call for which nothing was noted, and at the end where notes are left over.

    ```python
    from bayeshybrid.networks import recording, replaying
    def model():
        return bh.network("f", bh.MLP(1, 1), scale=1.0, center=0.0, spread=1.0)
    f = numpyro.handlers.seed(model, 0)()
    with recording() as notes:
        first = f(jnp.zeros(1))
    with replaying(notes):
        assert f(jnp.ones(1)) == first
    ```
    """
    stack = _replays()
    left = None if notes is None else {name: [out for _, out in pairs] for name, pairs in notes.items()}
    stack.append(left)
    try:
        with _retracing(None if left is None else object()):
            yield
    finally:
        stack.pop()
    over = [name for name, outputs in (left or {}).items() if outputs]
    if over:
        raise ModelError(
            f"network {over[0]!r} is asked less often here than in the run whose answers are replayed"
        )


def _replays() -> list[dict[str, list[Array]] | None]:
    if not hasattr(_open, "replays"):
        _open.replays = []
    return _open.replays


def _replayed(name: str) -> Array | None:
    """The outputs noted for the next call, where a replay is open."""
    stack = _replays()
    if not stack or stack[-1] is None:
        return None
    if not stack[-1].get(name):
        raise ModelError(
            f"network {name!r} is asked more often here than in the run whose answers are replayed, or there inside "
            "another jax.vmap or jax.jit: call it directly in the field"
        )
    return stack[-1][name].pop(0)


class Network(eqx.Module):
    """A network of a model: `outputs = limits(scale * net((inputs - center) / spread))`.

    What `network` returns. It is a pytree, so it can be handed to a solver in `args`, and it may be mapped,
    compiled and differentiated. The last axis holds the inputs; axes in front are kept. One that is `silent`, because
    the model is looked at without it, answers zero.

    ```python
    def model():
        return bh.network("f", bh.MLP(2, 1), scale=3.0, center=0.0, spread=1.0)
    f = numpyro.handlers.seed(model, 0)()
    assert f(jnp.ones((4, 5, 2))).shape == (4, 5, 1)
    ```
    """

    weights: eqx.Module
    center: Float[Array, "..."]
    spread: Float[Array, "..."]
    scale: Float[Array, "..."]
    name: str = eqx.field(static=True)
    in_size: int = eqx.field(static=True)
    functions: eqx.Module = eqx.field(static=True)
    bounds: tuple[float | None, float | None] | None = eqx.field(static=True, default=None)
    unit: str | None = eqx.field(static=True, default=None)
    conserved: tuple[tuple[float, ...], ...] = eqx.field(static=True, default=())
    silent: bool = eqx.field(static=True, default=False)

    @property
    def net(self) -> Any:
        """The module with its weights, without scaling. Its arrays alone are leaves of the network."""
        return eqx.combine(self.weights, self.functions)

    def __call__(self, inputs: Float[ArrayLike, "*batch in"]) -> Float[Array, "*batch out"]:
        """The outputs in `unit` at inputs in their own units; noted by an open `recording`."""
        inputs = jnp.asarray(inputs)
        if inputs.ndim == 0 or inputs.shape[-1] != self.in_size:
            raise ModelError(
                f"network {self.name!r} takes {self.in_size} inputs along the last axis, got an array of "
                "shape "
                f"{inputs.shape}; write jnp.stack([...], axis=-1), or x[..., None] for a single input."
            )
        if self.silent:
            answer = jax.eval_shape(lambda: apply_along_last(self.net, inputs))
            return jnp.zeros(answer.shape, answer.dtype)
        noted = _replayed(self.name)
        if noted is not None:
            _calls.note(self.name, (inputs, noted))
            return noted
        rank = inputs.ndim
        standard = (inputs - along_last(self.center, rank)) / along_last(self.spread, rank)
        raw = apply_along_last(self.net, standard)
        outputs = raw * along_last(self.scale, raw.ndim)
        if self.bounds is not None:
            outputs = _squash(outputs, *self.bounds)
        if self.conserved:
            outputs = self._keeping(outputs)
        _calls.note(self.name, (inputs, outputs))
        return outputs

    def _keeping(self, outputs: Array) -> Array:
        """The outputs without what would change a conserved sum."""
        sums = np.asarray(self.conserved)
        if outputs.shape[-1] != sums.shape[1]:
            raise ModelError(
                f"network {self.name!r}: conserves has {sums.shape[1]} weights, and there are {outputs.shape[-1]} "
                "outputs: give one for each output."
            )
        return outputs - outputs @ jnp.asarray(np.linalg.pinv(sums) @ sums, outputs.dtype).T


def _squash(x: Array, low: float | None, high: float | None) -> Array:
    """Smoothly into the open interval; between two ends with slope one where the network says zero."""
    tiny = jnp.finfo(x.dtype).tiny
    if low is not None and high is not None:
        width = high - low
        value = low + width * jax.nn.sigmoid(4.0 * x / width)
    elif low is not None:
        value = low + jax.nn.softplus(x)
    elif high is not None:
        value = high - jax.nn.softplus(-x)
    else:
        return x
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
    prior: Prior | Widths | None = None,
    initial: Literal["prior", "zero"] = "prior",
    bounds: tuple[float | None, float | None] | None = None,
    conserves: ArrayLike | None = None,
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
      weights keep the default), a function of path and shape, or a `Horseshoe` where few weights matter. Default:
      weights Normal(0, 1 / sqrt(number of inputs)), biases Normal(0, 1), the last layer shrunk so that `scale`
      holds (Neal 1996, section 2.1).
    - `initial`: `"zero"` lets a search begin where the network says nothing: its last layer (for a foreign
      module the fewest last weights whose zeros make the output zero) is tagged so.
    - `bounds`: `(low, high)` in `unit`, `None` for an open end; the output lies strictly between.
    - `conserves`: `(outputs,)` or `(quantities, outputs)`: sums of the outputs with these weights that are to be zero.
      What would change them is taken off the output at right angles. With the outputs as slopes of a state its sums
      with these weights stay constant to rounding, since Runge-Kutta methods keep linear invariants (Hairer, Lubich and
      Wanner 2006, "Geometric Numerical Integration", section IV.1), as far as the rest of the field keeps them.

    **Returns:** a `Network`, called on arrays whose last axis holds the inputs.

    **Raises:** `ModelError` for a module with state (batch norm) or dropout, without weights, or whose number
    of inputs cannot be told; for a scale, spread or bounds that are impossible; for weights of conserved sums that
    are no finite numbers, all zero, or stand beside bounds, which both cannot hold; and, when called, for a
    number of them that is not that of the outputs.

    ```python
    def model(x):
        f = bh.network("f", bh.MLP(1, 1), scale=2.0, center=0.0, spread=1.0)
        return f(x)
    assert numpyro.handlers.seed(model, 0)(jnp.ones((7, 1))).shape == (7, 1)
    ```
    """
    check_stateless(name, net)
    size = input_size(net)
    bounds = _checked_bounds(name, bounds)
    _check_positive(name, "scale", scale)
    if spread is not None:
        _check_positive(name, "spread", spread)
    middle, width = _magnitudes(name, size, center, spread)
    size = middle.shape[-1]
    widths = _widths(name, net, prior)
    priors, factor = weight_priors(name, net, dist.Normal() if widths else prior, size)
    zero = zero_paths(name, net, size) if _checked_initial(name, initial) == "zero" else frozenset()
    tag = sites.Tag(name, kind="weight")

    def configure(site: Any) -> dict[str, Any]:
        path = site["name"][len(name) + 1 :]
        return sites.mapping(replace(tag, initial="zero") if path in zero else tag)

    with numpyro.handlers.infer_config(config_fn=configure):
        weighted = random_eqx_module(name, net, prior=lambda path, shape: priors[path])
    weights, functions = eqx.partition(weighted, eqx.is_array)
    if widths:
        weights = jtu.tree_map_with_path(lambda path, z: widths[jtu.keystr(path)[1:]] * z, weights)
        factor = 1.0
    built = Network(
        weights=weights,
        functions=functions,
        center=middle,
        spread=width,
        scale=jnp.asarray(scale, dtype=float) * factor,
        name=name,
        in_size=size,
        bounds=bounds,
        unit=unit,
        conserved=_checked_conserved(name, conserves, bounds),
    )
    return apply_stack({"type": NETWORK, "network": name, "value": built})["value"]


def _widths(name: str, net: eqx.Module, prior: Any) -> dict[str, Array]:
    """Of each array of weights their standard deviations, where these are unknown; nothing with another prior."""
    if not hasattr(prior, "widths"):
        return {}
    shapes = paths_and_shapes(net)
    return {path: prior.widths(name, f"{name}/{path}", shape) for path, shape in shapes.items()}


def _magnitudes(name: str, size: int | None, center: Any, spread: Any) -> tuple[Array, Array]:
    if size is None and not (np.ndim(center) == 1 or np.ndim(spread) == 1):
        raise ModelError(
            f"network {name!r}: the number of inputs of its module cannot be told; give center=(...) and "
            "spread=(...) with one number per input."
        )
    size = size if size is not None else np.shape(center if np.ndim(center) == 1 else spread)[0]
    for key, given in {"center": center, "spread": spread}.items():
        if given is not None and np.shape(given) not in ((), (size,)):
            raise ModelError(
                f"network {name!r}: {key} has shape {np.shape(given)}, the network takes {size} inputs; "
                "give one "
                "number, or one per input."
            )
    asked = (jnp.zeros(size), jnp.ones(size))
    if center is None or spread is None:
        message = {"type": INPUTS, "network": name, "size": size, "value": asked}
        asked = apply_stack(message)["value"]
    center, spread = (a if given is None else given for given, a in zip((center, spread), asked, strict=True))
    center, spread = (jnp.broadcast_to(jnp.asarray(v, dtype=float), (size,)) for v in (center, spread))
    return center, spread


def _check_positive(name: str, what: str, value: Any) -> None:
    if isinstance(value, Tracer):
        return
    if not np.all(np.isfinite(np.asarray(value))) or np.any(np.asarray(value) <= 0.0):
        raise ModelError(f"network {name!r}: {what} = {value} must be above zero.")


def _checked_bounds(name: str, bounds: Any) -> tuple[float | None, float | None] | None:
    if bounds is None:
        return None
    try:
        low, high = bounds
        low, high = (None if end is None or np.isinf(end) else float(end) for end in (low, high))
    except (TypeError, ValueError):
        raise ModelError(
            f"network {name!r}: bounds = {bounds!r}; write bounds=(low, high), numbers or None."
        ) from None
    if low is None and high is None:
        return None
    if low is not None and high is not None and not low < high:
        raise ModelError(f"network {name!r}: bounds = {bounds!r}: low must be below high.")
    return low, high


def _checked_conserved(name: str, conserves: Any, bounds: Any) -> tuple[tuple[float, ...], ...]:
    if conserves is None:
        return ()
    sums = np.atleast_2d(np.asarray(conserves, float))
    if sums.ndim != 2 or not np.all(np.isfinite(sums)) or not np.all(np.any(sums != 0, axis=1)):
        raise ModelError(
            f"network {name!r}: conserves = {conserves!r}; write the weights of the outputs in each sum that is to be "
            "zero, as in conserves=(1.0, 1.0)."
        )
    if bounds is not None:
        raise ModelError(
            f"network {name!r}: conserves takes something off the outputs, which may then leave bounds = {bounds}: "
            "give one of the two."
        )
    return tuple(map(tuple, sums.tolist()))


def _checked_initial(name: str, initial: str) -> str:
    if initial not in ("prior", "zero"):
        raise ModelError(f'network {name!r}: initial = {initial!r}; write "prior" or "zero".')
    return initial
