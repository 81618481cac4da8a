"""Lines to streams that work, and to streams that do not."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from fastserve_core.processes import write_line


def test_a_line_follows_the_buffered_output(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        stream.write("before ")
        write_line(stream, "größe \udce9 评论")
    assert (tmp_path / "log").read_text() == "before größe \\udce9 评论\n"


def test_a_stream_in_memory_gets_the_line() -> None:
    stream = io.StringIO()
    write_line(stream, "a line")
    assert stream.getvalue() == "a line\n"


@pytest.mark.parametrize(("path", "mode"), [("/dev/full", "w"), ("file", "r"), ("file", "closed")])
def test_a_line_that_cannot_be_written_is_dropped(path: str, mode: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (tmp_path / path).open("w" if mode == "closed" else mode) as stream:
        if mode == "closed":
            stream.close()
        write_line(stream, "a line")  # type: ignore[arg-type]
    # closing it would fail if the line were in its buffer


def test_a_line_without_a_reader_or_a_stream_is_dropped() -> None:
    write_line(None, "a line")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        write_line(stream, "a line")
