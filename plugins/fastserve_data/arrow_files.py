"""Reads Parquet and Arrow files, and data sets that the package datasets saved to disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.data import RawRecord
from fastserve_core.errors import DataError, MissingPackageError
from fastserve_data.headers import name_columns
from fastserve_data.labels import name_label
from fastserve_data.paths import SAVED_SET

if TYPE_CHECKING:
    import pyarrow as pa

    from fastserve_core.config import DataOptions

BATCH_ROWS, BUFFER_BYTES = 1000, 1_000_000
"""Parquet files are read in small batches, because a row group may be larger than memory."""
METADATA_KEY = b"huggingface"
"""Where the package datasets keeps the types of columns, among them the names of labels."""


def read_arrow(path: Path, options: DataOptions, report: Callable[[str], None], suffix: str) -> Iterator[RawRecord]:
    """Read the rows of a Parquet file, an Arrow file, or the folder of a saved data set.

    Args:
        path: The file or folder.
        options: The options of the data, unused here.
        report: Called with a message if a column has named labels, or cannot be read.
        suffix: ``.parquet``, ``.arrow``, or empty for a saved data set.

    Raises:
        DataError: The file is damaged, or has two columns of one name.
        MissingPackageError: pyarrow is not installed.
    """
    kind = {".parquet": "Parquet file", ".arrow": "Arrow file"}.get(suffix, "saved data set")
    with _wrap_errors(path, kind):
        columns, number = None, 0
        for batch in _saved_batches(path) if not suffix else _batches(path, suffix):
            columns = columns or _Columns(batch.schema, path, report)
            for values in columns.rows(batch):
                number += 1
                yield RawRecord(f"{path} row {number}", values)


@contextmanager
def _wrap_errors(path: Path, kind: str) -> Iterator[None]:
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise MissingPackageError(f"{path.name} needs pyarrow: pip install 'fastserve-core[data]'") from error
    try:
        yield
    except (ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} is not a valid {kind}: {error}") from error


def _batches(path: Path, suffix: str) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow import parquet

    if suffix == ".parquet":
        with parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            yield from file.iter_batches(BATCH_ROWS)
        return
    with pa.OSFile(str(path)) as source:  # a map of a file that is cut meanwhile would end the process
        try:
            batches: Iterable[pa.RecordBatch] = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        for batch in batches:
            batch.validate(full=True)  # offsets of a damaged file may lead anywhere
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def _saved_batches(folder: Path) -> Iterator[pa.RecordBatch]:
    state = json.loads((folder / SAVED_SET).read_text(encoding="utf-8"))
    files = state["_data_files"]
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} selects rows of other files: call flatten_indices() before save_to_disk()")
    for file in files:
        yield from _batches(folder / Path(file["filename"]).name, ".arrow")


class _Columns:
    """The columns of a file as Python's values.

    Args:
        schema: The schema.
        path: The file, for messages.
        report: Called with a message about a column.
    """

    def __init__(self, schema: pa.Schema, path: Path, report: Callable[[str], None]) -> None:
        self._path, self._report = path, report
        self._unreadable: set[str] = set()
        self._names = name_columns(schema.names, str(path))
        self._labels = _label_names(schema)
        for name, labels in self._labels.items():
            report(
                f"{path}: the labels of column '{name}' have names: {', '.join(labels[:5])}{', …' * (len(labels) > 5)}"
            )

    def rows(self, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
        """Yield the rows of a batch."""
        columns: dict[str, list[Any]] = {}
        for name, column in zip(self._names, batch.columns, strict=True):
            try:
                values = _to_python(column)
            except (ValueError, TypeError, KeyError, OverflowError, NotImplementedError) as error:
                if name not in self._unreadable:
                    self._unreadable.add(name)
                    self._report(f"{self._path}: column '{name}' cannot be read and is left out: {error}")
                continue
            labels = self._labels.get(name)
            columns[name] = [name_label(value, labels) for value in values] if labels else values
        return ({name: values[index] for name, values in columns.items()} for index in range(batch.num_rows))


def _to_python(column: pa.Array) -> list[Any]:
    """Return the values of a column; times become text, since Python has none after the year 9999."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type) or pa.types.is_time(column.type):
        column = column.cast(pa.string())
    elif pa.types.is_duration(column.type):
        column = column.cast(pa.int64())
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(pa.large_binary()).to_pylist()
    return values


def _label_names(schema: pa.Schema) -> Mapping[str, list[str]]:
    """Return the names of labels by column, as the package datasets stores them."""
    try:
        features = json.loads((schema.metadata or {})[METADATA_KEY])["info"]["features"]
        found = {str(name): _feature_names(feature) for name, feature in features.items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    return {name: labels for name, labels in found.items() if labels}


def _feature_names(feature: Any) -> list[str]:
    if isinstance(feature, list):
        feature = feature[0]
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        return [str(name) for name in feature.get("names") or ()]
    return _feature_names(feature["feature"]) if "feature" in feature else []
