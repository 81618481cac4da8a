"""Numbers for texts: how they are read, learnt at any scale, saved for transformers, scored and answered."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions
from fastserve_core.data import prepare_rows
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import Encoded, LossOptions, Task, load_task
from fastserve_text.text_regression.scale import Scale
from fastserve_text.text_regression.scaled_head import ScaledLinear, fold_head, scale_head
from fastserve_text.text_regression.task import read_number

TASK = "text_regression"


@pytest.fixture
def task() -> Task:
    return load_task(TASK, {"max_length": 16})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_from_every_type(number: float) -> None:
    assert read_number(number) == read_number(str(number)) == read_number(f" {number} ") == number
    assert read_number(np.float64(number)) == number


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "'score' is empty"),
        (" ", "'score' is empty"),
        (math.nan, "'score' is empty"),
        ("nan", "'score' is not a finite number: nan"),
        ("inf", "'score' is not a finite number"),
        ("good", "'score' is not a number: 'good'"),
        ("3,5", "'score' is not a number: '3,5'"),
        (True, "'score' is bool, not a number"),
        ([1.0], "'score' is list, not a number"),
        (10**400, "'score' is not a number"),
    ],
)
def test_cells_without_a_number_are_reported(task: Task, value: Any, message: str) -> None:
    assert str(task.check({"text": "a", "score": value})).startswith(message)


def test_rows_are_read_whatever_numbers_their_splits_have(task: Task, tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "text_pair": f"other {number}", "score": number / 7} for number in range(40)]
    splits = {"train": rows, "test": [{"text": "x", "score": "-3.25"}]}
    data = prepare_rows(splits, DataOptions(), task, Store(tmp_path))
    assert data.labels == () and list(data.rows("test")) == [{"text": "x", "score": -3.25}]
    with pytest.raises(DataError, match="all 2 training rows have the score 1: two are needed"):
        prepare_rows({"train": [{"text": "a", "score": 1}, {"text": "b", "score": "1.0"}]}, DataOptions(), task,
                     Store(tmp_path))  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "spearmann"}, "did you mean 'spearman'"),
        ({"metric": "accuracy"}, "task.metric must be one of"),
        ({"levels": ["a", "a"]}, "task.levels must be two or more different names"),
        ({"function_to_apply": "softmax"}, "must be sigmoid or none"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_task(TASK, options)


# -- the head ----------------------------------------------------------------------------------------


@pytest.mark.slow(1)
@pytest.mark.parametrize("mean", [0.0, -3.0, 250_000.0])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_folded_head_answers_as_the_scaled_one(mean: float, has_bias: bool, task: Task, tiny_bert: Path) -> None:
    model: Any = task.build(tiny_bert).eval()
    if not has_bias:
        model.classifier = torch.nn.Linear(32, 1, bias=False)
    scale_head(model, Scale(mean, 40.0), is_kept=False)
    assert isinstance(model.classifier, ScaledLinear)
    hidden = torch.randn(5, 32)
    before = model.classifier(hidden)
    fold_head(model)
    assert type(model.classifier) is torch.nn.Linear
    torch.testing.assert_close(model.classifier(hidden), before, rtol=1e-4, atol=1e-3)
    scale_head(model, Scale(7.0, 3.0), is_kept=True)
    torch.testing.assert_close(model.classifier(hidden), before, rtol=1e-4, atol=1e-2)


def test_a_fresh_head_begins_near_the_mean_and_a_kept_one_where_it_was(
    task: Task, tiny_bert: Path, tmp_path: Path
) -> None:
    task.fit_targets(iter([90_000.0, 110_000.0, math.nan]))
    model: Any = task.finish(task.build(tiny_bert))
    assert model.classifier.bias.item() == pytest.approx(100_000, rel=1e-3)
    assert model.config.problem_type == "regression" and model.config.id2label == {0: "score"}
    model.save_pretrained(tmp_path)
    batch = {"input_ids": torch.randint(5, 90, (2, 6))}
    expected = model.eval()(**batch).logits
    for other in (load_task(TASK, {}), task):  # without and with the scale of a training
        again: Any = other.build(tmp_path)
        torch.testing.assert_close(again.eval()(**batch).logits, expected, rtol=1e-5, atol=1e-2)
    model.config.id2label, model.config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
    model.save_pretrained(tmp_path)
    foreign: Any = load_task(TASK, {}).build(tmp_path)
    assert foreign.config.id2label == {0: "LABEL_0"}
    torch.testing.assert_close(foreign.eval()(**batch).logits, expected)


def test_the_loss_and_a_teacher_are_measured_in_standard_deviations(task: Task) -> None:
    task.fit_targets([0.0, 200.0])
    logits, labels = torch.tensor([[50.0], [150.0], [7.0]]), torch.tensor([0.0, 200.0, math.nan])
    total, denominator = task.loss({"logits": logits}, {"labels": labels}, LossOptions())
    assert float(total) == pytest.approx(0.5) and denominator == 3
    assert task.counted_positions({"labels": torch.tensor([-100.0, math.nan])}).all()
    (target,) = task.distillation_targets
    assert (target.comparison, target.unit) == ("regression", 100.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_the_scale_is_that_of_numpy(values: list[float]) -> None:
    scale = Scale.of([*values, math.nan])
    assert scale.mean == pytest.approx(np.mean(values))
    assert scale.deviation == pytest.approx(np.std(values)) or scale.deviation == 1
    assert Scale.of([]) == Scale()


# -- answers -----------------------------------------------------------------------------------------


def test_the_metrics_are_scipys_and_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(2, 1, 50)
    values = truth + draw.normal(0, 1, 50)
    batch = [Encoded({"input_ids": [1]}, float(number)) for number in truth]
    for metric in ("spearman", "mse"):
        task = load_task(TASK, {"metric": metric})
        scores = task.score(task.batch_statistics({"logits": values[:, None]}, batch))
        assert scores == pytest.approx(
            {
                "spearman": stats.spearmanr(values, truth).statistic,
                "pearson": stats.pearsonr(values, truth).statistic,
                "r2": reference.r2_score(truth, values),
                "mse": reference.mean_squared_error(truth, values),
                "rmse": reference.mean_squared_error(truth, values) ** 0.5,
                "mae": reference.mean_absolute_error(truth, values),
            }
        )
        assert task.objective(scores) == (scores["spearman"] if metric == "spearman" else -scores["mse"])


def test_constant_numbers_have_no_correlation(task: Task) -> None:
    def scores(values: list[float], truth: list[float]) -> dict[str, float]:
        return task.score(list(zip(values, truth, strict=True)))

    assert scores([1, 1, 1], [1, 2, 3])["spearman"] == 0
    undefined = scores([1, 2, 3], [1, 1, 1])
    assert set(undefined) == {"mse", "rmse", "mae"}
    with pytest.raises(DataError, match="task.metric=spearman is not defined on the validation split"):
        task.objective(undefined)


def test_two_models_agree_within_the_error_of_the_model(task: Task) -> None:
    batch = [Encoded({"input_ids": [1]}, target) for target in (1.0, 5.0)]
    assert not task.agrees({"score": 1.0}, {"score": 1.1})
    task.calibration = task.calibrate(lambda split: iter([({"logits": np.array([[2.0], [4.0]])}, batch)]))
    assert task.agrees({"score": 1.0}, {"score": 1.9}) and not task.agrees({"score": 1.0}, {"score": 2.1})


def test_ordered_names_are_numbers_and_answers_have_the_nearest_one() -> None:
    task = load_task(TASK, {"levels": ["low", "medium", "high"], "metric": "quadratic_kappa"})
    row = {"text": "a", "score": "high"}
    assert task.check(row) is None and row["score"] == 2
    assert "'score' is 'hihg', which is none of task.levels; did you mean 'high'" in str(
        task.check({"text": "a", "score": "hihg"})
    )
    values, truth = [-3.0, 0.4, 1.2, 1.6, 9.0, 1.4], [0, 0, 1, 2, 2, 2]
    batch = [Encoded({"input_ids": [1]}, float(level)) for level in truth]
    outputs = {"logits": np.array(values)[:, None]}
    answers = task.decode(outputs, batch)
    assert [answer["label"] for answer in answers] == ["low", "low", "medium", "high", "high", "medium"]
    assert task.format_answer(answers[3]) == "high\t1.6000"
    assert task.tensor_values("label", answers[:1]) == ["low"] and len(task.output_tensors()) == 2
    scores = task.score(task.batch_statistics(outputs, batch))
    assert scores["accuracy"] == pytest.approx(5 / 6)
    expected = reference.cohen_kappa_score(truth, [0, 0, 1, 2, 2, 1], weights="quadratic")
    assert task.objective(scores) == pytest.approx(expected)


def test_an_answer_is_the_number(task: Task) -> None:
    batch = [Encoded({"input_ids": [1]})]
    (answer,) = task.decode({"logits": np.array([[3.14159]])}, batch)
    assert answer == {"score": pytest.approx(3.14159)} and task.format_answer(answer) == "3.1416"
    assert [task.format_answer({"score": score}) for score in (1234567.8, 2e-6)] == ["1234567.8000", "2e-06"]
    assert task.answer_columns(answer) == answer and task.tensor_values("score", [answer]) == [answer["score"]]
    changed = task.with_options(task.read_parameters({"function_to_apply": "sigmoid"}))
    assert changed.decode({"logits": np.array([[0.0]])}, batch) == [{"score": 0.5}]
