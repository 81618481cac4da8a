"""Language models on OpenVINO: the logits and the texts of torch, for each family; refusals with their reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve_core.errors import ExportError, PlanError
from fastserve_engines import causal_engine
from fastserve_engines.causal_graph import CausalExport
from fastserve_engines.openvino_engine import OpenVINOEngine
from fastserve_engines.torch_engine import TorchEngine

SPECIAL = {"vocab_size": 200, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64} | SPECIAL


def model(family: str, **more: Any) -> Any:
    import torch
    import transformers

    options = {"n_embd": 32, "n_layer": 2, "n_head": 4} | SPECIAL if family == "GPT2" else SMALL
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**options, initializer_range=0.5, **more)
    return getattr(transformers, f"{family}{'LMHeadModel' if family == 'GPT2' else 'ForCausalLM'}")(config).eval()


def left_padded() -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(3, 200, (3, 6))
    mask = np.ones_like(ids)
    mask[0, :4], mask[1, :1] = 0, 0
    return {"input_ids": ids * mask, "attention_mask": mask}


pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("GPT2", {}),
        ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("Qwen2", {"num_key_value_heads": 4}),
    ],
)
def test_openvino_answers_and_generates_as_torch_does(
    family: str, more: dict[str, Any], tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(family, **more).save_pretrained(tmp_path)
    torch_engine, engine = TorchEngine(tmp_path, 1), OpenVINOEngine(tmp_path, 1)
    prompts, options = left_padded(), {"max_new_tokens": 12}
    right = {name: one[:, ::-1].copy() for name, one in prompts.items()}
    real = right["attention_mask"].astype(bool)
    for _ in range(2):  # nothing of an earlier request is left
        logits = engine.run(right)["logits"]
        assert np.allclose(logits[real], torch_engine.run(right)["logits"][real], atol=1e-3)
        expected = torch_engine.generate(prompts, options)["ids"]
        assert len(np.unique(expected)) > 3
        assert np.array_equal(engine.generate(prompts, options)["ids"], expected)
    monkeypatch.setattr(causal_engine, "MAX_TOKENS_PER_PASS", 6)  # the first row has nothing in the first passes
    assert np.array_equal(engine.generate(prompts, options)["ids"], expected)
    drawn = engine.generate(prompts, {"max_new_tokens": 4, "temperature": 1.5})["ids"]
    assert drawn.shape[0] == 3
    assert drawn.max() < 200
    engine.close()


def test_generation_ends_where_every_row_has_ended(tmp_path: Path, home: Path) -> None:
    made = model("Llama")
    made.save_pretrained(tmp_path)
    prompts = left_padded()
    free = OpenVINOEngine(tmp_path, 1).generate(prompts, {"max_new_tokens": 12})["ids"]
    made.generation_config.eos_token_id = sorted({int(one) for one in free[:, 2]})
    made.save_pretrained(tmp_path)
    ended = OpenVINOEngine(tmp_path, 1).generate(prompts, {"max_new_tokens": 12})["ids"]
    assert ended.shape[1] <= 3
    assert np.array_equal(ended, TorchEngine(tmp_path, 1).generate(prompts, {"max_new_tokens": 12})["ids"])


def test_an_encoder_cannot_generate(tiny_bert: Path, home: Path) -> None:
    with pytest.raises(PlanError, match="cannot generate text"):
        OpenVINOEngine(tiny_bert, 1).generate(left_padded(), {"max_new_tokens": 2})


def test_unsupported_parts_of_a_model_are_reported(tiny_bert: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    with pytest.raises(ExportError, match="BertForSequenceClassification is not a causal language model"):
        CausalExport(AutoModelForSequenceClassification.from_pretrained(tiny_bert))
    with pytest.raises(ExportError, match="Qwen2ForCausalLM attends to a window of 4096 tokens"):
        CausalExport(model("Qwen2", use_sliding_window=True, max_window_layers=0, num_key_value_heads=4))


def test_a_family_that_makes_its_own_mask_is_refused(tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    export = CausalExport(BloomForCausalLM(BloomConfig(vocab_size=100, hidden_size=32, n_layer=1, n_head=4)).eval())
    with pytest.raises(ExportError, match="cannot be converted"):
        export.write(export.module, tmp_path)
