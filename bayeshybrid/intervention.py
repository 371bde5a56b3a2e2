"""A model in which something is set or changed from outside, instead of following from the rest.

What stands before the change is as it was inferred; what follows from it is computed anew. This is the "do" of
causal inference (Pearl 2009, "Causality", section 3.2) on the equations of the model: it is right as far as those
equations are causal, and a network that was fitted is not.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger

from bayeshybrid.faults import ModelError
from bayeshybrid.layout import Layout

__all__ = ["Intervened", "Intervention", "read_change"]


@dataclass(frozen=True)
class Intervention:
    """What is changed, sorted by where it acts.

    - `inputs`: arguments of the model; `unknowns`: sites with a prior; `derived`: deterministic sites.
    """

    inputs: dict[str, Callable[[Any], Any]]
    unknowns: dict[str, Callable[[Any], Any]]
    derived: dict[str, Callable[[Any], Any]]

    def of_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with the changes that act on them; each keeps its shape."""
        changed = dict(inputs)
        for name, function in self.inputs.items():
            changed[name] = function(changed[name])
            before, after = (jax.tree.map(np.shape, x) for x in (inputs[name], changed[name]))
            if before != after:
                raise ModelError(
                    f"change={{{name!r}: ...}} turned an input of shape {before} into {after}: a change keeps the "
                    "shape; for other inputs give them to predict as they are"
                )
        return changed

    def of_draws(self, draws: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Draws of the unknowns, draw by draw changed where a change acts on them."""
        return {
            name: _drawwise(name, self.unknowns[name], values) if name in self.unknowns else values
            for name, values in draws.items()
        }

    def of_model(self, model: Callable[..., Any]) -> Callable[..., Any]:
        """The model with the changes that act on what it derives."""
        return Intervened(model, tuple(sorted(self.derived.items()))) if self.derived else model


def read_change(change: Mapping[str, Any] | None, layout: Layout, inputs: Mapping[str, Any]) -> Intervention:
    """Read a mapping from names to functions or values.

    **Raises:** `ModelError` for a name that is no input, unknown or derived quantity, or more than one of them.
    """
    unknowns = {site.name for site in layout.latent}
    derived = {site.name for site in layout.deterministic}
    places = {"inputs": set(inputs), "unknowns": unknowns, "derived": derived}
    found: dict[str, dict[str, Any]] = {place: {} for place in places}
    for name, how in (change or {}).items():
        where = [place for place, names in places.items() if name in names]
        if len(where) != 1:
            raise ModelError(_unclear(name, where, layout, set().union(*places.values())))
        put = _replaced if where[0] == "inputs" else _constant
        found[where[0]][name] = how if callable(how) else partial(put, how)
    return Intervention(**found)


def _unclear(name, where, layout, known):
    if where:
        return (
            f"change={{{name!r}: ...}}: the name stands for several things of this model ({', '.join(where)})"
        )
    if name in {solve.name for solve in layout.solves}:
        return f"change={{{name!r}: ...}}: a solution follows from its equation; change what goes into it"
    if name in {*layout.networks, *(site.name for site in layout.observed)}:
        return f"change={{{name!r}: ...}}: only inputs, parameters and derived quantities can be changed"
    nearest = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(sorted(known))}"
    return f"change={{{name!r}: ...}} names no input, unknown or derived quantity of this model: {hint}"


def _replaced(value, before):
    return value


def _constant(value, before):
    return jnp.broadcast_to(jnp.asarray(value, jnp.asarray(before).dtype), jnp.shape(before))


def _drawwise(name, function, values):
    changed = np.asarray(jax.vmap(function)(jnp.asarray(values)))
    if changed.shape != values.shape:
        raise ModelError(
            f"change={{{name!r}: ...}} turned a value of shape {values.shape[1:]} into {changed.shape[1:]}: a change "
            "keeps the shape"
        )
    return changed


@dataclass(frozen=True)
class Intervened:
    """A model some of whose derived quantities are changed where they arise.

    ```python
    from bayeshybrid.intervention import Intervened
    def model():
        return numpyro.deterministic("k", jnp.array(2.0)) + 1.0
    assert Intervened(model, (("k", lambda k: 10.0 * k),))() == 21.0
    ```
    """

    model: Callable[..., Any]
    derived: tuple[tuple[str, Callable[[Any], Any]], ...]

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.model)

    @property
    def __name__(self) -> str:
        return getattr(self.model, "__name__", type(self.model).__name__)

    @property
    def __code__(self) -> Any:
        return getattr(self.model, "__code__", None)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run the model under the changes."""
        with _Setting(dict(self.derived)):
            return self.model(*arguments, **named)


class _Setting(Messenger):
    """Changes deterministic sites as they are stated, so that all that follows uses what was changed."""

    def __init__(self, derived: dict[str, Any]) -> None:
        super().__init__()
        self.derived = derived

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "deterministic" or msg["name"] not in self.derived:
            return
        before = msg["value"]
        msg["value"] = self.derived[msg["name"]](before)
        if jnp.shape(msg["value"]) != jnp.shape(before):
            raise ModelError(
                f"change={{{msg['name']!r}: ...}} turned a value of shape {jnp.shape(before)} into "
                f"{jnp.shape(msg['value'])}: a change keeps the shape"
            )
