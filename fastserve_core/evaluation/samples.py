"""Answers to a few validation rows: the expected ones, and those of the model before and after each stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact, Manifest
from fastserve_core.data.dataset import Dataset, load_dataset
from fastserve_core.events import Event
from fastserve_core.inference.engines import BASELINE_ENGINE, preload_modules
from fastserve_core.inference.predictor import Predictor
from fastserve_core.processes.child import child_main, run_in_child
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.task import Task

SAMPLE_ROWS = 4


def answer_samples(predictor: Predictor, rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return the input, the expected answer and the model's ``answer`` for the first rows; empty for most tasks."""
    task = predictor.task
    samples = task.list_samples(rows[:SAMPLE_ROWS])
    predictions = predictor.predict([sample.value for sample in samples]) if samples else []
    return [
        {"input": sample.input, "expected": sample.expected, "answer": task.format_answer(prediction)}
        for sample, prediction in zip(samples, predictions, strict=True)
    ]


def answer_before(model: Artifact, data: Dataset, task: Task, emit: Callable[[Event], None]) -> list[str]:
    """Return the answers to the same rows of the model that a training starts from.

    Args:
        model: The model, which may be a checkpoint without a manifest.
        data: The splits.
        task: The task.
        emit: Called with events.
    """
    threads = threads_per_process()
    described = {"name": task.name, "options": vars(task.options), "labels": list(task.labels)}
    request = {"folder": model.folder, "data": data.folder, "task": described, "threads": threads}
    answers: list[str] = run_in_child(
        "fastserve_core.evaluation.samples", request, threads, emit, preload_modules(BASELINE_ENGINE)
    )
    return answers


def answer_before_in_process(folder: str, data: str, task: dict[str, Any], threads: int, events: str) -> list[str]:
    """Answer in this process; ``events`` is not used."""
    runtime = {"engine": BASELINE_ENGINE, "form": TRAINABLE}
    manifest = Manifest(task["name"], task["options"], tuple(task["labels"]), runtime, (), {})
    predictor = Predictor(Artifact(Path(folder), "", manifest), threads, BASELINE_ENGINE)
    samples = answer_samples(predictor, load_dataset(Path(data)).rows("validation"))
    predictor.close()
    return [sample["answer"] for sample in samples]


def read_samples(stages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the samples of a run with the answers of all of its models, in the order of the stages.

    Args:
        stages: The records of the stages.
    """
    found: list[dict[str, Any]] = []
    for stage in stages:
        for number, sample in enumerate(stage.measures.get("samples") or ()):
            if number == len(found):
                found.append({"input": sample["input"], "expected": sample["expected"], "answers": {}})
            answers = found[number]["answers"]
            if "before" in sample:
                answers["before"] = sample["before"]
            answers[f"{stage.stage} {stage.plugin}"] = sample["answer"]
    return found


if __name__ == "__main__":
    child_main(answer_before_in_process)
