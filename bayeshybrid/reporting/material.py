"""What a page is written from: what was given, and what could be computed in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bayeshybrid import calibration as track_record
from bayeshybrid import configuration, identifiability, uncertainty
from bayeshybrid.extrapolation import Asked
from bayeshybrid.faults import DataError, ModelError
from bayeshybrid.fit import FitCheck, check_fit
from bayeshybrid.forecast import Forecast
from bayeshybrid.plots.panels import MOST_PANELS, Panels, forecast_panels
from bayeshybrid.posterior import Posterior
from bayeshybrid.reporting.ahead import Ahead, look_ahead
from bayeshybrid.reporting.placing import drawn_data, placed
from bayeshybrid.reporting.networks_asked import Contribution, contributions
from bayeshybrid.summary import Row, summarise

DRAWS = 1000
KEY = 0

__all__ = ["Material", "gather", "model_name"]


@dataclass(frozen=True)
class Material:
    """Everything that the blocks of a page tell.

    - `rows`: one for each unknown number that is no weight of a network; `draws`, `before`: by row name, after and
      before the data.
    - `checked`, `replicated`: the data beside what the model would have produced in their place.
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
    data: Mapping[str, Any] | None = None
    checked: FitCheck | None = None
    replicated: Forecast | None = None
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

    def panels(self, forecast: Forecast, site: str) -> Panels:
        """The panels of one observed site."""
        return forecast_panels(forecast, site, None)

    def names(self, panels: Panels) -> list[str]:
        """What to call each entry of a site in a sentence, at most six."""
        several = len(self.posterior.target.layout.observed) > 1
        own = panels.site.name
        if panels.entries == 1:
            return [own]
        return [f"{own} {title}" if several else title for title in panels.titles[:MOST_PANELS]]

    def new_data(self, panels: Panels) -> dict[str, Any] | None:
        """Measurements that the fit has not seen, for the picture of a forecast."""
        if self.forecast is None or self.data is None or "calibration" in self.refused:
            return None
        with configuration.scope():
            return drawn_data(self.forecast, placed(self.forecast, self.data), panels)

    def record_of(self, panels: Panels) -> dict[str, Any] | None:
        """The fitted data of a site as its panels take them; nothing where they do not fit."""
        if self.checked is None or panels.site.name not in self.checked.observed:
            return None
        given = {**self.posterior.target.inputs(), panels.site.name: self.checked.observed[panels.site.name]}
        try:
            panels.points(given)
        except ModelError:  # what was fitted has another shape than what is forecast
            return None
        return given


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

    rows, draws, before = _unknowns(posterior)
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
        data=data,
        checked=pair[1],
        replicated=pair[0],
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
    """Rows, draws and prior draws of every unknown number that is no weight."""
    sites = [site for site in posterior.target.layout.latent if site.tag.kind != "weight"]
    kept = {site.name: posterior.samples[site.name] for site in sites}
    rows = summarise(replace(posterior, samples=kept)).rows if kept else ()
    draws, before, place = {}, {}, iter(rows)
    for site in sites:
        after, prior = posterior[site.name], posterior.prior[site.name]
        for index in np.ndindex(site.shape):
            row = next(place)
            draws[row.name] = after[(slice(None), *index)]
            before[row.name] = None if np.isnan(row.prior_low) else prior[(slice(None), *index)]
    return tuple(rows), draws, before


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
