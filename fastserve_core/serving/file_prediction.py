"""Predict for the rows of files, and write the rows with their answers; the same call resumes after a kill.

Answers are written chunk by chunk into a folder beside the output. The chunks depend on the input alone, so that an
interrupted prediction ends with the same bytes as any other.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.files import read_json, write_json, write_text
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.data.inputs import InputRow, iterate_inputs
from fastserve_core.data.source import file_source
from fastserve_core.errors import DataError
from fastserve_core.events import Event, Notice, Progress, WarningRaised
from fastserve_core.tasks.task import Encoded, Row

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions
    from fastserve_core.inference.predictor import Predictor

CHUNK_ROWS = 8192
"""The number of rows of a chunk, which is also the number that is sorted by length."""
BATCH_SIZE = 32
FORMAT = 1
"""Increment when the chunks of the same input change."""
ERROR = "error"
"""The column with the reason why a row has no answer."""
MAX_MESSAGES = 5
"""The number of bad rows that are reported one by one."""


@dataclass
class FilePrediction:
    """The counts of a prediction.

    Attributes:
        output: The file.
        rows: The number of its rows.
        bad_rows: The number of rows without an answer.
        truncated: The number of rows that were longer than the model reads.
        messages: The reasons for the first bad rows.
    """

    output: Path
    rows: int = 0
    bad_rows: int = 0
    truncated: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, chunk: dict[str, Any]) -> None:
        """Add the counts of a chunk."""
        self.rows += chunk["rows"]
        self.bad_rows += chunk["bad_rows"]
        self.truncated += chunk["truncated"]
        self.messages = [*self.messages, *chunk["messages"]][:MAX_MESSAGES]


def predict_file(
    predictor: Predictor, given: Any, output: Path, options: DataOptions, emit: Callable[[Event], None]
) -> FilePrediction:
    """Predict for the rows of files in constant memory.

    Args:
        predictor: The model.
        given: A path, a pattern, a folder, or a list of them.
        output: The file to write; its suffix decides the format.
        options: How the files are read.
        emit: Receives progress, guesses and the reasons for bad rows.

    Returns:
        The counts. Every row of the input is in the output, in its order, with all of its columns and those of the
        answer; a bad row has a reason in the column ``error`` instead.

    Raises:
        DataError: The input cannot be read, the output cannot be written, or another command is writing it.
    """
    source = file_source()
    source.check_output(output)
    source.check_files(given, "--input")
    key = stable_hash(
        [FORMAT, CHUNK_ROWS, predictor.artifact.digest, source.hash_files(given, "--input"), asdict(options)]
    )
    with _open_chunks(output, key, emit) as folder:
        writer = _ChunkWriter(predictor, folder, emit)
        inputs = iterate_inputs(given, "--input", predictor.task, options, lambda text: emit(Notice(text)))
        total = sum(1 for _ in source.records(given, "--input", options, lambda _: None))
        result = FilePrediction(output)
        for counts in writer.write(inputs):
            result.add(counts)
            emit(Progress("predicting", result.rows, max(total, result.rows)))
        if not result.rows:
            raise DataError("--input: the files have no rows")
        source.write_rows(writer.parts, list(writer.columns), output)
        shutil.rmtree(folder)
    _report(result, emit)
    return result


def _report(result: FilePrediction, emit: Callable[[Event], None]) -> None:
    if result.bad_rows:
        reasons = "".join(f"\n  {message}" for message in result.messages)
        more = "\n  …" if result.bad_rows > len(result.messages) else ""
        emit(WarningRaised(f"{result.bad_rows} of {result.rows} rows have no answer:{reasons}{more}"))
    if result.truncated:
        message = f"{result.truncated} of {result.rows} texts were truncated to the model's maximum length"
        emit(WarningRaised(message))


@contextmanager
def _open_chunks(output: Path, key: str, emit: Callable[[Event], None]) -> Iterator[Path]:
    """Lock and yield the folder of an output's chunks; those of another input or model are removed."""
    folder = output.with_name(f".{output.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"another command is writing {output}") from error
        record = folder / "key.json"
        if record.is_file() and read_json(record) != key:
            emit(Notice(f"{folder} has chunks of another input, model or options: they are removed"))
        if not record.is_file() or read_json(record) != key:
            for path in folder.iterdir():
                if path.name != "lock":
                    path.unlink()
            write_json(record, key)
        yield folder


@dataclass(frozen=True)
class _Chunk:
    """A chunk that was read; ``counts`` are there if its answers were written before."""

    number: int
    inputs: Sequence[InputRow]
    encoded: Sequence[Encoded]
    counts: dict[str, Any] | None


class _ChunkWriter:
    """Writes the chunks that are missing, and reads and encodes each one while the engine answers the one before.

    Args:
        predictor: The model.
        folder: The folder of the chunks.
        emit: Receives a notice of columns that get other names.

    Attributes:
        parts: The paths of the chunks so far.
        columns: Their columns.
    """

    def __init__(self, predictor: Predictor, folder: Path, emit: Callable[[Event], None]) -> None:
        self._predictor, self._folder, self._emit = predictor, folder, emit
        self._names: dict[str, str] = {}
        self.parts: list[Path] = []
        self.columns: dict[str, None] = {}

    def write(self, inputs: Iterator[InputRow]) -> Iterator[dict[str, Any]]:
        """Write all chunks, and yield the counts of each."""
        numbers = count()

        def read_next() -> _Chunk | None:
            chunk = list(islice(inputs, CHUNK_ROWS))
            return self._prepare(next(numbers), chunk) if chunk else None

        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(read_next)
            while (chunk := following.result()) is not None:
                following = reader.submit(read_next)
                counts = chunk.counts or self._write_chunk(chunk)
                self.parts.append(self._part(chunk.number))
                self.columns |= dict.fromkeys(counts["columns"])
                yield counts

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06}"

    def _prepare(self, number: int, inputs: Sequence[InputRow]) -> _Chunk:
        record = self._part(number).with_suffix(".json")
        if record.is_file():
            return _Chunk(number, (), (), read_json(record))
        return _Chunk(number, inputs, self._predictor.encode([one.row for one in inputs if one.row is not None]), None)

    def _write_chunk(self, chunk: _Chunk) -> dict[str, Any]:
        answers = iter(self._predictor.answer_encoded(chunk.encoded, BATCH_SIZE))
        found = [{ERROR: one.fault} if one.row is None else next(answers) for one in chunk.inputs]
        rows = [
            {**one.values, **self._name_columns(one.values, answer)}
            for one, answer in zip(chunk.inputs, found, strict=True)
        ]
        faults = [f"{one.where}: {one.fault}" for one in chunk.inputs if one.row is None]
        counts = {
            "rows": len(rows),
            "bad_rows": len(faults),
            "truncated": sum("truncated" in answer for answer in found),
            "messages": faults[:MAX_MESSAGES],
            "columns": list(dict.fromkeys(name for row in rows for name in row)),
        }
        part = self._part(chunk.number)
        write_text(part, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))
        write_json(part.with_suffix(".json"), counts)
        return counts

    def _name_columns(self, values: Row, answer: dict[str, Any]) -> Row:
        """Return the columns of an answer; those that the row has already get the prefix ``predicted_``."""
        columns = {**self._predictor.task.answer_columns(answer), ERROR: answer.get(ERROR)}
        for name in columns:
            if name not in self._names:
                self._names[name] = f"predicted_{name}" if name in values else name
                if name in values:
                    self._emit(Notice(f"the answer's column '{name}' is written as 'predicted_{name}'"))
        return {self._names[name]: value for name, value in columns.items()}
