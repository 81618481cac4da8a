"""Entities and relations of labelled rows: the forms that files have, and whether they fit their text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from fastserve_core.tasks import Row, read_label

TYPE_NAMES = ("type", "label", "entity_group", "relation", "predicate")
START_NAMES, END_NAMES = ("start", "start_offset"), ("end", "end_offset")
HEAD_NAMES, TAIL_NAMES = ("head", "from_id", "h", "subject"), ("tail", "to_id", "t", "object")
Entity = list[Any]
"""The first character, the one behind the last, and the type."""
Relation = list[Any]
"""The numbers of the subject and of the object in the list of entities, and the relation."""


def unify_record(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record with ``text``, whose entities are in characters.

    Read are words as ``tokens`` with entities in words (SpERT's files), and ``spo_list`` (DuIE's files), whose
    entities are where their text first occurs.
    """
    words = values.get("tokens")
    if isinstance(words, list) and values.get("text") is None:
        texts = list(map(str, words))
        unified = {**values, "text": " ".join(texts)}
        if isinstance(values.get("entities"), list):
            unified["entities"] = [_to_characters(entity, texts) for entity in values["entities"]]
        if isinstance(values.get("relations"), list):
            unified["relations"] = [
                _number_entities(relation, values.get("entities")) for relation in values["relations"]
            ]
        return unified
    facts = values.get("spo_list")
    if isinstance(facts, list) and isinstance(values.get("text"), str):
        if not all(isinstance(fact, Mapping) for fact in facts):
            return {**values, "relations": facts}  # refused by ``normalize_relations``
        return {**values, **_find_facts(values["text"], facts)}
    return values


def _to_characters(entity: Any, words: Sequence[str]) -> Any:
    """Return an entity in characters; the characters of words that the text does not have lie outside it."""
    start, end, kind = _read_entity(entity)
    if not _is_number(start) or not _is_number(end):
        return entity
    starts = [0, *accumulate(len(word) + 1 for word in words)]
    known = range(len(words))
    return [
        starts[start] if start in known else -1,
        starts[end] - 1 if end - 1 in known else starts[-1],
        kind,
        *([entity["id"]] if isinstance(entity, Mapping) and "id" in entity else []),
    ]


def _number_entities(relation: Any, entities: Any) -> Any:
    """Return a relation between entities that are given by their words as one between their numbers."""
    if not isinstance(relation, (list, tuple)) or len(relation) != 5:
        return relation
    spans = [list(_read_entity(entity)[:2]) for entity in (entities if isinstance(entities, list) else ())]
    ends = [list(relation[:2]), list(relation[2:4])]
    return [*(spans.index(span) if span in spans else None for span in ends), relation[4]]


def _find_facts(text: str, facts: Sequence[Any]) -> Row:
    """Return the entities and relations of facts that name their entities."""
    entities: list[Entity] = []
    relations: list[Relation] = []
    for fact in facts:
        numbers = []
        for role in ("subject", "object"):
            name, kind = (_unwrap(fact.get(key)) for key in (role, f"{role}_type"))
            start = text.find(name) if isinstance(name, str) and name else -1
            entity = [start, start + len(str(name)), kind]
            if entity not in entities:
                entities.append(entity)
            numbers.append(entities.index(entity))
        relations.append([*numbers, fact.get("predicate")])
    return {"entities": entities, "relations": relations}


def _unwrap(value: Any) -> Any:
    """Return the main value of an object of DuIE 2.0."""
    return value.get("@value") if isinstance(value, Mapping) else value


def _read_entity(entity: Any) -> tuple[Any, Any, Any]:
    """Return start, end and type of an entity; ``None`` for what it lacks."""
    if isinstance(entity, Mapping):
        start, end, kind = (_first(entity, names) for names in (START_NAMES, END_NAMES, TYPE_NAMES))
        return start, end, kind
    if isinstance(entity, (list, tuple)) and len(entity) in (3, 4):
        return entity[0], entity[1], entity[2]
    return None, None, None


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def normalize_relations(row: Row) -> str | None:
    """Bring ``entities`` and ``relations`` of a row into the form of ``Entity`` and ``Relation``, in the text's order.

    Returns:
        Why the row cannot be used, or ``None``.
    """
    lists = {name: _read_list(row.get(name)) for name in ("entities", "relations")}
    for name, elements in lists.items():
        if elements is None:
            return f"'{name}' is not a list"
    given, links = lists["entities"] or [], lists["relations"] or []
    entities: list[Entity] = []
    numbers: dict[Any, int] = {}
    for number, element in enumerate(given):
        entity = _check_entity(element, row["text"])
        if isinstance(entity, str):
            return f"entity {number + 1} of {len(given)} {entity}"
        if entity not in entities:
            entities.append(entity)
        if not isinstance(name := _entity_id(element, number), (int, str)):
            return f"entity {number + 1} of {len(given)} has an id that is no number and no text: {name!r}"
        numbers[name] = entities.index(entity)
    order = sorted(range(len(entities)), key=lambda number: entities[number])
    if fault := _find_overlap([entities[number] for number in order], row["text"]):
        return fault
    relations: list[Relation] = []
    for number, element in enumerate(links):
        relation = _check_relation(element, numbers)
        if isinstance(relation, str):
            return f"relation {number + 1} of {len(links)} {relation}"
        ordered = [order.index(relation[0]), order.index(relation[1]), relation[2]]
        if ordered not in relations:
            relations.append(ordered)
    row.update(entities=[entities[number] for number in order], relations=sorted(relations))
    return None


def _read_list(value: Any) -> list[Any] | None:
    """Return a list, or one that is written as JSON; a missing one is empty."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if value is None or isinstance(value, str):
        return []
    return value if isinstance(value, list) else None


def _entity_id(entity: Any, number: int) -> Any:
    """Return how relations name an entity: by its id if it has one, else by its number from 0."""
    if isinstance(entity, Mapping):
        return entity.get("id", number)
    return entity[3] if len(entity) == 4 else number


def _check_entity(element: Any, text: str) -> Entity | str:
    start, end, kind = _read_entity(element)
    if not _is_number(start) or not _is_number(end):
        return f"has no characters 'start' and 'end': {element!r}"
    if start < 0 or end > len(text):
        return f"lies outside the text, which has {len(text)} characters: [{start}, {end}]"
    part = text[start:end]
    if not part.strip():
        return f"is empty: [{start}, {end}]"
    try:
        name = read_label(kind)
    except ValueError as error:
        return f"has a type that {error}"
    return [start + len(part) - len(part.lstrip()), start + len(part.rstrip()), name]


def _check_relation(element: Any, numbers: Mapping[Any, int]) -> Relation | str:
    if isinstance(element, Mapping):
        ends, kind = [_first(element, names) for names in (HEAD_NAMES, TAIL_NAMES)], _first(element, TYPE_NAMES)
    elif isinstance(element, (list, tuple)) and len(element) == 3:
        ends, kind = list(element[:2]), element[2]
    else:
        return f"has no 'head', 'tail' and 'relation': {element!r}"
    for name, end in zip(("head", "tail"), ends, strict=True):
        if not isinstance(end, (int, str)) or isinstance(end, bool) or end not in numbers:
            return f"has a {name} that is none of the {len(numbers)} entities: {end!r}"
    head, tail = (numbers[end] for end in ends)
    if head == tail:
        return f"is between an entity and itself: {element!r}"
    try:
        return [head, tail, read_label(kind)]
    except ValueError as error:
        return f"has a name that {error}"


def _find_overlap(entities: Sequence[Entity], text: str) -> str | None:
    for first, second in pairwise(entities):
        if second[0] < first[1]:
            names = " and ".join(f"'{text[one[0] : one[1]]}' ({one[2]}) at {one[0]}" for one in (first, second))
            return f"the entities {names} overlap: one word has one entity"
    return None
