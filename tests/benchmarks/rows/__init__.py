"""The rows of the comparison, by name, in the order of the table."""

from __future__ import annotations

from importlib import import_module

from tests.benchmarks.rows.row import Row

NAMES = (
    "lotka_volterra",
    "fitzhugh_nagumo",
    "sir",
    "michaelis_menten",
    "theophylline",
    "robertson",
    "lynx_hare_hybrid",
    "eight_schools",
    "funnel",
)

__all__ = ["NAMES", "Row", "read_row"]


def read_row(name: str) -> Row:
    """The row of that name; only its own module is imported, so that no tool pays for the others."""
    if name not in NAMES:
        raise ValueError(f"no row {name!r}: there are {', '.join(NAMES)}")
    return import_module(f"tests.benchmarks.rows.{name}").ROW
