"""Learning with the errors of quantization: what is rounded, that ranges stand still, and that it pays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastserve_compression import distillation_loss
from fastserve_compression.qat import LEVELS, FakeQuantizer, fake_quantize_inputs, fake_quantize_weights
from fastserve_core.errors import ModelError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "values"), [("int8", 129), ("int4", 17)])
def test_each_output_has_a_scale_of_its_own_and_few_values(name: str, values: int) -> None:
    weight = torch.randn(3, 5000) * torch.tensor([[1.0], [1e3], [0.0]])
    found = fake_quantize_weights(weight, LEVELS[name])
    steps = weight.abs().amax(dim=1, keepdim=True) / LEVELS[name]
    assert max(len(row.unique()) for row in found) <= values
    assert ((found - weight).abs() <= steps / 2 + 1e-6 * weight.abs()).all()


def test_gradients_pass_straight_through_but_not_beyond_the_range() -> None:
    given = torch.tensor([-5.0, -0.5, 0.0, 0.7, 9.0], requires_grad=True)
    fake_quantize_inputs(given, torch.tensor([-1.0, 1.0])).sum().backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    assert given.grad.tolist() == [0, 1, 1, 1, 0]


def test_the_state_dict_stays_and_ranges_follow_in_training_alone(
    tiny: Callable[..., Any], batches: list[dict[str, torch.Tensor]]
) -> None:
    model = tiny("Bert")
    names = list(model.state_dict())
    aware = FakeQuantizer(model, "int8", CPU)
    assert list(model.state_dict()) == names
    model.train()(**batches[0])
    seen = aware.ranges.clone()
    assert not seen.isnan().any()
    assert (seen[:, 0] <= 0).all() and (seen[:, 1] >= 0).all()
    model.eval()(**batches[1])
    assert torch.equal(aware.ranges, seen)
    model.train()(**batches[1])
    assert not torch.equal(aware.ranges, seen)


@pytest.mark.parametrize("number_format", [torch.float32, torch.bfloat16])
def test_the_numbers_keep_their_format(
    tiny: Callable[..., Any], batches: list[dict[str, torch.Tensor]], number_format: torch.dtype
) -> None:
    model = tiny("Bert").to(number_format).train()
    FakeQuantizer(model, "int8", CPU)
    found = model(**batches[0])
    found.loss.backward()
    assert found.logits.dtype == number_format
    assert all(one.grad is not None for one in model.classifier.parameters())


def test_layers_of_another_kind_are_refused(tiny: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="GPT-2's Conv1D"):
        FakeQuantizer(tiny("GPT2"), "int8", CPU)


@pytest.mark.seconds(3)
def test_a_student_that_knew_of_it_loses_less_in_four_bits(
    tiny: Callable[..., Any], batches: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """Weights with outlier channels: after the training both students are rounded, by the same code."""
    torch.set_num_threads(1)
    teacher = tiny("Bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for layer in teacher.bert.encoder.layer:
        layer.intermediate.dense.weight.data[:, 0] *= 20
    teacher.save_pretrained(tmp_path)
    distances = {}
    for aware in (None, "int4"):
        torch.manual_seed(0)
        student = type(teacher)(teacher.config)
        student.load_state_dict(teacher.state_dict())
        options = {
            "teacher": str(tmp_path),
            "alpha": 1.0,
            "temperature": 1.0,
            "hidden_weight": 0.0,
            "relation_weight": 0.0,
        }
        taught = distillation_loss.Distillation(options | {"quantize_aware": aware}, student, torch.float32, CPU)
        learn(student.train(), taught, batches)
        if aware is None:
            calibrated = FakeQuantizer(student, "int4", CPU)
            for batch in batches:
                student.train()(**batch)
            assert not calibrated.ranges.isnan().any()
        distances[aware] = distance(student.eval(), teacher, batches)
    assert distances["int4"] < 0.2 * distances[None]


def learn(student: Any, taught: distillation_loss.Distillation, batches: list[dict[str, torch.Tensor]]) -> None:
    optimizer = torch.optim.Adam(student.parameters(), lr=6e-4)
    for step in range(60):
        batch = batches[step % len(batches)]
        inputs = {name: one for name, one in batch.items() if name != "labels"}
        counted = torch.ones_like(batch["labels"], dtype=torch.bool)
        loss = taught(inputs, student(**inputs), counted, torch.tensor(0.0))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@torch.no_grad()
def distance(student: Any, teacher: Any, batches: list[dict[str, torch.Tensor]]) -> float:
    """How far the answers' logarithms are apart; logits that are all moved alike are the same answer."""
    answers = [[model(**one).logits.log_softmax(-1) for one in batches] for model in (student, teacher)]
    return sum(float((own - wanted).square().mean()) for own, wanted in zip(*answers, strict=True))
