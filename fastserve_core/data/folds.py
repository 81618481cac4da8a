"""Cross validation: folds of the training and validation rows.

The test rows are not part of the folds, because they may not influence a choice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.data.dataset import Dataset, load_dataset, write_description
from fastserve_core.data.rows import RowWriter
from fastserve_core.errors import DataError
from fastserve_core.tasks.task import Task

TRAIN_VALIDATION = ("train", "validation")


def check_folds(data: Dataset, folds: int) -> None:
    """Check that there are enough rows.

    Args:
        data: The splits.
        folds: The number of folds.

    Raises:
        DataError: There are fewer rows than folds.
    """
    rows = sum(data.counts[split] for split in TRAIN_VALIDATION)
    if rows < folds:
        raise DataError(f"{folds} folds need at least as many rows, and train and validation have {rows}")


def make_fold(data: Dataset, task: Task, number: int, folds: int, seed: int, store: Store) -> Dataset:
    """Make splits with one fold as validation rows and the others as training rows; the store keeps them.

    The folds are stratified.

    Args:
        data: The splits.
        task: The task, which assigns a stratum to each row.
        number: The index of the validation fold.
        folds: The number of folds.
        seed: The seed of the assignment.
        store: The store.

    Raises:
        DataError: There are fewer rows than folds.
    """
    check_folds(data, folds)
    fingerprint = stable_hash([data.fingerprint, "fold", number, folds, seed])
    with store.claim(result_id("data", "fold", fingerprint)) as claim:
        if not claim.is_published:
            train, validation = (RowWriter(claim.partial, split) for split in TRAIN_VALIDATION)
            counts = {**dict.fromkeys(data.counts, 0), "train": 0, "validation": 0}
            with train, validation, RowWriter(claim.partial, "test"):
                for line, assigned in _assign_folds(data, task, folds, seed):
                    split = "validation" if assigned == number else "train"
                    (validation if assigned == number else train).add(line)
                    counts[split] += 1
            write_description(claim.partial, replace(data, fingerprint=fingerprint, counts=counts))
            claim.publish()
    return load_dataset(claim.final)


def _assign_folds(data: Dataset, task: Task, folds: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Yield each row's line and its fold: the shuffled rows of each stratum are assigned to the folds in turn."""
    rows = {split: data.rows(split) for split in TRAIN_VALIDATION}
    strata: dict[str, list[tuple[str, int]]] = {}
    for split in TRAIN_VALIDATION:
        for index in range(len(rows[split])):
            strata.setdefault(task.stratify_key(rows[split][index]), []).append((split, index))
    rng = random.Random(seed)
    assigned: list[tuple[tuple[str, int], int]] = []
    for name in sorted(strata):
        rng.shuffle(strata[name])
        for row in strata[name]:
            assigned.append((row, len(assigned) % folds))
    rng.shuffle(assigned)  # a training that stops early must not have seen one label only
    for (split, index), fold in assigned:
        yield rows[split].line(index), fold
