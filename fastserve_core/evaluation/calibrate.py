"""The choice of thresholds and the like for a model, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastserve_core.artifacts.artifact import COMPILED, Artifact, load_artifact
from fastserve_core.data.dataset import Dataset, load_dataset
from fastserve_core.events import Event
from fastserve_core.inference.engines import BASELINE_ENGINE, preload_modules
from fastserve_core.inference.predictor import Predictor
from fastserve_core.processes.child import child_main, run_in_child
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.calibration import write_calibration


def calibrate_artifact(artifact: Artifact, data: Dataset, emit: Callable[[Event], None]) -> None:
    """Write the calibration of a task for an artifact into its folder.

    Args:
        artifact: The artifact, not yet published; the manifest has to be written again afterwards.
        data: The splits.
        emit: Called with events.

    Raises:
        FastServeError: The engine cannot run the model.
    """
    engine = artifact.engine if artifact.form == COMPILED else BASELINE_ENGINE
    threads = threads_per_process()
    request = {"artifact": artifact.folder, "data": data.folder, "threads": threads, "engine": engine}
    run_in_child("fastserve_core.evaluation.calibrate", request, threads, emit, preload_modules(engine))


def calibrate_in_process(artifact: str, data: str, threads: int, engine: str, events: str) -> None:
    """Choose the calibration of an artifact with one engine in this process, and write it into the folder.

    Args:
        artifact: The artifact's folder.
        data: The folder of the splits.
        threads: The number of threads.
        engine: The engine.
        events: The path for events.
    """
    dataset, folder = load_dataset(Path(data)), Path(artifact)
    predictor = Predictor(load_artifact(folder), threads, engine)
    predictor.task.calibration = {}  # not that of the model that this one was made from
    write_calibration(folder, predictor.task.calibrate(lambda split: predictor.run_rows(dataset.rows(split))))
    predictor.close()


if __name__ == "__main__":
    child_main(calibrate_in_process)
