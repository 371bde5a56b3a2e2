"""Do all tools state the same posterior? Log densities at the same points, by ours, by hand and by Stan.

    python -m tests.benchmarks.density --row sir --draws folder/draws.npz --output density.json

All are densities on the unconstrained scale, where the three agree in their transforms. They may differ by a
constant (Stan drops what does not depend on the unknowns), so what counts is the standard deviation of the
difference over posterior draws: below 0.01. It is measured at tight tolerances, where it tells whether the models
are the same, and at those of the fits, where it also holds the errors of the solvers.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tests.benchmarks.rows import Row, read_row

POINTS, LIMIT = 100, 0.01
TIGHT = 1e-8


def tight(row: Row) -> tuple[float, float]:
    """Relative tolerance 1e-8, and the absolute one smaller in proportion."""
    return TIGHT, row.atol * TIGHT / row.rtol


def ours(row: Row, points: dict[str, np.ndarray], is_tight: bool) -> np.ndarray:
    """Log density of each point by `bayeshybrid.Target`."""
    import equinox as eqx
    import jax

    import bayeshybrid as bh
    from bayeshybrid import configuration
    from bayeshybrid.inference.gates import scale_networks

    back = {common: name for name, common in row.renamed.items()}
    named = {back.get(name, name): values for name, values in points.items()}
    with configuration.scope():
        target, _ = scale_networks(bh.Target(*row.ours()), jax.random.key(0))
        target = target.refined(row.rtol / TIGHT) if is_tight and row.has_equation else target
        density = eqx.filter_jit(lambda point: target.log_density(target.unconstrain(point)))
        return np.array([float(density(point)) for point in _one_by_one(named)])


def by_hand(row: Row, points: dict[str, np.ndarray], is_tight: bool) -> np.ndarray:
    """Log density of each point by the numpyro model with diffrax."""
    import jax
    import jax.numpy as jnp
    from numpyro.infer.util import potential_energy, unconstrain_fn

    with jax.enable_x64(True):
        model = row.by_hand(*(tight(row) if is_tight else (row.rtol, row.atol)))

        @jax.jit
        def density(point):
            return -potential_energy(model, (), {}, unconstrain_fn(model, (), {}, point))

        each = [{name: jnp.asarray(value) for name, value in p.items()} for p in _one_by_one(points)]
        return np.array([float(density(point)) for point in each])


def by_stan(row: Row, points: dict[str, np.ndarray], is_tight: bool) -> np.ndarray:
    """Log density of each point by Stan, up to a constant."""
    import stan

    tolerances = tight(row) if is_tight else (row.rtol, row.atol)
    model = stan.build(row.stan, data=row.stan_input(*tolerances))
    plain = [{name: value.tolist() for name, value in point.items()} for point in _one_by_one(points)]
    return np.array([model.log_prob(model.unconstrain_pars(point)) for point in plain])


STATEMENTS = {"ours": ours, "by hand": by_hand, "stan": by_stan}


def compare(row: Row, points: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Standard deviation of each other statement's difference to ours, tight and as run."""
    asked = [name for name in STATEMENTS if name != "stan" or find_spec("stan")]
    found = {}
    for label, is_tight in {"tight": True, "as run": False}.items():
        told = {name: STATEMENTS[name](row, points, is_tight) for name in asked}
        found[label] = {n: float(np.std(told[n] - told["ours"], ddof=1)) for n in asked if n != "ours"}
        if not row.has_equation:
            break
    return found


def thinned(row: Row, archive: Path, fit: str = "warm") -> dict[str, np.ndarray]:
    """`POINTS` draws of a worker's file, evenly spaced over all chains, by common name."""
    with np.load(archive) as stored:
        draws = {name: stored[f"{fit}.{name}"] for name in row.sites}
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}
    count = len(next(iter(flat.values())))
    chosen = np.linspace(0, count - 1, min(POINTS, count)).round().astype(int)
    return {name: value[chosen] for name, value in flat.items()}


def _one_by_one(points):
    count = len(next(iter(points.values())))
    return [{name: np.asarray(values[index]) for name, values in points.items()} for index in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", required=True)
    parser.add_argument("--draws", type=Path, required=True)
    parser.add_argument("--fit", default="warm")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    row = read_row(given.row)
    found = compare(row, thinned(row, given.draws, given.fit))
    given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
