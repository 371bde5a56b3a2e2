"""What a watcher sees of a long piece of work."""

from __future__ import annotations

import io

import pytest

from bayeshybrid import progress
from bayeshybrid.progress import Progress, Silent, TextBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def every_drawing(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_DRAWINGS", 0.0)


def test_terminal_gets_one_line_drawn_over_and_over(every_drawing):
    stream = Terminal()
    bar = TextBar(stream)
    bar.start("warm-up", 4)
    bar.update(2, "a rather long remark")
    bar.update(4)
    assert "\n" not in stream.getvalue()
    bar.finish()
    drawings = stream.getvalue().split("\r")[1:]
    assert len(drawings) == 4
    assert stream.getvalue().count("\n") == 1
    assert "[............" in drawings[0]
    assert "2/4" in drawings[1]
    assert "4/4" in drawings[2]
    # A shorter line covers what a longer one left behind.
    assert len(drawings[2]) == len(drawings[1])


def test_terminal_is_not_flooded():
    stream = Terminal()
    bar = TextBar(stream)
    bar.start("sampling", 10_000)
    for done in range(10_000):
        bar.update(done)
    bar.finish()
    assert stream.getvalue().count("\r") < 1000


def test_log_gets_a_few_whole_lines():
    stream = io.StringIO()
    bar = TextBar(stream)
    bar.start("sampling", 1000)
    for done in range(1, 1001):
        bar.update(done, "fine")
    bar.finish("done")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert "\r" not in stream.getvalue()
    assert "100/1000" in lines[0]
    assert lines[-1].endswith("done")
    assert "1000/1000" in lines[-1]


def test_phases_follow_one_another_even_where_one_was_left_open():
    stream = io.StringIO()
    bar = TextBar(stream)
    bar.start("search", 1)
    bar.start("sampling", 0)
    bar.finish()
    bar.finish()
    bar.update(3)
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["search", "sampling"]


def test_a_closed_stream_does_not_end_the_work():
    stream = io.StringIO()
    bar = TextBar(stream)
    bar.start("sampling", 2)
    stream.close()
    bar.update(1)
    bar.finish()


def test_default_stream_is_standard_error(capsys):
    bar = TextBar()
    bar.start("sampling", 1)
    bar.finish()
    captured = capsys.readouterr()
    assert "sampling" in captured.err
    assert captured.out == ""


def test_silence(capsys):
    silent = Silent()
    silent.start("sampling", 1)
    silent.update(1)
    silent.finish()
    captured = capsys.readouterr()
    assert isinstance(silent, Progress)
    assert captured.err == captured.out == ""
