"""The optimizer: flat, by shards, by rows, alone - and each the same training as torch's own AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.optim.optimizer import Optimizer
from fastserve_torch_ddp.optim.sparse_embedding import LazyRowAdamW, find_large_embeddings
from fastserve_torch_ddp.strategies.parallel import compress_gradients

OnRanks = Callable[..., list[Any]]
ROWS, WIDTH, CLASSES, DECAY = 2000, 8, 3, 0.1
RATES = [1e-2 * (1 - step / 60) for step in range(40)]


class Model(nn.Module):
    """A table that is mostly unused in each batch, and a head with weights and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, WIDTH, padding_idx=0)
        self.inner, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(self.inner(self.table(ids)).relu()).mean(1))
        return logits


def fresh() -> Model:
    torch.manual_seed(0)
    return Model()


def groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [
        {"params": matrices, "weight_decay": DECAY, "lr_scale": 0.5},
        {"params": others, "weight_decay": 0.0, "lr_scale": 1.0},
    ]


def batches(count: int = len(RATES), rows: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randint(0, ROWS, (rows, 5), generator=draw), torch.randint(0, CLASSES, (rows,), generator=draw))
        for _ in range(count)
    ]


def summed_loss(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(ids).float(), labels, reduction="sum")


def by_torch(max_norm: float) -> dict[str, torch.Tensor]:
    """The reference: torch's AdamW on dense gradients of the mean loss."""
    model = fresh()
    optimizer = torch.optim.AdamW(groups(model), lr=1.0)
    for rate, (ids, labels) in zip(RATES, batches(), strict=True):
        (summed_loss(model, ids, labels) / len(labels)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.named_parameters())


def trained(
    mode: str, lazy: bool, max_norm: float, weight_dtype: torch.dtype = torch.float32, parts: int = 1
) -> tuple[Model, Optimizer]:
    """The same by our optimizer; each rank takes its share of each batch."""
    rank, world = collectives.get_rank(), collectives.get_world_size()
    model = fresh()
    optimizer = Optimizer(model, groups(model), weight_dtype, mode, lazy)
    for rate, (ids, labels) in zip(RATES, batches(), strict=True):
        mine = slice(rank, None, world) if mode == "sharded" else slice(None)
        for part in range(parts):
            own = ids[mine][part::parts], labels[mine][part::parts]
            summed_loss(model, *own).backward()
            optimizer.accumulate()
        optimizer.step(rate, max_norm, float(len(labels[mine])))
    optimizer.catch_up_all()
    return model, optimizer


def far(found: dict[str, Any], wanted: dict[str, torch.Tensor]) -> float:
    """The largest mean distance of a tensor, as a share of how far training moved it.

    A mean, because Adam divides a gradient that is nearly 0 by one that is nearly 0.
    """
    assert set(found) == set(wanted)
    start = dict(fresh().named_parameters())
    shares = []
    for name, tensor in found.items():
        goal = wanted[name].detach()
        moved = (goal - start[name].detach()).abs().mean()
        assert moved > 1e-3, f"{name} has to have moved for this to say anything"
        shares.append(float((torch.as_tensor(tensor).detach() - goal).abs().mean() / moved))
    return max(shares)


@pytest.mark.parametrize("max_norm", [1e9, 0.05])
@pytest.mark.parametrize(("lazy", "parts"), [(False, 1), (True, 1), (True, 2), (False, 2)])
def test_it_trains_as_adamw_does(lazy: bool, parts: int, max_norm: float) -> None:
    model, optimizer = trained("single", lazy, max_norm, parts=parts)
    wanted = by_torch(max_norm)
    assert bool(optimizer.tables) == lazy
    assert far(optimizer.gather_weights(), wanted) < 1e-3
    assert far(dict(model.named_parameters()), wanted) < 1e-3


def test_bf16_weights_follow_their_fp32_masters() -> None:
    model, optimizer = trained("single", True, 1e9, torch.bfloat16)
    masters = optimizer.gather_weights()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, masters[name].to(torch.bfloat16))
    assert far(masters, by_torch(1e9)) < 0.2


def test_the_state_of_a_bf16_tables_rows_is_fp32() -> None:
    table, reference = nn.Embedding(ROWS, WIDTH), nn.Embedding(ROWS, WIDTH)
    reference.load_state_dict(table.state_dict())
    rows, gradient = torch.tensor([3, 5]), torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    ours = LazyRowAdamW(table, DECAY, 1.0, torch.bfloat16, (0.9, 0.999))
    torchs = torch.optim.AdamW(reference.parameters(), lr=1e-5, weight_decay=DECAY)
    for _ in range(3):
        ours.step(rows, gradient, 1e-5)
        reference.weight.grad = torch.zeros_like(reference.weight).index_copy(0, rows, gradient)
        torchs.step()
    assert torch.allclose(ours.state[rows, 0], reference.weight[rows], atol=1e-8, rtol=1e-7)
    assert torch.equal(table.weight[rows], reference.weight[rows].bfloat16())


@pytest.mark.parametrize(("lazy", "near"), [(False, True), (True, True), (True, False)])
def test_shards_of_two_ranks_train_as_one_rank_does(on_ranks: OnRanks, lazy: bool, near: bool) -> None:
    def train() -> dict[str, Any]:
        _, optimizer = trained("sharded", lazy, 0.05)
        return {name: weight.numpy() for name, weight in optimizer.gather_weights().items()}

    first, second = on_ranks(2, train, near=near)
    wanted = by_torch(0.05)
    for name, weight in first.items():
        assert np.array_equal(weight, second[name])
    assert far(first, wanted) < 1e-3


@pytest.mark.slow(1)
@pytest.mark.parametrize(("kind", "sent"), [("none", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_ddp_sends_gradients_in_the_format_that_is_asked_for(on_ranks: OnRanks, kind: str, sent: torch.dtype) -> None:
    given = 1 + 2.0**-12  # neither of the shorter formats holds it

    def train() -> float:
        model = DistributedDataParallel(nn.Linear(1, 1, bias=False))
        compress_gradients(model, kind)
        model(torch.full((1, 1), given)).sum().backward()
        (weight,) = model.parameters()
        assert weight.grad is not None
        return float(weight.grad)

    assert on_ranks(2, train) == [float(torch.tensor(given).to(sent))] * 2


def test_a_shard_is_half_of_the_state(on_ranks: OnRanks) -> None:
    def sizes() -> tuple[int, int]:
        model = fresh()
        optimizer = Optimizer(model, groups(model), torch.float32, "sharded", lazy_embeddings=False)
        return len(optimizer.flat.master), optimizer.flat.size

    for own, whole in on_ranks(2, sizes):
        assert whole / 2 <= own < whole / 2 + 64


@pytest.mark.parametrize("lazy", [False, True])
def test_ranks_that_step_alone_meet_when_they_average(on_ranks: OnRanks, lazy: bool) -> None:
    def train() -> list[Any]:
        rank = collectives.get_rank()
        model = fresh()
        optimizer = Optimizer(model, groups(model), torch.float32, "local_sgd", lazy)
        apart = []
        for number, (ids, labels) in enumerate(batches(12)):
            summed_loss(model, ids[rank::2], labels[rank::2]).backward()
            optimizer.accumulate()
            optimizer.step(1e-2, 1.0, 4.0)
            if number % 4 == 3:
                apart.append(float(model.head.weight.sum()))
                optimizer.average()
        optimizer.catch_up_all()
        return [apart, {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}]

    (apart, weights), (apart_too, weights_too) = on_ranks(2, train)
    assert all(total != other for total, other in zip(apart, apart_too, strict=True))
    for name, weight in weights.items():
        np.testing.assert_allclose(weight, weights_too[name], atol=1e-6, err_msg=name)


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("mode", "world", "near"),
    [("single", 1, True), ("sharded", 2, True), ("sharded", 2, False), ("local_sgd", 2, True)],
)
def test_a_resumed_optimizer_continues_as_if_never_stopped(
    on_ranks: OnRanks, mode: str, world: int, near: bool
) -> None:
    def run(model: Model, optimizer: Optimizer, begin: int, end: int) -> None:
        rank = collectives.get_rank()
        for number in range(begin, end):
            ids, labels = batches()[number]
            summed_loss(model, ids[rank::world], labels[rank::world]).backward()
            optimizer.accumulate()
            optimizer.step(RATES[number], 1.0, len(labels) / world)
            if mode == "local_sgd" and number % 4 == 3:
                optimizer.average()

    def train() -> list[Any]:
        model = fresh()
        optimizer = Optimizer(model, groups(model), torch.float32, mode, lazy_embeddings=True)
        run(model, optimizer, 0, 10)
        kept = optimizer.state_dict()  # handed over: the steps that follow do not change them
        run(model, optimizer, 10, 20)
        again = fresh()
        resumed = Optimizer(again, groups(again), torch.float32, mode, lazy_embeddings=True)
        resumed.load_state_dict(kept)
        run(again, resumed, 10, 20)
        pairs = zip(optimizer.gather_weights().values(), resumed.gather_weights().values(), strict=True)
        return [float((weight - other).abs().max()) for weight, other in pairs]

    for differences in on_ranks(world, train, near=near):
        assert max(differences) < 1e-6


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = fresh()
    optimizer = Optimizer(model, groups(model), torch.float32, "single", lazy_embeddings=True)
    before = {name: weight.clone() for name, weight in optimizer.gather_weights().items()}
    ids, labels = batches(1)[0]
    (summed_loss(model, ids, labels) * float("nan")).backward()
    optimizer.accumulate()
    assert not np.isfinite(optimizer.step(1e-2, 1.0, 8.0))
    for name, weight in optimizer.gather_weights().items():
        assert torch.equal(weight, before[name])


def test_a_batch_in_which_nothing_is_counted_moves_nothing() -> None:
    model = fresh()
    optimizer = Optimizer(model, groups(model), torch.float32, "single", lazy_embeddings=True)
    ids, labels = batches(1)[0]
    (summed_loss(model, ids, labels) * 0).backward()
    optimizer.accumulate()
    before = {name: weight.clone() for name, weight in optimizer.gather_weights().items()}
    assert optimizer.step(0.0, 1.0, 0.0) == 0
    for name, weight in optimizer.gather_weights().items():
        assert torch.equal(weight, before[name])


def test_only_large_tables_that_nothing_shares_go_by_rows() -> None:
    tied = nn.Sequential(nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, ROWS, bias=False))
    tied[1].weight = tied[0].weight
    assert find_large_embeddings(tied) == []
    assert find_large_embeddings(nn.Embedding(100, 4)) == []
    assert [name for name, _ in find_large_embeddings(fresh())] == ["table"]
    frozen = fresh()
    frozen.table.weight.requires_grad_(False)
    assert find_large_embeddings(frozen) == []


def test_rows_that_find_no_room_are_sent(on_ranks: OnRanks, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastserve_torch_ddp.distributed import shared_memory

    monkeypatch.setattr(shared_memory, "MAX_ROWS", 10)  # a batch's share has 20

    def train() -> dict[str, Any]:
        _, optimizer = trained("sharded", True, 0.05)
        return {name: weight.numpy() for name, weight in optimizer.gather_weights().items()}

    first, _ = on_ranks(2, train, near=True)
    assert far(first, by_torch(0.05)) < 1e-3
