"""The parts of training: options, batches that can be resumed, checkpoints that survive, estimates."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import OptionError, StoreError, UserError
from fastserve_core.tasks import Encoded, load_task
from fastserve_core.testing import PluginContract
from fastserve_torch_ddp.checkpointing import checkpoint
from fastserve_torch_ddp.checkpointing.validation import TrainState
from fastserve_torch_ddp.data.batches import BatchSchedule, epoch_batches, shard
from fastserve_torch_ddp.options import DDPOptions
from fastserve_torch_ddp.strategies.parallel import choose_strategy

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
Lengths = st.lists(st.integers(1, 60), min_size=1, max_size=300)


class TestTorchDDP(PluginContract):
    plugin, stage = "torch_ddp", "train"


# -- batches ---------------------------------------------------------------------------------------------


@given(Lengths, st.integers(1, 9), st.none() | st.integers(1, 400), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_has_every_row_once_and_follows_from_the_seed(
    lengths: list[int], size: int, tokens: int | None, seed: int, epoch: int
) -> None:
    batches = epoch_batches(np.asarray(lengths), size, tokens, seed, epoch)
    assert sorted(int(row) for batch in batches for row in batch) == list(range(len(lengths)))
    again = epoch_batches(np.asarray(lengths), size, tokens, seed, epoch)
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in again]
    for batch in batches:
        padded = len(batch) * max(lengths[row] for row in batch)
        assert 0 < len(batch) <= size if tokens is None else len(batch) == 1 or padded <= tokens


def test_batches_are_of_similar_length_and_differ_between_epochs() -> None:
    lengths = np.asarray([1 + number % 50 for number in range(1600)])
    for tokens in (None, 800):
        batches = epoch_batches(lengths, 32, tokens, 0, 0)
        padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
        assert padded / lengths.sum() < 1.1
        assert batches[0].tolist() != epoch_batches(lengths, 32, tokens, 0, 1)[0].tolist()


def test_a_budget_of_tokens_fills_its_batches() -> None:
    lengths = np.asarray([1 + number % 50 for number in range(1600)])
    batches = epoch_batches(lengths, 32, 800, 0, 0)
    assert np.mean([len(batch) * lengths[batch].max() for batch in batches]) > 700


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.integers(1, 8))
def test_every_part_of_a_batch_has_rows_and_none_is_lost(rows: list[int], parts: int) -> None:
    batch = np.asarray(rows)
    shares = [shard(batch, part, parts).tolist() for part in range(parts)]
    assert all(shares)
    assert {row for share in shares for row in share} == set(rows)
    if len(rows) >= parts:
        assert sorted(row for share in shares for row in share) == sorted(rows)


@given(Lengths, st.integers(1, 3), st.none() | st.integers(1, 40), st.integers(0, 60))
def test_a_schedule_resumes_from_any_step_as_it_would_have(
    lengths: list[int], epochs: int, steps: int | None, begin: int
) -> None:
    rows = [Encoded({"input_ids": [1] * length}) for length in lengths]
    task = load_task("text_classification", {}, ["a", "b"])
    options = {"epochs": epochs, "batch_size": 4, "batch_tokens": None}
    schedule = BatchSchedule(rows, task, options, 3, steps)
    whole = [batch.tolist() for _, batch in schedule.steps(0)]
    per_epoch = -(-len(lengths) // 4)
    assert len(whole) == schedule.total == min(steps or epochs * per_epoch, epochs * per_epoch)
    assert [batch.tolist() for _, batch in schedule.steps(begin)] == whole[begin:]
    assert schedule.epoch_at(schedule.total) <= epochs
    assert schedule.epoch_at(0) == 0


# -- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        *({"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"max_grad_norm": 0.0}, {"warmup_ratio": 1.0}),
        *({"nproc": 0}, {"patience": 0}, {"precision": "fp8"}, {"weight_decay": -1.0}, {"max_restarts": -1}),
        *({"gradient_accumulation_steps": 0}, {"checkpoint_every_s": -1.0}, {"batch_size": 2, "nproc": 3}),
        *({"batch_tokens": 0}, {"layer_decay": 0.0}, {"schedule": "step"}, {"method": "prefix"}, {"ema_decay": 1.0}),
        *({"label_smoothing": 1.0}, {"adapter_rank": 0}, {"eval_steps": 0}, {"local_sgd_steps": 0}, {"nnodes": 0}),
        *({"sharding": "zero3"}, {"gradient_compression": "topk"}, {"rdzv_timeout_s": 0.0}, {"adapter_dropout": 1.0}),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"train.torch_ddp.{next(iter(wrong))}"):
        DDPOptions(**wrong)


@pytest.mark.parametrize(
    ("pair", "named"),
    [
        ({"sharding": "fsdp", "method": "lora"}, "sharding=fsdp and method"),
        ({"sharding": "fsdp", "ema_decay": 0.9}, "sharding=fsdp and ema_decay"),
        ({"sharding": "fsdp", "compile": True}, "sharding=fsdp and compile"),
        ({"sharding": "zero", "local_sgd_steps": 4}, "sharding=zero and local_sgd_steps"),
        ({"local_sgd_steps": 4, "ema_decay": 0.9}, "local_sgd_steps and ema_decay"),
        ({"local_sgd_steps": 4, "method": "adalora"}, "local_sgd_steps and method=adalora"),
        ({"local_sgd_steps": 4, "gradient_compression": "fp16"}, "local_sgd_steps and gradient_compression"),
    ],
)
def test_options_that_exclude_each_other_are_refused(pair: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=f"{named}.* cannot be combined"):
        DDPOptions(**pair)


def test_all_faults_are_reported_at_once_with_a_suggestion() -> None:
    with pytest.raises(UserError) as caught:
        DDPOptions(lr=-1.0, epochs=0, schedule="cosin", nnodes=2)
    message = str(caught.value)
    for part in (
        "lr must be above 0",
        "epochs must be at least 1",
        "did you mean 'cosine'",
        "rdzv_endpoint is missing",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("given_options", "device", "world", "mode"),
    [
        ({}, CPU, 1, "single"),
        ({}, CPU, 2, "sharded"),
        ({}, GPU, 2, "replicated"),
        ({"sharding": "none"}, CPU, 2, "replicated"),
        ({"sharding": "zero"}, GPU, 2, "sharded"),
        ({"method": "lora"}, CPU, 2, "replicated"),
        ({"gradient_compression": "powersgd"}, CPU, 2, "replicated"),
        ({"local_sgd_steps": 4}, CPU, 2, "local_sgd"),
        ({"sharding": "fsdp"}, CPU, 2, "fsdp"),
    ],
)
def test_the_way_of_sharing_follows_from_options_and_machine(
    given_options: dict[str, Any], device: torch.device, world: int, mode: str
) -> None:
    assert choose_strategy(vars(DDPOptions(**given_options)), device, world) == mode


# -- checkpoints -----------------------------------------------------------------------------------------


def make_writer(folder: Path) -> tuple[checkpoint.CheckpointWriter, list[str]]:
    warned: list[str] = []
    return checkpoint.CheckpointWriter(folder, warned.append), warned


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    writer, warned = make_writer(tmp_path)
    writer.write_best({"weight": torch.ones(5)}, vars(TrainState(step=1, best=0.5)))
    for step in (1, 2, 3):
        weights = torch.full((1000,), float(step))
        writer.write_checkpoint(
            {"weight": weights}, vars(TrainState(step=step, best=0.5, best_scores={"accuracy": 0.5}))
        )
    writer.wait()
    names = [path.name for path in checkpoint.list_checkpoints(tmp_path)]
    assert names == ["checkpoint-00000003.safetensors", "checkpoint-00000002.safetensors"]
    found = checkpoint.read_newest(tmp_path, warned.append)
    assert found is not None and torch.equal(found[0]["weight"], torch.full((1000,), 3.0))
    assert TrainState(**found[1]) == TrainState(3, 0.5, {"accuracy": 0.5}, 0)
    assert warned == []


def flip_bit(path: Path) -> None:
    """Change one bit of the last tensor of a file, which stays readable."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["torn", "empty", "noise", "one bit"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    writer, warned = make_writer(tmp_path)
    for step in (1, 2):
        writer.write_checkpoint({"weight": torch.ones(50)}, {"step": step})
    writer.wait()
    newest = checkpoint.list_checkpoints(tmp_path)[0]
    content = newest.read_bytes()
    damaged = {"torn": content[:-40], "empty": b"", "noise": bytes(reversed(content)), "one bit": content}[damage]
    newest.write_bytes(damaged)
    if damage == "one bit":
        flip_bit(newest)
    found = checkpoint.read_newest(tmp_path, warned.append)
    assert found is not None and found[1] == {"step": 1}
    assert "checkpoint-00000002.safetensors cannot be read" in warned[0]
    assert checkpoint.read_newest(tmp_path / "empty", warned.append) is None
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "checkpoint-00000001.safetensors", "checkpoint-00000002.damaged"
    ]  # fmt: skip
    assert checkpoint.read_newest(tmp_path, warned.append) is not None and len(warned) == 1


def test_weights_of_any_type_and_shape_are_read_back_as_they_were(tmp_path: Path) -> None:
    types = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8)
    tensors = {f"{kind} {shape}": torch.ones(shape).to(kind) for kind in types for shape in ((), (0, 3), (2, 3))}
    checkpoint.write_tensors(tmp_path / "all.safetensors", tensors, {"step": 3})
    read, metadata = checkpoint.read_tensors(tmp_path / "all.safetensors")
    assert metadata == {"step": 3}
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items())


@pytest.mark.parametrize("damage", ["one bit", "gone", "older"])
def test_without_its_best_weights_a_training_goes_back(tmp_path: Path, damage: str) -> None:
    """The checkpoint before the first evaluation needs none; the two after it cannot be used."""
    writer, warned = make_writer(tmp_path)
    writer.write_checkpoint({"weight": torch.ones(5)}, vars(TrainState(step=1)))
    writer.write_best({"weight": torch.ones(5)}, vars(TrainState(step=2, best=0.5)))
    writer.wait()
    older = (tmp_path / checkpoint.BEST).read_bytes()
    writer.write_best({"weight": torch.zeros(5)}, vars(TrainState(step=4, best=0.75)))
    writer.write_checkpoint({"weight": torch.ones(5)}, vars(TrainState(step=4, best=0.75)))
    writer.wait()
    found = checkpoint.read_newest(tmp_path, warned.append)
    assert found is not None and found[1]["step"] == 4 and warned == []
    best = tmp_path / checkpoint.BEST
    {"one bit": flip_bit, "gone": Path.unlink, "older": lambda path: path.write_bytes(older)}[damage](best)
    found = checkpoint.read_newest(tmp_path, warned.append)
    assert found is not None and found[1]["step"] == 1
    assert [str(best) in message for message in warned] == ([True] if damage == "one bit" else [])
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["checkpoint-00000001.safetensors"]


def test_a_full_disk_is_warned_of_and_the_last_good_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, warned = make_writer(tmp_path)
    writer.write_checkpoint({"weight": torch.ones(5)}, {"step": 1})
    writer.wait()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    writer.write_checkpoint({"weight": torch.ones(5)}, {"step": 2})
    writer.wait()
    assert "checkpoint-00000002.safetensors could not be written" in warned[0]
    assert "No space left on device" in warned[0] and "training continues" in warned[0]
    found = checkpoint.read_newest(tmp_path, warned.append)
    assert found is not None and found[1] == {"step": 1}
    assert list(tmp_path.glob("*.partial")) == []


def test_best_weights_that_could_not_be_written_are_written_later_or_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, warned = make_writer(tmp_path)
    writer.write_best({"weight": torch.ones(5)}, vars(TrainState(step=1, best=0.5)))
    writer.wait()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        writer.write_best({"weight": torch.zeros(5)}, vars(TrainState(step=2, best=0.75)))
        with pytest.raises(StoreError, match=r"best weights could not be written to .*best\.safetensors: .*No space"):
            writer.finish()
    assert "best.safetensors could not be written" in warned[0]
    writer.write_checkpoint({"weight": torch.ones(5)}, vars(TrainState(step=3, best=0.75)))
    writer.finish()
    tensors, metadata = checkpoint.read_tensors(tmp_path / checkpoint.BEST)
    assert metadata["best"] == 0.75 and torch.equal(tensors["weight"], torch.zeros(5))
    assert checkpoint.read_newest(tmp_path, warned.append) is not None


def test_patience_counts_looks_without_gain() -> None:
    progress = TrainState()
    assert progress.update(0.5, {"accuracy": 0.5})
    assert not progress.update(0.5, {"accuracy": 0.5}) and not progress.update(0.4, {"accuracy": 0.4})
    assert (progress.evals_without_improvement, progress.best_scores) == (2, {"accuracy": 0.5})
    assert progress.update(0.6, {"accuracy": 0.6}) and progress.evals_without_improvement == 0


def test_parameters_are_counted_without_torch(tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from fastserve_torch_ddp.estimate import count_parameters

    total, embedded = count_parameters(tiny_bert)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    assert total == sum(parameter.numel() for parameter in model.parameters())
    embeddings = model.bert.embeddings.parameters()
    assert embedded == sum(parameter.numel() for parameter in embeddings) - 2 * 32  # less its norm
    (tmp_path / "config.json").write_text((tiny_bert / "config.json").read_text())
    guessed, _ = count_parameters(tmp_path)
    assert guessed == pytest.approx(total, rel=0.4)


def test_a_machine_meets_itself_without_a_walk_through_the_sources(
    on_ranks: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """torch names the caller in each event of a rendezvous with ``inspect.stack``: over a second of each start."""

    def meet() -> tuple[int, int]:
        import inspect
        import tempfile

        from torch.distributed.elastic.rendezvous import RendezvousParameters
        from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

        from fastserve_torch_ddp.agent import configure_single_node, configure_torch

        del inspect.stack
        tempfile.tempdir = str(tmp_path)
        configure_torch()
        config = configure_single_node()
        parameters = RendezvousParameters(
            *(config.rdzv_backend, config.rdzv_endpoint, config.run_id, 1, 1), **config.rdzv_configs
        )
        found = get_rendezvous_handler(parameters).next_rendezvous()
        return found.rank, found.world_size

    assert on_ranks(1, meet) == [(0, 1)]
