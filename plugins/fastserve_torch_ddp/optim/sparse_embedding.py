"""Embedding tables whose unused rows cost nothing: AdamW, computed only for the rows that a batch looks up.

A batch of short texts reads some hundred rows of a table of thirty thousand, but a dense gradient and a dense
optimizer touch all of them: a quarter of a training step of MiniLM. A row without gradient still moves under
AdamW, by its momentum and by weight decay, and that movement has a closed form. So the updates of a row are deferred
until it is next looked up, and the result equals that of dense AdamW (up to the epsilon of its quotient).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastserve_torch_ddp.distributed import collectives

MIN_ROWS = 1024
"""Smaller tables are updated densely."""
MOMENTUM_WINDOW = 256
"""Momentum is followed for this many steps after a gradient: 0.9 ** 256 is below fp32's resolution."""
CATCH_UP_ROWS = 4096
"""Rows that are brought up to date at once."""
TINY = 1e-30
"""Replaces the second moment of a row that never had a gradient, which would be a division by zero."""


class _Lookup(torch.autograd.Function):
    """An embedding lookup whose backward pass records the gradients by row."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, embedding: LazyEmbedding) -> Tensor:
        ctx.ids, ctx.embedding = ids, embedding
        return nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        row_gradients = gradients[0].reshape(-1, gradients[0].shape[-1])
        ctx.embedding.recorded.append((ctx.ids.flatten(), row_gradients))
        return None, None, None


class LazyEmbedding(nn.Embedding):
    """``nn.Embedding`` that records the gradients of the rows it returned, instead of a dense gradient.

    Attributes:
        recorded: Ids of shape (n,) and gradients of shape (n, width), one pair for each backward pass.
        before_lookup: Is called with the ids before their rows are read.
    """

    recorded: list[tuple[Tensor, Tensor]]
    before_lookup: Callable[[Tensor], None]

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Return the rows of the ids, of shape (*ids, width)."""
        if not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(input)
        self.before_lookup(input)
        rows: Tensor = _Lookup.apply(self.weight, input, self)  # type: ignore[no-untyped-call]
        return rows


def find_large_embeddings(model: nn.Module) -> list[tuple[str, nn.Embedding]]:
    """Return the trainable embedding tables of at least ``MIN_ROWS`` rows whose weights no other module uses."""
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Embedding
        and module.num_embeddings >= MIN_ROWS
        and module.weight.requires_grad
        and uses[id(module.weight)] == 1
        and module.max_norm is None
        and not module.scale_grad_by_freq
    ]


class LazyRowAdamW:
    """AdamW (Loshchilov & Hutter 2019) for one table, row by row.

    Args:
        embedding: The table; it becomes a ``LazyEmbedding`` in place.
        weight_decay: AdamW's weight decay.
        lr_scale: The factor of the learning rate.
        weight_dtype: The type of the weights that the model computes with.
        betas: AdamW's decay rates of the first and second moment.

    Attributes:
        state: Weights, first and second moments in fp32, of shape (rows, 3, width).
        last_step: The last step that is applied to each row, of shape (rows,).
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        weight_decay: float,
        lr_scale: float,
        weight_dtype: torch.dtype,
        betas: tuple[float, float],
    ) -> None:
        self.weight_decay, self.lr_scale, self.betas, self.eps = weight_decay, lr_scale, betas, 1e-8
        weight = embedding.weight.detach()
        self.state = torch.zeros(weight.shape[0], 3, weight.shape[1])
        self.state[:, 0] = weight
        self.last_step = torch.zeros(weight.shape[0], dtype=torch.int64)
        self.step_sizes, self.log_decays = [0.0], [0.0]
        embedding.weight.data = weight.to(weight_dtype)
        embedding.__class__ = LazyEmbedding
        self.embedding: LazyEmbedding = embedding  # type: ignore[assignment]
        self.embedding.recorded = []
        self.embedding.before_lookup = lambda ids: self.catch_up_rows(torch.unique(ids))

    @property
    def step_count(self) -> int:
        """The number of steps taken."""
        return len(self.step_sizes) - 1

    def take_gradients(self) -> tuple[Tensor, Tensor]:
        """Return the row numbers and summed fp32 gradients recorded since the last step, and clear the record."""
        ids = torch.cat([ids for ids, _ in self.embedding.recorded])
        gradients = torch.cat([gradient for _, gradient in self.embedding.recorded]).float()
        self.embedding.recorded.clear()
        if self.embedding.padding_idx is not None:
            counted = ids != self.embedding.padding_idx
            ids, gradients = ids[counted], gradients[counted]
        return sum_rows(ids, gradients)

    def step(self, rows: Tensor, gradient: Tensor, lr: float) -> None:
        """Take one step of AdamW on some rows; the updates of all others are deferred.

        Args:
            rows: Distinct row numbers, of shape (n,).
            gradient: Their gradients, of shape (n, width), fp32.
            lr: The learning rate, before ``lr_scale``.
        """
        beta1, beta2 = self.betas
        lr *= self.lr_scale
        number = self.step_count + 1
        step_size, correction = lr / (1 - beta1**number), (1 - beta2**number) ** 0.5
        state = self._current_state(rows)
        weight, first, second = state.unbind(1)
        weight.mul_(1 - lr * self.weight_decay)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weight.addcdiv_(first, second.sqrt().div_(correction).add_(self.eps), value=-step_size)
        self.step_sizes.append(step_size * correction)
        self.log_decays.append(self.log_decays[-1] + float(np.log1p(-lr * self.weight_decay)))
        self._write(rows, state)

    def average(self, rows: Tensor) -> None:
        """Average weights and moments of some rows over the ranks.

        The moments are included because a rank whose batches no longer contain a row would otherwise let that row
        drift from the other ranks' by its own momentum.
        """
        state = self._current_state(rows)
        collectives.all_reduce_mean(state)
        self._write(rows, state)

    def catch_up_rows(self, rows: Tensor) -> None:
        """Apply the deferred updates of these rows."""
        rows = rows[self.last_step[rows] < self.step_count]
        if len(rows):
            self._write(rows, self._current_state(rows))

    def catch_up_all(self) -> None:
        """Apply all deferred updates, before the table is evaluated, averaged or saved."""
        for start in range(0, len(self.last_step), CATCH_UP_ROWS):
            self.catch_up_rows(torch.arange(start, min(start + CATCH_UP_ROWS, len(self.last_step))))

    def _current_state(self, rows: Tensor) -> Tensor:
        """Return a copy of these rows' state with their deferred updates applied."""
        state, last_step = self.state.index_select(0, rows), self.last_step[rows]
        behind = (last_step < self.step_count).nonzero().flatten()
        if len(behind) == len(rows):
            self._apply_deferred(state, last_step)
        elif len(behind):
            deferred = state.index_select(0, behind)
            self._apply_deferred(deferred, last_step[behind])
            state.index_copy_(0, behind, deferred)
        return state

    def _apply_deferred(self, state: Tensor, last_step: Tensor) -> None:
        """Apply the steps after ``last_step``, in which the rows had no gradient, in place."""
        now = self.step_count
        momentum, decay = self._deferred_factors(last_step, now)
        beta1, beta2 = self.betas
        missed = (now - last_step).to(torch.float32).unsqueeze(1)
        weight, first, second = state.unbind(1)
        eps = self.eps * (1 - beta2 ** last_step.to(torch.float32)).sqrt().unsqueeze(1)
        direction = first / second.sqrt().add_(eps).clamp_(min=TINY)
        weight.mul_(decay.unsqueeze(1)).sub_(direction.mul_(momentum.unsqueeze(1)))
        first.mul_(beta1**missed)
        second.mul_(beta2**missed)

    def _deferred_factors(self, last_step: Tensor, now: int) -> tuple[Tensor, Tensor]:
        """Return, for each row, the sum of its momentum factors since ``last_step`` and its total weight decay."""
        distinct, index = np.unique(last_step.numpy(), return_inverse=True)
        ratio = self.betas[0] / self.betas[1] ** 0.5
        offsets = np.arange(1, min(MOMENTUM_WINDOW, now - int(distinct[0])) + 1)
        steps = distinct[:, None] + offsets
        clipped = np.minimum(steps, now)
        decays = np.asarray(self.log_decays)
        sizes = np.asarray(self.step_sizes)[clipped] * np.exp(decays[now] - decays[clipped]) * (steps <= now)
        momentum, decay = (sizes * ratio**offsets).sum(axis=1), np.exp(decays[now] - decays[distinct])
        return torch.from_numpy(momentum[index]).float(), torch.from_numpy(decay[index]).float()

    def _write(self, rows: Tensor, state: Tensor) -> None:
        self.state[rows] = state
        self.last_step[rows] = self.step_count
        self.embedding.weight.data[rows] = state[:, 0].to(self.embedding.weight.dtype)

    # -- state ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the state and of the history of step sizes and weight decays."""
        self.catch_up_all()
        history = torch.tensor([self.step_sizes, self.log_decays], dtype=torch.float64)
        return {"state": self.state.clone(), "history": history}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that ``state_dict`` returned."""
        self.state.copy_(tensors["state"])
        self.step_sizes, self.log_decays = (list(map(float, values)) for values in tensors["history"])
        self.last_step.fill_(self.step_count)
        self.embedding.weight.data.copy_(self.state[:, 0])


def sum_rows(ids: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the gradients of equal ids.

    Args:
        ids: Of shape (n,).
        gradients: Of shape (n, width).

    Returns:
        The sorted distinct ids, of shape (m,), and their sums, of shape (m, width).
    """
    rows, indices = torch.unique(ids, return_inverse=True)
    return rows, gradients.new_zeros(len(rows), gradients.shape[1]).index_add_(0, indices, gradients)
