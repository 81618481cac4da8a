"""The last layer for one token: the same logits, and other models as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from fastserve_engines.cls_only_attention import ClsOnlyLayer, compute_cls_only

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "num_labels": 3,
}  # fmt: skip
INPUTS = {
    "input_ids": torch.tensor([[2, 10, 11, 12, 3], [2, 13, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


def made(family: str, head: str, **more: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **more)
    return getattr(transformers, f"{family}For{head}")(config).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["Bert", "Roberta", "Electra", "Camembert", "XLMRoberta"])
def test_a_classifier_gives_the_same_logits(family: str, attention: str) -> None:
    model = made(family, "SequenceClassification", attn_implementation=attention)
    with torch.no_grad():
        before = model(**INPUTS).logits
        compute_cls_only(model)
        after = model(**INPUTS).logits
    assert isinstance(model.base_model.encoder.layer[-1], ClsOnlyLayer)
    assert torch.allclose(before, after, atol=1e-5)
    assert before.std() > 0.001


@pytest.mark.parametrize(("family", "head"), [("Bert", "TokenClassification"), ("Bert", "PreTraining")])
def test_models_that_read_every_token_keep_their_attention(family: str, head: str) -> None:
    model = made(family, head)
    before = [type(one) for one in model.modules()]
    compute_cls_only(model)
    assert [type(one) for one in model.modules()] == before


def test_another_family_stays() -> None:
    config = transformers.DistilBertConfig(vocab_size=60, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    model = transformers.DistilBertForSequenceClassification(config)
    before = [type(one) for one in model.modules()]
    compute_cls_only(model)
    assert [type(one) for one in model.modules()] == before


def test_a_module_that_is_not_transformers_own_stays_as_it_is() -> None:
    module = torch.nn.Linear(2, 2)
    module.config = transformers.BertConfig(num_hidden_layers=1)
    compute_cls_only(module)
    assert list(module.children()) == []
