"""``fastserve predict RUN_OR_ARTIFACT_OR_URL "text" …``: print a model's predictions, one per line."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import find_artifact
from fastserve_core.cli.arguments import is_data_option, make_parser, parse_data_options
from fastserve_core.cli.predict_tables import predict_tables
from fastserve_core.data.inputs import read_inputs
from fastserve_core.errors import DataError, FastServeError, OptionError
from fastserve_core.inference.predictor import Predictor
from fastserve_core.processes.environment import set_library_environment, skip_compile_cache
from fastserve_core.serving.client import lineage_remote, predict_remote
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Task

CHUNK_ROWS = 1024
"""The number of rows of files that are predicted at a time; a file may be larger than memory."""

Answers = list[dict[str, Any]]


def main(arguments: Sequence[str]) -> int:
    """Print the predictions; return the exit code."""
    parser = make_parser("predict", "Predict for texts with a model; without texts, for each line of standard input.")
    parser.add_argument("model", metavar="RUN_OR_ARTIFACT_OR_URL", help="a folder, or a server's http://HOST:PORT")
    parser.add_argument("--name", help="the model's name, for a server with several")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="with --input: options of data, as data.encoding=NAME")
    parser.add_argument("--pair", action="append", default=[], metavar="TEXT", help="the second text, once per text")
    parser.add_argument("--input", action="append", default=[], metavar="FILE", help="data files; may be repeated")
    parser.add_argument(
        "--output", metavar="FILE", help="with --input: write all columns and the answer's to a file, or -"
    )
    parser.add_argument("--format", choices=("csv", "tsv", "jsonl", "txt"), help="that of --input - and --output -")
    parser.add_argument(
        "--follow", action="store_true", help="with --output -: answer lines as they are appended to --input"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, with all scores")
    options = parser.parse_intermixed_args(arguments)
    if options.input:  # a shell replaces a pattern by the names of several files
        options.input += [argument for argument in options.texts if _is_file(argument)]
        options.texts = [argument for argument in options.texts if not _is_file(argument)]
    _check_tables(options)
    if options.output:
        return predict_tables(options)
    model = _open_model(options.model, options.name)
    if options.input:
        if options.pair:
            raise OptionError("--pair is for texts: a file has a column text_pair")
        rows = read_inputs(options.input, "--input", model.get_task(), parse_data_options(options.texts), _warn)
        inputs: Iterable[Any] = rows
    else:
        texts = [_check_text(text) for text in options.texts] or list(_read_standard_input())
        if options.pair and len(options.pair) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(options.pair)} of --pair: give one per text")
        pairs = [_check_text(text) for text in options.pair]
        inputs = list(zip(texts, pairs, strict=True)) if pairs else texts
    _print_predictions(model, inputs, options.json)
    return 0


def _is_file(argument: str) -> bool:
    try:
        return not is_data_option(argument) and Path(argument).exists()
    except (OSError, ValueError):  # a text may be too long for a path, or have a zero byte
        return False


def _check_tables(options: Any) -> None:
    if options.output and not options.input:
        raise OptionError("--output needs --input: it writes the rows of files with their answers")
    for name in ("format", "follow"):
        if getattr(options, name) and not options.output:
            raise OptionError(f"--{name} needs --output -: it writes rows with their answers")
    if "-" in options.input and not options.output:
        raise OptionError("--input - reads a table and needs --output -; texts a line are read without --input")


@dataclass(frozen=True)
class _Model:
    """A model of this machine or of a server; its task is only loaded when it is needed."""

    predict: Callable[[Sequence[Any]], Answers]
    get_task: Callable[[], Task]


def _open_model(model: str, name: str | None) -> _Model:
    if model.startswith(("http://", "https://")):
        return _Model(lambda inputs: predict_remote(model, inputs, name), lambda: _load_remote_task(model, name))
    if name is not None:
        raise OptionError("--name needs a server's address: a folder has one model")
    set_library_environment()
    skip_compile_cache()
    predictor = Predictor(find_artifact(Path(model)))
    return _Model(predictor.predict, lambda: predictor.task)


def _load_remote_task(url: str, name: str | None) -> Task:
    lineage = lineage_remote(url, name)
    return load_task(str(lineage["task"]), {}, lineage["labels"])


def _print_predictions(model: _Model, inputs: Iterable[Any], as_json: bool) -> None:
    """Print a line for each input, and warn of those that were cut."""
    iterator, total, truncated = iter(inputs), 0, 0
    format_answer: Callable[[Mapping[str, Any]], str] | None = None
    while chunk := list(islice(iterator, CHUNK_ROWS)):
        predictions = model.predict(chunk)
        if not as_json and format_answer is None:
            format_answer = _get_formatter(model)
        for value, prediction in zip(chunk, predictions, strict=True):
            if format_answer is None:
                print(json.dumps({**_describe_input(value), **prediction}, ensure_ascii=False))
            else:
                print(f"{format_answer(prediction)}\t{_show_input(value)}")
        total += len(predictions)
        truncated += sum("truncated" in prediction for prediction in predictions)
    if truncated:
        _warn(f"{truncated} of {total} texts were truncated to the model's maximum length")


def _get_formatter(model: _Model) -> Callable[[Mapping[str, Any]], str]:
    """Return how the task shows an answer; as JSON if the task of a served model is not installed here."""
    try:
        return model.get_task().format_answer
    except (FastServeError, KeyError):
        return lambda answer: json.dumps(answer, ensure_ascii=False)


def _describe_input(value: Any) -> Row:
    return dict(value) if isinstance(value, Mapping) else {"text": value if isinstance(value, str) else value[0]}


def _show_input(value: Any) -> str:
    """Return an input as part of a line."""
    if isinstance(value, Mapping):
        parts = [part if isinstance(part, str) else " ".join(map(str, part)) for part in value.values() if part]
        return "\t".join(" ".join(part.splitlines()) for part in parts)
    return str(value if isinstance(value, str) else value[0])


# -- reading -----------------------------------------------------------------------------------------


def _read_standard_input() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"standard input, line {number}: byte {error.start + 1} is not UTF-8: write the texts to a file, "
                "and name its encoding: --input FILE.txt data.encoding=NAME"
            ) from error
        if text.strip():
            yield text.rstrip("\r\n")


def _check_text(text: str) -> str:
    """Return an argument; those that are not text in the terminal's encoding hold surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"an argument is not text in the terminal's encoding: {text!a}") from error
    with suppress(OSError):  # a text may be too long for a path
        if Path(text).is_file():
            _warn(f"'{text}' is predicted for as a text; --input {text} reads the file")
    return text


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
