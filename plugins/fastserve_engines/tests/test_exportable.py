"""What a model is asked when it is traced: its own inputs, and no more of them than it has positions for."""

from __future__ import annotations

import copy
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
import transformers

from fastserve_core.errors import ExportError, ModelError
from fastserve_core.export import explain_export_error
from fastserve_core.tasks import select_outputs
from fastserve_engines.cls_only_attention import ClsOnlyLayer
from fastserve_engines.decode_step import check_family
from fastserve_engines.exportable import TracedModel

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 40, "pad_token_id": 1,
}  # fmt: skip
GPT2: dict[str, Any] = {"vocab_size": 60, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 40, "pad_token_id": 1}
IDS = {"input_ids": torch.tensor([[2, 10, 11, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}


@pytest.mark.parametrize(
    ("family", "sizes", "inputs", "longest"),
    [
        ("Bert", SIZES, ("input_ids", "attention_mask", "token_type_ids"), 40),
        ("Roberta", SIZES | {"type_vocab_size": 1}, ("input_ids", "attention_mask"), 38),
        ("GPT2", GPT2, ("input_ids", "attention_mask"), 40),
    ],
)
def test_the_inputs_of_a_model_are_found(
    family: str, sizes: dict[str, Any], inputs: tuple[str, ...], longest: int
) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        expected = model(**IDS).logits
    traced = TracedModel(model)
    assert (traced.inputs, traced.outputs, traced.longest) == (inputs, ("logits",), longest)
    given = IDS | {"token_type_ids": torch.zeros(1, 4, dtype=torch.long)}
    with torch.no_grad():
        (found,) = traced.module(*(given[name] for name in traced.inputs))
    assert torch.allclose(found, expected, atol=1e-6)


def test_weights_of_16_bits_are_traced_in_fp32() -> None:
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES)).to(torch.bfloat16).eval()
    traced = TracedModel(model)
    assert traced.has_16bit_weights
    assert {one.dtype for one in traced.module.parameters()} == {torch.float32}


def test_the_declared_outputs_are_traced_and_a_shorter_last_layer_only_if_they_stay() -> None:
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SIZES)).eval()
    with torch.no_grad():
        expected = model(**IDS)
    types = torch.zeros(1, 4, dtype=torch.long)
    for outputs, is_short in ((("pooler_output",), True), (("*_state", "pooler*"), False)):
        traced = TracedModel(copy.deepcopy(model), outputs)
        assert traced.outputs == tuple(name for name in expected if any(fnmatchcase(name, one) for one in outputs))
        assert isinstance(traced.module.model.encoder.layer[-1], ClsOnlyLayer) == is_short
        with torch.no_grad():
            found = traced.module(*(IDS | {"token_type_ids": types}).values())
        for name, value in zip(traced.outputs, found, strict=True):
            assert torch.allclose(value, expected[name], atol=1e-6)


@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification"])
def test_a_model_with_a_head_gives_its_last_hidden_state_too(head: str) -> None:
    torch.manual_seed(0)
    model = getattr(transformers, f"BertFor{head}")(transformers.BertConfig(**SIZES)).eval()
    with torch.no_grad():
        hidden, logits = model.base_model(**IDS).last_hidden_state, model(**IDS).logits
    traced = TracedModel(model, ("logits", "last_hidden_state"))
    assert traced.outputs == ("logits", "last_hidden_state")
    types = torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        found = traced.module(*(IDS | {"token_type_ids": types}).values())
    assert torch.allclose(found[0], logits, atol=1e-6)
    assert torch.allclose(found[1], hidden, atol=1e-6)


def test_an_output_that_the_model_lacks_is_named() -> None:
    model = transformers.BertModel(transformers.BertConfig(**SIZES)).eval()
    with pytest.raises(ModelError, match=r"has no output \*logits; its outputs are last_hidden_state, pooler_output"):
        TracedModel(model)
    with pytest.raises(ModelError, match="output hidden_states is not a tensor"):
        select_outputs({"hidden_states": (torch.ones(1),)}, ["hidden_states"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("No conversion rule found for operations: aten._fft_c2c.default"),
            "no operator aten._fft_c2c",
        ),
        (RuntimeError("No conversion rule found for operations: <function sym_min at 0x7f>"), "no operator sym_min"),
        (ValueError("Constraints violated (length)! For more information, run with TORCH_LOGS"), "no graph fits all"),
        (RuntimeError("Failed to decompose the graph. \x1b[96mThis is step 2/3"), "^Failed to decompose the graph.$"),
    ],
)
def test_a_compilers_words_become_a_sentence(error: Exception, reason: str) -> None:
    message = explain_export_error(error)
    assert message is not None and re.search(reason, message)
    assert explain_export_error(RuntimeError("something else")) is None


def test_decode_steps_are_refused_for_windows_and_for_encoders() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    mistral = transformers.MistralConfig(vocab_size=9, sliding_window=8, max_position_embeddings=64, **sizes)
    with pytest.raises(ExportError, match="attends to a window of 8 tokens"):
        check_family(transformers.MistralForCausalLM(mistral))
    mistral.sliding_window = 64
    check_family(transformers.MistralForCausalLM(mistral))
    bert = transformers.BertConfig(vocab_size=9, **sizes)
    with pytest.raises(ExportError, match="attends to the tokens behind a position"):
        check_family(transformers.BertLMHeadModel(bert))
    bert.is_decoder = True
    check_family(transformers.BertLMHeadModel(bert))
