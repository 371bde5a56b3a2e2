"""What a picture must know of an observed site."""

from __future__ import annotations

from typing import NamedTuple


class Site(NamedTuple):
    """An observed site: name, shape, names of its last axis, unit, and what its leading axis counts.

    `anew` says that the units of that axis were drawn anew: none of them was part of the fit.
    """

    name: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()
    unit: str | None = None
    across: str | None = None
    anew: bool = False
