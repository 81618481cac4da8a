"""Lower a trainable model to an engine's files, once, in a child process, and cache them in the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import (
    MANIFEST,
    Store,
    hash_files,
    is_artifact,
    json_digest,
    load_artifact,
    resolve_home,
    result_id,
    stable_hash,
)
from fastserve_core.processes import PRELOAD_MODULES, child_main, run_in_child
from fastserve_core.tasks import DEFAULT_OUTPUTS

log = logging.getLogger("fastserve")

CACHE_VERSION = 4
"""Increment when the files of the same model change."""
FORMAT_PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript")}
"""Packages that the bytes of a format depend on, besides FastServe, torch and transformers."""


def get_or_lower(model: Path, threads: int, outputs: Sequence[str] = DEFAULT_OUTPUTS, to: str = "openvino") -> Path:
    """Return the folder with the engine's files, in the store that holds the model or in the default one.

    If several processes ask for the same files, one writes them and the others wait.

    Args:
        model: Folder of the model.
        threads: Number of threads of the child process.
        outputs: Patterns of the names of the outputs.
        to: Export format.

    Raises:
        ExportError: The model has operators that cannot be converted.
    """
    content = load_artifact(model).digest if is_artifact(model) else json_digest(hash_files(model, exclude=[MANIFEST]))
    packages = ("fastserve-core", *FORMAT_PACKAGES[to], "torch", "transformers")
    key = stable_hash([content, CACHE_VERSION, list(outputs), *(version(name) for name in packages)])
    with Store(resolve_home(model)).claim(result_id("engine", to, key), log.warning) as claim:
        if not claim.is_published:
            draft = claim.partial / "draft"
            run_in_child(
                "fastserve_engines.lowering",
                {"model": model, "draft": draft, "to": to, "outputs": list(outputs)},
                threads,
                imports=PRELOAD_MODULES,
            )
            claim.publish(draft)
    return claim.final


def lower_in_child(model: str, draft: str, to: str, outputs: Sequence[str], events: str) -> None:
    """Write the engine's files, in a child process so that a server need not import torch.

    Args:
        model: Folder of the model.
        draft: Folder to write.
        to: Export format.
        outputs: Patterns of the names of the outputs.
        events: Path of the event stream, unused here.
    """
    from fastserve_core.export import load_format
    from fastserve_core.processes import suppress_library_output
    from fastserve_engines.hugging_face import load_model

    with suppress_library_output():
        loaded = load_model(Path(model))
        export = load_format(_choose_format(loaded, to), loaded, outputs)
        export.write(export.module, Path(draft))


def _choose_format(model: Any, to: str) -> str:
    """Return the format of a model: OpenVINO has one of its own for each way of writing texts."""
    if to != "openvino" or not model.can_generate():
        return to
    return "openvino_seq2seq" if model.config.is_encoder_decoder else "openvino_causal"


if __name__ == "__main__":
    child_main(lower_in_child)
