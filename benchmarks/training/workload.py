"""What is trained and where: the model, the rows, the machine, and how often."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fastserve_core.api import model_spec
from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions, ModelSpec, config_dir, parse_options
from fastserve_core.data import Dataset, prepare_dataset
from fastserve_core.models import resolve_model
from fastserve_core.tasks import Task, load_task

MAX_LENGTH = 128
HELD_OUT = 0.2
"""The part of the rows that becomes the validation and the test split."""


@dataclass(frozen=True)
class Workload:
    """A model's folder, the splits it learns from, and the task by name."""

    model: Path
    data: Dataset
    task_name: str
    task_options: dict[str, Any]

    @property
    def task(self) -> Task:
        return load_task(self.task_name, self.task_options, self.data.labels)

    @property
    def rows(self) -> int:
        return self.data.counts["train"]


@dataclass(frozen=True)
class Bench:
    """What every section is given. ``rows`` bounds the reviews of all splits together; null means all of them."""

    store: Store
    scratch: Path
    cores: int
    repeats: int
    seeds: tuple[int, ...] | None = None
    rows: int | None = None
    profiled_steps: int = 40

    def reviews(self, train_rows: int | None = None) -> Workload:
        """The movie reviews, as many as make up that many rows of the train split."""
        node = OmegaConf.load(config_dir() / "data" / "movie_reviews.yaml")
        values: dict[str, Any] = OmegaConf.to_container(node)  # type: ignore[assignment]
        values.pop("defaults")
        bounds = [one for one in (self.rows, train_rows and round(train_rows / (1 - HELD_OUT))) if one is not None]
        return compose(self.store, parse_options(DataOptions, values | {"max_rows": min(bounds, default=None)}, "data"))

    def long_reviews(self, train_rows: int) -> Workload:
        """Reviews of one label joined until each text fills the model's length."""
        path = self.scratch / "long.csv"
        wanted = round(train_rows / (1 - HELD_OUT))
        rows = [row for row, _ in zip(joined(self.reviews().data, MAX_LENGTH), range(wanted), strict=False)]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(rows)
        return compose(self.store, DataOptions(train=str(path)))


def compose(store: Store, data: DataOptions, model: ModelSpec | None = None) -> Workload:
    """The checked splits and the model's folder, MiniLM where none is given; what is missing is fetched."""
    options = {"max_length": MAX_LENGTH}
    task = load_task("text_classification", options)
    prepared = prepare_dataset(data, task, store, print)
    artifact = resolve_model(model or model_spec({"model": "minilm"}), task, prepared, store, seed=0)
    return Workload(artifact.folder, prepared, task.name, options)


def joined(data: Dataset, words: int) -> Iterator[tuple[str, str]]:
    """Texts of at least that many words, which are at least as many tokens, and their labels."""
    pending: dict[str, list[str]] = {label: [] for label in data.labels}
    for row in data.rows("train"):
        parts = pending[row["label"]]
        parts += row["text"].split()
        if len(parts) >= words:
            yield " ".join(parts), row["label"]
            parts.clear()
