"""The token ids of a split: computed once, cached in the store by their inputs, and read row by row from disk."""

from __future__ import annotations

import shutil
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

import numpy as np

from fastserve_core.artifacts import Store, hash_file, list_weight_files, read_json, result_id, stable_hash, write_json
from fastserve_core.data import Dataset, Rows
from fastserve_core.errors import StageError
from fastserve_core.events import Event, Notice, Progress, WarningRaised
from fastserve_core.tasks import Encoded, Row, Task
from fastserve_torch_ddp.data.columns import Array, ColumnWriter, concatenate, map_column, write_offsets

FORMAT = 2
RECORD, OFFSETS, TARGET, TARGET_OFFSETS = "tokens.json", "offsets", "target", "target-offsets"
CHUNK_ROWS, CHUNK_BYTES = 2000, 4_000_000
"""Rows, and bytes of their text, that are encoded at once: the tokenizer's threads share a chunk."""
PROGRESS_SECONDS = 0.25
TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".codes", ".bpe", ".tiktoken")
NOT_TOKENIZER = ("config.json", "generation_config.json", "fastserve.json", "model.safetensors.index.json")
CONFIG_FIELDS = (
    *("model_type", "vocab_size", "max_position_embeddings", "n_positions", "pad_token_id"),
    "fastserve_parts",
)
"""Fields of the model's config that a task may read when it encodes; its weights do not matter."""


def tokenize(
    task: Task, model: Path, data: Dataset, split: str, emit: Callable[[Event], None] = lambda _: None
) -> Path:
    """Tokenize a split, unless the store has its tokens already.

    If several processes call this function, one tokenizes and the others wait.

    Args:
        task: The task, which provides the encoder.
        model: The model's folder, with the tokenizer.
        data: The dataset; its store receives the tokens.
        split: The name of the split.
        emit: Receives progress and warnings.

    Returns:
        The folder for ``TokenDataset``.

    Raises:
        StageError: The task returned targets for some rows only.
        StoreError: The disk is full.
    """
    store = Store(data.folder.parents[1])  # the data is a result of the same store
    name = result_id("tokens", split, stable_hash(_cache_key(task, model, data, split)))
    with store.claim(name, lambda text: emit(WarningRaised(text))) as claim:
        if not claim.is_published:
            folder = claim.partial / "tokens"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            writer = _TokenWriter(folder, getattr(task.options, "max_length", 0))
            for encoded in _encode(task, model, data.rows(split), split, emit):
                writer.add(encoded)
            writer.finish()
            claim.publish(folder)
    _report_cut(claim.final, split, emit)
    return claim.final


def _report_cut(folder: Path, split: str, emit: Callable[[Event], None]) -> None:
    record = read_json(folder / RECORD)
    if count := record["truncated"]:
        emit(WarningRaised(f"{count} of {record['rows']} rows of {split} are longer than task.max_length and were cut"))


class TokenDataset(Sequence[Encoded]):
    """The encoded rows in a folder that ``tokenize`` wrote; a slice is a list.

    ``inputs`` and targets of several numbers are read-only views of the mapped files, of the narrowest type that
    holds the numbers: cast them before computing with them. A target of one number is a Python number.
    ``decode_state`` is not stored. Several processes share the pages of one folder.

    Args:
        folder: The folder.

    Attributes:
        lengths: The number of tokens of each row, of shape (rows,).
    """

    def __init__(self, folder: Path) -> None:
        record = read_json(folder / RECORD)
        self.folder, self._count = folder, int(record["rows"])
        self._offsets = map_column(folder / OFFSETS, record["offsets"])
        self.lengths: Array = np.diff(self._offsets)
        self._inputs: dict[str, Any] = {
            name: map_column(folder / _input_file(name), column) for name, column in record["inputs"].items()
        }
        self._target = map_column(folder / TARGET, record["target"]) if record["target"] else None
        ragged = record["target_offsets"]
        self._target_offsets = map_column(folder / TARGET_OFFSETS, ragged) if ragged else None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        numbers = range(self._count)[index]
        return [self._row(number) for number in numbers] if isinstance(numbers, range) else self._row(numbers)

    def __reduce__(self) -> tuple[type[TokenDataset], tuple[Path]]:
        return TokenDataset, (self.folder,)

    def _row(self, number: int) -> Encoded:
        begin, end = self._offsets[number], self._offsets[number + 1]
        return Encoded({name: values[begin:end] for name, values in self._inputs.items()}, self._row_target(number))

    def _row_target(self, number: int) -> Any:
        if self._target is None:
            return None
        if self._target_offsets is None:
            return self._target[number].item()
        return self._target[self._target_offsets[number] : self._target_offsets[number + 1]]


def _cache_key(task: Task, model: Path, data: Dataset, split: str) -> dict[str, Any]:
    """Return all inputs that determine the tokens."""
    files = (path for path in model.iterdir() if path.suffix in TOKENIZER_SUFFIXES and path.name not in NOT_TOKENIZER)
    config = read_json(model / "config.json")
    return {
        "format": [FORMAT, version("fastserve-core"), version("tokenizers")],
        "data": [data.fingerprint, split],
        "tokenizer": {path.name: hash_file(path) for path in files},
        "config": {name: config.get(name) for name in CONFIG_FIELDS},
        "task": [task.name, vars(task.options), list(task.labels)],
        "weights": {name: hash_file(model / name) for name in list_weight_files(model)} if task.completes_rows else {},
    }


def _encode(
    task: Task, model: Path, rows: Rows, split: str, emit: Callable[[Event], None]
) -> Iterator[Sequence[Encoded]]:
    """Yield the rows in encoded chunks; progress is emitted only if it takes longer than ``PROGRESS_SECONDS``."""
    encode, encoded_rows, emitted = task.encoder(model), 0, time.monotonic()
    complete = task.complete_rows(rows, model, lambda text: emit(Notice(text)))
    for chunk in _chunks(rows):
        yield encode([complete(row) for row in chunk])
        encoded_rows += len(chunk)
        if time.monotonic() - emitted > PROGRESS_SECONDS:
            emitted = time.monotonic()
            emit(Progress(f"tokenizing {split}", encoded_rows, len(rows)))


def _chunks(rows: Rows) -> Iterator[list[Row]]:
    begin = size = 0
    for number in range(len(rows)):
        size += rows.size(number)
        if number + 1 - begin == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield rows[begin : number + 1]
            begin, size = number + 1, 0
    if begin < len(rows):
        yield rows[begin:]


class _TokenWriter:
    """Appends encoded rows to one file for each input, and writes a record of the files."""

    def __init__(self, folder: Path, max_length: int) -> None:
        self.folder, self.max_length = folder, max_length
        self.lengths, self.target_lengths = array("q"), array("q")
        self.inputs: dict[str, ColumnWriter] = {}
        self.target = ColumnWriter(folder / TARGET)
        self.missing_targets = self.truncated = 0

    def add(self, encoded: Sequence[Encoded]) -> None:
        self.lengths.extend(map(len, encoded))
        # the rows that a task reads in parts are longer
        self.truncated += sum(row.truncated and len(row) <= self.max_length for row in encoded)
        for name in encoded[0].inputs:
            column = self.inputs.setdefault(name, ColumnWriter(self.folder / _input_file(name)))
            column.add(concatenate([row.inputs[name] for row in encoded]))
        targets = [row.target for row in encoded if row.target is not None]
        self.missing_targets += len(encoded) - len(targets)
        if targets and np.ndim(targets[0]):
            self.target_lengths.extend(map(len, targets))
            self.target.add(concatenate(targets))
        else:
            self.target.add(np.asarray(targets))

    def finish(self) -> None:
        rows, folder = len(self.lengths), self.folder
        if 0 < self.missing_targets < rows:
            raise StageError(f"the task returned no target for {self.missing_targets} of {rows} rows: all need one")
        is_ragged = len(self.target_lengths) > 0
        record = {
            "rows": rows,
            "truncated": self.truncated,
            "inputs": {name: column.describe() for name, column in self.inputs.items()},
            "target": None if self.missing_targets == rows else self.target.describe(),
            "offsets": write_offsets(folder / OFFSETS, self.lengths),
            "target_offsets": write_offsets(folder / TARGET_OFFSETS, self.target_lengths) if is_ragged else None,
        }
        write_json(folder / RECORD, record)


def _input_file(name: str) -> str:
    return f"input-{name}"
