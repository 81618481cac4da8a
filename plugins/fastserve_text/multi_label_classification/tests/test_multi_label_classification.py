"""Several labels a text: how they are read, learnt, decided, scored and answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions
from fastserve_core.data import prepare_dataset, prepare_rows
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import UNLABELLED, Encoded, LossOptions, Task, load_task, read_labels
from fastserve_text.multi_label_classification.thresholds import choose_thresholds
from fastserve_text.sequence_task import sigmoid

LABELS = ["film", "money", "sport"]
TASK = "multi_label_classification"


@pytest.fixture
def task() -> Task:
    return load_task(TASK, {}, LABELS)


def encoded(truth: Any) -> list[Encoded]:
    return [Encoded({"input_ids": [1]}, [int(flag) for flag in row]) for row in truth]


def draw_rows(rows: int, labels: int, scale: float = 1.0) -> tuple[Any, Any]:
    """Logits whose sigmoid at ``scale`` 1 is the true frequency of each label."""
    draw = np.random.default_rng(1)
    logits = draw.normal(-1, 2, (rows, labels))
    return logits * scale, draw.random((rows, labels)) < sigmoid(logits)


# -- reading -----------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs", "Z", "C"], exclude_characters="|[]\"'"), min_size=1).filter(
    lambda name: read_labels([name], "|") == [name]
)


@given(st.sets(names, max_size=5))
def test_every_form_of_a_cell_is_read_alike(labels: set[str]) -> None:
    expected = sorted(labels)
    forms: list[Any] = [
        list(labels), tuple(labels), "|".join(labels), " | ".join(labels), json.dumps(list(labels)),
        np.array(list(labels), dtype=object), dict.fromkeys(labels, 1) | {"another": 0}, [*labels, *labels],
    ]  # fmt: skip
    assert all(read_labels(form, "|") == expected for form in forms)


@pytest.mark.parametrize("value", [None, "", "  ", float("nan"), [], "[]", "|", {"film": "0"}, {"film": False}])
def test_a_text_may_have_no_label(task: Task, value: Any) -> None:
    row = {"text": "a text", "labels": value}
    assert task.check(row) is None and row["labels"] == []


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("['film', 'sport']", ["film", "sport"]),
        (3, ["3"]),
        (["O", "None", "null", "nan"], ["None", "O", "nan", "null"]),
        ("None|nan", ["None", "nan"]),
        ({"film": "1", "money": 0, "sport": 1.0}, ["film", "sport"]),
        ({"film": "true", "money": "False"}, ["film"]),
    ],
)
def test_labels_are_read(task: Task, value: Any, read: list[str]) -> None:
    row = {"text": "a text", "labels": value}
    assert task.check(row) is None and row["labels"] == read


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"film": 2}, "'labels' have the value 2 for 'film': 0 or 1 is needed"),
        ({"film": 0.7}, "have the value 0.7 for 'film'"),
        ({"film": None}, "have an empty cell for 'film'"),
        ({"film": "yes"}, "have the value yes for 'film'"),
        (["film", None], "have an element at place 2 that is empty"),
        ([["film"]], "have an element at place 1 that is a list"),
    ],
)
def test_cells_that_hold_no_labels_are_reported(task: Task, value: Any, message: str) -> None:
    assert message in str(task.check({"text": "a text", "labels": value}))


def test_a_column_of_zeros_and_ones_a_label_is_read(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"text {number},{number % 2},{number // 2 % 2},{int(number % 5 == 0)}" for number in range(40)]
    path.write_text("text,film,money,sport\n" + "\n".join(lines) + "\n")
    options = DataOptions(train=str(path), columns={"labels": list(LABELS)})
    data = prepare_dataset(options, task, Store(tmp_path / "home"), print)
    assert list(data.labels) == LABELS
    rows = {row["text"]: row["labels"] for split in ("train", "validation", "test") for row in data.rows(split)}
    assert rows["text 3"] == ["film", "money"] and rows["text 4"] == [] and rows["text 5"] == ["film", "sport"]
    path.write_text("text,film,money\na,1,0\nb,7,1\n")
    with pytest.raises(DataError, match=r"rows.csv.*: no column 'sport'.*data.columns.labels names it"):
        prepare_dataset(options, task, Store(tmp_path / "home"), print)
    with pytest.raises(DataError, match="csv:3: 'labels' have the value 7 for 'film'"):
        columns = {"labels": ["film", "money"]}
        prepare_dataset(DataOptions(train=str(path), columns=columns), task, Store(tmp_path / "home"), print)
    with pytest.raises(DataError, match=r"data\.columns\.labels=NAME selects one, and .*=\[NAME,NAME\] several"):
        prepare_dataset(DataOptions(train=str(path)), task, Store(tmp_path / "home"), print)
    with pytest.raises(DataError, match=r"data.columns.text must be one name, not a list"):
        prepare_dataset(DataOptions(train=str(path), columns={"text": ["text"]}), task, Store(tmp_path), print)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda number: [], "none of the 30 training rows has a label"),
        (lambda number: f"{number};x", "30 different labels in 30 training rows: .* and '|' .task.separator."),
    ],
)
def test_splits_without_usable_labels_are_refused(task: Task, labels: Any, message: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "labels": labels(number)} for number in range(30)]
    with pytest.raises(DataError, match=message):
        prepare_rows({"train": rows}, DataOptions(), task, Store(tmp_path))


def test_labels_that_train_does_not_have_are_reported(task: Task, tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "labels": LABELS[: number % 3]} for number in range(30)]
    with pytest.raises(DataError, match="the label 'war' of the test split is not in train"):
        prepare_rows(
            {"train": rows, "test": [{"text": "x", "labels": "film|war"}]}, DataOptions(), task, Store(tmp_path)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "accuracy"}, "did you mean 'subset_accuracy'"),
        ({"threshold": 1.0}, "task.threshold must lie between 0 and 1, not 1.0"),
        ({"separator": " "}, "task.separator must not be blank"),
        ({"top_k": -1}, "task.top_k must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_task(TASK, options)


# -- learning ----------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=20)
def test_the_loss_is_torchs_and_rows_without_labels_add_nothing(seed: int, is_weighted: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(4, 3, generator=draw), torch.randint(0, 2, (4, 3), generator=draw).float()
    weights = (0.5, 1.0, 4.0) if is_weighted else None
    bare = torch.cat([labels, torch.full((1, 3), float(UNLABELLED))])
    total, denominator = load_task(TASK, {}, LABELS).loss(
        {"logits": torch.cat([logits, torch.randn(1, 3)])}, {"labels": bare}, LossOptions(0.1, weights)
    )
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, labels * 0.9 + 0.05, pos_weight=torch.tensor(weights) if weights else None, reduction="sum"
    )
    torch.testing.assert_close(total, expected)
    assert int(denominator) == 15


def test_balanced_weights_make_the_rows_with_and_without_a_label_count_alike(task: Task) -> None:
    targets = [[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1], [UNLABELLED] * 3]
    assert task.balanced_class_weights(targets) == [3.0, 1.0, 0.25]


def test_a_head_is_built_that_pipelines_of_transformers_read(task: Task, tiny_bert: Path) -> None:
    model: Any = task.build(tiny_bert)
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.id2label == dict(enumerate(LABELS))
    (one,) = task.encoder(tiny_bert)([{"text": "a", "labels": ["sport"]}])
    assert task.collate([one], targets=True)["labels"].tolist() == [[0.0, 0.0, 1.0]]


# -- answers -----------------------------------------------------------------------------------------


@pytest.mark.slow(1)
def test_thresholds_have_the_best_f1_and_those_of_rare_labels_are_common() -> None:
    logits, truth = draw_rows(80, 4)
    truth[:, 3] = False
    truth[:3, 3] = True
    probabilities = sigmoid(logits)
    thresholds = choose_thresholds(probabilities, truth)
    for label in range(3):
        best = max(
            reference.f1_score(truth[:, label], probabilities[:, label] >= value) for value in probabilities[:, label]
        )
        found = probabilities[:, label] >= thresholds[label]
        assert reference.f1_score(truth[:, label], found) == pytest.approx(best)
    micro = [reference.f1_score(truth.ravel(), probabilities.ravel() >= value) for value in probabilities.ravel()[:40]]
    common = reference.f1_score(truth.ravel(), probabilities.ravel() >= thresholds[3])
    assert common >= max(micro)
    assert choose_thresholds(probabilities, np.zeros_like(truth)).tolist() == [0.5] * 4


def test_the_metrics_are_scikit_learns(task: Task) -> None:
    logits, truth = draw_rows(100, 3)
    truth[:5] = False
    found = sigmoid(logits) >= 0.4
    for metric in ("micro_f1", "auroc", "average_precision"):
        task = load_task(TASK, {"threshold": 0.4, "metric": metric}, LABELS)
        scores = task.score(task.batch_statistics({"logits": logits}, encoded(truth)))
        expected = {
            "micro_f1": reference.f1_score(truth, found, average="micro"),
            "macro_f1": reference.f1_score(truth, found, average="macro"),
            "samples_f1": reference.f1_score(truth, found, average="samples", zero_division=1),
            "subset_accuracy": reference.accuracy_score(truth, found),
            "auroc": reference.roc_auc_score(truth, logits),
            "average_precision": reference.average_precision_score(truth, logits),
        }
        assert {name: scores[name] for name in expected if name in scores} == pytest.approx(
            {name: value for name, value in expected.items() if name in scores}
        )
        assert task.objective(scores) == pytest.approx(expected[metric])
        assert scores.keys() <= task.metrics.keys()


def test_the_training_is_scored_with_the_thresholds_that_are_chosen_after_it(task: Task) -> None:
    logits, truth = draw_rows(300, 3, scale=3.0)
    statistics = task.batch_statistics({"logits": logits}, encoded(truth))
    before = task.score(statistics)
    task.calibration = task.calibrate(lambda split: iter([({"logits": logits}, encoded(truth))]))
    after = task.score(statistics)
    assert after["micro_f1"] == pytest.approx(before["micro_f1"])
    assert after["ece"] < after["ece_uncalibrated"] == pytest.approx(before["ece"])
    assert float(task.calibration["temperature"]) == pytest.approx(3, rel=0.2)


def test_answers_have_the_labels_above_their_thresholds_the_best_first(task: Task) -> None:
    task.calibration = {"temperature": np.asarray(1.0), "thresholds": np.array([0.9, 0.5, 0.3])}
    logits = np.array([[2.0, -3.0, 0.0], [-5.0, -5.0, -5.0]])
    first, none = task.decode({"logits": logits}, encoded([[0, 0, 0]] * 2))
    assert [found["label"] for found in first["labels"]] == ["sport"]
    assert none["labels"] == [] and set(none["scores"]) == set(LABELS)
    assert task.format_answer(first) == "sport 0.500" and task.format_answer(none) == "no label"
    assert task.answer_columns(first)["labels"] == "sport"
    assert task.tensor_values("labels", [first, none]) == ['["sport"]', "[]"]
    assert task.tensor_values("scores", [first]) == list(first["scores"].values())

    def ask(**parameters: Any) -> dict[str, Any]:
        return task.with_options(task.read_parameters(parameters)).decode({"logits": logits[:1]}, encoded([[0] * 3]))[0]

    assert [found["label"] for found in ask(threshold=0.4)["labels"]] == ["film", "sport"]
    assert list(ask(threshold=0.4, top_k=1)["scores"]) == ["film"] and len(ask(threshold=0.01, top_k=1)["labels"]) == 1
    assert ask(function_to_apply="none")["labels"] == [{"label": "sport", "score": 0.0}]
    assert task.agrees(first, {"labels": [{"label": "sport", "score": 0.9}]}) and not task.agrees(first, none)
    odd = load_task(TASK, {}, ["a|b", "c"])
    answer = odd.decode({"logits": np.array([[5.0, 5.0]])}, encoded([[0, 0]]))[0]
    assert json.loads(odd.answer_columns(answer)["labels"]) == ["a|b", "c"]
