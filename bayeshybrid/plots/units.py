"""One observed site of many units cut into small panels, each on the times of its own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayeshybrid.faults import ModelError
from bayeshybrid.plots.cells import Cells, measured
from bayeshybrid.plots.site import Site

MOST_UNITS = 24


class UnitPanels:
    """One observed site `(unit, time)` or `(unit, time, component)`: a panel for each unit, at most 24 shown.

    An *entry* is one component of one unit, units in front: entry 5 of two components is the second of unit 2.
    The cells of a unit at one and the same time count once, which leaves out padding too.
    """

    def __init__(
        self, site: Site, inputs: Mapping[str, Any], along: str | None, names: Sequence[str] = ()
    ) -> None:
        self.site, self.shape = site, site.shape
        self.units = site.shape[0]
        self.components = int(np.prod(site.shape[2:], dtype=int))
        self.axis_name, self.times = _times(inputs, site, along)
        found = [np.unique(row, return_index=True) for row in self.times]
        kept = [np.isfinite(x) for x, _ in found]
        self._x = [x[good] for (x, _), good in zip(found, kept, strict=True)]
        self._order = [at[good] for (_, at), good in zip(found, kept, strict=True)]
        numbers = [""] if site.anew and self.units == 1 else [str(i) for i in range(self.units)]
        told = list(names) if len(names) == self.units else numbers
        self.unit_names = told
        self.unit_titles = [f"{'new ' * site.anew}{site.across} {name}".rstrip() for name in told]
        even = np.linspace(0, self.units - 1, min(self.units, MOST_UNITS)).round().astype(int)
        self.shown: list[int] = [int(unit) for unit in even]

    def most(self, count: int) -> list[int]:
        """Not more than so many of the units shown, evenly chosen."""
        even = np.linspace(0, len(self.shown) - 1, min(len(self.shown), count)).round().astype(int)
        return [self.shown[place] for place in even]

    @property
    def entries(self) -> int:
        """How many components all units have together."""
        return self.units * self.components

    @property
    def component_names(self) -> list[str]:
        """A name for each component, nothing for an only one."""
        if self.components == 1:
            return [""]
        labels = self.site.labels
        return list(labels) if len(labels) == self.components else [str(i) for i in range(self.components)]

    @property
    def titles(self) -> list[str]:
        """A name for each entry."""
        return [f"{unit} {part}".strip() for unit in self.unit_titles for part in self.component_names]

    @property
    def words(self) -> str:
        """Name and unit, for the vertical axis."""
        return f"{self.site.name} ({self.site.unit})" if self.site.unit else self.site.name

    @property
    def x(self) -> np.ndarray:
        """All times of all units, in order."""
        return np.unique(np.concatenate(self._x))

    @property
    def half(self) -> float:
        """Half the width at which a single cell is drawn."""
        return 0.015 * float(np.ptp(self.x)) or 0.4

    @property
    def left_out(self) -> str:
        """What a title must say where not every unit is shown."""
        return self.left_out_of(len(self.shown))

    def left_out_of(self, shown: int) -> str:
        """The same where so many are shown."""
        if shown == self.units:
            return ""
        many = counted(self.units, self.site.across or "")
        return f"{shown} of {many}, evenly chosen; {self.units - shown} are not shown"

    def places(self, entry: int) -> np.ndarray:
        """Where the cells of an entry stand on the horizontal axis, in order, each time once."""
        return self._x[entry // self.components]

    def row(self, values: Any, entry: int) -> np.ndarray:
        """Values in the site's shape: those of one entry at its places."""
        unit, part = divmod(entry, self.components)
        whole = np.reshape(values, (*self.shape[:2], self.components))
        return whole[unit, self._order[unit], part]

    def padding(self, gaps: np.ndarray) -> np.ndarray:
        """Which of these cells, shaped like the site, only fill up the row of a unit: they repeat the time before."""
        repeated = np.diff(self.times, axis=1, prepend=np.nan) == 0
        return gaps & (repeated | ~np.isfinite(self.times)).reshape(*self.shape[:2], *(1,) * (gaps.ndim - 2))

    def along(self, values: np.ndarray, unit: int) -> np.ndarray:
        """Values `(unit, time)`, one for all components: those of a unit at its places."""
        return values[unit, self._order[unit]]

    def points(self, given: Mapping[str, Any]) -> tuple[np.ndarray, Cells]:
        """Times `(unit, n)` and cells `(unit, n, component)` of given data, each cell as it was measured."""
        name, cells = self.site.name, measured(given, self.site.name)
        shape = cells.values.shape
        times = np.asarray(given.get(self.axis_name, self.times), float)
        wanted = (self.units, times.shape[-1] if times.ndim else 0, *self.shape[2:])
        if times.ndim not in (1, 2) or shape != wanted or (times.ndim == 2 and len(times) != self.units):
            raise ModelError(
                f"plots: data {name!r} have shape {shape}, and {self.axis_name or 'the horizontal axis'} "
                f"{times.shape}; the forecast {self.shape}, one row for each {self.site.across}: give both in rows "
                "like these"
            )
        return np.broadcast_to(times, shape[:2]), cells.reshaped(*shape[:2], self.components)

    def data(self, given: Mapping[str, Any], entry: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the values of an entry were measured, and the values, NaN where not exactly."""
        times, cells = self.points(given)
        unit, part = divmod(entry, self.components)
        return times[unit], cells.values[unit, :, part]


def counted(number: int, noun: str) -> str:
    """12 subjects, 1 subject, 3 species, 2 colonies."""
    if number == 1 or noun.endswith("s"):
        return f"{number} {noun}"
    consonant = noun.endswith("y") and noun[-2:-1] not in tuple("aeiou")
    return f"{number} {noun[:-1] + 'ies' if consonant else noun + 's'}"


def _times(inputs, site, along):
    """Name and values `(unit, time)` of the horizontal axis: an input by unit before one that all share."""
    shape = site.shape[:2]
    numbers = {name: value for name, value in inputs.items() if _numeric(value)}
    fitting = {name: np.asarray(value, float) for name, value in numbers.items() if np.shape(value) == shape}
    for name, value in numbers.items():  # as many units as times: what falls counts the units, not the times
        if np.shape(value) == shape[1:] and (shape[0] != shape[1] or _runs(value) or name == along):
            fitting[name] = np.asarray(value, float)
    if along is not None:
        if along not in fitting:
            raise ModelError(
                f"plots: along={along!r} is no input of shape {shape} or {shape[1:]}, as the times of "
                f"{site.name!r} must be: there are {', '.join(fitting) or 'none'}"
            )
        return along, np.broadcast_to(fitting[along], shape)
    # Covariates and numbers of replicates may have the same shape; times never fall, and pass.
    for name in sorted(fitting, key=lambda name: not _runs(fitting[name])):
        return name, np.broadcast_to(fitting[name], shape)
    return "", np.broadcast_to(np.arange(shape[1], dtype=float), shape)


def _numeric(value):
    return not isinstance(value, Mapping | str) and np.asarray(value).dtype.kind in "fiu"


def _runs(values):
    steps = np.diff(np.atleast_2d(np.asarray(values, float)), axis=-1)
    return not np.any(steps < 0) and bool(np.any(steps > 0))
