"""Values as files and callers give them: missing ones, numbers, bytes, lists that are written as text."""

from __future__ import annotations

import io
import json
import re
import tokenize
from ast import literal_eval
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
"""A whole number as a column of floats is written; ``1.10`` is none, because it may be a version or a section."""
MAX_EXACT_INTEGER = 2**53
"""Above it, not every whole number is a float."""
BRACKETS = {"[": "]", "(": ")"}
QUOTED_LISTS = ("['", '["', "('", '("')
"""How a list of words begins as text; words in brackets without quotes may be a remark in the text itself."""
FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
KINDS = {"list": "a list", "dict": "a mapping"}
SHOWN_CHARACTERS = 40


def plain_value(value: Any) -> Any:
    """Return a value as JSON has it, so that equal data gives equal rows whichever library read it.

    NaN, NaT and NA become ``None``, bytes text, numbers and arrays of libraries those of Python. A value that has
    no such form is returned as it is.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (bytes, bytearray)):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if isinstance(value, Mapping):
        return {name: plain_value(element) for name, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(element) for element in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if is_missing(value):
        return None
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, and what has their interface
        return plain_value(value.tolist())
    return value


def is_missing(value: Any) -> bool:
    """Return whether a value stands for no value: ``None``, or one that does not equal itself."""
    if value is None:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124 - NaN in every library's type
    except ArithmeticError:  # Decimal's signalling NaN
        return True
    except (TypeError, ValueError):  # NA has no truth value; neither has an array, which is a value
        return type(value).__name__ == "NAType"


def read_label(value: Any) -> str:
    """Return the name of the label that a cell holds; numbers that are equal have one name.

    Args:
        value: Text, a number, or a truth value.

    Raises:
        ValueError: The value is missing or no label; the message completes "the label …".
    """
    value = plain_value(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("is empty")
    if isinstance(value, str):
        return _read_label_text(value.strip())
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_EXACT_INTEGER:
        return str(int(value))
    if isinstance(value, (bool, int, float)):
        return str(value)
    kind = KINDS.get(type(value).__name__, type(value).__name__)
    raise ValueError(f"is {kind}, not one label: {_shorten(value)}")


def _read_label_text(text: str) -> str:
    if number := WHOLE_NUMBER.fullmatch(text):
        return "0" if number[1] == "-0" else number[1]
    if text.startswith("[") and text.endswith("]") and _parse_list(text) is not None:
        raise ValueError(f"is a list, not one label: {_shorten(text)}")
    return text


def read_labels(value: Any, separator: str) -> list[str]:
    """Return the names of the labels that a cell holds, sorted, each once; a cell may have none.

    Args:
        value: A list, a list that is written as text, names with a separator between, one label, or a mapping of
            names to 0 or 1.
        separator: The separator.

    Raises:
        ValueError: The value holds no labels; the message completes "the labels …".
    """
    value = plain_value(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, Mapping):
        return sorted(str(name) for name, flag in value.items() if read_flag(str(name), flag))
    if isinstance(value, str):
        elements = _parse_list(value.strip()) if value.strip()[:1] == "[" else None
        value = [part for part in value.split(separator) if part.strip()] if elements is None else elements
    labels = set()
    for number, element in enumerate(value if isinstance(value, list) else [value], 1):
        try:
            labels.add(read_label(element))
        except ValueError as error:
            raise ValueError(f"have an element at place {number} that {error}") from error
    return sorted(labels)


def read_flag(name: str, value: Any) -> bool:
    """Return whether a cell of 0 or 1, or of a truth value, is set; raises ``ValueError`` for anything else."""
    flag = FLAGS.get(str(value).strip().lower()) if isinstance(value, (str, bool, int, float)) else None
    if flag is None:
        found = "an empty cell" if value is None or value == "" else f"the value {_shorten(value)}"
        raise ValueError(f"have {found} for '{name}': 0 or 1 is needed")
    return flag


def read_words(value: Any) -> list[str]:
    """Return the words of a cell: a list, a list that is written as text, or words with blanks between them.

    Args:
        value: The list or the text; in a text, a list is JSON, or as Python or numpy print it.

    Raises:
        ValueError: The value is missing, no list of words, or a list that cannot be read.
    """
    value = plain_value(value)
    if isinstance(value, str):
        value = _read_list_text(value.strip())
    if not isinstance(value, list) or not value:
        raise ValueError("is empty or no list of words")
    words = [word.strip() if isinstance(word, str) else word for word in value]
    for number, word in enumerate(words, 1):
        if word is None or word == "":
            raise ValueError(f"has an empty one at place {number}")
        if not isinstance(word, (str, bool, int, float)):
            raise ValueError(f"has a {type(word).__name__} at place {number}, not a word")
    return [str(word) for word in words]


def _read_list_text(text: str) -> list[Any]:
    words = text.split()
    is_quoted = text[:2] in QUOTED_LISTS
    if not is_quoted and text[:1] != "[":
        return words
    elements = _parse_list(text)
    if elements is not None:
        return elements
    if is_quoted or (len(words[0]) > 1 and "]" not in words[0] and words[-1].endswith("]") and "[" not in words[-1]):
        raise ValueError(f"looks like a list and cannot be read as one: {_shorten(text)}")
    return words


def _parse_list(text: str) -> list[Any] | None:
    """Return the elements of a printed list; ``None`` if the text is none.

    Python's own parser would join the neighbours of ``['a' 'b']``, as numpy prints an array, to one string.
    """
    try:
        elements = json.loads(text)
    except (ValueError, RecursionError):
        elements = _parse_printed_list(text)
    return elements if isinstance(elements, list) else None


def _parse_printed_list(text: str) -> list[Any] | None:
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    try:
        tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in layout]
        values = [token for token in tokens[1:-1] if token.string != ","]
        if BRACKETS.get(tokens[0].string) != tokens[-1].string:
            return None
        return [_parse_element(token) for token in values]
    except (tokenize.TokenError, ValueError, SyntaxError, IndexError):
        return None


def _parse_element(token: tokenize.TokenInfo) -> Any:
    if token.string in ("nan", "None", "null"):
        return None
    if token.type not in (tokenize.STRING, tokenize.NUMBER):
        raise ValueError(token.string)
    value = literal_eval(token.string)
    return plain_value(value)


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
