"""The two verbs: `infer` finds a posterior by any method, `simulate` draws from the prior."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from typing import Any, NamedTuple

import jax
import numpy as np

from bayeshybrid import configuration
from bayeshybrid.faults import ModelError, StartError
from bayeshybrid.forecast import Forecast, forecast_draws
from bayeshybrid.inference import hosts
from bayeshybrid.inference.convergence import FEW
from bayeshybrid.inference.cost import Cost, expect, listening
from bayeshybrid.inference.driver import MISLED, TARGET_ESS, Run, drive
from bayeshybrid.inference.freezing import (
    REFINEMENTS,
    Frozen,
    all_solved,
    certify,
    finer,
    near_basins,
    steadier,
)
from bayeshybrid.inference.gates import read, scale_networks
from bayeshybrid.inference.judgement import judge
from bayeshybrid.inference.method import METHODS, Method, Result
from bayeshybrid.inference.nuts import NUTS
from bayeshybrid.inference.predictability import beyond_horizon
from bayeshybrid.inference.search import STARTS, find_basins
from bayeshybrid.inference.shared import SharedHMC
from bayeshybrid.inference.stages import Stage, as_recipe
from bayeshybrid.inference.training import begin
from bayeshybrid.inference.whitening import DENSE_UP_TO
from bayeshybrid.keys import as_key, children
from bayeshybrid.posterior import Posterior
from bayeshybrid.progress import Progress, Silent
from bayeshybrid.survey import ask, draw_prior
from bayeshybrid.target import Target
from bayeshybrid.verdict import Check

# Of shared chains, each tried where the last one left; and of what follows them, since the usual 0.8 diverged there,
# and with 0.95 a network beside Lotka-Volterra.
ACCEPTANCES = (0.8, 0.95, 0.99)
CAREFUL = (0.95, 0.99)

# Positions are mapped to whitened ones and back, so that even a chain that stands still moves by so much.
ROUNDING = 1e-8

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
    target_ess: float = TARGET_ESS,
    recipe: Stage | Sequence[Stage] | None = None,
) -> Posterior:
    """Find the posterior of a model given data.

    The model is looked at before any sampling, so that whatever cannot work is an error with its place and its
    mend. Then many starts from the prior are optimised together, the basins they end in are told apart by what
    they predict, and the method runs from those that carry mass. Where `jax.distributed` has joined several processes
    that all call this, they share the chains and each gets the whole posterior.

    **Arguments:**

    - `model`: a numpyro model; each observation is an argument that defaults to `None`.
    - `data`: argument names to arrays, observations included.
    - `method`: such as `NUTS()`; `None` chooses one and says which in `posterior.remarks`.
    - `key`: an integer or a JAX key; the same key gives the same draws on the same machine.
    - `starts`: how many searches begin at prior draws.
    - `progress`: `TextBar()` to see how far it has come, and before the draws what they are expected to take; silent
      by default.
    - `time_limit`: seconds of sampling after which what was drawn so far is returned.
    - `target_ess`: how many independent draws the posterior should be worth, for each unknown and its square: when
      a method that does not end by itself, such as `SharedHMC`, stops. At least 400 in any case.
    - `recipe`: stages of training, such as `[bh.recipes.Collocation(), bh.recipes.Adam()]`, that all starts go through
      before they are searched from.

    **Returns:** a `Posterior`. Ctrl-C during sampling also returns one, with what was drawn so far.

    **Raises:** `DataError` for data that cannot be used, `ModelError` for a model that cannot be fitted,
    `StartError` where no prior draw has a finite density, or the time was up before a draw was kept, `RuntimeError`
    where joined processes do not ask for the same.

    ```python
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    posterior = bh.infer(model, {"y": np.array([1.9, 2.1, 2.4, 1.6])}, bh.NUTS(draws=500, warmup=250), key=0)
    assert posterior.verdict["scientific parameters"] == "pass"
    ```
    """
    progress = progress or Silent()
    _check_method(method)
    stages = () if recipe is None else as_recipe(recipe)
    if starts < 1:
        raise ModelError(f"starts={starts}: at least one search must begin somewhere")
    if not target_ess > 0:
        raise ModelError(f"target_ess={target_ess}: write a positive number, such as 1000")
    with configuration.scope(), listening(_import_ahead) as spent:
        began = time.monotonic()
        scout_key, search_key, run_key = children(as_key(key), 3)
        asked = repr((method, starts, target_ess, time_limit is None, stages))
        hosts.same("the key, the method or its settings", jax.random.key_data(as_key(key)), asked)
        target, scouts, scaled = read(model, data, scout_key, starts, progress, _on_grids(method))
        begun = begin(target, scouts.points, stages, search_key, progress)
        search, lean = _searched(target, scouts, begun, search_key, progress)
        foreseen = beyond_horizon(target, np.stack([search.basins[0].mode, scouts.nearest]))
        searched = time.monotonic()
        deadline = None if time_limit is None else searched + time_limit
        settings = _Settings(progress, deadline, target_ess, spent)
        drawn = _certified(method, target, lean, search.basins, run_key, settings)
        chosen, words, run, result = drawn.method, drawn.words, drawn.run, drawn.result
        if not result.draws.shape[1]:
            raise StartError(
                f"the run was {run.ended} after {run.seconds:.0f} s, before any draw was kept: allow more time, "
                "or a shorter warm-up"
            )
        weighty = (*target.losses, *scouts.remarks, *search.notes, *foreseen, *result.notes)
        told = drawn.told or _told(target, result.draws)
        verdict = judge(target, run, result, search, weighty, told, drawn.certificate)
        samples = _samples(result.draws, told)
        seconds = {
            "search": searched - began,
            "sampling": run.seconds,
            "compiling": sum(spent.values()),
            "total": time.monotonic() - began,
        }
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
        remarks=(
            *words,
            *begun.notes,
            *drawn.lean.notes,
            *(n for n in target.notes if n not in target.losses),
            *scaled,
            *configuration.notes(),
            *weighty,
        ),
        record=_recorded(drawn, seconds),
    )


def _import_ahead():
    """What the stopping rule needs, nearly a second of importing."""
    threading.Thread(target=import_module, args=("arviz_stats.base",), daemon=True).start()


def _recorded(drawn, seconds):
    """What a result keeps of how it was made, as numbers and texts that a file can hold."""
    return {
        "seconds": seconds,
        "expected": drawn.cost._asdict(),
        "ended": drawn.run.ended,
        "versions": _versions(),
        "grids": drawn.lean.steps,
        "gradients": _gradients(drawn.run),
        **_plain(drawn.result.extra),
    }


def _on_grids(method):
    """Whether a method may draw on frozen grids: where its draws are held against adaptive solves afterwards."""
    return method is None or method.claims == "exact"


def _searched(target, scouts, begun, key, progress):
    """The basins, and the grids for the draws; searched again on finer ones, at last on none, where grids mislead."""

    def searched(asked):
        search = find_basins(asked, begun.points, key, progress, stated=target, spread=begun.spread)
        if not search.basins:
            raise StartError(
                "no search found a finite density, so no chain can start: prior draws have one, but not with "
                'every network that says initial="zero" at zero. Write initial="prior"'
            )
        return search

    lean = scouts.lean
    for _ in range(REFINEMENTS + 1):
        search = searched(lean.target)
        found = near_basins(target, lean, search, key)
        if found.sound:
            return search, found
        if not found.target.grids:
            break
        lean = finer(target, found)
    return searched(target), Frozen(target, (*found.notes, "so solves are adaptive"))


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
    if not draw_prior(target, key, 1)[1]:
        raise ModelError(
            "a prior of this model is improper and cannot be drawn from: give it a proper one to simulate"
        )


def _check_method(method):
    if isinstance(method, type) and issubclass(method, Method):
        raise ModelError(
            f"method={method.__name__}: write {method.__name__}(), with its settings in the brackets"
        )
    if method is not None and not isinstance(method, Method):
        raise ModelError(
            f"method={method!r} is not a method: write one of {', '.join(f'{m}()' for m in METHODS)}"
        )


class _Settings(NamedTuple):
    """What holds for all runs of one fit; `spent` is what compiling has taken so far."""

    progress: Progress
    deadline: float | None
    target_ess: float
    spent: Mapping[str, float]


class _Drawn(NamedTuple):
    """The method that drew, what to say about the choice, its run, its result, and what they were made on.

    `told` is what adaptive solves say of the draws, `None` where it was not asked.
    """

    method: Method
    words: tuple[str, ...]
    run: Run
    result: Result
    lean: Frozen
    cost: Cost
    certificate: Check | None = None
    told: dict[str, Any] | None = None


def _certified(method, target, lean, basins, key, settings):
    """Draws that hold against adaptive solves: on other grids, and at last without, where the first do not.

    None is begun once the time that was given is up, and where one is cut short before it keeps a draw the last draws
    come back with what was found of them.
    """
    deadline = settings.deadline
    last: _Drawn | None = None
    for _ in range(REFINEMENTS + 1):
        drawn = _drawn(method, target, lean, basins, key, settings)
        run, draws = drawn.run, drawn.result.draws
        if not draws.size and last:
            return last
        if not lean.target.grids or not draws.size:
            return drawn
        missed, tried = _missed_since(run, drawn.result)
        found = certify(target, lean, draws, drawn.result.statistics["lp"].min(), missed, tried)
        told = None
        if found.verdict == "pass":
            told = _told(target, draws)
            found = all_solved(found, told["log_density"])
        last = drawn._replace(certificate=found.check, told=told, lean=_with_missed(lean, len(missed), tried))
        over = deadline is not None and hosts.first(time.monotonic() >= deadline)
        unstable = run.ended == MISLED or found.lost > FEW
        if (found.verdict == "pass" and not unstable) or over or run.ended in ("interrupted", "out of time"):
            return last
        if found.verdict == "adaptive":
            break
        lean = steadier(target, lean, draws) if unstable else finer(target, lean)
    note = f"{found.check.name}: {found.check.figure:.2g}, so solves are adaptive"
    drawn = _drawn(method, target, Frozen(target, (*lean.notes, note)), basins, key, settings)
    return last if last and not drawn.result.draws.size else drawn


def _drawn(method, target, lean, basins, key, settings):
    """One run of the method that was named.

    Without one shared chains are tried first, then with smaller steps, for which nothing is compiled again; they are
    left for `NUTS` where the posterior's shape is not theirs, and this for smaller steps where it diverges.
    """
    stated = target if lean.target.grids else None

    def drawn(method, words=(), **more):
        progress, deadline, target_ess, spent = settings
        progress.start("expected cost", 1)
        cost = expect(method, lean.target, basins, target_ess, spent)
        progress.update(1)
        progress.finish(f"{type(method).__name__}: {cost}")
        run = drive(method, lean.target, basins, key, progress, deadline, target_ess, stated=stated, **more)
        return _Drawn(
            method, words, run, method.finish(lean.target, run.state, run.chunks, basins), lean, cost
        )

    if method is not None:
        return drawn(method)
    reasons = [_why_not_shared(target, basins)]
    for shared in () if reasons[0] else (SharedHMC(target_acceptance=each) for each in ACCEPTANCES):
        tried = f", since with {reasons[-1]}" if reasons[-1] else ""
        first = drawn(
            shared, (f"no method was named, so {shared!r} was used{tried}: exact draws",), give_up=True
        )
        reason = shared.hardness(first.run.state) or _in_the_draws(first.result)
        if not reason or first.run.ended in ("interrupted", "out of time", MISLED):
            return first
        reasons.append(f"an acceptance of {shared.target_acceptance:g} {reason}")
    return _drawn_carefully(drawn, [reason for reason in reasons if reason])


def _drawn_carefully(drawn, reasons):
    """One run of `NUTS`, or a second with smaller steps where that diverges."""
    first = None
    for acceptance in CAREFUL:
        chosen = NUTS(draws=None, target_acceptance=acceptance)
        words = f"no method was named, and {chosen!r} was used instead of shared chains: with {'; with '.join(reasons)}"
        last = drawn(chosen, (words,), give_up=acceptance < CAREFUL[-1])
        if last.run.ended != "hard":
            break
        first = last
        diverged = np.mean(last.result.statistics["diverging"])
        reasons = [
            *reasons,
            f"NUTS and an acceptance of {acceptance:g} {100 * diverged:.1f} % of transitions diverge",
        ]
    return first if first and first.result.draws.size and not last.result.draws.size else last


def _in_the_draws(result):
    """What draws of shared chains show of a shape that is not theirs; empty where nothing."""
    failed = [f"{check.name}: {check.figure:.2g}" for check in result.checks if check.state == "fail"]
    still = 0
    if result.draws.size:
        moved = np.ptp(result.draws, axis=1) > ROUNDING * result.draws.std(axis=(0, 1))
        still = int(np.sum(~moved.any(axis=-1)))
    return "; ".join([*failed, *([f"chains that never moved: {still}"] if still else [])])


def _why_not_shared(target, basins):
    """Why many short chains are not even tried; empty where they are."""
    if target.layout.size > DENSE_UP_TO:
        return f"{target.layout.size} unknowns are more than a dense metric is made for"
    if any(basin.factor is None for basin in basins):
        return "the search ended off a maximum, so there is no curvature to start from"
    return ""


def _with_missed(lean, missed, tried):
    note = f"{missed} of {tried} proposals failed on the frozen grid alone and count as refused"
    return lean._replace(notes=(*lean.notes, note)) if missed else lean


def _missed_since(run, result):
    """Where proposals failed on grids alone since draws were kept, and how many there were.

    What was refused before that changes no draw.
    """
    began = sum(chunk.draws.shape[1] for chunk in run.chunks) - result.raw[0].shape[1]
    return run.missed_at[run.missed_in >= began], sum(len(raw) * raw.shape[1] for raw in result.raw)


def _told(target, draws):
    """The values of unknowns and derived quantities at each draw, one after another, and its log densities.

    A chain that stands still is asked once.
    """
    moved = np.ones(draws.shape[:2], bool)
    moved[:, 1:] = np.any(draws[:, 1:] != draws[:, :-1], axis=-1)
    told = ask(target, draws[moved], ["values", "log_likelihood", "log_density"])
    place = np.cumsum(moved.ravel()) - 1
    return jax.tree.map(lambda rows: rows[place], told)


def _samples(draws, told):
    """Values by name, `(chain, draw, ...)`, unknowns before derived quantities."""
    return {name: flat.reshape(*draws.shape[:2], *flat.shape[1:]) for name, flat in told["values"].items()}


def _gradients(run):
    """Gradients of the run that gave the draws, warm-up included and the search not; `None` where it does not count."""
    counted = [np.sum(chunk.statistics["n_steps"]) for chunk in run.chunks if "n_steps" in chunk.statistics]
    return int(sum(counted)) if counted else None


def _versions():
    names = ("jax", "jaxlib", "numpyro", "blackjax", "diffrax", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def _plain(extra):
    """Arrays as lists, for a record that a file can hold."""
    return jax.tree.map(lambda value: np.asarray(value).tolist(), extra)
