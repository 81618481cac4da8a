"""The two steps of an export, each in its own process: write the files and reference outputs, then compare."""

from __future__ import annotations

from collections.abc import Sequence
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
    from fastserve_core.tasks.encoded import Arrays
    from fastserve_core.tasks.task import Task

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
    kind, manifest = load_format_class(to), artifact.manifest
    task = load_task(manifest.task, manifest.task_options, manifest.labels)
    if artifact.form == COMPILED:
        copy_model(artifact, draft)
        reference: FormatReader = kind.read(draft, threads_per_process())
        inputs, shape = reference.inputs, DYNAMIC_SHAPE
        max_length = int(manifest.task_options.get("max_length", DEFAULT_MAX_LENGTH))
    else:
        inputs, shape, max_length = _convert(artifact, task, kind, draft)
        reference = kind.reference(artifact.folder, threads_per_process(), task.outputs)
    config = read_json(artifact.folder / "config.json")
    batches = make_batches(config, inputs, max_length, count)
    results = [reference.run(batch) for batch in batches]
    for number, (batch, outputs) in enumerate(zip(batches, results, strict=True)):
        save_reference(scratch / f"{number}.npz", batch, outputs)
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    return {
        "max_length": max_length,
        "inputs": [{"name": name, "type": "integer", "shape": list(shape)} for name in inputs],
        "outputs": [_describe_output(name, shape, lengths, results) for name in results[0]],
    }


def _convert(artifact: Artifact, task: Task, kind: Any, draft: Path) -> tuple[tuple[str, ...], Shape, int]:
    """Write the model of a trainable artifact; return the names of its inputs, their shape and maximum length."""
    with suppress_library_output():
        model = task.build(artifact.folder).eval()
        export = kind(model, task.outputs, task.find_uncompressed(model))
        export.write(export.module, draft)
    return export.inputs, export.shape, export.longest


def _describe_output(name: str, shape: Shape, lengths: Sequence[int], results: Sequence[Arrays]) -> dict[str, Any]:
    """Describe the name and the shape of an output.

    Args:
        name: Name of the output.
        shape: Batch and length of the inputs.
        lengths: Length of the inputs of each batch.
        results: Outputs of each batch. If the second axis is as long as the inputs in all of them, it is the length.
    """
    sizes = [result[name].shape[1:] for result in results]
    has_length = all(size[:1] == (length,) for size, length in zip(sizes, lengths, strict=True))
    rest = [shape[1], *sizes[0][1:]] if has_length else list(sizes[0])
    return {"name": name, "type": "float32", "shape": [shape[0], *rest]}


if __name__ == "__main__":
    child_main(run_step)
