"""What was said by name while somebody listened, in one transformation of JAX and one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jax.extend.core import get_opaque_trace_state

__all__ = ["Recorder"]


class Recorder:
    """Entries noted by name while a recording is open.

    Entries may hold values of the transformation (`vmap`, `jit`, a solver's loop) in which the recording was opened;
    what is noted in another one is dropped, because its values could not be used here. Recordings nest; the innermost
    one notes. Each thread has its own.

    ```python
    from bayeshybrid.recorder import Recorder
    calls = Recorder()
    with calls.open() as notes:
        calls.note("f", 1)
        jax.vmap(lambda x: calls.note("f", x))(jnp.ones(2))
    assert notes == {"f": [1]}
    ```
    """

    def __init__(self) -> None:
        self._open = threading.local()

    @contextmanager
    def open(self) -> Iterator[dict[str, list[Any]]]:
        """A recording, as the mapping from names to entries that fills while it is open."""
        notes: dict[str, list[Any]] = {}
        self._stack.append((notes, get_opaque_trace_state()))
        try:
            yield notes
        finally:
            self._stack.pop()

    def note(self, name: str, entry: Any) -> None:
        """An entry for the innermost recording, if that was opened in the same transformation."""
        if self._stack and self._stack[-1][1] == get_opaque_trace_state():
            self._stack[-1][0].setdefault(name, []).append(entry)

    @property
    def _stack(self):
        if not hasattr(self._open, "stack"):
            self._open.stack = []
        return self._open.stack
