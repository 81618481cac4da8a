"""Subsets of the training rows, each of which contains the smaller ones."""

from __future__ import annotations

import random
from dataclasses import replace

from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.data.dataset import Dataset, load_dataset, write_description
from fastserve_core.data.rows import RowWriter
from fastserve_core.tasks.task import Task


def make_subset(data: Dataset, task: Task, rows: int, seed: int, store: Store) -> Dataset:
    """Make splits with fewer training rows, and the same rows of validation and test; the store keeps them.

    Each stratum has about its share of the subset.

    Args:
        data: The splits.
        task: The task, which assigns a stratum to each row.
        rows: The number of training rows.
        seed: The seed of the choice.
        store: The store.
    """
    fingerprint = stable_hash([data.fingerprint, "subset", rows, seed])
    with store.claim(result_id("data", "subset", fingerprint)) as claim:
        if not claim.is_published:
            chosen = {"train": order_by_strata(data, task, seed)[:rows]}
            for split in data.counts:
                lines = data.rows(split)
                with RowWriter(claim.partial, split) as writer:
                    for number in chosen.get(split, range(len(lines))):
                        writer.add(lines.line(number))
            counts = {**data.counts, "train": rows}
            write_description(claim.partial, replace(data, fingerprint=fingerprint, counts=counts))
            claim.publish()
    return load_dataset(claim.final)


def order_by_strata(data: Dataset, task: Task, seed: int) -> list[int]:
    """Return the numbers of all training rows in an order of which every beginning is stratified.

    Args:
        data: The splits.
        task: The task, which assigns a stratum to each row.
        seed: The seed of the order within a stratum.
    """
    rng = random.Random(seed)
    strata: dict[str, list[int]] = {}
    for number, row in enumerate(data.rows("train")):
        strata.setdefault(task.stratify_key(row), []).append(number)
    placed: list[tuple[float, float, int]] = []
    for name in sorted(strata):
        members = strata[name]
        rng.shuffle(members)
        placed += [((index + 0.5) / len(members), rng.random(), number) for index, number in enumerate(members)]
    return [number for *_, number in sorted(placed)]
