"""The optimizer of a training: large embedding tables row by row, all other parameters flat, one clip over both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.distributed.shared_memory import RowSlots, is_single_machine
from fastserve_torch_ddp.optim.adamw import BETAS, FlatAdamW
from fastserve_torch_ddp.optim.sparse_embedding import LazyRowAdamW, find_large_embeddings, sum_rows

FLAT_PREFIX = "flat."


class Optimizer:
    """AdamW whose work the ranks share in one of four modes.

    - ``single``: there is one rank;
    - ``sharded``: each rank sums, steps and distributes its shard of the weights (ZeRO stage 1);
    - ``replicated``: DDP has averaged the gradients, and every rank takes the same step;
    - ``local_sgd``: ranks step independently, and ``average`` averages their weights (Stich 2019).

    Args:
        model: The model; its parameters become views of the flat buffer.
        groups: Parameter groups with ``params``, ``weight_decay`` and ``lr_scale``.
        weight_dtype: The type of the weights that the model computes with; their masters are fp32.
        mode: One of the four modes.
        lazy_embeddings: Whether large tables get gradients only for the rows that a batch looks up, which is faster
            on CPUs.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Mapping[str, Any]],
        weight_dtype: torch.dtype,
        mode: str,
        lazy_embeddings: bool,
    ) -> None:
        self.mode = mode
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.tables: dict[str, LazyRowAdamW] = {}
        large = find_large_embeddings(model) if lazy_embeddings else []
        embeddings = {id(embedding.weight): (name, embedding) for name, embedding in large}
        dense_groups = []
        for group in groups:
            for name, embedding in (embeddings[id(weight)] for weight in group["params"] if id(weight) in embeddings):
                self.tables[name] = LazyRowAdamW(
                    embedding, group["weight_decay"], group["lr_scale"], weight_dtype, BETAS
                )
            dense = [parameter for parameter in group["params"] if id(parameter) not in embeddings]
            if dense:
                dense_groups.append({**group, "params": dense})
        self.flat = FlatAdamW(dense_groups, weight_dtype, sharded=mode == "sharded")
        shares_memory = mode == "sharded" and is_single_machine()
        widths = {name: table.state.shape[2] for name, table in self.tables.items()} if shares_memory else {}
        self.slots = {name: RowSlots(width) for name, width in widths.items()}
        self.rows_to_average: dict[str, list[Tensor]] = {name: [] for name in self.tables}

    def accumulate(self) -> None:
        """Take over the gradients of one backward pass."""
        self.flat.accumulate()

    def step(self, lr: float, max_norm: float, weight: float) -> float:
        """Take one step on the gradients of the summed loss, unless their norm is not finite.

        Args:
            lr: The learning rate, before each group's ``lr_scale``.
            max_norm: The norm to which the mean gradient is clipped.
            weight: The divisor of this rank's loss sum, e.g. its number of samples.

        Returns:
            The norm of the mean gradient over all ranks before it was clipped.
        """
        local = {name: table.take_gradients() for name, table in self.tables.items()}
        for name, slots in self.slots.items():
            slots.put(*local[name])
        squared = self.flat.reduce_gradients()
        row_gradients = (
            {name: self._gather(name, *gradient) for name, gradient in local.items()}
            if self.mode == "sharded"
            else local
        )
        totals = torch.stack([squared.cpu(), torch.tensor(weight)])
        if self.mode == "sharded":
            collectives.all_reduce_sum(totals)
        elif self.mode == "replicated":
            collectives.all_reduce_sum(totals[1:])
            totals[1] /= collectives.get_world_size()  # DDP has divided by the number of ranks
        total = float(totals[0]) + sum(float(gradient.square().sum()) for _, gradient in row_gradients.values())
        count = float(totals[1]) or 1.0  # a batch without counted positions has no gradient either
        norm = math.sqrt(total) / count if not math.isnan(total) else math.nan
        if not math.isfinite(norm):
            self.flat.discard_gradients()
            return norm
        divisor = count * max(1.0, norm / max_norm)
        for name, (rows, gradient) in row_gradients.items():
            self.tables[name].step(rows, gradient.div_(divisor), lr)
            if self.mode == "local_sgd":
                self.rows_to_average[name].append(rows)
        self.flat.step(lr, divisor)
        return norm

    def _gather(self, name: str, rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return a table's rows of all ranks, with their summed gradients; ``reduce_gradients`` was the barrier."""
        gathered = self.slots[name].take() if name in self.slots else None
        return sum_rows(*(gathered if gathered is not None else collectives.gather_rows(rows, gradient)))

    def catch_up_all(self) -> None:
        """Apply the deferred updates of all embedding rows, before the model is evaluated or saved."""
        for table in self.tables.values():
            table.catch_up_all()

    def average(self) -> None:
        """Average the weights over the ranks; each rank keeps its own moments, except those of embedding rows."""
        collectives.all_reduce_mean(self.flat.master)
        self.flat.sync_weights()
        for name, table in self.tables.items():
            no_rows = torch.zeros(0, dtype=torch.int64)
            table.average(collectives.union_rows(torch.cat([no_rows, *self.rows_to_average[name]])))
            self.rows_to_average[name].clear()

    def gather_weights(self) -> dict[str, Tensor]:
        """Return copies of every trained parameter in fp32, by name; every rank must call it."""
        self.catch_up_all()
        tables = {f"{name}.weight": table.state[:, 0].clone() for name, table in self.tables.items()}
        return self.flat.gather_named_weights(self.names) | tables

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the tensors that a resumed training needs; every rank must call it.

        In the mode ``local_sgd`` each tensor has one more axis at the front, the rank.
        """
        tensors = {f"{FLAT_PREFIX}{name}": tensor for name, tensor in self.flat.state_dict().items()}
        for name, table in self.tables.items():
            tensors |= {f"{name}.{key}": tensor for key, tensor in table.state_dict().items()}
            tensors[f"{name}.stepped"] = _mask(self.rows_to_average[name], len(table.last_step))
        if self.mode != "local_sgd":
            return tensors
        return {name: collectives.all_gather_stacked(tensor) for name, tensor in tensors.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that ``state_dict`` returned."""
        if self.mode == "local_sgd":
            tensors = {name: tensor[collectives.get_rank()] for name, tensor in tensors.items()}

        def select(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        self.flat.load_state_dict(select(FLAT_PREFIX))
        for name, table in self.tables.items():
            state = select(f"{name}.")
            self.rows_to_average[name] = [state.pop("stepped").nonzero().flatten()]
            table.load_state_dict(state)


def _mask(row_lists: list[Tensor], count: int) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    for rows in row_lists:
        mask[rows] = True
    return mask
