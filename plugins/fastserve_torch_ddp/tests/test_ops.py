"""Dropout from a pool and attention with its own backward pass: what torch's would give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastserve_torch_ddp.ops.attention import make_attention
from fastserve_torch_ddp.ops.dropout import DropoutMaskPool, PooledDropout, use_pooled_dropout


class Layer(nn.Module):
    training = True


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_and_its_gradients_equal_torchs(masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 7, 4, dtype=torch.float32, requires_grad=True) for _ in range(3))
    mask = torch.zeros(3, 1, 7, 7).masked_fill(torch.rand(3, 1, 7, 7) < 0.3, -1e9) if masked else None
    out, _ = make_attention(DropoutMaskPool(0))(Layer(), q, k, v, mask)
    wanted = reference(q, k, v, mask)
    torch.testing.assert_close(out, wanted)
    upstream = torch.randn_like(out)
    found = torch.autograd.grad(out, (q, k, v), upstream)
    for gradient, other in zip(found, torch.autograd.grad(wanted, (q, k, v), upstream), strict=True):
        torch.testing.assert_close(gradient, other)


def test_attention_shares_keys_between_grouped_queries() -> None:
    q, k, v = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    out, _ = make_attention(DropoutMaskPool(0))(Layer(), q, k, v, None)
    torch.testing.assert_close(out, reference(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), None))


def test_attention_in_bf16_is_near_fp32() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 7, 4) for _ in range(3))
    out, _ = make_attention(DropoutMaskPool(0))(Layer(), q.bfloat16(), k.bfloat16(), v.bfloat16(), None)
    assert (out.float() - reference(q, k, v, None)).abs().max() < 0.03


def test_attention_drops_weights_with_their_gradient() -> None:
    torch.manual_seed(0)
    q = torch.zeros(1, 1, 2000, 1)
    values = torch.eye(2000).view(1, 1, 2000, 2000).requires_grad_(True)
    out, _ = make_attention(DropoutMaskPool(0))(Layer(), q, q, values, None, dropout=0.25)
    weights = out[0, :, 0] * 2000
    kept = weights != 0
    assert abs(float(kept.float().mean()) - 0.75) < 0.01
    torch.testing.assert_close(weights[kept], torch.full_like(weights[kept], 1 / 0.75))
    (gradient,) = torch.autograd.grad(out[0, 0].sum(), values)
    assert torch.equal(gradient[0, 0, :, 0] != 0, kept[0])


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_masks_keep_the_right_share_and_the_mean(p: float) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Dropout(p))
    use_pooled_dropout(layer, DropoutMaskPool(0))
    assert isinstance(layer[0], PooledDropout)
    out = layer(torch.ones(512, 1024))
    assert abs(float((out == 0).float().mean()) - p) < 0.005
    assert abs(float(out.mean()) - 1) < 0.01
    rows = (out != 0).float()
    assert abs(float(torch.corrcoef(rows[:2])[0, 1])) < 0.15, "two rows are dropped independently"
    assert torch.equal(layer.eval()(torch.ones(4, 4)), torch.ones(4, 4))


def test_masks_follow_from_the_seed_and_differ_between_calls() -> None:
    def draw(seed: int) -> list[torch.Tensor]:
        masks = DropoutMaskPool(7)
        torch.manual_seed(seed)
        return [masks.take(torch.Size((64, 64)), 0.1, torch.float32) for _ in range(2)]

    first, other, third = draw(1), draw(1), draw(2)
    assert torch.equal(first[0], other[0]) and torch.equal(first[1], other[1])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], third[0])


def test_the_pool_grows_with_requests() -> None:
    masks = DropoutMaskPool(0)
    assert masks.take(torch.Size((3000, 1000)), 0.1, torch.bfloat16).shape == (3000, 1000)
    assert len(masks.pools[0.1, torch.bfloat16]) == 12_000_000


@pytest.mark.parametrize("kind", ["bert", "gpt2", "distilbert"])
def test_models_give_the_same_logits_and_gradients_with_it(kind: str) -> None:
    import transformers

    from fastserve_torch_ddp.ops.attention import use_attention

    small = {
        "bert": transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        ),
        "gpt2": transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, pad_token_id=0),
        "distilbert": transformers.DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    }
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(small[kind], attn_implementation="eager").eval()
    ids, mask = torch.randint(1, 50, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[0, 6:] = 0

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(input_ids=ids, attention_mask=mask).logits
        model.zero_grad()
        logits.square().sum().backward()
        return logits.detach(), next(iter(model.parameters())).grad.clone()

    wanted = run()
    assert use_attention(model, DropoutMaskPool(0))
    found = run()
    assert model.config._attn_implementation == "fastserve"
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1])
