"""Blocks 3 to 6: data and fit, the unknowns, the forecast, and where its doubt comes from."""

from __future__ import annotations

import numpy as np

from bayeshybrid.forecast import Forecast
from bayeshybrid.plots.bands import draw_fit, draw_forecast
from bayeshybrid.plots.beyond import extrapolated
from bayeshybrid.plots.doubt import draw_budget
from bayeshybrid.plots.panels import Panels, state_of
from bayeshybrid.plots.units import UnitPanels
from bayeshybrid.reporting.markup import Markup, bullets, element, paragraph, table
from bayeshybrid.reporting.material import Material
from bayeshybrid.reporting.numbers import (
    count,
    listing,
    number,
    percent,
    place,
    sentence,
    span,
    spelled,
)
from bayeshybrid.reporting.pictures import Pictures
from bayeshybrid.reporting.sentences import (
    by_knowledge,
    doubt_shares,
    mean_share,
    moved_words,
    share_words,
    source_name,
)
from bayeshybrid.reporting.units import fit_of_units, forecast_of_units, values_of_units

MOST_POSITIONS = 12
SOLVER = 0.01
REFERENCE = "the record's own spread (the range that holds nine in ten of its values)"

__all__ = ["before_and_after", "fit_and_data", "outlook", "sources_of_doubt"]


def not_examined(reason: str) -> Markup:
    """What a block says that has nothing to tell."""
    return paragraph(element("strong", "Not examined. "), sentence(reason), class_="absent")


def fit_and_data(material: Material, pictures: Pictures) -> list[Markup]:
    """Block 3: the data beside what the fitted model expects in their place, with residuals."""
    checked, replicated = material.checked, material.replicated
    if checked is None or replicated is None:
        return [not_examined(material.refused.get("fit", "the model observes nothing"))]
    told: list[Markup] = []
    for site, (inside, cells) in checked.inside.items():
        told += [element("h3", site)] * (len(checked.inside) > 1)
        told.append(
            paragraph(
                f"{inside} of {count(cells, 'value')} of {site} lie inside the 9-in-10 range of what the fitted model "
                f"expects ({0.9 * cells:.3g} would be typical). The fit has seen these data, so a good count here "
                "shows no skill; a bad one shows misfit."
            )
        )
        if checked.censored.get(site):
            told.append(
                paragraph(
                    f"{checked.censored[site]} values of {site} lie beyond a limit and are left out: what remains is a "
                    "selection and leans to the side that could be measured."
                )
            )
        panels = material.panels(replicated, site)
        if isinstance(panels, UnitPanels):
            told += fit_of_units(material, panels, pictures)
            continue
        told.append(
            _side_by_side(
                panels,
                pictures,
                lambda one: draw_fit(one, replicated, checked),
                lambda name: (
                    f"{name}: data as dots on the bands that the fitted model expects, and below them the "
                    "residuals in standard deviations"
                ),
            )
        )
    told.append(
        paragraph(
            "Hatched bands: where a new measurement would fall. Filled bands: where the state itself is. Below, each "
            "residual is the measurement minus what the model expects, in standard deviations; nearly all should lie "
            "within the grey band of two.",
            class_="note",
        )
    )
    return told


def _side_by_side(panels: Panels, pictures: Pictures, draw, shows) -> Markup:
    """One picture a panel, so that they stand side by side or one below the other."""
    drawn = []
    for entry in panels.shown:
        one = panels.only(entry)
        name = panels.site.name if panels.entries == 1 else f"{panels.site.name} {panels.titles[entry]}"
        drawn.append(pictures.add(draw(one), shows(name)))
    rest = paragraph(f"Shown: {panels.left_out[2:]}.") if panels.left_out else ""
    return Markup(pictures.beside(drawn) + rest)


def before_and_after(material: Material, pictures: Pictures) -> list[Markup]:
    """Block 4: every unknown number before and after the data; values of many units folded."""
    if not material.rows and material.of_units:
        return values_of_units(material)
    if not material.rows:
        return [not_examined("the model has no unknown numbers beside the weights of networks")]
    known = by_knowledge(material)
    told = []
    if len(known) > 1:
        best, least = known[0], known[-1]
        told.append(
            f"Known best, compared with what was assumed: {best.name}, {span(best.low, best.high, best.unit)}. "
            f"Known least: {least.name}, {span(least.low, least.high, least.unit)}."
        )
    rows = []
    for row in material.rows:
        before = "not stated" if np.isnan(row.prior_low) else span(row.prior_low, row.prior_high)
        after = material.draws[row.name]
        shows = f"{row.name} before and after the data"
        rows.append(
            [
                row.name,
                span(row.low, row.high, row.unit),
                moved_words(row.contraction),
                pictures.ridge(material.before[row.name], after, shows),
                before,
                number(row.mean, row.high - row.low),
            ]
        )
    header = ("", "After the data", "Moved", "Before (pale), after", "Assumed before", "Mean after")
    note = (
        "Ranges hold the quantity in 9 cases of 10, and all of a row is in one unit. Moved much: its spread fell to "
        "less than about a third of that "
        "assumed before; some: to less than about 70 %; hardly: what stands there is mostly what was assumed. "
    )
    if material.posterior.verdict.nature == "not draws of a posterior":
        note += "Here the ranges show how far separately trained members differ; they are not to be read as above. "
    if any(row.name.endswith("_spread") for row in material.rows) and material.of_units:
        note += (
            "A name that ends in _population is the middle of all units, one that ends in _spread says how much they "
            "differ (of a quantity that is always positive as a share: 0.3 is about 30 %). "
        )
    whole = table("Unknown numbers", header, rows)
    return [*map(paragraph, told), whole, paragraph(note, class_="note"), *values_of_units(material)]


def outlook(material: Material, pictures: Pictures) -> list[Markup]:
    """Block 5: where a new measurement and the state will be, and how far ahead that says something."""
    forecast = material.forecast
    if forecast is None:
        return [not_examined("no forecast was given")]
    told: list[Markup] = []
    if forecast.changed:
        told.append(
            paragraph(
                f"This forecast is made under a change from outside, of {' and '.join(forecast.changed)}: it is what "
                "follows by the equations of this model, and the data alone cannot confirm it."
            )
        )
    for site in forecast.observed:
        panels = material.panels(forecast, site)
        told += [element("h3", site)] * (len(forecast.observed) > 1)
        if isinstance(panels, UnitPanels):
            told += forecast_of_units(material, panels, pictures)
            continue
        told += [paragraph(words) for words in _how_far(material, site)]
        told.append(_table_ahead(material, forecast, panels))
        outside = extrapolated(panels, material.asked)
        record = material.record_of(panels)
        new = material.new_data(panels)
        told.append(
            _side_by_side(
                panels,
                pictures,
                lambda one, r=record, n=new, o=outside: _draw_ahead(one, forecast, r, n, o),
                lambda name: f"Forecast of {name}: bands that hold a new measurement and the state",
            )
        )
    told.append(paragraph(_legend_words(material), class_="note"))
    told += [paragraph(sentence(remark)) for remark in forecast.remarks]
    return told


def _draw_ahead(panels, forecast, record, new, outside):
    return draw_forecast(panels, forecast, new, record, outside=outside, shares=False)


def _legend_words(material):
    words = (
        "Hatched with a dashed edge: where a new measurement will fall (9 in 10 and 1 in 2). Filled: where the state "
        "itself is. The dotted line marks the end of the data."
    )
    if material.asked:
        words += " Cross-hatched: at least half of the draws ask a network for what it never met in the fit."
    return words


def _how_far(material, site):
    """Sentences on how far ahead the forecast says more than the record."""
    told = []
    for ahead in material.ahead.get(site, ()):
        last = place(ahead.x[-1])
        if ahead.ratio is None:
            told.append(f"{ahead.name}: there is no record of it to hold the width of the forecast against.")
        elif not ahead.later.any():
            typical = percent(float(np.median(ahead.ratio)))
            told.append(
                f"{ahead.name}: the forecast does not lead beyond the data. Its 9-in-10 range is typically {typical} "
                f"as wide as {REFERENCE}."
            )
        else:
            told.append(_one_horizon(ahead, last))
    axis = material.ahead[site][0].axis if material.ahead.get(site) else ""
    if axis:
        beyond = place(material.ahead[site][0].x[-1])
        told.append(
            f"Nothing was computed beyond {axis} = {beyond}. This page answers no question about later "
            f"values of {axis}: they need a forecast of their own, and ranges seldom become narrower with distance."
        )
    return told


def _one_horizon(ahead, last):
    later = ahead.ratio[ahead.later]
    first = place(ahead.x[ahead.later][0])
    widths = (
        f"its 9-in-10 range is {percent(float(later[0]))} as wide as {REFERENCE} at {first} and "
        f"{percent(float(later[-1]))} at {last}"
    )
    if ahead.useful is None:
        return f"{ahead.name}: beyond the data the range is as wide as the record's own spread, or wider: {widths}."
    upto = place(ahead.useful)
    whole = "all the way that was asked, to" if ahead.useful == ahead.x[-1] else "only up to"
    return f"{ahead.name}: the range stays narrower than the record's own spread {whole} {upto}: {widths}."


def _table_ahead(material, forecast: Forecast, panels: Panels):
    """Middle and ranges at a few positions, beyond the data where there are such; under a change the data tell none."""
    several = material.ahead[panels.site.name]
    beyond = np.ones(len(panels.x), bool)
    if several and several[0].beyond.any() and not forecast.changed:
        beyond = several[0].beyond
    places = _round(np.flatnonzero(beyond), panels.x)
    places = places[
        np.unique(np.linspace(0, len(places) - 1, min(MOST_POSITIONS, len(places))).round().astype(int))
    ]
    observed = forecast.observed[panels.site.name]
    state = state_of(forecast, observed)
    low, middle, high = (panels.split(end) for end in observed.quantile([0.05, 0.5, 0.95]))
    inner = None if state is None else [panels.split(end) for end in state.interval(0.9)]
    rows = []
    for entry, name in enumerate(material.names(panels)):
        ratio = several[entry].ratio if entry < len(several) else None
        for at in places:
            width = high[entry, at] - low[entry, at]
            rows.append(
                [
                    f"{name}, {panels.axis_name or 'entry'} = {place(float(panels.x[at]))}",
                    number(middle[entry, at], width),
                    span(low[entry, at], high[entry, at]),
                    "" if inner is None else span(inner[0][entry, at], inner[1][entry, at]),
                    "" if ratio is None else percent(float(ratio[at])),
                ]
            )
    unit = spelled(panels.site.unit)
    header = ("", "Middle", "New measurement, 9 in 10", "State, 9 in 10", "Width beside the record's")
    return table(f"Forecast of {panels.site.name}{f', {unit}' if unit else ''}", header, rows)


def _round(places, x):
    """Whole numbers among the positions, such as years; all where there are none."""
    whole = [at for at in places if float(x[at]).is_integer()]
    return np.array(whole if whole else places)


def sources_of_doubt(material: Material, pictures: Pictures) -> list[Markup]:
    """Block 6: the variance of a new measurement by source."""
    forecast = material.forecast
    if forecast is None:
        return [not_examined("no forecast was given")]
    told: list[Markup] = []
    for site in forecast.observed:
        shares = {name: share for name, share in doubt_shares(material, site).items() if np.isfinite(share)}
        if not shares:
            told.append(not_examined(f"{site} has no variance to divide"))
            continue
        told.append(
            paragraph(
                element("strong", "Main source of doubt"), f" about {site}: {share_words(material, shares)}."
            )
        )
        budget = material.budgets.get(site)
        if budget is None:
            told.append(
                not_examined(material.refused.get(f"budget of {site}", "what we do not know was not divided"))
            )
        told.append(_bars(material, site, shares))
        if budget is not None:
            told.append(bullets(map(sentence, _further(material, site, budget))))
            told += _over_time(budget, material, pictures)
    words = (
        "Shares of the variance of a new measurement, averaged over the forecast beyond the data, or over all of it "
        "where nothing lies beyond. Noise would remain if every unknown "
        "were known; what more data could shrink stands under the names of the unknowns."
    )
    return [*told, paragraph(words, class_="note")]


MEANINGS = {
    "noise": "the measurement itself, and whatever the model leaves out",
    "process": "what will happen by chance",
    "differences between units": "how a new unit differs from others",
    "not attributed": "not known, and not to be divided among them",
    "what we do not know": "more data would shrink it",
}


def _bars(material, site, shares):
    rows = []
    for name, share in shares.items():
        width = max(0.0, min(1.0, share))
        bar = Markup(
            f'<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect width="{100 * width:.1f}" height="12"/></svg>'
        )
        rows.append(
            [
                source_name(material, name),
                percent(share),
                bar,
                MEANINGS.get(name) or _group_words(material, name),
            ]
        )
    return table(f"Where the doubt about {site} comes from", ("Source", "Share", "", "Meaning"), rows)


def _group_words(material, name):
    """What a group of unknowns holds."""
    own = name.partition(" (")[0]
    sites = [site for site in material.posterior.target.layout.latent if site.tag.group == own]
    if any(site.tag.kind == "weight" for site in sites):
        return "the function of the network is not known well enough"
    inside = [site.name for site in sites if site.name != own]
    return f"not known well enough{': ' if inside else ''}{listing(inside)}"


def _further(material, site, budget):
    """What knowing one group would bring, and which groups trade off."""
    told = []
    drops = {name: mean_share(material, site, drop, budget.total) for name, drop in budget.drop.items()}
    drops = {name: share for name, share in drops.items() if share > 0}
    if drops:
        best = max(drops, key=drops.__getitem__)
        told.append(
            f"If {source_name(material, best)} alone were known, the variance would fall by {percent(drops[best])}."
        )
    if budget.compensating:
        told.append(
            f"These trade off: {listing([source_name(material, name) for name in budget.compensating])}. Each alone is "
            "far less certain than together, so that learning one of them would narrow the others."
        )
    if np.any(np.asarray(budget.solver) > SOLVER):
        most = percent(float(np.nanmax(budget.solver)))
        told.append(f"The solver's own error is up to {most} of the standard deviation.")
    return told


def _over_time(budget, material, pictures):
    if np.size(budget.total) < 2:
        return []
    panels = material.panels(material.forecast, budget.site)
    if np.shape(budget.total) != panels.shape:
        return []
    if isinstance(panels, UnitPanels):
        return []
    return [
        _side_by_side(
            panels,
            pictures,
            lambda one: draw_budget(one, budget),
            lambda name: f"Shares of the variance of {name} by source, stacked to one",
        )
    ]
