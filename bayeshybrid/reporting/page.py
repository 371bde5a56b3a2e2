"""`report`: what a fit and its forecast say as one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeshybrid.faults import ModelError
from bayeshybrid.forecast import Forecast
from bayeshybrid.posterior import Posterior

if TYPE_CHECKING:
    from bayeshybrid.calibration import Calibration
    from bayeshybrid.identifiability import Identifiability
    from bayeshybrid.uncertainty import Budget

__all__ = ["report"]


def report(
    posterior: Posterior,
    forecast: Forecast | None = None,
    *,
    path: str | Path,
    data: Mapping[str, Any] | None = None,
    budget: Budget | Mapping[str, Budget] | None = None,
    calibration: Calibration | None = None,
    identifiability: Identifiability | None = None,
    title: str | None = None,
    fitted: str | None = None,
) -> Path:
    """Write what a fit and its forecast say as one page that a browser opens and a printer prints.

    Eleven blocks: five sentences, four lights, data and fit, the unknowns before and after the data, the forecast,
    where its doubt comes from, equation and networks, the track record, what to measure next, what was not examined,
    and, folded, everything for statisticians. One HTML file without scripts or anything from elsewhere; the same
    input gives the same bytes.

    **Arguments:**

    - `posterior`: what `infer` returned.
    - `forecast`: what `posterior.predict` returned; without it the blocks on the forecast say that there is none.
    - `path`: the file to write; one that is there is replaced.
    - `data`: measurements that the fit has not seen, to hold the forecast against, as `bh.calibration.assess` takes
      them.
    - `budget`: of the forecast, one or by observed site; `calibration`, `identifiability`: results. Each is computed
      where it is not given. What cannot be computed is named on the page with the reason.
    - `title`: of the page. `fitted`: what was fitted to what, in words, for the first sentence.

    **Returns:** the path of the file.

    **Raises:** `ModelError` for a forecast of another model than the posterior's.

    ```python
    def line(t, y=None):
        slope = bh.parameter("slope", bh.prior_interval(-2.0, 2.0), unit="m/s")
        bh.observe("y", dist.Normal(slope * t, 1.0), obs=y, unit="m")
    t = np.arange(6.0)
    posterior = bh.infer(line, {"t": t, "y": 0.5 * t}, bh.NUTS(draws=100, warmup=100), key=0)
    page = bh.report(posterior, posterior.predict({"t": np.arange(9.0)}, key=1), path="line.html")
    assert "slope" in page.read_text(encoding="utf-8")
    ```
    """
    if forecast is not None and forecast.target.layout != posterior.target.layout:
        raise ModelError(
            "report: the forecast was made from another model than this posterior: write posterior.predict(inputs, "
            "key=1) and give both"
        )
    # Whoever makes no page does not load its parts.
    from bayeshybrid.reporting.contents import document
    from bayeshybrid.reporting.material import gather

    given = {"budget": budget, "calibration": calibration, "identifiability": identifiability}
    material = gather(posterior, forecast, data, given, title, fitted)
    path = Path(path)
    path.write_text(document(material), encoding="utf-8", newline="\n")
    return path
