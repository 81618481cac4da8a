"""One pass for the intent and the slots: encoding, loss, answers and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from fastserve_core.inference.predictor import join_outputs
from fastserve_core.tasks import IGNORE_INDEX, UNLABELLED, Encoded, LossOptions, Task, load_task

LABELS = ["intent:book", "intent:bye", "slot:B-city", "slot:I-city", "slot:O"]
ROWS: list[dict[str, Any]] = [
    {"tokens": ["fly", "to", "New", "York"], "intent": "book", "tags": ["O", "O", "B-city", "I-city"]},
    {"tokens": ["bye"], "intent": "bye", "tags": ["O"]},
    {"tokens": ["a", "joke"], "intent": "oos", "tags": ["O", "O"]},
]
WIDTH = 4


@pytest.fixture
def task() -> Task:
    return load_task("joint_intent_slots", {"max_length": 16, "stride": 4}, LABELS)


def right_outputs(task: Task, window: Encoded, target: list[int]) -> dict[str, Any]:
    """Outputs of one window that give it its labels."""
    logits = np.full((1, len(window), len(task.labels)), -5.0, dtype=np.float32)
    for place, label in enumerate(target):
        if label >= 0:
            logits[0, place, label] = 5
    return {"logits": logits, "last_hidden_state": np.ones((1, len(window), WIDTH), dtype=np.float32)}


def outputs_of(task: Task, batch: list[Encoded]) -> dict[str, Any]:
    passes = []
    for encoded in batch:
        layout, frame = task.options.layout, encoded.decode_state.frame
        whole = Encoded({"input_ids": encoded.inputs["input_ids"], "target": encoded.target})
        for window, start in zip(task.windows(encoded), layout.starts(len(encoded), frame), strict=True):
            passes.append(right_outputs(task, window, list(layout.cut(whole, frame, start)["target"])))
    return join_outputs(passes)


def test_the_first_token_has_the_intent_and_words_have_tags(task: Task, tiny_bert: Path) -> None:
    first, second, outside = task.encoder(tiny_bert)(ROWS)
    assert task.labels[first.target[0]] == "intent:book"
    assert [task.labels[label] for label in first.target[1:] if label >= 0] == [
        "slot:O", "slot:O", "slot:B-city", "slot:I-city",
    ]  # fmt: skip
    assert second.target[0] == 1
    assert outside.target[0] == IGNORE_INDEX  # an intent that the model does not have
    (unlabelled,) = task.encoder(tiny_bert)([{"tokens": ["bye"], "intent": None, "tags": None, "slots": None}])
    assert {label for label in unlabelled.target if label != IGNORE_INDEX} == {UNLABELLED}
    assert task.encoder(tiny_bert)([task.read_input("bye")])[0].target is None


def test_the_answer_has_everything_side_by_side(task: Task, tiny_bert: Path) -> None:
    text = "👩‍🚀 fly to New York!"
    row = task.read_input(text)
    tags = ["B-city" if word == "New" else "I-city" if word == "York" else "O" for word in row["tokens"]]
    batch = task.encoder(tiny_bert)([{**row, "intent": "book", "tags": tags}])
    (answer,) = task.decode(outputs_of(task, batch), batch)
    jsonschema.validate(answer, task.answer_schema())
    assert answer["intent"]["name"] == "book"
    assert [intent["name"] for intent in answer["intents"]] == ["book", "bye"]
    assert answer["intents"][0] == answer["intent"]
    (slot,) = answer["slots"]
    assert (slot["slot"], slot["value"], text[slot["start"] : slot["end"]]) == ("city", "New York", "New York")
    assert "in_scope" not in answer  # nothing was calibrated
    assert task.format_answer(answer) == f"book\t{answer['intent']['score']:.3f}\tcity=New York"
    assert task.answer_columns(answer)["intent"] == "book"
    assert [tensor.name for tensor in task.output_tensors()] == ["intent", "score", "slots"]


def test_long_texts_are_read_in_windows_and_nothing_is_lost(task: Task, tiny_bert: Path) -> None:
    rows = [
        {"tokens": ROWS[0]["tokens"] * count, "tags": ROWS[0]["tags"] * count, "intent": "book"} for count in (1, 20)
    ]
    batch = task.encoder(tiny_bert)(rows)
    assert len(task.windows(batch[1])) > 3
    answers = task.decode(outputs_of(task, batch), batch)
    assert [len(answer["slots"]) for answer in answers] == [1, 20]
    assert all(answer["intent"]["name"] == "book" for answer in answers)
    examples = task.examples(batch, "validation")
    statistics = [
        one
        for example in examples
        for one in task.batch_statistics(right_outputs(task, example, list(example.target)), [example])
    ]
    assert len(statistics) > 4
    assert task.score(statistics) == {"intent": 1.0, "slot_f1": 1.0, "whole": 1.0}


def test_texts_without_slots_have_scores_of_intents_alone(tiny_bert: Path) -> None:
    task = load_task("joint_intent_slots", {}, LABELS[:2])
    batch = task.encoder(tiny_bert)([{"tokens": ["bye"], "intent": "bye"}])
    unlabelled = {"tokens": ["bye"], "intent": None, "tags": None, "slots": None}
    assert list(task.encoder(tiny_bert)([unlabelled])[0].target).count(UNLABELLED) == 1  # a teacher has no tags either
    outputs = outputs_of(task, batch)
    assert task.score(task.batch_statistics(outputs, batch)) == {"intent": 1.0}
    assert task.decode(outputs, batch)[0]["slots"] == []


def test_unknown_labels_are_errors(task: Task, tiny_bert: Path) -> None:
    rows = [{"tokens": ["to", "Rome"], "intent": "new", "tags": ["O", "B-new"]}, ROWS[1]]
    batch = task.encoder(tiny_bert)(rows)
    scores = task.score(task.batch_statistics(outputs_of(task, batch), batch))
    assert scores == {"intent": 0.5, "slot_f1": 0.0, "whole": 0.5}
    assert task.row_labels(rows[0]) == {"intent:new", "slot:O", "slot:B-new"}
    assert task.row_labels(ROWS[2]) == {"slot:O"}


def test_the_decision_on_scope_is_scored_beside_the_intent(task: Task, tiny_bert: Path) -> None:
    batch = task.encoder(tiny_bert)(ROWS)
    outputs = outputs_of(task, batch)
    outputs["logits"][2, 0, :2] = [0.1, 0.0]  # the text out of scope: no intent is likely
    task.calibration = {"method": np.array("softmax"), "threshold": np.array(2.0), "slope": np.array(1.0)}
    scores = task.score(task.batch_statistics(outputs, batch))
    assert scores == {
        "intent": 1.0, "slot_f1": 1.0, "whole": 1.0, "in_scope": 1.0, "oos_recall": 1.0, "open_f1": 1.0, "auroc": 1.0,
        "fpr95": 0.0,
    }  # fmt: skip
    assert set(scores) == set(task.metrics)
    answers = task.decode(outputs, batch)
    assert [answer["in_scope"] >= 0.5 for answer in answers] == [True, True, False]
    assert answers[2]["intent"]["name"] == "book"  # not overwritten
    assert "out of scope" in task.format_answer(answers[2])
    for answer in answers:
        jsonschema.validate(answer, task.answer_schema())
    assert task.tensor_values("in_scope", answers) == [answer["in_scope"] for answer in answers]
    assert [tensor.name for tensor in task.output_tensors()] == ["intent", "score", "in_scope", "slots"]
    task.calibration["threshold"] = np.array(1e9)  # everything is out of scope
    scores = task.score(task.batch_statistics(outputs, batch))
    assert (scores["intent"], scores["in_scope"], scores["oos_recall"]) == (1.0, 0.0, 1.0)
    assert scores["open_f1"] == pytest.approx(0.5 / 3), "the third class has the precision 1/3 and the recall 1"


def test_two_models_agree_whatever_their_scores_are(task: Task) -> None:
    def answer(name: str, in_scope: float, *slots: tuple[str, int, int]) -> dict[str, Any]:
        found = [{"slot": slot, "start": start, "end": end, "score": in_scope} for slot, start, end in slots]
        return {"intent": {"name": name, "score": in_scope}, "in_scope": in_scope, "slots": found}

    first = answer("a", 0.9, ("city", 0, 3))
    assert task.agrees(first, answer("a", 0.6, ("city", 0, 3)))
    others = [answer("b", 0.9, ("city", 0, 3)), answer("a", 0.4, ("city", 0, 3)), answer("a", 0.9, ("city", 0, 4))]
    assert not any(task.agrees(first, other) for other in others)


def test_a_request_may_ask_for_fewer_intents(task: Task, tiny_bert: Path) -> None:
    batch = task.encoder(tiny_bert)(ROWS[:1])
    fewer = task.with_options(task.read_parameters({"top_k": 1}))
    assert len(fewer.decode(outputs_of(task, batch), batch)[0]["intents"]) == 1
    assert len(task.decode(outputs_of(task, batch), batch)[0]["intents"]) == 2


def test_each_text_counts_alike_however_many_words_it_has(task: Task) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, len(LABELS))
    labels = torch.tensor([[0, 4, 4, 2, -100], [1, 4, -100, -100, -100]])
    total, denominator = task.loss({"logits": logits}, {"labels": labels}, LossOptions())
    losses = -torch.log_softmax(logits, -1)
    words = losses[0, [1, 2, 3], [4, 4, 2]].mean() + losses[1, 1, 4]
    assert torch.allclose(total, losses[0, 0, 0] + losses[1, 0, 1] + words)
    assert denominator == 2
    parts = [
        task.loss({"logits": logits[row : row + 1]}, {"labels": labels[row : row + 1]}, LossOptions()) for row in (0, 1)
    ]
    assert torch.allclose(sum(part.total for part in parts), total)
    ignored = task.loss({"logits": logits}, {"labels": torch.full((2, 5), IGNORE_INDEX)}, LossOptions())
    assert (float(ignored.total), float(ignored.denominator)) == (0.0, 0.0)
    unlabelled = task.loss({"logits": logits}, {"labels": torch.full((2, 5), UNLABELLED)}, LossOptions())
    assert (float(unlabelled.total), float(unlabelled.denominator)) == (0.0, 2.0)


def test_the_weight_of_slots_is_an_option() -> None:
    light, heavy = (load_task("joint_intent_slots", {"slot_weight": weight}, LABELS) for weight in (1.0, 3.0))
    logits, labels = torch.zeros(1, 2, len(LABELS)), torch.tensor([[0, 4]])
    first, second = (task.loss({"logits": logits}, {"labels": labels}, LossOptions()).total for task in (light, heavy))
    assert torch.allclose(second, 2 * first)
