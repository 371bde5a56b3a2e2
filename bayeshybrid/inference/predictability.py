"""Whether the solves of a model are chaotic, and how far ahead their data can be followed."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bayeshybrid.science.chaos import horizon, largest_exponent
from bayeshybrid.science.inputs import Forcing, binding
from bayeshybrid.survey import ask
from bayeshybrid.target import Target

# For so many times the time of the data neighbouring solutions are followed, where no input ends with the data.
LONGER = 10
TOLERANCE = 1e-6
MOST_WINDOWS = 256
LEAST_GROWTH = (
    2.0  # an error that grows by less than e squared over the data is not what makes a likelihood rough
)
NUDGE, DIRECTIONS = 1e-6, 16
SENSITIVE = 200.0

__all__ = ["Predictability", "beyond_horizon", "horizons", "windows"]


class Predictability(NamedTuple):
    """How predictable one solve is at one point, in the unit of its times.

    - `exponent`, `error`: the largest Lyapunov exponent and its standard error; of several units the largest.
    - `horizon`: after what time an error as large as the noise has grown to the spread of the observations; infinite
      where the solve is not chaotic.
    - `span`: the time from its start to the last time of the data.
    """

    exponent: float
    error: float
    horizon: float
    span: float


def horizons(target: Target, q: Float[Any, " size"]) -> dict[str, Predictability]:
    """Of each solve, at the unknowns `q`; solves of a single state, and those that fail in the long run, are left out.

    ```python
    from bayeshybrid.inference.predictability import horizons
    def model(times, y=None):
        start = bh.parameter("start", dist.LogNormal(0.0, 0.1), shape=(2,))
        path = bh.solve_ode("path", lambda t, y, a: jnp.stack([-y[0], -2 * y[1]]), start, times, t0=0.0)
        bh.observe("y", dist.Normal(path.ys, 0.1), obs=y)
    target = bh.Target(model, {"times": np.array([1.0, 2.0]), "y": np.ones((2, 2))})
    assert horizons(target, np.zeros(2))["path"].horizon == np.inf
    ```
    """
    told = ask(target, np.asarray(q)[None], ["initial", "mean", "variance"])
    contrast = max(
        (_contrast(told["mean"][site], told["variance"][site]) for site in told["mean"]), default=2.0
    )
    found = {}
    for solve in target.layout.solves:
        initial = told["initial"][solve.name]
        span = float(np.max(initial["last"] - initial["t0"]))
        if not span > 0 or np.shape(initial["y0"])[-1] < 2:
            continue
        value, error, ok = _exponents(target, solve.name, span, jnp.asarray(q))
        value, error = (np.where(ok, np.ravel(x), -np.inf) for x in (value, error))
        fastest = int(np.argmax(value))
        if not np.isfinite(value[fastest]):
            continue
        exponent, doubt = float(value[fastest]), float(error[fastest])
        chaotic = exponent > 2 * doubt and exponent * span > LEAST_GROWTH
        ahead = horizon(exponent, 1.0, max(contrast, 2.0)) if chaotic else float("inf")
        found[solve.name] = Predictability(exponent, doubt, ahead, span)
    return found


def _contrast(mean, variance):
    """Spread of what is expected, in units of the noise about it."""
    mean, variance = (x[np.isfinite(x)] for x in (mean, variance))
    noise = np.sqrt(variance.mean()) if variance.size else 1.0
    return float(mean.std() / max(noise, 1e-300)) if mean.size else 2.0


@partial(jax.jit, static_argnums=(1, 2))
def _exponents(target, name, span, q):
    """Largest exponent of each unit, its error, and whether it was found."""
    message = target.run_at(q, solved=False).solutions[name]
    field, settings = message["field"], message["settings"]
    duration = span if message["inputs"] else LONGER * span

    def lane(y0, times, args, start, inputs):
        forcings = [each for each in inputs if isinstance(each, Forcing)]

        def flow(t, y, args):
            with binding(forcings):
                return jnp.ravel(field(t, y.reshape(y0.shape), args))

        return largest_exponent(
            flow,
            jnp.ravel(y0),
            args,
            t0=start,
            duration=duration,
            rtol=TOLERANCE,
            atol=TOLERANCE,
            solver=settings["solver"],
        )

    given = tuple(message[what] for what in ("y0", "times", "args", "start", "inputs"))
    axes = message["axes"]
    return tuple((lane if axes is None else jax.vmap(lane, in_axes=axes))(*given))


def windows(target: Target, points: np.ndarray, least: int) -> int:
    """Into how many windows of equal length the time of solves is cut so that each lies within the horizon.

    **Arguments:**

    - `points`: of which the one that fits the data best is looked at, `(n, size)`.
    - `least`: how many at least; 256 are the most.

    ```python
    from bayeshybrid.inference.predictability import windows
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    assert windows(bh.Target(model, {"y": np.array(2.0)}), np.zeros((1, 1)), 8) == 8
    ```
    """
    heights = ask(target, points, ["log_likelihood"])["log_likelihood"]
    found = horizons(target, points[np.argmax(np.where(np.isfinite(heights), heights, -np.inf))])
    needed = [int(np.ceil(each.span / each.horizon)) for each in found.values()]
    return min(max([least, *needed]), MOST_WINDOWS)


def beyond_horizon(target: Target, points: np.ndarray) -> tuple[str, ...]:
    """A sentence for each solve that is asked for its derivatives further ahead than it can be foreseen at some point.

    The exponent is only looked for where a small change of the unknowns changes what is expected of the data by far
    more than itself.

    **Arguments:**

    - `points`: the mode, and a prior draw that fits well: a search in a rough likelihood often ends where the system is
      tame and the data are missed. `(n, size)`.

    ```python
    from bayeshybrid.inference.predictability import beyond_horizon
    model = lambda y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=y)
    assert beyond_horizon(bh.Target(model, {"y": np.array(2.0)}), np.zeros((2, 1))) == ()
    ```
    """
    if not target.layout.solves:
        return ()
    for point in points[_sensitive(target, points)]:
        found = horizons(target, point)
        said = [_too_far(name, each) for name, each in found.items() if each.span > each.horizon]
        if said:
            return tuple(said)
    return ()


def _too_far(name, found):
    return (
        f"solve_ode({name!r}) is chaotic: a small error grows e-fold in {1 / found.exponent:.2g}, so that data can be "
        f"followed for about {found.horizon:.2g} of the {found.span:.3g} that they cover. Beyond that the likelihood "
        "is rough and its gradient, though exact, leads nowhere: use shorter windows, each with a start of its own, or "
        "train with bh.recipes.MultipleShooting()"
    )


def _sensitive(target, points):
    """Where small changes of the unknowns are seen in the data 200 times as large, in units of the noise."""
    nudges = np.random.default_rng(0).choice([-NUDGE, NUDGE], (DIRECTIONS, points.shape[1]))
    nudges[0] = 0.0
    told = ask(target, (points[:, None] + nudges).reshape(-1, points.shape[1]), ["mean", "variance"])
    found = np.zeros(len(points), bool)
    for site, mean in told["mean"].items():
        mean, variance = (x.reshape(len(points), DIRECTIONS, -1) for x in (mean, told["variance"][site]))
        moved = np.nan_to_num(np.abs(mean - mean[:, :1])).max(axis=(1, 2), initial=0.0)
        found |= moved > SENSITIVE * NUDGE * np.sqrt(np.nan_to_num(variance[:, 0]).mean(axis=1))
    return found
