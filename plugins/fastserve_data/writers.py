"""Write rows as CSV, TSV, JSON lines or Parquet, in constant memory and atomically; texts also compressed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fastserve_core.errors import DataError, wrap_write_errors
from fastserve_data.paths import data_suffix

SEPARATORS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
TEXT_OUTPUTS = (*SEPARATORS, *LINES)
COMPRESSED = ".gz"


def check_output(path: Path) -> None:
    """Check that rows can be written to a file of that name.

    Raises:
        DataError: Its type is not supported, or its folder does not exist or cannot be written to.
    """
    supported = f"{', '.join(TEXT_OUTPUTS)}, each also with {COMPRESSED}, and .parquet"
    suffix, is_compressed = data_suffix(path), path.suffix.lower() == COMPRESSED
    if suffix not in (TEXT_OUTPUTS if is_compressed else (*TEXT_OUTPUTS, ".parquet")):
        raise DataError(f"--output: unsupported file type {path.name}; supported: {supported}")
    if not path.parent.is_dir():
        raise DataError(f"--output: the folder {path.parent} does not exist")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise DataError(f"--output: {path} cannot be written")


def write_rows(parts: Sequence[Path], columns: Sequence[str], output: Path) -> None:
    """Write the rows of files of JSON lines to one file of the type that its name says.

    Args:
        parts: The files.
        columns: The columns of a table; a row that lacks one has an empty value.
        output: The file to write.

    Raises:
        StoreError: The file cannot be written.
    """
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with wrap_write_errors(output.name, output.parent):
            if data_suffix(output) == ".parquet":
                _write_parquet(parts, columns, partial)
            else:
                with _open_text(partial, output.suffix.lower() == COMPRESSED) as file:
                    _write_text(parts, columns, data_suffix(output), file)
            partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _open_text(path: Path, is_compressed: bool) -> Iterator[IO[str]]:
    with path.open("wb") as file:
        if is_compressed:  # without the time, so that equal rows give equal bytes
            with (
                gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
            ):
                yield text
        else:
            with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
                yield text


def _write_text(parts: Sequence[Path], columns: Sequence[str], suffix: str, file: IO[str]) -> None:
    if suffix in LINES:
        for part in parts:
            file.writelines(part.open(encoding="utf-8"))
        return
    table = TableWriter(file, SEPARATORS[suffix], columns)
    for row in _read_rows(parts):
        table.write(row)


class TableWriter:
    """Writes rows as separated fields, after a header.

    Args:
        file: The file.
        separator: The character between two fields.
        columns: The columns.
    """

    def __init__(self, file: IO[str], separator: str, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._plain, self._quoted = (
            csv.writer(file, delimiter=separator, lineterminator="\n", quoting=quoting)
            for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
        self._plain.writerow(columns)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row; a column that it lacks is empty."""
        cells = [_to_cell(row.get(name)) for name in self.columns]
        has_return = any("\r" in cell for cell in cells if isinstance(cell, str))
        (self._quoted if has_return else self._plain).writerow(cells)  # it would not be quoted, and end the row


def _to_cell(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict, bool)) else value


def _read_rows(parts: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for part in parts:
        with part.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _write_parquet(parts: Sequence[Path], columns: Sequence[str], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    types: dict[str, Any] = {}
    for part in parts:
        rows = list(_read_rows([part]))
        for name in columns:
            found = _infer_type([row.get(name) for row in rows])
            types[name] = _merge_types(types.get(name, found), found)
    schema = pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in types.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            rows = list(_read_rows([part]))
            arrays = [_to_array([row.get(field.name) for row in rows], field.type) for field in schema]
            writer.write_table(pa.table(arrays, schema=schema))


def _infer_type(values: Sequence[Any]) -> Any:
    """Return the type of a column; texts if its values have different ones."""
    import pyarrow as pa

    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.string()


def _merge_types(first: Any, second: Any) -> Any:
    import pyarrow as pa

    schemas = [pa.schema([("column", kind)]) for kind in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        return pa.string()


def _to_array(values: Sequence[Any], kind: Any) -> Any:
    """Return the values of a column; in one of texts, other values are JSON."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        values = [one if one is None or isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in values]
    return pa.array(values, kind)
