"""Where the doubt about a forecast comes from: noise, what is drawn anew, and each group of unknowns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.attribution import Attribution, attribute
from bayeshybrid.data import check_arguments
from bayeshybrid.doubt import ANEW, COMPENSATION, NOISE, REST, Budget, Scale
from bayeshybrid.extrapolation import asked_of_networks
from bayeshybrid.faults import ModelError
from bayeshybrid.forecast import Forecast
from bayeshybrid.functions import REGION_POINTS, network_outputs, principal_components
from bayeshybrid.layout import split_arguments
from bayeshybrid.moments import is_category
from bayeshybrid.survey import in_batches
from bayeshybrid.target import Target
from bayeshybrid.tracing import abstract, place_constrained, run
from bayeshybrid.verdict import Verdict

NETWORK_SHARE = 0.999
LEAST_JOINT = 0.1
SOLVER_DRAWS = 100
MANY_DRAWS = 100

__all__ = ["Budget", "budget"]


def budget(forecast: Forecast, site: str | None = None, *, scale: Scale | None = None) -> Budget:
    """Where the variance of a new measurement comes from.

    Noise and what is drawn anew would remain if every unknown were known. The epistemic part is divided among
    the groups of unknowns by their Shapley effects with `c(S) = Var(E[f | T_S])` (Owen and Prieur 2017): `f` is
    the conditional mean of the measurement, `T_g` the unconstrained values of a group of parameters, or what a
    network answers at the inputs that it meets in the forecast (principal components to 99.9 % of variance).
    Groups that depend on each other, such as an equation and the network beside it, are treated as they are.
    What the fit does not find stays in the row "not attributed".

    **Arguments:**

    - `forecast`: what `Posterior.predict` returned.
    - `site`: the observed site; needed where there are several.
    - `scale`: `"identity"` splits the variance of the measurement, `"log"` that of its logarithm, for log-normal
      sites. By default the first, except that a log-normal site whose variance rests on few draws (more than
      half of it on one draw in a hundred) is split on the second.

    **Returns:** a `Budget`.

    **Raises:** `ModelError` for a forecast from the prior, a site that is not there, classes (their parts are
    entropies), and a variance that is infinite, undefined or rests on few draws.

    ```python
    def model(t, y=None):
        slope = numpyro.sample("slope", dist.Normal())
        numpyro.sample("y", dist.Normal(slope * t, 0.1), obs=y)
    data = {"t": np.arange(3.0), "y": np.array([0.1, 0.9, 2.1])}
    posterior = bh.infer(model, data, bh.NUTS(draws=250, warmup=250), key=0)
    told = bh.uncertainty.budget(posterior.predict({"t": np.array([20.0])}, key=1))
    assert told.shares()["slope"] > 0.95
    ```
    """
    name = _site(forecast, site)
    with configuration.scope():
        arguments = check_arguments(forecast.target.model, _bare(forecast))
        (mean, variance), scale = _on_scale(forecast, name, arguments, scale)
        split = _split(mean, variance)
        coordinates, networks = _coordinates(forecast)
        origin = _origin(forecast)
        found = attribute(split.mean, coordinates, origin.chain, split.epistemic)
        solver = _solver(forecast, name, arguments, scale, split)
    return _assembled(forecast, name, scale, split, found, networks, solver)


# What is split


@dataclass(frozen=True)
class _Split:
    """Parts of the variance, `(entry,)`, and the conditional mean by draw, `(draw, entry)`."""

    mean: np.ndarray
    noise: np.ndarray
    within: np.ndarray
    epistemic: np.ndarray
    shape: tuple[int, ...]

    @property
    def total(self) -> np.ndarray:
        return self.noise + self.within + self.epistemic


def _split(mean, variance):
    """The law of total variance as `Forecast` states it, on whichever scale the moments are."""
    draws, replicates, *shape = mean.shape
    mean, variance = (x.reshape(draws, replicates, -1) for x in (mean, variance))
    middle = mean.mean(axis=1)
    within = mean.var(axis=1, ddof=1).mean(axis=0) if replicates > 1 else np.zeros(mean.shape[-1])
    epistemic = np.maximum(0.0, middle.var(axis=0) - within / replicates)
    return _Split(middle, variance.mean(axis=(0, 1)), within, epistemic, tuple(shape))


def _site(forecast, site):
    names = tuple(forecast.conditional)
    if forecast.origin is None:
        raise ModelError(
            "budget: this forecast was drawn from the prior, so there is no posterior whose doubt could be divided: "
            "fit first, posterior = bh.infer(model, data, key=0), and give posterior.predict(inputs, key=1)"
        )
    if site is None and len(names) == 1:
        return names[0]
    if site not in names:
        asked = "several sites are observed" if site is None else f"no observed site {site!r}"
        raise ModelError(f"budget: {asked}; write budget(forecast, site=...) with one of {', '.join(names)}")
    return site


def _bare(forecast):
    left_out = forecast.target.layout.observation_arguments
    return {name: value for name, value in forecast.inputs.items() if name not in left_out}


def _on_scale(forecast, name, arguments, scale):
    """Conditional moments on the scale asked for, or on that on which the variance can be split."""
    if scale not in (None, "identity", "log"):
        raise ModelError(f'budget(scale={scale!r}): write "identity", "log" or nothing')
    family = _family(forecast, name, arguments)
    if family == "classes":
        raise ModelError(
            f"budget: {name} holds classes, and the variance of their numbers means nothing: forecast.aleatoric and "
            "forecast.epistemic give their entropies"
        )
    moments = forecast.conditional[name]
    if scale == "log" and family != "log-normal":
        raise ModelError(
            f'budget(scale="log"): {name} is not log-normal, so the moments of its logarithm are not known: observe '
            'it under dist.LogNormal, or write scale="identity"'
        )
    why = _unfit(moments, scale)
    if family == "log-normal" and (scale == "log" or (scale is None and why)):
        moments, scale, why = _logarithms(*moments), "log", _unfit(_logarithms(*moments), scale)
    if why:
        other = "" if "few" not in why else ', or write scale="identity" to split it all the same'
        raise ModelError(
            f"budget: the variance of {name} {why}, so that it has no parts to tell apart: read the quantiles "
            f"forecast.observed[{name!r}].interval(0.9) instead{other}"
        )
    return moments, scale or "identity"


def _unfit(moments, scale):
    """Why a variance cannot be split, empty where it can."""
    if not all(np.all(np.isfinite(x)) for x in moments):
        return "is infinite or undefined in places"
    mean, variance = (x.mean(axis=1) for x in moments)
    if scale == "identity" or len(mean) < MANY_DRAWS:
        return ""
    for part in ((mean - mean.mean(axis=0)) ** 2, variance):
        highest = np.sort(part, axis=0)[::-1][: -(len(part) // -100)].sum(axis=0)
        if np.any(highest > 0.5 * part.sum(axis=0)):
            return "rests on few draws (more than half of it on one in a hundred)"
    return ""


def _logarithms(mean, variance):
    """Mean and variance of the logarithm of what is log-normal with these moments."""
    spread = np.log1p(variance / mean**2)
    return np.log(mean) - spread / 2, spread


def _family(forecast, name, arguments):
    """What kind of distribution the site has at these inputs: `classes`, `log-normal` or `other`."""
    target = forecast.target
    values = {site: quantity.draws[0] for site, quantity in forecast.latent.items()}

    def kind(carried):
        place = place_constrained(carried)
        found = run(
            target.model, arguments, key=jax.random.key(0), place=place, scalings=target.scalings
        ).sites[name]["fn"]
        if is_category(found):
            return "classes"
        while type(found).__name__ != "LogNormal" and hasattr(found, "base_dist"):
            found = found.base_dist
        return "log-normal" if type(found).__name__ == "LogNormal" else "other"

    return abstract(kind, values)


# The coordinates of each group


def _origin(forecast):
    assert forecast.origin is not None  # `_site` has asked
    return forecast.origin


def _coordinates(forecast):
    """Group to `T_g`, `(draw, number)`, for groups of which something is carried, and which are networks."""
    layout, points = forecast.target.layout, _origin(forecast).points
    carried = {*forecast.carried, *forecast.continued}
    groups: dict[str, list[Any]] = {}
    for site in layout.latent:
        if site.name in carried:
            groups.setdefault(site.tag.group, []).append(site)
    networks = [g for g, sites in groups.items() if any(site.tag.kind == "weight" for site in sites)]
    asked = asked_of_networks(forecast, REGION_POINTS) if networks else {}
    found = {}
    for group, sites in groups.items():
        if group not in networks:
            found[group] = np.concatenate([points[:, site.start : site.stop] for site in sites], axis=1)
        elif len(asked.get(group, ())):
            outputs = network_outputs(forecast.target, points, group, asked[group])
            found[group] = principal_components(outputs, NETWORK_SHARE)
        else:
            found[group] = np.zeros((len(points), 0))
    return found, tuple(networks)


# The solver's error


def _solver(forecast, name, arguments, scale, split):
    """Root mean square change of the conditional mean under a finer tolerance, over the total sd, `(entry,)`."""
    target = forecast.target
    if not target.layout.solves:
        return np.zeros(len(split.total))
    arrays, fixed, _ = split_arguments(target.model, arguments, dict(target.fixed))
    draws, replicates = forecast.conditional[name][0].shape[:2]
    unknowns = (*forecast.carried, *forecast.continued, *forecast.drawn_anew)
    chosen = np.linspace(0, draws - 1, min(SOLVER_DRAWS, draws)).round().astype(int) * replicates
    carried = {key: forecast.latent[key].draws[chosen] for key in unknowns if key in forecast.latent}
    program = partial(_moments, fixed=tuple(sorted(fixed.items())), name=name, remembers=forecast.remembers)
    *finer, error, solved = in_batches(partial(program, target.refined(), arrays), carried)
    if np.any(error > 0):  # moments from draws, which must be the same ones in both
        stated = in_batches(partial(program, target, arrays), carried)[:2]
    else:
        stated = [moment[:, 0][chosen // replicates] for moment in forecast.conditional[name]]
    means = [(_logarithms(*x) if scale == "log" else x)[0].reshape(len(chosen), -1) for x in (stated, finer)]
    change = (means[1] - means[0])[solved]
    if not len(change):
        return np.full(len(split.total), np.nan)
    moved = np.sqrt((change**2).mean(axis=0))
    return np.divide(moved, np.sqrt(split.total), out=np.zeros_like(moved), where=split.total > 0)


@partial(
    jax.jit, static_argnames=("fixed", "name", "remembers"), compiler_options=configuration.compile_options()
)
def _moments(target: Target, arrays, carried, fixed, name, remembers):
    constants = {key: value.value for key, value in fixed}

    def one(values):
        found = target.outcome(values, {**arrays, **constants}, remembers=remembers)
        solved = [jax.numpy.all(reasons == 0) for reasons in found.reasons.values()]
        moments = found.moments[name]
        return moments.mean, moments.variance, moments.error, jax.numpy.all(jax.numpy.stack(solved))

    return jax.vmap(one)(carried)


# The rows


def _assembled(forecast, name, scale, split, found: Attribution, networks, solver):
    shaped = lambda x: x.reshape(split.shape)  # noqa: E731
    reserved = {NOISE, REST, *ANEW, "total"}
    kinds = {g: "network" if g in networks else "parameters" for g in found.groups}
    labels = {g: f"{g} ({kinds[g]})" if g in reserved else g for g in found.groups}
    groups = tuple(labels.values())
    effects = dict(zip(groups, found.shapley, strict=True))
    rows = {NOISE: split.noise, **_anew(forecast, split), **effects, REST: found.rest}
    errors = {**dict(zip(groups, found.errors, strict=True)), REST: found.rest_error}
    compensation, compensating = _compensation(found, groups, split.epistemic)
    unit = forecast.observed[name].unit
    return Budget(
        site=name,
        unit=f"log {unit}" if scale == "log" and unit else unit,
        labels=forecast.observed[name].labels,
        scale=scale,
        rows={row: shaped(x) for row, x in rows.items()},
        errors={row: shaped(x) for row, x in errors.items()},
        total=shaped(split.total),
        epistemic=shaped(split.epistemic),
        groups=groups,
        networks=tuple(labels[g] for g in networks),
        drop={g: shaped(x) for g, x in zip(groups, found.alone, strict=True)},
        compensation=shaped(compensation),
        compensating=compensating,
        solver=shaped(solver),
        remarks=(*_fitting(found, forecast), *_drawing(_origin(forecast).verdict)),
    )


def _anew(forecast, split):
    """The row of what is drawn anew, by its cause; none where nothing is, or where it was drawn but once."""
    causes = (bool(forecast.continued), bool(forecast.drawn_anew))
    if forecast.replicates == 1 or not any(causes):
        return {}
    return {ANEW[2] if all(causes) else ANEW[0] if causes[0] else ANEW[1]: split.within}


def _compensation(found, groups, epistemic):
    """Separate variances over joint variance, and the groups that trade off, largest part first."""
    enough = found.joint > LEAST_JOINT * np.maximum(epistemic, 1e-300)
    ratio = np.full(found.joint.shape, np.nan)
    ratio[enough] = found.parts.sum(axis=0)[enough] / found.joint[enough]
    trading = enough & (np.nan_to_num(ratio) > COMPENSATION)
    if not trading.any():
        return ratio, ()
    sizes = (found.parts[:, trading] / found.joint[trading]).mean(axis=1)
    order = np.argsort(-sizes, kind="stable")
    return ratio, tuple(groups[g] for i, g in enumerate(order) if i < 2 or sizes[g] > sizes[order[0]] / 4)


# Remarks


def _fitting(found: Attribution, forecast):
    """What a reader must know of how the division was found."""
    said = []
    if found.shrunk:
        said.append(
            f"Only {found.draws} draws for {found.coordinates} coordinates of the unknowns: the division is a rough "
            "one, and what it did not find is not attributed."
        )
    elif np.any(found.rest > 0) and not np.any(found.shapley):
        said.append(f"With {found.draws} draws what we do not know cannot be divided among groups.")
    for group in found.reduced:
        said.append(
            f"{group} has more coordinates than can be fitted: its leading principal components stand for it."
        )
    if found.permutations:
        said.append(
            f"The {len(found.groups)} groups were put in {found.permutations} random orders instead of all."
        )
    if forecast.replicates == 1 and (forecast.continued or forecast.drawn_anew):
        said.append(
            "What is drawn anew was drawn once for each draw, so that it cannot be told from what we do not know and "
            "is not attributed: forecast with replicates=8."
        )
    return said


def _drawing(verdict: Verdict):
    """What the verdict on the draws means for the shares, where it is not a pass."""
    if verdict.nature == "not draws of a posterior":
        return [
            "The draws are not draws of a posterior: the shares tell how the members differ, not what data leave open."
        ]
    if verdict.nature == "approximate":
        return [
            "The draws approximate the posterior: the shares are those of the approximation, whose spreads and "
            "dependences may be too small."
        ]
    if verdict.state in ("fail", "not assessable"):
        came = "failed its checks" if verdict.state == "fail" else "could not be checked"
        return [
            f"The computation behind these draws {came}: the shares may be those of draws that are not the posterior."
        ]
    return []
