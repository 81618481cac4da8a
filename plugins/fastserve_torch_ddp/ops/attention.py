"""Attention with its own backward pass: a third of the passes over memory that autograd's would make on a CPU.

Scaled dot-product attention (Vaswani et al. 2017) as transformers' eager implementation computes it, in bf16
with the softmax in fp32, which is both exact and several times faster than a softmax in bf16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastserve_torch_ddp.ops.dropout import DropoutMaskPool

NAME = "fastserve"


class _Attention(torch.autograd.Function):
    """q, k, v of shape (batch, heads, tokens, width); the mask is added to the scores."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, factors: Tensor | None
    ) -> Tensor:
        batch, heads, tokens = query.shape[:3]
        q, k, v = (one.reshape(batch * heads, one.shape[2], one.shape[3]) for one in (query, key, value))
        scores = torch.bmm(q, k.transpose(1, 2)).float().view(batch, heads, tokens, -1).mul_(scale)
        if mask is not None:
            scores.add_(mask)
        weights = torch.softmax(scores, -1).view(batch * heads, tokens, -1)
        dropped = weights.to(q.dtype)
        if factors is not None:
            dropped.mul_(factors.view_as(dropped))
        ctx.save_for_backward(q, k, v, weights, dropped, factors)
        ctx.scale, ctx.shape = scale, query.shape
        return torch.bmm(dropped, v).view(batch, heads, tokens, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, dropped, factors = ctx.saved_tensors
        batch, heads = ctx.shape[:2]
        out = gradients[0].reshape(q.shape[0], q.shape[1], -1)
        for_value = torch.bmm(dropped.transpose(1, 2), out)
        for_weights = torch.bmm(out, v.transpose(1, 2))
        if factors is not None:
            for_weights.mul_(factors.view_as(for_weights))
        for_scores = torch._softmax_backward_data(for_weights.float(), weights, -1, torch.float32)
        for_scores = for_scores.mul_(ctx.scale).to(q.dtype)
        for_query, for_key = torch.bmm(for_scores, k), torch.bmm(for_scores.transpose(1, 2), q)
        shaped = (one.view(batch, heads, one.shape[1], one.shape[2]) for one in (for_query, for_key, for_value))
        return (*shaped, None, None, None)


def attention(masks: DropoutMaskPool) -> Any:
    """The function that transformers calls for each layer."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if key.shape[1] != query.shape[1]:  # grouped queries share keys and values
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        factors = None
        if dropout and module.training:
            factors = masks.take(torch.Size((*query.shape[:3], key.shape[2])), dropout, query.dtype)
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        out: Tensor = _Attention.apply(query, key, value, attention_mask, scale, factors)  # type: ignore[no-untyped-call]
        return out.transpose(1, 2).contiguous(), None

    return attend


def use_attention(model: nn.Module, masks: DropoutMaskPool) -> bool:
    """Have the model's layers call it; false where the model's class knows no exchangeable attention."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(NAME, attention(masks))
    AttentionMaskInterface.register(NAME, eager_mask)
    try:
        model.set_attn_implementation(NAME)  # type: ignore[operator]
    except (ValueError, AttributeError):
        return False
    return True
