"""From a run to its verdict: what convergence is judged on, and every check that applies."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeshybrid.functions import leading_components
from bayeshybrid.inference.convergence import (
    basin_checks,
    convergence_checks,
    failure_check,
    resolvable_check,
    tolerance_check,
)
from bayeshybrid.inference.driver import Run
from bayeshybrid.inference.method import Result
from bayeshybrid.inference.search import Search
from bayeshybrid.summary import entry_name, names_of
from bayeshybrid.survey import ask, likelihoods
from bayeshybrid.target import Target
from bayeshybrid.verdict import FORECASTS, FUNCTIONS, PARAMETERS, Check, Verdict

RESOLVED_DRAWS = 1000

BLIND = (
    "a basin that no search and no chain ever reached",
    "a model that is wrong: that is the question of the fit, not of the computation",
)

__all__ = ["judge", "quantities_of"]


def judge(
    target: Target,
    run: Run,
    result: Result,
    search: Search,
    remarks: tuple[str, ...],
    told: dict[str, Any],
    certificate: Check | None = None,
) -> Verdict:
    """The verdict on a run, claim by claim.

    **Arguments:**

    - `target`: the model as stated, with adaptive solves.
    - `certificate`: what came of comparing the draws with it, where they were made on frozen grids. Then the tolerance
      is not looked at in its own right: two discretisations with nothing in common agree only where both are fine.
    - `run`: what the driver saw; `result`: what the method made of it; `search`: the basins.
    - `remarks`: what weighs on the verdict beside the checks.
    - `told`: values and log likelihood of `result.draws`, one after another.
    """
    claims = [PARAMETERS, *([FUNCTIONS] if target.layout.networks else []), FORECASTS]
    checks: list[Check] = []
    for raw in (raw for raw in result.raw if raw.size):
        quantities, functions = quantities_of(
            target, raw, told if np.array_equal(raw, result.draws) else None
        )
        checks += convergence_checks(quantities, (PARAMETERS, FORECASTS) if functions else claims)
        if functions:
            checks += convergence_checks(functions, (FUNCTIONS, FORECASTS))
    checks.append(failure_check(run.failures, *_failed(run, result), _furthest(target, run, result)))
    if result.nature != "not draws of a posterior":
        checks += basin_checks(search.basins, search.left_out, np.concatenate(result.raw))
    checks += result.checks
    if target.layout.solves:
        checks += [certificate or _tolerance(target, result), *_resolvable(target, run, result)]
    if run.ended != "finished":
        checks.append(
            Check("run", "pass with remarks", place=run.ended, remedy="run it again with more time")
        )
    return Verdict(tuple(checks), tuple(claims), remarks, ("evidence",), _blind(target), result.nature)


def _tolerance(target, result):
    """The draws solved a hundred times more accurately."""
    flat = result.draws.reshape(-1, result.draws.shape[-1])
    some = flat[np.linspace(0, len(flat) - 1, min(RESOLVED_DRAWS, len(flat))).astype(int)]
    return tolerance_check(likelihoods(target.refined(), some) - _likelihoods(target, some))


def _resolvable(target, run, result):
    """Proposals that failed, solved a hundred times more accurately; none where nothing failed as stated.

    Where draws are kept of transitions, those before the first of them do not matter.
    """
    made = sum(chunk.draws.shape[1] for chunk in run.chunks)
    began = made - result.raw[0].shape[1] if "failed" in result.statistics else 0
    failed_at = run.failed_at[run.failed_in >= began]
    if not len(failed_at):
        return ()
    asked = failed_at[np.linspace(0, len(failed_at) - 1, min(64, len(failed_at))).astype(int)]
    unsolved = asked[~np.isfinite(_likelihoods(target, asked))]  # elsewhere only the gradient failed
    solved = (
        np.sum(np.isfinite(likelihoods(target.refined(), unsolved))) / len(asked) if len(unsolved) else 0.0
    )
    proposals = sum(np.size(chunk.statistics["failed"]) for chunk in run.chunks) * (1 - began / made)
    return (resolvable_check(float(solved) * len(failed_at) / proposals),)


def _likelihoods(target, points):
    """By the program that all else about this target is asked by, which is compiled already."""
    return ask(target, points, ["log_likelihood"])["log_likelihood"]


def _failed(run, result):
    """Failed transitions and all: of those kept, or of all draws where the method keeps only what was solved."""
    kept = result.statistics.get("failed")
    if kept is None:
        drawn = [np.ravel(chunk.statistics["failed"]) for chunk in run.chunks if "failed" in chunk.statistics]
        kept = np.concatenate([np.zeros(0), *drawn])
    return int(np.sum(kept)), np.size(kept)


def _blind(target):
    symmetric = ("modes of the weights that give the same function, which are one to these checks",)
    return BLIND + (symmetric if target.layout.networks else ())


def quantities_of(
    target: Target, raw: np.ndarray, told: dict[str, Any] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What convergence is judged on in one basin: parameters and likelihood, and functions, `(chain, draw)` each.

    Weights have symmetries, so networks are judged by the leading components of their output over the region
    that the posterior visits. `raw` holds unconstrained draws, `(chain, draw, size)`; `told` their values and log
    likelihood where these are known already.

    ```python
    from bayeshybrid.inference.judgement import quantities_of
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    quantities, functions = quantities_of(bh.Target(model, {"y": np.array(0.3)}), np.arange(6.0).reshape(2, 3, 1))
    assert set(quantities) == {"x", "log likelihood"} and not functions
    ```
    """
    flat = raw.reshape(-1, raw.shape[-1])
    judged = {site.name: site.tag for site in target.layout.latent if site.tag.kind != "weight"}
    found = told or ask(target, flat, ["values", "log_likelihood"])
    values = found["values"]
    quantities = {}
    for name in [n for n in values if n in judged]:
        names = names_of(judged[name], target.labels)
        for index in np.ndindex(values[name].shape[1:]):
            label = entry_name(name, index, *names)
            quantities[label] = values[name][(slice(None), *index)].reshape(raw.shape[:2])
    likelihood = found["log_likelihood"].reshape(raw.shape[:2])
    if np.ptp(likelihood) > 0:
        quantities["log likelihood"] = likelihood
    functions = {
        name: draws.reshape(raw.shape[:2]) for name, draws in leading_components(target, flat).items()
    }
    return quantities, functions


def _furthest(target, run, result):
    """The parameters furthest from their posterior mean where solves failed, at most two."""
    if not len(run.failed_at):
        return ()
    flat = result.draws.reshape(-1, result.draws.shape[-1])
    distance = np.abs(np.median(run.failed_at, axis=0) - flat.mean(axis=0)) / (flat.std(axis=0) + 1e-300)
    owners = [site.name for site in target.layout.latent for _ in range(site.stop - site.start)]
    return tuple(dict.fromkeys(owners[i] for i in np.argsort(-distance)[:2]))
