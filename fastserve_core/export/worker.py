"""The two steps of an export, each in a process of its own: write, with the reference's answers; then compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import COMPILED, Artifact, load_artifact
from fastserve_core.artifacts.files import read_json
from fastserve_core.export.export import copy_model
from fastserve_core.export.formats import export_format
from fastserve_core.export.verify import batches, compare_outputs, save_reference
from fastserve_core.processes.child import child_main
from fastserve_core.processes.environment import library_environment, suppress_library_output
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.load import load_task

if TYPE_CHECKING:
    from fastserve_core.export.formats import FormatReader
    from fastserve_core.tasks.task import Arrays

Shape = tuple[str | int, str | int]
FREE: Shape = ("batch", "length")
LONGEST = 64
"""The longest input of an engine's files whose task says none."""


def main(step: str, artifact: str, to: str, draft: str, scratch: str, events: str, count: int = 0) -> Any:
    """One step; each sees what the step before left in the scratch folder."""
    library_environment()
    if step == "compare":
        return compare_outputs(to, Path(draft), Path(scratch))
    return write(load_artifact(Path(artifact)), to, Path(draft), Path(scratch), count)


def write(artifact: Artifact, to: str, draft: Path, scratch: Path, count: int) -> dict[str, Any]:
    """The model's files, and inputs with the reference's answers; returns inputs, outputs and the longest input.

    The reference is the format's own for Hugging Face weights; for an engine's files, which are copied, that engine.
    """
    kind = export_format(to)
    if artifact.form == COMPILED:
        copy_model(artifact, draft)
        reference: FormatReader = kind.read(draft, threads_per_process())
        inputs, shape = reference.inputs, FREE
        longest = int(artifact.manifest.task_options.get("max_length", LONGEST))
    else:
        inputs, shape, longest = _convert(artifact, kind, draft)
        reference = kind.reference(artifact.folder, threads_per_process())
    config, outputs = read_json(artifact.folder / "config.json"), {}
    for number, batch in enumerate(batches(config, inputs, longest, count)):
        outputs = reference.run(batch)
        save_reference(scratch / f"{number}.npz", batch, outputs)
    return {
        "longest": longest,
        "inputs": [{"name": name, "type": "integer", "shape": list(shape)} for name in inputs],
        "outputs": _outputs(outputs, shape),
    }


def _convert(artifact: Artifact, kind: Any, draft: Path) -> tuple[tuple[str, ...], Shape, int]:
    """Write the model of a trainable artifact; its inputs, their shape and the longest one."""
    manifest = artifact.manifest
    task = load_task(manifest.task, manifest.task_options, manifest.labels)
    with suppress_library_output():
        export = kind(task.build(artifact.folder).eval())
        export.write(export.module, draft)
    return export.inputs, export.shape, export.longest


def _outputs(outputs: Mapping[str, Any], shape: Shape) -> list[dict[str, Any]]:
    """Names and shapes: one row of numbers a text, or one a token."""
    found: Arrays = dict(outputs)
    return [
        {"name": name, "type": "float32", "shape": [*shape[: one.ndim - 1], one.shape[-1]]}
        for name, one in found.items()
    ]


if __name__ == "__main__":
    child_main(main)
