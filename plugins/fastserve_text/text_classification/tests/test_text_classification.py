"""Text classification: metrics, calibrated scores, the parameters of a request, and data that cannot be used."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions
from fastserve_core.data import prepare_dataset, prepare_rows
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import Encoded, Task, load_task, softmax
from fastserve_text.confidence import expected_calibration_error, fit_temperature
from fastserve_text.text_classification.metrics import DECISIONS, RANKINGS

NAMES = ["O", "None", "null", "nan"]


def make_task(labels: int = 3, **options: Any) -> Task:
    return load_task("text_classification", options, [f"label {number}" for number in range(labels)])


def encoded(truth: Any) -> list[Encoded]:
    return [Encoded({"input_ids": [1]}, int(number)) for number in truth]


def draw_logits(rows: int, labels: int, seed: int = 0, scale: float = 1.0) -> tuple[Any, Any]:
    """Logits whose softmax at ``scale`` 1 is the true distribution of the labels."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 1.5, (rows, labels))
    truth = np.array([draw.choice(labels, p=row) for row in softmax(logits)])
    return (logits * scale).astype(np.float32), truth


def score(task: Task, logits: Any, truth: Any) -> dict[str, float]:
    return task.score(task.batch_statistics({"logits": logits}, encoded(truth)))


@pytest.mark.parametrize("labels", [2, 4])
def test_the_metrics_are_scikit_learns(labels: int) -> None:
    logits, truth = draw_logits(200, labels)
    chosen, probabilities = logits.argmax(1), softmax(logits.astype(np.float64))
    one_hot = np.eye(labels)[truth][:, 1 if labels == 2 else 0 :]
    ranked = probabilities[:, 1 if labels == 2 else 0 :]
    expected = {
        "accuracy": reference.accuracy_score(truth, chosen),
        "macro_f1": reference.f1_score(truth, chosen, average="macro"),
        "weighted_f1": reference.f1_score(truth, chosen, average="weighted"),
        "balanced_accuracy": reference.balanced_accuracy_score(truth, chosen),
        "mcc": reference.matthews_corrcoef(truth, chosen),
        "cohen_kappa": reference.cohen_kappa_score(truth, chosen),
        "auroc": reference.roc_auc_score(one_hot, ranked, average="macro"),
        "average_precision": reference.average_precision_score(one_hot, ranked, average="macro"),
        "log_loss": reference.log_loss(truth, probabilities),
    }
    assert expected.keys() == DECISIONS.keys() | RANKINGS.keys()
    for name, value in expected.items():
        task = make_task(labels, metric=name)
        scores = score(task, logits, truth)
        assert scores[name] == pytest.approx(value, abs=1e-9), name
        assert task.objective(scores) == (-scores[name] if name == "log_loss" else scores[name])
        assert task.main_metric == name
        assert scores.keys() <= task.metrics.keys()


def test_a_metric_that_a_split_does_not_define_is_left_out_and_reported_when_it_decides() -> None:
    task = make_task(3, metric="auroc")
    scores = score(task, draw_logits(6, 3)[0], [1] * 6)
    assert "auroc" not in scores
    with pytest.raises(DataError, match="task.metric=auroc is not defined on the validation split"):
        task.objective(scores)
    constant = make_task(3, metric="cohen_kappa")
    assert score(constant, np.array([[0, 1, 0]] * 4), [1] * 4)["cohen_kappa"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "macro-f1"}, "task.metric must be one of .*, not 'macro-f1'; did you mean 'macro_f1'"),
        ({"metric": "ece"}, "task.metric must be one of"),
        ({"function_to_apply": "sigmoids"}, "did you mean 'sigmoid'"),
        ({"top_k": 0}, "task.top_k must be at least 1, not 0"),
        ({"max_length": 2}, "task.max_length must be at least 4"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_task(**options)


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_scores_of_a_model_that_is_too_sure_or_too_shy_are_calibrated(scale: float) -> None:
    task = make_task(4)
    logits, truth = draw_logits(3000, 4, scale=scale)
    before = score(task, logits, truth)
    task.calibration = task.calibrate(lambda split: iter([({"logits": logits}, encoded(truth))]))
    assert float(task.calibration["temperature"]) == pytest.approx(scale, rel=0.15)
    after = score(task, logits, truth)
    assert after["ece_uncalibrated"] == pytest.approx(before["ece"])
    assert before["ece"] > 0.1 > 0.05 > after["ece"]
    assert after["accuracy"] == before["accuracy"]
    (answer,) = task.decode({"logits": logits[:1]}, encoded([0]))
    assert answer["score"] == pytest.approx(float(softmax(logits[:1] / scale).max()), abs=0.05)


def test_a_model_without_errors_is_not_made_certain() -> None:
    task = make_task(2)
    logits = np.array([[2.0, -2.0], [-2.0, 2.0]] * 20)
    task.calibration = task.calibrate(lambda split: iter([({"logits": logits}, encoded([0, 1] * 20))]))
    (answer,) = task.decode({"logits": logits[:1]}, encoded([0]))
    assert answer["score"] == pytest.approx(1 - 1 / 42, abs=1e-3)


@given(st.floats(0.1, 15))
@settings(max_examples=20)
def test_the_best_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(lambda value: abs(np.log(value / temperature))) == pytest.approx(temperature, rel=1e-2)


def test_the_calibration_error_is_that_of_its_definition() -> None:
    confidences, outcomes = np.array([0.95, 0.97, 0.55, 1.0]), np.array([True, False, True, True])
    # bins of a fifteenth: 0.95, 0.97 and 1.0 share the last one
    assert expected_calibration_error(confidences, outcomes) == pytest.approx((0.92 + 0.45) / 4)


def test_a_request_chooses_the_function_and_the_number_of_scores() -> None:
    task, logits = make_task(3), np.array([[1.0, 3.0, 2.0]])
    task.calibration = {"temperature": np.asarray(2.0)}

    def ask(**parameters: Any) -> dict[str, Any]:
        return task.with_options(task.read_parameters(parameters)).decode({"logits": logits}, encoded([0]))[0]

    names = task.labels
    assert list(ask()["scores"].values()) == pytest.approx(softmax(logits / 2)[0].tolist())
    assert list(ask(top_k=2)["scores"]) == [names[1], names[2]]
    assert ask(function_to_apply="none")["scores"] == dict(zip(names, [1.0, 3.0, 2.0], strict=True))
    assert ask(function_to_apply="sigmoid")["score"] == pytest.approx(1 / (1 + np.exp(-3)))
    assert {tuple(sorted(ask(top_k=count))) for count in (1, 9)} == {("label", "score", "scores")}
    with pytest.raises(OptionError, match="has no option 'topk'; did you mean 'top_k'"):
        task.read_parameters({"topk": 1})
    with pytest.raises(OptionError, match="has no option 'max_length'"):
        task.read_parameters({"max_length": 8})
    with pytest.raises(DataError, match="changes the shape of the output tensor 'scores'"):
        task.tensor_values("scores", [ask(top_k=2)])
    assert task.options.top_k is None


def test_names_that_look_like_missing_values_are_labels(tmp_path: Path, tiny_bert: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"text {number},{NAMES[number % 4]}\n" for number in range(40)))
    task = load_task("text_classification", {})
    data = prepare_dataset(DataOptions(train=str(path)), task, Store(tmp_path / "home"), print)
    assert list(data.labels) == sorted(NAMES)
    task = load_task("text_classification", {}, data.labels)
    targets = [one.target for one in task.encoder(tiny_bert)(data.rows("train"))]
    assert set(targets) == set(range(4))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": f"text {number}", "label": number} for number in range(30)], "30 different labels in 30 training"),
        ([{"text": f"text {number}", "label": "a"} for number in range(30)], "all 30 training rows have the label 'a'"),
        ([{"text": "a", "label": float("nan")}, {"text": "b", "label": "x"}], "'label' is empty"),
        ([{"text": "a", "label": ["x", "y"]}], "'label' is a list, not one label"),
    ],
)
def test_rows_without_usable_labels_are_refused(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        prepare_rows({"train": rows}, DataOptions(), load_task("text_classification", {}), Store(tmp_path))


def test_a_label_that_occurs_once_stays_in_train_and_others_are_not_in_validation(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(60)]
    rows.append({"text": "a rare text", "label": "rare"})
    task = load_task("text_classification", {})
    data = prepare_rows({"train": rows}, DataOptions(), task, Store(tmp_path))
    assert "rare" in {row["label"] for row in data.rows("train")}
    stranger = {"train": rows, "validation": [{"text": "another text", "label": "c"}]}
    with pytest.raises(DataError, match="the label 'c' of the validation split is not in train"):
        prepare_rows(stranger, DataOptions(), task, Store(tmp_path))


def test_one_example_a_class_is_enough_for_a_split(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": f"label {number}"} for number in range(10)]
    given_splits = {"train": rows, "validation": rows[:2], "test": rows[2:4]}
    data = prepare_rows(given_splits, DataOptions(), load_task("text_classification", {}), Store(tmp_path))
    assert len(data.labels) == len(data.rows("train")) == 10


@pytest.mark.slow(1)
def test_a_thousand_labels_are_scored_and_answered() -> None:
    task = make_task(1000, metric="average_precision")
    truth = np.array(list(itertools.islice(itertools.cycle(range(1000)), 1500)))
    logits = np.eye(1000)[truth] * 9
    assert score(task, logits, truth)["average_precision"] == 1
    (answer,) = task.with_options({"top_k": 5}).decode({"logits": logits[:1]}, encoded([0]))
    assert answer["label"] == "label 0" and len(answer["scores"]) == 5
