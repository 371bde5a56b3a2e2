"""What stands on the page: eleven blocks in their order, in one file that needs nothing beside it."""

from __future__ import annotations

from bayeshybrid.reporting import blocks, further
from bayeshybrid.reporting.lights import Light, four_lights
from bayeshybrid.reporting.markup import Markup, bullets, element, folded, paragraph, section
from bayeshybrid.reporting.material import Material
from bayeshybrid.reporting.pictures import Pictures
from bayeshybrid.reporting.sentences import five_sentences
from bayeshybrid.reporting.style import stylesheet
from bayeshybrid.reporting.technical import for_statisticians

# A circle, a triangle, an octagon and a dashed ring, each with a sign of its own.
SHAPES = {
    "good": '<circle class="shape" cx="12" cy="12" r="9.5"/><path class="sign" d="M7.5 12.5l3 3 6-7"/>',
    "care": '<path class="shape" d="M12 2.5L22.5 21h-21z"/><path class="sign" d="M12 9.5v5M12 17.8v.1"/>',
    "bad": '<path class="shape" d="M8 2h8l6 6v8l-6 6H8l-6-6V8z"/><path class="sign" d="M8.5 8.5l7 7M15.5 8.5l-7 7"/>',
    "none": '<circle class="shape" cx="12" cy="12" r="9.5"/>',
}
SHAPE_NAMES = {
    "good": "circle with a tick",
    "care": "triangle",
    "bad": "octagon with a cross",
    "none": "dashed ring",
}

__all__ = ["document"]


def document(material: Material) -> str:
    """The page as HTML: the same material gives the same text."""
    pictures, lights = Pictures(), four_lights(material)
    content = [
        element("h1", material.title),
        section(1, "In five sentences", [_sentences(material, lights)]),
        section(2, "Four lights", [_lights(lights)]),
        section(3, "Data and fit", blocks.fit_and_data(material, pictures)),
        section(4, "Unknown numbers before and after the data", blocks.before_and_after(material, pictures)),
        section(5, "Forecast", blocks.outlook(material, pictures)),
        section(6, "Where the doubt comes from", blocks.sources_of_doubt(material, pictures)),
        section(7, "Equation and networks", further.equation_and_networks(material)),
        section(8, "Track record", further.track_record(material, pictures)),
        section(9, "What to measure next", further.measure_next(material, lights)),
        section(10, "What was not examined and what this page cannot see", further.not_seen(material)),
        section(
            11,
            "For statisticians",
            [folded("Diagnostics, priors, solver, versions", for_statisticians(material))],
        ),
    ]
    head = [
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
        element("title", material.title),
        element("style", Markup(stylesheet(pictures.css))),
    ]
    body = element("body", element("main", content))
    return f"<!DOCTYPE html>\n{element('html', [element('head', head), body], lang='en')}\n"


def _sentences(material, lights):
    told = bullets(five_sentences(material, lights), "ol", class_="five")
    note = (
        "9 in 10: the range that holds the quantity in nine cases of ten, if the model is right. Before the data: "
        "what was assumed. After the data: what is held now."
    )
    if material.posterior.verdict.nature == "not draws of a posterior":
        note += (
            " Here the ranges come from separately trained members: ranges of parameters are no statements of "
            "probability, and forecasts are to be judged by their track record."
        )
    return Markup(told + paragraph(note, class_="note"))


def _lights(lights):
    return element(
        "ul",
        [element("li", _light(light), class_=f"light {light.colour}") for light in lights],
        class_="lights",
    )


def _light(light: Light) -> list[Markup]:
    shape = SHAPE_NAMES[light.colour]
    drawn = Markup(f'<svg viewBox="0 0 24 24" role="img" aria-label="{shape}">{SHAPES[light.colour]}</svg>')
    remedies = (
        [paragraph(element("strong", "What to do: "), " ".join(light.remedies))] if light.remedies else []
    )
    return [
        element("h3", light.name),
        element("div", [drawn, element("span", light.word)], class_="word"),
        bullets(light.reasons, class_="reasons"),
        *remedies,
    ]
