"""The engines: named arrays in and out, the same answers, and quiet refusals."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastserve_core.errors import ArtifactError, PlanError, UserError
from fastserve_engines.lowering import get_or_lower
from fastserve_engines.openvino_engine import OpenVINOEngine
from fastserve_engines.torch_engine import TorchEngine

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


def test_a_class_that_transformers_lacks_is_reported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"]}')
    with pytest.raises(ArtifactError, match="the class NoSuchModel"):
        TorchEngine(tmp_path, 1)


def test_the_torch_engine_generates(tmp_path: Path) -> None:
    import torch

    from fastserve_core.config import ModelSpec
    from fastserve_text.model_factory import build_model, write_scratch

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


def test_an_openvino_folder_without_a_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no openvino_model\.xml and no weights"):
        OpenVINOEngine(tmp_path, 1)


def test_the_openvino_engine_runs_all_inputs(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    logits = ops.multiply(ops.convert(ids, "f32"), ops.constant(np.float32(2)))
    logits.output(0).set_names({"logits"})
    ids.output(0).set_names({"input_ids"})
    openvino.save_model(openvino.Model([logits], [ids]), tmp_path / "openvino_model.xml", compress_to_fp16=False)
    engine = OpenVINOEngine(tmp_path, 1)
    assert np.array_equal(engine.run(ARRAYS)["logits"], ARRAYS["input_ids"] * 2.0)
    with pytest.raises(PlanError, match="cannot generate text"):
        engine.generate(ARRAYS, {})
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("positions", [64, 9])
def test_openvino_gives_a_place_for_each_token_whatever_the_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: int
) -> None:
    from transformers import BertConfig, BertForTokenClassification

    monkeypatch.setenv("FASTSERVE_HOME", str(tmp_path / "home"))
    size = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    BertForTokenClassification(BertConfig(vocab_size=50, num_labels=3, max_position_embeddings=positions, **size)
                               ).save_pretrained(tmp_path / "model")  # fmt: skip
    ours, torch = OpenVINOEngine(tmp_path / "model", 2), TorchEngine(tmp_path / "model", 2)
    batches = [
        {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for ids in (np.arange(2 * length).reshape(2, length) + 5 for length in (1, 3, 4, 7, 9))
    ]
    expected = [torch.run(one)["logits"] for one in batches]
    for found in ([ours.run(one) for one in batches], list(ours.run_all(batches))):
        for one, wanted in zip(found, expected, strict=True):
            assert one["logits"].shape == wanted.shape
            assert np.allclose(one["logits"], wanted, atol=0.02), "bf16 where the processor has it"
    ours.close()
    torch.close()


def test_openvino_is_loaded_without_its_telemetry(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fastserve_engines.openvino_engine import OpenVINOEngine\n"
        f"(Path({str(tmp_path)!r}) / 'openvino_model.xml').write_text('none')\n"
        f"try: OpenVINOEngine(Path({str(tmp_path)!r}), 1)\n"
        "except RuntimeError: pass\n"
        "assert 'openvino' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def lowered_home(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's home which the checkpoint was lowered in."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSERVE_HOME", str(home))
        get_or_lower(tiny_bert, 1)
    return home


@pytest.fixture
def both(tiny_bert: Path, lowered_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A checkpoint, and the store's home that it was lowered in, which the test uses instead of ``home``."""
    monkeypatch.setenv("FASTSERVE_HOME", str(lowered_home))
    return tiny_bert, lowered_home


@pytest.mark.slow
def test_weights_are_lowered_once_and_answer_alike(both: tuple[Path, Path]) -> None:
    folder, home = both
    rng = np.random.default_rng(0)
    (made,) = home.glob("store/engine-openvino-*")
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    engine = OpenVINOEngine(folder, 1)
    assert before.keys() == {"openvino_model.bin", "openvino_model.xml"}
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before
    assert list(home.glob("store/engine-openvino-*")) == [made]
    reference = TorchEngine(folder, 1)
    for shape in [(1, 1), (1, 24), (5, 9), (33, 16)]:
        inputs = {"input_ids": rng.integers(5, 40, shape), "attention_mask": np.ones(shape, np.int64)}
        inputs["token_type_ids"] = np.zeros(shape, np.int64)
        inputs["attention_mask"][-1, shape[1] // 2 + 1 :] = 0
        expected = reference.run(inputs)["logits"]
        assert np.abs(engine.run(inputs)["logits"] - expected).max() < 0.02 * max(1.0, np.abs(expected).max())


@pytest.mark.slow
def test_every_model_has_files_of_its_own(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(module: str, request: dict[str, Path], *rest: object, **more: object) -> None:
        request["draft"].mkdir()

    monkeypatch.setattr("fastserve_engines.lowering.run_in_child", write)
    other = shutil.copytree(tiny_bert, tmp_path / "other")
    assert get_or_lower(other, 1) == get_or_lower(tiny_bert, 1) != get_or_lower(tiny_bert, 1, ("last_hidden_state",))
    (other / "model.safetensors").write_bytes(b"other weights")
    assert get_or_lower(other, 1) != get_or_lower(tiny_bert, 1)


def test_serving_lowered_weights_needs_no_torch(both: tuple[Path, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from fastserve_engines.openvino_engine import OpenVINOEngine\n"
        f"OpenVINOEngine(Path({str(both[0])!r}), 1)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_outputs_that_a_task_declares_are_lowered_and_answered(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModel

    monkeypatch.setenv("FASTSERVE_HOME", str(tmp_path / "home"))
    AutoModel.from_pretrained(tiny_bert).save_pretrained(tmp_path / "encoder")
    inputs = {name: np.repeat(one, 2, axis=1)[:, :7] for name, one in ARRAYS.items()}
    outputs = [kind(tmp_path / "encoder", 1, ("last_*",)).run(inputs) for kind in (TorchEngine, OpenVINOEngine)]
    for one in outputs:
        assert {name: array.shape for name, array in one.items()} == {"last_hidden_state": (2, 7, 32)}
    valid = inputs["attention_mask"] == 1
    first, second = (one["last_hidden_state"][valid] for one in outputs)
    assert np.abs(first - second).max() < 0.02 * np.abs(first).max()


@pytest.mark.slow
def test_a_model_that_does_not_go_through_reports_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import ReformerConfig, ReformerForSequenceClassification

    monkeypatch.setenv("FASTSERVE_HOME", str(tmp_path / "home"))
    config = ReformerConfig(
        vocab_size=50, hidden_size=32, attention_head_size=16, num_attention_heads=2, attn_layers=["lsh"],
        axial_pos_embds_dim=[16, 16], axial_pos_shape=[4, 8], max_position_embeddings=32, feed_forward_size=32,
        lsh_attn_chunk_length=8, num_buckets=2, is_decoder=False,
    )  # fmt: skip
    ReformerForSequenceClassification(config).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="the model cannot be converted: "):
        OpenVINOEngine(tmp_path / "model", 1)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_many_batches_are_answered_in_order_and_as_one_by_one(both: tuple[Path, Path], threads: int) -> None:
    engine, rng = OpenVINOEngine(both[0], threads), np.random.default_rng(1)
    shapes = [(5, 9), (1, 3), (8, 20), (2, 31), (5, 9), (3, 4), (16, 12)]
    batches = [
        {"input_ids": rng.integers(5, 40, shape), "attention_mask": np.ones(shape, np.int64)} for shape in shapes
    ]
    together = list(engine.run_all(iter(batches)))
    assert [one["logits"].shape[0] for one in together] == [shape[0] for shape in shapes]
    for inputs, outputs in zip(batches, together, strict=True):
        assert np.allclose(engine.run(inputs)["logits"], outputs["logits"], atol=2e-2)
    some = engine.run_all(iter(batches))
    next(some)
    some.close()  # nothing is left running, and the next ones are answered
    assert len(list(engine.run_all(iter(batches)))) == len(batches)
