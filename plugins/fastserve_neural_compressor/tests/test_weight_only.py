"""Integer weights of language models: OpenVINO answers as neural-compressor's own model does; bad input is said."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve_core.errors import BadOption, Unexportable
from fastserve_core.registry import provide
from fastserve_neural_compressor import NeuralCompressor, QuantizeOptions
from fastserve_neural_compressor.weight_only import by_row, linear_layers, quantize_weights


def tiny() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = LlamaConfig(vocab_size=300, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    return LlamaForCausalLM(config).eval()


def dequantized(model: Any, bits: int) -> Any:
    import torch
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare

    config = RTNConfig(bits=bits, use_sym=False, group_size=32, use_layer_wise=False)
    packed = convert(prepare(copy.deepcopy(model), config))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in linear_layers(model, 32).items():
            twin.get_submodule(name).weight.copy_(packed.get_submodule(name).recover().float()[: layer.out_features])
        one = by_row(model.get_input_embeddings().weight)
        table = (one.values.astype(np.float32) - one.zeros.astype(np.float32)) * one.scales
        twin.get_input_embeddings().weight.copy_(torch.from_numpy(table[:, 0]))
    return twin


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_openvino_has_neural_compressors_integers(bits: int, tmp_path: Path) -> None:
    import torch

    model = tiny()
    # neural-compressor's own recover() casts 8-bit differences to int8, where large ones wrap around
    expected = dequantized(model, bits) if bits == 4 else model
    quantize_weights(model, tmp_path, bits, 32)
    model.config.save_pretrained(tmp_path)
    engine = provide("fastserve.engines", "openvino")(tmp_path, 1)
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        wanted = expected(ids).logits.numpy()
    # OpenVINO computes with activations of 8 bits here; the 4 bits of the weights alone move logits by 0.4 spreads
    assert np.abs(engine.run({"input_ids": ids.numpy()})["logits"] - wanted).max() < 0.05 * wanted.std()
    weights = sum(one.numel() for one in {id(one): one for one in model.parameters()}.values())
    assert (tmp_path / "openvino_model.bin").stat().st_size < weights * 1.5
    engine.close()


def test_models_that_do_not_fit_are_said() -> None:
    with pytest.raises(Unexportable, match="group_size 48 does not divide the 64 inputs of model.layers.0"):
        linear_layers(tiny(), 48)
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(Unexportable, match="no linear layer"):
        linear_layers(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)), 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "awq"}, "method must be one of static, rtn, or null, not 'awq'"),
        ({"bits": 3}, "bits must be 4 or 8, not 3"),
        ({"group_size": 7}, "group_size must be even and at least 2, not 7"),
        ({"method": "static", "bits": 4}, "static computes in 8 bits"),
    ],
)
def test_bad_options_are_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadOption, match=message):
        QuantizeOptions(**options)


def test_a_method_for_the_other_kind_of_model_is_said() -> None:
    with pytest.raises(BadOption, match="method=rtn is for language models, not for text_classification"):
        NeuralCompressor(QuantizeOptions(method="rtn"))._check_method("text_classification")
    with pytest.raises(BadOption, match="method=static is for encoders, not for causal_lm"):
        NeuralCompressor(QuantizeOptions(method="static"))._check_method("causal_lm")
    with pytest.raises(BadOption, match="bits=4 is for language models"):
        NeuralCompressor(QuantizeOptions(bits=4))._check_method("text_classification")
