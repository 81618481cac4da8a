"""AdamW over one flat buffer: fp32 master weights behind bf16 ones, each rank stepping its own shard of them.

Loshchilov & Hutter 2019; the shards are those of ZeRO stage 1 (Rajbhandari et al. 2020). The model's parameters
become views of one buffer, so that a step is a few passes over memory however many parameters there are, and an
exchange between ranks is one message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_torch_ddp.distributed import collectives
from fastserve_torch_ddp.distributed.shared_memory import on_one_machine, shared_zeros

ALIGNED = 64
BETAS = (0.9, 0.999)


class FlatAdamW:
    """``groups`` are mappings with ``params``, ``weight_decay`` and ``lr_scale``; parameters come in fp32.

    ``low`` is the type that the model computes with. ``sharded``: a rank keeps the state of its shard only, sums
    the gradients of that shard, and gives the new weights to the others - through memory where all ranks are on
    one machine, else by sending them. Not sharded: gradients must already be the same on all ranks.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], low: torch.dtype, sharded: bool) -> None:
        self.rank, self.world = collectives.ranks() if sharded else (0, 1)
        self.parameters: list[nn.Parameter] = [one for group in groups for one in group["params"]]
        self.size = sum(one.numel() for one in self.parameters)
        share = -(-self.size // (self.world * ALIGNED)) * ALIGNED
        whole = torch.zeros(share * self.world, device=self.parameters[0].device)
        torch._foreach_copy_(self._views(whole), [one.detach() for one in self.parameters])
        self.own = slice(self.rank * share, (self.rank + 1) * share)
        self.everyones = self._allocate(share, low, whole)
        self.views = self._views(self.gradients)
        self.adamw: Any = torch.optim.AdamW(self._segments(groups), lr=1.0, betas=BETAS, fused=True)
        self.empty = True

    def _allocate(self, share: int, low: torch.dtype, whole: Tensor) -> Tensor | None:
        """The weights, their fp32 masters, and the gradients; returns all ranks' gradients where memory is shared."""
        near = self.world > 1 and whole.device.type == "cpu" and on_one_machine()
        self.weights = shared_zeros((len(whole),), low) if near else torch.empty_like(whole, dtype=low)
        self.weights[self.own] = whole[self.own].to(low)
        if not near:
            self.weights.copy_(whole)
        self.master = self.weights[self.own] if low == torch.float32 else whole[self.own].clone()
        for parameter, view in zip(self.parameters, self._views(self.weights), strict=True):
            parameter.data = view
        sent = low if self.world > 1 else torch.float32
        everyones = shared_zeros((self.world, len(whole)), sent) if near else None
        self.gradients = torch.zeros_like(whole, dtype=sent) if everyones is None else everyones[self.rank]
        self.summed = self.gradients if self.world == 1 else torch.empty_like(whole[self.own])
        return everyones

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = torch.split(flat[: self.size], [one.numel() for one in self.parameters])
        return [part.view(one.shape) for part, one in zip(parts, self.parameters, strict=True)]

    def _segments(self, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The part of each group that lies in this rank's shard, as one parameter with its gradient."""
        found, start = [], 0
        for group in groups:
            end = start + sum(one.numel() for one in group["params"])
            low, high = max(start, self.own.start) - self.own.start, min(end, self.own.stop) - self.own.start
            if low < high:
                segment = nn.Parameter(self.master[low:high])
                segment.grad = self.summed[low:high]
                scale = group["lr_scale"]
                found.append({"params": [segment], "weight_decay": group["weight_decay"], "lr_scale": scale})
            start = end
        return found or [{"params": [nn.Parameter(self.master[:0])], "weight_decay": 0.0, "lr_scale": 1.0}]

    # -- a step --------------------------------------------------------------------------------------

    def accumulate(self) -> None:
        """Add the parameters' gradients to what this step has so far, and free them."""
        given = [
            (view, one.grad) for view, one in zip(self.views, self.parameters, strict=True) if one.grad is not None
        ]
        if self.empty and len(given) < len(self.views):
            self.gradients.zero_()
        if given:
            into, gradients = (list(column) for column in zip(*given, strict=True))
            (torch._foreach_copy_ if self.empty else torch._foreach_add_)(into, gradients)
        for parameter in self.parameters:
            parameter.grad = None
        self.empty = False

    def exchange(self) -> Tensor:
        """Sum this rank's shard of the gradients over the ranks; returns the shard's squared norm."""
        if self.everyones is not None:
            collectives.barrier()  # all gradients are there
            return collectives.sum_into(self.summed, self.everyones[:, self.own])
        if self.world > 1:
            return collectives.reduce_scatter(self.gradients, self.summed)
        norm: Tensor = torch.linalg.vector_norm(self.summed)
        return norm.square()

    def step(self, lr: float, divide_by: float) -> None:
        """One step with the gradients divided by a number: how they are averaged and clipped without a pass more."""
        for group in self.adamw.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.adamw.grad_scale = torch.tensor(divide_by, device=self.master.device)
        self.adamw.found_inf = torch.zeros((), device=self.master.device)
        self.adamw.step()
        self.sync_weights()
        self.empty = True

    def unflatten_gradients(self) -> None:
        """Give each parameter the gradient that it was stepped with, for those who look at it; unsharded only."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view

    def discard_gradients(self) -> None:
        """Drop the gradients of a step that is not taken."""
        self.empty = True

    def sync_weights(self) -> None:
        """The model's weights become the master weights, on every rank."""
        if self.master.data_ptr() != self.weights[self.own].data_ptr():
            self.weights[self.own].copy_(self.master)
        if self.everyones is not None:
            collectives.barrier()  # all weights are there, and nobody reads gradients any more
        elif self.world > 1:
            collectives.all_gather(self.weights)

    # -- what a checkpoint holds -----------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the weights and moments of all shards, in fp32; to be called on every rank."""
        moments = [self.adamw.state[group["params"][0]] for group in self.adamw.param_groups]
        found = {"weight": self.whole(self.master)}
        for name in ("exp_avg", "exp_avg_sq"):
            held = torch.zeros_like(self.master)
            for place, state in zip(self._places(), moments, strict=True):
                if name in state:
                    held[place] = state[name]
            found[name] = self.whole(held) if self.world > 1 else held[: self.size]
        steps = [float(state["step"]) for state in moments if "step" in state]
        return found | {"step": torch.tensor(max(steps, default=0.0))}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        mine = {name: self.shard(one) for name, one in tensors.items() if one.ndim}
        self.master.copy_(mine["weight"])
        for place, group in zip(self._places(), self.adamw.param_groups, strict=True):
            state = {name: mine[name][place].clone() for name in ("exp_avg", "exp_avg_sq")}
            self.adamw.state[group["params"][0]] = {**state, "step": tensors["step"].clone()}
        self.sync_weights()

    def named_weights(self, names: Mapping[int, str]) -> dict[str, Tensor]:
        """The fp32 weights by name; ``names`` are by the parameter's ``id``. To be called on every rank."""
        whole = self._views(self.whole(self.master))
        return {names[id(one)]: view for one, view in zip(self.parameters, whole, strict=True)}

    def _places(self) -> list[slice]:
        ends = [0]
        for group in self.adamw.param_groups:
            ends.append(ends[-1] + group["params"][0].numel())
        return [slice(start, end) for start, end in pairwise(ends)]

    def whole(self, shard: Tensor) -> Tensor:
        """A copy of all ranks' shards of a tensor that is laid out like the weights; to be called on every rank."""
        if self.world == 1:
            return shard[: self.size].clone()
        flat = shard.new_empty(len(shard) * self.world)
        flat[self.own] = shard
        collectives.all_gather(flat)
        return flat[: self.size]

    def shard(self, whole: Tensor) -> Tensor:
        """This rank's shard of it."""
        padded = whole.new_zeros(len(self.master) * self.world)
        padded[: self.size] = whole
        return padded[self.own]
