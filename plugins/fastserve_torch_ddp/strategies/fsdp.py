"""Fully sharded data parallelism (FSDP2): weights, gradients and optimizer state in shards over the ranks.

Zhao et al. 2023, with torch's ``fully_shard``: each layer is gathered when it is computed.
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

FULL_STATE = StateDictOptions(full_state_dict=True)
WEIGHT_PREFIX, STATE_PREFIX = "weight/", "state/"


class FullySharded(ParallelStrategy):
    """Shards each layer of the model separately, and then the remaining parameters.

    Args:
        model: The model to train, sharded in place.
        groups: The parameter groups of ``param_groups.build_parameter_groups``.
        precision: The types to compute in.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Mapping[str, Any]], precision: Precision) -> None:
        self.module, self.mode = model, "fsdp"
        name_by_id = {id(parameter): name for name, parameter in model.named_parameters()}
        names = [[name_by_id[id(parameter)] for parameter in group["params"]] for group in groups]
        policy = MixedPrecisionPolicy(param_dtype=precision.autocast_dtype, reduce_dtype=torch.float32)
        for layers in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
            for layer in layers:
                fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        sharded = dict(model.named_parameters())
        sharded_groups = [
            {**group, "params": [sharded[name] for name in group_names], "names": None}
            for group, group_names in zip(groups, names, strict=True)
        ]
        self.optimizer: Any = ShardedAdamW(model, sharded_groups)


class ShardedAdamW:
    """AdamW on sharded parameters, with the interface of ``Optimizer``.

    Args:
        model: The sharded model.
        groups: Parameter groups with ``params``, ``weight_decay`` and ``lr_scale``.
    """

    def __init__(self, model: nn.Module, groups: Sequence[dict[str, Any]]) -> None:
        self.model = model
        self.adamw = torch.optim.AdamW(list(groups), lr=1.0, betas=BETAS, foreach=True)

    def accumulate(self) -> None:
        """Do nothing: gradients accumulate in the parameters."""

    def catch_up_all(self) -> None:
        """Do nothing: no update is deferred."""

    def step(self, lr: float, max_norm: float, weight: float) -> float:
        """Take one step; see ``Optimizer.step``.

        The gradients in the parameters are means over the ranks of sums over their samples.
        """
        divisor = (float(collectives.all_reduce_sum(torch.tensor(weight))) or 1.0) / collectives.get_world_size()
        parameters = [parameter for group in self.adamw.param_groups for parameter in group["params"]]
        torch._foreach_div_([parameter.grad for parameter in parameters if parameter.grad is not None], divisor)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if abs(value) < float("inf"):
            for group in self.adamw.param_groups:
                group["lr"] = lr * group["lr_scale"]
            self.adamw.step()
        self.adamw.zero_grad()
        return value

    def gather_weights(self) -> dict[str, Tensor]:
        """Return every parameter in full, by name; every rank must call it."""
        state: dict[str, Any] = get_model_state_dict(self.model, options=FULL_STATE)
        seen: set[int] = set()
        weights: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if tensor.data_ptr() not in seen or tensor.numel() == 0:
                # with one rank the full tensor is the parameter's own memory
                weights[name] = tensor.clone() if collectives.get_world_size() == 1 else tensor
                seen.add(tensor.data_ptr())
        return weights

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights and moments in full; every rank must call it."""
        tensors = {f"{WEIGHT_PREFIX}{name}": weight for name, weight in self.gather_weights().items()}
        states: Any = get_optimizer_state_dict(self.model, self.adamw, options=FULL_STATE)["state"]
        for name, state in states.items():
            tensors |= {f"{STATE_PREFIX}{name}/{key}": value.clone() for key, value in state.items()}
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that ``state_dict`` returned."""
        weights: dict[str, Any] = {
            name.removeprefix(WEIGHT_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(WEIGHT_PREFIX)
        }
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(self.model, weights, options=options)
        current = get_optimizer_state_dict(self.model, self.adamw, options=FULL_STATE)
        state: Any = {}
        for name, tensor in tensors.items():
            if name.startswith(STATE_PREFIX):
                _, parameter, key = name.split("/")
                state.setdefault(parameter, {})[key] = tensor
        set_optimizer_state_dict(self.model, self.adamw, {**current, "state": state}, options=FULL_STATE)
