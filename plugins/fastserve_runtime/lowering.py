"""An engine's files for a model that trains on: written once, by a process of its own, and kept in the store."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from fastserve_core.artifacts.artifact import MANIFEST, is_artifact, load_artifact
from fastserve_core.artifacts.hashing import digest, hash_files, stable_hash
from fastserve_core.artifacts.store import Store, home_of, result_name
from fastserve_core.processes.child import TRANSFORMERS, answer, call

FORMAT = 3
"""Raised when other files are written for the same model."""
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How the names of the classes end that go on from a prompt."""
PACKAGES = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript")}
"""What the bytes of a format depend on, besides ourselves, torch and transformers."""


def lowered(model: Path, threads: int, to: str = "openvino") -> Path:
    """The folder with the files, in the store that holds the model, else in the default one.

    Of several processes one works and the others wait. Raises ``Unexportable`` where the model has operators that do
    not go through.
    """
    content = load_artifact(model).digest if is_artifact(model) else digest(hash_files(model, leave_out=[MANIFEST]))
    packages = ("fastserve-core", *PACKAGES[to], "torch", "transformers")
    key = stable_hash([content, FORMAT, *(version(name) for name in packages)])
    with Store(home_of(model)).claim(result_name("engine", to, key)) as claim:
        if not claim.published:
            draft = claim.partial / "draft"
            call(
                "fastserve_runtime.lowering", {"model": model, "draft": draft, "to": to}, threads, imports=TRANSFORMERS
            )
            claim.publish(draft)
    return claim.final


def lower(model: str, draft: str, to: str, events: str) -> None:
    """The work itself; a process of its own, so that who serves need not import torch."""
    from fastserve_core.export.formats import exporter
    from fastserve_core.processes.environment import silence
    from fastserve_runtime.hugging_face import load_model

    with silence():
        loaded = load_model(Path(model))
        causal = to == "openvino" and type(loaded).__name__.endswith(CAUSAL)
        export = exporter("openvino_causal" if causal else to, loaded)
        export.write(export.module, Path(draft))


if __name__ == "__main__":
    answer(lower)
