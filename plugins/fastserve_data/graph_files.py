"""Write knowledge graphs as CSV, JSON-LD and GraphML, atomically; equal graphs give equal bytes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import MissingPackageError, wrap_write_errors
from fastserve_core.events import Event
from fastserve_core.serving import KnowledgeGraph

CSV_COLUMNS = ("head", "relation", "tail", "score", "count", "head_type", "tail_type")
VOCABULARY, ENTITIES = "urn:fastserve:graph:", "urn:fastserve:entity:"
"""The beginnings of the IRIs of relations and types, and of those of entities."""
UNRESERVED = re.compile(r"[^\w.-]")
DIGITS = 6
"""The decimals of a score in files: more of them depend on the processor."""


def write_csv(graph: KnowledgeGraph, path: Path, emit: Callable[[Event], None]) -> None:
    """Write a row for each relation, with the columns ``CSV_COLUMNS``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in graph.relations:
        ends, score = (one.subject, one.object), round(one.score, DIGITS)
        writer.writerow([ends[0].name, one.predicate, ends[1].name, score, one.count, *(end.type for end in ends)])
    write_atomically(path, text.getvalue())


def write_jsonld(graph: KnowledgeGraph, path: Path, emit: Callable[[Event], None]) -> None:
    """Write JSON-LD 1.1: each entity with its relations as properties, then each relation with its score.

    The properties are for programs that read graphs. Scores and counts are those of statements about relations, as RDF
    describes them (``rdf:Statement``).
    """
    nodes: dict[str, dict[str, Any]] = {}
    for entity in graph.entities:
        others = sorted(name for name in entity.names if name != entity.name)
        node: dict[str, Any] = {"@id": _entity_iri(entity.key), "name": entity.name, "count": entity.count}
        if entity.type:
            node["@type"] = _escape(entity.type)
        if others:
            node["alternateName"] = others
        nodes[entity.key] = node
    statements = []
    for relation in graph.relations:
        subject, object_ = ({"@id": _entity_iri(end.key)} for end in (relation.subject, relation.object))
        predicate = _escape(relation.predicate)
        nodes[relation.subject.key].setdefault(predicate, []).append(object_)
        statements.append(
            {
                "@type": "rdf:Statement",
                "rdf:subject": subject,
                "rdf:predicate": {"@id": VOCABULARY + predicate},
                "rdf:object": object_,
                "score": round(relation.score, DIGITS),
                "count": relation.count,
            }
        )
    context = {
        "@version": 1.1,
        "@vocab": VOCABULARY,
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        **{name: f"http://schema.org/{name}" for name in ("name", "alternateName")},
        **{name: f"urn:fastserve:{name}" for name in ("score", "count")},
    }
    document = {"@context": context, "@graph": [*nodes.values(), *statements]}
    write_atomically(path, json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def _entity_iri(key: str) -> str:
    return ENTITIES + _escape(key)


def _escape(name: str) -> str:
    """Return a name as the end of an IRI, in which letters of all scripts may stand.

    A name that the context defines, such as ``name``, would be taken for that property.
    """
    escaped = UNRESERVED.sub(lambda match: quote(match[0]), name)
    return f"_{escaped}" if escaped in ("name", "alternateName", "score", "count", "rdf") else escaped


def write_graphml(graph: KnowledgeGraph, path: Path, emit: Callable[[Event], None]) -> None:
    """Write GraphML, which networkx, Gephi, yEd and Neo4j read.

    Raises:
        MissingPackageError: networkx is not installed.
    """
    check_packages(path, ("networkx",))
    import networkx

    found = graph.to_networkx()
    for _, _, attributes in found.edges(data=True):
        attributes["score"] = round(attributes["score"], DIGITS)
    write_atomically(path, "\n".join(networkx.generate_graphml(found, named_key_ids=True)) + "\n")


def check_packages(path: Path, names: tuple[str, ...]) -> None:
    """Raise ``MissingPackageError`` if a package is not installed that a file of this type needs."""
    if missing := missing_packages(names):
        raise MissingPackageError(f"{path.suffix} needs {missing[0]}: pip install 'fastserve-core[graph]'")


def write_atomically(path: Path, text: str) -> None:
    """Write a file in UTF-8 that is either complete or not there.

    Raises:
        StoreError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with wrap_write_errors(path.name, path.parent):
            partial.write_text(text, encoding="utf-8", newline="")
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
