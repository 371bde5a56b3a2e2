"""Four lights: computation, fit, what the data determined, support for the forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bayeshybrid.plots.units import UnitPanels
from bayeshybrid.plots.unknowns import MOVED_MUCH, MOVED_SOME
from bayeshybrid.reporting.material import Material
from bayeshybrid.reporting.numbers import count, listing, percent, place, sentence
from bayeshybrid.verdict import FORECASTS

Colour = Literal["good", "care", "bad", "none"]
GRAVITY: tuple[Colour, ...] = ("none", "good", "care", "bad")
WORDS: dict[Colour, str] = {
    "good": "No objection",
    "care": "With care",
    "bad": "Do not rely on it",
    "none": "Not examined",
}

RARE, UNLIKELY, IMPOSSIBLE = 0.05, 0.025, 0.005
ODD_RESIDUAL = 4.0
FEW_DATA = 5
FEW_FAILURES, MANY_FAILURES = 0.001, 0.05
LITTLE_OUTSIDE, MUCH_OUTSIDE = 0.1, 0.5
MOSTLY_UNKNOWN = 0.5
EATEN = 0.5

NO_DRAWS = (
    "these are separately trained members, not draws whose spread follows from the data and the assumptions: the "
    "ranges of the parameters show how far members differ, no more"
)
JUDGE_IT = "judge its forecasts by their track record on new data; for ranges of parameters fit with NUTS"
FAR_OFF = "the approximation is too far from what it stands for to be corrected"

# Beginnings of the names of checks, what each means without its jargon, and what to do.
CHECKS = {
    "R-hat and": ("too few runs or draws to compare them", "run at least four chains of 50 draws or more"),
    "R-hat": ("separate runs do not agree yet", "run longer, or look for several explanations of the data"),
    "effective sample size": ("the runs are too short for the digits shown", "run more draws"),
    "stuck chain": ("a run never moved from its start", "run again with another key, or look at its start"),
    "divergent": ("the sampler met places that it could not follow", "raise target_acceptance"),
    "trajectories": ("the sampler was cut short on its way", "raise max_doublings"),
    "energy": (
        "the sampler moved poorly between likely and unlikely values",
        "write the model in other unknowns",
    ),
    "failed solves that": (
        "the solver gives up where a more accurate one would not",
        "raise max_steps or choose another solver",
    ),
    "failed solves": (
        "for some values of the unknowns the equation could not be solved, and these values are left out",
        "see which of them are cut off in the part for statisticians",
    ),
    "solver tolerance": (
        "the solver's own error moves the result",
        "ask the solver for smaller rtol and atol",
    ),
    "basin with mass": ("an explanation of the data was found that no run visited", "run more chains"),
    "masses of the basins": (
        "several separate explanations of the data were found, and their shares are not known",
        "compare them one by one",
    ),
    "basins": ("the search did not end at a clear best explanation", "give narrower ranges before the data"),
    "searches": ("some searches ended early at explanations that are as good", "give more starts"),
    "movement in the second half of the training": (
        "some members were still moving when training ended",
        "train longer",
    ),
    "members left out": ("some members could not be trained and are left out", "give the solver more steps"),
    "draws of a posterior": (NO_DRAWS, JUDGE_IT),
    "forecasts of an ensemble": (
        "no theory vouches for the forecasts of separately trained members",
        JUDGE_IT,
    ),
    "evidence lower bound": ("the approximation did not settle", "run more steps"),
    "effective size of the weights": (FAR_OFF, "fit with NUTS"),
    "Pareto": (FAR_OFF, "fit with NUTS"),
    "variation of the importance weights": (FAR_OFF, "fit with NUTS"),
    "run": ("the run was ended early", "run it again with more time"),
}

__all__ = ["WORDS", "Light", "eaten", "four_lights", "judged_parameters", "leaning", "plain_check"]


@dataclass(frozen=True)
class Light:
    """One light: what it judges, how it came out, why, and what to do about it."""

    name: str
    colour: Colour
    reasons: tuple[str, ...]
    remedies: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The colour in words."""
        return WORDS[self.colour]


class _Judge:
    """Collects reasons; the gravest decides the colour."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[tuple[Colour, str, str]] = []

    def say(self, colour: Colour, reason: str, remedy: str = "") -> None:
        self.told.append((colour, sentence(reason), sentence(remedy)))

    def light(self, fine: str) -> Light:
        """The light; `fine` is the reason where nothing was said."""
        told = sorted(self.told, key=lambda one: -GRAVITY.index(one[0])) or [("good", sentence(fine), "")]
        remedies = tuple(dict.fromkeys(remedy for _, _, remedy in told if remedy))
        return Light(self.name, told[0][0], tuple(dict.fromkeys(reason for _, reason, _ in told)), remedies)


def four_lights(material: Material) -> tuple[Light, Light, Light, Light]:
    """The lights in their order."""
    return _computation(material), _fit(material), _determined(material), _support(material)


def plain_check(check: Any) -> tuple[str, str]:
    """What a check found and what to do, without jargon where its name is known."""
    for beginning, words in CHECKS.items():
        if check.name.startswith(beginning):
            return words
    return f"{check.name}: {check.state}", check.remedy


def _computation(material):
    verdict, judge = material.posterior.verdict, _Judge("Computation")
    for check in verdict.reasons:
        judge.say("bad" if check.state == "fail" else "care", *plain_check(check))
    if verdict.nature == "not draws of a posterior":
        judge.say("care", NO_DRAWS, JUDGE_IT)
    elif verdict.nature == "approximate":
        judge.say("care", "the method is an approximation: ranges may be too narrow", "compare with NUTS")
    if not verdict.checks:
        judge.say("care", "nothing was checked", "use a method whose draws can be checked")
    if verdict.remarks:
        judge.say("care", f"{count(len(verdict.remarks), 'remark')} on it, in the part for statisticians")
    checks = count(len(verdict.checks), "check")
    return judge.light(f"all of {checks} passed; this says nothing about whether the model is right")


def _fit(material):
    judge, checked = _Judge("Fit to the data"), material.checked
    if checked is None:
        judge.say("none", f"the fit was not examined: {material.refused.get('fit', 'nothing is observed')}")
        return judge.light("")
    told = []
    for site, (inside, cells) in checked.inside.items():
        if not cells:
            judge.say("none", f"no value of {site} was measured exactly")
            continue
        told.append(f"{inside} of {cells} values of {site} lie where the model expects nine in ten")
        rarely = _rarely_so_few(inside, cells)
        if rarely is not None:
            judge.say(rarely, f"only {told[-1]}", "look at the residuals for what the model leaves out")
        if not checked.censored.get(site):  # else the smallest or largest are of a selection
            _statistics(judge, site, checked.probabilities[site])
        residuals = np.abs(checked.residuals[site])
        largest = np.max(residuals[np.isfinite(residuals)], initial=0.0)
        if largest > ODD_RESIDUAL:
            judge.say(
                "care",
                f"a value of {site} lies {largest:.1f} standard deviations from what the model expects",
                "check that value, or allow for outliers in the noise",
            )
        odd = [row.unit for row in checked.by_unit.get(site, ()) if row.unusual]
        if odd:
            judge.say(
                "care",
                f"the values of {listing(odd)} stray from what the model expects more than chance would have it",
                "look at their residuals and their data",
            )
        if cells < FEW_DATA:
            judge.say("care", f"{count(cells, 'value')} of {site}: too few to show misfit", "measure more")
    return judge.light(
        f"{listing(told)}; these data were used in the fit, so this can show misfit and no skill"
    )


def _rarely_so_few(inside, cells) -> Colour | None:
    """How grave it is that a right model would so rarely have so few inside."""
    from scipy.stats import binom

    chance = binom.cdf(inside, cells, 0.9)
    return "bad" if chance < IMPOSSIBLE else "care" if chance < RARE else None


def _statistics(judge, site, probabilities):
    odd = {name: min(p, 1 - p) for name, p in probabilities.items() if min(p, 1 - p) < UNLIKELY}
    if odd:
        bad = min(odd.values()) < IMPOSSIBLE
        judge.say(
            "bad" if bad else "care",
            f"the model hardly reproduces the {listing(list(odd))} of {site}",
            "look at the residuals for what the model leaves out, or choose another noise",
        )


def _determined(material):
    judge = _Judge("What the data determined")
    if not material.rows:
        judge.say("none", "the model has no unknown numbers beside the weights of networks")
        return judge.light("")
    more = "measure what depends on them, or say where their assumed ranges come from"
    if material.found is None:
        _by_movement(judge, material, more)
        return judge.light(
            "the data narrowed every unknown number to less than a third of its assumed spread"
        )
    words = {
        "driven by the prior": "the data say next to nothing about",
        "moving with the prior": "where the range lies still depends on what was assumed before of",
        "several separate values": "the data allow several separate values of",
        "only in combination": "the data determine only combinations of",
        "weakly identified": "the data narrow only somewhat",
    }
    parameters = judged_parameters(material)
    for verdict, told in words.items():
        names = [parameter.name for parameter in parameters if _kind_of_doubt(parameter) == verdict]
        if names:
            grave = verdict not in ("weakly identified", "moving with the prior") and 2 * len(names) >= len(
                parameters
            )
            judge.say("bad" if grave else "care", f"{told} {listing(names)}", more)
    for parameter, network, share in eaten(material):
        judge.say(
            "care",
            f"the network “{network}” takes {percent(share)} of what the data tell about {parameter}",
            "measure where the equation alone acts, or give the network a smaller scale",
        )
    return judge.light("the data determine every unknown number well beyond what was assumed before")


def _kind_of_doubt(parameter):
    """The verdict, but for a range that the data narrow without settling where it lies."""
    moving = parameter.verdict == "driven by the prior" and parameter.contraction > MOVED_SOME
    return "moving with the prior" if moving else parameter.verdict


def judged_parameters(material: Material) -> list[Any]:
    """Findings on the parameters, those of single units left out where parameters are pooled across units."""
    return [one for one in material.found.parameters if one.kind != "offset"]


def eaten(material: Material, least: float = EATEN) -> list[tuple[str, str, float]]:
    """Parameter, network and share of what the data tell about it that the network takes, largest first."""
    if material.found is None:
        return []
    shares = []
    for (parameter, network), at in material.found.absorption.items():
        if at[1.0] >= least:
            shares.append((parameter, network, at[1.0]))
    return sorted(shares, key=lambda one: -one[2])


def _by_movement(judge, material, more):
    hardly = [row.name for row in material.rows if row.contraction <= MOVED_SOME]
    some = [row.name for row in material.rows if MOVED_SOME < row.contraction <= MOVED_MUCH]
    if hardly:
        grave = 2 * len(hardly) >= len(material.rows)
        judge.say("bad" if grave else "care", f"the data say little about {listing(hardly)}", more)
    if some:
        judge.say("care", f"the data narrow only somewhat {listing(some)}", more)


def _support(material):
    judge, forecast = _Judge("Support for the forecast"), material.forecast
    if forecast is None:
        judge.say("none", "no forecast was given", "posterior.predict(inputs, key=1) makes one")
        return judge.light("")
    if material.posterior.verdict.nature == "not draws of a posterior" and material.judged is None:
        judge.say(
            "care",
            "its ranges rest on separately trained members, and no track record was given",
            "give measurements that the fit has not seen: bh.report(..., data=...)",
        )
    elif FORECASTS in material.posterior.verdict.claims and material.posterior.verdict[FORECASTS] == "fail":
        judge.say(
            "care", "it rests on a computation that did not pass its checks", "first mend the computation"
        )
    _failures(judge, forecast)
    _extrapolation(judge, material)
    _reach(judge, material)
    _doubt(judge, forecast)
    _kept_its_word(judge, material)
    return judge.light("its draws could all be made, and its ranges say more than the record alone")


def _failures(judge, forecast):
    if forecast.failed_share > FEW_FAILURES:
        judge.say(
            "bad" if forecast.failed_share > MANY_FAILURES else "care",
            f"{percent(forecast.failed_share)} of its draws could not be solved and are left out",
            "look at what the equation does there; give the solver more steps",
        )


def _extrapolation(judge, material):
    for name, asked in material.asked.items():
        most = asked.outside if asked.along is None else float(asked.along.max())
        if most > LITTLE_OUTSIDE:
            where = "" if asked.along is None else " at the worst position"
            judge.say(
                "bad" if most > MUCH_OUTSIDE else "care",
                f"the network “{name}” is asked outside what it met in the fit for {percent(most)} of the draws{where}",
                "measure there, or trust the forecast only where the picture is not hatched",
            )


def _reach(judge, material):
    for name, site in material.ahead.items():
        if isinstance(material.panels(material.forecast, name), UnitPanels):
            _reach_of_units(judge, name, site)
            continue
        for ahead in site:
            if ahead.ratio is None or not ahead.later.any() or np.all(ahead.ratio[ahead.later] < 1.0):
                continue
            if ahead.useful is None:
                judge.say(
                    "bad", f"for {ahead.name} it says no more than the record's own spread", "measure more"
                )
            else:
                judge.say(
                    "care",
                    f"for {ahead.name} its range is narrower than the record's own spread only up to "
                    f"{place(ahead.useful)}",
                    "do not use it beyond",
                )


def _reach_of_units(judge, name, several):
    """One sentence for all units of a site."""
    judged = [one for one in several if one.ratio is not None and one.later.any()]
    wide = [one for one in judged if not np.all(one.ratio[one.later] < 1.0)]
    if wide:
        poor = sum(one.useful is None for one in wide)
        judge.say(
            "bad" if 2 * poor > len(judged) else "care",
            f"for {len(wide)} of {len(several)} the range of {name} grows as wide as the record's spread beyond "
            "the data",
            "do not use it where it is no narrower than the record, or measure more",
        )


def _doubt(judge, forecast):
    for site, share in forecast.epistemic.share.items():
        if np.any(np.isfinite(share)) and np.nanmean(share) > MOSTLY_UNKNOWN:
            judge.say(
                "care",
                f"{percent(float(np.nanmean(share)))} of the doubt about {site} is what we do not know, not noise",
                "more data would shrink it",
            )


def leaning(site: str, found: Any) -> list[str]:
    """Whether new measurements lie to one side of what was forecast."""
    middle = found.figures.get("PIT, mean")
    if middle is None or not middle.unusual:
        return []
    side = "lower" if middle.value < middle.low else "higher"
    return [f"the new measurements of {site} lie {side} than was forecast, more than chance would have it"]


def _kept_its_word(judge, material):
    if material.judged is None:
        return
    for site, found in material.judged.sites.items():
        figure, counted = found.figures.get("coverage 90 %"), found.counts.get(0.9)
        if figure is None or counted is None:
            continue
        told = f"{counted[0]} of {counted[1]} new measurements of {site} fell inside its 9-in-10 ranges"
        if figure.value < figure.low:
            judge.say("bad", f"only {told}", "find what the model leaves out")
        elif figure.value > figure.high:
            judge.say("care", f"{told}: its ranges are too wide", "look at the size of the noise")
        for words in leaning(site, found):
            judge.say("care", words, "find what the model leaves out")
