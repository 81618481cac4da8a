"""Verification of exported files: the inputs, and the comparison with the original model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import ExportError
from fastserve_core.export.formats import load_format_class
from fastserve_core.processes.environment import suppress_library_output
from fastserve_core.processes.resources import threads_per_process

if TYPE_CHECKING:
    import numpy as np

    from fastserve_core.tasks.encoded import Arrays

MASK = "attention_mask"
"""The name of the mask, which comes with every batch, also for a model that does not take it."""
BATCH_SIZES = (1, 3, 1, 5)
MAX_COMPARED_LENGTH = 128
"""The maximum length of the compared inputs, in tokens."""


def make_batches(config: Mapping[str, Any], inputs: tuple[str, ...], longest: int, count: int) -> list[Arrays]:
    """Make batches of random token ids of several shapes, the same in every call.

    Args:
        config: The model's ``config.json``.
        inputs: The names of the model's inputs.
        longest: The maximum length in tokens.
        count: The total number of rows.

    Returns:
        Batches of arrays of shape (batch, length) by input name.
    """
    import numpy as np

    rng, batches = np.random.default_rng(0), []
    longest = min(longest, MAX_COMPARED_LENGTH)
    lengths = cycle((longest, longest // 2, 1, 7, longest // 3))
    for rows, length in zip(cycle(BATCH_SIZES), lengths, strict=False):
        shape = (min(rows, count), max(1, min(length, longest)))
        batches.append(_make_batch(config, inputs, shape, rng))
        count -= shape[0]
        if count == 0:
            break
    return batches


def _make_batch(
    config: Mapping[str, Any], inputs: tuple[str, ...], shape: tuple[int, int], rng: np.random.Generator
) -> Arrays:
    """Make one batch, padded on the right in all rows but the first; the second half has the other token type."""
    import numpy as np

    pad = config.get("pad_token_id") or 0
    ids = rng.integers(1, config["vocab_size"], shape)
    ids[ids == pad] = pad - 1 if pad else 1
    mask, types = np.ones(shape, np.int64), np.zeros(shape, np.int64)
    for row in range(1, shape[0]):
        mask[row, rng.integers(1, shape[1] + 1) :] = 0
    types[:, shape[1] // 2 :] = 1
    arrays = {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask, "token_type_ids": types * mask}
    return {name: arrays[name] for name in (*inputs, MASK)}


def save_reference(path: Path, inputs: Arrays, outputs: Arrays) -> None:
    """Write a batch with the reference's outputs, for the process that compares them."""
    import numpy as np

    arrays: Any = {f"in.{name}": array for name, array in inputs.items()}
    arrays |= {f"out.{name}": array for name, array in outputs.items()}
    np.savez(path, **arrays)


def _load_reference(path: Path) -> tuple[Arrays, Arrays]:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        inputs = {name[3:]: arrays[name] for name in arrays.files if name.startswith("in.")}
        outputs = {name[4:]: arrays[name] for name in arrays.files if name.startswith("out.")}
    return inputs, outputs


def compare_outputs(to: str, draft: Path, scratch: Path) -> dict[str, Any]:
    """Compare the outputs of exported files with those that ``save_reference`` wrote.

    It imports the runtime of the format only. Outputs at padded positions are not compared.

    Args:
        to: The format.
        draft: The folder of the exported files.
        scratch: The folder of the references.

    Returns:
        The number of ``inputs``, their ``shapes``, the largest relative ``difference`` and the ``tolerance``.

    Raises:
        ExportError: An output is missing or differs by more than the tolerance.
    """
    kind = load_format_class(to)
    with suppress_library_output():
        reader = kind.read(draft, threads_per_process())
    difference, rows = 0.0, 0
    shapes: set[tuple[int, ...]] = set()
    for path in sorted(scratch.glob("*.npz")):
        inputs, expected_outputs = _load_reference(path)
        mask, outputs = inputs[MASK], reader.run(inputs)
        rows, shapes = rows + len(mask), shapes | {mask.shape}
        for name, expected in expected_outputs.items():
            output = outputs.get(name)
            if output is None or output.shape != expected.shape:
                raise ExportError(
                    f"the exported {to} has no output '{name}' of shape {expected.shape}; nothing was published"
                )
            difference = max(difference, _relative_difference(expected, output, mask == 1))
    if difference > kind.tolerance:
        raise ExportError(
            f"the outputs of the exported {to} differ from the model's by up to {difference:.3g} of the largest "
            f"output, but {kind.tolerance:g} is allowed; nothing was published"
        )
    return {"inputs": rows, "shapes": sorted(shapes), "difference": difference, "tolerance": kind.tolerance}


def _relative_difference(expected: Any, output: Any, mask: Any) -> float:
    """Return the largest difference divided by the largest output (at least 1); infinite if it is not a number."""
    import numpy as np

    if expected.shape[:2] == mask.shape:  # one value or vector per token
        expected, output = expected[mask], output[mask]
    difference = float(np.abs(output - expected).max() / max(1.0, float(np.abs(expected).max())))
    return difference if np.isfinite(difference) else float("inf")
