"""Trains a tiny BERT for a task in a second or two, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import TRAINABLE, Manifest, hash_files, write_manifest
from fastserve_core.config import ModelSpec
from fastserve_core.tasks import LossOptions, Task


def train_tiny(task: Task, rows: Sequence[dict[str, Any]], folder: Path, epochs: int, lr: float = 5e-3) -> Path:
    """Write an artifact of the task, whose labels are set, that was trained on the rows."""
    import torch

    sizes = {"dim": 32, "num_heads": 2, "num_layers": 2, "hidden_size": 64, "vocab_size": 200, "max_positions": 64}
    folder.mkdir(exist_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two would wait for each other
    task.init_from_scratch(ModelSpec("scratch", "bert", **sizes), rows, folder)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model: Any = task.build(folder)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    encoded = task.encoder(folder)(rows)
    for epoch in range(epochs):
        examples = task.examples(encoded, str(epoch))
        for start in range(0, len(examples), 32):
            arrays = task.collate(examples[start : start + 32], targets=True)
            batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
            outputs = model(**{name: batch[name] for name in batch if name not in task.target_names})
            total, count = task.loss(outputs, batch, LossOptions())
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
    torch.set_num_threads(threads)
    model.eval().save_pretrained(folder)
    engine, lineage = {"engine": "torch", "form": TRAINABLE}, ({"stage": "train", "plugin": "x"},)
    write_manifest(
        folder, Manifest(task.name, vars(task.options), tuple(task.labels), engine, lineage, hash_files(folder))
    )
    return folder
