"""Reads files as documents: a text or Markdown file is one, and so is each row of another file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.data import RawRecord, Report, expand_path
from fastserve_core.errors import DataError
from fastserve_data.paths import SAVED_SET, DataFile, data_suffix, find_files, is_supported
from fastserve_data.text_files import open_text

if TYPE_CHECKING:
    from fastserve_core.config import DataOptions

TEXT_DOCUMENTS = (".txt", ".md", ".markdown", ".rst")


def find_documents(given: Any, option: str) -> Iterator[DataFile]:
    """Yield the files that an option names, those of a pattern or a folder in the order of their names.

    Args:
        given: A path, a pattern, a folder with its subfolders, or a list of them.
        option: The option, for error messages.

    Raises:
        DataError: A file is missing, empty, unreadable or of an unsupported type.
    """
    for name in [given] if isinstance(given, str) else given:
        paths = expand_path(name)
        if not paths:
            raise DataError(f"{option}: no file matches {name}")
        for path in paths:
            yield from _expand_folder(path, option) if _is_plain_folder(path) else _expand_file(path, option)


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not (path / SAVED_SET).is_file()


def _expand_folder(folder: Path, option: str) -> Iterator[DataFile]:
    inside = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    visible = [folder / path for path in inside if not any(part.startswith(".") for part in path.parts)]
    files = [path for path in visible if data_suffix(path) in TEXT_DOCUMENTS or is_supported(path)]
    if not files:
        raise DataError(f"{option}: the folder {folder} has no documents: {', '.join(TEXT_DOCUMENTS)} or data files")
    for path in files:
        yield from _expand_file(path, option)


def _expand_file(path: Path, option: str) -> list[DataFile]:
    if data_suffix(path) in TEXT_DOCUMENTS and path.is_file():
        return [DataFile(path, data_suffix(path))]
    return find_files(str(path), option)


def read_document(path: Path, options: DataOptions, report: Report) -> Iterator[RawRecord]:
    """Yield the record of a text file, whose offsets count its characters, of which a line end is one.

    Args:
        path: The file.
        options: Options of the data, with the encoding.
        report: Called with a message for each guess.

    Raises:
        DataError: It is not text.
    """
    with open_text(path, options.encoding, None, report) as file:
        yield RawRecord(str(path), {"text": file.read().removeprefix("\ufeff")})
