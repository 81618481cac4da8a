"""``fastserve predict RUN --input … --output …``: write the rows of files or streams with their answers."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, cast

from fastserve_core.artifacts.locate import find_artifact
from fastserve_core.cli.arguments import parse_data_options
from fastserve_core.cli.progress_line import ProgressLine
from fastserve_core.config.nodes import DataOptions
from fastserve_core.data.inputs import InputRow, match_rows
from fastserve_core.data.source import RawRecord, file_source
from fastserve_core.errors import OptionError
from fastserve_core.events import Notice
from fastserve_core.inference.predictor import Predictor
from fastserve_core.processes.environment import set_library_environment
from fastserve_core.serving.file_prediction import predict_file
from fastserve_core.serving.stream_prediction import predict_rows
from fastserve_core.serving.windows import gather_windows, iterate_windows

STREAM = "-"
STREAM_FORMATS = ("csv", "tsv", "jsonl")


def predict_tables(options: Any) -> int:
    """Write the rows of files or of standard input with their answers; return the exit code.

    Raises:
        OptionError: The options do not fit together.
    """
    _check(options)
    set_library_environment()
    data_options = parse_data_options(options.texts)
    predictor = Predictor(find_artifact(Path(options.model)))
    with ProgressLine(sys.stderr) as line:
        if options.output != STREAM:
            result = predict_file(predictor, options.input, Path(options.output), data_options, line.show)
            print(f"{result.output}: {result.rows} rows, {line.rate:,.0f} rows/s")
        else:
            _predict_stream(predictor, options, data_options, line)
    return 0


def _check(options: Any) -> None:
    if options.model.startswith(("http://", "https://")):
        raise OptionError("--output needs the folder of a model: a server answers requests, not files")
    if options.pair or options.json or options.name:
        raise OptionError("--output takes no --pair, --json and --name: its columns are those of the file")
    if STREAM in options.input and len(options.input) > 1:
        raise OptionError("--input - reads standard input alone, without further files")
    if options.follow and (len(options.input) > 1 or options.output != STREAM):
        raise OptionError("--follow reads one file or -, and writes to standard output (--output -)")
    if options.output != STREAM and STREAM in options.input:
        raise OptionError("--input - writes to standard output (--output -): redirect it, or write a file first")
    if options.output != STREAM and options.format:
        raise OptionError("--format is that of standard input and output; the name of a file decides its own")


def _predict_stream(predictor: Predictor, options: Any, data_options: DataOptions, line: ProgressLine) -> None:
    def report(message: str) -> None:
        line.show(Notice(message))

    with _catch_signals(options.follow) as stop:
        row_format, records = _open_records(options, data_options, report, stop)
        look_ahead = {"look_ahead": 1} if options.follow else {}
        inputs = match_rows(records, predictor.task, data_options, report, **look_ahead)
        output = file_source().open_row_stream(sys.stdout.buffer, row_format)
        windows: Iterator[list[InputRow]] = gather_windows(inputs) if options.follow else iterate_windows(inputs)
        try:
            counts = predict_rows(predictor, windows, output, line.show)
        finally:
            output.close()
    report(f"{counts.rows} rows, {counts.bad_rows} without an answer")


def _open_records(
    options: Any, data_options: DataOptions, report: Callable[[str], None], stop: Callable[[], bool]
) -> tuple[str, Iterator[RawRecord]]:
    """Return the format of the output, and the records of the input."""
    source = file_source()
    if options.follow:
        found, records = source.follow(options.input[0], options.format, data_options, report, stop)
    elif options.input == [STREAM]:
        stream = cast(BinaryIO, os.fdopen(os.dup(0), "rb"))
        found, records = source.read_stream(stream, "standard input", options.format, data_options, report)
    else:
        source.check_files(options.input, "--input")
        found = options.format or _common_format(options.input)
        records = source.records(options.input, "--input", data_options, report)
    return (found if found in STREAM_FORMATS else "jsonl"), records


def _common_format(names: Sequence[str]) -> str:
    """Return the format that all files have by their names; JSON lines if they have several, or one of another kind."""
    found = {suffix for name in names for suffix in STREAM_FORMATS if f".{suffix}" in Path(name).suffixes}
    return found.pop() if len(found) == 1 else "jsonl"


@contextmanager
def _catch_signals(is_active: bool) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM came; a second signal interrupts."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM) if is_active else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
