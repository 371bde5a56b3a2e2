"""What was read from a table: the arguments of a model, with the names and the rows that they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

__all__ = ["Measurements", "counted", "word_of"]


@dataclass(frozen=True, eq=False)
class Measurements(Mapping[str, Any]):
    """What was read from a table: a mapping from the model's arguments to arrays, which `infer` takes as its data.

    - `labels`: the names of the units, `{"subject": ("1", "2")}`, of the variables and of classes.
    - `units`: of the columns, as their headings state them in brackets; `"d"` for what were dates.
    - `notes`: what was understood, restored or left out, one sentence each.
    - `rows`: argument to the row of the table that each entry comes from, in the entry's shape, -1 for padding.
    - `individual`: what the leading axis counts; `None` where there is a single series.

    `str()` gives one line on what was read, and the notes. `table | {"dose": other}` is the same with another entry.

    ```python
    table = {"subject": ["a", "a", "b"], "hours": [0, 1, 0], "conc": [3.0, "<0.1", 2.5]}
    read = bh.measurements(table, individual="subject", time="hours", value="conc")
    assert str(read) == "2 subjects, 3 values, 1 below 0.1"
    assert read["hours"].shape == (2, 2) and read["conc"]["missing"].tolist() == [[False, False], [False, True]]
    ```
    """

    entries: Mapping[str, Any]
    labels: Mapping[str, tuple[str, ...]]
    units: Mapping[str, str]
    rows: Mapping[str, np.ndarray]
    line: str
    notes: tuple[str, ...] = ()
    individual: str | None = None
    source: str = ""

    def __getitem__(self, name: str) -> Any:
        entry = self.entries[name]
        return dict(entry) if isinstance(entry, Mapping) else entry

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __or__(self, other: Mapping[str, Any]) -> Measurements:
        kept = {name: rows for name, rows in self.rows.items() if _like(self.entries[name], other.get(name))}
        return replace(self, entries=MappingProxyType({**self.entries, **other}), rows=MappingProxyType(kept))

    def __str__(self) -> str:
        return "\n".join([self.line, *(f"- {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<Measurements {', '.join(self.entries)}: {self.line}>"

    def place(self, name: str, cell: Sequence[int]) -> str:
        """Where an entry comes from: `"subject 3, row 17 of doses.csv"`, or nothing for padding.

        ```python
        read = bh.measurements({"day": [1, 2], "count": [3, 4]}, time="day", value="count")
        assert read.place("count", (1,)) == "row 1 of the table"
        ```
        """
        row = int(self.rows[name][tuple(cell)]) if name in self.rows else -1
        if row < 0:
            return ""
        names = self.labels.get(self.individual or "")
        unit = f"{self.individual} {names[cell[0]]}, " if names else ""
        return f"{unit}row {row} of {self.source}"


def _like(entry: Any, other: Any) -> bool:
    """Whether another entry has the places of this one, or there is no other."""
    if isinstance(entry, Mapping) and isinstance(other, Mapping):
        return all(np.shape(entry[name]) == np.shape(other.get(name, entry[name])) for name in entry)
    return other is None or (not isinstance(entry, Mapping) and np.shape(entry) == np.shape(other))


def word_of(key: str) -> str:
    """What an individual is called, by the name of its column.

    ```python
    from bayeshybrid.measured import word_of
    assert word_of("ID") == "individual" and word_of("Subject") == "subject"
    ```
    """
    if key.lower() in ("id", "individual"):
        return "individual"
    return key if key.isupper() else key[:1].lower() + key[1:]


def counted(number: int, word: str) -> str:
    """1 value, 2 values.

    ```python
    from bayeshybrid.measured import counted
    assert counted(2, "study") == "2 studies"
    ```
    """
    if number == 1:
        return f"1 {word}"
    if word.endswith("y") and word[-2:-1].lower() not in "aeiou":
        return f"{number} {word[:-1]}ies"
    return f"{number} {word}{'es' if word.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
