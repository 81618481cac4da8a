"""The engines: named arrays in and out, the same answers, and quiet refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastserve_core.errors import BadArtifact, BadPlan
from fastserve_runtime.openvino_engine import OpenVINOEngine
from fastserve_runtime.torch_engine import TorchEngine

ARRAYS = {
    "input_ids": np.array([[2, 10, 11, 3], [2, 12, 3, 0]]),
    "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
}


def test_the_torch_engine_is_transformers_own_answer(tiny_bert: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    engine = TorchEngine(tiny_bert, 1)
    logits = engine.run({**ARRAYS, "unknown_input": np.zeros(3)})["logits"]
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval()
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(one) for name, one in ARRAYS.items()}).logits
    assert np.allclose(logits, expected.numpy(), atol=1e-5)
    engine.close()


def test_the_torch_engine_gives_the_logits_of_every_head(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForPreTraining

    config = BertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=32)
    BertForPreTraining(config).save_pretrained(tmp_path)
    outputs = TorchEngine(tmp_path, 1).run(ARRAYS)
    shapes = {name: one.shape for name, one in outputs.items()}
    assert shapes == {"prediction_logits": (2, 4, 50), "seq_relationship_logits": (2, 2)}


def test_padding_does_not_change_an_answer(tiny_bert: Path) -> None:
    engine = TorchEngine(tiny_bert, 1)
    alone = engine.run({name: one[1:, :3] for name, one in ARRAYS.items()})["logits"]
    assert np.allclose(engine.run(ARRAYS)["logits"][1], alone[0], atol=1e-5)


def test_a_class_that_transformers_lacks_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    with pytest.raises(BadArtifact, match="of class NoSuchModel"):
        TorchEngine(tmp_path, 1)


def test_the_torch_engine_generates(tmp_path: Path) -> None:
    import torch

    from fastserve_core.model import ModelSpec
    from fastserve_text.building import build_model, write_scratch

    spec = ModelSpec("scratch", "gpt2", dim=16, num_heads=2, num_layers=1, hidden_size=32, vocab_size=300)
    write_scratch(spec, ["the cat sat"] * 3, tmp_path, "LMHeadModel")
    torch.manual_seed(0)
    build_model(tmp_path, "ForCausalLM", []).save_pretrained(tmp_path)
    engine = TorchEngine(tmp_path, 1)
    prompt = {"input_ids": np.array([[5, 6]]), "attention_mask": np.ones((1, 2), dtype=np.int64)}
    first = engine.generate(prompt, {"max_new_tokens": 3, "temperature": 0.0})["ids"]
    assert first.shape[0] == 1
    assert 1 <= first.shape[1] <= 3
    assert np.array_equal(first, engine.generate(prompt, {"max_new_tokens": 3})["ids"])
    assert engine.generate(prompt, {"max_new_tokens": 2, "temperature": 0.9})["ids"].shape[1] <= 2


def test_an_openvino_folder_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=r"no openvino_model\.xml"):
        OpenVINOEngine(tmp_path, 1)


def test_the_openvino_engine_runs_what_it_is_given(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    logits = ops.multiply(ops.convert(ids, "f32"), ops.constant(np.float32(2)))
    logits.output(0).set_names({"logits"})
    ids.output(0).set_names({"input_ids"})
    openvino.save_model(openvino.Model([logits], [ids]), tmp_path / "openvino_model.xml", compress_to_fp16=False)
    engine = OpenVINOEngine(tmp_path, 1)
    assert np.array_equal(engine.run(ARRAYS)["logits"], ARRAYS["input_ids"] * 2.0)
    with pytest.raises(BadPlan, match="cannot generate text"):
        engine.generate(ARRAYS, {})
    engine.close()


def test_openvino_is_loaded_without_its_telemetry(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fastserve_runtime.openvino_engine import OpenVINOEngine\n"
        f"(Path({str(tmp_path)!r}) / 'openvino_model.xml').write_text('none')\n"
        f"try: OpenVINOEngine(Path({str(tmp_path)!r}), 1)\n"
        "except RuntimeError: pass\n"
        "assert 'openvino' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
