"""Checks rows one by one and cuts them into splits; of a row, only some twenty bytes stay in memory."""

from __future__ import annotations

import random
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_core.data.rows import OFFSETS, SUFFIX, Rows, RowWriter, encode_row
from fastserve_core.data.source import RawRecord
from fastserve_core.errors import DataError, did_you_mean, wrap_write_errors
from fastserve_core.tasks.task import Row, Task

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions

SPLITS = ("train", "validation", "test")
MAX_SHOWN = 10


@dataclass
class BadRows:
    """The rows that cannot be used: all are counted, as many as may be left out are kept with their reasons."""

    allowed: int
    count: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, where: str, reason: str) -> None:
        """Count a row that cannot be used; the first ones are reported with their place and reason."""
        self.count += 1
        if len(self.messages) < max(self.allowed, MAX_SHOWN):
            self.messages.append(f"{where}: {reason}")

    def message(self) -> str:
        """Return the report of all rows that cannot be used."""
        more = f"\n  … and {self.count - MAX_SHOWN} more" if self.count > MAX_SHOWN else ""
        return f"{self.count} bad rows:\n" + "\n".join(f"  {one}" for one in self.messages[:MAX_SHOWN]) + more


@dataclass
class ValidatedRows:
    """The usable rows of one split: the lines on the disk, and by row its hash and the number of its stratum."""

    rows: Rows
    hashes: array[int]
    strata: array[int]
    names: list[str]


def validate_and_split(
    records: Mapping[str, Iterable[RawRecord]], options: DataOptions, task: Task, folder: Path
) -> tuple[list[str], list[str]]:
    """Write every split into the folder; returns the labels, and the bad rows that were left out.

    Missing splits are cut from train with a fixed seed, evenly over the strata, after exact duplicates went.
    Raises ``DataError``; nothing is left in the folder then.
    """
    bad = BadRows(options.max_bad_rows)
    with _scratch(folder) as scratch:
        train = _store(_validate_row(records.get("train", ()), "train", options, task, bad), "train", scratch)
        if not train.rows:
            raise DataError(_nothing_left("train", bad) if bad.count else "the training data has no rows")
        labels = _labels(train.rows, task, bad)
        given = [split for split in SPLITS[1:] if split in records]
        others = [
            _store(_validate_row(records[split], split, options, task, bad, labels), split, scratch) for split in given
        ]
        if bad.count > options.max_bad_rows:
            raise DataError(f"{bad.message()}\ndata.max_bad_rows={bad.count} would leave them out")
        for split, other in zip(given, others, strict=True):
            if not other.rows:
                raise DataError(_nothing_left(split, bad))
        for split, numbers in _split(train, options, [name for name in SPLITS[1:] if name not in given]).items():
            _copy(train.rows, numbers, folder, split)
        for split in given:
            _move(split, scratch, folder)
    return labels, bad.messages


def _labels(rows: Sequence[Row], task: Task, bad: BadRows) -> list[str]:
    """The task's labels; what is wrong with them may come of the rows that are left out, so these are said as well."""
    try:
        return task.collect_labels(rows)
    except DataError as error:
        if not bad.count:
            raise
        raise DataError(f"{error}\n{bad.message()}") from error


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for the rows as they are read, gone at the end; what a killed process left in it is gone too."""
    scratch = folder / "checked"
    shutil.rmtree(scratch, ignore_errors=True)
    with wrap_write_errors("the data", folder):
        scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# -- checking ----------------------------------------------------------------------------------------


def _validate_row(
    records: Iterable[RawRecord], split: str, options: DataOptions, task: Task, bad: BadRows, known: Iterable[str] = ()
) -> Iterator[tuple[bytes, str]]:
    """The line and the stratum of each row that can be used; what is known of the others goes to ``bad``."""
    labels = set(known)
    for record in records:
        if record.values is None:
            bad.add(record.where, record.fault)
            continue
        row = _map_columns(record, options.columns, task)
        try:
            reason = task.check(row) or (_unknown_label(task.row_labels(row), split, labels) if labels else None)
            line = b"" if reason else encode_row(row)
        except UnicodeEncodeError:
            reason = "a text holds half of a surrogate pair, which UTF-8 cannot write"
        if reason:
            bad.add(record.where, reason)
        else:
            yield line, task.stratify_key(row)


def _store(usable: Iterable[tuple[bytes, str]], split: str, scratch: Path) -> ValidatedRows:
    hashes, strata, names = array("Q"), array("I"), dict[str, int]()
    with RowWriter(scratch, split) as writer:
        for line, stratum in usable:
            writer.add(line)
            hashes.append(_hash(line))
            strata.append(names.setdefault(stratum, len(names)))
    return ValidatedRows(Rows(scratch, split), hashes, strata, list(names))


def _map_columns(record: RawRecord, columns: Mapping[str, str], task: Task) -> Row:
    values = record.values or {}
    row: Row = {}
    for column in task.columns:
        name = columns.get(column.name, column.name)
        if name in values:
            row[column.name] = values[name]
        elif column.required:
            raise DataError(
                f"{record.where}: no column '{name}'{did_you_mean(name, map(str, values))}; "
                f"data.columns.{column.name}=NAME says which one to use"
            )
    return row


def _unknown_label(given: set[str], split: str, known: set[str]) -> str | None:
    strangers = sorted(given - known)
    return f"the label '{strangers[0]}' of the {split} split is not in train" if strangers else None


def _hash(line: bytes) -> int:
    """Never 0, which marks a free place in ``_deduplicate``."""
    return int.from_bytes(blake2b(line, digest_size=8).digest(), "little") or 1


def _nothing_left(split: str, bad: BadRows) -> str:
    advice = "mend them" if split == "train" else f"mend them, or leave data.{split} out to have one cut from train"
    if not bad.count:
        return f"the {split} split has no rows: give data.{split} some, or leave it out to have one cut from train"
    return f"no row of the {split} split is left: {advice}\n{bad.message()}"


# -- cutting -----------------------------------------------------------------------------------------


def _split(train: ValidatedRows, options: DataOptions, missing: Sequence[str]) -> dict[str, Sequence[int]]:
    """The numbers of train's rows that go into each split, in their order."""
    numbers: Sequence[int] = range(len(train.rows))
    if options.max_rows is not None:
        numbers = random.Random(options.split_seed).sample(numbers, min(options.max_rows, len(numbers)))
    if not missing:
        return {"train": numbers}
    unique = _deduplicate(train.hashes, numbers)
    draw = random.Random(options.split_seed)
    cut = {split: array("Q") for split in ("train", *missing)}
    for stratum in _by_stratum(train, unique):
        draw.shuffle(stratum)
        start = 0
        for split in missing:
            end = start + round(len(stratum) * getattr(options, f"{split}_fraction"))
            cut[split].extend(stratum[start:end])
            start = end
        cut["train"].extend(stratum[start:])
    draw.shuffle(cut["train"])
    for split in (*missing, "train"):
        if not cut[split]:
            raise DataError(
                f"{len(unique)} different rows are too few to cut {_describe_split(split, missing, options)}"
            )
    return dict(cut)


def _describe_split(split: str, missing: Sequence[str], options: DataOptions) -> str:
    if split == "train":
        return f"{' and '.join(missing)} from and keep some to train on: give data.{missing[0]}"
    return f"a {split} split of {getattr(options, f'{split}_fraction'):.0%} from: give data.{split}"


def _deduplicate(hashes: array[int], numbers: Iterable[int]) -> array[int]:
    """The first row of each hash.

    The set of those seen is a table with open addressing (Knuth, The Art of Computer Programming 6.4): some
    16 bytes a row, where a set of Python's takes 100. Two different rows of one 64 bit hash would be taken for
    one; among ten million rows the chance that any are is 3 in a million.
    """
    mask = (1 << (3 * len(hashes) // 2).bit_length()) - 1
    table, unique = array("Q", bytes(8)) * (mask + 1), array("Q")
    for number in numbers:
        value = hashes[number]
        place = value & mask
        while table[place] and table[place] != value:
            place = (place + 1) & mask
        if not table[place]:
            table[place] = value
            unique.append(number)
    return unique


def _by_stratum(train: ValidatedRows, numbers: Iterable[int]) -> list[array[int]]:
    """The row numbers of each stratum, in the order of the strata's names."""
    members = [array("Q") for _ in train.names]
    for number in numbers:
        members[train.strata[number]].append(number)
    return [members[stratum] for stratum in sorted(range(len(members)), key=train.names.__getitem__)]


def _copy(rows: Rows, numbers: Iterable[int], folder: Path, split: str) -> None:
    with RowWriter(folder, split) as writer:
        for number in numbers:
            writer.add(rows.line(number))


def _move(split: str, scratch: Path, folder: Path) -> None:
    with wrap_write_errors(f"the {split} split", folder):
        for suffix in (SUFFIX, OFFSETS):
            (scratch / split).with_suffix(suffix).rename((folder / split).with_suffix(suffix))
