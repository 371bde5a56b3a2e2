"""Whether the draws are the posterior: the checks of a verdict, with their figures, limits and remedies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bayeshybrid.diagnostics import MANY_CHAINS, effective_sample_size, rhat
from bayeshybrid.inference.method import Basin
from bayeshybrid.science.ode import describe
from bayeshybrid.verdict import FORECASTS, FUNCTIONS, PARAMETERS, Check, State

RHAT_LIMIT = 1.01
ESS_LIMIT = 400
FEWEST_CHAINS = 4
FEWEST_DRAWS = 50
FEW = 1e-3
LOWEST_ENERGY = 0.3
BASIN_THAT_MATTERS = 0.01
SAME_HEIGHT = 2.0
MOVED_LITTLE, MOVED_MUCH = 0.1, 0.7

__all__ = [
    "basin_checks",
    "convergence_checks",
    "divergence_check",
    "energy_check",
    "failure_check",
    "resolvable_check",
    "saturation_check",
    "shape_check",
    "tolerance_check",
]


def convergence_checks(quantities: Mapping[str, np.ndarray], claims: Sequence[str]) -> tuple[Check, ...]:
    """R-hat, effective sample size and stuck chains over named quantities `(chain, draw)` of one basin.

    One check of each kind, at the quantity where it is worst. Fewer than four chains or fifty draws are "not
    assessable"; a quantity that is constant or not finite fails, and a chain that stood still is named.
    """
    claims = tuple(claims)
    if not quantities:
        return (
            Check("R-hat and effective sample size", "not assessable", place="nothing varies", claims=claims),
        )
    shape = next(iter(quantities.values())).shape
    stuck = _stuck_check(quantities, claims) if shape[1] >= FEWEST_DRAWS else ()
    if stuck:
        return stuck
    if shape[0] < FEWEST_CHAINS or shape[1] < FEWEST_DRAWS:
        measured = f"{shape[0]} chain(s) of {shape[1]} draws"
        remedy = f"run at least {FEWEST_CHAINS} chains of {FEWEST_DRAWS} draws or more"
        return (
            Check(
                "R-hat and effective sample size",
                "not assessable",
                place=measured,
                remedy=remedy,
                claims=claims,
            ),
        )
    return _rhat_check(quantities, claims), _ess_check(quantities, claims)


def _stuck_check(quantities, claims):
    """Chains in which a quantity stood still or was not finite, the first by name; none if all moved."""
    still = [
        (name, chain)
        for name, draws in quantities.items()
        for chain, row in enumerate(draws)
        if not np.all(np.isfinite(row)) or np.ptp(row) == 0
    ]
    if not still:
        return ()
    chains = sorted({chain for _, chain in still})
    place = f"{still[0][0]}, chain {', '.join(map(str, chains))}"
    remedy = "the chain never moved: look at its start and at failed solves, or run again with another key"
    return (Check("stuck chain", "fail", float(len(chains)), 0.0, place, remedy, claims),)


def _rhat_check(quantities, claims):
    values = {name: rhat(draws) for name, draws in quantities.items()}
    name = max(values, key=lambda name: np.inf if np.isnan(values[name]) else values[name])
    state: State = "pass" if values[name] <= RHAT_LIMIT else "fail"
    remedy = "chains disagree: run longer, look for several modes, or reparametrise"
    return Check("R-hat", state, values[name], RHAT_LIMIT, name, remedy, claims)


def _ess_check(quantities, claims):
    values = {name: effective_sample_size(draws) for name, draws in quantities.items()}
    name = min(values, key=lambda name: -np.inf if np.isnan(values[name]) else values[name])
    state: State = "pass" if values[name] >= ESS_LIMIT else "fail"
    remedy = "too few effective draws: run more draws, or reparametrise"
    return Check("effective sample size", state, values[name], ESS_LIMIT, name, remedy, claims)


def divergence_check(diverging: np.ndarray) -> Check:
    """Divergent transitions `(chain, draw)`: none pass, up to 0.1 % and spread out is a remark, more fails."""
    share = float(np.mean(diverging))
    each = diverging.sum(axis=1)
    concentrated = len(each) > 1 and each.sum() > 3 and each.max() > 0.75 * each.sum()
    state: State = (
        "pass" if share == 0 else "pass with remarks" if share <= FEW and not concentrated else "fail"
    )
    remedy = "raise target_acceptance, or reparametrise (centred in place of non-centred, or the other way)"
    place = f"chain {int(each.argmax())}" if concentrated else ""
    return Check("divergent transitions", state, share, FEW, place, remedy)


def saturation_check(saturated: np.ndarray) -> Check:
    """Trajectories that ended at their greatest length: chains that cannot cross the posterior in one go."""
    share = float(np.mean(saturated))
    state: State = "pass" if share <= FEW else "pass with remarks" if share < 0.05 else "fail"
    remedy = "raise max_doublings, or reparametrise: the posterior is much longer than wide"
    return Check("trajectories at their greatest length", state, share, 0.05, "", remedy)


def energy_check(energy: np.ndarray, which: np.ndarray) -> Check:
    """Bayesian fraction of missing information (Betancourt 2016), at least 0.3.

    Of each chain, or where there are many short ones of all chains of a basin: `which` says whose each is.
    """
    if energy.shape[1] < FEWEST_DRAWS:
        return Check("energy fraction", "not assessable", place=f"{energy.shape[1]} draws")
    spread = np.var(energy, axis=1)
    jumps = np.mean(np.diff(energy, axis=1) ** 2, axis=1)
    what = "chain"
    if len(energy) > MANY_CHAINS:
        what = "basin"
        spread = np.array([np.var(energy[which == b]) for b in np.unique(which)])
        jumps = np.array([np.mean(jumps[which == b]) for b in np.unique(which)])
    fraction = np.where(spread > 0, jumps / np.where(spread > 0, spread, 1.0), np.nan)
    chain = int(np.argmin(np.where(np.isnan(fraction), -np.inf, fraction)))
    state: State = "pass" if fraction[chain] >= LOWEST_ENERGY else "fail"
    remedy = "heavy tails or a funnel: reparametrise"
    return Check(
        "energy fraction (E-BFMI)", state, float(fraction[chain]), LOWEST_ENERGY, f"{what} {chain}", remedy
    )


def shape_check(hard: str) -> Check:
    """What the warm-up saw of a shape that shared chains are not made for; nothing is a pass."""
    if not hard:
        return Check("shape", "pass", place="a linear map makes it round enough")
    return Check("shape", "pass with remarks", place=hard, remedy="run bh.NUTS() beside it, or reparametrise")


def failure_check(counts: Mapping[str, int], failed: int, transitions: int, near: Sequence[str]) -> Check:
    """Failed evaluations by reason: the posterior is the one given that the model can be solved.

    **Arguments:**

    - `counts`: reason in words to transitions that met it, warm-up included.
    - `failed`, `transitions`: of those after warm-up.
    - `near`: parameters that were furthest from their posterior mean where it happened.
    """
    if not counts:
        return Check("failed solves", "pass", 0.0, FEW)
    reasons = "; ".join(f"{count} x {reason}" for reason, count in counts.items())
    share = failed / max(transitions, 1)
    remedy = "the posterior is the one given that the model can be solved"
    if share > FEW and near:
        remedy += f"; it is cut off in {', '.join(near)}"
    state: State = "pass with remarks" if failed else "pass"
    return Check(
        "failed solves", state, share, FEW, reasons if failed else f"warm-up only: {reasons}", remedy
    )


def tolerance_check(differences: np.ndarray) -> Check:
    """Whether the solver's tolerance moves the posterior: the weights that accurate solves would give the draws.

    No posterior mean moves by more than the coefficient of variation of the weights, in posterior standard
    deviations (Cauchy and Schwarz; Timonen et al. 2023).

    **Arguments:**

    - `differences`: accurate log likelihood minus that of the fit, one per draw.
    """
    claims = (PARAMETERS, FUNCTIONS, FORECASTS)
    remedy = "solve with smaller rtol and atol: the solver's error is no longer small against the posterior"
    if not np.all(np.isfinite(differences)):
        lost = float(np.mean(~np.isfinite(differences)))
        return Check(
            "solver tolerance", "fail", lost, 0.0, "draws that an accurate solve cannot solve", remedy, claims
        )
    weights = np.exp(differences - differences.max())
    variation = float(np.std(weights) / np.mean(weights))
    state: State = (
        "pass" if variation < MOVED_LITTLE else "pass with remarks" if variation < MOVED_MUCH else "fail"
    )
    return Check("solver tolerance (weights' variation)", state, variation, MOVED_LITTLE, "", remedy, claims)


def resolvable_check(share: float) -> Check:
    """Share of all proposals that failed as stated and are solved by an accurate solver: a cut that is not real."""
    state: State = "pass" if share <= FEW else "fail"
    remedy = "the solver, not the model, cuts the posterior off: raise max_steps or choose another solver"
    return Check("failed solves that an accurate solver solves", state, share, FEW, "", remedy)


def basin_checks(basins: Sequence[Basin], left_out: Sequence[Basin], draws: np.ndarray) -> tuple[Check, ...]:
    """Whether every basin that carries mass was visited, and whether the masses are known.

    **Arguments:**

    - `basins`, `left_out`: what the search found.
    - `draws`: all draws, `(chain, draw, size)`, unconstrained.
    """
    shaped = [b for b in [*basins, *left_out] if b.factor is not None]
    if any(b.factor is None for b in basins):
        remedy = "start from a simpler model, or give priors that rule out the flat region"
        return (Check("basins", "pass with remarks", place="the search ended off a maximum", remedy=remedy),)
    owner = _nearest(shaped, draws.reshape(-1, draws.shape[-1]))
    heavy = [b for b in shaped if b.mass > BASIN_THAT_MATTERS or any(b is kept for kept in basins)]
    for i, basin in enumerate(shaped):
        if any(basin is other for other in heavy) and not np.any(owner == i):
            remedy = "nothing was drawn there: NUTS starts chains in every basin that the search keeps"
            place = f"log density {basin.log_density:.2f}"
            return (
                Check(
                    "basin with mass that no chain visited",
                    "fail",
                    basin.mass,
                    BASIN_THAT_MATTERS,
                    place,
                    remedy,
                ),
            )
    if len(basins) > 1 and any(np.isnan(b.mass) for b in basins):
        remedy = "the alternatives stand side by side in posterior.search; their shares are not known"
        return (
            Check("masses of the basins", "not assessable", place=f"{len(basins)} basins", remedy=remedy),
        )
    best = max(b.log_density for b in shaped)
    unsettled = [b for b in left_out if b.factor is None and b.log_density > best - SAME_HEIGHT]
    if unsettled:
        remedy = "a mode at an edge of what can be solved, or a flat ridge, may lie there: give more starts"
        place = f"log density {unsettled[0].log_density:.2f} beside {best:.2f}"
        name = "searches as high as the basins that ended off a maximum"
        return (Check(name, "pass with remarks", float(len(unsettled)), 0.0, place, remedy),)
    return (Check("basins", "pass", float(len(basins)), 0.0, "all visited"),)


def _nearest(basins, draws):
    """For each draw the basin nearest to it in the units of that basin's curvature."""
    distance = []
    for basin in basins:
        white = np.linalg.solve(basin.factor, (draws - basin.mode).T)
        distance.append(np.sum(white**2, axis=0) + 2 * np.sum(np.log(np.diag(basin.factor))))
    return np.argmin(np.stack(distance), axis=0)


def reasons_in_words(codes: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Failed evaluations counted by solve and reason; a point without a failed solve counts as not finite."""
    counts: dict[str, int] = {}
    some = np.zeros(len(next(iter(codes.values()))), dtype=bool) if codes else np.zeros(0, dtype=bool)
    for solve, reasons in codes.items():
        worst_reason = reasons.reshape(len(reasons), int(np.prod(reasons.shape[1:]))).max(axis=1, initial=0)
        for code in np.unique(worst_reason[(worst_reason > 0) & ~some]):
            label = f"{solve}: {describe(int(code)).split(':')[0]}"
            counts[label] = counts.get(label, 0) + int(np.sum((worst_reason == code) & ~some))
        some |= worst_reason > 0
    return counts
