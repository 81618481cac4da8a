"""A split's token ids: made once, kept in the store by what decides them, read from the disk row by row."""

from __future__ import annotations

import shutil
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

import numpy as np

from fastserve_core.artifacts import Store, hash_file, read_json, result_id, stable_hash, write_json
from fastserve_core.data import Dataset, Rows
from fastserve_core.errors import StageFailed
from fastserve_core.events import Event, Progress, WarningRaised
from fastserve_core.tasks import Encoded, Row, Task
from fastserve_torch_ddp.data.columns import Array, ColumnWriter, flat, mapped, write_offsets

FORMAT = 1
RECORD, OFFSETS, TARGET, TARGET_OFFSETS = "tokens.json", "offsets", "target", "target-offsets"
CHUNK_ROWS, CHUNK_BYTES = 2000, 4_000_000
"""Rows, and bytes of their text, that are encoded at once: the tokenizer's threads share a chunk."""
PROGRESS_SECONDS = 0.25
TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".codes", ".bpe", ".tiktoken")
NOT_TOKENIZER = ("config.json", "generation_config.json", "fastserve.json", "model.safetensors.index.json")
CONFIG_FIELDS = ("model_type", "vocab_size", "max_position_embeddings", "n_positions", "pad_token_id")
"""What a task may look up in the model's config when it encodes; its weights do not matter."""


def tokenize(
    task: Task, model: Path, data: Dataset, split: str, tell: Callable[[Event], None] = lambda _: None
) -> Path:
    """The folder of a split's tokens for ``TokenDataset``, in the store that holds the data; made where it is missing.

    Of several processes one works and the others wait. Raises what the encoder raises, and ``StoreError``.
    """
    store = Store(data.folder.parents[1])  # the data is a result of the same store
    with store.claim(result_id("tokens", split, stable_hash(_key(task, model, data, split)))) as claim:
        if claim.published and not _is_complete(claim.final):
            tell(WarningRaised(f"{claim.final} is damaged: the {split} split is tokenized again"))
            shutil.rmtree(claim.final)
        if not claim.published:
            folder = claim.partial / "tokens"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            writer = _Writer(folder)
            for encoded in _encoded(task, model, data.rows(split), split, tell):
                writer.add(encoded)
            writer.finish()
            claim.publish(folder)
    return claim.final


class TokenDataset(Sequence[Encoded]):
    """The encoded rows of a folder that ``tokenize`` made; a slice is a list.

    ``inputs`` and a target of several numbers are read-only views of the mapped files, of the narrowest type
    that holds the numbers: cast them before you compute with them. A target of one number is a Python number.
    There is no ``memo``. ``lengths`` holds the tokens of every row. Several processes share one folder's pages.
    """

    def __init__(self, folder: Path) -> None:
        record = read_json(folder / RECORD)
        self.folder, self._count = folder, int(record["rows"])
        self._offsets = mapped(folder / OFFSETS, record["offsets"])
        self.lengths: Array = np.diff(self._offsets)
        self._inputs: dict[str, Any] = {
            name: mapped(folder / _of_input(name), one) for name, one in record["inputs"].items()
        }
        self._target = mapped(folder / TARGET, record["target"]) if record["target"] else None
        ragged = record["target_offsets"]
        self._target_offsets = mapped(folder / TARGET_OFFSETS, ragged) if ragged else None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice) -> list[Encoded]: ...
    def __getitem__(self, place: int | slice) -> Encoded | list[Encoded]:
        found = range(self._count)[place]
        return [self._row(number) for number in found] if isinstance(found, range) else self._row(found)

    def __reduce__(self) -> tuple[type[TokenDataset], tuple[Path]]:
        return TokenDataset, (self.folder,)

    def _row(self, number: int) -> Encoded:
        begin, end = self._offsets[number], self._offsets[number + 1]
        return Encoded({name: one[begin:end] for name, one in self._inputs.items()}, self._target_of(number))

    def _target_of(self, number: int) -> Any:
        if self._target is None:
            return None
        if self._target_offsets is None:
            return self._target[number].item()
        return self._target[self._target_offsets[number] : self._target_offsets[number + 1]]


def _key(task: Task, model: Path, data: Dataset, split: str) -> dict[str, Any]:
    """Everything that decides the tokens."""
    files = (path for path in model.iterdir() if path.suffix in TOKENIZER_SUFFIXES and path.name not in NOT_TOKENIZER)
    config = read_json(model / "config.json")
    return {
        "format": [FORMAT, version("fastserve-core"), version("tokenizers")],
        "data": [data.fingerprint, split],
        "tokenizer": {path.name: hash_file(path) for path in files},
        "config": {name: config.get(name) for name in CONFIG_FIELDS},
        "task": [task.name, vars(task.options), list(task.labels)],
    }


def _is_complete(folder: Path) -> bool:
    """Whether every file has the size that it was published with."""
    try:
        sizes = read_json(folder / RECORD)["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _encoded(
    task: Task, model: Path, rows: Rows, split: str, tell: Callable[[Event], None]
) -> Iterator[Sequence[Encoded]]:
    """The rows in encoded chunks; progress is told only where it takes a while."""
    encode, done, told = task.encoder(model), 0, time.monotonic()
    for chunk in _chunks(rows):
        yield encode(chunk)
        done += len(chunk)
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            tell(Progress(f"tokenizing {split}", done, len(rows)))


def _chunks(rows: Rows) -> Iterator[list[Row]]:
    begin = size = 0
    for number in range(len(rows)):
        size += rows.size(number)
        if number + 1 - begin == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield rows[begin : number + 1]
            begin, size = number + 1, 0
    if begin < len(rows):
        yield rows[begin:]


class _Writer:
    """Appends encoded rows to one file an input, and says in a record how to read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lengths, self.target_lengths = array("q"), array("q")
        self.inputs: dict[str, ColumnWriter] = {}
        self.target = ColumnWriter(folder / TARGET)
        self.without = 0

    def add(self, encoded: Sequence[Encoded]) -> None:
        self.lengths.extend(map(len, encoded))
        for name in encoded[0].inputs:
            column = self.inputs.setdefault(name, ColumnWriter(self.folder / _of_input(name)))
            column.add(flat([one.inputs[name] for one in encoded]))
        targets = [one.target for one in encoded if one.target is not None]
        self.without += len(encoded) - len(targets)
        if targets and np.ndim(targets[0]):
            self.target_lengths.extend(map(len, targets))
            self.target.add(flat(targets))
        else:
            self.target.add(np.asarray(targets))

    def finish(self) -> None:
        rows, folder = len(self.lengths), self.folder
        if 0 < self.without < rows:
            raise StageFailed(f"the task gave {self.without} of {rows} rows no target, and the others one")
        ragged = len(self.target_lengths) > 0
        record = {
            "rows": rows,
            "inputs": {name: column.record() for name, column in self.inputs.items()},
            "target": None if self.without == rows else self.target.record(),
            "offsets": write_offsets(folder / OFFSETS, self.lengths),
            "target_offsets": write_offsets(folder / TARGET_OFFSETS, self.target_lengths) if ragged else None,
        }
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        write_json(folder / RECORD, record | {"sizes": sizes})


def _of_input(name: str) -> str:
    return f"input-{name}"
