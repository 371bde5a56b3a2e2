"""The visual predictive check as figures: quantiles of the data by time, beside those of replicated data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshybrid.faults import DataError, ModelError
from bayeshybrid.observation import EXACT, LEFT, RIGHT

if TYPE_CHECKING:
    from bayeshybrid.fit import FitCheck

BINS = 8
MASS = 0.9

__all__ = ["VisualCheck", "visual_check"]


@dataclass(frozen=True)
class VisualCheck:
    """Quantiles of the data in bins of time, beside those of replicated data (Holford 2005).

    - `site`, `entry`, `time`: what is compared, which of its components, along which argument of the model.
    - `edges`: `(bin + 1,)` ends of the bins, the left one belonging to the bin; `centres`: `(bin,)` median time.
    - `counts`: `(bin,)` values compared, censored ones included.
    - `levels`: the quantiles, such as 0.1, 0.5 and 0.9.
    - `observed`: `(bin, level)` quantiles of the data; NaN where a quantile is itself censored.
    - `simulated`: `(bin, level, 3)` lower end, median and upper end of the central range that holds `mass` of
      the same quantile over replicated data sets; NaN where that is censored.
    - `below`: `(bin,)` share of the data that is known only to lie below a limit; `below_simulated`: `(bin, 3)`
      the same of replicated data measured with the same limits.
    - `corrected`: whether values were brought to the typical prediction of their bin; `unit`: of the values.
    """

    site: str
    entry: str
    time: str
    edges: np.ndarray
    centres: np.ndarray
    counts: np.ndarray
    levels: tuple[float, ...]
    observed: np.ndarray
    simulated: np.ndarray
    below: np.ndarray
    below_simulated: np.ndarray
    mass: float
    corrected: bool
    new: tuple[str, ...]
    unit: str | None

    @property
    def inside(self) -> tuple[int, int]:
        """How many observed quantiles lie in their simulated range, and how many could be compared."""
        known = np.isfinite(self.observed) & np.all(np.isfinite(self.simulated), axis=-1)
        with np.errstate(invalid="ignore"):
            within = (self.observed >= self.simulated[..., 0]) & (self.observed <= self.simulated[..., 2])
        return int(within[known].sum()), int(known.sum())

    def __str__(self) -> str:
        inside, compared = self.inside
        name = f"{self.site} of {self.entry}" if self.entry else self.site
        of = f" of {', '.join(self.new)} drawn anew" if self.new else " of the same units"
        lines = [
            f"{name} by {self.time}: {inside} of {compared} quantiles of the data inside the central "
            f"{100 * self.mass:.0f} % of replicated data{of} ({len(self.counts)} bins, in sample)"
        ]
        if np.any(self.below > 0):
            held = (self.below >= self.below_simulated[:, 0]) & (self.below <= self.below_simulated[:, 2])
            lines.append(
                f"share below the limit of quantification: inside in {held.sum()} of {len(held)} bins"
            )
        return "\n".join(lines)


def visual_check(
    check: FitCheck,
    time: str,
    site: str | None = None,
    *,
    entry: str | None = None,
    bins: int | Sequence[float] = BINS,
    levels: Sequence[float] = (0.1, 0.5, 0.9),
    mass: float = MASS,
    corrected: bool = False,
) -> VisualCheck:
    """The visual predictive check of one observed site, all its units together.

    In each bin the quantiles of the data stand beside the range of the same quantiles over replicated data sets
    (Holford 2005, "The visual predictive check: superiority to standard diagnostic (Rorschach) plots"). Censored
    values count as lying beyond their limit, and replicated values are censored by the limit of their cell: its
    own, or for a value that was measured the largest limit of the site that it is not below.

    **Arguments:**

    - `check`: from `posterior.check(key=, new=("subject",))`.
    - `time`: the model's argument with the times, shaped like the leading axes of the data, or like all but the
      first of them where the units share their times.
    - `site`: the observed site; may be left out where there is one. `entry`: which of its labels.
    - `bins`: how many bins of about equally many values, fewer where times repeat; or the edges.
    - `levels`, `mass`: the quantiles to compare, and what the simulated ranges hold.
    - `corrected`: prediction correction (Bergstrand, Hooker, Wallin and Karlsson 2011), for units that differ by
      dose or covariates: each value is multiplied by (median prediction of its bin / its own prediction), or
      where a bin has predictions or values that are not positive moved by their difference. The prediction of
      a cell is the median of its replicates.

    **Returns:** a `VisualCheck`.

    **Raises:** `ModelError` for names that do not exist, times of another shape, or classes; `DataError` where
    nothing was measured, or for a correction of censored values, whose limits it would move.

    ```python
    from bayeshybrid.fit import check_fit
    from bayeshybrid.visual_predictive import visual_check
    model = lambda t, y=None: numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()) * t, 1.0), obs=y)
    data = {"t": np.arange(8.0), "y": np.arange(8.0)}
    prior = bh.simulate(model, {"t": data["t"]}, key=0, draws=100)
    check = check_fit(bh.Target(model, data), np.zeros((1, 1)), prior)
    assert visual_check(check, "t", bins=[0, 4, 8]).counts.tolist() == [4, 4]
    ```
    """
    name = _site(check, site)
    cells = _cells(check, name, time, entry)
    if corrected and np.any(cells.kinds != EXACT):
        raise DataError(
            f"by_time({time!r}, corrected=True): {name} has censored values, and the correction would move the "
            "limit of each: leave it out"
        )
    edges = _edges(cells.times, bins)
    places = np.clip(np.searchsorted(edges, cells.times, side="right") - 1, 0, len(edges) - 2)
    outside = (cells.times < edges[0]) | (cells.times > edges[-1])
    kept = [i for i in range(len(edges) - 1) if np.any((places == i) & ~outside)]
    if not kept:
        raise DataError(f"by_time({time!r}, bins={bins!r}): no value of {name} lies in any bin")
    rows = [_bin(cells, (places == i) & ~outside, tuple(levels), mass, corrected) for i in kept]
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    return VisualCheck(
        site=name,
        entry=entry or "",
        time=time,
        edges=edges[[*kept, kept[-1] + 1]],
        levels=tuple(levels),
        mass=mass,
        corrected=corrected,
        new=check.new,
        unit=check.replicated[name].unit,
        **columns,
    )


@dataclass(frozen=True)
class _Cells:
    """The measured cells of a site, one after the other: `(n,)`, and replicates `(K, n)`."""

    times: np.ndarray
    values: np.ndarray
    kinds: np.ndarray
    replicated: np.ndarray


def _site(check, site):
    names = list(check.observed)
    if site is None and len(names) == 1:
        return names[0]
    if site not in names:
        raise ModelError(f"by_time(site={site!r}): write one of {', '.join(map(repr, names))}")
    if site not in check.errors:
        raise ModelError(f"by_time(site={site!r}): its values have no quantiles, or are not drawn one by one")
    return site


def _cells(check, name, time, entry):
    """What was measured, with the time of each cell."""
    values, kinds, drawn = check.values[name], check.kinds[name], check.replicated[name]
    if name not in check.errors:
        raise ModelError(f"by_time: the values of {name} have no quantiles, or are not drawn one by one")
    if time not in check.inputs:
        raise ModelError(
            f"by_time({time!r}): the model has no such argument; there are {', '.join(check.inputs)}"
        )
    times = _spread(np.asarray(check.inputs[time], float), values.shape, time, name)
    draws = drawn.draws
    if entry is not None or len(drawn.labels) > 1:
        if entry not in drawn.labels:
            raise ModelError(
                f"by_time(entry={entry!r}): write one of {', '.join(map(repr, drawn.labels)) or 'None'}"
            )
        i = drawn.labels.index(entry)
        values, kinds, times, draws = (x[..., i] for x in (values, kinds, times, draws))
    measured = ((kinds == EXACT) | (kinds == LEFT) | (kinds == RIGHT)) & np.isfinite(times)
    if not measured.any():
        raise DataError(f"by_time: nothing of {name} was measured")
    flat = measured.ravel()
    values = np.asarray(values, float)
    return _Cells(times[measured], values[measured], kinds[measured], draws.reshape(len(draws), -1)[:, flat])


def _spread(times, shape, time, name):
    """Times over all cells of a site: by its leading axes, or by all but the first of them."""
    for lead in range(2):
        if times.ndim and times.shape == shape[lead : lead + times.ndim]:
            rest = (1,) * (len(shape) - lead - times.ndim)
            return np.broadcast_to(times.reshape((1,) * lead + times.shape + rest), shape)
    raise ModelError(f"by_time({time!r}): its shape {times.shape} does not fit {name}, which has {shape}")


def _edges(times, bins):
    """Edges as given; else about equally many values a bin, each repeated time a bin of its own where few."""
    if not isinstance(bins, int | np.integer):
        edges = np.asarray(bins, float)
        if edges.ndim != 1 or len(edges) < 2 or np.any(np.diff(edges) <= 0):
            raise ModelError(f"by_time(bins={bins!r}): edges must increase, such as [0, 1, 4, 24]")
        return edges
    if bins < 1:
        raise ModelError(f"by_time(bins={bins}): at least one bin is needed")
    distinct = np.unique(times)
    if len(distinct) <= bins:
        return np.concatenate([distinct[:1], 0.5 * (distinct[1:] + distinct[:-1]), distinct[-1:]])
    return np.unique(np.quantile(times, np.linspace(0, 1, bins + 1)))


def _bin(cells, here, levels, mass, corrected) -> dict[str, Any]:
    """Quantiles of the data of one bin, ranges of those of replicated data, and shares below the limit."""
    y, drawn = _as_measured(cells, here)
    if corrected:
        y, drawn = _corrected(y, drawn)
    ends = np.array([(1 - mass) / 2, 0.5, (1 + mass) / 2])
    found = _quantiles(drawn, levels)
    ranges = np.stack([_quantiles(found[:, i][None], ends)[0] for i in range(len(levels))])
    shares = np.mean(drawn == -np.inf, axis=1)
    observed = _quantiles(y[None], levels)[0]
    return {
        "centres": np.median(cells.times[here]),
        "counts": int(here.sum()),
        "observed": np.where(np.isfinite(observed), observed, np.nan),
        "simulated": np.where(np.isfinite(ranges), ranges, np.nan),
        "below": np.mean(y == -np.inf),
        "below_simulated": np.quantile(shares, ends),
    }


def _as_measured(cells, here):
    """Data and replicates with what lies beyond a limit at infinity."""
    y, kinds, drawn = cells.values, cells.kinds, np.array(cells.replicated, float)
    lower = _limits(y, y[kinds == LEFT], kinds == LEFT)[here]
    upper = -_limits(-y, -y[kinds == RIGHT], kinds == RIGHT)[here]
    drawn = drawn[:, here]
    drawn = np.where(drawn < lower, -np.inf, np.where(drawn > upper, np.inf, drawn))
    data = np.where(kinds == LEFT, -np.inf, np.where(kinds == RIGHT, np.inf, y))[here]
    return data, drawn


def _limits(y, limits, own):
    """The limit under which each value would not have been measured; minus infinity where none is known."""
    known = np.concatenate([[-np.inf], np.unique(limits)])
    return np.where(own, y, known[np.searchsorted(known, y, side="right") - 1])


def _corrected(y, drawn):
    """Values brought to the median prediction of the bin (Bergstrand et al. 2011, equations 1 and 2)."""
    each = np.median(drawn, axis=0)
    typical = np.median(each)
    if np.all(each > 0) and np.all(y >= 0):
        return y * typical / each, drawn * (typical / each)[None]
    return y + typical - each, drawn + (typical - each)[None]


def _quantiles(rows, levels):
    """Quantiles of each row, `(row, level)`, linear between ordered values; infinite where a neighbour is."""
    ordered = np.sort(rows, axis=1)
    place = np.asarray(levels) * (rows.shape[1] - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, rows.shape[1] - 1)
    share = (place - low)[None]
    a, b = ordered[:, low], ordered[:, high]
    with np.errstate(invalid="ignore"):
        between = a + np.where(share > 0, share * (b - a), 0.0)
    return np.where(np.isinf(a), a, np.where(np.isinf(b) & (share > 0), b, between))
