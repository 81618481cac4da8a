"""Texts without labels beside the training split: for a teacher who speaks of them in place of labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from shutil import copyfile
from typing import Any

from fastserve_core.artifacts.hashing import hash_file, stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.data.dataset import Dataset, load_dataset, write_description
from fastserve_core.data.rows import OFFSETS, SUFFIX, RowWriter, encode_row
from fastserve_core.data.source import RawRecord
from fastserve_core.data.splits import SPLITS
from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import DataError, did_you_mean
from fastserve_core.tasks.task import Row, Task

OPTION = "compress.distill.unlabelled"
MAX_NEARBY_FILES = 20
"""How many files of a folder are looked at for one of a similar name."""


def resolve_paths(given: Any, option: str) -> list[Path]:
    """The files that an option names: one path, several, or none; raises ``DataError`` for one that is missing."""
    paths = [Path(one).expanduser().absolute() for one in ([given] if isinstance(given, str) else given or ())]
    for path in paths:
        if not path.is_file():
            near = [one.name for one in path.parent.glob("[!.]*")]
            raise DataError(
                f"{option}: the file {path} does not exist{did_you_mean(path.name, near[:MAX_NEARBY_FILES])}"
            )
    return paths


def file_hashes(given: Any, option: str) -> list[str]:
    """The hashes of those files; raises the same."""
    return [hash_file(path) for path in resolve_paths(given, option)]


@dataclass(frozen=True)
class UnlabelledFiles:
    """Files, whose columns are called as ``columns`` says, and rows as the splits have them, but for a target.

    The rows are iterated twice: to tell whether they were stored before, and to store them.
    """

    files: Sequence[str]
    columns: Mapping[str, str]
    rows: Iterable[Row] = ()

    def fingerprint(self) -> str:
        """What the texts are known by; raises ``DataError`` for a file that is missing."""
        rows = hashlib.sha256()
        for row in self.rows:
            rows.update(encode_row(row))
        return stable_hash([file_hashes(list(self.files), OPTION), dict(self.columns), rows.hexdigest()])


def add_unlabelled(data: Dataset, texts: UnlabelledFiles, task: Task, store: Store) -> Dataset:
    """The same splits, with the texts after the training split's rows; made once and kept in the store.

    Their target is ``None``. Raises ``DataError`` with file, line and reason for what cannot be used, and for a task
    whose rows have no labels in the first place.
    """
    targets = dict.fromkeys(task.label_columns)
    if not targets:
        raise DataError(f"{OPTION}: {task.name} learns from texts as they are: add these to data.train")
    fingerprint = stable_hash([data.fingerprint, texts.fingerprint()])
    with store.claim(result_id("data", "unlabelled", fingerprint)) as claim:
        if not claim.is_published:
            labelled = data.rows("train")
            first, count = labelled[0], len(labelled)
            with RowWriter(claim.partial, "train") as writer:
                for number in range(count):
                    writer.add(labelled.line(number))
                for row in chain(_rows(texts.files, texts.columns, task, first), texts.rows):
                    writer.add(encode_row(row | targets))
                    count += 1
            for split in SPLITS[1:]:
                for suffix in (SUFFIX, OFFSETS):
                    copyfile((data.folder / split).with_suffix(suffix), (claim.partial / split).with_suffix(suffix))
            counts = {**data.counts, "train": count}
            write_description(claim.partial, replace(data, fingerprint=fingerprint, counts=counts))
            claim.publish()
    return load_dataset(claim.final)


def _rows(files: Sequence[str], columns: Mapping[str, str], task: Task, like: Row) -> Iterator[Row]:
    source: Any = load_entry_point("fastserve.data", "files")()
    for file in resolve_paths(list(files), OPTION):
        empty = True
        for record in source.records(file, OPTION):
            empty = False
            yield _row(record, columns, task, like)
        if empty:
            raise DataError(f"{OPTION}: the file {file} has no rows")


def _row(record: RawRecord, columns: Mapping[str, str], task: Task, like: Row) -> Row:
    """Return one row as a caller of predict might give it, with the columns of the labelled row ``like``."""
    if record.values is None:
        raise DataError(f"{OPTION}: {record.where}: {record.fault}")
    inputs = [column for column in task.columns if not column.is_label] + list(task.request_columns)
    names = {column.name: columns.get(column.name, column.name) for column in inputs}
    known = {name: record.values[own] for name, own in names.items() if own in record.values}
    if not known:
        own = names[task.request_columns[0].name]
        raise DataError(f"{OPTION}: {record.where}: no column '{own}'{did_you_mean(own, map(str, record.values))}")
    for column in inputs:
        if not column.required and bool(known.get(column.name)) != bool(like.get(column.name)):
            having, lacking = ("the data", "this row") if like.get(column.name) else ("this row", "the data")
            raise DataError(f"{OPTION}: {record.where}: {having} has the column '{column.name}', {lacking} has not")
    try:
        return task.read_input(known)
    except DataError as error:
        raise DataError(f"{OPTION}: {record.where}: {error}") from error
