"""Models of every kind as files of another runtime: pruned, coded, of 16 bits, a language model, an engine's files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli
from fastserve_core.artifacts import COMPILED, TRAINABLE, Artifact, Manifest, hash_files, write_manifest
from fastserve_core.errors import ArtifactError
from fastserve_core.export import compare_outputs, export_artifact
from fastserve_core.export.worker import write_export

pytestmark = pytest.mark.slow

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 64}
WORDS = 8000


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def sharpened(model: Any) -> Any:
    """Random weights give logits too near zero to compare."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(5)
    return model.eval()


def bert(vocabulary: int = 60) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=vocabulary, pad_token_id=0, **SIZES)
    return sharpened(transformers.BertForSequenceClassification(config))


def pruned(folder: Path) -> Path:
    """Layers of 64, 32 and 16 neurons, and of 4, 3 and 1 heads."""
    from fastserve_compression.structural_pruning import cut_heads, cut_neurons, record_sizes

    model = bert()
    cut_neurons(model, [range(64), range(32), range(16)])
    cut_heads(model, [range(4), range(3), range(1)])
    record_sizes(model)
    return saved(model, folder)


def coded(folder: Path) -> Path:
    """A table of 8000 words of 32 numbers, 1 MB in fp32, as 8 codes a word: 64 kB."""
    from fastserve_compression import VectorQuantizeOptions
    from fastserve_compression.vector_quantize import find_large_tables, quantize

    model, options = bert(WORDS), VectorQuantizeOptions(width=4, centroids=16, min_rows=WORDS)
    quantize(model, find_large_tables(model, options), options, None, workers=1, seed=0)
    return saved(model, folder)


def halved(folder: Path) -> Path:
    """Weights of 16 bits, which torch itself may compute in bf16."""
    import torch

    return saved(bert().to(torch.bfloat16), folder)


def llama(folder: Path) -> Path:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=60, pad_token_id=0, num_key_value_heads=2, **SIZES)
    return saved(sharpened(transformers.LlamaForCausalLM(config)), folder)


def sealed(folder: Path, form: str = TRAINABLE, engine: str = "torch", task: str = "text_classification") -> Artifact:
    runtime, labels = {"form": form, "engine": engine}, () if task == "causal_lm" else ("negative", "positive")
    return write_manifest(folder, Manifest(task, {}, labels, runtime, (), hash_files(folder)))


def written(artifact: Artifact, to: str, folder: Path) -> dict[str, Any]:
    """Both steps of an export, in this process; what they found."""
    draft, scratch = folder / "draft", folder / "scratch"
    draft.mkdir()
    scratch.mkdir()
    return write_export(artifact, to, draft, scratch, count=6) | {"check": compare_outputs(to, draft, scratch)}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("made", "to"),
    [*((made, to) for made in (pruned, coded) for to in ("onnx", "torch_export", "openvino")), (halved, "onnx")],
)
def test_a_compressed_model_answers_alike(made: Callable[[Path], Path], to: str, tmp_path: Path) -> None:
    found = written(sealed(made(tmp_path / "model")), to, tmp_path)
    assert found["check"]["inputs"] == 6
    assert [one["name"] for one in found["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
    assert found["outputs"] == [{"name": "logits", "type": "float32", "shape": ["batch", 2]}]
    if made is coded:  # as bytes the codes are 64 kB, as int64 they would be 512, and the whole table 1 MB
        assert size_of(tmp_path / "draft") < size_of(tmp_path / "model") + 350_000


@pytest.mark.parametrize("to", ["onnx", "torch_export", "openvino_causal"])
def test_a_language_model_gives_the_logits_of_every_token(to: str, tmp_path: Path) -> None:
    found = written(sealed(llama(tmp_path / "model"), task="causal_lm"), to, tmp_path)
    assert found["outputs"] == [{"name": "logits", "type": "float32", "shape": ["batch", "length", 60]}]
    assert len(found["check"]["shapes"]) > 1


@pytest.mark.parametrize(
    ("to", "head", "outputs", "shapes"),
    [
        (
            "torch_export",
            "ForQuestionAnswering",
            ("*logits",),
            {"start_logits": ["batch", "length"], "end_logits": ["batch", "length"]},
        ),
        ("openvino", "", ("last_hidden_state",), {"last_hidden_state": ["batch", "length", 32]}),
        ("torch_export", "", ("pooler_output",), {"pooler_output": ["batch", 32]}),
    ],
)
def test_the_outputs_that_a_task_declares_are_exported(
    to: str,
    head: str,
    outputs: tuple[str, ...],
    shapes: dict[str, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    import transformers

    from fastserve_text.text_classification import TextClassification

    monkeypatch.setattr(TextClassification, "head", head)
    monkeypatch.setattr(TextClassification, "outputs", outputs)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=60, pad_token_id=0, **SIZES)
    model = getattr(transformers, f"Bert{head or 'Model'}")(config).eval()
    found = written(sealed(saved(model, tmp_path / "model")), to, tmp_path)
    assert {one["name"]: one["shape"] for one in found["outputs"]} == shapes
    assert len(found["check"]["shapes"]) > 1


def test_the_files_of_an_engine_are_copied_to_its_own_format_and_no_other(tmp_path: Path) -> None:
    source = saved(bert(), tmp_path / "model")
    written(sealed(source), "openvino", tmp_path)
    shutil.copyfile(source / "config.json", tmp_path / "draft" / "config.json")
    artifact = sealed(tmp_path / "draft", COMPILED, "openvino")
    made = export_artifact(artifact, tmp_path / "out", "openvino", check=6)
    for name in ("openvino_model.xml", "openvino_model.bin"):
        assert (made.folder / name).read_bytes() == (artifact.folder / name).read_bytes()
    assert made.metadata["check"]["difference"] == 0
    assert [one["name"] for one in made.metadata["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
    for to in ("onnx", "onnx_int8", "torch_export"):
        with pytest.raises(ArtifactError, match="holds files for the engine openvino and cannot"):
            export_artifact(artifact, tmp_path / to, to)
        assert not (tmp_path / to).exists()


def test_a_run_on_onnx_runtime_is_measured_asked_and_exported(
    cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path
) -> None:
    options = ("engine=onnxruntime", f"model={tiny_bert}", f"data={reviews}", "train.torch_ddp.epochs=1")
    done = cli("+plugin=torch_ddp", *options, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    best = json.loads((tmp_path / "run" / "run.json").read_text())["best"]
    runtime = json.loads(Path(best, "fastserve.json").read_text())["runtime"]
    assert (runtime["engine"], set(runtime["measured"])) == ("onnxruntime", {"onnxruntime"})
    asked = cli("predict", "run", "a wonderful film")
    assert asked.returncode == 0, asked.stderr
    assert "positive" in asked.stdout or "negative" in asked.stdout
    exported = cli("export", "run", "files", "--to", "onnx", "--check", "4")
    assert exported.returncode == 0, exported.stderr
    assert "compared on 4 inputs of 2 shapes" in exported.stdout
    assert (tmp_path / "files" / "model.onnx").is_file()
