"""Forecasts: what is observed and what is latent, kept apart, and the variance split by the law of total variance.

For each unknown a forecast either carries the posterior draw (epistemic: more data would shrink it) or draws it
anew from its conditional prior (aleatoric, like the observation itself).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.carrying import Plan, plan
from bayeshybrid.data import check_arguments
from bayeshybrid.faults import ModelError
from bayeshybrid.intervention import read_change
from bayeshybrid.layout import latent_sites, split_arguments, trace
from bayeshybrid.quantities import Part, Probability, Quantity, probability
from bayeshybrid.survey import in_batches
from bayeshybrid.target import Target, labels_of
from bayeshybrid.tracing import abstract
from bayeshybrid.verdict import Verdict

if TYPE_CHECKING:
    from bayeshybrid.contrast import Contrast
    from bayeshybrid.extrapolation import Asked

REPLICATES = 8
FEW = 1e-3

__all__ = ["Forecast", "Origin", "Part", "Probability", "Quantity", "forecast_draws", "probability"]


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
class Forecast:
    """A predictive distribution at given inputs: observed and latent, never mixed.

    - `observed`: where a new measurement would fall, by observed site.
    - `latent`: where the state, the derived quantities and the unknowns are, by name.
    - `aleatoric`: variance that would remain if every unknown were known; `epistemic`: what more data would
      shrink; `total` their sum. For categories these are entropies, in nats.
    - `inputs`: what was asked. `carried`, `continued`, `drawn_anew`: what became of each unknown; `changed`:
      what was set from outside. `labels`: names of the units, by what they are. `remembers`: observed sites whose
      noise has a memory and is conditioned on what was measured.
    - `failures`: draws dropped because a solve failed, of `asked`; `remarks`: what a reader must know.
    - `conditional`: observed site to the conditional means and variances, `(draw, replicate, ...)`.
    - `kept`: which of the draws asked for these are, `(draw,)`; `key`: the key that they were drawn with.
    - `target`, `origin`: the model (with its changes) and its data, and the posterior that was forecast from; no
      origin where the draws are those of the prior.

    `forecast - baseline` pairs the draws of two forecasts of one posterior: see `Contrast`.

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
    kept: np.ndarray
    key: Any
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    remembers: tuple[str, ...] = ()
    origin: Origin | None = None

    def __sub__(self, baseline: Forecast) -> Contrast:
        from bayeshybrid.contrast import paired

        return paired(self, baseline)

    @cached_property
    def extrapolation(self) -> dict[str, Asked]:
        """By network, how far this forecast leads it out of what it was asked in the fit."""
        from bayeshybrid.extrapolation import questions

        return questions(self)

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
        return Quantity(name or getattr(function, "__name__", "function"), self._each(function), unit=unit)

    def probability(self, function: Callable[..., Any]) -> Probability:
        """The probability of an event, with the error that the finite number of draws leaves.

        **Arguments:**

        - `function`: as for `of`; true where the event happens, for one draw of each quantity that its parameters
          name. A latent quantity gives the probability for the state, an observed site that for a measurement.

        **Returns:** a `Probability`; arrays where the function gives arrays.

        ```python
        model = lambda y=None: numpyro.sample("y", dist.Normal(jnp.zeros(3), 1.0), obs=y)
        found = bh.simulate(model, {}, key=0, draws=4000).probability(lambda y: y[0] > 0)
        assert abs(found.value - 0.5) < 4 * found.error
        ```
        """
        happened = self._each(function)
        if happened.dtype != bool:
            raise ModelError(
                f"probability(): the function gives {happened.dtype} numbers; write a comparison, such as "
                "lambda y: y.max() > 5"
            )
        chain = np.zeros(len(self.kept), int) if self.origin is None else self.origin.chain
        return probability(happened.reshape(len(self.kept), -1, *happened.shape[1:]), chain)

    def _each(self, function):
        """What a function gives of each draw of the quantities that its parameters name."""
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
                return np.asarray(jax.vmap(function)(*map(jnp.asarray, arrays)))
            except jax.errors.JAXTypeError:  # the function is written for NumPy
                return np.stack([np.asarray(function(*row)) for row in zip(*arrays, strict=True)])

    def __str__(self) -> str:
        lines = [f"forecast of {', '.join(self.observed) or 'nothing observed'} from {self.asked} draws"]
        for site in self.observed:
            share = np.nanmean(self.epistemic.share[site])
            lines.append(f"  {site}: {100 * share:.0f} % of the variance is what we do not know, on average")
        lines += [
            f"  {name}: {100 * asked.outside:.0f} % of what this network is asked lies outside what it saw in the fit"
            for name, asked in self.extrapolation.items()
            if asked.outside > 0
        ]
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
    change: Mapping[str, Any] | None = None,
) -> Forecast:
    """The forecast at `inputs` from draws of the unknowns; with no draws, from `count` draws of the prior.

    See `Posterior.predict` and `simulate`, which are its doors.
    """
    acts = read_change(change, target.layout, _bare(target, inputs))
    labels = {**target.labels, **dict(labels_of(inputs))}
    inputs = acts.of_inputs(dict(inputs))
    target = target.modelled(acts.of_model(target.model))
    arrays, fixed, checked = _inputs(target, inputs)
    sites = latent_sites(target.model, arrays, fixed)
    observed = {site.name for site in target.layout.observed}
    fate = plan(target, sites, {**arrays, **checked}, new) if draws else Plan((), (), tuple(sites))
    _refuse_redrawn(acts, fate)
    repeated = [name for name in (*fate.continued, *fate.drawn_anew) if name not in observed]
    k = replicates or (REPLICATES if repeated and draws else 1)
    asked = len(next(iter(draws.values()))) if draws else int(count or 1000)
    carried = acts.of_draws({name: draws[name] for name in (*fate.carried, *fate.continued)})
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(asked))
    remembers, forgets = _memory(target, arrays, fixed, checked, acts, new) if origin else ((), ())
    program = partial(_outcomes, target, tuple(sorted(fixed.items())), (k, remembers), arrays)
    outcome = in_batches(program, (carried, np.asarray(jax.vmap(jax.random.key_data)(keys))))
    good, why = _sound(outcome, asked)
    if not good.any():
        raise ModelError(f"every one of {asked} draws failed to solve at these inputs: {why}")
    outcome = jax.tree.map(lambda x: x[good], outcome)
    failures = int(asked - good.sum())
    if origin is not None:
        origin = replace(origin, points=origin.points[good], chain=origin.chain[good])
    remarks = list(forgets)
    if failures > FEW * asked:
        remarks.append(
            f"{failures} of {asked} draws failed to solve and were left out ({why}): "
            "the forecast is the one given that the model can be solved"
        )
    found = _forecast(target, outcome, dict(inputs), fate, (asked, failures, k), remarks)
    told = {
        "remembers": remembers,
        "labels": labels,
        "changed": tuple(change or ()),
        "kept": np.flatnonzero(good),
        "key": key,
    }
    return replace(found, origin=origin, **told)


def _memory(target, arrays, fixed, inputs, acts, new):
    """Observed sites to condition on their data, and remarks on those that should have been.

    Noise with a memory goes on from the residuals of the fit, in the same units at other times. Data that are
    replicated, at the inputs of the fit, are not conditioned on themselves.
    """

    def remembering(arguments, constants):
        found = trace(target.model, {**arguments, **constants})
        sites = {site.name: found.sites[site.name]["fn"] for site in target.layout.observed}
        return {name: fn.batch_shape for name, fn in sites.items() if hasattr(fn, "given")}

    constants = {name: value.value for name, value in fixed.items()}
    asked = abstract(lambda some: remembering(some, constants), arrays)
    if not asked or _same(inputs, target.inputs()):
        return (), ()
    given = {name: value.value for name, value in target.fixed}
    fitted = abstract(
        lambda some: {
            name: site["fn"].batch_shape
            for name, site in trace(target.model, {**some, **given}).sites.items()
            if name in asked
        },
        target.data,
    )
    if not (acts.inputs or acts.unknowns or acts.derived or new) and asked == fitted:
        return tuple(asked), ()
    return (), tuple(
        f"the noise of {name} has a memory, but these are other units or conditions than those of the fit: it is drawn "
        "as if nothing had been measured before"
        for name in asked
    )


def _same(one, other):
    leaves = [jax.tree.leaves_with_path(dict(sorted(x.items()))) for x in (one, other)]
    return len(leaves[0]) == len(leaves[1]) and all(
        a == b and np.array_equal(x, y) for (a, x), (b, y) in zip(*leaves, strict=True)
    )


def _refuse_redrawn(acts, fate):
    both = sorted(set(acts.unknowns) & {*fate.drawn_anew, *fate.continued})
    if both:
        raise ModelError(
            f"{both[0]!r} is drawn anew here, so there is no inferred value to change: change what is derived from it"
        )


def _bare(target, inputs):
    return {k: v for k, v in inputs.items() if k not in target.layout.observation_arguments}


def _inputs(target, inputs):
    """The inputs as arrays and compiled-in values, observations left out."""
    always = {site.name for site in target.layout.observed}
    if always and not target.layout.observation_arguments and not target.layout.absent:
        raise ModelError(
            f"this model always observes {', '.join(sorted(always))}, so it cannot be asked what it expects: give "
            "the argument that carries the observation the default None, as in `def model(x, y=None)`"
        )
    checked = check_arguments(target.model, _bare(target, inputs))
    arrays, fixed, _ = split_arguments(target.model, checked, dict(target.fixed))
    return arrays, fixed, checked


@partial(jax.jit, static_argnums=(1, 2), compiler_options=configuration.compile_options(level=1))
def _outcomes(target, fixed, settings, arrays, rows):
    """Outcomes with axes (draw, replicate, ...) of a batch of carried values and keys."""
    arguments = {**arrays, **{name: value.value for name, value in fixed}}
    replicates, remembers = settings

    def one(carried, key):
        keys = jax.random.split(jax.random.wrap_key_data(key), replicates)
        return jax.vmap(lambda k: target.outcome(carried, arguments, k, remembers=remembers))(keys)

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


def _forecast(target, outcome, inputs, fate, counts, remarks):
    asked, failures, replicates = counts
    tags = {site.name: site.tag for site in (*target.layout.latent, *target.layout.observed)}
    derived = (*target.layout.deterministic, *target.layout.parts)
    tags |= {site.name: site.tag for site in derived if site.tag is not None}
    solves = {solve.name: solve for solve in target.layout.solves}

    def quantity(name, values):
        said = solves.get(name) or tags.get(name)
        flat = values.reshape(-1, *values.shape[2:])
        if said is None:
            return Quantity(name, flat)
        return Quantity(name, flat, said.labels, said.unit, said.across)

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
        carried=fate.carried,
        continued=fate.continued,
        drawn_anew=fate.drawn_anew,
        asked=asked,
        failures=failures,
        remarks=(*remarks, *_moment_remarks(outcome, total)),
        conditional={name: (m.mean, m.variance) for name, m in outcome.moments.items()},
        replicates=replicates,
        target=target,
        kept=np.arange(asked),
        key=None,
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
