"""Our run of a task: the command that a user gives, and what its record says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import load_artifact
from fastserve_core.data import load_dataset
from fastserve_core.errors import StageError
from fastserve_core.inference import Predictor
from fastserve_core.processes import usable_cores
from tasks.setting import Bench, Scores
from tasks.text_reference import score_generation

INT8 = ("torch_ddp", "neural_compressor")
CHAIN = ("torch_ddp", "prune", "distill", "neural_compressor")


def run(bench: Bench, name: str, seed: int, options: Sequence[str], plugins: Sequence[str] = INT8) -> dict[str, Any]:
    """Train and compress a model.

    Args:
        bench: The setting.
        name: The task's name, for the folder.
        seed: The seed of the training.
        options: Overrides of the command line.
        plugins: The trainer, and the compressors in their order.

    Returns:
        The record of the run.

    Raises:
        StageError: The command failed.
    """
    folder = bench.scratch / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [f"data.max_rows={bench.rows}"] if bench.rows else []
    chosen = f"+plugin=[{','.join(plugins)}]"
    command = [chosen, "gate.enabled=false", f"seed={seed}", *options, *bounds, f"hydra.run.dir={folder}"]
    done = subprocess.run(
        [sys.executable, "-m", "fastserve_core", *command], check=False, cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise StageError(f"{name}: {done.stderr.strip() or done.stdout.strip()[-2000:]}")
    record: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return record


def find_data(record: Mapping[str, Any]) -> Path:
    """Return the folder of a run's prepared rows."""
    store = Path(_stage(record, "train")["artifact"]).parent
    (folder,) = store.glob(f"data-*-{record['data']['fingerprint'][:16]}")
    return folder


def read_scores(record: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Scores, Scores]:
    """Return the scores of the trained and of the last compressed model.

    Args:
        record: The record of a run.
        names: Our metric for each name of the benchmark.
    """
    trained, compressed = _stage(record, "train"), record["stages"][-1]
    costs = load_artifact(Path(trained["artifact"])).manifest.lineage[-1]["costs"]
    seen = trained["options"]["epochs"] * record["data"]["rows"]["train"]
    ratio = trained["measures"]["size_bytes"] / compressed["measures"]["size_bytes"]
    speedup = compressed["measures"]["speedup"]["latency"]  # both timed in turn
    return (
        Scores(_rename(trained, names), rate=seen / costs["seconds"]),
        Scores(_rename(compressed, names), speedup=speedup, size_ratio=ratio),
    )


def find_artifact(record: Mapping[str, Any], number: int = -1) -> Path:
    """Return the folder of the model of a run's stage, by default the last one."""
    return Path(record["stages"][number]["artifact"])


def measure_generation(record: Mapping[str, Any]) -> float:
    """Return the tokens a second that the trained model writes for the test split, on its engine, at batch 8."""
    predictor = Predictor(Path(_stage(record, "train")["artifact"]), usable_cores())

    def write(texts: list[str]) -> tuple[list[str], int]:
        answers = predictor.predict(texts, len(texts))
        return [answer["text"] for answer in answers], sum(answer["tokens"] for answer in answers)

    rate = score_generation(write, list(load_dataset(find_data(record)).rows("test")))[1]
    predictor.close()
    return rate


def _stage(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(stage for stage in record["stages"] if stage["stage"] == name)
    return found


def _rename(stage: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    quality = stage["measures"]["quality"]
    if missing := [own for own in names.values() if own not in quality]:
        raise StageError(f"{stage['stage']} has no score '{missing[0]}' but {', '.join(quality)}")
    return {name: float(quality[own]) for name, own in names.items()}
