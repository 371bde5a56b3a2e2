"""Progress as an interface: silent in a library call, a text bar where somebody watches."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from typing import TextIO

WIDTH = 24

# On a terminal the line is drawn anew at most this often; a log gets a line at every tenth of the work.
SECONDS_BETWEEN_DRAWINGS = 0.1
LINES_PER_PHASE = 10


class Progress(ABC):
    """Is told how a long piece of work goes, phase after phase, from the host only.

    ```python
    from bayeshybrid.progress import Progress, Silent

    assert isinstance(Silent(), Progress)
    ```
    """

    @abstractmethod
    def start(self, title: str, total: int) -> None:
        """A phase of `total` units begins; a phase still open is finished first."""

    @abstractmethod
    def update(self, done: int, note: str = "") -> None:
        """`done` units of the phase are finished, with something worth saying about it."""

    @abstractmethod
    def finish(self, note: str = "") -> None:
        """The phase has ended, completely or not."""


class Silent(Progress):
    """Says nothing.

    ```python
    from bayeshybrid.progress import Silent

    Silent().start("warm-up", 10)
    ```
    """

    def start(self, title: str, total: int) -> None:
        """Nothing."""

    def update(self, done: int, note: str = "") -> None:
        """Nothing."""

    def finish(self, note: str = "") -> None:
        """Nothing."""


class TextBar(Progress):
    """A bar of text: one line drawn over and over on a terminal, a few lines in a log.

    **Arguments:**

    - `stream`: where to write; standard error where nothing is given, so that output stays clean.

    A stream that can no longer be written ends the drawing, never the work.

    ```python
    import io
    from bayeshybrid.progress import TextBar

    stream = io.StringIO()
    bar = TextBar(stream)
    bar.start("sampling", 4)
    bar.update(2, "no divergences")
    bar.finish()
    assert "sampling" in stream.getvalue()
    ```
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = sys.stderr if stream is None else stream
        self.terminal = bool(getattr(self.stream, "isatty", lambda: False)())
        self.title = ""
        self.total = 0
        self.done = 0
        self.began = 0.0
        self.drawn = -1.0
        self.next_line = 0
        self.width = 0
        self.open = False

    def start(self, title: str, total: int) -> None:
        """Opens a phase and draws it at zero."""
        if self.open:
            self.finish()
        self.title, self.total, self.done = title, max(int(total), 0), 0
        self.began, self.drawn, self.next_line, self.width = time.monotonic(), -1.0, 1, 0
        self.open = True
        if self.terminal:
            self._draw("")

    def update(self, done: int, note: str = "") -> None:
        """Draws anew, unless it did so a moment ago or, in a log, since the last tenth."""
        if not self.open:
            return
        self.done = int(done)
        if self.terminal:
            if time.monotonic() - self.drawn >= SECONDS_BETWEEN_DRAWINGS:
                self._draw(note)
        elif self.done * LINES_PER_PHASE >= self.next_line * max(self.total, 1) and self.done < self.total:
            self.next_line = self.done * LINES_PER_PHASE // max(self.total, 1) + 1
            self._write(self._line(note) + "\n")

    def finish(self, note: str = "") -> None:
        """Draws the phase a last time and leaves the line."""
        if not self.open:
            return
        if self.terminal:
            self._draw(note)
            self._write("\n")
        else:
            self._write(self._line(note) + "\n")
        self.open = False

    def _line(self, note: str) -> str:
        share = min(max(self.done / self.total, 0.0), 1.0) if self.total else 1.0
        filled = int(share * WIDTH)
        bar = "#" * filled + "." * (WIDTH - filled)
        line = f"{self.title} [{bar}] {self.done}/{self.total} {time.monotonic() - self.began:.1f} s"
        return f"{line}  {note}" if note else line

    def _draw(self, note: str) -> None:
        line = self._line(note).replace("\n", " ")
        self._write("\r" + line.ljust(self.width))
        self.width, self.drawn = len(line), time.monotonic()

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self.open = False
