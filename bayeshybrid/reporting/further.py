"""Blocks 7 to 10: equation and networks, track record, what to measure next, and what this page cannot see."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeshybrid.joins import GATE
from bayeshybrid.plots.record import draw_coverage, draw_second, finish_record
from bayeshybrid.reporting.blocks import not_examined
from bayeshybrid.reporting.lights import Light, eaten, judged_parameters, leaning, plain_check
from bayeshybrid.reporting.markup import Markup, bullets, element, paragraph, table
from bayeshybrid.reporting.material import Material
from bayeshybrid.reporting.numbers import listing, number, percent, place, sentence, span, with_unit
from bayeshybrid.reporting.pictures import Pictures
from bayeshybrid.reporting.sentences import by_knowledge, doubt_shares
from bayeshybrid.verdict import FUNCTIONS

MOSTLY = 0.5
OUTSIDE = 0.1
FEW_VALUES = 20

# What verdicts call unchecked or blind, in words that need no dictionary.
PLAIN = {
    "evidence": "how probable this model is beside other models",
    "a basin that no search and no chain ever reached": (
        "another explanation of the data that no search and no run ever came near"
    ),
    "a model that is wrong: that is the question of the fit, not of the computation": (
        "whether the model is right: a wrong model can be computed without fault"
    ),
    "modes of the weights that give the same function, which are one to these checks": (
        "different weights of a network that give the same function, which count as one"
    ),
}

__all__ = ["equation_and_networks", "measure_next", "not_seen", "track_record"]


def equation_and_networks(material: Material) -> list[Markup]:
    """Block 7: what the equation and each network contribute, and what a network may have taken."""
    told: list[Markup] = []
    if not material.networks:
        told.append(
            paragraph("This model holds no network: whatever is not noise is explained by its equations.")
        )
    for name in material.networks:
        told.append(element("h3", f"The network “{name}”"))
        told.append(paragraph(element("strong", f"{_trusted(material, name)} ")))
        told.append(bullets(_one_network(material, name)))
    return told + _joins(material)


def _joins(material):
    """What each part of a join says over what the fit asked of it."""
    told: list[Markup] = []
    groups: dict[str, list[str]] = {}
    for derived in material.posterior.target.layout.parts:
        groups.setdefault(derived.tag.group, []).append(derived.name)
    for join, names in groups.items():
        told.append(element("h3", f"The parts of “{join}”"))
        if material.replicated is None:
            reason = material.refused.get("fit", "the model cannot be asked what it expects of the data")
            told.append(not_examined(reason))
            continue
        said = {name.removeprefix(f"{join}."): material.replicated.latent[name] for name in names}
        told.append(bullets([_said(part, quantity) for part, quantity in said.items()]))
    return told


def _said(part, quantity):
    draws = np.asarray(quantity.draws)
    size, doubt = (_typical(each) for each in (draws.mean(axis=0), draws.std(axis=0)))
    if part == GATE:
        weights = draws.reshape(-1, draws.shape[-1])
        shares = [
            f"{name} {percent(share)}"
            for name, share in zip(quantity.labels, weights.mean(axis=0), strict=True)
        ]
        return (
            f"Weights, on average over what the fit asked: {listing(shares)}; uncertain by {percent(doubt)}."
        )
    return (
        f"{part} is typically {with_unit(number(size), quantity.unit)} in size over what the fit asked, and uncertain "
        f"by {number(doubt)}."
    )


def _typical(values):
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def _one_network(material, name):
    told = []
    found = material.contributions.get(name)
    if found is not None:
        for i, (size, doubt, before) in enumerate(zip(found.size, found.doubt, found.before, strict=True)):
            which = f"output {i + 1}" if len(found.size) > 1 else "its output"
            told.append(
                f"Over what it met in the fit, {which} is typically {with_unit(number(size), found.unit)} in size and "
                f"uncertain by {number(doubt)}; before the data that was {number(before)}."
            )
        for site, moved in found.moved.items():
            told.append(
                f"Silenced, with all else as it is, it would change what the model expects of {site} by typically "
                f"{percent(moved)} of the spread of these values; the equation gives the rest."
            )
        if not found.moved:
            told.append("It cannot be silenced: what the model would be without it was not examined.")
    told += _taken(material, name)
    told += _asked(material, name)
    for site in material.budgets:
        share = doubt_shares(material, site).get(name)
        if share is not None:
            told.append(f"It is the source of {percent(share)} of the doubt about {site}.")
    return told


def _taken(material, name):
    if material.found is None:
        reason = material.refused.get("identifiability", "it was not computed")
        return [f"What it may have taken from parameters was not examined: {sentence(reason)}"]
    shares = [one for one in eaten(material, least=0.0) if one[1] == name]
    if not shares:
        return ["What it may have taken from parameters was not examined."]
    told = [f"{parameter} {percent(share)}" for parameter, _, share in shares]
    return [
        f"Because it is free, it may have taken this much of what the data tell about parameters: {listing(told)}."
    ]


def _asked(material, name):
    asked = material.asked.get(name)
    if asked is None:
        return ["Whether the forecast asks it for what it never met was not examined."]
    told = [
        f"{percent(asked.outside)} of what the forecast asks it lies outside what it met in the fit, where its answers "
        "rest on what was assumed and not on data."
    ]
    ranges = [
        f"input {i + 1}: {span(low, high)} in the fit, {span(lowest, highest)} in the forecast"
        for i, (low, high, lowest, highest) in enumerate(asked.ranges)
    ]
    return [*told, f"What it was asked, by {listing(ranges)}."]


def _trusted(material, name):
    """One sentence on whether the network is trusted, and why."""
    verdict, against = material.posterior.verdict, []
    if FUNCTIONS in verdict.claims and verdict[FUNCTIONS] == "fail":
        against.append("the computation of its function did not pass its checks")
    if verdict.nature == "not draws of a posterior":
        against.append("its spread is that between separately trained members")
    found, asked = material.contributions.get(name), material.asked.get(name)
    if found is not None and np.all(found.doubt > found.size):
        against.append("its output is less than its own uncertainty, so that even its sign is open")
    most = 0.0 if asked is None else asked.outside if asked.along is None else float(asked.along.max())
    if most > OUTSIDE:
        against.append(
            f"the forecast leads it out of what it met ({percent(most)} of the draws at the worst)"
        )
    taken = [one[0] for one in eaten(material) if one[1] == name]
    if taken:
        against.append(f"it takes most of what the data tell about {listing(taken)}")
    if against:
        return f"Not to be trusted by itself: {'; '.join(against)}."
    return "To be trusted within what it met in the fit, and not beyond: nothing that was examined speaks against it."


def track_record(material: Material, pictures: Pictures) -> list[Markup]:
    """Block 8: measured values against the forecast, beside what a perfect forecast would show."""
    record = material.record
    if record is None:
        reason = material.refused.get(
            "calibration",
            "no measurements were given to hold the forecast against: bh.report(..., data=...)"
            if material.forecast is not None
            else "no forecast was given",
        )
        return [not_examined(reason)]
    told = []
    if record.in_sample:
        told.append(paragraph("These data were used in the fit: what follows shows misfit, and no skill."))
    for site, found in record.sites.items():
        rows = []
        for level, (inside, compared) in found.counts.items():
            figure = found.figures.get(f"coverage {100 * level:g} %")
            expected = "" if figure is None else f"{percent(figure.low)} to {percent(figure.high)}"
            rows.append(
                [
                    f"range of {100 * level:g} %",
                    f"{inside} of {compared}",
                    percent(inside / compared),
                    expected,
                ]
            )
        header = ("", "Inside", "Share", "Nine in ten perfect forecasts")
        if rows:
            told.append(table(f"Measurements of {site} inside the stated ranges", header, rows))
        told += [paragraph(sentence(words)) for words in _leaning(site, found)]
        told.append(pictures.beside(_drawn(site, found, pictures)))
    return told


def _leaning(site, found):
    """Whether the ranges are too narrow or too wide, and whether values lie to one side."""
    told, widest = [], found.figures.get("coverage 90 %")
    if widest is not None and widest.unusual:
        told.append(f"the ranges of {site} are too {'narrow' if widest.value < widest.low else 'wide'}")
    told += leaning(site, found)
    if found.compared < FEW_VALUES:
        gross = widest is not None and widest.unusual
        told.append(f"with {found.compared} values only gross faults can show{', and this is one' * gross}")
    return told


def _drawn(site, found, pictures):
    from matplotlib.figure import Figure

    drawn = []
    shows = {
        draw_coverage: f"Share of measurements of {site} inside the stated ranges, beside a perfect forecast",
        draw_second: f"Where the measurements of {site} fell in their forecasts, beside a perfect forecast",
    }
    for draw, words in shows.items():
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        axes = figure.subplots()
        draw(axes, found)
        finish_record(figure, [axes])
        drawn.append(pictures.add(figure, words))
    return drawn


def measure_next(material: Material, lights: tuple[Light, ...]) -> list[Markup]:
    """Block 9: no design was computed; what the lights and the other blocks suggest."""
    told = [f"{light.name}: {' '.join(light.remedies)}" for light in lights if light.remedies]
    for site in material.forecast.observed if material.forecast is not None else ():
        shares = doubt_shares(material, site)
        groups = [name for name in shares if name not in ("noise", "process", "differences between units")]
        open_share = sum(shares[name] for name in groups)
        if not np.isfinite(open_share):
            continue
        if open_share > MOSTLY:
            most = max(groups, key=lambda name: shares[name])
            told.append(
                f"More data would shrink up to {percent(open_share)} of the doubt about {site}; most of that is {most}."
            )
        else:
            told.append(
                f"More data of the same kind would shrink at most {percent(open_share)} of the doubt about {site}; "
                "the rest is noise, and only a more precise measurement or another model makes it less."
            )
    told += _for_parameters(material)
    intro = paragraph(
        "Which measurement would help most was not computed. What the lights and the other blocks suggest:"
    )
    return [intro, bullets(told or ["Nothing beyond what the lights above say."])]


def _for_parameters(material):
    told = []
    if material.found is not None:
        undetermined = [one.name for one in judged_parameters(material) if one.verdict != "identified"]
        if undetermined:
            told.append(f"To learn {listing(undetermined)}, measure where they act apart from the others.")
    elif by_knowledge(material):
        told.append(
            f"To learn {by_knowledge(material)[-1].name}, which is known least, measure where it acts."
        )
    for parameter, network, _ in eaten(material)[:2]:
        told.append(
            f"To tell {parameter} from the network “{network}”, measure where the network is known to be silent."
        )
    for ahead in [one for several in material.ahead.values() for one in several][:3]:
        if ahead.useful is not None and ahead.useful < ahead.x[-1]:
            told.append(
                f"For {ahead.name} a measurement after {place(ahead.useful)} would help where the forecast ends."
            )
    return told


def not_seen(material: Material) -> list[Markup]:
    """Block 10: what was not examined, and what no number here can show."""
    verdict = material.posterior.verdict
    unexamined = [PLAIN.get(what, what) for what in verdict.unchecked]
    unexamined += [f"{what}: {reason}" for what, reason in material.refused.items()]
    if material.forecast is None:
        unexamined.append("any forecast: none was given")
    elif material.record is None:
        unexamined.append("whether the forecast comes true: no new measurements were given")
    unexamined += [plain_check(check)[0] for check in verdict.checks if check.state == "not assessable"]
    blind = [PLAIN.get(what, what) for what in verdict.blind]
    blind += [
        "whether the measurements mean what they are taken to mean, and whether the future obeys the same equations",
        "whether the ranges assumed before the data were reasonable",
    ]
    if material.asked:
        blind.append("a new combination of inputs of a network, each of which it met by itself")
    if material.ahead:
        blind.append(
            "skill: a range narrower than the record's spread says something, which can still be wrong; only a track "
            "record tells"
        )
    return [
        element("h3", "Not examined"),
        bullets(map(sentence, dict.fromkeys(unexamined)))
        or paragraph("Nothing that this page could examine."),
        element("h3", "What this page cannot see"),
        bullets(map(sentence, blind)),
    ]


def figures(record: Any) -> list[Markup]:
    """All figures of a track record, for the part for statisticians."""
    told = []
    for site, found in record.sites.items():
        rows = [
            [
                name,
                number(one.value),
                number(one.expected),
                span(one.low, one.high),
                one.better,
            ]
            for name, one in found.figures.items()
        ]
        header = ("", "Measured", "Perfect forecast, mean", "Central 90 %", "Better")
        told.append(table(f"Scores of {site}", header, rows))
    return told
