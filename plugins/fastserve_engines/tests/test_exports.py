"""The exports: each file answers in its own runtime as the model does, and what does not is never published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_training import train_tiny

from fastserve_core.artifacts import COMPILED, TRAINABLE, Artifact, Manifest, hash_files, load_artifact, write_manifest
from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import ArtifactError, ExportError, OptionError, UnknownNameError
from fastserve_core.export import export_artifact
from fastserve_core.tasks import load_task
from fastserve_engines.litert_graph import LiteRTExport
from fastserve_engines.onnx_engine import ONNXRuntimeEngine
from fastserve_engines.onnx_graph import ONNXInt8Export
from fastserve_engines.torch_engine import TorchEngine

INPUTS = {
    "input_ids": np.array([[2, 10, 11, 3], [2, 12, 3, 0]]),
    "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
}


def sealed(source: Path, folder: Path, form: str = TRAINABLE, engine: str = "torch") -> Artifact:
    shutil.copytree(source, folder)
    runtime = {"form": form, "engine": engine}
    lineage = ({"stage": "train", "parent": "abc123"},)
    labels = ("negative", "positive")
    manifest = Manifest("text_classification", {"max_length": 64}, labels, runtime, lineage, hash_files(folder))
    return write_manifest(folder, manifest)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "onnx_int8", "openvino", "torch_export", "litert"])
def test_an_export_answers_as_the_model_does(to: str, tiny_bert: Path, tmp_path: Path) -> None:
    if to == "litert" and missing_packages(("litert_torch", "ai_edge_litert")):
        pytest.skip("litert-torch is not installed")
    made = export_artifact(sealed(tiny_bert, tmp_path / "model"), tmp_path / "out", to, check=6)
    about: Any = json.loads((made.folder / "export.json").read_text())
    assert about["format"] == to
    assert about["check"]["inputs"] == 6
    assert len(about["check"]["shapes"]) > 1
    assert about["made_from"]["lineage"][0]["parent"] == "abc123"
    assert (made.folder / "labels.txt").read_text() == "negative\npositive\n"
    assert (made.folder / "tokenizer.json").is_file()
    assert all((made.folder / name).stat().st_size == one["bytes"] for name, one in about["files"].items())


@pytest.mark.slow
def test_modules_that_a_task_excludes_keep_their_weights_in_8_bit_onnx(tiny_bert: Path, tmp_path: Path) -> None:
    import onnx
    from transformers import AutoModelForSequenceClassification

    excluded = {"classifier", "bert.encoder.layer.1.output.dense"}  # a Gemm, and a product in a layer that is wrapped
    counts = []
    for uncompressed in ((), excluded):
        model = AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval()
        export = ONNXInt8Export(model, uncompressed=uncompressed)
        export.write(export.module, tmp_path / str(len(uncompressed)))
        graph = onnx.load(tmp_path / str(len(uncompressed)) / "model.onnx").graph
        counts.append(sum(node.op_type == "MatMulInteger" for node in graph.node))
    assert counts[1] == counts[0] - len(excluded)


def test_one_number_for_each_token_is_refused_by_a_format_of_one_length(tiny_bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForQuestionAnswering

    model = AutoModelForQuestionAnswering.from_pretrained(tiny_bert).eval()
    export = LiteRTExport(model, ("start_logits", "end_logits"))
    with pytest.raises(ExportError, match="its output start_logits has one number for each token"):
        export.write(export.module, tmp_path / "out")


@pytest.mark.slow
def test_an_output_may_have_the_name_of_an_operator(tmp_path: Path) -> None:
    import onnx

    task, rows = load_task("embedding", {"max_length": 16}), [{"text": "a film", "positive": "a moving film"}]
    artifact = load_artifact(train_tiny(task, rows, tmp_path / "model", epochs=0))
    made = export_artifact(artifact, tmp_path / "out", "onnx", check=4)
    graph = onnx.load(made.folder / "model.onnx").graph
    names = [name for node in graph.node for name in node.output]
    assert [value.name for value in graph.output] == ["embedding"]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_the_onnx_runtime_engine_runs_weights(tiny_bert: Path) -> None:
    expected = TorchEngine(tiny_bert, 1).run(INPUTS)["logits"]
    assert np.allclose(ONNXRuntimeEngine(tiny_bert, 1).run(INPUTS)["logits"], expected, atol=1e-5)


@pytest.mark.slow
def test_other_answers_are_not_published(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastserve_core.export import compare_outputs
    from fastserve_engines.torch_export_file import TorchExport

    class Wrong:
        def run(self, inputs: Any) -> Any:
            return {"logits": np.ones((2, 2), np.float32)}

    monkeypatch.setattr(TorchExport, "read", staticmethod(lambda folder, threads: Wrong()))
    named = {f"in.{name}": one for name, one in INPUTS.items()}
    np.savez(tmp_path / "0.npz", **named, **{"out.logits": np.zeros((2, 2), np.float32)})
    with pytest.raises(ExportError, match="differ from the model"):
        compare_outputs("torch_export", tmp_path, tmp_path)


def test_models_that_cannot_be_exported_are_reported(tiny_bert: Path, tmp_path: Path) -> None:
    artifact = sealed(tiny_bert, tmp_path / "model")
    with pytest.raises(UnknownNameError, match="no export named 'onx'; did you mean 'onnx'"):
        export_artifact(artifact, tmp_path / "out", "onx")
    with pytest.raises(OptionError, match="at least 1"):
        export_artifact(artifact, tmp_path / "out", "onnx", check=0)
    with pytest.raises(ArtifactError, match="is not an export"):
        export_artifact(artifact, tmp_path / "model", "onnx")
    engine_only = sealed(tiny_bert, tmp_path / "files", COMPILED, "openvino")
    with pytest.raises(ArtifactError, match="holds files for the engine openvino and cannot"):
        export_artifact(engine_only, tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_nothing_for_onnx_runtime_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no model\.onnx and no weights"):
        ONNXRuntimeEngine(tmp_path, 1)
