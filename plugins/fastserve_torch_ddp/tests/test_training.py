"""The parts of training: batches that can be resumed, checkpoints that survive, estimates, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import BadOption
from fastserve_core.testing import PluginContract
from fastserve_torch_ddp import DDPOptions
from fastserve_torch_ddp.batches import epoch_batches, share


class TestTorchDDP(PluginContract):
    plugin, stage = "torch_ddp", "train"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_has_every_row_once_and_follows_from_the_seed(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    batches = epoch_batches(lengths, size, seed, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= size for batch in batches)
    assert batches == epoch_batches(lengths, size, seed, epoch)


def test_batches_are_of_similar_length_and_differ_between_epochs() -> None:
    lengths = [1 + number % 50 for number in range(1600)]
    batches = epoch_batches(lengths, 32, 0, 0)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded / sum(lengths) < 1.1
    assert batches != epoch_batches(lengths, 32, 0, 1)


@given(st.lists(st.integers(), min_size=1, max_size=30), st.integers(1, 8))
def test_every_part_of_a_batch_has_rows_and_none_is_lost(batch: list[int], parts: int) -> None:
    shares = [share(batch, part, parts) for part in range(parts)]
    assert all(shares)
    assert {row for one in shares for row in one} == set(batch)
    if len(batch) >= parts:
        assert sorted(row for one in shares for row in one) == sorted(batch)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"max_grad_norm": 0.0}, {"warmup_ratio": 1.0}),
        *({"nproc": 0}, {"patience": 0}, {"precision": "fp8"}, {"weight_decay": -1.0}, {"max_restarts": -1}),
        *({"gradient_accumulation_steps": 0}, {"checkpoint_every_s": -1.0}, {"batch_size": 2, "nproc": 3}),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=next(iter(wrong))):
        DDPOptions(**wrong)


def model_and_optimizer() -> tuple[Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    return model, optimizer


def test_a_checkpoint_brings_back_weights_and_optimizer(tmp_path: Path) -> None:
    import torch

    from fastserve_torch_ddp import checkpoint

    model, optimizer = model_and_optimizer()
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, model, optimizer, {"best": 0.5})
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == [
        "checkpoint-00000003.safetensors",
        "checkpoint-00000002.safetensors",
    ]
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    state = optimizer.state_dict()["state"]
    other, fresh = model_and_optimizer()
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    assert checkpoint.restore(tmp_path, other, fresh, print) == {"step": 3, "best": 0.5}
    assert all(torch.equal(kept[name], value) for name, value in other.state_dict().items())
    assert torch.equal(fresh.state_dict()["state"][0]["exp_avg_sq"], state[0]["exp_avg_sq"])
    assert fresh.state_dict()["state"][0]["step"] == state[0]["step"]


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    from fastserve_torch_ddp import checkpoint

    model, optimizer = model_and_optimizer()
    for step in (1, 2):
        checkpoint.save(tmp_path, step, model, optimizer, {})
    newest = checkpoint.checkpoints(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:100])
    warned: list[str] = []
    assert checkpoint.restore(tmp_path, model, optimizer, warned.append) == {"step": 1}
    assert "checkpoint-00000002.safetensors cannot be read" in warned[0]
    assert checkpoint.restore(tmp_path / "empty", model, optimizer, warned.append) is None


def test_tied_weights_are_kept_once(tmp_path: Path) -> None:
    from torch import nn

    from fastserve_torch_ddp import checkpoint

    table = nn.Embedding(5, 4)
    head = nn.Linear(4, 5, bias=False)
    head.weight = table.weight
    assert list(checkpoint.trained(nn.Sequential(table, head))) == ["0.weight"]


def test_the_learning_rate_rises_and_falls() -> None:
    from fastserve_torch_ddp.worker import set_learning_rate

    _, optimizer = model_and_optimizer()
    seen = []
    for step in range(10):
        set_learning_rate(optimizer, {"lr": 1.0, "warmup_ratio": 0.2}, step, 10)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen[:3] == [0.5, 1.0, 1.0]
    assert seen[2:] == sorted(seen[2:], reverse=True)
    assert 0 < seen[-1] < 0.2


def test_parameters_are_counted_without_torch(tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from fastserve_core.files import read_json
    from fastserve_torch_ddp.estimate import count_parameters

    config = read_json(tiny_bert / "config.json")
    total, embedded = count_parameters(tiny_bert, config, 2, 32)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    assert total == sum(one.numel() for one in model.parameters())
    assert embedded == sum(one.numel() for one in model.bert.embeddings.parameters()) - 2 * 32  # less its norm
    (tmp_path / "config.json").write_text("{}")
    guessed, _ = count_parameters(tmp_path, config, 2, 32)
    assert guessed == pytest.approx(total, rel=0.4)
