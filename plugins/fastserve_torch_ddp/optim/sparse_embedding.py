"""Embedding tables whose unused rows cost nothing: AdamW, worked out only for rows that a batch looks up.

A batch of short texts reads some hundred rows of a table of thirty thousand, but a dense gradient and a dense
optimizer touch all of them: a quarter of a training step of MiniLM. A row without gradient still moves under
AdamW, by its momentum and by weight decay, and that movement has a closed form; so a row is brought up to date
when it is next looked up, and the training is the one that dense AdamW does (up to the epsilon of its quotient).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastserve_torch_ddp.distributed import collectives

LEAST_ROWS = 1024
WINDOW = 256
"""Momentum is followed this many steps after a gradient: 0.9 ** 256 is nothing."""
BLOCK = 4096
TINY = 1e-30
"""What a row that never had a gradient is divided by."""


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, table: LazyEmbedding) -> Tensor:
        ctx.ids, ctx.table = ids, table
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        ctx.table.found.append((ctx.ids.flatten(), gradients[0].reshape(-1, gradients[0].shape[-1])))
        return None, None, None


class LazyEmbedding(nn.Embedding):
    """``nn.Embedding`` that notes the gradient of the rows it gave, instead of one for the whole table."""

    found: list[tuple[Tensor, Tensor]]
    before: Callable[[Tensor], None]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(input)
        self.before(input)
        out: Tensor = _Lookup.apply(self.weight, input, self)  # type: ignore[no-untyped-call]
        return out


def large_embeddings(model: nn.Module) -> list[tuple[str, nn.Embedding]]:
    """Trainable embedding tables with many rows whose weights nothing else uses."""
    uses: dict[int, int] = {}
    for module in model.modules():
        for one in module.parameters(recurse=False):
            uses[id(one)] = uses.get(id(one), 0) + 1
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Embedding
        and module.num_embeddings >= LEAST_ROWS
        and module.weight.requires_grad
        and uses[id(module.weight)] == 1
        and module.max_norm is None
        and not module.scale_grad_by_freq
    ]


class LazyRowAdamW:
    """AdamW (Loshchilov & Hutter 2019) for one table, row by row.

    ``state[row]`` holds the row's fp32 weights and its two moments; ``last[row]`` the step it is up to date with.
    """

    def __init__(
        self, table: nn.Embedding, weight_decay: float, lr_scale: float, low: torch.dtype, betas: tuple[float, float]
    ) -> None:
        self.weight_decay, self.lr_scale, self.betas, self.eps = weight_decay, lr_scale, betas, 1e-8
        weight = table.weight.detach()
        self.state = torch.zeros(weight.shape[0], 3, weight.shape[1])
        self.state[:, 0] = weight
        self.last = torch.zeros(weight.shape[0], dtype=torch.int64)
        self.sizes, self.decays = [0.0], [0.0]
        table.weight.data = weight.to(low)
        table.__class__ = LazyEmbedding
        self.table: LazyEmbedding = table  # type: ignore[assignment]
        self.table.found = []
        self.table.before = lambda ids: self.catch_up_rows(torch.unique(ids))

    @property
    def step_count(self) -> int:
        return len(self.sizes) - 1

    def gradients(self) -> tuple[Tensor, Tensor]:
        """The rows that got a gradient since the last step, and it, summed over their uses (fp32)."""
        ids = torch.cat([one for one, _ in self.table.found])
        given = torch.cat([one for _, one in self.table.found]).float()
        self.table.found.clear()
        if self.table.padding_idx is not None:
            kept = ids != self.table.padding_idx
            ids, given = ids[kept], given[kept]
        return sum_rows(ids, given)

    def step(self, rows: Tensor, gradient: Tensor, lr: float) -> None:
        """One step of AdamW for rows that are given with their gradients; the others wait."""
        beta1, beta2 = self.betas
        lr *= self.lr_scale
        number = self.step_count + 1
        size, root = lr / (1 - beta1**number), (1 - beta2**number) ** 0.5
        state = self._up_to_date(rows)
        weight, first, second = state.unbind(1)
        weight.mul_(1 - lr * self.weight_decay)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weight.addcdiv_(first, second.sqrt().div_(root).add_(self.eps), value=-size)
        self._note(lr, size * root)
        self._put(rows, state, self.step_count)

    def average(self, rows: Tensor) -> None:
        """What is known of these rows becomes the mean of every rank's, moments too: else the rows of a rank
        that has them no more in its batches would drift from the others' by its own momentum."""
        state = self._up_to_date(rows)
        collectives.all_reduce_mean(state)
        self._put(rows, state, self.step_count)

    def _note(self, lr: float, size: float) -> None:
        self.sizes.append(size)
        self.decays.append(self.decays[-1] + float(np.log1p(-lr * self.weight_decay)))

    def catch_up_rows(self, rows: Tensor) -> None:
        """Do for these rows the steps that they were left out of."""
        rows = rows[self.last[rows] < self.step_count]
        if len(rows):
            self._put(rows, self._up_to_date(rows), self.step_count)

    def _up_to_date(self, rows: Tensor) -> Tensor:
        """A copy of these rows' state, with the steps that they were left out of."""
        state, last = self.state.index_select(0, rows), self.last[rows]
        behind = (last < self.step_count).nonzero().flatten()
        if len(behind) == len(rows):
            self._catch_up(state, last)
        elif len(behind):
            waited = state.index_select(0, behind)
            self._catch_up(waited, last[behind])
            state.index_copy_(0, behind, waited)
        return state

    def _catch_up(self, state: Tensor, last: Tensor) -> None:
        """Do to the state what the steps after ``last`` do to rows that get no gradient."""
        now = self.step_count
        momentum, shrunk = self._missed(last, now)
        beta1, beta2 = self.betas
        missed = (now - last).to(torch.float32).unsqueeze(1)
        weight, first, second = state.unbind(1)
        eps = self.eps * (1 - beta2 ** last.to(torch.float32)).sqrt().unsqueeze(1)
        moved = first / second.sqrt().add_(eps).clamp_(min=TINY)
        weight.mul_(shrunk.unsqueeze(1)).sub_(moved.mul_(momentum.unsqueeze(1)))
        first.mul_(beta1**missed)
        second.mul_(beta2**missed)

    def _missed(self, last: Tensor, now: int) -> tuple[Tensor, Tensor]:
        """How far each row's momentum carries it from ``last`` to now, and what weight decay leaves of it."""
        seen, place = np.unique(last.numpy(), return_inverse=True)
        ratio = self.betas[0] / self.betas[1] ** 0.5
        after = np.arange(1, min(WINDOW, now - int(seen[0])) + 1)
        steps = seen[:, None] + after
        within = np.minimum(steps, now)
        decays = np.asarray(self.decays)
        sizes = np.asarray(self.sizes)[within] * np.exp(decays[now] - decays[within]) * (steps <= now)
        momentum, shrunk = (sizes * ratio**after).sum(axis=1), np.exp(decays[now] - decays[seen])
        return tuple(torch.from_numpy(one[place]).float() for one in (momentum, shrunk))  # type: ignore[return-value]

    def _put(self, rows: Tensor, state: Tensor, step: int) -> None:
        self.state[rows] = state
        self.last[rows] = step
        self.table.weight.data[rows] = state[:, 0].to(self.table.weight.dtype)

    def settle(self) -> None:
        """Bring the whole table up to date: before it is evaluated, averaged or saved."""
        for start in range(0, len(self.last), BLOCK):
            self.catch_up_rows(torch.arange(start, min(start + BLOCK, len(self.last))))

    # -- what a checkpoint holds -----------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        self.settle()
        history = torch.tensor([self.sizes, self.decays], dtype=torch.float64)
        return {"state": self.state.clone(), "history": history}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.state.copy_(tensors["state"])
        self.sizes, self.decays = (list(map(float, one)) for one in tensors["history"])
        self.last.fill_(self.step_count)
        self.table.weight.data.copy_(self.state[:, 0])


def sum_rows(ids: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Each row once, with the sum of its gradients."""
    rows, places = torch.unique(ids, return_inverse=True)
    return rows, gradients.new_zeros(len(rows), gradients.shape[1]).index_add_(0, places, gradients)
