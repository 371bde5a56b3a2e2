"""Forecasts: what is observed and what is latent, kept apart, and the variance split by the law of total variance.

For each unknown a forecast either carries the posterior draw (epistemic: more data would shrink it) or draws it
anew from its conditional prior (aleatoric, like the observation itself).
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.data import check_arguments
from bayeshybrid.faults import ModelError
from bayeshybrid.layout import Latent, Layout, latent_sites, split_arguments
from bayeshybrid.survey import in_batches
from bayeshybrid.target import Target
from bayeshybrid.verdict import Verdict

REPLICATES = 8
FEW = 1e-3

__all__ = ["Forecast", "Origin", "Part", "Quantity", "forecast_draws"]


@dataclass(frozen=True)
class Origin:
    """The posterior that a forecast came from, one row for each of its draws.

    - `points`: the unknowns of each draw as a flat vector, `(draw, size)`.
    - `chain`: the chain that each draw belongs to, `(draw,)`.
    - `method`, `verdict`: what found the posterior, and what is held of it.
    """

    points: np.ndarray
    chain: np.ndarray
    method: str
    verdict: Verdict


@dataclass(frozen=True)
class Quantity:
    """One quantity of a forecast as draws, with the names and unit of its entries.

    - `draws`: `(draw, ...)`, equally weighted.
    - `labels`: names along the last axis; `unit`: as the model stated it.

    ```python
    from bayeshybrid.forecast import Quantity
    q = Quantity("y", np.arange(101.0))
    assert np.allclose(q.interval(0.9), [5.0, 95.0])
    ```
    """

    name: str
    draws: np.ndarray
    labels: tuple[str, ...] = ()
    unit: str | None = None

    @property
    def mean(self) -> np.ndarray:
        """Mean over draws, element by element."""
        return self.draws.mean(axis=0)

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation over draws (ddof 0: the forecast is the equal mixture of its draws)."""
        return self.draws.std(axis=0)

    def quantile(self, level: float | Sequence[float]) -> np.ndarray:
        """Quantiles over draws; several levels come back along the first axis."""
        return np.quantile(self.draws, level, axis=0)

    def interval(self, mass: float = 0.9) -> np.ndarray:
        """Lower and upper end of the central interval that holds `mass`, along the first axis."""
        if not 0 < mass < 1:
            raise ValueError(f"interval(mass={mass}): write a share between 0 and 1, such as 0.9")
        return self.quantile([(1 - mass) / 2, (1 + mass) / 2])


class Part(Mapping[str, np.ndarray]):
    """One part of the variance of each observed site; `.sd` its root, `.share` its share of the total.

    ```python
    from bayeshybrid.forecast import Part
    part = Part({"y": np.array([4.0])}, {"y": np.array([16.0])})
    assert part["y"][0] == 4.0 and part.sd["y"][0] == 2.0 and part.share["y"][0] == 0.25
    ```
    """

    def __init__(self, values: Mapping[str, np.ndarray], total: Mapping[str, np.ndarray]) -> None:
        self._values = dict(values)
        self._total = dict(total)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def sd(self) -> dict[str, np.ndarray]:
        """Its square root, in the unit of the observation."""
        return {name: np.sqrt(value) for name, value in self._values.items()}

    @property
    def share(self) -> dict[str, np.ndarray]:
        """Its share of the total variance, between 0 and 1; NaN where there is no variance."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: value / self._total[name] for name, value in self._values.items()}


@dataclass(frozen=True)
class Forecast:
    """A predictive distribution at given inputs: observed and latent, never mixed.

    - `observed`: where a new measurement would fall, by observed site.
    - `latent`: where the state, the derived quantities and the unknowns are, by name.
    - `aleatoric`: variance that would remain if every unknown were known; `epistemic`: what more data would
      shrink; `total` their sum. For categories these are entropies, in nats.
    - `inputs`: what was asked. `carried`, `continued`, `drawn_anew`: what became of each unknown.
    - `failures`: draws dropped because a solve failed, of `asked`; `remarks`: what a reader must know.
    - `conditional`: observed site to the conditional means and variances, `(draw, replicate, ...)`.
    - `target`, `origin`: the model and its data, and the posterior that was forecast from; no origin where the
      draws are those of the prior.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 2.0), obs=y)
    forecast = bh.simulate(model, {}, key=0, draws=2000)
    assert forecast.aleatoric["y"] == 4.0 and abs(forecast.epistemic["y"] - 1.0) < 0.15
    ```
    """

    observed: dict[str, Quantity]
    latent: dict[str, Quantity]
    aleatoric: Part
    epistemic: Part
    total: Part
    inputs: dict[str, Any]
    carried: tuple[str, ...]
    continued: tuple[str, ...]
    drawn_anew: tuple[str, ...]
    asked: int
    failures: int
    remarks: tuple[str, ...]
    conditional: dict[str, tuple[np.ndarray, np.ndarray]]
    replicates: int
    target: Target
    origin: Origin | None = None

    @property
    def failed_share(self) -> float:
        """Share of draws whose solve failed."""
        return self.failures / self.asked

    def of(
        self, function: Callable[..., Any], *, name: str | None = None, unit: str | None = None
    ) -> Quantity:
        """The distribution of any function of the trajectory: a peak, a total, a time above a limit.

        **Arguments:**

        - `function`: its parameters' names choose what it is given, one draw at a time: a latent quantity
          (the state) or an observed site (a new measurement).
        - `name`, `unit`: for tables and plots; by default the function's own name.

        **Returns:** a `Quantity`.

        **Raises:** `ModelError` where a parameter names nothing of this forecast.

        ```python
        model = lambda y=None: numpyro.sample("y", dist.Normal(jnp.zeros(3), 1.0), obs=y)
        peak = bh.simulate(model, {}, key=0, draws=500).of(lambda y: y.max())
        assert 0.6 < peak.mean < 1.1
        ```
        """
        known = {**self.latent, **self.observed}
        wanted = list(inspect.signature(function).parameters)
        for parameter in wanted:
            if parameter not in known:
                raise ModelError(
                    f"of(): the function asks for {parameter!r}, which is no quantity of this forecast: "
                    f"name its parameters after {', '.join(known)}"
                )
        arrays = [known[parameter].draws for parameter in wanted]
        with configuration.scope():
            try:
                drawn = np.asarray(jax.vmap(function)(*map(jnp.asarray, arrays)))
            except jax.errors.JAXTypeError:  # the function is written for NumPy
                drawn = np.stack([np.asarray(function(*row)) for row in zip(*arrays, strict=True)])
        return Quantity(name or getattr(function, "__name__", "function"), drawn, unit=unit)

    def __str__(self) -> str:
        lines = [f"forecast of {', '.join(self.observed) or 'nothing observed'} from {self.asked} draws"]
        for site in self.observed:
            share = np.nanmean(self.epistemic.share[site])
            lines.append(f"  {site}: {100 * share:.0f} % of the variance is what we do not know, on average")
        return "\n".join([*lines, *(f"  remark: {remark}" for remark in self.remarks)])


def forecast_draws(
    target: Target,
    draws: Mapping[str, np.ndarray],
    inputs: Mapping[str, Any],
    key: Any,
    new: Sequence[str] = (),
    replicates: int | None = None,
    count: int | None = None,
    origin: Origin | None = None,
) -> Forecast:
    """The forecast at `inputs` from draws of the unknowns; with no draws, from `count` draws of the prior.

    See `Posterior.predict` and `simulate`, which are its doors.
    """
    arrays, fixed, checked = _inputs(target, inputs)
    sites = latent_sites(target.model, arrays, fixed)
    observed = {site.name for site in target.layout.observed}
    plan = _plan(target, sites, {**arrays, **checked}, new) if draws else _Plan((), (), tuple(sites))
    repeated = [name for name in (*plan.continued, *plan.drawn_anew) if name not in observed]
    k = replicates or (REPLICATES if repeated and draws else 1)
    asked = len(next(iter(draws.values()))) if draws else int(count or 1000)
    carried = {name: draws[name] for name in (*plan.carried, *plan.continued)}
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(asked))
    program = partial(_outcomes, target, tuple(sorted(fixed.items())), k, arrays)
    outcome = in_batches(program, (carried, np.asarray(jax.vmap(jax.random.key_data)(keys))))
    good, why = _sound(outcome, asked)
    if not good.any():
        raise ModelError(f"every one of {asked} draws failed to solve at these inputs: {why}")
    outcome = jax.tree.map(lambda x: x[good], outcome)
    failures = int(asked - good.sum())
    if origin is not None:
        origin = replace(origin, points=origin.points[good], chain=origin.chain[good])
    remarks = []
    if failures > FEW * asked:
        remarks.append(
            f"{failures} of {asked} draws failed to solve and were left out ({why}): "
            "the forecast is the one given that the model can be solved"
        )
    found = _forecast(target, outcome, dict(inputs), plan, (asked, failures, k), remarks)
    return replace(found, origin=origin)


@dataclass(frozen=True)
class _Plan:
    carried: tuple[str, ...]
    continued: tuple[str, ...]
    drawn_anew: tuple[str, ...]


def _inputs(target, inputs):
    """The inputs as arrays and compiled-in values, observations left out."""
    always = {site.name for site in target.layout.observed}
    if always and not target.layout.observation_arguments and not target.layout.absent:
        raise ModelError(
            f"this model always observes {', '.join(sorted(always))}, so it cannot be asked what it expects: give "
            "the argument that carries the observation the default None, as in `def model(x, y=None)`"
        )
    bare = {k: v for k, v in inputs.items() if k not in target.layout.observation_arguments}
    checked = check_arguments(target.model, bare)
    arrays, fixed, _ = split_arguments(target.model, checked)
    return arrays, fixed, checked


def _plan(target, sites, inputs, new):
    """What becomes of each unknown: carried, continued beyond its end, or drawn anew."""
    layout: Layout = target.layout
    plates = {plate for site in layout.latent for plate, _ in site.plates}
    names = {site.name for site in layout.latent}
    for name in new:
        if name not in names | plates:
            nearest = difflib.get_close_matches(name, [*names, *plates], 1)
            hint = (
                f": did you mean {nearest[0]!r}?"
                if nearest
                else f": there are {', '.join(sorted(names | plates))}"
            )
            raise ModelError(f"new={name!r} is neither an unknown nor a plate of this model{hint}")
    carried, continued, anew = [], [], []
    for site in layout.latent:
        if site.name not in sites:
            continue
        if site.name in new or any(plate in new for plate, _ in site.plates):
            anew.append(site.name)
        elif sites[site.name].shape == site.shape:
            carried.append(site.name)
        elif _grows(site, sites[site.name]) and _extends(target, inputs, site, sites[site.name]):
            continued.append(site.name)
        else:
            raise _shape_error(site, sites[site.name])
    observed = {site.name for site in layout.observed}
    anew += [name for name in sites if name not in names and name not in observed]
    return _Plan(tuple(carried), tuple(continued), tuple(anew))


def _grows(site: Latent, now: Latent):
    """Whether the site is longer along one axis of independent entries and otherwise the same."""
    if len(site.shape) != len(now.shape):
        return False
    changed = [axis for axis, (a, b) in enumerate(zip(site.shape, now.shape, strict=True)) if a != b]
    return (
        len(changed) == 1
        and now.shape[changed[0]] > site.shape[changed[0]]
        and changed[0] < len(site.shape) - site.event_dim
    )


def _extends(target, inputs, site, now):
    """Whether the inputs begin with those of the fit and have grown by as much as the site."""
    growth = sum(now.shape) - sum(site.shape)
    before = target.inputs()
    grown = False
    for name, value in inputs.items():
        old, value = np.asarray(before.get(name)), np.asarray(value)
        if old.shape == value.shape:
            continue
        if old.ndim != value.ndim or any(a > b for a, b in zip(old.shape, value.shape, strict=True)):
            return False
        head = value[tuple(slice(0, n) for n in old.shape)]
        if not np.array_equal(head, old):
            return False
        grown |= sum(value.shape) - sum(old.shape) == growth
    return grown


def _shape_error(site, now):
    plates = [plate for plate, _ in site.plates]
    names = ", ".join(repr(name) for name in (site.name, *plates))
    return ModelError(
        f"at these inputs {site.name!r} has shape {now.shape}, in the fit it had {site.shape}, and nothing says what "
        f"becomes of the posterior draws: name it or its plate in new=(...) ({names}) to draw it anew, or give inputs "
        "that begin with those of the fit to continue it"
    )


@partial(jax.jit, static_argnums=(1, 2), compiler_options=configuration.compile_options())
def _outcomes(target, fixed, replicates, arrays, rows):
    """Outcomes with axes (draw, replicate, ...) of a batch of carried values and keys."""
    constants = {name: value.value for name, value in fixed}

    def one(carried, key):
        keys = jax.random.split(jax.random.wrap_key_data(key), replicates)
        return jax.vmap(lambda k: target.outcome(carried, {**arrays, **constants}, k))(keys)

    return jax.vmap(one)(*rows)


def _sound(outcome, asked):
    """Which draws were solved and gave finite observations, and why the others did not."""
    from bayeshybrid.science.ode import describe

    solved, finite = np.ones(asked, bool), np.ones(asked, bool)
    for reasons in outcome.reasons.values():
        solved &= (reasons == 0).reshape(asked, -1).all(axis=1)
    for values in outcome.observed.values():
        finite &= np.isfinite(values).reshape(asked, -1).all(axis=1)
    codes = {int(code) for reasons in outcome.reasons.values() for code in np.unique(reasons) if code}
    why = [describe(code) for code in sorted(codes)]
    if np.any(solved & ~finite):
        why.append("an observation is NaN or infinite although the model was solved")
    return solved & finite, "; ".join(why)


def _forecast(target, outcome, inputs, plan, counts, remarks):
    asked, failures, replicates = counts
    tags = {site.name: site.tag for site in (*target.layout.latent, *target.layout.observed)}
    tags |= {site.name: site.tag for site in target.layout.deterministic if site.tag is not None}
    solves = {solve.name: solve for solve in target.layout.solves}

    def quantity(name, values):
        said = solves.get(name) or tags.get(name)
        flat = values.reshape(-1, *values.shape[2:])
        return Quantity(name, flat, said.labels if said else (), said.unit if said else None)

    splits = {name: _split(m) for name, m in outcome.moments.items()}
    aleatoric, epistemic = ({name: split[i] for name, split in splits.items()} for i in (0, 1))
    total = {name: aleatoric[name] + epistemic[name] for name in splits}
    return Forecast(
        observed={name: quantity(name, values) for name, values in outcome.observed.items()},
        latent={name: quantity(name, values) for name, values in outcome.latent.items()},
        aleatoric=Part(aleatoric, total),
        epistemic=Part(epistemic, total),
        total=Part(total, total),
        inputs=inputs,
        carried=plan.carried,
        continued=plan.continued,
        drawn_anew=plan.drawn_anew,
        asked=asked,
        failures=failures,
        remarks=(*remarks, *_moment_remarks(outcome, total)),
        conditional={name: (m.mean, m.variance) for name, m in outcome.moments.items()},
        replicates=replicates,
        target=target,
    )


def _split(found):
    """Aleatoric and epistemic part from conditional moments with axes (draw, replicate, ...).

    The law of total variance over what is carried (draws) and what is drawn anew (replicates); the noise of
    few replicates in the means is taken off the epistemic part.
    """
    if found.probabilities is not None:
        return _entropies(found.probabilities.reshape(-1, *found.probabilities.shape[2:]))
    replicates = found.mean.shape[1]
    between = found.mean.mean(axis=1).var(axis=0)
    within = found.mean.var(axis=1, ddof=1).mean(axis=0) if replicates > 1 else np.zeros_like(between)
    aleatoric = found.variance.mean(axis=(0, 1)) + within
    return aleatoric, np.maximum(0.0, between - within / replicates)


def _entropies(probabilities):
    """Expected entropy, and the mutual information between outcome and unknowns (Houlsby et al. 2011)."""

    def entropy(p):
        return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0), axis=-1)

    expected = entropy(probabilities).mean(axis=0)
    return expected, np.maximum(0.0, entropy(probabilities.mean(axis=0)) - expected)


def _moment_remarks(outcome, total):
    remarks = []
    for name, variance in total.items():
        if not np.all(np.isfinite(variance)):
            remarks.append(
                f"{name} has no variance in places (a heavy-tailed noise): read its quantiles instead"
            )
    for name, found in outcome.moments.items():
        if np.any(found.error > 0):
            remarks.append(f"the moments of {name} come from 32 draws each: its split carries their error")
    return remarks
