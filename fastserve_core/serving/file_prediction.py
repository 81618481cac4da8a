"""Predict for the rows of files, and write the rows with their answers; the same call resumes after a kill.

Answers are written chunk by chunk into a folder beside the output. The chunks depend on the input alone, so that an
interrupted prediction ends with the same bytes as any other.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.files import read_json, write_json, write_text
from fastserve_core.artifacts.hashing import stable_hash
from fastserve_core.data.inputs import InputRow, iterate_inputs
from fastserve_core.data.source import file_source, split_records
from fastserve_core.errors import DataError
from fastserve_core.events import Event, Notice, Progress
from fastserve_core.serving import windows
from fastserve_core.serving.answer_columns import AnswerColumns
from fastserve_core.serving.counts import PredictionCounts
from fastserve_core.serving.windows import answer_window, encode_window, iterate_windows
from fastserve_core.tasks.encoded import Encoded
from fastserve_core.tasks.task import Task

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions
    from fastserve_core.inference.predictor import Predictor

FORMAT = 2
"""Increment when the chunks of the same input change."""


@dataclass
class FilePrediction(PredictionCounts):
    """The counts of a prediction for files, and its output.

    Attributes:
        output: The file.
    """

    output: Path = field(default_factory=Path)


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
    sizes = [windows.WINDOW_ROWS, windows.WINDOW_CHARACTERS]
    key = stable_hash([FORMAT, sizes, predictor.artifact.digest, source.hash_files(given, "--input"), asdict(options)])
    with _open_chunks(output, key, emit) as folder:
        total, known = _scan(given, options, predictor.task)
        columns = AnswerColumns(predictor.task, known, lambda message: emit(Notice(message)))
        writer = _ChunkWriter(predictor, folder, columns)
        inputs = iterate_inputs(given, "--input", predictor.task, options, lambda text: emit(Notice(text)))
        result = FilePrediction(output=output)
        for counts in writer.write(inputs):
            result.add(counts)
            emit(Progress("predicting", result.rows, max(total, result.rows)))
        source.write_rows(writer.parts, list(writer.columns), output)
        shutil.rmtree(folder)
    result.report(emit)
    return result


def _scan(given: Any, options: DataOptions, task: Task) -> tuple[int, Mapping[str, None]]:
    """Return the number of rows and the names of all columns, which decide the names of the answer's columns."""
    total, known = 0, dict[str, None]()
    for record in split_records(file_source().records(given, "--input", options, lambda _: None), task):
        total += 1
        known |= dict.fromkeys(map(str, record.values or ()))
    if not total:
        raise DataError("--input: the files have no rows")
    return total, known


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
    """A chunk that was read; ``record`` is there if its answers were written before."""

    number: int
    inputs: Sequence[InputRow]
    encoded: Sequence[Encoded]
    record: dict[str, Any] | None


class _ChunkWriter:
    """Writes the chunks that are missing, and reads and encodes each one while the engine answers the one before.

    Args:
        predictor: The model.
        folder: The folder of the chunks.
        names: Names the columns.

    Attributes:
        parts: The paths of the chunks so far.
        columns: Their columns.
    """

    def __init__(self, predictor: Predictor, folder: Path, names: AnswerColumns) -> None:
        self._predictor, self._folder, self._names = predictor, folder, names
        self.parts: list[Path] = []
        self.columns: dict[str, None] = {}

    def write(self, inputs: Iterator[InputRow]) -> Iterator[PredictionCounts]:
        """Write all chunks, and yield the counts of each."""
        chunks = enumerate(iterate_windows(inputs))

        def read_next() -> _Chunk | None:
            following = next(chunks, None)
            return None if following is None else self._prepare(*following)

        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(read_next)
            while (chunk := following.result()) is not None:
                following = reader.submit(read_next)
                record = chunk.record or self._write_chunk(chunk)
                self.parts.append(self._part(chunk.number))
                self.columns |= dict.fromkeys(record["columns"])
                yield PredictionCounts(**record["counts"])

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06}"

    def _prepare(self, number: int, inputs: Sequence[InputRow]) -> _Chunk:
        record = self._part(number).with_suffix(".json")
        if record.is_file():
            return _Chunk(number, (), (), read_json(record))
        return _Chunk(number, inputs, encode_window(self._predictor, inputs), None)

    def _write_chunk(self, chunk: _Chunk) -> dict[str, Any]:
        answers = answer_window(self._predictor, chunk.inputs, chunk.encoded)
        rows = [self._names.add(one.values, answer) for one, answer in zip(chunk.inputs, answers, strict=True)]
        counts = PredictionCounts()
        counts.count(chunk.inputs, answers)
        record = {"columns": list(dict.fromkeys(name for row in rows for name in row)), "counts": asdict(counts)}
        part = self._part(chunk.number)
        write_text(part, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))
        write_json(part.with_suffix(".json"), record)
        return record
