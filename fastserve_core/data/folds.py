"""Cross validation: the training and validation rows cut anew, so that each is scored by a model that did not see it.

The rows of the test split are not among them: nobody chooses by those.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.data.dataset import Dataset, describe_dataset, load_dataset
from fastserve_core.data.rows import RowWriter
from fastserve_core.errors import InvalidData
from fastserve_core.tasks.task import Task

TRAIN_VALIDATION = ("train", "validation")


def check_folds(data: Dataset, folds: int) -> None:
    """Refuse more folds than there are rows; raises ``InvalidData``."""
    rows = sum(data.counts[split] for split in TRAIN_VALIDATION)
    if rows < folds:
        raise InvalidData(f"{folds} folds need at least as many rows, and train and validation have {rows}")


def fold(data: Dataset, task: Task, number: int, folds: int, seed: int, store: Store) -> Dataset:
    """The splits with fold ``number`` of so many to validate on and the others to train on; made once.

    Every stratum is spread evenly over the folds, as it is cut by the seed. Raises ``InvalidData`` for too few rows.
    """
    check_folds(data, folds)
    fingerprint = stable_hash([data.fingerprint, "fold", number, folds, seed])
    with store.claim(result_id("data", "fold", fingerprint)) as claim:
        if not claim.published:
            train, validation = (RowWriter(claim.partial, split) for split in TRAIN_VALIDATION)
            counts = {**dict.fromkeys(data.counts, 0), "train": 0, "validation": 0}
            with train, validation, RowWriter(claim.partial, "test"):
                for line, own in _assign_folds(data, task, folds, seed):
                    split = "validation" if own == number else "train"
                    (validation if own == number else train).add(line)
                    counts[split] += 1
            describe_dataset(claim.partial, replace(data, fingerprint=fingerprint, counts=counts))
            claim.publish()
    return load_dataset(claim.final)


def _assign_folds(data: Dataset, task: Task, folds: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Each row's line and its fold: dealt out one after the other within its stratum, in an order of the seed's."""
    strata: dict[str, list[tuple[str, int]]] = {}
    for split in TRAIN_VALIDATION:
        rows = data.rows(split)
        for number in range(len(rows)):
            strata.setdefault(task.stratify_key(rows[number]), []).append((split, number))
    draw, place = random.Random(seed), 0
    folded: list[tuple[tuple[str, int], int]] = []
    for name in sorted(strata):
        draw.shuffle(strata[name])
        for row in strata[name]:
            folded.append((row, place % folds))
            place += 1
    draw.shuffle(folded)  # a training that stops early must not have seen one label only
    parts = {split: data.rows(split) for split in TRAIN_VALIDATION}
    for (split, number), own in folded:
        yield parts[split].line(number), own
