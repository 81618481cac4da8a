"""AdamW over one flat buffer: fp32 master weights behind bf16 ones, each rank stepping its own shard of them.

Loshchilov & Hutter 2019; the shards are those of ZeRO stage 1 (Rajbhandari et al. 2020). The model's parameters
become views of one buffer, so that a step makes a few passes over memory for any number of parameters, and an
exchange between ranks is one message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.distributed.shared_memory import is_single_machine, shared_zeros

ALIGNMENT = 64
"""The size of a shard is a multiple of this many elements."""
BETAS = (0.9, 0.999)


class FlatAdamW:
    """AdamW on the concatenation of all parameters.

    Args:
        groups: Mappings with ``params`` (fp32 parameters), ``weight_decay`` and ``lr_scale``.
        weight_dtype: The type of the weights that the model computes with.
        sharded: If true, each rank keeps the state of its shard only, sums the gradients of that shard, and gives the
            new weights to the other ranks: through shared memory if all ranks are on one machine, else by sending
            them. If false, the gradients must already be the same on all ranks.

    Attributes:
        size: The number of elements of all parameters.
        weights: The flat weights, padded to a multiple of the shard size.
        master: This rank's shard of the fp32 weights.
        gradients: The flat gradients of this rank.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], weight_dtype: torch.dtype, sharded: bool) -> None:
        self.rank = collectives.get_rank() if sharded else 0
        self.world = collectives.get_world_size() if sharded else 1
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self.size = sum(parameter.numel() for parameter in self.parameters)
        shard_size = -(-self.size // (self.world * ALIGNMENT)) * ALIGNMENT
        initial = torch.zeros(shard_size * self.world, device=self.parameters[0].device)
        torch._foreach_copy_(self._split(initial), [parameter.detach() for parameter in self.parameters])
        self.own = slice(self.rank * shard_size, (self.rank + 1) * shard_size)
        self._allocate(weight_dtype, initial)
        self.gradient_views = self._split(self.gradients)
        self.adamw: Any = torch.optim.AdamW(self._segment_groups(groups), lr=1.0, betas=BETAS, fused=True)
        self.is_empty = True

    def _allocate(self, weight_dtype: torch.dtype, initial: Tensor) -> None:
        """Allocate the weights, their fp32 masters and the gradients, in shared memory if that is possible."""
        is_shared = self.world > 1 and initial.device.type == "cpu" and is_single_machine()
        shape = (len(initial),)
        self.weights = shared_zeros(shape, weight_dtype) if is_shared else torch.empty_like(initial, dtype=weight_dtype)
        self.weights[self.own] = initial[self.own].to(weight_dtype)
        if not is_shared:
            self.weights.copy_(initial)
        self.master = self.weights[self.own] if weight_dtype == torch.float32 else initial[self.own].clone()
        for parameter, view in zip(self.parameters, self._split(self.weights), strict=True):
            parameter.data = view
        sent_dtype = weight_dtype if self.world > 1 else torch.float32
        self.all_gradients = shared_zeros((self.world, *shape), sent_dtype) if is_shared else None
        self.gradients = (
            torch.zeros_like(initial, dtype=sent_dtype) if self.all_gradients is None else self.all_gradients[self.rank]
        )
        self.gradient_shard = self.gradients if self.world == 1 else torch.empty_like(initial[self.own])

    def _split(self, flat: Tensor) -> list[Tensor]:
        """Return a view of the flat tensor for each parameter, in its shape."""
        pieces = torch.split(flat[: self.size], [parameter.numel() for parameter in self.parameters])
        return [piece.view(parameter.shape) for piece, parameter in zip(pieces, self.parameters, strict=True)]

    def _segment_groups(self, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return, for each group, the segment that lies in this rank's shard, as one parameter with its gradient."""
        segments, start = [], 0
        for group in groups:
            end = start + sum(parameter.numel() for parameter in group["params"])
            low, high = max(start, self.own.start) - self.own.start, min(end, self.own.stop) - self.own.start
            if low < high:
                segment = nn.Parameter(self.master[low:high])
                segment.grad = self.gradient_shard[low:high]
                scale = group["lr_scale"]
                segments.append({"params": [segment], "weight_decay": group["weight_decay"], "lr_scale": scale})
            start = end
        return segments or [{"params": [nn.Parameter(self.master[:0])], "weight_decay": 0.0, "lr_scale": 1.0}]

    # -- step ----------------------------------------------------------------------------------------

    def accumulate(self) -> None:
        """Add the parameters' gradients to the flat gradients, and free them."""
        pairs = [
            (view, parameter.grad)
            for view, parameter in zip(self.gradient_views, self.parameters, strict=True)
            if parameter.grad is not None
        ]
        if self.is_empty and len(pairs) < len(self.gradient_views):
            self.gradients.zero_()
        if pairs:
            views, gradients = (list(column) for column in zip(*pairs, strict=True))
            (torch._foreach_copy_ if self.is_empty else torch._foreach_add_)(views, gradients)
        for parameter in self.parameters:
            parameter.grad = None
        self.is_empty = False

    def reduce_gradients(self) -> Tensor:
        """Sum this rank's shard of the gradients over the ranks.

        Returns:
            The squared norm of the shard, a scalar.
        """
        if self.all_gradients is not None:
            collectives.barrier()  # every rank has written its gradients
            return collectives.sum_into(self.gradient_shard, self.all_gradients[:, self.own])
        if self.world > 1:
            return collectives.reduce_scatter(self.gradients, self.gradient_shard)
        norm: Tensor = torch.linalg.vector_norm(self.gradient_shard)
        return norm.square()

    def step(self, lr: float, divisor: float) -> None:
        """Take one step and give the new weights to every rank.

        Args:
            lr: The learning rate, before each group's ``lr_scale``.
            divisor: The gradients are divided by it in the same pass, which averages and clips them.
        """
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.adamw.grad_scale = torch.tensor(divisor, device=self.master.device)
        self.adamw.found_inf = torch.zeros((), device=self.master.device)
        self.adamw.step()
        self.sync_weights()
        self.is_empty = True

    def unflatten_gradients(self) -> None:
        """Set each parameter's ``grad`` to the gradient of the last step; for an unsharded optimizer only."""
        for parameter, view in zip(self.parameters, self.gradient_views, strict=True):
            parameter.grad = view

    def discard_gradients(self) -> None:
        """Drop the accumulated gradients without a step."""
        self.is_empty = True

    def sync_weights(self) -> None:
        """Copy the master weights into the model's weights, on every rank."""
        if self.master.data_ptr() != self.weights[self.own].data_ptr():
            self.weights[self.own].copy_(self.master)
        if self.all_gradients is not None:
            collectives.barrier()  # every rank has written its weights and has read the gradients
        elif self.world > 1:
            collectives.all_gather(self.weights)

    # -- state ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the weights and moments of all shards, in fp32; every rank must call it."""
        states = [self.adamw.state[group["params"][0]] for group in self.adamw.param_groups]
        tensors = {"weight": self.gather(self.master)}
        for name in ("exp_avg", "exp_avg_sq"):
            moment = torch.zeros_like(self.master)
            for segment, state in zip(self._segment_slices(), states, strict=True):
                if name in state:
                    moment[segment] = state[name]
            tensors[name] = self.gather(moment) if self.world > 1 else moment[: self.size]
        steps = [float(state["step"]) for state in states if "step" in state]
        return tensors | {"step": torch.tensor(max(steps, default=0.0))}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that ``state_dict`` returned, on any number of ranks."""
        shards = {name: self.shard(tensor) for name, tensor in tensors.items() if tensor.ndim}
        self.master.copy_(shards["weight"])
        for segment, group in zip(self._segment_slices(), self.adamw.param_groups, strict=True):
            moments = {name: shards[name][segment].clone() for name in ("exp_avg", "exp_avg_sq")}
            self.adamw.state[group["params"][0]] = {**moments, "step": tensors["step"].clone()}
        self.sync_weights()

    def gather_named_weights(self, names: Mapping[int, str]) -> dict[str, Tensor]:
        """Return the fp32 weights by name; every rank must call it.

        Args:
            names: The name of each parameter by its ``id``.
        """
        views = self._split(self.gather(self.master))
        return {names[id(parameter)]: view for parameter, view in zip(self.parameters, views, strict=True)}

    def _segment_slices(self) -> list[slice]:
        ends = [0]
        for group in self.adamw.param_groups:
            ends.append(ends[-1] + group["params"][0].numel())
        return [slice(start, end) for start, end in pairwise(ends)]

    def gather(self, shard: Tensor) -> Tensor:
        """Concatenate the shards of all ranks; every rank must call it.

        Args:
            shard: This rank's shard, laid out like ``master``.

        Returns:
            A copy of shape (``size``,).
        """
        if self.world == 1:
            return shard[: self.size].clone()
        flat = shard.new_empty(len(shard) * self.world)
        flat[self.own] = shard
        collectives.all_gather(flat)
        return flat[: self.size]

    def shard(self, full: Tensor) -> Tensor:
        """Return this rank's shard of a tensor of shape (``size``,), padded with zeros."""
        padded = full.new_zeros(len(self.master) * self.world)
        padded[: self.size] = full
        return padded[self.own]
