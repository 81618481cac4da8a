"""``fastserve predict RUN_OR_ARTIFACT_OR_URL "text" …``: the model's answers, one a line."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import find_artifact
from fastserve_core.cli.arguments import parser
from fastserve_core.errors import FastServeError, InvalidData, InvalidOption
from fastserve_core.inference.predictor import Predictor
from fastserve_core.processes.environment import library_environment
from fastserve_core.serving.client import lineage_remote, predict_remote
from fastserve_core.tasks.load import load_task


def main(arguments: Sequence[str]) -> int:
    options = parser("predict", "Answer texts with a model; without texts, each line of the standard input.")
    options.add_argument("model", metavar="RUN_OR_ARTIFACT_OR_URL", help="a folder, or a server's http://HOST:PORT")
    options.add_argument("--name", help="of a server's models the one to ask")
    options.add_argument("texts", nargs="*", metavar="TEXT")
    options.add_argument("--pair", action="append", default=[], metavar="TEXT", help="the second text, once for each")
    options.add_argument("--json", action="store_true", help="one JSON object a line, with all scores")
    given = options.parse_intermixed_args(arguments)
    texts = given.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if given.pair and len(given.pair) != len(texts):
        raise InvalidData(f"{len(texts)} texts but {len(given.pair)} of --pair: give one for each")
    inputs = list(zip(texts, given.pair, strict=True)) if given.pair else texts
    answers, format_answer = _predict(given.model, given.name, inputs)
    for text, answer in zip(texts, answers, strict=True):
        if given.json:
            print(json.dumps({"text": text, **answer}, ensure_ascii=False))
        else:
            print(f"{format_answer(answer)}\t{text}")
    if cut := sum("truncated" in one for one in answers):
        print(f"warning: of {len(answers)} texts {cut} are longer than the model reads, and were cut", file=sys.stderr)
    return 0


Answers = list[dict[str, Any]]


def _predict(model: str, name: str | None, inputs: Sequence[Any]) -> tuple[Answers, Callable[[Mapping[str, Any]], str]]:
    """Return the answers, and how the model's task shows one in a line."""
    if model.startswith(("http://", "https://")):
        return predict_remote(model, inputs, name), lambda answer: _remote_formatter(model, name)(answer)
    if name is not None:
        raise InvalidOption("--name is for a server's address: a folder has one model")
    library_environment()
    predictor = Predictor(find_artifact(Path(model)))
    return predictor.predict(inputs), predictor.task.format_answer


@functools.cache
def _remote_formatter(url: str, name: str | None) -> Callable[[Mapping[str, Any]], str]:
    """Return how the task of a served model shows an answer; as JSON if the task is not installed here."""
    try:
        lineage = lineage_remote(url, name)
        return load_task(str(lineage["task"]), {}, lineage["labels"]).format_answer
    except (FastServeError, KeyError):
        return lambda answer: json.dumps(answer, ensure_ascii=False)
