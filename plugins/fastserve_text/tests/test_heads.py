"""The head of a checkpoint that was trained elsewhere follows the names of the labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import make_model

from fastserve_core.tasks import load_task
from fastserve_text.heads import describe_head, match_labels

WORDS = ["a", "dull", "film", "with", "splendid", "actors", "in", "it"]
TEXT = "a film with splendid actors"


@pytest.mark.parametrize(
    ("own", "labels", "rows"),
    [
        (["up", "down"], ["down", "up"], [1, 0]),
        (["b", "a", "c"], ["a", "b"], [1, 0]),
        (["b", "a"], ["a", "b", "c"], [1, 0, None]),
        (["x", "y"], ["a", "b"], [None, None]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["0", "2"], [0, 2]),
        (["LABEL_0", "LABEL_1"], ["1", "2"], [None, None]),
        (["LABEL_0", "LABEL_1"], ["LABEL_1", "LABEL_0"], [1, 0]),
        (["LABEL_0"], ["0", "1"], [None, None]),
        (["POSITIVE", "NEGATIVE"], ["negative", "positive"], [1, 0]),
        (["Us", "us"], ["US", "them"], [None, None]),
    ],
)
def test_rows_follow_the_names_of_the_labels(own: list[str], labels: list[str], rows: list[int | None]) -> None:
    assert match_labels(own, labels) == rows


def scores(folder: Path, labels: list[str], task: str = "text_classification") -> torch.Tensor:
    torch.manual_seed(3)
    loaded = load_task(task, {}, labels)
    row = {"text": TEXT, "tokens": TEXT.split()}
    model = loaded.build(folder).eval()
    batch = loaded.collate(loaded.encoder(folder)([row]))
    inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
    if model.config.model_type in ("roberta", "distilbert"):
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return model(**inputs).logits.flatten(0, -2)  # type: ignore[no-any-return]


HEADS = {"text_classification": "ForSequenceClassification", "token_classification": "ForTokenClassification"}


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("task", "family"),
    [("text_classification", "roberta"), ("text_classification", "llama"), ("token_classification", "distilbert")],
)
def test_a_label_scores_the_same_wherever_it_stands(task: str, family: str, tmp_path: Path) -> None:
    own = ["spring", "autumn", "winter"]
    make_model(family, tmp_path, HEADS[task], WORDS, own)
    before = scores(tmp_path, own, task)
    for labels in (["autumn", "spring", "winter"], ["winter", "spring"], ["autumn", "summer", "spring", "winter"]):
        after = scores(tmp_path, labels, task)
        assert after.shape[1] == len(labels)
        for column, label in enumerate(labels):
            if label in own:
                torch.testing.assert_close(after[:, column], before[:, own.index(label)])


def test_a_new_head_is_the_same_at_each_call_and_has_nothing_of_the_old_one(tmp_path: Path) -> None:
    make_model("bert", tmp_path, "ForSequenceClassification", WORDS, ["a", "b"])
    task = load_task("text_classification", {}, ["x", "y"])
    heads = []
    for _ in range(2):
        torch.manual_seed(1)
        heads.append(task.build(tmp_path).classifier.weight)
    assert torch.equal(*heads)
    torch.manual_seed(1)
    old = load_task("text_classification", {}, ["a", "b"]).build(tmp_path).classifier.weight
    assert not torch.isclose(heads[0], old).any()
    assert "is new" in task.head_report
    assert task.build(tmp_path).config.label2id == {"x": 0, "y": 1}


def test_heads_of_other_tasks_and_regressions_are_not_taken_for_classifiers(tmp_path: Path) -> None:
    make_model("bert", tmp_path / "tagger", "ForTokenClassification", WORDS, ["a", "b"])
    make_model("bert", tmp_path / "stars", "ForSequenceClassification", WORDS, problem_type="regression", num_labels=1)
    task = load_task("text_classification", {}, ["a", "b"])
    tags = load_task("token_classification", {}, ["a", "b"]).build(tmp_path / "tagger").classifier.weight
    built = task.build(tmp_path / "tagger")
    assert not torch.isclose(built.classifier.weight, tags).any()
    built = task.build(tmp_path / "stars")
    assert built.classifier.weight.shape == (2, 64)
    assert "is new" in task.head_report
    assert built.config.problem_type is None


def test_the_report_names_the_use_of_the_head() -> None:
    assert describe_head(["n", "p"], ["n", "p"], [0, 1]) == "the checkpoint's head is kept: n, p"
    assert describe_head(["LABEL_0", "LABEL_1"], ["0", "1"], [0, 1]).endswith(
        "which the checkpoint calls LABEL_0, LABEL_1"
    )
    mixed = describe_head(["p", "o"], ["n", "p"], [None, 0])
    assert mixed == "the checkpoint's head is reordered; rows by name: p; new rows: n; without o"
