"""The five sentences at the top of a page, written from its numbers."""

from __future__ import annotations

import numpy as np

from bayeshybrid.forecast import Quantity
from bayeshybrid.observation import MISSING
from bayeshybrid.plots.units import UnitPanels, counted
from bayeshybrid.plots.unknowns import MOVED_MUCH, MOVED_SOME
from bayeshybrid.reporting.lights import Light, eaten, judged_parameters
from bayeshybrid.reporting.material import Material, model_name
from bayeshybrid.reporting.numbers import count, listing, number, percent, place, sentence, span, with_unit

BEST, LEAST, ENTRIES = 3, 2, 3

__all__ = [
    "by_knowledge",
    "doubt_shares",
    "five_sentences",
    "mean_share",
    "moved_words",
    "share_words",
    "source_name",
    "whole_numbers",
]


def five_sentences(material: Material, lights: tuple[Light, ...]) -> tuple[str, str, str, str, str]:
    """What was fitted to what, what is known best, what the data could not tell, what will happen, how far to trust."""
    told = (
        _fitted(material),
        _best(material),
        _untold(material),
        _expected(material),
        _trust(material, lights),
    )
    return tuple(sentence(words) for words in told)  # type: ignore[return-value]


def by_knowledge(material: Material) -> list:
    """Rows from the one that the data narrowed most to the one that they narrowed least."""
    known = [row for row in material.rows if np.isfinite(row.contraction)]
    return sorted(known, key=lambda row: -row.contraction)


def moved_words(contraction: float) -> str:
    """How far the data moved an unknown, in one word."""
    if not np.isfinite(contraction):
        return "nothing to compare with"
    return "much" if contraction > MOVED_MUCH else "some" if contraction > MOVED_SOME else "hardly"


def _fitted(material):
    if material.fitted:
        return f"fitted: {material.fitted}"
    told = []
    for site in material.posterior.target.layout.observed:
        unit = f" in {site.tag.unit}" if site.tag.unit and site.tag.unit != "1" else ""
        labels = f" ({listing(list(site.tag.labels))})" if site.tag.labels else ""
        told.append(f"{_how_many(material, site)} of {site.name}{labels}{unit}{_when(material, site.name)}")
    named = listing([f"“{name}”" for name in material.networks])
    networks = f", with the network{'s' * (len(material.networks) > 1)} {named} in it,"
    model = f"{_called(material)}{networks if material.networks else ', which holds no network,'}"
    return f"{model} was fitted to {listing(told) or 'no data'}"


def _how_many(material, site):
    """Numbers of measurements and units, and what of it is known only to lie beyond a limit, or not at all."""
    whole = int(np.prod(site.shape, dtype=int))
    if site.name not in material.cells or material.replicated is None:
        return count(whole, "measurement")
    kinds = material.cells[site.name].kinds
    panels = material.panels(material.replicated, site.name)
    gaps = kinds == MISSING
    if isinstance(panels, UnitPanels):
        gaps = gaps & ~panels.padding(gaps)
    told = count(int(np.sum(kinds != MISSING)), "measurement")
    beyond = int(np.sum(kinds > MISSING))
    rest = [f"{beyond} of them known only to lie beyond a limit"] * bool(beyond)
    rest += [f"{int(gaps.sum())} more missing"] * bool(gaps.any())
    units = f" on {counted(panels.units, panels.site.across or '')}" if isinstance(panels, UnitPanels) else ""
    return f"{told}{f' ({listing(rest)})' if rest else ''}{units}"


def whole_numbers(quantity: Quantity, levels: list[float]) -> np.ndarray:
    """Quantiles, of counts as whole numbers."""
    found = quantity.quantile(levels)
    return np.round(found) if np.issubdtype(quantity.draws.dtype, np.integer) else found


def _called(material):
    name = model_name(material.posterior)
    return name if name == "the model" else f"the model {name}"


def _when(material, site):
    """Where the data stand on the horizontal axis."""
    if material.replicated is None or site not in material.replicated.observed:
        return ""
    panels = material.panels(material.replicated, site)
    if not panels.axis_name or len(panels.x) < 2:
        return ""
    ends = (
        f"{end:.4g}" if isinstance(panels, UnitPanels) else place(end) for end in (panels.x[0], panels.x[-1])
    )
    return f", {panels.axis_name} from {' to '.join(ends)}"


def _best(material):
    known = [row for row in by_knowledge(material) if row.contraction > 0]
    if not known:
        return "the data narrowed no unknown number beyond what was assumed before"
    told = [
        f"{row.name}, {with_unit(number(row.mean, row.high - row.low), row.unit)} "
        f"(9 in 10: {span(row.low, row.high)})"
        for row in known[:BEST]
    ]
    return f"known best, compared with what was assumed before the data: {'; '.join(told)}"


def _untold(material):
    rows = {row.name: row for row in material.rows}
    known = by_knowledge(material)
    least = known[::-1][:LEAST]
    if not least:
        return "what the data could not tell was not examined"
    ranges = [_narrowed(row) for row in least]
    if material.found is not None:
        open_ones = [one.name for one in judged_parameters(material) if one.verdict != "identified"]
        told = [_narrowed(rows[name]) for name in open_ones if name in rows][:BEST]
        taken = eaten(material)
        apart = [
            f"{listing([one[0] for one in taken if one[1] == network])} from the network “{network}”"
            for network in dict.fromkeys(one[1] for one in taken)
        ]
        mixed = f"the data could not tell {listing(apart)}" if apart else ""
        if open_ones:
            settled = f"the data could not settle {listing(told) or listing(open_ones)}"
            return "; ".join(filter(None, (settled, mixed)))
        if mixed:
            return f"{mixed}; known least is {ranges[0]}" if len(known) > 1 else mixed
    narrow = "every unknown number was narrowed to less than a third of its assumed spread; " * (
        least[0].contraction > MOVED_MUCH
    )
    return f"{narrow}known least is {listing(ranges[:1])}"


def _narrowed(row):
    after = span(row.low, row.high, row.unit)
    if np.isnan(row.prior_low):
        return f"{row.name} ({after})"
    return f"{row.name} ({after}; assumed before: {span(row.prior_low, row.prior_high)})"


def _expected(material):
    if material.forecast is None:
        return "no forecast was made"
    told, where = [], ""
    for site in material.forecast.observed:
        panels = material.panels(material.forecast, site)
        low, high = whole_numbers(material.forecast.observed[site], [0.05, 0.95])
        names = material.names(panels)
        for entry, name in list(enumerate(names))[:ENTRIES]:
            least, most = (panels.row(end, entry)[-1] for end in (low, high))
            told.append(f"{name} {span(least, most, panels.site.unit)}")
        where = f" at {panels.axis_name} = {place(panels.x[-1])}" if panels.axis_name else ""
        if isinstance(panels, UnitPanels):
            where = f" at the last {panels.axis_name or 'entry'}"
            if len(names) > ENTRIES:
                told.append(f"{len(names) - ENTRIES} more in the part on the forecast")
    if material.forecast.changed:
        where += f" under a change of {' and '.join(material.forecast.changed)}"
    doubt = share_words(material, doubt_shares(material, next(iter(material.forecast.observed))))
    source = f"; the main source of doubt is {doubt}" if doubt else ""
    promise = f"if the model is right, a new measurement{where} will fall, in 9 cases of 10, in these ranges"
    return f"{promise}: {'; '.join(told)}{source}"


def _trust(material, lights):
    worst = [light.name.lower() for light in lights if light.colour == "bad"]
    care = [light.name.lower() for light in lights if light.colour == "care"]
    told = [_record(material)] if _record(material) else []
    if worst:
        told.insert(0, f"do not rely on it yet: {listing(worst)} did not pass")
    elif care:
        told.insert(0, f"use it with care: {listing(care)} leave{'s' * (len(care) == 1)} something open")
    else:
        told.insert(0, "nothing that was examined speaks against it")
    far = _how_far(material)
    if far and "support for the forecast" in worst:
        far = [f"narrow ranges count for little where they are not borne out, though {listing(far)}"]
    return "; ".join([*told, *far])


def _record(material):
    if material.judged is None:
        return ""
    told = [
        f"{found.counts[0.9][0]} of {found.counts[0.9][1]} new measurements of {site} fell inside the 9-in-10 ranges"
        for site, found in material.judged.sites.items()
        if 0.9 in found.counts
    ]
    return listing(told)


def _how_far(material):
    """Up to where the forecast is better than the record's own spread."""
    told = []
    for site, several in material.ahead.items():
        panels = material.panels(material.forecast, site)
        if isinstance(panels, UnitPanels):
            told += _how_far_of_units(several, panels, site if len(material.ahead) > 1 else "")
            continue
        for ahead in several[:ENTRIES]:
            if ahead.ratio is None or not ahead.later.any():
                continue
            if ahead.useful is None:
                told.append(f"for {ahead.name} its range is as wide as the record's own spread, or wider")
            else:
                told.append(
                    f"for {ahead.name} its range stays narrower than the record's own spread up to "
                    f"{place(ahead.useful)}"
                )
    return told


def _how_far_of_units(several, panels, site):
    judged = [one for one in several if one.ratio is not None and one.later.any()]
    if not judged:
        return []
    good = sum(one.useful is not None and one.useful == one.x[-1] for one in judged)
    units = counted(len(several), "entry" if panels.components > 1 else panels.site.across or "")
    which = f"the range of {site}" if site else "its range"
    return [f"for {good} of {units} {which} stays narrower than the record's own spread to the end"]


def doubt_shares(material: Material, site: str) -> dict[str, float]:
    """Sources of doubt with their mean shares, largest first; over what lies beyond the data, if anything does."""
    forecast = material.forecast
    if forecast is None:
        return {}
    if site in material.budgets:
        budget = material.budgets[site]
        rows, total = budget.rows, budget.total
    else:
        rows = {"noise": forecast.aleatoric[site], "what we do not know": forecast.epistemic[site]}
        total = forecast.total[site]
    shares = {name: mean_share(material, site, row, total) for name, row in rows.items()}
    return dict(sorted(shares.items(), key=lambda one: -one[1]))


def mean_share(material: Material, site: str, part: np.ndarray, total: np.ndarray) -> float:
    """Mean over entries of a part of the variance over the whole, beyond the data where anything lies beyond."""
    assert material.forecast is not None
    panels, several = material.panels(material.forecast, site), material.ahead.get(site, ())
    if np.shape(total) not in ((), panels.shape):
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.broadcast_to(np.asarray(part) / np.asarray(total), panels.shape)
    anything = any(one.beyond.any() for one in several)
    # Where panels share their positions the first speaks for those that have no sentence of their own.
    told = (
        [several[min(entry, len(several) - 1)].beyond for entry in range(panels.entries)] if anything else []
    )
    rows = [panels.row(share, entry) for entry in range(panels.entries)]
    met = np.concatenate([row[beyond] for row, beyond in zip(rows, told, strict=True)] if told else rows)
    return float(met[np.isfinite(met)].mean()) if np.any(np.isfinite(met)) else float("nan")


def share_words(material: Material, shares: dict[str, float]) -> str:
    """The two largest sources in words."""
    largest = [(name, share) for name, share in list(shares.items())[:2] if share > 0]
    return ", then ".join(f"{source_name(material, name)} ({percent(share)})" for name, share in largest)


def source_name(material: Material, name: str) -> str:
    """A row of a budget as a reader would call it."""
    if name == "not attributed":
        return "what could not be attributed"
    plain = name.removesuffix(" (parameters)").removesuffix(" (network)")
    if plain in material.networks and not name.endswith(" (parameters)"):
        return f"the network “{plain}”"
    return f"the unknowns called {plain}" if plain != name else name
