"""The knowledge graph of files: the texts are read part by part, and their facts are collected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_core.config.nodes import DataOptions
from fastserve_core.data.inputs import iterate_inputs
from fastserve_core.data.source import file_source
from fastserve_core.entry_points import all_entry_points, load_entry_point
from fastserve_core.errors import DataError, OptionError, UnknownNameError
from fastserve_core.events import Event, Notice, Progress, WarningRaised
from fastserve_core.serving.knowledge_graph import Aliases, KnowledgeGraph

if TYPE_CHECKING:
    from fastserve_core.inference.predictor import Predictor

GROUP = "fastserve.graphs"
"""The group of entry points of graph writers, by suffix; each is a ``GraphWriter``."""
CHUNK_ROWS = 1024
BATCH_SIZE = 32
MAX_MESSAGES = 5
"""The number of unusable rows that are reported one by one."""
ALIAS, NAME = "alias", "name"
"""The columns of a table of aliases."""

GraphWriter = Callable[[KnowledgeGraph, Path, Callable[[Event], None]], None]
"""Writes a graph to a file, and reports what the file lacks."""


@dataclass
class GraphPrediction:
    """A graph and the counts of its texts.

    Attributes:
        graph: The graph.
        rows: The number of rows.
        truncated: The number of texts that were longer than the model reads.
        bad_rows: The number of rows that cannot be used.
        messages: The reasons for the first ones.
    """

    graph: KnowledgeGraph
    rows: int = 0
    truncated: int = 0
    bad_rows: int = 0
    messages: list[str] = field(default_factory=list)


def find_writer(output: Path) -> GraphWriter:
    """Return the writer for a file of that name.

    Raises:
        DataError: Its type is not supported, or its folder does not exist.
        MissingPackageError: A package that the writer needs is not installed.
    """
    suffix = output.suffix.lower().removeprefix(".")
    try:
        writer: GraphWriter = load_entry_point(GROUP, suffix)
    except UnknownNameError as error:
        known = ", ".join(sorted(f".{entry.name}" for entry in all_entry_points().select(group=GROUP)))
        raise DataError(f"--output: unsupported file type {output.name}; supported: {known}") from error
    if not output.parent.is_dir():
        raise DataError(f"--output: the folder {output.parent} does not exist")
    return writer


def predict_graph(
    predictor: Predictor,
    given: Any,
    options: DataOptions,
    aliases: Aliases,
    min_score: float,
    emit: Callable[[Event], None],
) -> GraphPrediction:
    """Make the graph of the facts in files.

    Args:
        predictor: A model of a task whose answers have facts.
        given: A path, a pattern, a folder, or a list of them.
        options: How the files are read.
        aliases: Names that mean the same entity.
        min_score: The least score of a fact.
        emit: Receives progress, guesses and the reasons for rows that cannot be used.

    Raises:
        OptionError: The task's answers have no facts.
        DataError: The files cannot be read.
    """
    if not predictor.task.has_triples:
        name = predictor.task.name
        raise OptionError(f"the model's task is {name}, whose answers have no facts: choose a model for relations")
    source = file_source()
    source.check_files(given, "FILES")
    total = sum(1 for _ in source.records(given, "FILES", options, lambda _: None))
    inputs = iterate_inputs(given, "FILES", predictor.task, options, lambda text: emit(Notice(text)))
    result = GraphPrediction(KnowledgeGraph(aliases))
    while chunk := list(islice(inputs, CHUNK_ROWS)):
        rows = [one.row for one in chunk if one.row is not None]
        for answer in predictor.answer_encoded(predictor.encode(rows), BATCH_SIZE):
            result.graph.add(predictor.task.triples(answer), min_score)
            result.truncated += "truncated" in answer
        faults = [f"{one.where}: {one.fault}" for one in chunk if one.row is None]
        result.bad_rows += len(faults)
        result.messages = [*result.messages, *faults][:MAX_MESSAGES]
        result.rows += len(chunk)
        emit(Progress("reading", result.rows, max(total, result.rows)))
    if not result.rows:
        raise DataError("FILES: the files have no rows")
    _report(result, emit)
    return result


def _report(result: GraphPrediction, emit: Callable[[Event], None]) -> None:
    if result.bad_rows:
        more = ["…"] if result.bad_rows > len(result.messages) else []
        reasons = "".join(f"\n  {message}" for message in [*result.messages, *more])
        emit(WarningRaised(f"{result.bad_rows} of {result.rows} rows cannot be used:{reasons}"))
    if result.truncated:
        message = f"{result.truncated} of {result.rows} texts were truncated to the model's maximum length"
        emit(WarningRaised(message))
    for reason, count in sorted(result.graph.dropped.items()):
        emit(Notice(f"{count} facts left out: {reason}"))


def read_aliases(path: Path) -> Aliases:
    """Read a table of aliases.

    Args:
        path: A table with the columns ``alias`` and ``name``, or a JSON object with a name for each alias, or with the
            list of aliases for each name.

    Raises:
        DataError: The file cannot be read, or contradicts itself.
    """
    source = file_source()
    source.check_files(str(path), "--aliases")
    pairs = _read_json(path) if path.suffix.lower() == ".json" else _read_table(path)
    try:
        return Aliases(pairs)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read_table(path: Path) -> Iterator[tuple[str, str]]:
    for record in file_source().records(str(path), "--aliases", DataOptions(), lambda _: None):
        if record.values is None:
            raise DataError(f"{record.where}: {record.fault}")
        pair = tuple(record.values.get(column) for column in (ALIAS, NAME))
        if not all(isinstance(value, str) and value.strip() for value in pair):
            raise DataError(f"{record.where}: a row of --aliases needs a text in the columns '{ALIAS}' and '{NAME}'")
        yield str(pair[0]), str(pair[1])


def _read_json(path: Path) -> Iterator[tuple[str, str]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON in UTF-8: {error}") from error
    if not isinstance(table, Mapping):
        raise DataError(f"{path}: a JSON file of --aliases is one object, not a {type(table).__name__}")
    for key, value in table.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) and one.strip() for one in [key, *values]):
            raise DataError(f"{path}: '{key}' needs a text or a list of texts, not {value!r}")
        if isinstance(value, list):
            yield from ((one, key) for one in value)
        else:
            yield key, value
