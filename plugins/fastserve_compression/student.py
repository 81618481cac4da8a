"""Initialize a shallower student from evenly spaced layers of the teacher, or of the teacher's decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_compression.architectures import get_layers
from fastserve_compression.checkpoint_io import write_model
from fastserve_compression.decoder_layers import count_decoder_layers, keep_decoder_layers, select_decoder_layers
from fastserve_compression.structural_pruning import drop_layers, record_sizes
from fastserve_core.errors import ModelError
from fastserve_core.processes import child_main
from fastserve_core.tasks import load_task


def select_evenly(count: int, selected: int) -> list[int]:
    """Return the indices of ``selected`` of ``count`` layers, evenly spaced, with the first and the last.

    A single layer is the last one.
    """
    if selected == 1:
        return [count - 1]
    return [round(index * (count - 1) / (selected - 1)) for index in range(selected)]


def make_student(
    teacher: str, student: str, layers: int, task: tuple[str, Mapping[str, Any], Sequence[str]], events: str
) -> None:
    """Write the student into its folder.

    Args:
        teacher: Folder of the teacher's model.
        student: Folder to write.
        layers: Number of layers to copy.
        task: Name, options and labels of the task.
        events: Path of the event stream, unused here.

    Raises:
        ModelError: The teacher has fewer layers.
    """
    loaded_task = load_task(*task)
    model: Any = loaded_task.build(Path(teacher))
    has_decoder = model.config.is_encoder_decoder
    count = count_decoder_layers(model) if has_decoder else len(get_layers(model))
    if layers > count:
        raise ModelError(f"compress.distill.layers={layers}, but {teacher} has only {count}")
    if has_decoder:  # the encoder runs once for an answer, the decoder once for each of its tokens
        keep_decoder_layers(model, select_decoder_layers(count, layers))
    else:
        dropped = sorted(set(range(count)) - set(select_evenly(count, layers)))
        drop_layers(model, dropped, loaded_task.find_uncompressed(model))
        record_sizes(model)
    write_model(model, Path(teacher), Path(student))


if __name__ == "__main__":
    child_main(make_student)
