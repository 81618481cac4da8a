"""Whether exported files answer as their model does: the inputs they are asked, and the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import ExportError
from fastserve_core.export.formats import export_format
from fastserve_core.processes.environment import suppress_library_output
from fastserve_core.processes.resources import threads_per_process

if TYPE_CHECKING:
    import numpy as np

    from fastserve_core.tasks.task import Arrays

ROWS = (1, 3, 1, 5)
LONGEST = 128
"""Tokens of the longest input that is compared."""


def batches(config: Mapping[str, Any], inputs: tuple[str, ...], longest: int, count: int) -> list[Arrays]:
    """Random token ids, ``count`` rows in all and the same each time: one row and several, short and long."""
    import numpy as np

    draw, made = np.random.default_rng(0), []
    longest = min(longest, LONGEST)
    lengths = cycle((longest, longest // 2, 1, 7, longest // 3))
    for rows, length in zip(cycle(ROWS), lengths, strict=False):
        shape = (min(rows, count), max(1, min(length, longest)))
        made.append(_batch(config, inputs, shape, draw))
        count -= shape[0]
        if count == 0:
            break
    return made


def _batch(
    config: Mapping[str, Any], inputs: tuple[str, ...], shape: tuple[int, int], draw: np.random.Generator
) -> Arrays:
    """One batch, padded on the right in all rows but the first; the second half has the other token type."""
    import numpy as np

    pad = config.get("pad_token_id") or 0
    ids = draw.integers(1, config["vocab_size"], shape)
    ids[ids == pad] = pad - 1 if pad else 1
    mask, types = np.ones(shape, np.int64), np.zeros(shape, np.int64)
    for row in range(1, shape[0]):
        mask[row, draw.integers(1, shape[1] + 1) :] = 0
    types[:, shape[1] // 2 :] = 1
    made = {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask, "token_type_ids": types * mask}
    return {name: made[name] for name in inputs}


def save_reference(path: Path, inputs: Arrays, outputs: Arrays) -> None:
    """Write a batch with the answers to it, for the process that compares."""
    import numpy as np

    arrays: Any = {f"in.{name}": one for name, one in inputs.items()}
    arrays |= {f"out.{name}": one for name, one in outputs.items()}
    np.savez(path, **arrays)


def _load_reference(path: Path) -> tuple[Arrays, Arrays]:
    import numpy as np

    with np.load(path, allow_pickle=False) as kept:
        inputs = {name[3:]: kept[name] for name in kept.files if name.startswith("in.")}
        outputs = {name[4:]: kept[name] for name in kept.files if name.startswith("out.")}
    return inputs, outputs


def compare_outputs(to: str, draft: Path, scratch: Path) -> dict[str, Any]:
    """Answer the kept inputs with the exported files; raises ``ExportError`` where an answer is too far away.

    Only the format's runtime is asked: what its ``read`` imports. At padded places answers do not count.
    """
    kind = export_format(to)
    with suppress_library_output():
        reader = kind.read(draft, threads_per_process())
    worst, rows = 0.0, 0
    shapes: set[tuple[int, ...]] = set()
    for path in sorted(scratch.glob("*.npz")):
        inputs, expected = _load_reference(path)
        mask, given = inputs["attention_mask"], reader.run(inputs)
        rows, shapes = rows + len(mask), shapes | {mask.shape}
        for name, one in expected.items():
            found = given.get(name)
            if found is None or found.shape != one.shape:
                raise ExportError(f"the exported {to} gives no '{name}' of shape {one.shape}; nothing was published")
            worst = max(worst, _distance(one, found, mask == 1))
    if worst > kind.tolerance:
        raise ExportError(
            f"the exported {to} answers otherwise than the model: they differ by up to {worst:.3g} of the largest "
            f"answer, and {kind.tolerance:g} is allowed; nothing was published"
        )
    return {"inputs": rows, "shapes": sorted(shapes), "difference": worst, "tolerance": kind.tolerance}


def _distance(expected: Any, found: Any, mask: Any) -> float:
    """The largest difference as a part of the largest answer, which counts as 1 at least; infinite for no number."""
    import numpy as np

    if expected.ndim == 3:
        expected, found = expected[mask], found[mask]
    far = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    return far if np.isfinite(far) else float("inf")
