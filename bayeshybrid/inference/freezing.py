"""On which grids of steps a run is made: rough ones for the search, those of its basins for the draws.

Adaptive solves decide whatever grids cannot: what fails, and whether the draws are those of the model as stated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from bayeshybrid.inference.convergence import FEW
from bayeshybrid.inference.grids import Certificate, certificate, compare, learn, refine, stepped_over
from bayeshybrid.inference.search import OUT_OF_REACH, Search, at_initial_values
from bayeshybrid.inference.trajectories import slopes
from bayeshybrid.science import pacing
from bayeshybrid.survey import ask, draw_prior
from bayeshybrid.target import Target
from bayeshybrid.verdict import Check

SCOUTS_SHARE, FEWEST_SCOUTS = 0.2, 8
FEWEST_KEPT = 0.5
POINTS = 16
PRIOR_DRAWS = 200
CERTIFIED = 1000
MOST_FAILED = 64
REFINEMENTS = 2
ROUGHER = 2.0  # steps of a search, which has to come near the basins only

__all__ = ["Frozen", "all_solved", "certify", "finer", "near_basins", "rough", "steadier"]


class Frozen(NamedTuple):
    """A target on grids, or as it was where none can stand.

    - `target`: what samplers ask.
    - `notes`: which solves have no grid and why, and what the grids have been found to miss.
    - `sound`: whether the grids agree with adaptive solves wherever they were compared.
    """

    target: Target
    notes: tuple[str, ...] = ()
    sound: bool = True

    @property
    def steps(self) -> dict[str, list[int]]:
        """Solve name to the number of its steps, of each bucket of units."""
        return {name: pacing.steps_of(grid) for name, grid in self.target.grids.items()}


def rough(target: Target, points: np.ndarray, heights: np.ndarray) -> Frozen:
    """Grids for the search, from those prior draws that fit the data best: their courses stay where the data are.

    **Arguments:**

    - `points`, `heights`: prior draws, `(n, size)`, and their log likelihoods by adaptive solves, `-inf` if failed.
    """
    solved = np.isfinite(heights)
    if not target.layout.solves or solved.sum() < FEWEST_SCOUTS:
        return Frozen(target)
    count = max(FEWEST_SCOUTS, int(SCOUTS_SHARE * solved.sum()))
    best = np.argsort(np.where(solved, -heights, np.inf))[:count]
    plans, notes = learn(target, at_initial_values(target, points[best]), ROUGHER)
    frozen = target.frozen(plans)
    if not plans:
        return Frozen(target, notes)
    kept = np.isfinite(slopes(frozen, points)[0])[solved].mean()
    if kept < FEWEST_KEPT:
        return Frozen(
            target, (f"{1 - kept:.0%} of the prior draws that can be solved fail on a frozen grid",)
        )
    return Frozen(frozen, notes)


def near_basins(target: Target, lean: Frozen, search: Search, key: Any) -> Frozen:
    """Grids for the draws, from adaptive solves about the basins.

    They are compared with adaptive solves where nothing will be drawn, and so are those of the search where it ended: a
    basin may lie where it does because of its grid. They have as many steps as those of the search where these are not
    far too many, so that no program is compiled anew.
    """
    if not lean.target.grids:
        return lean
    basins = search.basins
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    plans, notes = learn(target, _about(basins, generator), earlier=lean.target.grids)
    ends = {"ends of searches": np.concatenate([b.members for b in (*basins, *search.left_out)])}
    searched = compare(target, lean.target, ends)
    # Where there are others than those, the search stands if it ended well, and draws are made without grids.
    if set(plans) != set(lean.steps):
        return Frozen(target, (*notes, *searched.notes), searched.sound)
    frozen = target.frozen(plans)
    elsewhere = {
        "prior draws": draw_prior(target, key, PRIOR_DRAWS)[0],
        "twice as wide": _about(basins, generator, 4 * POINTS, 2.0),
    }
    compared = compare(target, frozen, ends | elsewhere)
    return Frozen(frozen, (*notes, *compared.notes), compared.sound and searched.sound)


def _about(basins, generator, count=POINTS, width=1.0):
    """Points about the basins by their curvature, or the ends of searches where there is none."""
    each = max(1, count // len(basins))
    rows = []
    for basin in basins:
        if basin.factor is None:
            rows.append(basin.members[:each])
            continue
        noise = generator.standard_normal((each, len(basin.mode)))
        noise[0] = 0.0
        factor = np.asarray(basin.factor)
        rows.append(basin.mode + width * (noise @ factor.T if factor.ndim == 2 else noise * factor))
    return np.concatenate(rows)


def certify(
    target: Target,
    lean: Frozen,
    draws: np.ndarray,
    lowest: float,
    missed_at: np.ndarray,
    tried: int,
) -> Certificate:
    """Whether draws made on grids are draws of the model as stated.

    **Arguments:**

    - `draws`: `(chain, draw, size)`, of which a thousand are weighed.
    - `lowest`: log density of the rarest of them.
    - `missed_at`: proposals that failed or flew off on the grid alone while draws were kept; `tried`: how many
      proposals there were then.
    """
    flat = draws.reshape(-1, draws.shape[-1])
    some = flat[np.linspace(0, len(flat) - 1, min(CERTIFIED, len(flat))).astype(int)]
    found = certificate(target, lean.target, some)
    if not len(missed_at) or found.verdict == "adaptive":
        return found
    asked = missed_at[np.linspace(0, len(missed_at) - 1, min(MOST_FAILED, len(missed_at))).astype(int)]
    # Further below the rarest draw they would have been refused for their density.
    within = np.mean(ask(target, asked, ["log_density"])["log_density"] > lowest - OUT_OF_REACH)
    lost = float(within) * len(missed_at) / max(tried, 1)
    if lost <= FEW:
        return found
    name, remedy = (
        "proposals that fail on the frozen step grid alone",
        "learn a finer grid: halve its steps and repeat",
    )
    return found._replace(check=Check(name, "fail", lost, FEW, "", remedy), verdict="refine", lost=lost)


def all_solved(found: Certificate, log_density: np.ndarray) -> Certificate:
    """The certificate once all draws were solved adaptively: one where the density is zero is one too many."""
    unsolved = float(np.mean(~np.isfinite(log_density)))
    return found._replace(check=stepped_over(unsolved), verdict="adaptive") if unsolved else found


def finer(target: Target, lean: Frozen) -> Frozen:
    """The same grids with all steps halved."""
    return lean._replace(target=target.frozen(refine(lean.target.grids)))


def steadier(target: Target, lean: Frozen, draws: np.ndarray) -> Frozen:
    """Grids on which nothing flies off that the model holds, learned from draws `(chain, draw, size)`.

    Where explicit steps are too long to be stable somewhere, a method that is stable with any step takes their place;
    if there is none that can, steps are halved.
    """
    flat = draws.reshape(-1, draws.shape[-1])
    plans, notes = learn(target, flat[np.linspace(0, len(flat) - 1, POINTS).astype(int)], steadier=True)
    gained = any(
        isinstance(plan, pacing.Stable) and not isinstance(lean.target.grids[name], pacing.Stable)
        for name, plan in plans.items()
    )
    if not gained or set(plans) != set(lean.target.grids):
        return finer(target, lean)
    return lean._replace(target=target.frozen(plans), notes=(*lean.notes, *notes))
