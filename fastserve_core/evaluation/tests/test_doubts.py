"""Rows that a trained model doubts: those whose labels it contradicts with confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastserve_core.artifacts import Artifact, Store
from fastserve_core.config import DataOptions
from fastserve_core.data import prepare_rows
from fastserve_core.evaluation import doubts
from fastserve_core.evaluation.doubts import DoubtedRows, read_doubted
from fastserve_core.inference import Predictor
from fastserve_core.tasks import Row
from fastserve_server.tests.conftest import biased, make_artifact


@pytest.fixture(scope="module")
def positive(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model that answers ``positive`` to everything, with a probability above 0.99."""
    folder = tmp_path_factory.mktemp("model")
    return biased(make_artifact(folder / "plain", "text_classification"), folder / "positive", -6.0)


def make_rows(count: int) -> list[Row]:
    """Rows of many lengths, every third of which has the label that the model contradicts."""
    labels = ("negative", "positive", "positive")
    return [{"text": "word " * (7 * one % 23) + f"number {one}", "label": labels[one % 3]} for one in range(count)]


def test_the_rows_are_found_in_whatever_order_they_are_scored(
    positive: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(positive, threads=1)
    data = prepare_rows({"train": make_rows(40)}, DataOptions(), predictor.task, Store(tmp_path))
    found = DoubtedRows(predictor.task)
    scores = predictor.score(data.rows("train"), batch_size=4, watch=found.watch("train"))
    rows = read_doubted(found.list_worst(), data, predictor.task)
    wrong = {row["text"] for row in data.rows("train") if row["label"] == "negative"}
    assert {row["input"]["text"] for row in rows} == wrong
    assert len(rows) == len(wrong) == round((1 - scores["accuracy"]) * len(data.rows("train")))
    assert {(row["split"], row["label"], row["answer"]) for row in rows} == {("train", "negative", "positive")}
    assert all("label" not in row["input"] for row in rows)
    monkeypatch.setattr(doubts, "MAX_CHARACTERS", 4)
    (short, *_) = read_doubted(found.list_worst(), data, predictor.task)
    assert (short["input"]["text"][-1], len(short["input"]["text"])) == ("…", 5)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


def test_only_the_most_confident_ones_are_listed(positive: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(positive, threads=1)
    for most, least, expected in ((3, 0.8, 3), (20, 0.9999999, 0)):
        monkeypatch.setattr(doubts, "MAX_ROWS", most)
        monkeypatch.setattr(doubts, "MIN_SCORE", least)
        found = DoubtedRows(predictor.task)
        predictor.score(make_rows(30), watch=found.watch("test"))
        assert len(found.list_worst()) == expected


def test_the_confidence_is_that_of_the_answers(positive: Artifact) -> None:
    predictor, rows = Predictor(positive, threads=1), make_rows(6)
    predictor.task.calibration = {"temperature": np.asarray(2.0)}
    found = DoubtedRows(predictor.task)
    predictor.score(rows, watch=found.watch("test"))
    answers = predictor.predict(rows)
    for row in found.list_worst():
        assert row["score"] == pytest.approx(answers[row["row"]]["score"], abs=1e-4)
    assert len(found.list_worst()) == 2


@pytest.mark.parametrize("task", ["token_classification", "causal_lm"])
def test_other_tasks_have_no_doubts(tmp_path: Path, task: str) -> None:
    predictor = Predictor(make_artifact(tmp_path / task, task), threads=1)
    row: Row = {"tokens": ["a"], "tags": ["O"]} if task == "token_classification" else {"text": "a film"}
    found = DoubtedRows(predictor.task)
    predictor.score([row], watch=found.watch("test"))
    assert found.list_worst() == []
