"""The task reads, learns and answers as it says; everything else is FastServe's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fastserve_multilabel import MultiLabel, Options
from fastserve_multilabel.routes import TagRequest

from fastserve_core import FastServe
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import UNLABELLED, Encoded, LossOptions, PredictionRoute, load_task

TOPICS = {"sport": "the match was won in the last minute", "money": "shares and prices fell", "film": "a moving film"}
TINY = {"model": "bert", "dim": 32, "num_heads": 2, "num_layers": 2, "hidden_size": 64, "vocab_size": 400}


def rows() -> list[dict[str, object]]:
    """Texts about none to all of the topics."""
    chosen = [[name for place, name in enumerate(TOPICS) if number >> place & 1] for number in range(8)] * 30
    return [
        {"text": f"{number} says: " + " and ".join(TOPICS[name] for name in names), "labels": names}
        for number, names in enumerate(chosen)
    ]


@pytest.fixture
def task() -> MultiLabel:
    return load_task("multilabel", {"threshold": 0.5}, ["film", "money", "sport"])  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("given", "read"),
    [("sport|film", ["film", "sport"]), (["money"], ["money"]), ("", []), (None, []), (" sport | sport ", ["sport"])],
)
def test_labels_are_a_list_or_text_with_bars(task: MultiLabel, given: object, read: list[str]) -> None:
    row = {"text": "a text", "labels": given}
    assert task.check(row) is None
    assert row["labels"] == read


def test_unusable_rows_are_refused(task: MultiLabel) -> None:
    assert task.check({"text": "a text", "labels": 3}) == "'labels' is int, neither a list nor text"
    with pytest.raises(DataError, match="none of the 1 training rows has a label"):
        task.collect_labels([{"text": "a", "labels": []}])
    with pytest.raises(OptionError, match="threshold must lie between 0 and 1"):
        Options(threshold=1.0)


def test_the_loss_is_torchs_and_rows_without_labels_add_nothing(task: MultiLabel) -> None:
    logits, labels = torch.randn(3, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [UNLABELLED] * 3])
    total, denominator = task.loss({"logits": logits}, {"labels": labels}, LossOptions())
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:2], labels[:2], reduction="sum")
    torch.testing.assert_close(total, expected)
    assert int(denominator) == 9


def test_scores_and_answers(task: MultiLabel) -> None:
    batch = [Encoded({"input_ids": [1]}, target) for target in ([1, 0, 1], [0, 1, 0])]
    outputs = {"logits": np.array([[3.0, -3.0, 3.0], [3.0, -3.0, -3.0]])}
    answers = task.decode(outputs, batch)
    assert [answer["labels"] for answer in answers] == [["film", "sport"], ["film"]]
    assert all(set(answer) == set(task.answer_schema()["required"]) for answer in answers)
    scores = task.score(task.batch_statistics(outputs, batch))
    assert scores == {"f1_micro": pytest.approx(2 * 2 / (2 * 2 + 1 + 1)), "subset_accuracy": 0.5}


def test_its_route_gives_the_best_labels_first(task: MultiLabel) -> None:
    (tag,) = task.routes(Path())
    assert isinstance(tag, PredictionRoute)
    answer = {"labels": ["film", "sport"], "scores": {"film": 0.6, "money": 0.1, "sport": 0.9}}
    assert tag.inputs(TagRequest(["a text"])) == ["a text"]
    assert tag.response(TagRequest(["a text"], limit=3), [answer], "m").tags == [["sport", "film"]]
    assert tag.response(TagRequest(["a text"], limit=1), [answer], "m").tags == [["sport"]]
    with pytest.raises(DataError, match="limit must be at least 1, not 0"):
        tag.inputs(TagRequest([], limit=0))


def test_the_python_object_takes_its_rows_and_its_labels(tmp_path: Path) -> None:
    config = {**TINY, "task": "multilabel", "threshold": 0.4, "home": str(tmp_path / "home"), "engine": "torch"}
    fs = FastServe(config, show=False)
    found = fs.train(rows(), epochs=4, lr=3e-3)
    assert found.measures["quality"]["f1_micro"] > 0.7
    texts, labels = [row["text"] for row in rows()], [row["labels"] for row in rows()]
    again = fs.train(texts, labels, epochs=4, lr=3e-3)
    assert again.status == "reused" and again.artifact == found.artifact
    (answer,) = fs.predict([TOPICS["sport"]])
    assert set(answer) == {"labels", "scores"} and set(answer["scores"]) == set(TOPICS)
    assert FastServe.load(found.artifact, show=False).predict([TOPICS["sport"]]) == [answer]
