"""Scientific parameters: a name, a unit, a prior in plain words, and pooling across units.

`prior_interval`, `bounded` and `prior_quantiles` turn what a scientist can say of a quantity into a
distribution. `parameter` and `parameters` are statements of a model: they make the numpyro sites, tag them
with group, unit and labels, and hand back plain values.
"""

from __future__ import annotations

import keyword
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
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
from .faults import ModelError

_QUANTILE_TOLERANCE = 0.005
"""Largest difference in probability accepted when more than three quantiles are stated."""


def _number(value: Any, what: str, of: str) -> Any:
    """A finite Python float, or an array of them; an error naming the argument otherwise."""
    if isinstance(value, jax.core.Tracer):
        raise ModelError(
            f"{of}: {what} is computed inside compiled code; give plain numbers, or write the "
            "numpyro distribution itself when a prior depends on another unknown."
        )
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ModelError(f"{of}: {what} is {value!r}; give a number.") from None
    if not np.all(np.isfinite(array)):
        raise ModelError(f"{of}: {what} is {value!r}; it must be finite.")
    return float(array) if array.ndim == 0 else array


def _ordered(low: Any, high: Any, of: str) -> tuple[Any, Any]:
    low, high = _number(low, "low", of), _number(high, "high", of)
    try:
        ordered = bool(np.all(np.less(low, high)))
    except ValueError:
        raise ModelError(f"{of}: low has shape {np.shape(low)}, high {np.shape(high)}; they differ.") from None
    if not ordered:
        raise ModelError(f"{of}: low = {low} is not below high = {high}; write {of}(low, high) in that order.")
    return low, high


def prior_interval(low: ArrayLike, high: ArrayLike, mass: float = 0.95) -> dist.Distribution:
    """A prior that holds `mass` between `low` and `high`, with equal tails beyond.

    Log-normal if both ends are positive (every end, when arrays are given), else normal. An end at exactly
    zero makes it normal: write a small positive number for a quantity that cannot be negative.

    **Arguments:**

    - `low`, `high`: the ends, numbers or arrays of one shape, in the unit of the quantity.
    - `mass`: the probability inside, between 0 and 1.

    **Returns:** a numpyro distribution whose batch shape is that of the ends.

    **Raises:** `ModelError` if `low >= high`, an end is not finite, or `mass` is outside (0, 1).

    ```python
    prior = bh.prior_interval(0.3, 1.2)
    assert np.isclose(prior.icdf(0.025), 0.3, rtol=1e-4)
    assert np.isclose(prior.icdf(0.975), 1.2, rtol=1e-4)
    ```
    """
    low, high = _ordered(low, high, "prior_interval")
    mass = _number(mass, "mass", "prior_interval")
    if np.ndim(mass) != 0 or not 0.0 < mass < 1.0:
        raise ModelError(f"prior_interval: mass = {mass} is a probability between 0 and 1, such as 0.95.")
    half = NormalDist().inv_cdf(0.5 + 0.5 * mass)
    if np.all(np.greater(low, 0.0)):
        low, high = np.log(low), np.log(high)
        return dist.LogNormal(_plain(0.5 * (low + high)), _plain(0.5 * (high - low) / half))
    return dist.Normal(_plain(0.5 * (low + high)), _plain(0.5 * (high - low) / half))


def _plain(value: Any) -> Any:
    """A Python float where there is one number, so that the prior follows the precision it is used in."""
    return float(value) if np.ndim(value) == 0 else value


def bounded(low: ArrayLike, high: ArrayLike) -> dist.Distribution:
    """A prior with hard limits: every value between `low` and `high` alike, none outside.

    **Arguments:**

    - `low`, `high`: the limits, numbers or arrays of one shape, in the unit of the quantity.

    **Returns:** a numpyro `Uniform`.

    **Raises:** `ModelError` if `low >= high` or an end is not finite.

    ```python
    share = bh.bounded(0.0, 1.0)
    assert np.isclose(share.mean, 0.5)
    assert not share.support(jnp.array(1.2))
    ```
    """
    return dist.Uniform(*_ordered(low, high, "bounded"))


class SkewTransform(Transform):
    """`loc + scale z + skew sqrt(1 + z^2)` with `|skew| < scale`: a smooth bend of the normal quantile.

    The sinh-arcsinh transform of Jones and Pewsey (2009, Biometrika 96, 761) with unit tail weight: the
    slope goes from `scale - skew` far below to `scale + skew` far above, so both tails stay normal.

    ```python
    from bayeshybrid.priors import SkewTransform
    bend = SkewTransform(0.0, 2.0, 1.0)
    assert np.isclose(bend.inv(bend(0.7)), 0.7)
    ```
    """

    sign = 1

    def __init__(self, loc: ArrayLike, scale: ArrayLike, skew: ArrayLike):
        self.loc = loc
        self.scale = scale
        self.skew = skew

    def __call__(self, x):
        return self.loc + self.scale * x + self.skew * jnp.sqrt(1.0 + jnp.square(x))

    def _inverse(self, y):
        spread = jnp.sqrt((self.scale - self.skew) * (self.scale + self.skew))
        return jnp.sinh(jnp.arcsinh((y - self.loc) / spread) - jnp.arctanh(self.skew / self.scale))

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return jnp.log(self.scale + self.skew * x / jnp.sqrt(1.0 + jnp.square(x)))

    def tree_flatten(self):
        """The three numbers as leaves, as numpyro's own transforms do."""
        return (self.loc, self.scale, self.skew), (("loc", "scale", "skew"), {})


def prior_quantiles(quantiles: Mapping[float, float]) -> dist.Distribution:
    """A prior with the stated quantiles.

    All values positive: on the log scale, else on the plain one. Two quantiles give a log-normal or normal;
    three or more a smooth skewed one, the normal bent by `SkewTransform`, whose middle may lie off-centre
    as far as that family allows.

    **Arguments:**

    - `quantiles`: probability to value, `{0.05: 1.0, 0.5: 2.0, 0.95: 8.0}`, in the unit of the quantity.

    **Returns:** a numpyro distribution (scalar) with `cdf` and `icdf`.

    **Raises:** `ModelError` if there are fewer than two, a probability is outside (0, 1), the values do not
    rise with the probabilities, or no member of the family meets them.

    ```python
    prior = bh.prior_quantiles({0.05: 1.0, 0.5: 2.0, 0.95: 8.0})
    assert np.allclose(prior.icdf(jnp.array([0.05, 0.5, 0.95])), [1.0, 2.0, 8.0])
    ```
    """
    probabilities, values = _checked_quantiles(quantiles)
    positive = bool(values[0] > 0.0)
    normal_scores = np.array([NormalDist().inv_cdf(p) for p in probabilities])
    heights = np.log(values) if positive else values
    loc, scale, skew = _fit_quantiles(normal_scores, heights)
    if not abs(skew) < scale * (1.0 - 1e-9):
        raise ModelError(_unreachable(quantiles, normal_scores, positive))
    if abs(skew) < 1e-9 * scale:
        prior = dist.LogNormal(loc, scale) if positive else dist.Normal(loc, scale)
    else:
        bends: list[Transform] = [SkewTransform(loc, scale, skew)]
        prior = dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), [*bends, ExpTransform()] if positive else bends
        )
    _check_met(quantiles, (loc, scale, skew), normal_scores, heights)
    return prior


def _checked_quantiles(quantiles: Mapping[float, float]) -> tuple[np.ndarray, np.ndarray]:
    example = "write prior_quantiles({0.05: 1.0, 0.5: 2.0, 0.95: 8.0})"
    if not isinstance(quantiles, Mapping) or len(quantiles) < 2:
        raise ModelError(f"prior_quantiles: {quantiles!r} does not state two quantiles or more; {example}.")
    pairs = [(_number(p, "a probability", "prior_quantiles"), _number(v, "a value", "prior_quantiles"))
             for p, v in quantiles.items()]
    if any(np.ndim(p) or np.ndim(v) for p, v in pairs):
        raise ModelError(f"prior_quantiles: {quantiles!r} holds arrays; state one number per probability.")
    pairs.sort()
    probabilities, values = (np.array(column) for column in zip(*pairs, strict=True))
    if probabilities[0] <= 0.0 or probabilities[-1] >= 1.0:
        raise ModelError(
            f"prior_quantiles: the probabilities {probabilities.tolist()} must lie inside (0, 1); {example}."
        )
    if np.any(np.diff(values) <= 0.0):
        raise ModelError(
            f"prior_quantiles: the values {values.tolist()} must rise with the probabilities "
            f"{probabilities.tolist()}."
        )
    return probabilities, values


def _fit_quantiles(normal_scores: np.ndarray, heights: np.ndarray) -> tuple[float, float, float]:
    """Least squares in (loc, scale, skew): the quantile function is linear in them."""
    columns = [np.ones_like(normal_scores), normal_scores]
    if len(normal_scores) > 2:
        columns.append(np.sqrt(1.0 + normal_scores**2))
    unit = heights[-1] - heights[0]
    fitted = np.linalg.lstsq(np.stack(columns, axis=1), (heights - heights[0]) / unit, rcond=None)[0]
    loc, scale, skew = (*(fitted * unit), 0.0)[:3]
    return float(loc + heights[0]), float(scale), float(skew)


def _unreachable(quantiles: Mapping[float, float], z: np.ndarray, positive: bool) -> str:
    message = f"prior_quantiles: no smooth prior of this family has the quantiles {dict(quantiles)!r}"
    if len(z) != 3:
        return message + "; state three of them, or fewer extremes."
    # The middle value is furthest off-centre where the bend is complete, |skew| = scale.
    bend = np.sqrt(1.0 + z**2)
    shares = sorted(((s[1] - s[0]) / (s[2] - s[0]) for s in (z + bend, z - bend)))
    ends = sorted(quantiles.items())
    low, high = (np.log(v) if positive else v for v in (ends[0][1], ends[-1][1]))
    reach = [low + share * (high - low) for share in shares]
    reach = [float(np.exp(r)) for r in reach] if positive else reach
    return (
        f"{message}: with these ends the value at {ends[1][0]} can lie between {reach[0]:.4g} and "
        f"{reach[1]:.4g}, not at {ends[1][1]:.4g}. Move it, or write the numpyro distribution you mean."
    )


def _check_met(quantiles: Mapping[float, float], fit: tuple, z: np.ndarray, heights: np.ndarray) -> None:
    loc, scale, skew = fit
    spread = np.sqrt((scale - skew) * (scale + skew))
    reached = np.sinh(np.arcsinh((heights - loc) / spread) - np.arctanh(skew / scale))
    normal = NormalDist()
    off = [abs(normal.cdf(a) - normal.cdf(b)) for a, b in zip(reached, z, strict=True)]
    if max(off) > _QUANTILE_TOLERANCE:
        worst = sorted(quantiles.items())[int(np.argmax(off))]
        raise ModelError(
            f"prior_quantiles: the stated quantiles {dict(quantiles)!r} cannot be met together; the worst is "
            f"{worst[1]} at {worst[0]}, off by {max(off):.3f} in probability. State three of them."
        )


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
        if any(not isinstance(n, int | np.integer) or n < 1 for n in shape):
            raise ModelError(f"Parameter: shape = {self.shape!r} must hold whole numbers above zero, such as (2,).")
        object.__setattr__(self, "shape", _joint_shape(self.prior, tuple(int(n) for n in shape)))
        self._check_pooling()
        if isinstance(self.labels, str):
            raise ModelError(f'Parameter: labels = {self.labels!r} is one string; write labels=("{self.labels}",).')
        object.__setattr__(self, "labels", None if self.labels is None else tuple(map(str, self.labels)))
        check_labels(self.labels, self.value_shape, "Parameter")

    def _check_pooling(self):
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
                f"Parameter: spread = {self.spread} is a number; it is a standard deviation and needs a prior "
                "that is never negative, such as dist.HalfNormal(0.5)."
            )
        _check_distribution(self.spread, "spread")
        if not _is_positive(self.spread.support):
            raise ModelError(
                f"Parameter: spread has the prior {type(self.spread).__name__}, which can be negative; a standard "
                "deviation needs a positive one, such as dist.HalfNormal(0.5)."
            )
        if self.spread.event_shape or self.prior.event_shape:
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
    try:
        prior.validate_args(strict=False)
    except ValueError as error:
        raise ModelError(f"Parameter: {what}: {error} A scale must be positive.") from None


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
    if lower is None or isinstance(lower, jax.core.Tracer):
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
                f"parameters({group!r}): {name} is {member!r}; write {name}=Parameter(prior_interval(low, high))."
            )
        for site in _site_names(name, member):
            if site in taken:
                raise ModelError(
                    f"parameters({group!r}): the name {site!r} is repeated: {taken[site]!r} and {name!r} both "
                    "use it; rename one of them."
                )
            taken[site] = name
    kind = _values_class(group, tuple(members))
    return kind(*(_draw(name, member, group) for name, member in members.items()))


def _site_names(name: str, stated: Parameter) -> tuple[str, ...]:
    pooled = ("_population", "_spread", "_offset") if stated.across is not None else ()
    return (name, *(name + part for part in pooled))


@lru_cache(maxsize=None)
def _values_class(group: str, names: tuple[str, ...]) -> type:
    """One class per block, so that traces of the same model agree on the tree."""
    title = group if group.isidentifier() and not keyword.iskeyword(group) else "Values"
    try:
        return namedtuple(title, names)
    except ValueError as error:
        raise ModelError(f"parameters({group!r}): {error}; choose another name.") from None


def _draw(name: str, stated: Parameter, group: str) -> Any:
    tag = sites.Tag(group, stated.unit, stated.labels or ())
    if stated.across is None:
        return numpyro.sample(name, _shaped(stated.prior, stated.shape), infer=sites.mapping(tag))
    return _draw_pooled(name, stated, tag)


def _draw_pooled(name: str, stated: Parameter, tag: sites.Tag) -> Any:
    scale = _pooling_scale(stated.prior.support)
    entries = tag.labels if stated.shape else ()
    relative = tag.unit if isinstance(scale, IdentityTransform) else "1"
    population = numpyro.sample(
        f"{name}_population",
        _shaped(stated.prior, stated.shape),
        infer=sites.mapping(replace(tag, kind="population", labels=entries)),
    )
    spread = numpyro.sample(
        f"{name}_spread",
        _shaped(stated.spread, stated.shape),
        infer=sites.mapping(replace(tag, kind="spread", unit=relative, labels=entries)),
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
