"""The learning options: groups and layer decay, schedules, weighted and smoothed losses, averaged weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
)

from fastserve_core.errors import OptionError, ValidationError
from fastserve_core.tasks import IGNORE_INDEX, LossOptions, balance_classes, count_labels, load_task
from fastserve_torch_ddp.optim.ema import ExponentialMovingAverage
from fastserve_torch_ddp.optim.losses import class_weights, make_loss_options
from fastserve_torch_ddp.optim.param_groups import build_parameter_groups
from fastserve_torch_ddp.optim.schedules import lr_factor

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "pad_token_id": 0}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(intermediate_size=32, **SMALL),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, pad_token_id=0),
    "llama": LlamaConfig(intermediate_size=32, **SMALL),
}

# -- groups ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_every_trained_parameter_is_in_one_group_and_only_matrices_decay(kind: str, decay: float) -> None:
    model = AutoModelForSequenceClassification.from_config(CONFIGS[kind])
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    named = dict(model.named_parameters())
    groups = build_parameter_groups(model, {"weight_decay": 0.1, "layer_decay": decay})
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, parameter in named.items() if parameter is not frozen)
    for group in groups:
        assert all(named[name] is parameter for name, parameter in zip(group["names"], group["params"], strict=True))
        assert all(group["weight_decay"] == (0.1 if named[name].ndim == 2 else 0.0) for name in group["names"])
    if decay == 1.0:
        assert {group["lr_scale"] for group in groups} == {1.0} and len(groups) == 2


@pytest.mark.parametrize(
    ("kind", "scales"),
    [
        ("bert", {"bert.embeddings": 0.125, "encoder.layer.0": 0.25, "encoder.layer.1": 0.5, "": 1.0}),
        ("gpt2", {"wte": 0.125, "wpe": 0.125, "h.0.": 0.25, "h.1.": 0.5, "": 1.0}),
        ("llama", {"embed_tokens": 0.125, "layers.0.": 0.25, "layers.1.": 0.5, "": 1.0}),
    ],
)
def test_each_layer_learns_half_as_fast_as_the_one_above(kind: str, scales: dict[str, float]) -> None:
    model = AutoModelForSequenceClassification.from_config(CONFIGS[kind])
    found = set()
    for group in build_parameter_groups(model, {"weight_decay": 0.0, "layer_decay": 0.5}):
        for name in group["names"]:
            part = next(part for part in scales if part in name)
            assert group["lr_scale"] == scales[part], name
            found.add(part)
    assert found == set(scales)


# -- schedules ---------------------------------------------------------------------------------------

STEPS = st.integers(1, 300).flatmap(lambda total: st.tuples(st.integers(0, total - 1), st.just(total)))


@given(STEPS, st.floats(0, 0.99), st.sampled_from(["linear", "cosine", "constant"]))
def test_the_learning_rate_warms_up_and_never_rises_after_that(
    where: tuple[int, int], ratio: float, schedule: str
) -> None:
    step, total = where
    warmup = max(1, round(total * ratio))
    now, then = lr_factor(schedule, step, total, ratio), lr_factor(schedule, step + 1, total, ratio)
    assert 0 < now <= 1
    if step < warmup:
        assert now == pytest.approx((step + 1) / warmup)
    if step == warmup - 1:
        assert now == 1
    if step >= warmup:
        assert then == 1 if schedule == "constant" else then < now


@given(STEPS, st.floats(0, 0.99))
def test_the_shapes_after_the_warm_up(where: tuple[int, int], ratio: float) -> None:
    step, total = where
    warmup = max(1, round(total * ratio))
    if step >= warmup:
        done = (step - warmup) / (total - warmup)
        assert lr_factor("linear", step, total, ratio) == pytest.approx((total - step) / (total - warmup))
        assert lr_factor("cosine", step, total, ratio) == pytest.approx(0.5 + 0.5 * math.cos(math.pi * done))


# -- losses ------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_balanced_weights_are_scikit_learns(targets: list[int]) -> None:
    counts = count_labels(targets, 5)
    assert counts == [targets.count(number) for number in range(5)]
    there = sorted(set(targets))
    expected = compute_class_weight("balanced", classes=np.array(there), y=targets)
    ours = balance_classes(counts)
    assert [ours[number] for number in there] == pytest.approx(expected.tolist())
    assert all(ours[number] == 1 for number in range(5) if number not in there)


def test_labels_of_tokens_are_counted_without_the_ignored() -> None:
    assert count_labels([[IGNORE_INDEX, 0, 1, 1], np.array([2, IGNORE_INDEX]), [IGNORE_INDEX]], 4) == [1, 2, 1, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"positve": 2.0}, "has no label 'positve'; did you mean 'positive'"),
        ({"positive": 0}, "weight of 'positive' must be a number above 0, not 0"),
        ({"positive": "two"}, "must be a number above 0, not 'two'"),
        ({"positive": float("nan")}, "must be a number above 0, not nan"),
        ("balance", "'balanced' or a mapping of labels to weights, not 'balance'"),
        ([1.0, 2.0], "'balanced' or a mapping"),
    ],
)
def test_weights_that_do_not_fit_are_refused(given: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        class_weights(given, ["negative", "positive"])


def test_all_wrong_weights_are_reported_at_once_and_numbers_may_name_labels() -> None:
    with pytest.raises(ValidationError, match="(?s)'x'.*'y'"):
        class_weights({"x": 1, "y": 1}, ["0", "1"])
    assert class_weights({1: 2}, ["0", "1"]) == [1.0, 2.0]


def test_options_that_a_task_lacks_are_refused() -> None:
    unset = {"class_weights": None, "label_smoothing": 0.0}
    causal, pretraining = load_task("causal_lm", {}), load_task("pretraining", {})
    with pytest.raises(OptionError, match="class_weights does not go with the task causal_lm"):
        make_loss_options(unset | {"class_weights": "balanced"}, causal)
    with pytest.raises(OptionError, match="label_smoothing does not go with the task pretraining"):
        make_loss_options(unset | {"label_smoothing": 0.1}, pretraining)
    assert make_loss_options(unset, pretraining) == LossOptions()
    classifier = load_task("text_classification", {}, ["a", "b"])
    made = make_loss_options({"class_weights": {"b": 3}, "label_smoothing": 0.1}, classifier)
    assert made == LossOptions(0.1, (1.0, 3.0))


# -- averages ----------------------------------------------------------------------------------------


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.floats(0, 0.999))
def test_the_average_is_the_naive_one(values: list[float], decay: float) -> None:
    live = {"a": torch.zeros(2, dtype=torch.float64), "b": torch.ones(1, dtype=torch.float64)}
    averages, expected = ExponentialMovingAverage(live, decay), 0.0
    for step, value in enumerate(values):
        live["a"].fill_(value)
        averages.update(step)
        now = min(decay, (1 + step) / (10 + step))
        expected = now * expected + (1 - now) * value
    state = averages.state_dict()
    assert state["a"].tolist() == pytest.approx([expected] * 2, abs=1e-9)
    assert state["b"].tolist() == [1.0]


def test_a_model_has_the_averages_in_the_block_only() -> None:
    model = nn.Linear(2, 2)
    averages = ExponentialMovingAverage(dict(model.named_parameters()), 0.5)
    first = model.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    averages.update(9)
    last = model.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), averages.swap_in():
        torch.testing.assert_close(model.weight.detach(), (first + last) / 2)
        raise ZeroDivisionError
    assert torch.equal(model.weight, last)
    torch.testing.assert_close(averages.state_dict()["weight"], (first + last) / 2)
    optimizer.step()
    assert not torch.equal(model.weight, last)


def test_averages_continue_from_a_checkpoint() -> None:
    live = {"a": torch.zeros(3)}
    first = ExponentialMovingAverage(live, 0.9)
    live["a"].fill_(1.0)
    first.update(0)
    second = ExponentialMovingAverage(live, 0.9)
    second.load_state_dict({name: average.clone() for name, average in first.state_dict().items()})
    live["a"].fill_(2.0)
    for averages in (first, second):
        averages.update(1)
    assert torch.equal(first.state_dict()["a"], second.state_dict()["a"])
    with pytest.raises(KeyError):
        second.load_state_dict({})
