"""An engine's files for a model that trains on: written once, by a process of its own, and kept in the store."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

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

FORMAT = 3
"""Raised when other files are written for the same model."""
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How the names of the classes end that go on from a prompt."""
PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript")}
"""What the bytes of a format depend on, besides ourselves, torch and transformers."""


def cached_lowering(model: Path, threads: int, to: str = "openvino") -> Path:
    """The folder with the files, in the store that holds the model, else in the default one.

    Of several processes one works and the others wait. Raises ``ExportError`` where the model has operators that do
    not go through.
    """
    content = (
        load_artifact(model).digest if is_artifact(model) else json_digest(hash_files(model, leave_out=[MANIFEST]))
    )
    packages = ("fastserve-core", *PACKAGES[to], "torch", "transformers")
    key = stable_hash([content, FORMAT, *(version(name) for name in packages)])
    with Store(resolve_home(model)).claim(result_id("engine", to, key)) as claim:
        if not claim.published:
            draft = claim.partial / "draft"
            run_in_child(
                "fastserve_engines.lowering",
                {"model": model, "draft": draft, "to": to},
                threads,
                imports=PRELOAD_MODULES,
            )
            claim.publish(draft)
    return claim.final


def lower_in_child(model: str, draft: str, to: str, events: str) -> None:
    """The work itself; a process of its own, so that who serves need not import torch."""
    from fastserve_core.export import load_format
    from fastserve_core.processes import suppress_library_output
    from fastserve_engines.hugging_face import load_model

    with suppress_library_output():
        loaded = load_model(Path(model))
        causal = to == "openvino" and type(loaded).__name__.endswith(CAUSAL)
        export = load_format("openvino_causal" if causal else to, loaded)
        export.write(export.module, Path(draft))


if __name__ == "__main__":
    child_main(lower_in_child)
