"""A shallower student: some of the teacher's layers, evenly spaced, and everything round them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_compression.architectures import layers_of
from fastserve_compression.checkpoint_io import write_model
from fastserve_compression.structural_pruning import drop_layers, record_sizes
from fastserve_core.errors import InvalidModel
from fastserve_core.processes import child_main
from fastserve_core.tasks import load_task


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """The numbers of ``wanted`` of ``count`` layers, the first and the last among them where there are several."""
    if wanted == 1:
        return [count - 1]
    return [round(number * (count - 1) / (wanted - 1)) for number in range(wanted)]


def make_student(
    teacher: str, student: str, layers: int, task: tuple[str, Mapping[str, Any], Sequence[str]], events: str
) -> None:
    """Write the student into its folder; raises ``InvalidModel`` for more layers than the teacher has."""
    model = load_task(*task).build(Path(teacher))
    there = len(layers_of(model))
    if layers > there:
        raise InvalidModel(f"compress.distill.layers={layers}, but {teacher} has {there} layers")
    drop_layers(model, sorted(set(range(there)) - set(evenly_spaced(there, layers))))
    record_sizes(model)
    write_model(model, Path(teacher), Path(student))


if __name__ == "__main__":
    child_main(make_student)
