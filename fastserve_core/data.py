"""The user's data: read, checked row by row, cut into splits, kept by the hash of its bytes."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastserve_core.errors import BadData, BadOption, suggest
from fastserve_core.files import read_json, write_json
from fastserve_core.hashing import stable_hash
from fastserve_core.registry import provide
from fastserve_core.store import Store, result_name
from fastserve_core.task import DataSource, Record, Row, Task

SPLITS = ("train", "validation", "test")
SHOWN = 10


@dataclass
class Columns:
    """Which column of the user's file holds what."""

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    tokens: str = "tokens"
    tags: str = "tags"


@dataclass
class DataOptions:
    """The ``data`` node of the config."""

    source: str = "files"
    name: str = ""
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    columns: Columns = field(default_factory=Columns)
    max_bad_rows: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    max_rows: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("validation_fraction", "test_fraction"):
            if not 0 < getattr(self, name) < 0.5:
                raise BadOption(f"data.{name} must lie between 0 and 0.5, not {getattr(self, name)}")
        if self.max_bad_rows < 0:
            raise BadOption(f"data.max_bad_rows must be 0 or more, not {self.max_bad_rows}")
        if self.max_rows is not None and self.max_rows < 10:
            raise BadOption(f"data.max_rows must be 10 or more, not {self.max_rows}")


@dataclass(frozen=True)
class Prepared:
    """Checked splits in a folder of the store: one JSONL file a split, and what is known about them."""

    folder: Path
    fingerprint: str
    counts: Mapping[str, int]
    labels: tuple[str, ...]
    bad_rows: tuple[str, ...] = ()

    def rows(self, split: str) -> list[Row]:
        with (self.folder / f"{split}.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


def prepare(options: DataOptions, task: Task, store: Store, say: Callable[[str], None]) -> Prepared:
    """The checked splits for a task; read again only when the bytes or the options changed.

    Raises ``BadData`` with file, line and reason for what cannot be used.
    """
    source: DataSource = provide("fastserve.data", options.source)()
    bytes_hash = source.fingerprint(options, store.downloads)
    shown = {name: value for name, value in asdict(options).items() if name not in SPLITS}
    fingerprint = stable_hash([bytes_hash, shown, task.name])
    with store.claim(result_name("data", options.source, fingerprint), say) as claim:
        if not claim.published:
            _write(claim.partial, *_read(source, options, task, store), fingerprint)
            claim.publish()
    return load(claim.final)


def prepare_rows(splits: Mapping[str, Sequence[Row]], options: DataOptions, task: Task, store: Store) -> Prepared:
    """The same for rows that are already in memory."""
    fingerprint = stable_hash([splits, options.split_seed, task.name])
    with store.claim(result_name("data", "memory", fingerprint)) as claim:
        if not claim.published:
            records = {
                split: (Record(f"{split} row {number}", row) for number, row in enumerate(rows))
                for split, rows in splits.items()
            }
            _write(claim.partial, *check_and_cut(records, options, task), fingerprint)
            claim.publish()
    return load(claim.final)


def load(folder: Path) -> Prepared:
    record = read_json(folder / "data.json")
    record["labels"], record["bad_rows"] = tuple(record["labels"]), tuple(record["bad_rows"])
    return Prepared(folder, **record)


def _read(
    source: DataSource, options: DataOptions, task: Task, store: Store
) -> tuple[dict[str, list[Row]], list[str], list[str]]:
    return check_and_cut(source.read(options, store.downloads), options, task)


def _write(folder: Path, splits: dict[str, list[Row]], labels: list[str], bad: list[str], fingerprint: str) -> None:
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in splits[split])
    counts = {split: len(splits[split]) for split in SPLITS}
    write_json(folder / "data.json", {"fingerprint": fingerprint, "counts": counts, "labels": labels, "bad_rows": bad})


def check_and_cut(
    records: Mapping[str, Iterable[Record]], options: DataOptions, task: Task
) -> tuple[dict[str, list[Row]], list[str], list[str]]:
    """All splits, the labels, and the bad rows that were left out.

    Missing splits are cut from train with a fixed seed, evenly over the strata, after exact duplicates went.
    """
    bad: list[str] = []
    splits = {split: list(_good(rows, options, task, bad)) for split, rows in records.items()}
    if not splits.get("train"):
        raise BadData(_bad_rows_message(bad) if bad else "the training data has no rows")
    labels = task.find_labels(splits["train"])
    known = set(labels)
    for split in set(splits) - {"train"}:
        splits[split] = list(_known_labels(splits[split], split, known, bad))
    if len(bad) > options.max_bad_rows:
        raise BadData(_bad_rows_message(bad) + f"\ndata.max_bad_rows={len(bad)} would leave them out")
    for row in (row for rows in splits.values() for row in rows):
        row.pop("_where", None)
    if options.max_rows is not None:
        splits["train"] = random.Random(options.split_seed).sample(
            splits["train"], min(options.max_rows, len(splits["train"]))
        )
    return _cut(splits, options, task), labels, bad


def _good(records: Iterable[Record], options: DataOptions, task: Task, bad: list[str]) -> Iterator[Row]:
    for record in records:
        if record.values is None:
            bad.append(f"{record.where}: {record.fault}")
            continue
        row = _map_columns(record, options.columns, task)
        if reason := task.check(row):
            bad.append(f"{record.where}: {reason}")
        else:
            yield {**row, "_where": record.where}


def _map_columns(record: Record, columns: Columns, task: Task) -> Row:
    values = record.values or {}
    row: Row = {}
    for column in task.columns:
        name = getattr(columns, column.name)
        if name in values:
            row[column.name] = values[name]
        elif column.required:
            raise BadData(
                f"{record.where}: no column '{name}'{suggest(name, map(str, values))}; "
                f"data.columns.{column.name}=NAME says which one to use"
            )
    return row


def _known_labels(rows: Sequence[Row], split: str, known: set[str], bad: list[str]) -> Iterator[Row]:
    for row in rows:
        given = {row["label"]} if "label" in row else set(row.get("tags", ()))
        if strangers := sorted(given - known) if known else []:
            bad.append(f"{row['_where']}: the label '{strangers[0]}' of the {split} split is not in train")
        else:
            yield row


def _bad_rows_message(bad: list[str]) -> str:
    more = f"\n  … and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"{len(bad)} bad rows:\n" + "\n".join(f"  {one}" for one in bad[:SHOWN]) + more


def _cut(splits: dict[str, list[Row]], options: DataOptions, task: Task) -> dict[str, list[Row]]:
    missing = [(name, getattr(options, f"{name}_fraction")) for name in SPLITS[1:] if not splits.get(name)]
    if not missing:
        return splits
    unique = {json.dumps(row, sort_keys=True): row for row in splits["train"]}
    strata: dict[str, list[Row]] = defaultdict(list)
    for row in unique.values():
        strata[task.stratum(row)].append(row)
    draw = random.Random(options.split_seed)
    train: list[Row] = []
    for name in sorted(strata):
        rows = strata[name]
        draw.shuffle(rows)
        start = 0
        for split, fraction in missing:
            count = round(len(rows) * fraction)
            splits.setdefault(split, []).extend(rows[start : start + count])
            start += count
        train.extend(rows[start:])
    draw.shuffle(train)
    splits["train"] = train
    for split, fraction in missing:
        if not splits.get(split):
            raise BadData(
                f"{len(unique)} rows are too few to cut a {split} split of {fraction:.0%} from: give data.{split}"
            )
    return splits
