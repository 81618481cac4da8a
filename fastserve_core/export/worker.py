"""The two steps of an export, each in its own process: write the files and reference outputs, then compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import COMPILED, Artifact, load_artifact
from fastserve_core.artifacts.files import read_json
from fastserve_core.export.export import copy_model
from fastserve_core.export.formats import load_format_class
from fastserve_core.export.verify import compare_outputs, make_batches, save_reference
from fastserve_core.processes.child import child_main
from fastserve_core.processes.environment import set_library_environment, suppress_library_output
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.load import load_task

if TYPE_CHECKING:
    from fastserve_core.export.formats import FormatReader
    from fastserve_core.tasks.task import Arrays

Shape = tuple[str | int, str | int]
DYNAMIC_SHAPE: Shape = ("batch", "length")
DEFAULT_MAX_LENGTH = 64
"""The maximum input length of an engine's files if the task has no ``max_length``."""


def run_step(step: str, artifact: str, to: str, draft: str, scratch: str, events: str, count: int = 0) -> Any:
    """Run one step; the second step reads the files that the first wrote into the scratch folder.

    Args:
        step: ``write`` or ``compare``.
        artifact: The artifact's folder.
        to: The format.
        draft: The folder for the exported files.
        scratch: The folder for the reference outputs.
        events: The path for events; not used.
        count: The number of inputs to compare.

    Returns:
        The result of ``write_export`` or ``compare_outputs``.
    """
    set_library_environment()
    if step == "compare":
        return compare_outputs(to, Path(draft), Path(scratch))
    return write_export(load_artifact(Path(artifact)), to, Path(draft), Path(scratch), count)


def write_export(artifact: Artifact, to: str, draft: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Write the model's files, and inputs with the reference's outputs.

    The reference is that of the format for Hugging Face weights. For files of an engine, which are copied, it is that
    engine.

    Returns:
        ``inputs`` and ``outputs`` with names, types and shapes, and ``max_length``.
    """
    kind = load_format_class(to)
    if artifact.form == COMPILED:
        copy_model(artifact, draft)
        reference: FormatReader = kind.read(draft, threads_per_process())
        inputs, shape = reference.inputs, DYNAMIC_SHAPE
        max_length = int(artifact.manifest.task_options.get("max_length", DEFAULT_MAX_LENGTH))
    else:
        inputs, shape, max_length = _convert(artifact, kind, draft)
        reference = kind.reference(artifact.folder, threads_per_process())
    config, outputs = read_json(artifact.folder / "config.json"), {}
    for number, batch in enumerate(make_batches(config, inputs, max_length, count)):
        outputs = reference.run(batch)
        save_reference(scratch / f"{number}.npz", batch, outputs)
    return {
        "max_length": max_length,
        "inputs": [{"name": name, "type": "integer", "shape": list(shape)} for name in inputs],
        "outputs": _describe_outputs(outputs, shape),
    }


def _convert(artifact: Artifact, kind: Any, draft: Path) -> tuple[tuple[str, ...], Shape, int]:
    """Write the model of a trainable artifact; return the names of its inputs, their shape and maximum length."""
    manifest = artifact.manifest
    task = load_task(manifest.task, manifest.task_options, manifest.labels)
    with suppress_library_output():
        export = kind(task.build(artifact.folder).eval())
        export.write(export.module, draft)
    return export.inputs, export.shape, export.longest


def _describe_outputs(outputs: Mapping[str, Any], shape: Shape) -> list[dict[str, Any]]:
    """Describe the names and shapes of outputs, which have one vector per text or per token."""
    arrays: Arrays = dict(outputs)
    return [
        {"name": name, "type": "float32", "shape": [*shape[: array.ndim - 1], array.shape[-1]]}
        for name, array in arrays.items()
    ]


if __name__ == "__main__":
    child_main(run_step)
