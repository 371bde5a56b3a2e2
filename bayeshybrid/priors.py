"""Scientific parameters: a name, a unit, a prior, and pooling across units.

`parameter` and `parameters` are statements of a model: they make the numpyro sites, tag them with group, unit
and labels, and hand back plain values. `prior_interval`, `bounded` and `prior_quantiles` state the priors.
"""

from __future__ import annotations

import keyword
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro.distributions import constraints
from numpyro.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    IdentityTransform,
    Transform,
    biject_to,
)
from numpyro.primitives import apply_stack

from . import sites
from .elicitation import bounded, prior_interval, prior_quantiles
from .faults import ModelError

__all__ = [
    "Parameter",
    "bounded",
    "check_labels",
    "parameter",
    "parameters",
    "prior_interval",
    "prior_quantiles",
    "tagged_deterministic",
]


@dataclass(frozen=True)
class Parameter:
    """One scientific parameter before it has a name: prior, unit, shape, and how it varies across units.

    **Arguments:**

    - `prior`: a numpyro distribution, or `prior_interval(...)`, `bounded(...)`, `prior_quantiles(...)`.
    - `unit`: as you write it, such as `"1/yr"`.
    - `shape`: shape of the value; the entries are independent with the same prior.
    - `labels`: names of the entries along the value's last axis.
    - `across`: name of what the value varies across, such as `"subject"`; needs `size` and `spread`. The
      prior is then that of the population's value, and the shape gains a leading axis of `size`.
    - `size`: how many of them there are.
    - `spread`: prior of the standard deviation between them, on the log scale if the prior's support is
      positive, on the scale that its support maps to the real line if it has two ends, else in `unit`.

    **Raises:** `ModelError` for a prior that is no distribution, a spread that could be negative, labels that
    do not count up to the last axis, or only some of `across`, `size`, `spread`.

    ```python
    birth = bh.Parameter(bh.prior_interval(0.3, 1.2), unit="1/yr")
    start = bh.Parameter(bh.prior_interval(5, 60), shape=(2,), labels=("hare", "lynx"), unit="kpelt")
    assert start.value_shape == (2,) and birth.value_shape == ()
    ```
    """

    prior: dist.Distribution
    unit: str | None = None
    shape: tuple[int, ...] = ()
    labels: tuple[str, ...] | None = None
    across: str | None = None
    size: int | None = None
    spread: dist.Distribution | None = None

    def __post_init__(self):
        _check_distribution(self.prior, "prior")
        shape = (self.shape,) if isinstance(self.shape, int | np.integer) else tuple(self.shape)
        if any(not isinstance(n, int | np.integer) or int(n) < 1 for n in shape):
            raise ModelError(
                f"Parameter: shape = {self.shape!r} must hold whole numbers above zero, such as (2,)."
            )
        object.__setattr__(self, "shape", _joint_shape(self.prior, tuple(int(n) for n in shape)))
        self._check_pooling()
        if isinstance(self.labels, str):
            raise ModelError(
                f'Parameter: labels = {self.labels!r} is one string; write labels=("{self.labels}",).'
            )
        object.__setattr__(self, "labels", None if self.labels is None else tuple(map(str, self.labels)))
        check_labels(self.labels, self.value_shape, "Parameter")

    def _check_pooling(self):
        spread: Any = self.spread
        given = {key: getattr(self, key) is not None for key in ("across", "size", "spread")}
        if any(given.values()) and not all(given.values()):
            lacking = ", ".join(key for key, there in given.items() if not there)
            raise ModelError(
                f'Parameter: {lacking} is missing; pooling needs across="subject", size=12 and '
                "spread=dist.HalfNormal(0.5) together."
            )
        if self.across is None:
            return
        if not isinstance(self.size, int | np.integer) or self.size < 1:
            raise ModelError(f"Parameter: size = {self.size!r}; give how many of {self.across!r} there are.")
        if isinstance(self.spread, int | float):
            raise ModelError(
                f"Parameter: spread = {self.spread} is a number; it is a standard deviation and needs a "
                "prior "
                "that is never negative, such as dist.HalfNormal(0.5)."
            )
        _check_distribution(self.spread, "spread")
        if not _is_positive(spread.support):
            raise ModelError(
                f"Parameter: spread has the prior {type(self.spread).__name__}, which can be negative; a "
                "standard "
                "deviation needs a positive one, such as dist.HalfNormal(0.5)."
            )
        if spread.event_shape or self.prior.event_shape:
            raise ModelError("Parameter: pooling needs scalar priors; pool the components one by one.")

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of the value that the statement returns."""
        lead = () if self.across is None else (int(self.size or 0),)
        return lead + self.shape + tuple(self.prior.event_shape)


def _check_distribution(prior: Any, what: str) -> None:
    if not isinstance(prior, dist.Distribution):
        raise ModelError(
            f"Parameter: {what} is {prior!r}; give a numpyro distribution, such as prior_interval(low, high)."
        )


def _joint_shape(prior: dist.Distribution, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stated shape, or that of the prior's own batch, checked against each other."""
    batch = tuple(prior.batch_shape)
    if not shape:
        return batch
    try:
        joint = np.broadcast_shapes(batch, shape)
    except ValueError:
        joint = None
    if joint != shape:
        raise ModelError(f"Parameter: shape = {shape}, but the prior itself has shape {batch}.")
    return shape


def check_labels(labels: tuple[str, ...] | None, shape: tuple[int, ...], of: str) -> None:
    """Raise `ModelError` unless the labels are as many as the entries along the last axis, each once.

    ```python
    from bayeshybrid.priors import check_labels
    check_labels(("hare", "lynx"), (91, 2), "observe")
    ```
    """
    if not labels:
        return
    entries = shape[-1] if shape else 1
    if len(labels) != entries:
        raise ModelError(
            f"{of}: {len(labels)} labels {labels} for {entries} entries along the last axis of shape {shape}."
        )
    if len(set(labels)) != len(labels):
        raise ModelError(f"{of}: the labels {labels} name an entry twice.")


def _is_positive(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support in (constraints.positive, constraints.nonnegative, constraints.unit_interval):
        return True
    lower = getattr(support, "lower_bound", None)
    if lower is None or isinstance(lower, Tracer):
        return False
    return bool(np.all(np.asarray(lower) >= 0.0))


def _pooling_scale(support: Any) -> Transform:
    """From the real line, where units differ by a normal offset, to where the parameter lives."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real:
        return IdentityTransform()
    if support in (constraints.positive, constraints.nonnegative):
        return ExpTransform()
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        below = support.lower_bound
        return ExpTransform() if np.all(np.asarray(below) == 0.0) else _above(below)
    return biject_to(support)


def _above(below: Any) -> Transform:
    return dist.transforms.ComposeTransform(
        [ExpTransform(), AffineTransform(below, 1.0, domain=constraints.positive)]
    )


def parameter(
    name: str,
    prior: dist.Distribution,
    *,
    unit: str | None = None,
    shape: tuple[int, ...] = (),
    labels: tuple[str, ...] | None = None,
    across: str | None = None,
    size: int | None = None,
    spread: dist.Distribution | None = None,
    group: str | None = None,
) -> Any:
    """Statement: one scientific parameter under `name`.

    **Arguments:** as for `Parameter`, and

    - `name`: name of the site, and of the parameter in every table.
    - `group`: the block it belongs to; its own name where none is given.

    **Returns:** the value, an array of shape `shape`; with `across`, of shape `(size, *shape)`.

    Pooling is partial and written without centring (Papaspiliopoulos, Roberts and Skold 2007): with the
    offset standard normal, value = population * exp(spread * offset) on the log scale, population +
    spread * offset otherwise. The sites are `<name>_population`, `<name>_spread`, `<name>_offset` (inside
    `numpyro.plate(across, size)`) and the deterministic `<name>`.

    **Raises:** `ModelError` as `Parameter` does.

    ```python
    def model():
        return bh.parameter("birth", bh.prior_interval(0.3, 1.2), unit="1/yr")
    assert numpyro.handlers.seed(model, 0)() > 0
    ```
    """
    stated = Parameter(prior, unit, shape, labels, across, size, spread)
    return _draw(name, stated, group or name)


def parameters(group: str, **members: Parameter) -> Any:
    """Statement: a block of scientific parameters.

    **Arguments:**

    - `group`: name of the block in tables and budgets. Sites keep the bare parameter names.
    - `members`: name to `Parameter`.

    **Returns:** a named tuple of the values, a pytree, so it can be handed to a solver as it is.

    **Raises:** `ModelError` for a member that is no `Parameter`, an impossible name, or a name that another
    member already uses for one of its sites.

    ```python
    def model():
        return bh.parameters("rates", birth=bh.Parameter(bh.prior_interval(0.3, 1.2), unit="1/yr"))
    rates = numpyro.handlers.seed(model, 0)()
    assert rates.birth > 0
    ```
    """
    taken: dict[str, str] = {}
    for name, member in members.items():
        if not isinstance(member, Parameter):
            raise ModelError(
                f"parameters({group!r}): {name} is {member!r}; write {name}=Parameter(prior_interval(low, "
                "high))."
            )
        for site in _site_names(name, member):
            if site in taken:
                raise ModelError(
                    f"parameters({group!r}): the name {site!r} is repeated: {taken[site]!r} and {name!r} "
                    "both "
                    "use it; rename one of them."
                )
            taken[site] = name
    kind = _values_class(group, tuple(members))
    return kind(*(_draw(name, member, group) for name, member in members.items()))


def _site_names(name: str, stated: Parameter) -> tuple[str, ...]:
    pooled = ("_population", "_spread", "_offset") if stated.across is not None else ()
    return (name, *(name + part for part in pooled))


@cache
def _values_class(group: str, names: tuple[str, ...]) -> type:
    """One class per block, so that traces of the same model agree on the tree."""
    title = group if group.isidentifier() and not keyword.iskeyword(group) else "Values"
    try:
        return namedtuple(title, names)
    except ValueError as error:
        raise ModelError(f"parameters({group!r}): {error}; choose another name.") from None


def _draw(name: str, stated: Parameter, group: str) -> Any:
    tag = sites.Tag(group, stated.unit, stated.labels or (), across=stated.across)
    if stated.across is None:
        return numpyro.sample(name, _shaped(stated.prior, stated.shape), infer=sites.mapping(tag))
    return _draw_pooled(name, stated, tag)


def _draw_pooled(name: str, stated: Any, tag: sites.Tag) -> Any:
    scale = _pooling_scale(stated.prior.support)
    entries = tag.labels if stated.shape else ()
    relative = tag.unit if isinstance(scale, IdentityTransform) else "1"
    population = numpyro.sample(
        f"{name}_population",
        _shaped(stated.prior, stated.shape),
        infer=sites.mapping(replace(tag, kind="population", labels=entries, across=None)),
    )
    spread = numpyro.sample(
        f"{name}_spread",
        _shaped(stated.spread, stated.shape),
        infer=sites.mapping(replace(tag, kind="spread", unit=relative, labels=entries, across=None)),
    )
    plate = numpyro.plate(stated.across, stated.size)
    if plate.dim != -1:
        raise ModelError(
            f"parameter {name!r}: it is pooled across {stated.across!r} and stands inside another plate; "
            "move the statement out of that plate."
        )
    with plate:
        offset = numpyro.sample(
            f"{name}_offset",
            _shaped(dist.Normal(0.0, 1.0), stated.shape),
            infer=sites.mapping(replace(tag, kind="offset", unit="1")),
        )
    centre = jnp.expand_dims(scale.inv(population), 0)
    value = scale(centre + jnp.expand_dims(spread, 0) * offset)
    return tagged_deterministic(name, value, tag)


def _shaped(prior: dist.Distribution, shape: tuple[int, ...]) -> dist.Distribution:
    """The prior over the whole value: its own axes are one event, so a user's plate cannot claim them."""
    return prior.expand(shape).to_event(len(shape)) if shape else prior


def tagged_deterministic(name: str, value: Any, tag: sites.Tag) -> Any:
    """`numpyro.deterministic` that carries a tag, which numpyro's own has no argument for.

    **Arguments:**

    - `name`: name of the site.
    - `value`: its value, an array.
    - `tag`: what the site says of itself; `sites.read` finds it in the trace.

    **Returns:** the value.

    ```python
    from bayeshybrid import priors, sites
    with numpyro.handlers.trace() as trace:
        priors.tagged_deterministic("k", jnp.ones(3), sites.Tag("rates", unit="1/h"))
    assert sites.read(trace["k"]).unit == "1/h"
    ```
    """
    message = {
        "type": "deterministic",
        "name": name,
        "value": value,
        "cond_indep_stack": [],
        "infer": sites.mapping(tag),
    }
    return apply_stack(message)["value"]
