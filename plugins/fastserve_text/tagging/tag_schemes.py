"""Schemes of tags: which tag may follow which, and which entities a sequence of tags marks.

IOB1, IO with prefixes and BIO are read as BIO, which has ``B-x`` at the beginning of every entity; BIOES and BILOU
also mark the last word (``E``, ``L``) and entities of one word (``S``, ``U``). Tags without prefixes beside ``O`` mark
runs of equal tags (IO). Other tags, such as parts of speech, mark no entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]

OUTSIDE = "O"
"""The tag of a word that belongs to no entity."""
PREFIXES = {"B": "B", "I": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
"""The meaning of a prefix; BILOU has other letters for the last word and for a single one."""
IMPOSSIBLE = -1e9


class EntitySpan(NamedTuple):
    """An entity: its type and its words ``start`` to ``end`` (excluded)."""

    kind: str
    start: int
    end: int


def parse_tag(tag: str) -> tuple[str, str]:
    """Return the meaning of a tag's prefix (``B``, ``I``, ``E``, ``S``) and its type; empty for other tags."""
    prefix, separator, kind = tag.partition("-")
    return (PREFIXES[prefix], kind) if separator and kind and prefix in PREFIXES else ("", "")


def begin_entities(tags: Sequence[str]) -> list[str]:
    """Return tags in which an entity that begins with ``I-x`` begins with ``B-x``."""
    begun, inside = [], ""
    for tag in tags:
        part, kind = parse_tag(tag)
        begun.append(f"B-{kind}" if part == "I" and inside != kind else tag)
        inside = kind if part in ("B", "I") else ""
    return begun


def find_entities(tags: Sequence[str], labels: Sequence[str]) -> list[EntitySpan]:
    """Return the entities that tags mark.

    Args:
        tags: One tag a word.
        labels: All tags of the model, which show whether tags without a prefix mark entities.
    """
    is_plain = OUTSIDE in labels and not any(parse_tag(label)[1] for label in labels)
    found: list[EntitySpan] = []
    inside = ""
    for number, tag in enumerate(tags):
        part, kind = parse_tag(tag)
        if is_plain and tag != OUTSIDE:
            part, kind = "I", tag
        if kind and (part in ("B", "S") or inside != kind):
            found.append(EntitySpan(kind, number, number + 1))
        elif kind:
            found[-1] = found[-1]._replace(end=number + 1)
        inside = kind if part in ("B", "I") else ""
    return found


def mark_entities(tags: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the BIO tags that mark the same entities as tags of another scheme."""
    marked = [OUTSIDE] * len(tags)
    for kind, start, end in find_entities(tags, labels):
        marked[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return marked


def forbidden_transitions(labels: Sequence[str]) -> tuple[Matrix, Matrix]:
    """Return which tags may not follow which, and which may not come first.

    A rule holds for a type only if the model has the tags that satisfy it: ``I-x`` may begin an entity if there is no
    ``B-x``.

    Returns:
        Booleans of shape (labels, labels), from row to column, and of shape (labels,).
    """
    import numpy as np

    parsed = [parse_tag(label) for label in labels]
    known = set(parsed)
    follows = np.zeros((len(labels), len(labels)), dtype=bool)
    first = np.zeros(len(labels), dtype=bool)
    for column, (part, kind) in enumerate(parsed):
        needs_begin = part in ("I", "E") and ("B", kind) in known
        first[column] = needs_begin
        for row, (before, before_kind) in enumerate(parsed):
            is_open = before in ("B", "I") and before_kind == kind
            must_close = before in ("B", "I") and ("E", before_kind) in known
            continues = is_open and part in ("I", "E")
            follows[row, column] = (needs_begin and not is_open) or (must_close and not continues)
    return follows, first


def best_tags(log_probabilities: Matrix, follows: Matrix, first: Matrix) -> list[int]:
    """Return the likeliest sequence of tags without forbidden transitions (Viterbi 1967).

    Args:
        log_probabilities: Shape (words, labels).
        follows: Forbidden transitions.
        first: Tags that may not come first.
    """
    import numpy as np

    greedy = log_probabilities.argmax(axis=-1)
    if not (first[greedy[:1]].any() or follows[greedy[:-1], greedy[1:]].any()):
        return [int(tag) for tag in greedy]
    penalties = np.where(follows, IMPOSSIBLE, 0.0).T
    scores = log_probabilities[0] + np.where(first, IMPOSSIBLE, 0.0)
    came_from = np.empty(log_probabilities.shape, dtype=np.int64)
    for word in range(1, len(log_probabilities)):
        candidates = penalties + scores
        came_from[word] = candidates.argmax(axis=1)
        scores = candidates[np.arange(len(scores)), came_from[word]] + log_probabilities[word]
    path = [int(scores.argmax())]
    for word in range(len(log_probabilities) - 1, 0, -1):
        path.append(int(came_from[word, path[-1]]))
    return path[::-1]
