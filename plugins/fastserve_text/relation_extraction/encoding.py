"""Rows with entities and relations as tagged words, and the places of entities in windows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import IGNORE_INDEX, Arrays, Encoded, Row
from fastserve_text.relation_extraction.records import Entity
from fastserve_text.tagging.encoding import TaggedWindow, WordAlignment, WordEncoder
from fastserve_text.tagging.tag_schemes import OUTSIDE
from fastserve_text.tagging.words import Bounds, split_words
from fastserve_text.windows import Frame, WindowLayout

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NO_PLACE = -1
"""Pads the lists of places and of relations of a batch."""


@dataclass(frozen=True)
class EntityWords:
    """An entity: its words ``start`` to ``end`` (excluded), and its type."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class RelationAlignment(WordAlignment):
    """The state for decoding a row, with its labelled entities and its relations between their numbers."""

    entities: Sequence[EntityWords]
    relations: Sequence[tuple[int, int, str]]


def split_at_entities(text: str, entities: Sequence[Entity]) -> list[Bounds]:
    """Return the words of a text; one that only partly belongs to an entity is split."""
    borders = sorted({place for start, end, _ in entities for place in (start, end)})
    words: list[Bounds] = []
    for start, end in split_words(text):
        cuts = [start, *(place for place in borders if start < place < end), end]
        words += pairwise(cuts)
    return words


def find_words(bounds: Sequence[Bounds], entities: Sequence[Entity]) -> list[EntityWords]:
    """Return the words of entities that begin and end with a word."""
    numbers = {start: number for number, (start, _) in enumerate(bounds)}
    ends = {end: number + 1 for number, (_, end) in enumerate(bounds)}
    return [EntityWords(numbers[start], ends[end], kind) for start, end, kind in entities]


def tag_words(count: int, entities: Sequence[EntityWords]) -> list[str]:
    """Return the BIO tags of words with these entities."""
    tags = [OUTSIDE] * count
    for entity in entities:
        length = entity.end - entity.start
        tags[entity.start : entity.end] = [f"B-{entity.kind}", *[f"I-{entity.kind}"] * (length - 1)]
    return tags


class RelationEncoder:
    """Encodes rows whole; a target is the tag of each token, then the tokens and the number of each relation.

    Args:
        tokenizer: The tokenizer, which cuts nothing.
        tags: The tags in the order of the model's outputs.
        relations: The relations in their order; no loss counts others.
    """

    def __init__(self, tokenizer: Tokenizer, tags: Sequence[str], relations: Sequence[str]) -> None:
        self._encode_words = WordEncoder(tokenizer, {tag: number for number, tag in enumerate(tags)})
        self._numbers = {relation: number for number, relation in enumerate(relations)}

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows, in their order."""
        entities = [row.get("entities") or () for row in rows]
        bounds = [split_at_entities(row["text"], found) for row, found in zip(rows, entities, strict=True)]
        words = [find_words(*pair) for pair in zip(bounds, entities, strict=True)]
        encoded = self._encode_words([_tag_row(*one) for one in zip(rows, bounds, words, strict=True)])
        return [self._add_relations(*one) for one in zip(rows, encoded, words, strict=True)]

    def _add_relations(self, row: Row, encoded: Encoded, entities: Sequence[EntityWords]) -> Encoded:
        relations = [(head, tail, name) for head, tail, name in row.get("relations") or ()]
        alignment = RelationAlignment(**vars(encoded.decode_state), entities=entities, relations=relations)
        target = encoded.target
        if target is not None:
            places = entity_places(alignment, entities)
            for head, tail, name in relations:
                if name in self._numbers and places[head] is not None and places[tail] is not None:
                    target += [
                        places[head] + alignment.frame.prefix,
                        places[tail] + alignment.frame.prefix,
                        self._numbers[name],
                    ]
        return Encoded(encoded.inputs, target, alignment)


def _tag_row(row: Row, bounds: Sequence[Bounds], entities: Sequence[EntityWords]) -> Row:
    tagged = {"tokens": [row["text"][start:end] for start, end in bounds], "text": row["text"], "bounds": bounds}
    if "entities" in row:
        tagged["tags"] = None if row["entities"] is None else tag_words(len(bounds), entities)
    return tagged


def entity_places(alignment: WordAlignment, entities: Sequence[EntityWords]) -> list[Any]:
    """Return the first token of each entity in the body; ``None`` for one whose first word has no token."""
    tokens = dict(zip(alignment.word_numbers, alignment.first_tokens, strict=True))
    return [tokens.get(entity.start) for entity in entities]


def cut_window(layout: WindowLayout, encoded: Encoded, frame: Frame, start: int) -> Encoded:
    """Return a window of a row with a target: its tags, and the relations between entities that begin in it."""
    length = len(encoded)
    tags, relations = encoded.target[:length], encoded.target[length:]
    whole = Encoded({"input_ids": encoded.inputs["input_ids"], "target": tags})
    target = list(layout.cut(whole, frame, start)["target"])
    inside = range(frame.prefix, len(target) - frame.suffix)
    for number in range(0, len(relations), 3):
        head, tail = (int(place) - start for place in relations[number : number + 2])
        if head in inside and tail in inside:
            target += [head, tail, int(relations[number + 2])]
    alignment = encoded.decode_state
    return Encoded(layout.cut(encoded, frame, start), target, alignment and TaggedWindow(alignment, start))


def make_targets(batch: Sequence[Encoded], length: int, first_tags: frozenset[int]) -> Arrays:
    """Return the targets of a batch.

    Args:
        batch: The encoded rows or windows.
        length: The number of tokens of the padded inputs.
        first_tags: The tags that begin an entity.

    Returns:
        ``labels`` of shape (rows, length), the tags; ``entity_places`` of shape (rows, entities), their first tokens;
        ``relations`` of shape (rows, relations, 3): the numbers of subject, object and relation.
    """
    import numpy as np

    labels = np.full((len(batch), length), IGNORE_INDEX, dtype=np.int64)
    places: list[list[int]] = []
    relations: list[list[list[int]]] = []
    for row, encoded in enumerate(batch):
        target = [int(number) for number in encoded.target]
        tags, links = target[: len(encoded)], target[len(encoded) :]
        labels[row, : len(tags)] = tags
        places.append([place for place, tag in enumerate(tags) if tag in first_tags])
        numbers = {place: number for number, place in enumerate(places[-1])}
        relations.append(
            [[numbers[links[at]], numbers[links[at + 1]], links[at + 2]] for at in range(0, len(links), 3)]
        )
    entity_array = np.full((len(batch), max(map(len, places))), NO_PLACE, dtype=np.int64)
    relation_array = np.full((len(batch), max(map(len, relations)), 3), NO_PLACE, dtype=np.int64)
    for row, (found, links_of_row) in enumerate(zip(places, relations, strict=True)):
        entity_array[row, : len(found)] = found
        if links_of_row:
            relation_array[row, : len(links_of_row)] = links_of_row
    return {"labels": labels, "entity_places": entity_array, "relations": relation_array}
