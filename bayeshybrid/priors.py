"""Scientific parameters: a name, a unit, a prior, and pooling across units.

`parameter` and `parameters` are statements of a model: they make the numpyro sites, tag them with group, unit
and labels, and hand back plain values. `prior_interval`, `bounded` and `prior_quantiles` state the priors.
"""

from __future__ import annotations

import keyword
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro.distributions import constraints

from . import sites
from .elicitation import bounded, prior_interval, prior_quantiles
from .faults import ModelError
from .pooling import draw_composed, is_unknown, shaped, tagged_deterministic, unit_plate

__all__ = [
    "Covariate",
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
class Covariate:
    """Something known of each unit that shifts its parameter.

    The shift is `effect * values` on the scale on which units differ: for a positive parameter a factor
    `exp(effect * values)`, so with `values = log(weight / 70)` the parameter goes as `(weight / 70) ** effect`.

    **Arguments:**

    - `values`: one number a unit, `(size,)`; centred, so that the population's value is that of a typical unit.
    - `effect`: prior of the coefficient, or a number where it is known, such as 0.75 for clearance by weight.

    ```python
    weight = bh.Covariate(np.log(np.array([58.0, 82.0]) / 70), effect=0.75)
    assert weight.values.shape == (2,)
    ```
    """

    values: Any
    effect: dist.Distribution | float

    def __post_init__(self):
        if np.ndim(self.values) != 1:
            raise ModelError(
                f"Covariate: values have shape {np.shape(self.values)}; give one number a unit, such as weight."
            )
        if isinstance(self.effect, dist.Distribution) and (
            self.effect.batch_shape or self.effect.event_shape
        ):
            raise ModelError(
                "Covariate: effect needs a prior of a single number, such as dist.Normal(0.0, 1.0)."
            )


@dataclass(frozen=True)
class Parameter:
    """One scientific parameter before it has a name: prior, unit, shape, and how it varies across units.

    **Arguments:**

    - `prior`: a numpyro distribution, or `prior_interval(...)`, `bounded(...)`, `prior_quantiles(...)`.
    - `unit`: as you write it, such as `"1/yr"`.
    - `shape`: shape of the value; the entries are independent with the same prior.
    - `labels`: names of the entries along the value's last axis.
    - `across`: name of what the value varies across, such as `"subject"`; needs `size`, and the shape gains a
      leading axis of that. With `spread` units are partially pooled: the prior is that of the population's value.
      With neither `spread` nor `covariates` each unit has a value of its own under the prior, unpooled.
    - `size`: how many of them there are.
    - `spread`: prior of the standard deviation between them, on the log scale if the prior's support is
      positive, on the scale that its support maps to the real line if it has two ends, else in `unit`.
    - `covariates`: name to `Covariate`, what is known of each unit and shifts its value on that same scale.
      Without `spread` units then differ by their covariates alone.

    **Raises:** `ModelError` for a prior that is no distribution, a spread that could be negative, labels that
    do not count up to the last axis, `across` without `size`, or `spread` or `covariates` without both.

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
    covariates: Mapping[str, Covariate] | None = None

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
        varies = any(getattr(self, key) is not None for key in ("across", "size", "spread", "covariates"))
        lacking = [key for key in ("across", "size") if getattr(self, key) is None]
        if varies and lacking:
            raise ModelError(
                f'Parameter: {", ".join(lacking)} is missing; a parameter of each unit needs across="subject" and '
                "size=12, and to pool them spread=dist.HalfNormal(0.5)."
            )
        if self.across is None:
            return
        if not isinstance(self.size, int | np.integer) or self.size < 1:
            raise ModelError(f"Parameter: size = {self.size!r}; give how many of {self.across!r} there are.")
        self._check_covariates()
        if self.spread is None:
            return
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

    def _check_covariates(self):
        for name, covariate in (self.covariates or {}).items():
            if not isinstance(covariate, Covariate):
                raise ModelError(
                    f"Parameter: covariates[{name!r}] is {covariate!r}; write Covariate(values, effect=prior)."
                )
            if np.shape(covariate.values) != (self.size,):
                raise ModelError(
                    f"Parameter: covariates[{name!r}] has {np.shape(covariate.values)[0]} values for {self.size} "
                    f"of {self.across!r}; give one each."
                )
        if self.covariates and self.prior.event_shape:
            raise ModelError("Parameter: covariates need a scalar prior; state the components one by one.")

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
    covariates: Mapping[str, Covariate] | None = None,
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
    `numpyro.plate(across, size)`), for each covariate with an unknown effect `<name>_<covariate>`, and the
    deterministic `<name>`. Without pooling the one site `<name>` stands inside the plate.

    **Raises:** `ModelError` as `Parameter` does.

    ```python
    def model():
        return bh.parameter("birth", bh.prior_interval(0.3, 1.2), unit="1/yr")
    assert numpyro.handlers.seed(model, 0)() > 0
    ```
    """
    stated = Parameter(prior, unit, shape, labels, across, size, spread, covariates)
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
    if not _is_composed(stated):
        return (name,)
    pooled = ("_population", *(("_spread", "_offset") if stated.spread is not None else ()))
    effects = [f"_{each}" for each, told in (stated.covariates or {}).items() if is_unknown(told)]
    return (name, *(name + part for part in (*pooled, *effects)))


def _is_composed(stated: Parameter) -> bool:
    """Whether the value is put together from a population's value and what sets units apart."""
    return stated.across is not None and (stated.spread is not None or bool(stated.covariates))


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
        return numpyro.sample(name, shaped(stated.prior, stated.shape), infer=sites.mapping(tag))
    if not _is_composed(stated):
        with unit_plate(name, stated):
            return numpyro.sample(name, shaped(stated.prior, stated.shape), infer=sites.mapping(tag))
    return draw_composed(name, stated, tag)
