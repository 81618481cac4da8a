"""Weights, gradients and optimizer in shards over the ranks: FSDP2, for models that fit no single one.

Zhao et al. 2023, in the form of torch's ``fully_shard``: each layer is gathered when it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.ops.precision import Precision
from fastserve_torch_ddp.optim.adamw import BETAS
from fastserve_torch_ddp.strategies.parallel import ParallelStrategy

WHOLE = StateDictOptions(full_state_dict=True)


class FullySharded(ParallelStrategy):
    """The model's layers, each sharded by itself, and then the rest."""

    def __init__(self, model: nn.Module, groups: Sequence[Mapping[str, Any]], numbers: Precision) -> None:
        self.module, self.way = model, "fsdp"
        by_id = {id(one): name for name, one in model.named_parameters()}
        names = [[by_id[id(one)] for one in group["params"]] for group in groups]
        policy = MixedPrecisionPolicy(param_dtype=numbers.autocast, reduce_dtype=torch.float32)
        for layers in (one for one in model.modules() if isinstance(one, nn.ModuleList)):
            for layer in layers:
                fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        sharded = dict(model.named_parameters())
        own = [
            {**group, "params": [sharded[name] for name in found], "names": None}
            for group, found in zip(groups, names, strict=True)
        ]
        self.optimizer: Any = ShardedAdamW(model, own)


class ShardedAdamW:
    """AdamW on sharded parameters, with the face of ``Optimizer``."""

    def __init__(self, model: nn.Module, groups: Sequence[dict[str, Any]]) -> None:
        self.model = model
        self.adamw = torch.optim.AdamW(list(groups), lr=1.0, betas=BETAS, foreach=True)

    def accumulate(self) -> None:
        """Gradients stay with the parameters."""

    def catch_up_all(self) -> None:
        """Nothing waits."""

    def step(self, lr: float, max_norm: float, weight: float) -> float:
        """One step; the gradients are means over the ranks of sums over their samples."""
        whole = (float(collectives.all_reduce_sum(torch.tensor(weight))) or 1.0) / collectives.ranks()[1]
        gradients = [one.grad for group in self.adamw.param_groups for one in group["params"] if one.grad is not None]
        torch._foreach_div_(gradients, whole)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if abs(value) < float("inf"):
            for group in self.adamw.param_groups:
                group["lr"] = lr * group["lr_scale"]
            self.adamw.step()
        self.adamw.zero_grad()
        return value

    def weights(self) -> dict[str, Tensor]:
        """Every parameter, whole, by name; to be called on every rank."""
        found: dict[str, Any] = get_model_state_dict(self.model, options=WHOLE)
        seen: set[int] = set()
        whole: dict[str, Tensor] = {}
        for name, one in found.items():
            if one.data_ptr() not in seen or one.numel() == 0:
                whole[name] = one.clone() if collectives.ranks()[1] == 1 else one  # one rank's whole is its own
                seen.add(one.data_ptr())
        return whole

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments, whole; to be called on every rank."""
        found = {f"weight/{name}": one for name, one in self.weights().items()}
        state: Any = get_optimizer_state_dict(self.model, self.adamw, options=WHOLE)["state"]
        for name, held in state.items():
            found |= {f"state/{name}/{key}": one.clone() for key, one in held.items()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave."""
        weights: dict[str, Any] = {
            name.removeprefix("weight/"): one for name, one in tensors.items() if name.startswith("weight/")
        }
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(self.model, weights, options=options)
        whole = get_optimizer_state_dict(self.model, self.adamw, options=WHOLE)
        state: Any = {}
        for name, one in tensors.items():
            if name.startswith("state/"):
                _, parameter, key = name.split("/")
                state.setdefault(parameter, {})[key] = one
        set_optimizer_state_dict(self.model, self.adamw, {**whole, "state": state}, options=WHOLE)
