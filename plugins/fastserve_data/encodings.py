"""Encodings of text files: byte order marks, and advice for files that are not UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import BinaryIO

from fastserve_core.errors import DataError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with that of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CANDIDATES = ("gb18030", "big5", "cp1252", "cp932", "euc_kr", "cp1251", "cp1250")
"""Encodings that are advised, in the order in which they are preferred if a text looks sound in several."""
SIMILAR_CHAOS = 0.12
"""Differences of the measure of ``charset_normalizer`` within which, for a few words, it does not distinguish them."""
MULTIPLE_OF_BYTES = ("utf-16", "utf-32")
SAMPLE_BYTES = 50_000
MAX_CANDIDATES = 3
SHOWN_CHARACTERS = 30


def choose_encoding(start: bytes, given: str, path: str, report: Callable[[str], None]) -> str:
    """Return the encoding of a file.

    Args:
        start: The first bytes of the file.
        given: The option ``data.encoding``.
        path: The file, for messages.
        report: Called with a warning if the option contradicts the file.

    Raises:
        DataError: The file is not text, or UTF-16 without a mark.
    """
    marked = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    if given == "auto":
        if marked is None and b"\0" in start:
            raise DataError(f"{path}: {_describe_zeros(start)}")
        return marked or "utf-8"
    if given != "utf-8" and (marked == "utf-8" or _is_multibyte_utf8(start)):
        report(f"{path}: the file is UTF-8, and data.encoding={given} reads it otherwise")
    return given


def describe_undecodable(file: BinaryIO, encoding: str, path: str) -> str:
    """Return a message about the first line that is not in an encoding, with the encodings that it may be in.

    Args:
        file: The file, read from its start.
        encoding: The encoding.
        path: The file, for the message.
    """
    if encoding.startswith(MULTIPLE_OF_BYTES):
        return f"{path}: the file is not {encoding}, or ends within a character"
    is_multibyte, number = False, 0
    for block in file:
        for line in block.splitlines(keepends=True):
            number += 1
            try:
                is_multibyte |= len(line.decode(encoding)) < len(line)
            except UnicodeError as error:
                start = getattr(error, "start", 0)
                fault = f"{path}:{number}: byte {start + 1} of the line is not {_title(encoding)}"
                if is_multibyte and encoding == "utf-8":
                    return f"{fault}, but the lines before it are: it is damaged; correct or remove the line"
                return f"{fault}; {_advise(line, line + file.read(SAMPLE_BYTES), encoding)}"
    return f"{path}: the file is not {_title(encoding)}"


def guess_encodings(sample: bytes) -> list[str]:
    """Return the encodings in which a sample looks like text, the most probable first."""
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return []
    chaos: dict[str, float] = {}
    for match in from_bytes(sample, cp_isolation=list(CANDIDATES)):
        for name in match.could_be_from_charset:
            if name in CANDIDATES:
                chaos[name] = min(chaos.get(name, 1), match.chaos)
    least = min(chaos.values(), default=0)
    return sorted(chaos, key=lambda name: (chaos[name] > least + SIMILAR_CHAOS, CANDIDATES.index(name)))


def _advise(line: bytes, sample: bytes, encoding: str) -> str:
    if encoding != "utf-8" and _decodes(sample, "utf-8"):
        return "it is UTF-8: leave data.encoding out"
    guessed = guess_encodings(sample) or guess_encodings(line) or CANDIDATES
    names = [name for name in guessed if name != encoding and _decodes(line, name)]
    if not names:
        return "if you know the encoding, name it: data.encoding=NAME"
    readings: dict[str, str] = {}
    for name in names:
        readings.setdefault(_show(line.decode(name)), name)  # others that read the line alike are less probable
    advice = [f"data.encoding={name} reads the line as '{reading}'" for reading, name in readings.items()]
    return "; ".join(advice[:MAX_CANDIDATES])


def _describe_zeros(start: bytes) -> str:
    for name in ("utf-16-le", "utf-16-be"):
        text = start[: len(start) // 2 * 2].decode(name, "replace")
        if "\n" in text and "\0" not in text and "\ufffd" not in text:
            return f"the file looks like UTF-16 without a byte order mark: data.encoding={name} reads it"
    return "the file has zero bytes, so that it is not text"


def _is_multibyte_utf8(start: bytes) -> bool:
    whole = start[: len(start) - 3] if len(start) > 3 else start  # the last character may be cut
    return not start.isascii() and (_decodes(start, "utf-8") or _decodes(whole, "utf-8"))


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True


def _title(encoding: str) -> str:
    return "UTF-8" if encoding == "utf-8" else encoding


def _show(text: str) -> str:
    text = text.strip()
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
