"""Instructions of several kinds, with their answers, made of labelled sets."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.sources import files, write_lines

ROWS = {"train": 900, "validation": 60, "test": 150}
MAX_CHARACTERS = 700
"""The context of a question at most: a paragraph of average length."""


def instructions(data: Path, scratch: Path) -> list[str]:
    """Draw rows of ``instruction``, ``input`` and ``output``: answers to questions, summaries, names of intents."""
    rows = [*_questions(data / "xquad.en.json"), *_summaries(data), *_intents(data / "banking77_train.csv")]
    random.Random(0).shuffle(rows)
    paths, begin = {}, 0
    for name, count in ROWS.items():
        paths[name] = write_lines(scratch / f"instructions-{name}.jsonl", rows[begin : begin + count])
        begin += count
    return files(**paths)


def _row(instruction: str, text: str, output: str) -> dict[str, str]:
    return {"instruction": instruction, "input": text, "output": output}


def _questions(path: Path) -> list[dict[str, str]]:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    found = []
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        if len(paragraph["context"]) <= MAX_CHARACTERS:
            for question in paragraph["qas"][:1]:
                answer = question["answers"][0]["text"]
                found.append(_row(f"Answer by the text: {question['question']}", paragraph["context"], answer))
    return found


def _summaries(data: Path) -> list[dict[str, str]]:
    lines = (data / "scitldr_a_train.jsonl").read_text(encoding="utf-8").splitlines()
    papers: list[Mapping[str, Any]] = [json.loads(line) for line in lines]
    texts = [(" ".join(paper["source"]), paper["target"][0]) for paper in papers]
    return [
        _row("Summarize the abstract in one sentence.", text[:MAX_CHARACTERS], target) for text, target in texts[:500]
    ]


def _intents(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::20]
    return [
        _row("What does the customer of the bank want?", row["text"], row["category"].replace("_", " ")) for row in rows
    ]
