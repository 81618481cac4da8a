"""Reads Rasa's training data for NLU: intents with examples, in which slots are marked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.data import RawRecord
from fastserve_core.errors import DataError
from fastserve_data.text_files import open_text

if TYPE_CHECKING:
    from yaml import MappingNode, Node  # type: ignore[import-untyped]

    from fastserve_core.config import DataOptions

MARK = re.compile(r"\[(?P<text>[^\[\]]+)\](?:\((?P<name>[^()]+)\)|(?P<object>\{[^{}]*\}))")
"""``[Boston](city)``, ``[Boston](city:bos)`` or ``[Boston]{"entity": "city"}``."""
BROKEN_MARK = re.compile(r"\][({]|\[[^\[\]]*$")


def has_examples(path: Path) -> bool:
    """Return whether a YAML file may hold training data for NLU; the others of a project's folder are not read."""
    with path.open("rb") as file:
        return any(line.startswith(b"nlu:") for line in file)


def read_rasa(path: Path, options: DataOptions, report: Callable[[str], None], suffix: str) -> Iterator[RawRecord]:
    """Read the examples of a file, in their order; slots are spans of the text without the marks.

    Args:
        path: The file.
        options: The option ``encoding``.
        report: Called with the number of entries that are not intents, such as synonyms.
        suffix: Unused; all readers have it.

    Raises:
        DataError: The file is not YAML, or has no list ``nlu``.
    """
    others: Counter[str] = Counter()
    for entry in _read_entries(path, options, report):
        fields = _read_fields(entry)
        where = f"{path}:{entry.start_mark.line + 1}"
        if "intent" not in fields:
            others.update(list(fields)[:1])
            continue
        if "examples" not in fields:
            yield RawRecord(where, None, "the intent has no 'examples'")
            continue
        for line, text in _read_examples(fields["examples"]):
            yield _read_example(f"{path}:{line}", text, fields["intent"].value)
    for kind, count in others.items():
        report(f"{path}: {count} of '{kind}' not read")


def _read_entries(path: Path, options: DataOptions, report: Callable[[str], None]) -> list[MappingNode]:
    import yaml

    with open_text(path, options.encoding, None, report) as file:
        try:
            root = yaml.compose(file, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise DataError(f"{path}{line}: not valid YAML: {error.problem}") from error
        except (yaml.YAMLError, RecursionError) as error:
            raise DataError(f"{path}: not valid YAML: {str(error).partition(chr(10))[0]}") from error
    entries = _read_fields(root).get("nlu") if isinstance(root, yaml.MappingNode) else None
    if not isinstance(entries, yaml.SequenceNode):
        raise DataError(f"{path}: no list 'nlu' of intents with examples, as Rasa's training data has")
    for entry in entries.value:
        if not isinstance(entry, yaml.MappingNode):
            raise DataError(f"{path}:{entry.start_mark.line + 1}: an entry of 'nlu' is not a mapping")
    return list(entries.value)


def _read_fields(node: MappingNode) -> dict[str, Node]:
    return {str(key.value): value for key, value in node.value}


def _read_examples(node: Node) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each example: of a block of lines with dashes, or of a list."""
    if isinstance(node.value, str):
        for number, line in enumerate(node.value.split("\n"), _first_line(node)):
            if line.strip():
                yield number, line.strip().removeprefix("-").strip()
        return
    for part in node.value:
        text = _read_fields(part).get("text", part) if part.tag.endswith(":map") else part
        yield _first_line(text), str(text.value).strip().removeprefix("-").strip()


def _first_line(node: Node) -> int:
    """Return the line of a text; that of a block is behind its mark."""
    return int(node.start_mark.line) + (2 if node.style in ("|", ">") else 1)


def _read_example(where: str, marked: str, intent: str) -> RawRecord:
    text, end = "", 0
    slots: list[dict[str, Any]] = []
    for mark in MARK.finditer(marked):
        text += marked[end : mark.start()]
        try:
            name = _read_name(mark)
        except ValueError as error:
            return RawRecord(where, None, f"the mark {mark[0]} {error}")
        slots.append({"slot": name, "start": len(text), "end": len(text) + len(mark["text"]), "text": mark["text"]})
        text, end = text + mark["text"], mark.end()
    text += marked[end:]
    if broken := BROKEN_MARK.search(text):
        return RawRecord(where, None, f"a mark of a slot is broken at '{text[broken.start() : broken.start() + 20]}'")
    return RawRecord(where, {"text": text, "intent": intent, "slots": slots})


def _read_name(mark: re.Match[str]) -> str:
    """Return the name of a slot; a role is a part of it, because it tells two slots of one entity apart."""
    if mark["name"]:
        return mark["name"].partition(":")[0].strip()
    try:
        entry = json.loads(mark["object"])
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(entry.get("entity"), str):
        raise ValueError("has no 'entity'")
    return ".".join(str(entry[key]) for key in ("entity", "role", "group") if entry.get(key))
