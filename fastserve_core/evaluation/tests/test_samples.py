"""Answers to a few validation rows, before a training and after each stage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastserve_core.artifacts import Artifact, Store
from fastserve_core.config import DataOptions
from fastserve_core.data import Dataset, prepare_rows
from fastserve_core.evaluation.samples import (
    SAMPLE_ROWS,
    answer_before_in_process,
    answer_samples,
    read_samples,
)
from fastserve_core.inference import Predictor
from fastserve_server.tests.conftest import make_artifact


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("samples") / "writer", "causal_lm")


def prepare(rows: list[dict[str, Any]], predictor: Predictor, folder: Path) -> Dataset:
    return prepare_rows({"train": rows, "validation": rows, "test": rows}, DataOptions(), predictor.task, Store(folder))


def test_conversations_are_answered_without_their_last_message(writer: Artifact, tmp_path: Path) -> None:
    predictor = Predictor(writer, threads=1)
    rows = [{"instruction": f"the film {number}", "output": f"answer {number}"} for number in range(SAMPLE_ROWS + 3)]
    data = prepare(rows, predictor, tmp_path)
    samples = answer_samples(predictor, data.rows("validation"))
    assert [(one["input"], one["expected"]) for one in samples] == [
        (row["instruction"], row["output"]) for row in rows[:SAMPLE_ROWS]
    ]
    messages = [{"messages": [{"role": "user", "content": row["instruction"]}]} for row in rows[:SAMPLE_ROWS]]
    assert [one["answer"] for one in samples] == [one["text"] for one in predictor.predict(messages)]
    task = {"name": "causal_lm", "options": dict(writer.manifest.task_options), "labels": []}
    (writer.folder / "fastserve.json").rename(tmp_path / "kept")  # a checkpoint has no manifest
    before = answer_before_in_process(str(writer.folder), str(data.folder), task, 1, "")
    (tmp_path / "kept").rename(writer.folder / "fastserve.json")
    assert before == [one["answer"] for one in samples]


def test_plain_texts_have_no_samples(writer: Artifact, tmp_path: Path) -> None:
    predictor = Predictor(writer, threads=1)
    assert answer_samples(predictor, prepare([{"text": "a film"}], predictor, tmp_path).rows("validation")) == []


def test_few_rows_are_scored_at_once(writer: Artifact, tmp_path: Path) -> None:
    predictor, sizes = Predictor(writer, threads=1), list[int]()
    rows = prepare([{"text": f"a film {number}"} for number in range(9)], predictor, tmp_path).rows("validation")
    predictor.score(rows, watch=lambda numbers, outputs, batch: sizes.append(len(batch)))
    assert sizes == [4, 4, 1]


def test_the_answers_of_all_stages_stand_together() -> None:
    row = {"input": "a", "expected": "b"}
    stages = [
        SimpleNamespace(
            stage="train", plugin="torch_ddp", measures={"samples": [{**row, "answer": "d", "before": "c"}]}
        ),
        SimpleNamespace(stage="compress", plugin="prune", measures={}),
        SimpleNamespace(stage="compress", plugin="distill", measures={"samples": [{**row, "answer": "e"}]}),
    ]
    answers = {"before": "c", "train torch_ddp": "d", "compress distill": "e"}
    assert read_samples(stages) == [{**row, "answers": answers}]
