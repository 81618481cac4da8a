"""Integer weights of language models: OpenVINO answers as neural-compressor's own model does; bad input is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import ExportError, MissingPackageError, OptionError
from fastserve_core.tasks import Encoded, load_task
from fastserve_neural_compressor import NeuralCompressor, QuantizeOptions
from fastserve_neural_compressor.language import make_calibration_blocks
from fastserve_neural_compressor.packed_weights import quantize_rows
from fastserve_neural_compressor.weight_only import find_linear_layers, quantize_weights


def tiny() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = LlamaConfig(vocab_size=300, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    return LlamaForCausalLM(config).eval()


def tiny_gpt2() -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=64, n_layer=2, n_head=4)).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Any]:
    """A model with its files in a folder, which it knows."""

    def save(model: Any) -> Any:
        model.save_pretrained(tmp_path / "model")
        model.name_or_path = str(tmp_path / "model")
        return model

    return save


def blocks() -> list[Any]:
    import torch

    draw = torch.Generator().manual_seed(0)
    return [torch.randint(5, 300, (1, 32), generator=draw) for _ in range(8)]


def answers(model: Any, folder: Path, bits: int, method: str) -> tuple[Any, Any]:
    """The logits of torch in fp32 and of OpenVINO with integer weights, for a text that was not calibrated on."""
    import torch

    ids = torch.arange(5, 29)[None]
    with torch.no_grad():
        wanted = model(ids).logits.numpy()
    quantize_weights(model, folder, bits, 32, method, blocks())
    model.config.save_pretrained(folder)
    engine = load_entry_point("fastserve.engines", "openvino")(folder, 1)
    found = engine.run({"input_ids": ids.numpy()})["logits"]
    engine.close()
    return wanted, found


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "allowed"), [(8, 0.05), (4, 0.5)])
def test_openvino_computes_with_the_integers(
    bits: int, allowed: float, saved: Callable[[Any], Any], tmp_path: Path
) -> None:
    model = saved(tiny())
    wanted, found = answers(model, tmp_path / "made", bits, "rtn")
    assert np.abs(found - wanted).max() < allowed * wanted.std()
    weights = sum(one.numel() for one in {id(one): one for one in model.parameters()}.values())
    assert (tmp_path / "made" / "openvino_model.bin").stat().st_size < weights * 1.5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", "awq", "teq", "autoround"])
def test_the_other_methods_answer_as_well(method: str, saved: Callable[[Any], Any], tmp_path: Path) -> None:
    """Random weights and texts have little to learn from: no worse than rounding to nearest, by a margin."""
    model = saved(tiny())
    wanted, found = answers(model, tmp_path / "made", 4, method)
    assert np.abs(found - wanted).max() < 0.5 * wanted.std()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_texts_that_are_shown_do_not_see_those_before(method: str, saved: Callable[[Any], Any], tmp_path: Path) -> None:
    """Neural-compressor shows a block the same inputs again and again, with whatever keys they hold by then."""
    wanted, found = answers(saved(tiny_gpt2()), tmp_path / "made", 4, method)
    assert np.abs(found - wanted).max() < 0.5 * wanted.std()


@pytest.mark.slow
def test_gpt2s_layers_are_quantized(saved: Callable[[Any], Any], tmp_path: Path) -> None:
    model = saved(tiny_gpt2())
    wanted, found = answers(model, tmp_path / "made", 8, "rtn")
    assert np.abs(found - wanted).max() < 0.05 * wanted.std()
    assert type(model.transformer.h[0].mlp.c_fc).__name__ == "Conv1D"


def test_integers_stand_for_the_weights_that_are_computed_with() -> None:
    import torch

    weight = torch.randn(7, 64)
    packed = quantize_rows(weight)
    assert packed.values.dtype == np.uint8
    assert (packed.dequantize() - weight).abs().max() <= torch.from_numpy(packed.scales).max() * 0.51


def test_models_that_do_not_fit_are_reported() -> None:
    import torch

    with pytest.raises(ExportError, match="group_size 48 does not divide the 64 inputs of model.layers.0"):
        find_linear_layers(tiny(), 48)
    bare = tiny()
    bare.model.layers = torch.nn.ModuleList()
    with pytest.raises(ExportError, match="no linear layer"):
        find_linear_layers(bare, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "hqq"},
            "method must be one of static, dynamic, rtn, gptq, awq, teq, autoround, or null, not 'hqq'",
        ),
        ({"bits": 3}, "bits must be 4 or 8, not 3"),
        ({"group_size": 7}, "group_size must be even and at least 2, not 7"),
        ({"method": "static", "bits": 4}, "static supports 8 bits only"),
        ({"tolerable_loss": 1.5}, "tolerable_loss must be at least 0 and below 1, not 1.5"),
        ({"tolerable_loss": 0.1, "method": "dynamic"}, "tolerable_loss needs method=static, not dynamic"),
    ],
)
def test_bad_options_are_reported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        QuantizeOptions(**options)


def refusal(task: str, **options: Any) -> str:
    with pytest.raises(OptionError) as told:
        NeuralCompressor(QuantizeOptions(**options)).check_task(load_task(task, {}))
    return str(told.value)


def test_options_for_the_other_kind_of_model_are_reported() -> None:
    encoder = "text_classification"
    assert "method=gptq is for language models, not for text_classification" in refusal(encoder, method="gptq")
    assert "method=static is for encoders, not for causal_lm" in refusal("causal_lm", method="static")
    assert "take rtn or gptq" in refusal("causal_lm", method="dynamic")
    assert "bits=4 is for language models" in refusal(encoder, bits=4)
    assert "tolerable_loss is for encoders" in refusal("causal_lm", tolerable_loss=0.1)


def test_a_package_that_a_method_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve_neural_compressor.missing_packages", list)
    with pytest.raises(MissingPackageError, match="pip install auto-round"):
        NeuralCompressor(QuantizeOptions(method="autoround")).check_task(load_task("causal_lm", {}))


def test_texts_are_cut_into_blocks_of_one_length() -> None:
    class Task:
        def encoder(self, folder: Path) -> Any:
            return lambda rows: [Encoded({"input_ids": list(range(one["length"]))}) for one in rows]

    long = make_calibration_blocks(Task(), Path(), [{"length": 200}, {"length": 350}], 256)  # type: ignore[arg-type]
    assert [one.shape for one in long] == [(1, 256), (1, 256)]
    assert long[0][0, 199:202].tolist() == [199, 0, 1]
    short = make_calibration_blocks(Task(), Path(), [{"length": 9}], 256)  # type: ignore[arg-type]
    assert [one.shape for one in short] == [(1, 9)]


def test_layers_that_a_model_does_not_compute_are_left_alone() -> None:
    import torch
    from transformers import BartConfig, BartForCausalLM

    sizes = {"d_model": 32, "decoder_layers": 1, "decoder_ffn_dim": 64, "decoder_attention_heads": 4}
    model = BartForCausalLM(BartConfig(vocab_size=40, **sizes)).eval()
    with torch.no_grad():
        names = find_linear_layers(model, 32)
    assert sorted(name.rpartition("layers.0.")[2] for name in names) == [
        *("fc1", "fc2", "self_attn.k_proj", "self_attn.out_proj", "self_attn.q_proj", "self_attn.v_proj"),
    ]
