"""Weights of 16 bits: what stays, what is refused, what answers alike, and whole runs that train on from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from conftest import Cli
from fastserve_compression import half_precision
from fastserve_compression.mixed_precision import MixedPrecisionOptions
from fastserve_core.errors import ModelError, OptionError
from fastserve_core.models import load_pretrained, register_component
from fastserve_core.testing import PluginContract

KEEP = ["classifier.*", "*LayerNorm.weight"]


class TestMixedPrecision(PluginContract):
    plugin, stage = "mixed_precision", "compress"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(OptionError, match="compress.mixed_precision.dtype must be one of bf16, fp16, not 'fp8'"):
        MixedPrecisionOptions(dtype="fp8")


@pytest.mark.parametrize(
    ("pattern", "said"), [("clasifier.*", "did you mean 'classifier"), ("*word_embeddings*", "is an embedding table")]
)
def test_patterns_that_make_no_sense_are_refused(tiny: Callable[..., Any], pattern: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        half_precision.find_fp32_modules(tiny("Bert"), [pattern])


def test_weights_that_stay_keep_every_bit(tiny: Callable[..., Any]) -> None:
    model = tiny("Bert")
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    kept = half_precision.find_fp32_modules(model, KEEP)
    half_precision.cast_parameters(model, torch.bfloat16, kept)
    for name, one in model.named_parameters():
        stays = name.rpartition(".")[0] in kept
        assert one.dtype == (torch.float32 if stays else torch.bfloat16), name
        assert torch.equal(one, before[name] if stays else before[name].bfloat16()), name


def test_numbers_that_fp16_cannot_hold_are_refused(tiny: Callable[..., Any]) -> None:
    model = tiny("Bert")
    model.classifier.weight.data[0, 0] = 1e5
    with pytest.raises(
        ModelError, match="classifier.weight has values up to 1e\\+05, which exceed the range of fp16: use bf16"
    ):
        half_precision.cast_parameters(model, torch.float16, [])


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(("family", "head"), [("Bert", "ForSequenceClassification"), ("Llama", "ForCausalLM")])
def test_a_halved_model_is_half_as_large_and_answers_alike(
    tiny: Callable[..., Any], answer: Callable[[Any], torch.Tensor], tmp_path: Path, dtype: str, family: str, head: str
) -> None:
    model = tiny(family, head)
    before = answer(model)
    model.save_pretrained(tmp_path / "whole")
    kept = half_precision.find_fp32_modules(model, KEEP[:1] if family == "Bert" else ["*norm.weight"])
    half_precision.cast_parameters(model, getattr(torch, half_precision.FORMATS[dtype]), kept)
    register_component(model.config, {"kind": half_precision.COMPONENT_KIND, "modules": kept})
    model.save_pretrained(tmp_path / "half")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    kind = getattr(transformers, family + head)
    plain = kind.from_pretrained(tmp_path / "half")
    loaded = load_pretrained(kind, tmp_path / "half")
    assert plain.dtype == loaded.dtype == getattr(torch, half_precision.FORMATS[dtype])
    assert {loaded.get_submodule(name).weight.dtype for name in kept} == {torch.float32}
    for one in (plain, loaded, loaded.float()):
        found = answer(one.eval()).float()
        assert (found - before).norm() < 0.1 * before.norm()


@pytest.mark.slow
def test_a_halved_model_trains_on_and_its_files_stay_half(
    cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path
) -> None:
    common = ["gate.enabled=false", f"data={reviews}"]
    train = ["train.torch_ddp.epochs=3", "train.torch_ddp.lr=3e-3", "train.torch_ddp.batch_size=16"]
    codes = ["compress.vector_quantize.centroids=16", "compress.vector_quantize.min_rows=100"]
    done = cli("+plugin=[torch_ddp,prune,vector_quantize,mixed_precision]", f"model={tiny_bert}", *common, *train,
               *codes, "compress.mixed_precision.keep=[classifier.*]")  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    first = stages(tmp_path)
    halved = first["mixed_precision"]["artifact"]
    assert weights(halved) < 0.65 * weights(first["vector_quantize"]["artifact"])
    further = cli("+plugin=[torch_ddp,neural_compressor]", f"model={halved}", *common, *train, "engine=openvino",
                  "compress.neural_compressor.method=static",
                  "compress.neural_compressor.calibration_rows=16")  # fmt: skip
    assert further.returncode == 0, further.stderr + further.stdout
    second = stages(tmp_path)
    assert weights(second["torch_ddp"]["artifact"]) == pytest.approx(weights(halved), rel=0.02)
    for one in second.values():
        assert one["measures"]["quality"]["accuracy"] > 0.8


def stages(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest run's stages by plugin."""
    newest = max(folder.glob("outputs/*/*/run.json"), key=lambda path: path.stat().st_mtime)
    return {one["plugin"]: one for one in json.loads(newest.read_text())["stages"]}


def weights(folder: str) -> int:
    return Path(folder, "model.safetensors").stat().st_size
