"""An engine without a model, which a server finds as it finds any other: the whole path of a request but the pass."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.artifacts import MANIFEST, TRAINABLE, Manifest, hash_files, load_artifact, write_manifest
from fastserve_core.inference import Engine
from fastserve_core.tasks import Arrays

NAME = "stub"
LABELS = 2
KEPT = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
"""Of a model's folder, what its encoder reads."""


class StubEngine(Engine):
    """Logits at once: the first label for every text."""

    def __init__(self, folder: Path, threads: int, outputs: Sequence[str] = ()) -> None:
        self.inputs = ("input_ids", "attention_mask", "token_type_ids")

    def run(self, inputs: Arrays) -> Arrays:
        logits = np.zeros((len(inputs["input_ids"]), LABELS), np.float32)
        logits[:, 0] = 1.0
        return {"logits": logits}

    def close(self) -> None:
        pass


def stub_artifact(model: Path, folder: Path) -> Path:
    """An artifact with the tokenizer and the task of a real one, whose engine is the stub."""
    folder.mkdir(parents=True)
    for name in KEPT:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    real = load_artifact(model).manifest
    lineage: Any = ({"stage": "benchmark"},)
    files, runtime = hash_files(folder, exclude=[MANIFEST]), {"engine": NAME, "form": TRAINABLE}
    write_manifest(folder, Manifest(real.task, real.task_options, real.labels[:LABELS], runtime, lineage, files))
    return folder


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """For the processes started meanwhile, the stub is an installed package's entry point."""
    about = folder / "fastserve_benchmark_stub-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fastserve-benchmark-stub\nVersion: 1\n", "utf-8")
    (about / "entry_points.txt").write_text(f"[fastserve.engines]\n{NAME} = {__name__}:StubEngine\n", "utf-8")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
