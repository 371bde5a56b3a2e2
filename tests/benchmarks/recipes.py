"""What share of the same starts each recipe of training leads to the best basin, with equal numbers of gradients.

`python -m tests.benchmarks.recipes --output FOLDER [--problems NAME ...] [--starts 100]` writes one line of JSON for
each pair of problem and recipe, and prints the tables of `docs/benchmarks.md`.

Rule, stated before any run: a start has reached the best basin if what it expects of the data lies within half a
standard deviation of the noise, in root mean square over all cells, of what the highest point of all recipes expects.
(Basins are told apart by what they predict; a network never converges to a point.) Shares have Wilson's interval of
95 %. Added after the first run, which found two basins of the hybrid that differ by 0.06 in log density: how many
starts end within 2 of the highest log density, wherever that is. Every recipe has 600 gradients for each start; those
of relaxed densities count the same.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.stats import binomtest

import bayeshybrid as bh
from bayeshybrid import configuration
from bayeshybrid.inference.recipes import (
    LBFGS,
    Adam,
    BestOf,
    Collocation,
    DifferentialEvolution,
    GrowingInterval,
    MultipleShooting,
    SmallPerturbation,
)
from bayeshybrid.survey import ask
from case_studies.predator_prey.model import hybrid, read_pelts

GRADIENTS = 600
NEAR, SAME_HEIGHT = 0.5, 2.0

RECIPES = {
    "L-BFGS": [LBFGS(600)],
    "Adam": [Adam(600)],
    "Adam, then L-BFGS": [Adam(300), LBFGS(300)],
    "rates by group, adapted": [Adam(300, adapt=True), LBFGS(300)],
    "best of 4 starts": [BestOf(4, steps=30), Adam(180), LBFGS(300)],
    "differential evolution": [DifferentialEvolution(299), LBFGS(300)],
    "small networks": [SmallPerturbation(0.1), Adam(300), LBFGS(300)],
    "growing interval": [GrowingInterval(inner=Adam(75)), Adam(75), LBFGS(300)],
    "multiple shooting": [MultipleShooting(inner=Adam(75)), Adam(75), LBFGS(300)],
    "collocation": [Collocation(inner=Adam(75)), Adam(75), LBFGS(300)],
    "small networks, collocation": [
        SmallPerturbation(0.1),
        Collocation(inner=Adam(75)),
        Adam(75),
        LBFGS(300),
    ],
}
WITHOUT_NETWORK = [name for name in RECIPES if not name.startswith("small networks")]


# FitzHugh-Nagumo as Ramsay et al. (2007) fit it: 20 time units, both states with noise of 0.25 here.


def spiking(t, y, p):
    """Voltage and recovery."""
    v, r = y
    a, b, c = p
    return jnp.stack([c * (v - v**3 / 3 + r), -(v - a + b * r) / c])


def fitzhugh_nagumo(times, y=None):
    """Wide priors about 0.2, 0.2 and 3."""
    a = bh.parameter("a", dist.Normal(0.0, 1.0))
    b = bh.parameter("b", dist.Normal(0.0, 1.0))
    c = bh.parameter("c", bh.prior_interval(0.5, 10.0))
    start = bh.parameter("start", dist.Normal(0.0, 1.0), shape=(2,))
    path = bh.solve_ode("path", spiking, start, times, t0=0.0, args=jnp.stack([a, b, c]))
    bh.observe("y", dist.Normal(path.ys, 0.25), obs=y)


# Lorenz 1963, where the product of x and y is what a network shall learn.


def lorenz(t, y, args):
    """The equation with a network in place of the product."""
    (sigma, rho, beta), learned = args
    return jnp.stack([sigma * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], learned(y[:2])[0] - beta * y[2]])


def lorenz_hybrid(times, y=None):
    """Unknown parameters and start, and a network of two states."""
    sigma = bh.parameter("sigma", bh.prior_interval(5.0, 20.0))
    rho = bh.parameter("rho", bh.prior_interval(15.0, 45.0))
    beta = bh.parameter("beta", bh.prior_interval(1.0, 6.0))
    start = bh.parameter("start", dist.Normal(jnp.array([-8.0, -8.0, 25.0]), jnp.array([5.0, 5.0, 5.0])))
    learned = bh.network("learned", bh.MLP(2, 1, width=8), scale=100.0, center=0.0, spread=10.0)
    args = ((sigma, rho, beta), learned)
    path = bh.solve_ode("path", lorenz, start, times, t0=0.0, args=args, max_steps=500)
    bh.observe("y", dist.Normal(path.ys, 1.0), obs=y)


def _simulated(field, start, times, args, noise):
    from bayeshybrid.science import ode

    with configuration.scope():
        path = ode.solve(field, jnp.asarray(start), jnp.asarray(times), 0.0, args, rtol=1e-10, atol=1e-10).ys
    return np.asarray(path) + noise * np.random.default_rng(1).standard_normal(path.shape)


def problems():
    """Name to model, data and recipes."""
    spikes = np.linspace(0.5, 20.0, 40)
    chaos = np.linspace(0.1, 3.0, 30)
    known = (10.0, 28.0, 8.0 / 3.0)
    fhn = _simulated(spiking, [-1.0, 1.0], spikes, jnp.array([0.2, 0.2, 3.0]), 0.25)
    l63 = _simulated(lorenz, [-8.0, -8.0, 25.0], chaos, (known, lambda xy: xy[:1] * xy[1:]), 1.0)
    return {
        "lynx and hare, hybrid": (hybrid, read_pelts(1915), list(RECIPES)),
        "FitzHugh-Nagumo": (fitzhugh_nagumo, {"times": spikes, "y": fhn}, WITHOUT_NETWORK),
        "Lorenz 1963, learned product": (lorenz_hybrid, {"times": chaos, "y": l63}, list(RECIPES)),
    }


def run(model, data, names, starts):
    """Where each recipe ends: expected observations, noise, log densities, gradients, seconds."""
    found = {}
    for name in names:
        began = time.monotonic()
        trained = bh.train(model, data, RECIPES[name], key=0, starts=starts)
        with configuration.scope():
            told = ask(trained.target, trained.unconstrained, ["mean", "variance", "log_density"])
        (site,) = told["mean"]
        found[name] = {
            "mean": told["mean"][site].reshape(starts, -1),
            "sd": np.sqrt(told["variance"][site].reshape(starts, -1)),
            "height": told["log_density"],
            "gradients": int(np.median(trained.tally.gradients)),
            "failed": int(trained.tally.failed.sum()),
            "clipped": int(trained.tally.clipped.sum()),
            "returned": int(trained.tally.returned.sum()),
            "unmoved": int(trained.tally.unmoved.sum()),
            "seconds": time.monotonic() - began,
        }
        print(f"  {name}: best {np.max(told['log_density']):.2f}, {found[name]['seconds']:.0f} s", flush=True)
    return found


def judged(found):
    """Rows of the table."""
    highest = max(found, key=lambda name: np.max(found[name]["height"]))
    best = int(np.argmax(found[highest]["height"]))
    mean, sd = (found[highest][what][best] for what in ("mean", "sd"))
    for name, each in found.items():
        away = np.sqrt(np.mean(((each["mean"] - mean) / sd) ** 2, axis=1))
        reached = int(np.sum((away < NEAR) & np.isfinite(each["height"])))
        low, high = binomtest(reached, len(away)).proportion_ci(method="wilson")
        yield {
            "recipe": name,
            "reached": reached,
            "starts": len(away),
            "high_enough": int(np.sum(each["height"] > found[highest]["height"][best] - SAME_HEIGHT)),
            "low": float(low),
            "high": float(high),
            "best": float(np.max(each["height"])),
            "median": float(np.median(each["height"])),
            **{
                what: each[what]
                for what in ("gradients", "failed", "clipped", "returned", "unmoved", "seconds")
            },
        }


def table(title, rows):
    """As Markdown."""
    yield f"### {title}\n"
    yield (
        "| recipe | reached | 95 % interval | as high | best, median log density | gradients "
        "| failed, clipped, returned, unmoved | s |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        share = f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %"
        heights = f"{row['best']:.1f}, {row['median']:.1f}"
        guards = f"{row['failed']}, {row['clipped']}, {row['returned']}, {row['unmoved']}"
        reached = f"{row['reached']} of {row['starts']}"
        high = f"{row['high_enough']} of {row['starts']}"
        cells = (
            row["recipe"],
            reached,
            share,
            high,
            heights,
            row["gradients"],
            guards,
            f"{row['seconds']:.0f}",
        )
        yield f"| {' | '.join(map(str, cells))} |"


def main():
    """One table for each problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--problems", nargs="*")
    parser.add_argument("--recipes", nargs="*")
    parser.add_argument("--starts", type=int, default=100)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    for title, (model, data, names) in problems().items():
        if asked.problems and title not in asked.problems:
            continue
        print(title, flush=True)
        wanted = [name for name in names if not asked.recipes or name in asked.recipes]
        rows = list(judged(run(model, data, wanted, asked.starts)))
        with open(asked.output / "recipes.jsonl", "a") as file:
            file.writelines(json.dumps({"problem": title, **row}) + "\n" for row in rows)
        print("\n".join(table(title, rows)), flush=True)


if __name__ == "__main__":
    main()
