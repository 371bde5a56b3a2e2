"""What a page says of many units: small pictures, quantiles over all, and tables that do not drown the reader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayeshybrid.fit import FitCheck
from bayeshybrid.forecast import Forecast
from bayeshybrid.plots.beyond import extrapolated
from bayeshybrid.plots.misfit import misfit_apart
from bayeshybrid.plots.multiples import HELD_OUT, USED, draw_unit, mark_end, one_each
from bayeshybrid.plots.panels import Bands, draw_outside, state_of
from bayeshybrid.plots.quantiles import draw_visual_check
from bayeshybrid.plots.style import FILLED, OPEN
from bayeshybrid.plots.units import UnitPanels, counted
from bayeshybrid.reporting.ahead import Ahead
from bayeshybrid.reporting.markup import Markup, folded, paragraph, table
from bayeshybrid.reporting.material import Material
from bayeshybrid.reporting.numbers import listing, number, percent, place, sentence, span, spelled
from bayeshybrid.reporting.pictures import Pictures
from bayeshybrid.reporting.sentences import moved_words, whole_numbers

MOST_PICTURES = 12
UNFOLDED = 12

__all__ = ["fit_of_units", "forecast_of_units", "horizons", "strays", "values_of_units"]


def fit_of_units(material: Material, panels: UnitPanels, pictures: Pictures) -> list[Markup]:
    """The data of each unit on what the fitted model expects, quantiles over all units, and residuals."""
    checked, replicated, site = material.checked, material.replicated, panels.site.name
    assert checked is not None
    assert replicated is not None
    bands = Bands(replicated, site)
    times, cells = panels.points({site: material.cells[site]})
    shown = panels.most(MOST_PICTURES)

    def draw(axes, unit):
        draw_unit(axes, panels, bands, unit, [(times, cells, USED, FILLED)], direct=unit == shown[0])

    told = [_small(panels, shown, pictures, draw, "data as dots on the bands that the fitted model expects")]
    told += _quantiles(material, site, panels, pictures)
    told += _residuals(checked, panels, pictures)
    return told


def _small(panels, shown, pictures, draw, shows):
    """Small pictures side by side, what their marks mean, and how many there are not."""
    figures, key = one_each(panels, shown, draw)
    each = [
        pictures.add(figure, f"{panels.site.name} of {panels.unit_titles[unit]}: {shows}")
        for unit, figure in zip(shown, figures, strict=True)
    ]
    axes = (
        f"Across: {panels.axis_name or 'the number of the entry'}; up: {panels.words}; all on the same axes."
    )
    left_out = panels.left_out_of(len(shown))
    words = paragraph(f"{axes} {sentence(left_out) if left_out else ''}".strip(), class_="note")
    return Markup(pictures.beside(each, small=True) + pictures.add(key, "What the marks mean") + words)


def _quantiles(material, site, panels, pictures):
    """The visual predictive check, in words and as a picture."""
    if site not in material.visual:
        return []
    checked, found = material.visual[site]
    inside, compared = np.sum([one.inside for one in found], axis=0)
    many = counted(panels.units, panels.site.across)
    told = (
        f"Over all {many} together, {inside} of {compared} quantiles of the data (10, 50 and 90 %, in spans of "
        f"{found[0].time}) lie in the range that nine in ten data sets of {counted(2, panels.site.across)[2:]} drawn "
        "anew from the fitted model would give. This shows whether the differences between them are described too."
    )
    drawn = [
        pictures.add(draw_visual_check(checked, [one]), f"Quantiles of {site} {one.entry} over {one.time}")
        for one in found
    ]
    return [paragraph(told), pictures.beside(drawn)]


def _residuals(checked: FitCheck, panels: UnitPanels, pictures: Pictures) -> list[Markup]:
    """Residuals and prediction errors over time and by unit."""
    site = panels.site.name
    odd = strays(checked, site)
    told = (
        f"Further from what the model expects than chance allows: {listing(odd)}."
        if odd
        else f"No {panels.site.across} lies on the whole further from what the model expects than chance allows."
    )
    words = (
        f"{told} Points are single values: the measurement minus what the model expects, in standard deviations, and "
        "the same after dependence within each has been taken out. Bars are the means."
    )
    shows = (
        f"Residuals of {site} over {panels.axis_name or 'entries'}",
        f"Residuals of {site} by {panels.site.across}",
    )
    drawn = [
        pictures.add(figure, says) for figure, says in zip(misfit_apart(panels, checked), shows, strict=True)
    ]
    return [*([paragraph(words)] if site in checked.errors else []), pictures.beside(drawn)]


def strays(checked: FitCheck, site: str) -> list[str]:
    """Units whose values a right model hardly gives."""
    return [row.unit for row in checked.by_unit.get(site, ()) if row.unusual]


def forecast_of_units(material: Material, panels: UnitPanels, pictures: Pictures) -> list[Markup]:
    """How far ahead the forecast says something, a row a unit, and small pictures."""
    forecast, site = material.forecast, panels.site.name
    assert forecast is not None
    told = [paragraph(words) for words in horizons(material.ahead.get(site, ()), panels)]
    rows = _rows(material, forecast, panels)
    last = f" at the last {panels.axis_name}" if panels.axis_name else " at the last entry"
    unit = spelled(panels.site.unit)
    caption = f"Forecast of {site}{last}{f', {unit}' if unit else ''}"
    header = ("", panels.axis_name or "entry", "Middle", "New measurement, 9 in 10", "State, 9 in 10")
    header = header[: len(rows[0])] if rows else header
    told.append(_table(caption, header, rows, panels))
    bands, record = Bands(forecast, site), material.record_of(panels)
    given = ((record, USED, FILLED), (material.new_data(panels), HELD_OUT, OPEN))
    seen = [(*panels.points(data), words, style) for data, words, style in given if data is not None]
    outside = extrapolated(panels, material.asked)
    shown = panels.most(MOST_PICTURES)

    def draw(axes, unit):
        draw_unit(axes, panels, bands, unit, seen, direct=unit == shown[0])
        x = panels.places(unit * panels.components)
        if record is not None:
            mark_end(axes, x, seen[0][0][unit], seen[0][1].at(unit))
        if outside is not None:
            draw_outside(axes, x, panels.along(outside, unit))

    told.append(_small(panels, shown, pictures, draw, "bands that hold a new measurement and the state"))
    return told


def _table(caption, header, rows, panels):
    """A table, folded where it is long."""
    whole = table(caption, header, rows)
    return (
        folded(f"{caption}: {counted(panels.units, panels.site.across)}", whole)
        if len(rows) > UNFOLDED
        else whole
    )


def _rows(material, forecast: Forecast, panels: UnitPanels):
    """The last place of each entry."""
    observed = forecast.observed[panels.site.name]
    state = state_of(forecast, observed)
    low, middle, high = whole_numbers(observed, [0.05, 0.5, 0.95])
    inner = None if state is None else state.interval(0.9)
    rows = []
    for entry, name in enumerate(material.names(panels)):
        ends = [panels.row(part, entry) for part in (low, middle, high)]
        if not len(ends[0]):
            continue
        first, between, last = (part[-1] for part in ends)
        middle_words = f"{between:,.0f}" if float(between).is_integer() else number(between, last - first)
        row = [name, place(float(panels.places(entry)[-1])), middle_words, span(first, last)]
        rows.append(row if inner is None else [*row, span(*(panels.row(part, entry)[-1] for part in inner))])
    return rows


def horizons(several: Sequence[Ahead], panels: UnitPanels) -> list[str]:
    """Sentences on how far ahead the forecasts of many units say more than their records."""
    judged = [one for one in several if one.ratio is not None and one.later.any()]
    what = counted(len(several), "entry" if panels.components > 1 else panels.site.across or "")
    told = []
    if judged:
        good = [one for one in judged if one.useful is not None and one.useful == one.x[-1]]
        part = [one for one in judged if one.useful is not None and one.useful != one.x[-1]]
        poor = [one for one in judged if one.useful is None]
        widths = percent(float(np.median([one.ratio[-1] for one in judged if one.ratio is not None])))
        ways = {"to the end": good, "for a part of the way": part, "nowhere": poor}
        found = listing([f"{way} for {len(those)}" for way, those in ways.items() if those])
        told.append(
            "Beyond the data the 9-in-10 range is narrower than the spread of the record (which holds nine in ten of "
            f"the values of all of them) {found} of {what}; at the end it is typically {widths} as wide."
        )
    elif any(one.ratio is not None for one in several):
        typical = percent(
            float(np.median(np.concatenate([one.ratio for one in several if one.ratio is not None])))
        )
        told.append(
            "The forecast does not lead beyond the data. Its 9-in-10 range is typically "
            f"{typical} as wide as the range that holds nine in ten of the values of all of them."
        )
    unjudged = sum(one.ratio is None for one in several)
    if unjudged:
        told.append(
            f"The data of the fit hold no record, or too short a one, of {unjudged} of {what} to compare the width of "
            "the forecast with."
        )
    if panels.axis_name:
        told.append(
            f"Nothing was computed beyond {panels.axis_name} = {place(panels.x[-1])}: later values need a forecast of "
            "their own."
        )
    return told


def values_of_units(material: Material) -> list[Markup]:
    """What is held of each unit, one folded table a parameter."""
    told = []
    for name, rows in material.of_units.items():
        cells = [
            [
                row.name,
                span(row.low, row.high, row.unit),
                moved_words(row.contraction),
                number(row.mean, row.high - row.low),
            ]
            for row in rows
        ]
        header = ("", "After the data, 9 in 10", "Moved", "Mean after")
        low, high = min(rows, key=lambda row: row.mean), max(rows, key=lambda row: row.mean)
        reach = f"{number(low.mean, low.high - low.low)} to {span(high.mean, high.mean, high.unit).split(' to ')[-1]}"
        told.append(folded(f"{name} of each: means from {reach}", table(name, header, cells)))
    if told:
        words = (
            "Values of single units, folded. Moved: how far the data told the unit from the others, compared with what "
            "was assumed before; hardly means that it stands where the others put it."
        )
        told.append(paragraph(words, class_="note"))
    return told
