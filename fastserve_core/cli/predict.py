"""``fastserve predict RUN_OR_ARTIFACT_OR_URL "text" …``: the model's answers, one a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import find_artifact
from fastserve_core.cli.arguments import parser
from fastserve_core.errors import InvalidData, InvalidOption
from fastserve_core.inference.predictor import Predictor
from fastserve_core.processes.environment import library_environment
from fastserve_core.serving.client import predict_remote


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
    answers = _predict_lines(given.model, given.name, inputs)
    for text, answer in zip(texts, answers, strict=True):
        print(
            json.dumps({"text": text, **answer}, ensure_ascii=False)
            if given.json
            else f"{format_prediction(answer)}\t{text}"
        )
    if cut := sum("truncated" in one for one in answers):
        print(f"warning: of {len(answers)} texts {cut} are longer than the model reads, and were cut", file=sys.stderr)
    return 0


def _predict_lines(model: str, name: str | None, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    if model.startswith(("http://", "https://")):
        return predict_remote(model, inputs, name)
    if name is not None:
        raise InvalidOption("--name is for a server's address: a folder has one model")
    library_environment()
    return Predictor(find_artifact(Path(model))).predict(inputs)


def format_prediction(answer: Mapping[str, Any]) -> str:
    """An answer in a few words, whichever task it is of."""
    if "label" in answer:
        return f"{answer['label']}\t{answer['score']:.3f}"
    if "entities" in answer:
        found = [f"{one['text']} ({one['type']})" for one in answer["entities"]]
        return ", ".join(found) or " ".join(answer["tags"])
    return str(answer.get("text", answer))
