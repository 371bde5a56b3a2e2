"""The two verbs: `infer` finds a posterior by any method, `simulate` draws from the prior."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from typing import Any

import jax
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.faults import ModelError
from bayeshybrid.forecast import Forecast, forecast_draws
from bayeshybrid.inference.convergence import basin_checks, convergence_checks, failure_check
from bayeshybrid.inference.driver import drive
from bayeshybrid.inference.gates import scale_networks, scout
from bayeshybrid.inference.method import METHODS, Method
from bayeshybrid.inference.nuts import NUTS
from bayeshybrid.inference.search import STARTS, at_initial_values, find_basins
from bayeshybrid.keys import as_key
from bayeshybrid.posterior import Posterior
from bayeshybrid.progress import Progress, Silent
from bayeshybrid.survey import ask
from bayeshybrid.target import Target
from bayeshybrid.verdict import FORECASTS, FUNCTIONS, PARAMETERS, Check, Verdict

REGION_POINTS = 64
REGION_DRAWS = 16
COMPONENTS = 3

BLIND = (
    "a basin that no search and no chain ever reached",
    "a model that is wrong: that is the question of the fit, not of the computation",
)

__all__ = ["infer", "simulate"]


def infer(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    method: Method | None = None,
    *,
    key: Any,
    starts: int = STARTS,
    progress: Progress | None = None,
    time_limit: float | None = None,
) -> Posterior:
    """Find the posterior of a model given data.

    The model is looked at before any sampling, so that whatever cannot work is an error with its place and its
    mend. Then many starts from the prior are optimised together, the basins they end in are told apart by what
    they predict, and the method runs from those that carry mass.

    **Arguments:**

    - `model`: a numpyro model; each observation is an argument that defaults to `None`.
    - `data`: argument names to arrays, observations included.
    - `method`: such as `NUTS()`; `None` chooses one and says which in `posterior.remarks`.
    - `key`: an integer or a JAX key; the same key gives the same draws on the same machine.
    - `starts`: how many searches begin at prior draws.
    - `progress`: `TextBar()` to see how far it has come; silent by default.
    - `time_limit`: seconds after which what was drawn so far is returned.

    **Returns:** a `Posterior`. Ctrl-C during sampling also returns one, with what was drawn so far.

    **Raises:** `DataError` for data that cannot be used, `ModelError` for a model that cannot be fitted,
    `StartError` where no prior draw has a finite density.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array(2.0)}, bh.NUTS(draws=250, warmup=250), key=0)
    assert posterior.verdict["scientific parameters"] == "pass"
    ```
    """
    progress = progress or Silent()
    chosen, words = _choose(method)
    with configuration.scope():
        began = time.monotonic()
        root = as_key(key)
        scout_key, search_key, run_key = jax.random.split(root, 3)
        progress.start("reading the model", 2)
        target = Target(model, data)
        target, scaled = scale_networks(target, scout_key)
        progress.update(1, "prior draws")
        scouts = scout(target, scout_key, starts)
        progress.finish(
            f"{100 * scouts.share_failed:.0f} % of prior draws failed" if scouts.share_failed else ""
        )
        search = find_basins(target, at_initial_values(target, scouts.points), search_key, progress)
        searched = time.monotonic()
        run = drive(chosen, target, search.basins, run_key, progress, time_limit)
        result = chosen.finish(target, run.state, run.chunks, search.basins)
        remarks = (
            *words,
            *target.notes,
            *scaled,
            *configuration.notes(),
            *scouts.remarks,
            *search.notes,
            *result.notes,
        )
        samples = _constrained(target, result.draws)
        verdict = _verdict(target, chosen, run, result, search, remarks)
        seconds = {"search": searched - began, "sampling": run.seconds, "total": time.monotonic() - began}
    return Posterior(
        target=target,
        unconstrained=result.draws,
        samples=samples,
        statistics=result.statistics,
        verdict=verdict,
        method=repr(chosen),
        key=key,
        search=str(search),
        failures=run.failures,
        remarks=remarks,
        record={"seconds": seconds, "ended": run.ended, "versions": _versions(), **_plain(result.extra)},
    )


def simulate(
    model: Callable[..., Any], inputs: Mapping[str, Any], *, key: Any, draws: int = 1000
) -> Forecast:
    """Draw from the prior: unknowns, states and observations before any data.

    **Arguments:**

    - `model`, `inputs`: the model and its arguments without observations.
    - `key`: an integer or a JAX key.
    - `draws`: how many.

    **Returns:** a `Forecast` whose `failed_share` is the share of prior draws that failed to solve.

    **Raises:** `ModelError` where a prior is improper or every draw fails.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    before = bh.simulate(model, {}, key=0, draws=2000)
    assert abs(before.total["y"] - 2.0) < 0.2 and before.failed_share == 0
    ```
    """
    with configuration.scope():
        root = as_key(key)
        target = Target(model, inputs)
        target, _ = scale_networks(target, root)
        _refuse_improper(target, root)
        return forecast_draws(target, {}, target.inputs(), root, count=draws)


def _refuse_improper(target, key):
    if not bool(target.draw_prior(key)[1]):
        raise ModelError(
            "a prior of this model is improper and cannot be drawn from: give it a proper one to simulate"
        )


def _choose(method):
    """The method to run, and what to say about the choice."""
    if method is None:
        return NUTS(), (
            f"no method was named, so {NUTS()!r} was used: exact for smooth posteriors of any shape",
        )
    if isinstance(method, type) and issubclass(method, Method):
        raise ModelError(
            f"method={method.__name__}: write {method.__name__}(), with its settings in the brackets"
        )
    if not isinstance(method, Method):
        raise ModelError(
            f"method={method!r} is not a method: write one of {', '.join(f'{m}()' for m in METHODS)}"
        )
    return method, ()


def _constrained(target, draws):
    """Unknowns and derived quantities by name, `(chain, draw, ...)`."""
    flat = ask(target, draws.reshape(-1, draws.shape[-1]), ["values"])["values"]
    return {name: v.reshape(*draws.shape[:2], *v.shape[1:]) for name, v in flat.items()}


def _verdict(target, method, run, result, search, remarks):
    """Claim by claim, whether the draws are the posterior."""
    claims = [PARAMETERS, *([FUNCTIONS] if target.layout.networks else []), FORECASTS]
    checks: list[Check] = []
    for raw in result.raw:
        quantities, functions = _quantities(target, raw)
        if raw.size == 0:
            continue
        checks += convergence_checks(quantities, (PARAMETERS, FORECASTS) if functions else claims)
        if functions:
            checks += convergence_checks(functions, (FUNCTIONS, FORECASTS))
    failed = result.statistics.get("failed", np.zeros(1))
    checks.append(
        failure_check(run.failures, int(np.sum(failed)), np.size(failed), _furthest(target, run, result))
    )
    checks += basin_checks(search.basins, search.left_out, np.concatenate(result.raw))
    checks += result.checks
    if run.ended != "finished":
        checks.append(
            Check("run", "pass with remarks", place=run.ended, remedy="run it again with more time")
        )
    told = tuple(remark for remark in remarks if remark not in target.notes)
    unchecked = ("the solver's tolerance against the posterior's width", "evidence")
    return Verdict(tuple(checks), tuple(claims), told, unchecked, _blind(target))


def _blind(target):
    symmetric = ("modes of the weights that give the same function, which are one to these checks",)
    return BLIND + (symmetric if target.layout.networks else ())


def _quantities(target, raw):
    """What convergence is judged on in one basin, `(chain, draw)` each: parameters, likelihood and functions.

    Weights have symmetries, so networks are judged by the leading components of their output over the region
    that the posterior visits.
    """
    if raw.size == 0:
        return {}, {}
    flat = raw.reshape(-1, raw.shape[-1])
    weights = {site.name for site in target.layout.latent if site.tag.kind == "weight"}
    latent = {site.name for site in target.layout.latent} - weights
    told = ask(target, flat, ["values", "log_likelihood"])
    values = told["values"]
    quantities = {}
    for name in [n for n in values if n in latent]:
        for index in np.ndindex(values[name].shape[1:]):
            label = name + (str(list(index)) if index else "")
            quantities[label] = values[name][(slice(None), *index)].reshape(raw.shape[:2])
    likelihood = told["log_likelihood"].reshape(raw.shape[:2])
    if np.ptp(likelihood) > 0:
        quantities["log likelihood"] = likelihood
    functions = {
        name: draws.reshape(raw.shape[:2]) for name, draws in _function_components(target, flat).items()
    }
    return quantities, functions


def _function_components(target, flat):
    """Leading principal components of each network's output over points that the posterior visits."""
    if not target.layout.networks:
        return {}
    picked = np.linspace(0, len(flat) - 1, min(REGION_DRAWS, len(flat))).astype(int)
    visited = jax.tree.map(np.asarray, _visit(target, flat[picked]))
    found = {}
    for name, (inputs, _) in visited.items():
        points = inputs.reshape(-1, inputs.shape[-1])
        points = points[np.linspace(0, len(points) - 1, min(REGION_POINTS, len(points))).astype(int)]
        outputs = np.asarray(_network_outputs(target, flat, points, name)).reshape(len(flat), -1)
        centred = outputs - outputs.mean(axis=0)
        _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
        kept = min(COMPONENTS, int(np.sum(sizes > 1e-9 * max(sizes[0], 1e-300))))
        for i in range(kept):
            found[f"{name} over {len(points)} visited points, component {i + 1}"] = centred @ directions[i]
    return found


@jax.jit
def _visit(target, q):
    return jax.lax.map(target.visited, q)


@partial(jax.jit, static_argnums=3)
def _network_outputs(target, q, points, name):
    return jax.lax.map(lambda row: target.networks(row)[name](points), q, batch_size=128)


def _furthest(target, run, result):
    """The parameters furthest from their posterior mean where solves failed, at most two."""
    if not len(run.failed_at):
        return ()
    flat = result.draws.reshape(-1, result.draws.shape[-1])
    distance = np.abs(np.median(run.failed_at, axis=0) - flat.mean(axis=0)) / (flat.std(axis=0) + 1e-300)
    owners = [site.name for site in target.layout.latent for _ in range(site.stop - site.start)]
    return tuple(dict.fromkeys(owners[i] for i in np.argsort(-distance)[:2]))


def _versions():
    names = ("jax", "jaxlib", "numpyro", "blackjax", "diffrax", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def _plain(extra):
    return {name: np.asarray(value).tolist() for name, value in extra.items()}
