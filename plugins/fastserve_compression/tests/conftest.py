"""Tiny models of each family, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 64}
OTHERS = {
    "DistilBert": {"dim": 32, "n_heads": 4, "n_layers": 3, "hidden_dim": 64},
    "GPT2": {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_inner": 64},
    "Gemma": SIZES | {"num_key_value_heads": 2, "head_dim": 8},
    "BigBird": SIZES | {"attention_type": "original_full"},
    "Llama": SIZES | {"num_key_value_heads": 2},
    "Qwen2": SIZES | {"num_key_value_heads": 2},
    "Mistral": SIZES | {"num_key_value_heads": 2},
}


def make(family: str, head: str = "ForSequenceClassification", vocabulary: int = 60, **more: Any) -> Any:
    torch.manual_seed(0)
    sizes = OTHERS.get(family, SIZES)
    config = getattr(transformers, f"{family}Config")(vocab_size=vocabulary, pad_token_id=0, **sizes, **more)
    model = getattr(transformers, family + head)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(5)  # random weights give logits too near zero to compare
    return model


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """Makes an untrained model: three layers of 4 heads and 64 neurons, 32 wide."""
    return make


@pytest.fixture
def batches() -> list[dict[str, torch.Tensor]]:
    """Three batches of random tokens with labels; the last texts of each are shorter."""
    draw = torch.Generator().manual_seed(1)
    made = []
    for length in (5, 9, 12):
        mask = torch.ones(4, length, dtype=torch.long)
        mask[-1, length // 2 :] = 0
        ids = torch.randint(5, 60, (4, length), generator=draw) * mask
        made.append({"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 0, 1])})
    return made


@pytest.fixture
def answer(batches: list[dict[str, torch.Tensor]]) -> Callable[[Any], torch.Tensor]:
    """A model's logits for the longest batch."""

    def logits(model: Any) -> torch.Tensor:
        given = {name: one for name, one in batches[-1].items() if name != "labels"}
        with torch.no_grad():
            found: torch.Tensor = model(**given).logits
        return found

    return logits
