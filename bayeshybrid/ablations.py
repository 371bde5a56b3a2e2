"""A model without some of its parts, or with some of its unknowns held: the same statements, heard otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from numpyro.primitives import Messenger

from bayeshybrid import configuration, sites
from bayeshybrid.data import check_arguments
from bayeshybrid.faults import ModelError
from bayeshybrid.joins import JOIN, Gated, Residual, Series
from bayeshybrid.layout import trace, trial_value
from bayeshybrid.networks import INPUTS, NETWORK, Network, recording, replaying
from bayeshybrid.tracing import abstract

WHOLE, FIXED = "whole", "fixed"

__all__ = ["ablate", "variants"]


def ablate(
    model: Callable[..., Any],
    *,
    fixed: Mapping[str, Any] | None = None,
    without: Iterable[str] = (),
) -> Callable[..., Any]:
    """The same model with some unknowns held at values and some parts silent.

    A network that is switched off answers zero, and its weights are unknowns no more. A part of a join that is
    switched off says zero in a sum, a fusion or a level; one where it is a factor; has weight zero behind a gate, the
    others' weights renormalised; and hands on what it is given in a series. A network that only such a part asks is
    named beside it: else its weights stay, as unknowns that nothing depends on. So do the coefficients of a part.

    Of a hybrid of an equation with parameters and a network this makes what is usually held against it: the equation
    with fixed parameters (both), with free ones (without the network), the network beside a fixed equation (fixed), and
    a neural differential equation (without the part `known`).

    **Arguments:**

    - `model`: a numpyro model.
    - `fixed`: site to the value it is held at, in its own unit and shape, or one number for all entries. It is a
      derived quantity then, which forecasts carry.
    - `without`: names of networks, and of parts of joins as `"<join>.<part>"`.

    **Returns:** a model with the same arguments.

    **Raises:** when the model is read, `ModelError` for names that it does not have, with those that it has; for values
    of another shape or outside the support; for a part of a series that changes shapes; and for a gate of which
    nothing would be left.

    ```python
    def model(x, y=None):
        slope = bh.parameter("slope", dist.Normal(0.0, 1.0))
        bend = bh.network("bend", bh.MLP(1, 1), scale=1.0, center=0.0, spread=1.0)
        bh.observe("y", dist.Normal(slope * x + bend(x[:, None])[:, 0], 0.1), obs=y)
    line = bh.ablate(model, without=["bend"])
    assert [site.name for site in bh.Target(line, {"x": np.ones(3), "y": np.ones(3)}).layout.latent] == ["slope"]
    ```
    """
    held = dict(fixed or {})
    off = (without,) if isinstance(without, str) else tuple(without)

    @wraps(model)
    def ablated(*arguments: Any, **named: Any) -> Any:
        handler = _Ablation(held, off)
        with handler:
            answer = model(*arguments, **named)
        handler.check()
        return answer

    ablated.__name__ = _title(model, held, off)
    return ablated


def _title(model, held, off):
    own = getattr(model, "__name__", type(model).__name__)
    return (
        own
        + (f" without {', '.join(off)}" if off else "")
        + (f" with {', '.join(held)} fixed" if held else "")
    )


class _Ablation(Messenger):
    """Holds sites at values, and silences networks and parts of joins, before anybody else hears of them."""

    def __init__(self, held: Mapping[str, Any], off: tuple[str, ...]) -> None:
        super().__init__()
        self.held, self.off = held, off
        self.unknowns: list[str] = []
        self.parts: list[str] = []

    def process_message(self, msg: Any) -> None:
        kind = msg["type"]
        if kind == "sample" and not msg["is_observed"]:
            self._unknown(msg)
        elif kind == INPUTS:
            msg["stop"] = msg["network"] in self.off
        elif kind == NETWORK:
            self._network(msg)
        elif kind == JOIN:
            join = msg["value"]
            named = {part: f"{join.name}.{part}" for part in join.parts}
            self.parts += named.values()
            gone = [part for part, name in named.items() if name in self.off]
            msg["value"] = _without(join, gone) if gone else join

    def _network(self, msg):
        self.parts.append(msg["network"])
        if msg["network"] in self.off:
            msg["value"], msg["stop"] = replace(msg["value"], silent=True), True

    def _unknown(self, msg):
        tag = sites.read(msg)
        if tag and tag.group in self.off:  # a weight, or what its prior depends on
            msg["value"], msg["stop"] = trial_value(msg), True
            return
        if tag is None or tag.kind != "observation":
            self.unknowns.append(msg["name"])
        if msg["name"] in self.held:
            msg["value"] = _value(msg, self.held[msg["name"]])
            msg["type"] = "deterministic"

    def check(self):
        """Raise `ModelError` for names that were not met."""
        weights = [name for name in self.unknowns if "/" in name]
        told = [name for name in self.unknowns if name not in weights] + weights
        for name in set(self.held) - set(self.unknowns):
            raise ModelError(
                f"ablate(): the model has no unknown {name!r} to be held; it has {', '.join(told) or 'none'}"
            )
        for name in set(self.off) - set(self.parts):
            raise ModelError(
                f"ablate(): the model has neither a network nor a part of a join called {name!r}; it has "
                f"{', '.join(self.parts) or 'none'}"
            )


def _value(site, given):
    """A stated value in the shape of its site."""
    name, shape = site["name"], (*site["kwargs"].get("sample_shape", ()), *site["fn"].shape())
    if jnp.shape(given) not in ((), shape):
        raise ModelError(
            f"ablate(): {name!r} has shape {shape}, and the value it is to be held at {jnp.shape(given)}: give one of "
            "that shape, or one number"
        )
    if _outside(site["fn"].support, given):
        raise ModelError(
            f"ablate(): {name!r} cannot be held at {given}, outside the support of its prior, {site['fn'].support}"
        )
    return jnp.broadcast_to(jnp.asarray(given, dtype=jnp.result_type(float)), shape)


def _outside(support, given):
    """Whether a value is impossible, as far as it can be told before the model runs."""
    try:
        with jax.ensure_compile_time_eval():
            return not bool(jnp.all(support(jnp.asarray(given, dtype=float))))
    except jax.errors.JAXTypeError:
        return False


# Parts of joins that say nothing


class _Constant(eqx.Module):
    """A part that says one number, in the shape of what it would have said."""

    part: Any
    number: float = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        said = _shape_of(self.part, arguments)
        return jnp.full(said.shape, self.number, said.dtype)


class _Identity(eqx.Module):
    """A part of a series that hands on what it is given."""

    part: Any
    of: str = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        said, given = _shape_of(self.part, arguments), jnp.asarray(arguments[0])
        if said.shape != given.shape:
            raise ModelError(
                f"ablate(): {self.of} makes {said.shape} of {given.shape}, so a series cannot do without it: switch "
                "off the join's parts elsewhere, or write the shorter series"
            )
        return given


def _shape_of(part, arguments):
    with replaying(None):
        return jax.eval_shape(lambda: jnp.asarray(part(*arguments)))


def _without(join, gone):
    """The join with these parts silent."""
    left = [part for part in join.parts if part not in gone]
    if isinstance(join, Gated) and not left:
        raise ModelError(
            f"ablate(): without {', '.join(gone)} nothing is left behind the gate of {join.name!r}"
        )
    silent = {part: _silent(join, part) for part in gone}
    join = replace(join, parts=join.parts | silent)
    return replace(join, off=tuple(gone)) if isinstance(join, Gated) else join


def _silent(join, name):
    part = join.parts[name]
    if isinstance(join, Series):
        first = name == next(iter(join.parts))
        asked = _Asking(part, join.inputs) if isinstance(part, Network) and first and join.inputs else part
        return _Identity(asked, f"{join.name}.{name}")
    if isinstance(part, Network):
        return replace(part, silent=True)
    factor = isinstance(join, Residual) and join.how == "factor" and name == "known"
    return _Constant(part, 1.0 if factor else 0.0)


class _Asking(eqx.Module):
    """A network that is asked something made of the arguments."""

    part: Any
    inputs: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        return self.part(self.inputs(*arguments))


# A model taken apart


class _Reader(Messenger):
    """Notes which networks there are, and which parts of joins stand around each of their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.networks: list[str] = []
        self.direct: dict[str, str | None] = {}
        self.around: list[str] = []
        self.calls: dict[str, list[tuple[str, ...]]] = {}

    def process_message(self, msg: Any) -> None:
        if msg["type"] == NETWORK:
            self.networks.append(msg["network"])
        elif msg["type"] == JOIN:
            join = msg["value"]
            named = {part: f"{join.name}.{part}" for part in join.parts}
            for part, own in join.parts.items():
                self.direct[named[part]] = own.name if isinstance(own, Network) else None
            heard = {
                part: own if isinstance(own, Network) else _Heard(own, named[part], self)
                for part, own in join.parts.items()
            }
            msg["value"] = replace(join, parts=heard)

    def owned(self, part: str) -> tuple[str, ...]:
        """The networks that this part asks, and no other that is not around it or within it."""
        return tuple(
            name
            for name in self.networks
            if self.direct[part] == name
            or (name in self.calls and all(part in around for around in self.calls[name]))
        )


class _Heard(eqx.Module):
    """A part that notes which networks it asks."""

    part: Any
    name: str = eqx.field(static=True)
    reader: _Reader = eqx.field(static=True)

    def __call__(self, *arguments: Any) -> Any:
        self.reader.around.append(self.name)
        try:
            with recording() as notes:
                said = self.part(*arguments)
            for name in notes:
                self.reader.calls.setdefault(name, []).append(tuple(self.reader.around))
            return said
        finally:
            self.reader.around.pop()


def _read(model, data):
    """What a model has that can be switched off; nothing is computed."""
    reader = _Reader()

    def heard(**arguments):
        with reader:
            model(**arguments)

    with configuration.scope():
        arguments = check_arguments(model, data)
        abstract(lambda: bool(trace(heard, arguments)))
    return reader


def variants(
    model: Callable[..., Any], data: Mapping[str, Any], fixed: Mapping[str, Any] | None = None
) -> dict[str, Callable[..., Any]]:
    """A model and what is left of it without each of its parts, as `ablation` fits them.

    **Arguments:** as of `ablation`.

    **Returns:** name to model: `"whole"`; `"without <join>.<part>"` for every part of every join, the networks that
    no other part asks included; `"without <network>"` for the other networks; and, where `fixed` is given, `"fixed"`
    and `"fixed, without ..."`.

    ```python
    from bayeshybrid.ablations import variants
    def model(x, y=None):
        bend = bh.network("bend", bh.MLP(1, 1), scale=1.0, center=0.0, spread=1.0)
        law = bh.residual("law", lambda x: 2.0 * x, bend)
        bh.observe("y", dist.Normal(law(x), 0.1), obs=y)
    assert list(variants(model, {"x": np.ones((3, 1))})) == ["whole", "without law.known", "without law.missing"]
    ```
    """
    reader = _read(model, data)
    off = {f"without {part}": (part, *reader.owned(part)) for part in reader.direct}
    gone = {name for each in off.values() for name in each}
    off |= {f"without {name}": (name,) for name in reader.networks if name not in gone}
    made = {WHOLE: model, **{name: ablate(model, without=each) for name, each in off.items()}}
    if fixed:
        made[FIXED] = ablate(model, fixed=fixed)
        made |= {f"{FIXED}, {name}": ablate(model, fixed=fixed, without=each) for name, each in off.items()}
    return made
