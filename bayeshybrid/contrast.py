"""What a change does: two forecasts of one posterior, paired draw by draw.

Both forecasts carry the same unknowns and were drawn with the same key, so the difference of a pair is what the
change does if that draw is true. What passes through a network is told apart: it was learnt from data as they
came, and nothing says that it holds when somebody intervenes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.data import check_arguments
from bayeshybrid.faults import ModelError
from bayeshybrid.layout import split_arguments
from bayeshybrid.moments import conditional_moments
from bayeshybrid.quantities import Probability, Quantity
from bayeshybrid.sites import Tag
from bayeshybrid.summary import entry_name, names_of
from bayeshybrid.survey import in_batches
from bayeshybrid.tracing import place_constrained, run

if TYPE_CHECKING:
    from bayeshybrid.forecast import Forecast

MASS = 0.9

__all__ = ["Contrast", "paired"]


@dataclass(frozen=True)
class Contrast:
    """The difference between two forecasts of one posterior, paired draw by draw.

    - `latent`: difference of states, derived quantities and unknowns that both have in the same shape.
    - `observed`: difference of what would be measured on average, by observed site: measurement noise does not
      come in pairs and is left out.
    - `changed`, `baseline`: the two forecasts; `rows`: their draws that are paired, `(2, row)`.
    - `remarks`: what a reader must know.

    ```python
    def model(t, y=None):
        k = bh.parameter("k", bh.prior_interval(0.1, 1.0))
        bh.observe("y", dist.Normal(jnp.exp(-k * t), 0.1), obs=y)
    data = {"t": np.arange(3.0), "y": np.array([1.0, 0.6, 0.4])}
    posterior = bh.infer(model, data, bh.NUTS(draws=100, warmup=100), key=0)
    halved = posterior.predict(key=1, change={"k": lambda k: k / 2})
    effect = halved - posterior.predict(key=1)
    assert effect.observed["y"].mean[2] > 0 and effect.probability(lambda k: k < 0).value == 1
    ```
    """

    latent: dict[str, Quantity]
    observed: dict[str, Quantity]
    changed: Forecast
    baseline: Forecast
    rows: np.ndarray
    remarks: tuple[str, ...] = ()

    def of(
        self, function: Callable[..., Any], *, name: str | None = None, unit: str | None = None
    ) -> Quantity:
        """The difference in any function of the trajectory, such as `lambda path: path.max()`.

        **Arguments:** as for `Forecast.of`, applied to each forecast of a pair.

        **Returns:** a `Quantity`: with the change minus without it.
        """
        changed, baseline = (
            forecast.of(function, name=name, unit=unit) for forecast in (self.changed, self.baseline)
        )
        return _difference(changed, baseline, self.rows)

    def probability(self, function: Callable[..., Any]) -> Probability:
        """The probability of an event in terms of differences, such as `lambda path: path[-1] < 0`.

        **Arguments:**

        - `function`: its parameters name entries of `latent` or `observed`, whose differences it is given, one
          draw at a time; true where the event happens.
        """
        return _as_forecast(self).probability(function)

    @cached_property
    def through_networks(self) -> dict[str, Quantity]:
        """The part of each difference that came through networks; empty for a model without any.

        The change is made once more while every network answers what it answered without it, at the same call
        and along a solution at the same time. What is then lacking of the difference came through networks (the
        "natural indirect effect" of Pearl 2001, "Direct and indirect effects", section 2.2, draw by draw).
        """
        if not self.changed.target.layout.networks:
            return {}
        with configuration.scope():
            held = _held(self)
        parts = {**self.latent, **self.observed}
        return {
            name: _with(parts[name], parts[name].draws - (held[name] - _baseline(self, name)))
            for name in held
            if name in parts
        }

    def network_share(self, name: str) -> float:
        """How much of the difference in a quantity came through networks: a root mean square over that of all.

        Zero where none did, one where all did, above one where the parts work against each other.
        """
        if not self.through_networks:
            return 0.0
        whole = np.sqrt(np.mean({**self.latent, **self.observed}[name].draws ** 2))
        return float(np.sqrt(np.mean(self.through_networks[name].draws ** 2)) / whole) if whole > 0 else 0.0

    def __str__(self) -> str:
        what = ", ".join(self.changed.changed) or "the inputs"
        lines = [f"difference that a change of {what} makes, {len(self.rows[0])} paired draws"]
        for name, quantity in self.observed.items():
            lines += _in_words(name, quantity, self.changed.labels)
        if self.changed.target.layout.networks:
            lines += [
                f"  {name}: {100 * self.network_share(name):.0f} % of it came through a network, which says what "
                "followed in the data, not what follows when somebody intervenes"
                for name in self.observed
            ]
            lines += [
                f"  {network}: {100 * asked.outside:.0f} % of what this network is asked under the change lies outside "
                "what it saw in the fit"
                for network, asked in self.changed.extrapolation.items()
                if asked.outside > 0
            ]
        return "\n".join([*lines, *(f"  remark: {remark}" for remark in self.remarks)])


def paired(changed: Forecast, baseline: Forecast) -> Contrast:
    """Pair two forecasts of one posterior; `changed - baseline` is the same.

    **Raises:** `ModelError` for forecasts of different posteriors, or of other keys where something is drawn
    anew.
    """
    _check_pair(changed, baseline)
    rows = _paired(changed, baseline)
    remarks = []
    lost = max(len(changed.kept), len(baseline.kept)) * changed.replicates - len(rows[0])
    if lost:
        remarks.append(
            f"{lost // changed.replicates} draws are left out, because one of the two could not be solved"
        )
    shared = [
        name
        for name, quantity in changed.latent.items()
        if name in baseline.latent and quantity.draws.shape[1:] == baseline.latent[name].draws.shape[1:]
    ]
    latent = {name: _difference(changed.latent[name], baseline.latent[name], rows) for name in shared}
    means = _means(changed), _means(baseline)
    observed = {
        name: _difference(quantity, means[1][name], rows)
        for name, quantity in means[0].items()
        if name in means[1] and quantity.draws.shape[1:] == means[1][name].draws.shape[1:]
    }
    if not observed and not latent:
        raise ModelError("forecast - baseline: the two have nothing of the same shape that could be compared")
    return Contrast(latent, observed, changed, baseline, rows, tuple(remarks))


def _check_pair(changed, baseline):
    if changed.origin is None or baseline.origin is None:
        raise ModelError("forecast - baseline: both must come from a posterior's predict, not from the prior")
    if changed.target.layout != baseline.target.layout or changed.asked != baseline.asked:
        raise ModelError(
            "forecast - baseline: the two are not of one posterior with the same number of draws, so they do not pair"
        )
    common, left, right = np.intersect1d(changed.kept, baseline.kept, return_indices=True)
    if not len(common) or not np.array_equal(changed.origin.points[left], baseline.origin.points[right]):
        raise ModelError("forecast - baseline: the two carry different draws, so they do not pair")
    anew = [
        name
        for name in (*changed.drawn_anew, *changed.continued)
        if name not in {site.name for site in changed.target.layout.observed}
    ]
    if changed.replicates != baseline.replicates:
        raise ModelError(
            f"forecast - baseline: {changed.replicates} replicates against {baseline.replicates}: give predict the "
            "same replicates= and new="
        )
    keys = [np.asarray(jax.random.key_data(forecast.key)) for forecast in (changed, baseline)]
    if anew and not np.array_equal(keys[0], keys[1]):
        raise ModelError(
            f"forecast - baseline: {', '.join(anew)} were drawn anew under different keys, so other units would be "
            "compared: predict both with the same key="
        )


def _paired(changed, baseline):
    """Flat rows (draw and replicate) of both forecasts that belong together, `(2, row)`."""
    _, *places = np.intersect1d(changed.kept, baseline.kept, return_indices=True)
    k = changed.replicates
    return np.stack([(place[:, None] * k + np.arange(k)).ravel() for place in places])


def _means(forecast):
    """What would be measured on average, draw by draw."""
    found = {}
    for name, (mean, _) in forecast.conditional.items():
        flat = np.asarray(mean).reshape(-1, *np.shape(mean)[2:])
        if flat.dtype.kind == "f":
            found[name] = _with(forecast.observed[name], flat)
    return found


def _with(quantity, draws):
    return Quantity(quantity.name, draws, quantity.labels, quantity.unit, quantity.across)


def _difference(one, other, rows):
    first, second = (np.asarray(x.draws, float)[at] for x, at in zip((one, other), rows, strict=True))
    return _with(one, first - second)


def _baseline(found, name):
    quantity = found.baseline.latent.get(name) or _means(found.baseline)[name]
    return quantity.draws[found.rows[1]]


def _as_forecast(found):
    """A stand-in for a forecast that holds the differences, one row a draw."""
    k = found.changed.replicates
    kept = found.rows[0][::k] // k
    assert found.changed.origin is not None
    origin = replace(
        found.changed.origin,
        points=found.changed.origin.points[kept],
        chain=found.changed.origin.chain[kept],
    )
    return replace(found.changed, latent=found.latent, observed=found.observed, kept=kept, origin=origin)


def _in_words(name, quantity, labels):
    """The largest difference of a quantity, with its range."""
    flat = quantity.draws.reshape(len(quantity.draws), -1)
    at = int(np.argmax(np.abs(flat.mean(axis=0))))
    low, high = np.quantile(flat[:, at], [(1 - MASS) / 2, (1 + MASS) / 2])
    index = tuple(int(i) for i in np.unravel_index(at, quantity.draws.shape[1:]))
    place = entry_name(
        name, index, *names_of(Tag(name, labels=quantity.labels, across=quantity.across), labels)
    )
    unit = f" {quantity.unit}" if quantity.unit else ""
    yield (
        f"  {name}: largest on average at {place}, {flat[:, at].mean():.4g}{unit} "
        f"(9 in 10 draws from {low:.4g} to {high:.4g})"
    )


# The change made while networks answer as without it


def _held(found) -> Mapping[str, np.ndarray]:
    programs = [_arguments(forecast) for forecast in (found.changed, found.baseline)]
    arrays, fixed = ([program[i] for program in programs] for i in (0, 1))
    targets = (found.changed.target, found.baseline.target)
    drawn = [
        {name: forecast.latent[name].draws[at] for name in _unknowns(forecast)}
        for forecast, at in zip((found.changed, found.baseline), found.rows, strict=True)
    ]
    program = partial(_run_held, targets, tuple(fixed), tuple(found.observed), arrays)
    return in_batches(program, drawn)


def _arguments(forecast):
    left_out = forecast.target.layout.observation_arguments
    bare = {name: value for name, value in forecast.inputs.items() if name not in left_out}
    target = forecast.target
    arrays, fixed, _ = split_arguments(target.model, check_arguments(target.model, bare), dict(target.fixed))
    return arrays, tuple(sorted(fixed.items()))


def _unknowns(forecast):
    names = (*forecast.carried, *forecast.continued, *forecast.drawn_anew)
    return [name for name in names if name in forecast.latent]


@partial(jax.jit, static_argnums=(1, 2), compiler_options=configuration.compile_options(level=1))
def _run_held(targets, fixed, observed, arrays, drawn):
    """Solutions, derived quantities and expected measurements of a batch, networks answering as in the baseline."""

    def one(drawn):
        plain = _once(targets[1], arrays[1], fixed[1], drawn[1], None)
        found = _once(targets[0], arrays[0], fixed[0], drawn[0], plain)
        told = {name: message["value"].ys for name, message in found.solutions.items()}
        told |= {name: site["value"] for name, site in found.sites.items() if site["type"] == "deterministic"}
        means = {
            name: conditional_moments(found.sites[name]["fn"], jax.random.key(0)).mean for name in observed
        }
        return {**told, **means}

    return jax.vmap(one)(drawn)


def _once(target, arrays, fixed, drawn, beside):
    arguments = {**arrays, **{name: value.value for name, value in fixed}}
    return run(
        target.model,
        arguments,
        key=jax.random.key(0),
        place=place_constrained(drawn),
        scalings=target.scalings,
        finer=target.finer,
        beside=beside,
    )
