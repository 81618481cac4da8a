"""The optimizer of a training: large embedding tables row by row, everything else flat; one clip over both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.distributed.shared_memory import RowSlots, on_one_machine
from fastserve_torch_ddp.optim.adamw import BETAS, FlatAdamW
from fastserve_torch_ddp.optim.sparse_embedding import LazyRowAdamW, large_embeddings, sum_rows


class Optimizer:
    """How ranks share a step is one of ``WAYS``:

    - ``one``: there is one rank;
    - ``sharded``: each rank sums, steps and sends round its shard of the weights (ZeRO stage 1);
    - ``replicated``: DDP has averaged the gradients, and every rank takes the same step;
    - ``alone``: ranks step by themselves, and ``average`` brings their weights together (local SGD, Stich 2019).

    ``by_rows``: large tables get gradients only for the rows that a batch looks up (on CPUs, where dense ones
    cost).
    """

    def __init__(
        self, model: nn.Module, groups: Sequence[Mapping[str, Any]], low: torch.dtype, way: str, by_rows: bool
    ) -> None:
        self.way = way
        self.names = {id(one): name for name, one in model.named_parameters()}
        self.tables: dict[str, LazyRowAdamW] = {}
        tables = {id(table.weight): (name, table) for name, table in large_embeddings(model)} if by_rows else {}
        dense = []
        for group in groups:
            for name, table in (tables[id(one)] for one in group["params"] if id(one) in tables):
                self.tables[name] = LazyRowAdamW(table, group["weight_decay"], group["lr_scale"], low, BETAS)
            kept = [one for one in group["params"] if id(one) not in tables]
            if kept:
                dense.append({**group, "params": kept})
        self.flat = FlatAdamW(dense, low, sharded=way == "sharded")
        near = way == "sharded" and on_one_machine()
        self.slots = {name: RowSlots(one.state.shape[2]) for name, one in self.tables.items()} if near else {}
        self.stepped: dict[str, list[Tensor]] = {name: [] for name in self.tables}

    def accumulate(self) -> None:
        """Take over the gradients of one backward pass."""
        self.flat.accumulate()

    def step(self, lr: float, max_norm: float, weight: float) -> float:
        """One step; returns the norm of the mean gradient before it was clipped. Where that is not finite, none.

        The gradients are those of sums over this rank's samples; ``weight`` is what its sum is to be divided by.
        """
        own = {name: table.gradients() for name, table in self.tables.items()}
        for name, slots in self.slots.items():
            slots.put(*own[name])
        squared = self.flat.exchange()
        found = {name: self._gather(name, *one) for name, one in own.items()} if self.way == "sharded" else own
        shared = torch.stack([squared.cpu(), torch.tensor(weight)])
        if self.way == "sharded":
            collectives.all_reduce_sum(shared)
        elif self.way == "replicated":
            collectives.all_reduce_sum(shared[1:])
            shared[1] /= collectives.ranks()[1]  # DDP has divided by the number of ranks
        total = float(shared[0]) + sum(float(gradient.square().sum()) for _, gradient in found.values())
        count = float(shared[1]) or 1.0  # a batch in which nothing is counted has no gradient either
        norm = math.sqrt(total) / count if total == total else math.nan
        if not math.isfinite(norm):
            self.flat.discard_gradients()
            return norm
        divide_by = count * max(1.0, norm / max_norm)
        for name, (rows, gradient) in found.items():
            self.tables[name].step(rows, gradient.div_(divide_by), lr)
            if self.way == "alone":
                self.stepped[name].append(rows)
        self.flat.step(lr, divide_by)
        return norm

    def _gather(self, name: str, rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """A table's rows of all ranks, with their summed gradients; the ranks have met since these were put."""
        taken = self.slots[name].take() if name in self.slots else None
        return sum_rows(*(taken if taken is not None else collectives.gather_rows(rows, gradient)))

    def catch_up_all(self) -> None:
        """Bring rows that waited up to date: before the model is evaluated or saved."""
        for table in self.tables.values():
            table.settle()

    def average(self) -> None:
        """Weights become their mean over the ranks (the moments of all but tables stay each rank's own)."""
        collectives.all_reduce_mean(self.flat.master)
        self.flat.sync_weights()
        for name, table in self.tables.items():
            none = torch.zeros(0, dtype=torch.int64)
            table.average(collectives.union(torch.cat([none, *self.stepped[name]])))
            self.stepped[name].clear()

    def weights(self) -> dict[str, Tensor]:
        """Copies of every trained parameter in fp32, by name; to be called on every rank."""
        self.catch_up_all()
        tables = {f"{name}.weight": one.state[:, 0].clone() for name, one in self.tables.items()}
        return self.flat.named_weights(self.names) | tables

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything that a resumed training needs; to be called on every rank."""
        found = {f"flat.{name}": one for name, one in self.flat.tensors().items()}
        for name, table in self.tables.items():
            found |= {f"{name}.{key}": one for key, one in table.tensors().items()}
            found[f"{name}.stepped"] = _marked(self.stepped[name], len(table.last))
        return {name: collectives.stack(one) for name, one in found.items()} if self.way == "alone" else found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave."""
        rank, _ = collectives.ranks()
        own = {name: one[rank] for name, one in tensors.items()} if self.way == "alone" else tensors

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): one for name, one in own.items() if name.startswith(prefix)}

        self.flat.load(part("flat."))
        for name, table in self.tables.items():
            saved = part(f"{name}.")
            self.stepped[name] = [saved.pop("stepped").nonzero().flatten()]
            table.load(saved)


def _marked(rows: list[Tensor], count: int) -> Tensor:
    marks = torch.zeros(count, dtype=torch.bool)
    for one in rows:
        marks[one] = True
    return marks
