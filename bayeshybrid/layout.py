"""The shape of a model: its unknowns in one flat vector, its observations, its solves and its groups.

Found once, by tracing the model without doing any arithmetic.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import biject_to

from bayeshybrid import sites
from bayeshybrid.data import support_in_words
from bayeshybrid.faults import DataError, ModelError
from bayeshybrid.tracing import JACOBIAN, Run, abstract, depends, line_of, run

__all__ = ["Fixed", "Latent", "Layout", "Observed", "Solve", "latent_sites", "read_layout", "split_arguments"]

CONCRETE_ERRORS = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)


@dataclass(frozen=True)
class Latent:
    """One unknown: where it stands in the flat vector and what the model said of it.

    - `shape`, `unconstrained_shape`: of its value, and of its piece of the vector.
    - `start`, `stop`: its slice of the flat vector.
    - `plates`: names of the plates around it, with the axis (counted from the right of the batch) of each.
    - `event_dim`: trailing axes that belong to one draw of its prior.
    """

    name: str
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    tag: sites.Tag
    plates: tuple[tuple[str, int], ...]
    event_dim: int
    discrete: bool = False
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Observed:
    """One observed site.

    - `support`: what its distribution can give, in words.
    - `constant`: whether it is observed at a number that stands in the model itself.
    """

    name: str
    shape: tuple[int, ...]
    tag: sites.Tag
    support: str
    constant: bool = False


@dataclass(frozen=True)
class Solve:
    """One solve: the shape of its solution, its labels, what its leading axis counts, and what looks odd in it."""

    name: str
    shape: tuple[int, ...]
    labels: tuple[str, ...]
    unit: str | None
    across: str | None = None
    oddities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deterministic:
    """One derived quantity of the model."""

    name: str
    shape: tuple[int, ...]
    tag: sites.Tag | None


@dataclass(frozen=True)
class Layout:
    """Everything static about a model with data of given shapes.

    - `latent`: the unknowns, ordered by group; `size` numbers in all.
    - `observed`: the observations: observed with the data, drawn without them.
    - `absent`: names of observations, where not one of them was given: then they are drawn and all else is prior.
    - `soft`: sites observed with and without data, and factors; `pinned`: those of them that are sites.
    - `observation_arguments`: the arguments of the model that carry observations.
    - `prior_solves`: whether a prior or a soft constraint may depend on a solution.
    - `asking`: networks that take the magnitude of their inputs from the data.
    - `parts`: of joins, what each says as a derived quantity `"<join>.<part>"`.
    - `remarks`: what statements say that a reader of the posterior must know.
    """

    latent: tuple[Latent, ...]
    observed: tuple[Observed, ...]
    absent: tuple[str, ...]
    pinned: tuple[Observed, ...]
    soft: tuple[str, ...]
    solves: tuple[Solve, ...]
    deterministic: tuple[Deterministic, ...]
    networks: tuple[str, ...]
    asking: tuple[tuple[str, int], ...]
    observation_arguments: tuple[str, ...]
    prior_solves: bool
    parts: tuple[Deterministic, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many numbers the flat vector has."""
        return self.latent[-1].stop if self.latent else 0

    @property
    def groups(self) -> dict[str, slice]:
        """Group name to its slice of the flat vector."""
        found: dict[str, slice] = {}
        for site in self.latent:
            start = found[site.tag.group].start if site.tag.group in found else site.start
            found[site.tag.group] = slice(start, site.stop)
        return found

    def __getitem__(self, name: str) -> Latent:
        return next(site for site in self.latent if site.name == name)


class Fixed:
    """An argument compiled into the program: compared by content where it is an array."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._content = (
            (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else None
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fixed):
            return False
        if self._content is not None or other._content is not None:
            return self._content == other._content
        return self.value is other.value or bool(self.value == other.value)

    def __hash__(self) -> int:
        if self._content is not None:
            return hash(self._content)
        return hash(type(self.value))


def trial_value(site: Any) -> Any:
    """A value inside the support, so that a prior that cannot be sampled can still be traced."""
    if site["type"] != "sample" or site.get("is_observed") or site["fn"].support.is_discrete:
        return None
    shape = (*site["kwargs"].get("sample_shape", ()), *site["fn"].shape())
    transform = biject_to(site["fn"].support)
    return transform(jnp.zeros(transform.inverse_shape(shape)))


def trace(model: Callable[..., Any], arguments: Mapping[str, Any], visit: bool = False) -> Run:
    """One run of the model at values in the middle of each support."""
    return run(model, arguments, key=jax.random.key(0), place=trial_value, visit=visit)


def split_arguments(
    model: Callable[..., Any], data: Mapping[str, Any], known: Container[str] | None = None
) -> tuple[dict[str, Any], dict[str, Fixed], tuple[str, ...]]:
    """Which arguments can be traced, and which must be compiled in.

    `known`: where the model was read before, what was compiled in then.

    **Returns:** arrays that one compiled program serves for every value, arguments that are fixed in it, and
    notes for those arrays that the model needs as concrete values.

    **Raises:** `ModelError` where the model branches on a traced value.
    """
    fixed = {n: Fixed(v) for n, v in data.items() if not _traceable(v) or n in (known or ())}
    arrays = {name: value for name, value in data.items() if name not in fixed}

    def attempt(traced):
        rest = {name: value for name, value in data.items() if name not in traced}
        abstract(lambda some: bool(trace(model, {**some, **rest})), traced)

    try:
        attempt(arrays)
        return arrays, fixed, ()
    except CONCRETE_ERRORS:
        pass
    try:
        attempt({})
    except CONCRETE_ERRORS as error:
        raise ModelError(
            f"the model asks for the value of something that is unknown until it is fitted, at "
            f"{line_of(error, model)}. A Python `if`, `while` or `range` on such a value cannot work: write "
            "jnp.where(condition, a, b), or give the value as data"
        ) from error
    notes = []
    for name in list(arrays):
        others = {k: v for k, v in arrays.items() if k != name}
        try:
            attempt({name: arrays[name]})
        except CONCRETE_ERRORS:
            fixed[name] = Fixed(arrays[name])
            arrays = others
            notes.append(
                f"the model needs the concrete value of {name!r}, so it is compiled into the program"
            )
    return arrays, fixed, tuple(notes)


def _traceable(value):
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(leaf, np.ndarray) for leaf in leaves)


def read_layout(model: Callable[..., Any], arrays: Mapping[str, Any], fixed: Mapping[str, Fixed]) -> Layout:
    """The layout of a model with data of these shapes."""
    constants = {name: value.value for name, value in fixed.items()}

    def seen(without):
        kept = {name: value for name, value in arrays.items() if name not in without}
        rest = {name: value for name, value in constants.items() if name not in without}
        return abstract(lambda some: _describe(trace(model, {**some, **rest})), kept)

    full = seen(())
    arguments = _observation_arguments(model, {**arrays, **constants}, full, seen)
    if arguments:
        bare = seen(arguments)
        observed = tuple(name for name in full["observed"] if name in bare["latent"])
    else:
        observed = tuple(full["observed"])
    absent = ()
    if not arguments and all(full["observed"][name].constant for name in observed):
        absent, arguments = _absent(model, arrays, constants, full["latent"])
        full["observed"] |= {name: _unobserved(full["latent"].pop(name)) for name in absent}
        observed = absent or observed
    pinned = tuple(name for name in full["observed"] if name not in observed)
    return Layout(
        latent=_in_order(full["latent"].values()),
        observed=tuple(full["observed"][name] for name in observed),
        absent=absent,
        pinned=tuple(full["observed"][name] for name in pinned),
        soft=pinned + full["factors"],
        solves=full["solves"],
        deterministic=full["deterministic"],
        networks=full["networks"],
        asking=full["asking"],
        observation_arguments=arguments,
        prior_solves=bool(full["solves"]) and _prior_solves(model, arrays, constants, observed),
        parts=_parts(model, arrays, constants) if full["joins"] else (),
        remarks=full["remarks"],
    )


def _parts(model, arrays, constants):
    """What the parts of joins say, as derived quantities."""

    def told(some):
        found = trace(model, {**some, **constants}, visit=True)
        return tuple(Deterministic(name, jnp.shape(said), tag) for name, (said, tag) in found.parts.items())

    return abstract(told, arrays)


def _prior_solves(model, arrays, constants, observed):
    """Whether anything but the observations was computed from a solution."""

    def stated(unsolved, some):
        data = {**some, **constants}
        found = run(model, data, key=jax.random.key(0), place=trial_value, unsolved=unsolved)
        sites = [s for name, s in found.sites.items() if s["type"] == "sample" and name not in observed]
        return [(jax.tree.leaves(site["fn"]), site["fn"].log_prob(site["value"])) for site in sites]

    return depends(stated, 0.0, arrays)


def latent_sites(
    model: Callable[..., Any], arrays: Mapping[str, Any], fixed: Mapping[str, Fixed]
) -> dict[str, Latent]:
    """Everything that the model draws when it is called with these arguments, observations included."""
    constants = {name: value.value for name, value in fixed.items()}
    return abstract(lambda some: _describe(trace(model, {**some, **constants})), dict(arrays))["latent"]


def _observation_arguments(model, data, full, seen):
    """Arguments that default to `None` and whose absence turns an observed site into a drawn one."""
    parameters = inspect.signature(model).parameters
    optional = [name for name in data if name in parameters and parameters[name].default is None]
    found = []
    for name in optional:
        try:
            bare = seen((name,))
        except Exception:  # an optional input that this model cannot do without: not an observation
            continue
        if any(site in bare["latent"] for site in full["observed"]):
            found.append(name)
    return tuple(found)


def _absent(model, arrays, constants, latent):
    """The observations of a model called without any, and the arguments that would carry them.

    `bh.observe` says so itself; a plain `numpyro.sample` shows it by becoming observed when an argument that
    defaults to `None` is given values of the site's shape.
    """
    missing = [
        name
        for name, parameter in inspect.signature(model).parameters.items()
        if parameter.default is None and name not in {**arrays, **constants}
    ]
    found = [name for name, site in latent.items() if site.tag.kind == "observation"]
    arguments = []
    for argument in missing:
        candidates = list(reversed(latent.items()))
        candidates.sort(key=lambda item: item[0] != argument)
        for name, site in candidates:
            trial = np.zeros(site.shape, int if site.discrete else float)
            try:
                given = abstract(
                    lambda some: _describe(trace(model, {**some, **constants})),
                    {**arrays, argument: trial},
                )
            except Exception:  # an argument that takes something else
                continue
            if name in given["observed"]:
                found.append(name)
                arguments.append(argument)
                break
    return tuple(dict.fromkeys(found)), tuple(arguments)


def _unobserved(site):
    return Observed(site.name, site.shape, site.tag, "")


def _describe(found):
    """The static part of a run."""
    described = {"latent": {}, "observed": {}, "factors": (), "deterministic": (), "remarks": ()}
    renamed = {name for name, site in found.sites.items() if site["type"] == "deterministic"}
    for name, site in found.sites.items():
        if site["type"] == "deterministic":
            entry = Deterministic(name, jnp.shape(site["value"]), sites.read(site))
            described["deterministic"] += (entry,)
        elif site["type"] != "sample":
            continue
        elif type(site["fn"]).__name__ == "Unit":
            described["factors"] += (name,) if name not in map(JACOBIAN.format, found.sites) else ()
            tag = sites.read(site)
            described["remarks"] += (tag.remark,) if tag else ()
        elif site["is_observed"]:
            described["observed"][name] = _observed(name, site)
        else:
            described["latent"][name] = _latent(name, site, renamed)
    described["solves"] = tuple(
        Solve(
            name,
            message["value"].ys.shape,
            message["labels"],
            message["unit"],
            message.get("across"),
            tuple(message.get("oddities", ())),
        )
        for name, message in found.solutions.items()
    )
    described["networks"] = tuple(found.networks)
    described["joins"] = tuple(found.joins)
    described["asking"] = tuple(found.asking.items())
    return described


def _observed(name, site):
    """What an observed site is; data and distribution that enlarge each other are refused."""
    given, stated = jnp.shape(site["value"]), site["fn"].shape()
    joint = jnp.broadcast_shapes(given, stated)
    if joint not in (given, stated):
        raise DataError(
            f"the observed site {name!r}: the data have shape {given}, the distribution {stated}. Broadcasting would "
            f"compare every value with every other, {joint} in all: give both the same shape"
        )
    tag = sites.read(site) or sites.Tag(name, kind="observation")
    constant = not given and not isinstance(site["value"], Tracer)
    return Observed(name, given, tag, support_in_words(site["fn"].support), constant)


def _latent(name, site, renamed):
    support = site["fn"].support
    shape = jnp.shape(site["value"])
    plates = tuple((frame.name, frame.dim) for frame in site["cond_indep_stack"])
    tag = sites.read(site) or sites.Tag(_parent(name, renamed))
    first = [plate for plate, dim in plates if -dim == len(shape) - site["fn"].event_dim]
    if first and tag.across is None:  # a plate of the user's own around the leading axis
        tag = replace(tag, across=first[0])
    unconstrained = shape if support.is_discrete else biject_to(support).inverse_shape(shape)
    discrete = bool(support.is_discrete)
    return Latent(name, shape, tuple(unconstrained), tag, plates, site["fn"].event_dim, discrete)


def _parent(name, renamed):
    """The site that numpyro's `reparam` split `name` from; it drops tags, so names must tell."""
    parents = [parent for parent in renamed if name.startswith(f"{parent}_")]
    return max(parents, key=len, default=name)


def _in_order(latent):
    """The unknowns with their slices, the sites of a group side by side."""
    latent = list(latent)
    for site in latent:
        if site.discrete and site.tag.kind == "observation":
            raise DataError(
                f"the observation {site.name!r} was not given and is discrete, so it cannot be an unknown: give it, "
                "or leave it out of the model"
            )
    discrete = [site.name for site in latent if site.discrete]
    if discrete:
        raise ModelError(
            f"the unknown {discrete[0]!r} is discrete, and a gradient cannot move it: sum it out by hand (for a "
            "mixture, numpyro.distributions.MixtureSameFamily), or use numpyro with funsor for this model"
        )
    groups = list(dict.fromkeys(site.tag.group for site in latent))
    placed, start = [], 0
    for site in sorted(latent, key=lambda site: groups.index(site.tag.group)):
        stop = start + int(np.prod(site.unconstrained_shape, dtype=int))
        placed.append(replace(site, start=start, stop=stop))
        start = stop
    return tuple(placed)
