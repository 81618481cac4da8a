"""The two steps of an export, each in a process of its own: write, with the reference's answers; then compare."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifact import ENGINE, Artifact, load_artifact
from fastserve_core.children import answer
from fastserve_core.engines import REFERENCE, load_engine
from fastserve_core.errors import Unexportable
from fastserve_core.exporting import copy_model
from fastserve_core.exports import export_format
from fastserve_core.files import read_json
from fastserve_core.predictor import load_task
from fastserve_core.quiet import quiet_environment, silence
from fastserve_core.threads import threads_per_process

if TYPE_CHECKING:
    from fastserve_core.task import Arrays

BATCHES = (1, 3, 1, 5)
TENSOR_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def work(step: str, artifact: str, to: str, draft: str, scratch: str, events: str, count: int = 0) -> Any:
    """One step; each sees what the step before left in the scratch folder."""
    quiet_environment()
    if step == "compare":
        return compare(to, Path(draft), Path(scratch))
    return write(load_artifact(Path(artifact)), to, Path(draft), Path(scratch), count)


def write(artifact: Artifact, to: str, draft: Path, scratch: Path, count: int) -> dict[str, Any]:
    """The model's files, and the inputs with the reference's answers; returns inputs, outputs and the longest input.

    The reference is torch, in fp32, for Hugging Face weights; for an engine's files, which are copied, that engine.
    """
    if artifact.form == ENGINE:
        copy_model(artifact, draft)
        config = read_json(artifact.folder / "config.json")
        inputs, shape, longest = (
            TENSOR_INPUTS,
            ("batch", "length"),
            artifact.manifest.task_options.get("max_length", 64),
        )
        name = artifact.engine
    else:
        manifest, name = artifact.manifest, REFERENCE
        task = load_task(manifest.task, manifest.task_options, manifest.labels)
        with silence():
            model: Any = task.build(artifact.folder).eval()
            made = export_format(to)(model)
            made.write(made.module, draft)
        config, inputs, shape, longest = model.config.to_dict(), made.inputs, made.shape, made.longest
        del model, made
    engine = load_engine(artifact, threads_per_process(), name)
    outputs: dict[str, Any] = {}
    for number, batch in enumerate(batches(config, inputs, longest, count)):
        outputs = engine.run(batch)
        _keep(scratch / f"{number}.npz", batch, outputs)
    return {
        "longest": longest,
        "inputs": [{"name": one, "type": "integer", "shape": list(shape)} for one in inputs],
        "outputs": [
            {
                "name": one,
                "type": "float32",
                "shape": [shape[0], *([shape[1]] if made.ndim == 3 else []), made.shape[-1]],
            }
            for one, made in outputs.items()
        ],
    }


def batches(config: dict[str, Any], inputs: tuple[str, ...], longest: int, count: int) -> list[Arrays]:
    """Random token ids, the same each time: one row and several, short and long, padded on the right."""
    import numpy as np

    draw, left, made = np.random.default_rng(0), count, []
    longest = min(longest, 128)
    pad = config.get("pad_token_id") or 0
    for batch, length in zip(cycle(BATCHES), cycle((longest, longest // 2, 1, 7, longest // 3)), strict=False):
        shape = (min(batch, left), max(1, min(length, longest)))
        ids = draw.integers(1, config["vocab_size"], shape)
        ids[ids == pad] = pad - 1 if pad else 1
        mask = np.ones(shape, np.int64)
        for row in range(1, shape[0]):
            mask[row, draw.integers(1, shape[1] + 1) :] = 0
        types = np.zeros(shape, np.int64)
        types[:, shape[1] // 2 :] = 1
        all_of_them = {
            "input_ids": np.where(mask == 1, ids, pad),
            "attention_mask": mask,
            "token_type_ids": types * mask,
        }
        made.append({name: all_of_them[name] for name in inputs})
        left -= shape[0]
        if left == 0:
            return made
    return made


def compare(to: str, draft: Path, scratch: Path) -> dict[str, Any]:
    """Answer the kept inputs with the exported files; raises ``Unexportable`` where an answer is too far away.

    Only the format's runtime is asked: what its ``read`` imports. At padded places answers do not count.
    """
    import numpy as np

    kind = export_format(to)
    with silence():
        reader = kind.read(draft, threads_per_process())
    worst, rows = 0.0, 0
    shapes: set[tuple[int, ...]] = set()
    for path in sorted(scratch.glob("*.npz")):
        with np.load(path, allow_pickle=False) as kept:
            inputs = {name[3:]: kept[name] for name in kept.files if name.startswith("in.")}
            expected = {name[4:]: kept[name] for name in kept.files if name.startswith("out.")}
        given = reader.run(inputs)
        mask = inputs["attention_mask"] == 1
        rows, shapes = rows + len(mask), shapes | {mask.shape}
        for name, one in expected.items():
            found = given.get(name)
            if found is None or found.shape != one.shape:
                raise Unexportable(f"the exported {to} gives no '{name}' of shape {one.shape}; nothing was published")
            if one.ndim == 3:
                one, found = one[mask], found[mask]
            far = float(np.abs(found - one).max() / max(1.0, float(np.abs(one).max())))
            worst = max(worst, far if np.isfinite(far) else np.inf)
    if not worst <= kind.tolerance:
        raise Unexportable(
            f"the exported {to} answers otherwise than the model: they differ by up to {worst:.3g} of the largest "
            f"answer, and {kind.tolerance:g} is allowed; nothing was published"
        )
    return {"inputs": rows, "shapes": sorted(shapes), "difference": worst, "tolerance": kind.tolerance}


def _keep(path: Path, inputs: Arrays, outputs: Arrays) -> None:
    import numpy as np

    arrays: Any = {f"in.{name}": one for name, one in inputs.items()}
    arrays |= {f"out.{name}": one for name, one in outputs.items()}
    np.savez(path, **arrays)


if __name__ == "__main__":
    answer(work)
