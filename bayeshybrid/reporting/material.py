"""What a page is written from: what was given, and what could be computed in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from bayeshybrid import calibration as track_record
from bayeshybrid import configuration, identifiability, uncertainty
from bayeshybrid.extrapolation import Asked
from bayeshybrid.faults import DataError, ModelError
from bayeshybrid.fit import FitCheck, check_fit
from bayeshybrid.forecast import Forecast
from bayeshybrid.observation import MISSING
from bayeshybrid.plots.cells import Cells, checked_cells
from bayeshybrid.plots.panels import MOST_PANELS, Panels, forecast_panels
from bayeshybrid.plots.quantiles import visual_checks
from bayeshybrid.plots.units import UnitPanels
from bayeshybrid.posterior import Posterior
from bayeshybrid.reporting.ahead import Ahead, look_ahead
from bayeshybrid.reporting.networks_asked import Contribution, contributions
from bayeshybrid.reporting.placing import drawn_data, placed
from bayeshybrid.summary import Row, summarise
from bayeshybrid.visual_predictive import VisualCheck

DRAWS = 1000
FEW_UNITS = 6  # so many values of units stand among the others
MOST_BINS, VALUES_A_BIN = 8, 10
ENOUGH_UNITS = 6  # for quantiles over units to say something
KEY = 0

__all__ = ["Material", "gather", "model_name"]


@dataclass(frozen=True)
class Material:
    """Everything that the blocks of a page tell.

    - `rows`: one for each unknown number that is neither a weight of a network nor the value of one of many units;
      `draws`, `before`: by row name, after and before the data.
    - `of_units`: by parameter, one row for each of many units; `behind`: the unknowns behind those.
    - `checked`, `replicated`: the data beside what the model would have produced in their place; `cells` the data.
    - `visual`: by observed site of six units or more, the check with units drawn anew and its quantiles over time.
    - `budgets`, `ahead`: by observed site of the forecast; `asked`, `contributions`: by network.
    - `refused`: what could not be examined, with the reason in words.
    """

    posterior: Posterior
    forecast: Forecast | None
    title: str
    fitted: str | None
    rows: tuple[Row, ...]
    draws: dict[str, np.ndarray]
    before: dict[str, np.ndarray | None]
    of_units: dict[str, tuple[Row, ...]] = field(default_factory=dict)
    behind: tuple[Row, ...] = ()
    data: Mapping[str, Any] | None = None
    checked: FitCheck | None = None
    replicated: Forecast | None = None
    cells: dict[str, Cells] = field(default_factory=dict)
    visual: dict[str, tuple[FitCheck, list[VisualCheck]]] = field(default_factory=dict)
    budgets: dict[str, Any] = field(default_factory=dict)
    found: Any = None
    record: Any = None
    ahead: dict[str, tuple[Ahead, ...]] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    contributions: dict[str, Contribution] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks of the model."""
        return self.posterior.target.layout.networks

    @property
    def judged(self) -> Any:
        """The track record on data that the fit has not seen, else nothing."""
        return self.record if self.record is not None and not self.record.in_sample else None

    def panels(self, forecast: Forecast, site: str) -> Panels | UnitPanels:
        """The panels of one observed site."""
        return forecast_panels(forecast, site, None)

    def names(self, panels: Panels | UnitPanels) -> list[str]:
        """What to call each entry of a site in a sentence, at most six; every one of units."""
        several = len(self.posterior.target.layout.observed) > 1
        own = panels.site.name
        if isinstance(panels, UnitPanels):
            return [f"{own} of {title}" if several else title for title in panels.titles]
        if panels.entries == 1:
            return [own]
        return [f"{own} {title}" if several else title for title in panels.titles[:MOST_PANELS]]

    def new_data(self, panels: Panels | UnitPanels) -> dict[str, Any] | None:
        """Measurements that the fit has not seen, for the picture of a forecast."""
        if self.forecast is None or self.data is None or "calibration" in self.refused:
            return None
        with configuration.scope():
            return drawn_data(self.forecast, placed(self.forecast, self.data), panels)

    def record_of(self, panels: Panels | UnitPanels) -> dict[str, Any] | None:
        """The fitted data of a site as its panels take them; nothing where they do not fit, or are of other units."""
        if panels.site.name not in self.cells or self._others(panels):
            return None
        given = {**self.posterior.target.inputs(), panels.site.name: self.cells[panels.site.name]}
        try:
            panels.points(given)
        except ModelError:  # what was fitted has another shape than what is forecast
            return None
        return given

    def _others(self, panels):
        """Whether the units of a forecast are not those of the fit."""
        if not isinstance(panels, UnitPanels) or self.forecast is None:
            return False
        fitted, asked = (
            one.labels.get(panels.site.across or "") for one in (self.posterior.target, self.forecast)
        )
        return panels.site.anew or bool(fitted and asked and tuple(fitted) != tuple(asked))


def gather(
    posterior: Posterior,
    forecast: Forecast | None,
    data: Mapping[str, Any] | None,
    given: Mapping[str, Any],
    title: str | None,
    fitted: str | None,
) -> Material:
    """The material of a page; what is not given is computed, and where that is impossible the reason is kept."""
    refused: dict[str, str] = {}

    def attempt(what: str, compute: Callable[[], Any]) -> Any:
        try:
            return compute()
        except (ModelError, DataError) as error:
            refused[what] = str(error)
            return None

    rows, draws, before, of_units, behind = _unknowns(posterior)
    pair = attempt("fit", lambda: _replicated(posterior)) or (None, None)
    found = given.get("identifiability")
    if found is None:
        found = attempt("identifiability", lambda: identifiability.assess(posterior))
    record = given.get("calibration")
    if record is None and forecast is not None and data is not None:
        record = attempt("calibration", lambda: track_record.assess(forecast, placed(forecast, data)))
    made = Material(
        posterior=posterior,
        forecast=forecast,
        title=title or f"Report on {model_name(posterior)}",
        fitted=fitted,
        rows=rows,
        draws=draws,
        before=before,
        of_units=of_units,
        behind=behind,
        data=data,
        checked=pair[1],
        replicated=pair[0],
        cells={} if pair[1] is None else checked_cells(posterior.target, pair[1]),
        visual=_visual(posterior, pair[0], attempt),
        found=found,
        record=record,
        budgets=_budgets(forecast, given.get("budget"), attempt),
        refused=refused,
    )
    if forecast is None:
        return replace(made, contributions=contributions(posterior))
    asked = dict(forecast.extrapolation)
    ahead = {site: look_ahead(made, site) for site in forecast.observed}
    return replace(made, asked=asked, contributions=contributions(posterior), ahead=ahead)


def model_name(posterior: Posterior) -> str:
    """The model's own name; a lambda has none."""
    name = getattr(posterior.target.model, "__name__", "the model")
    return "the model" if name == "<lambda>" else name


def _unknowns(posterior):
    """Rows, draws and prior draws of every unknown number that is no weight; apart, those of many units."""
    sites = [site for site in posterior.target.layout.latent if site.tag.kind != "weight"]
    pooled = {site.name: site.name.removesuffix("_offset") for site in sites if site.tag.kind == "offset"}
    pooled = {name: value for name, value in pooled.items() if value in posterior.samples}
    wanted = [*(site.name for site in sites), *pooled.values()]
    kept = {name: posterior.samples[name] for name in wanted}
    found = iter(summarise(replace(posterior, samples=kept)).rows if kept else ())
    rows_of = {name: list(islice(found, prod(kept[name].shape[2:]))) for name in wanted}
    rows, draws, before, of_units, behind = [], {}, {}, {}, []
    for site in sites:
        own = rows_of[site.name]
        if site.name in pooled:  # how far the data moved a unit away from the middle is told by its offset
            values = zip(rows_of[pooled[site.name]], own, strict=True)
            of_units[pooled[site.name]] = tuple(
                replace(row, contraction=told.contraction) for row, told in values
            )
        elif site.tag.across is not None and len(own) > FEW_UNITS:
            of_units[site.name] = tuple(own)
        if site.name in pooled or site.name in of_units:
            behind += own
            continue
        rows += own
        after, prior = posterior[site.name], posterior.prior[site.name]
        for row, index in zip(own, np.ndindex(site.shape), strict=True):
            draws[row.name] = after[(slice(None), *index)]
            before[row.name] = None if np.isnan(row.prior_low) else prior[(slice(None), *index)]
    return tuple(rows), draws, before, of_units, tuple(behind)


def _visual(posterior, replicated, attempt):
    """The visual predictive check of each site of enough units, these drawn anew."""
    found = {}
    if replicated is None:
        return found
    for site in replicated.observed:
        panels = forecast_panels(replicated, site, None)
        if not isinstance(panels, UnitPanels) or panels.units < ENOUGH_UNITS or not panels.axis_name:
            continue
        across = panels.site.across or ""
        if not any(one.tag.across == across for one in posterior.target.layout.latent):
            continue
        made = attempt(f"visual predictive check of {site}", partial(_drawn_anew, posterior, panels))
        found |= {} if made is None else {site: made}
    return found


def _drawn_anew(posterior, panels):
    """A check with the units drawn anew, and its quantiles in as many bins as the data allow."""
    checked = posterior.check(key=KEY, new=(panels.site.across,))
    values = int(np.sum(checked.kinds[panels.site.name] != MISSING)) // panels.components
    return checked, visual_checks(panels, checked, int(np.clip(values // VALUES_A_BIN, 2, MOST_BINS)))


def _replicated(posterior):
    predicted = posterior.predict(key=KEY, draws=DRAWS)
    flat = posterior.unconstrained.reshape(-1, posterior.unconstrained.shape[-1])
    with configuration.scope():
        return predicted, check_fit(posterior.target, flat[:1], predicted)


def _budgets(forecast, given, attempt):
    """By observed site; one budget that was given stands for its own site."""
    known = {} if given is None else dict(given) if isinstance(given, Mapping) else {given.site: given}
    if forecast is None:
        return known
    for site in forecast.observed:
        if site not in known:
            made = attempt(f"budget of {site}", lambda site=site: uncertainty.budget(forecast, site=site))
            if made is not None:
                known[site] = made
    return known
