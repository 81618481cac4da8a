"""The losses of the text tasks: weighted, smoothed, in parts, and for rows without labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
)

from fastserve_core.tasks import IGNORE_INDEX, UNLABELLED, BatchLoss, LossOptions, load_task

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "pad_token_id": 0}
CONFIGS: dict[str, Any] = {
    "bert": BertConfig(intermediate_size=32, **SMALL),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, pad_token_id=0),
    "llama": LlamaConfig(intermediate_size=32, **SMALL),
}
SEQUENCE, TOKENS, CAUSAL = "text_classification", "token_classification", "causal_lm"
CLASSES = 3
PLAIN = LossOptions()


def loss_of(task: str, logits: Tensor, labels: Tensor, options: LossOptions = PLAIN) -> BatchLoss:
    return load_task(task, {}).loss({"logits": logits}, {"labels": labels}, options)


def mean(task: str, logits: Tensor, labels: Tensor, options: LossOptions = PLAIN) -> Tensor:
    total, denominator = loss_of(task, logits, labels, options)
    found: Tensor = total / denominator
    return found


@given(st.integers(0, 10_000), st.floats(0, 0.5), st.booleans())
def test_the_mean_is_torchs_with_its_weights_and_its_smoothing(seed: int, smoothing: float, weighted: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(8, CLASSES, generator=draw), torch.randint(0, CLASSES, (8,), generator=draw)
    weights = (0.5, 1.0, 4.0) if weighted else None
    torch.testing.assert_close(
        mean(SEQUENCE, logits, labels, LossOptions(smoothing, weights)),
        nn.functional.cross_entropy(
            logits, labels, weight=torch.tensor(weights) if weights else None, label_smoothing=smoothing
        ),
    )


@pytest.mark.parametrize(
    ("kind", "maker", "task"),
    [
        ("bert", AutoModelForSequenceClassification, SEQUENCE),
        ("bert", AutoModelForTokenClassification, TOKENS),
        ("gpt2", AutoModelForCausalLM, CAUSAL),
        ("llama", AutoModelForCausalLM, CAUSAL),
    ],
)
def test_without_weights_and_smoothing_it_is_the_models_own_loss(kind: str, maker: Any, task: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[kind]
    config.num_labels = CLASSES
    model = maker.from_config(config).eval()
    ids = torch.randint(1, 40, (4, 7))
    labels = torch.randint(0, CLASSES, (4,)) if task == SEQUENCE else torch.randint(0, CLASSES, (4, 7))
    if task != SEQUENCE:
        labels[0, 3:] = IGNORE_INDEX
    outputs = model(input_ids=ids, labels=labels)
    torch.testing.assert_close(mean(task, outputs.logits, labels), outputs.loss)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([SEQUENCE, TOKENS, CAUSAL]), st.integers(1, 4), st.booleans())
def test_the_gradient_is_the_same_in_however_many_parts(seed: int, task: str, parts: int, smooth: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    shape = (9,) if task == SEQUENCE else (9, 5)
    logits, labels = torch.randn(*shape, CLASSES, generator=draw), torch.randint(0, CLASSES, shape, generator=draw)
    if task != SEQUENCE:
        labels[torch.rand(shape, generator=draw) < 0.4] = IGNORE_INDEX
        labels[0] = 1
    options = LossOptions(0.1 if smooth else 0.0, (0.2, 3.0, 1.0) if task != CAUSAL else None)
    whole = logits.clone().requires_grad_()
    mean(task, whole, labels, options).backward()  # type: ignore[no-untyped-call]
    cut = logits.clone().requires_grad_()
    pieces = list(zip(cut.tensor_split(parts), labels.tensor_split(parts), strict=True))
    found = [loss_of(task, part, targets, options) for part, targets in pieces]
    total = sum(part.denominator for part in found)
    for part in found:
        (part.total / total).backward()
    assert whole.grad is not None and cut.grad is not None
    torch.testing.assert_close(cut.grad, whole.grad)


def test_a_part_without_a_counted_position_adds_nothing() -> None:
    logits = torch.randn(2, 3, CLASSES, requires_grad=True)
    labels = torch.full((2, 3), IGNORE_INDEX)
    total, denominator = loss_of(TOKENS, logits, labels, LossOptions(0.1, (1.0, 2.0, 3.0)))
    assert float(total.detach()) == 0 and float(denominator) == 0


@pytest.mark.parametrize("weights", [None, (1.0, 3.0)])
def test_labels_speak_of_labelled_rows_alone(weights: tuple[float, ...] | None) -> None:
    options, logits = LossOptions(0.1, weights), torch.randn(4, 2)
    labels = torch.tensor([0, UNLABELLED, 1, UNLABELLED])
    every, labelled = (loss_of(SEQUENCE, logits[rows], labels[rows], options) for rows in ([0, 1, 2, 3], [0, 2]))
    assert torch.allclose(every.total, labelled.total)
    assert float(every.denominator) == float(labelled.denominator) + 2
    assert load_task(SEQUENCE, {}).counted_positions({"labels": labels}).all()


def test_the_last_token_of_a_text_predicts_nothing() -> None:
    labels = torch.tensor([[5, 6, IGNORE_INDEX, 7]])
    assert load_task(CAUSAL, {}).counted_positions({"labels": labels}).tolist() == [[True, False, True, False]]
