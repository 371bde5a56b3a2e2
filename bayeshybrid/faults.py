"""The three ways in which bayeshybrid refuses: a model, data, or a start that cannot be used.

Each message says what is wrong, where, the offending value, and what to write instead. Nothing inside
compiled code raises; what fails there is counted under a status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """The cells that a message speaks of: of an observed site, or of times where `name` is empty.

    - `name`: of the site; `shape`: of the array; `cells`: their indices, the first few.
    """

    name: str
    shape: tuple[int, ...]
    cells: Sequence[Sequence[int]]


class ModelError(ValueError):
    """A statement of the model cannot mean what it says, whatever the data.

    `place` says which cells of the data it speaks of, if any.

    ```python
    try:
        bh.prior_interval(3.0, 1.0)
    except ValueError as error:
        assert "low" in str(error)
    ```
    """

    place: Place | None = None


class DataError(ValueError):
    """The data cannot be used as they are: the message names the argument and the first cells.

    `place` says which cells these are, if any.

    ```python
    from bayeshybrid.faults import DataError
    assert issubclass(DataError, ValueError)
    ```
    """

    place: Place | None = None


class StartError(RuntimeError):
    """No point was found at which the model's density is finite, so no method can begin.

    ```python
    from bayeshybrid.faults import StartError
    assert issubclass(StartError, RuntimeError)
    ```
    """
