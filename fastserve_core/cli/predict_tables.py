"""``fastserve predict RUN --input … --output …``: write the rows of files or streams with their answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import find_artifact
from fastserve_core.cli.arguments import parse_data_options
from fastserve_core.cli.progress_line import ProgressLine
from fastserve_core.data.source import file_source
from fastserve_core.errors import OptionError
from fastserve_core.events import Notice
from fastserve_core.inference.predictor import Predictor
from fastserve_core.processes.environment import set_library_environment
from fastserve_core.serving.file_prediction import predict_file
from fastserve_core.serving.row_input import STREAM, RowRequest, catch_signals
from fastserve_core.serving.stream_prediction import predict_rows


def predict_tables(options: Any) -> int:
    """Write the rows of files or of standard input with their answers; return the exit code.

    Raises:
        OptionError: The options do not fit together.
    """
    _check(options)
    request = RowRequest(options.input, parse_data_options(options.texts), options.format, options.follow)
    set_library_environment()
    predictor = Predictor(find_artifact(Path(options.model)))
    with ProgressLine(sys.stderr) as line:
        if options.output == STREAM:
            _predict_stream(predictor, request, line)
        else:
            result = predict_file(predictor, options.input, Path(options.output), request.data, line.show)
            print(f"{result.output}: {result.rows} rows, {line.rate:,.0f} rows/s")
    return 0


def _check(options: Any) -> None:
    if options.model.startswith(("http://", "https://")):
        raise OptionError("--output needs the folder of a model: a server answers requests, not files")
    if options.pair or options.json or options.name:
        raise OptionError("--output takes no --pair, --json and --name: its columns are those of the file")
    if options.output == STREAM:
        return
    if options.follow:
        raise OptionError("--follow writes to standard output (--output -)")
    if STREAM in options.input:
        raise OptionError("--input - writes to standard output (--output -): redirect it, or write a file first")
    if options.format:
        raise OptionError("--format is that of standard input and output; the name of a file decides its own")


def _predict_stream(predictor: Predictor, request: RowRequest, line: ProgressLine) -> None:
    def report(message: str) -> None:
        line.show(Notice(message))

    with catch_signals(request.follow) as stop:
        row_format, windows = request.open(predictor.task, report, stop)
        output = file_source().open_row_stream(sys.stdout.buffer, row_format)
        try:
            counts = predict_rows(predictor, windows, output, line.show)
        finally:
            output.close()
    report(f"{counts.rows} rows, {counts.bad_rows} without an answer")
