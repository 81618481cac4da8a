"""Texts without labels beside the training split; the answers of a teacher replace the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from shutil import copyfile
from typing import TYPE_CHECKING

from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.artifacts.store import Store, result_id
from fastserve_core.data.columns import ColumnMap, match_inputs
from fastserve_core.data.dataset import Dataset, load_dataset, write_description
from fastserve_core.data.rows import OFFSETS, SUFFIX, RowWriter, encode_row
from fastserve_core.data.source import RawRecord, file_source, split_records
from fastserve_core.data.splits import SPLITS
from fastserve_core.errors import DataError
from fastserve_core.tasks.encoded import Row
from fastserve_core.tasks.task import Task

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions

OPTION = "compress.distill.unlabelled"


@dataclass(frozen=True)
class UnlabelledFiles:
    """Files that are read with the options of the data, and rows like those of the splits, without a target.

    The rows are iterated twice: to find out whether they were stored before, and to store them.
    """

    files: Sequence[str]
    options: DataOptions
    rows: Iterable[Row] = ()

    def fingerprint(self) -> str:
        """Return the hash of all that decides the texts; raises ``DataError`` for a file that is missing."""
        rows = hashlib.sha256()
        for row in self.rows:
            rows.update(encode_row(row))
        files = file_source().hash_files(list(self.files), OPTION) if self.files else ""
        reading = {name: value for name, value in asdict(self.options).items() if name not in SPLITS}
        return stable_hash([files, reading, rows.hexdigest()])


def add_unlabelled(data: Dataset, texts: UnlabelledFiles, task: Task, store: Store) -> Dataset:
    """The same splits, with the texts after the training split's rows; made once and kept in the store.

    Their target is ``None``. Raises ``DataError`` with file, line and reason for unusable rows, and for a task
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
                for row in chain(_rows(texts, task, first), texts.rows):
                    writer.add(encode_row(row | targets))
                    count += 1
            for split in SPLITS[1:]:
                for suffix in (SUFFIX, OFFSETS):
                    copyfile((data.folder / split).with_suffix(suffix), (claim.partial / split).with_suffix(suffix))
            counts = {**data.counts, "train": count}
            write_description(claim.partial, replace(data, fingerprint=fingerprint, counts=counts))
            claim.publish()
    return load_dataset(claim.final)


def _rows(texts: UnlabelledFiles, task: Task, like: Row) -> Iterator[Row]:
    for file in texts.files:
        where, is_empty = "", True
        records = file_source().records(file, OPTION, texts.options, lambda _: None)
        try:
            columns, records = match_inputs(split_records(records, task), task, texts.options.columns, lambda _: None)
            for record in records:
                where, is_empty = f"{record.where}: ", False
                yield _row(record, columns, task, like)
        except DataError as error:
            raise DataError(f"{OPTION}: {where}{error}") from error
        if is_empty:
            raise DataError(f"{OPTION}: the file {file} has no rows")


def _row(record: RawRecord, columns: ColumnMap, task: Task, like: Row) -> Row:
    """Return one row as a caller of predict might give it, with the columns of the labelled row ``like``."""
    if record.values is None:
        raise DataError(record.fault)
    row, reason = columns.read_row(record.values)
    if reason:
        raise DataError(reason)
    for column in columns.columns:
        if not column.required and bool(row.get(column.name)) != bool(like.get(column.name)):
            having, lacking = ("the data", "this row") if like.get(column.name) else ("this row", "the data")
            raise DataError(f"{having} has the column '{column.name}', {lacking} has not")
    return task.read_input(row)
