"""Plugins that end or crash their process: the command reports plugin, verb and rule, and publishes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastserve_core.artifacts import Manifest, hash_files, write_manifest

PACKAGE = """
import ctypes, os
from dataclasses import dataclass
from fastserve_core import hookimpl
from fastserve_core.plugins import Compressor, Server, Trainer, Tuner

ACTS = {
    "os_exit": lambda: os._exit(0),
    "crash": lambda: ctypes.string_at(0),
}

@dataclass
class Options:
    act: str = "os_exit"

class Strange:
    api_version = 2
    Options = Options

    def act(self, run):
        return ACTS[self.options.act]()

class StrangeTrainer(Strange, Trainer):
    @hookimpl
    def train(self, run):
        return self.act(run)

class StrangeTuner(Strange, Tuner):
    @hookimpl
    def tune(self, run):
        return self.act(run)

class StrangeCompressor(Strange, Compressor):
    @hookimpl
    def compress(self, run):
        return self.act(run)

class StrangeServer(Strange, Server):
    @hookimpl
    def serve(self, run):
        return self.act(run)
"""
STAGES = {"train": "Trainer", "tune": "Tuner", "compress": "Compressor", "serve": "Server"}
ENDS = {
    "os_exit": "ended the process with exit code 0 (os._exit): a verb returns its result, or raises an error of",
    "crash": "code that can crash belongs in a child process (fastserve_core.processes.run_in_child)",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package of four plugins."""
    folder = tmp_path_factory.mktemp("strange")
    module, metadata = folder / "fastserve_strange", folder / "fastserve_strange-1.0.dist-info"
    (module / "conf" / "plugin").mkdir(parents=True)
    metadata.mkdir()
    (module / "__init__.py").write_text(PACKAGE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fastserve-strange\nVersion: 1.0\n")
    entries = [f"strange_{stage} = fastserve_strange:Strange{base}" for stage, base in STAGES.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[fastserve.plugins]", *entries, ""]))
    for stage in STAGES:
        config = module / "conf" / "plugin" / f"strange_{stage}.yaml"
        config.write_text(f"# @package {stage}.strange_{stage}\nact: os_exit\n")
    return folder


@pytest.fixture
def artifact(tmp_path: Path, tiny_bert: Path) -> Path:
    """A model that counts as trained."""
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "artifact"))
    runtime = {"engine": "torch", "form": "trainable", "staged_engine": "torch"}
    manifest = Manifest("text_classification", {}, ("negative", "positive"), runtime, (), hash_files(folder))
    write_manifest(folder, manifest)
    return folder


def run(package: Path, folder: Path, *arguments: object) -> tuple[int, list[str]]:
    """The exit code, and the lines that begin with the program's name."""
    paths = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "fastserve_core", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("fastserve:")]


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("stage", "act"),
    [
        ("train", "os_exit"),
        pytest.param("train", "crash", marks=pytest.mark.slow(3)),
        pytest.param("tune", "crash", marks=pytest.mark.slow(3)),
    ],
)
def test_an_end_in_training_or_tuning_is_reported(
    package: Path, tmp_path: Path, tiny_bert: Path, reviews: Path, stage: str, act: str
) -> None:
    plugins = "strange_train" if stage == "train" else "[strange_tune,strange_train]"
    arguments = [f"+plugin={plugins}", f"model={tiny_bert}", f"data={reviews}", f"{stage}.strange_{stage}.act={act}"]
    code, lines = run(package, tmp_path, *arguments)
    assert code == 1
    (line,) = lines
    assert f"{stage}.strange_{stage}" in line
    assert f"'{stage}'" in line
    assert ENDS[act] in line
    assert not list((tmp_path / "home").glob(f"store/{stage}-*"))


@pytest.mark.slow(20)
def test_an_end_in_compression_is_reported(package: Path, tmp_path: Path, artifact: Path, reviews: Path) -> None:
    for act, message in ENDS.items():
        arguments = ["+plugin=strange_compress", f"model={artifact}", f"data={reviews}", "engine=torch"]
        code, (line,) = run(package, tmp_path, *arguments, f"compress.strange_compress.act={act}")
        assert code == 1
        assert message in line
        assert "compress.strange_compress" in line
    assert not list((tmp_path / "home").glob("store/compress-*"))


@pytest.mark.slow(5)
@pytest.mark.parametrize("act", ENDS)
def test_an_end_of_a_server_is_reported(package: Path, tmp_path: Path, artifact: Path, act: str) -> None:
    code, (line,) = run(package, tmp_path, "serve", artifact, "--plugin", "strange_serve", f"act={act}")
    assert code == 1
    assert "serve.strange_serve" in line
    assert ENDS[act] in line
