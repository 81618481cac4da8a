"""Texts of items: a file of ids with titles, categories or whatever else describes an item."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from fastserve_core.config import DataOptions
from fastserve_core.data import RawRecord, file_source, find_columns
from fastserve_core.errors import AmbiguousColumnError, DataError, MissingColumnError, OptionError, did_you_mean
from fastserve_core.tasks import is_missing, plain_value, read_label
from fastserve_recommendation.interactions import ITEM, ITEM_COLUMN

OPTION = "task.items"


def hash_item_texts(path: str) -> str:
    """Return the hash of a file of items; raises ``DataError`` if it cannot be read."""
    return file_source().hash_files(path, OPTION)


def read_item_texts(path: str, chosen: Sequence[str], report: Callable[[str], None]) -> dict[str, str]:
    """Read the texts of items by their ids; items without a text are left out.

    Args:
        path: The file.
        chosen: The columns whose values are the text, one after the other; empty for all columns but the ids.
        report: Called with a message on the columns, and on what is left out.

    Raises:
        DataError: The file cannot be read, has no ids or no texts, or gives an item two texts.
        OptionError: The file has no such column.
    """
    source = file_source()
    source.check_files(path, OPTION)
    records = source.records(path, OPTION, DataOptions(), report)
    try:
        columns, records = find_columns(records, (ITEM_COLUMN,), {}, lambda _: None)
    except (MissingColumnError, AmbiguousColumnError) as error:
        found = (
            f", and {' and '.join(error.candidates)} may be meant" if isinstance(error, AmbiguousColumnError) else ""
        )
        raise DataError(f"{OPTION}: {path} has no column '{ITEM}'{found}: name the column of the ids so") from error
    own = columns.names.get(ITEM, ITEM)
    names = _choose_columns(chosen, [name for name in columns.known if name != own])
    texts, repeated, empty = _collect(records, str(own), names)
    if not texts:
        raise DataError(f"{OPTION}: {path} has no texts; a text is made of {', '.join(names) or 'the other columns'}")
    report(f"{OPTION}: the texts of {len(texts)} items ({own}) are made of {', '.join(names)}")
    if empty:
        report(f"{OPTION}: {empty} items have no text")
    if repeated:
        report(f"{OPTION}: {repeated} repeated items of the same text are left out")
    return texts


def _choose_columns(chosen: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    for name in chosen:
        if name not in known:
            raise OptionError(f"task.item_columns: {OPTION} has no column '{name}'{did_you_mean(name, known)}")
    return chosen or known


def _collect(records: Iterable[RawRecord], own: str, names: Sequence[str]) -> tuple[dict[str, str], int, int]:
    """Return the texts, the number of repeated items, and that of items without a text."""
    texts, places, repeated = dict[str, str](), dict[str, str](), 0
    for record in records:
        if record.values is None:
            raise DataError(f"{OPTION}: {record.where}: {record.fault}")
        try:
            item, text = read_label(record.values.get(own)), make_text(record.values, names)
        except ValueError as error:
            raise DataError(f"{OPTION}: {record.where}: {error}") from error
        if item in texts and texts[item] != text:
            raise DataError(f"{OPTION}: {record.where}: the item '{item}' has another text in {places[item]}")
        repeated += item in texts
        texts[item], places[item] = text, record.where
    found = {item: text for item, text in texts.items() if text}
    return found, repeated, len(texts) - len(found)


def make_text(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the values of some columns as one text.

    Raises:
        ValueError: A value is an object; the message names its column.
    """
    parts = []
    for name in names:
        value = plain_value(values.get(name))
        listed = value if isinstance(value, list) else [value]
        if any(isinstance(part, (Mapping, list)) for part in listed):
            raise ValueError(f"'{name}' is an object, not a text: task.item_columns chooses other columns")
        parts.append(", ".join(str(part).strip() for part in listed if not is_missing(part)))
    return ". ".join(part for part in parts if part)


def report_coverage(texts: Mapping[str, str], trained: Collection[str], report: Callable[[str], None]) -> None:
    """Report how many items have no text, and how many are known by their text alone.

    Args:
        texts: The texts by item.
        trained: The items of the training data.
        report: Called with each message.

    Raises:
        DataError: No item of the training data has a text.
    """
    described = sum(item in texts for item in trained)
    if not described:
        raise DataError(
            f"{OPTION}: no item of the training data has a text: its ids are like '{min(trained)}', those of the file "
            f"like '{min(texts)}'"
        )
    if described < len(trained):
        report(f"{OPTION}: {len(trained) - described} of {len(trained)} items of train have no text")
    report(f"{OPTION}: {len(texts) - described} items without an interaction in train are known by their texts alone")
