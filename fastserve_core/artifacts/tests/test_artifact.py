"""Artifacts: a manifest that says what is there, and refusals of what is not one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastserve_core.artifacts.artifact import MANIFEST, Manifest, load_artifact, write_manifest
from fastserve_core.artifacts.checkpoint import check_checkpoint
from fastserve_core.artifacts.hashing import hash_files
from fastserve_core.errors import ArtifactError, ModelError


def make(folder: Path, text: str = "weights") -> Manifest:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_text(text)
    return Manifest("text_classification", {"max_length": 8}, ("a", "b"), {"engine": "torch", "form": "trainable"},
                    ({"stage": "train"},), hash_files(folder, exclude=[MANIFEST]))  # fmt: skip


def test_a_manifest_is_read_as_written(tmp_path: Path) -> None:
    written = write_manifest(tmp_path, make(tmp_path))
    read = load_artifact(tmp_path, verify=True)
    assert read.digest == written.digest
    assert (read.form, read.engine, list(read.manifest.labels)) == ("trainable", "torch", ["a", "b"])
    assert read.size_bytes == len("weights")


def test_the_digest_follows_the_bytes_and_how_they_are_read(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    digest = write_manifest(tmp_path, manifest).digest
    runtime = {"engine": "openvino", "form": "trainable", "staged_engine": "torch", "measured": {}}
    measured = replace(manifest, measures={"latency_ms_p50": 1.5}, lineage=(), runtime=runtime)
    assert write_manifest(tmp_path, measured).digest == load_artifact(tmp_path).digest == digest
    others = [
        replace(manifest, labels=("b", "a")),
        replace(manifest, task="token_classification"),
        replace(manifest, task_options={"max_length": 9}),
        replace(manifest, runtime={"engine": "openvino", "form": "trainable"}),
        make(tmp_path, "other weights"),
    ]
    assert len({digest, *(write_manifest(tmp_path, other).digest for other in others)}) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["b", "a"]},
        {"task": "regression"},
        {"runtime": {"engine": "openvino", "form": "trainable"}},
        {"measures": {"latency_ms_p50": 0.1}},
        {"files": {}},
        {"checksum": None},
    ],
    ids=str,
)
def test_a_changed_manifest_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write_manifest(tmp_path, make(tmp_path))
    record = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(record, indent=4))  # the layout of the file does not matter
    load_artifact(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps(record | change))
    with pytest.raises(ArtifactError, match=r"fastserve\.json changed since it was published"):
        load_artifact(tmp_path)


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    write_manifest(tmp_path, make(tmp_path))
    (tmp_path / "model.safetensors").write_text("tampered")
    load_artifact(tmp_path)
    with pytest.raises(ArtifactError, match=r"model\.safetensors changed"):
        load_artifact(tmp_path, verify=True)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"lacks model\.safetensors"):
        load_artifact(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *(("{", "cannot be read"), ("{}", "cannot be read"), ("[]", "cannot be read"), ('{"schema": "1"}', "cannot")),
        *(('{"schema": 99}', "schema 99"), ('{"schema": 1}', "checksum"), ("[" * 100_000, "cannot be read")),
    ],
    ids=lambda text: text[:20],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=said):
        load_artifact(tmp_path)


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no fastserve\.json"):
        load_artifact(tmp_path)


def test_checkpoints_need_a_config_and_safetensors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        check_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        check_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="no weights"):
        check_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin, a pickle"):
        check_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").touch()
    check_checkpoint(tmp_path)
