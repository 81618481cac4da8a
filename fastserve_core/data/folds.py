"""Cross validation: folds of the training and validation rows.

The test rows are not part of the folds, because they may not influence a choice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.data.dataset import Dataset, load_dataset, write_description
from fastserve_core.data.rows import RowWriter, read_groups
from fastserve_core.errors import DataError
from fastserve_core.tasks.task import Task

TRAIN_VALIDATION = ("train", "validation")


def check_folds(data: Dataset, folds: int) -> None:
    """Check that there are enough rows.

    Args:
        data: The splits.
        folds: The number of folds.

    Raises:
        DataError: There are fewer rows than folds, or the rows are in the order of time.
    """
    if data.is_timed:
        raise DataError("folds mix past and future, and data.time keeps them apart: leave one of them out")
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
    """Yield each row's line and its fold: the shuffled rows of each stratum are assigned to the folds in turn.

    Rows of one group are assigned together, by the stratum of the first one.
    """
    rows = {split: data.rows(split) for split in TRAIN_VALIDATION}
    groups = {split: read_groups(data.folder, split) for split in TRAIN_VALIDATION}
    units: dict[Any, list[tuple[str, int]]] = {}
    for split in TRAIN_VALIDATION:
        known = groups[split]
        for index in range(len(rows[split])):
            units.setdefault((split, index) if known is None else known[index], []).append((split, index))
    strata: dict[str, list[list[tuple[str, int]]]] = {}
    for unit in units.values():
        split, index = unit[0]
        strata.setdefault(task.stratify_key(rows[split][index]), []).append(unit)
    rng = random.Random(seed)
    assigned: list[tuple[tuple[str, int], int]] = []
    count = 0
    for name in sorted(strata):
        rng.shuffle(strata[name])
        for unit in strata[name]:
            assigned += [(row, count % folds) for row in unit]
            count += 1
    rng.shuffle(assigned)  # a training that stops early must not have seen one label only
    for (split, index), fold in assigned:
        yield rows[split].line(index), fold
