"""``fastserve predict RUN_OR_ARTIFACT_OR_URL "text" …``: print a model's predictions, one per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import find_artifact
from fastserve_core.cli.arguments import make_parser
from fastserve_core.errors import DataError, FastServeError, OptionError
from fastserve_core.inference.predictor import Predictor
from fastserve_core.processes.environment import set_library_environment
from fastserve_core.serving.client import lineage_remote, predict_remote
from fastserve_core.tasks.load import load_task


def main(arguments: Sequence[str]) -> int:
    """Print the predictions; return the exit code."""
    parser = make_parser("predict", "Predict for texts with a model; without texts, for each line of standard input.")
    parser.add_argument("model", metavar="RUN_OR_ARTIFACT_OR_URL", help="a folder, or a server's http://HOST:PORT")
    parser.add_argument("--name", help="the model's name, for a server with several")
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument("--pair", action="append", default=[], metavar="TEXT", help="the second text, once per text")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, with all scores")
    options = parser.parse_intermixed_args(arguments)
    texts = options.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if options.pair and len(options.pair) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(options.pair)} of --pair: give one per text")
    inputs = list(zip(texts, options.pair, strict=True)) if options.pair else texts
    predictions, get_formatter = _predict(options.model, options.name, inputs)
    format_answer = json.dumps if options.json else get_formatter()
    for text, prediction in zip(texts, predictions, strict=True):
        print(
            json.dumps({"text": text, **prediction}, ensure_ascii=False)
            if options.json
            else f"{format_answer(prediction)}\t{text}"
        )
    if truncated := sum("truncated" in prediction for prediction in predictions):
        print(
            f"warning: {truncated} of {len(predictions)} texts were truncated to the model's maximum length",
            file=sys.stderr,
        )
    return 0


Answers = list[dict[str, Any]]
Formatter = Callable[[Mapping[str, Any]], str]


def _predict(model: str, name: str | None, inputs: Sequence[Any]) -> tuple[Answers, Callable[[], Formatter]]:
    """Return the answers, and how to get what formats one as a line: a served model's task has to be asked for."""
    if model.startswith(("http://", "https://")):
        return predict_remote(model, inputs, name), lambda: _remote_formatter(model, name)
    if name is not None:
        raise OptionError("--name needs a server's address: a folder has one model")
    set_library_environment()
    predictor = Predictor(find_artifact(Path(model)))
    return predictor.predict(inputs), lambda: predictor.task.format_answer


def _remote_formatter(url: str, name: str | None) -> Formatter:
    """Return how the task of a served model shows an answer; as JSON if the task is not installed here."""
    try:
        lineage = lineage_remote(url, name)
        return load_task(str(lineage["task"]), {}, lineage["labels"]).format_answer
    except (FastServeError, KeyError):
        return lambda answer: json.dumps(answer, ensure_ascii=False)
