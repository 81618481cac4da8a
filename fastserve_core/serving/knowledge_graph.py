"""A graph of facts: entities merged by their names and by a table of aliases, relations counted."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastserve_core.errors import DataError
from fastserve_core.tasks.declarations import Triple

CONTROL, FORMAT = "Cc", "Cf"
"""Unicode's categories of characters without a shape of their own; those of FORMAT join letters and emoji."""
ZERO_WIDTH = "\u200b\u2060\ufeff"


def normalize_name(name: str) -> str:
    """Return the key of an entity: equal for names that differ in case, width, blanks or invisible characters."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return _remove(folded, (CONTROL, FORMAT))


def clean_name(name: str) -> str:
    """Return a name for people and files to read: one line, without control characters."""
    return _remove(name, (CONTROL,)).strip(ZERO_WIDTH)


def _remove(text: str, categories: tuple[str, ...]) -> str:
    """Return a text with single blanks, without characters of these categories."""
    kept = (one for one in text if one.isspace() or unicodedata.category(one) not in categories)
    return " ".join("".join(kept).split())


@dataclass
class Entity:
    """An entity of a graph.

    Attributes:
        key: Its normalized name.
        names: How often it has which name.
        types: How often it has which type.
        chosen_name: Its name by the table of aliases.
    """

    key: str
    names: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    chosen_name: str = ""

    @property
    def name(self) -> str:
        """The name by the table of aliases, else the commonest one; of equally common ones the first by alphabet."""
        return self.chosen_name or _commonest(self.names)

    @property
    def type(self) -> str:
        """The commonest type; empty if the model names none."""
        return _commonest(self.types)

    @property
    def count(self) -> int:
        """The number of facts with this entity."""
        return self.names.total()


def _commonest(counts: Counter[str]) -> str:
    return min(counts, key=lambda name: (-counts[name], name), default="")


@dataclass
class Relation:
    """A relation of a graph, with the number of times that it was found and the highest of its scores."""

    subject: Entity
    predicate: str
    object: Entity
    count: int = 0
    score: float = 0.0


class Aliases:
    """Names that mean the same entity.

    Args:
        pairs: Aliases, each with the name that it stands for; that may be an alias as well.

    Raises:
        DataError: An alias stands for two names, or for itself by way of others.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._names: dict[str, str] = {}
        for alias, name in pairs:
            key = normalize_name(alias)
            known = self._names.setdefault(key, clean_name(name))
            if normalize_name(known) != normalize_name(name):
                raise DataError(f"the alias '{alias}' stands for both '{known}' and '{name}'")
        self._targets = {normalize_name(name): name for name in reversed(self._names.values())}
        for key in self._names:
            self._follow(key)

    def resolve(self, name: str) -> tuple[str, str]:
        """Return the key of a name's entity, and its name by the table; empty if the table does not have it."""
        key = self._follow(normalize_name(name))
        return key, self._targets.get(key, "")

    def _follow(self, key: str) -> str:
        seen = [key]
        while (name := self._names.get(seen[-1])) is not None and normalize_name(name) != seen[-1]:
            if normalize_name(name) in seen:
                raise DataError(f"the alias '{name}' stands for itself: {' → '.join([*seen, normalize_name(name)])}")
            seen.append(normalize_name(name))
        return seen[-1]


class KnowledgeGraph:
    """The facts of many texts.

    Args:
        aliases: Names that mean the same entity.

    Attributes:
        dropped: How many facts were left out, by reason.
    """

    def __init__(self, aliases: Aliases | None = None) -> None:
        self._aliases = aliases or Aliases()
        self._entities: dict[str, Entity] = {}
        self._relations: dict[tuple[str, str, str], Relation] = {}
        self.dropped: Counter[str] = Counter()

    def add(self, facts: Iterable[Triple], min_score: float = 0.0) -> None:
        """Add the facts of a text.

        Args:
            facts: The facts.
            min_score: The least score of a fact; others are left out and counted.
        """
        for fact in facts:
            ends = self._aliases.resolve(fact.subject)[0], self._aliases.resolve(fact.object)[0]
            if fact.score < min_score:
                self.dropped[f"a score below {min_score:g}"] += 1
            elif not all(ends):
                self.dropped["a name without visible characters"] += 1
            elif ends[0] == ends[1]:
                self.dropped["one entity as subject and object"] += 1
            else:
                subject = self._add_entity(fact.subject, fact.subject_type)
                object_ = self._add_entity(fact.object, fact.object_type)
                self._add_relation(subject, clean_name(fact.predicate), object_, fact.score)

    def _add_entity(self, name: str, kind: str) -> Entity:
        key, chosen = self._aliases.resolve(name)
        entity = self._entities.setdefault(key, Entity(key, chosen_name=chosen))
        entity.names[clean_name(name)] += 1
        if kind:
            entity.types[clean_name(kind)] += 1
        return entity

    def _add_relation(self, subject: Entity, predicate: str, object_: Entity, score: float) -> None:
        key = (subject.key, predicate, object_.key)
        relation = self._relations.setdefault(key, Relation(subject, predicate, object_))
        relation.count += 1
        relation.score = max(relation.score, score)

    @property
    def entities(self) -> list[Entity]:
        """All entities in the order of their keys."""
        return [self._entities[key] for key in sorted(self._entities)]

    @property
    def relations(self) -> Iterator[Relation]:
        """All relations in the order of their subjects, predicates and objects."""
        return (self._relations[key] for key in sorted(self._relations))

    def __len__(self) -> int:
        return len(self._relations)

    def to_networkx(self) -> Any:
        """Return the graph as a ``networkx.MultiDiGraph``, whose nodes are the keys of the entities."""
        import networkx

        graph = networkx.MultiDiGraph()
        for entity in self.entities:
            graph.add_node(entity.key, **describe_entity(entity))
        for relation in self.relations:
            graph.add_edge(
                relation.subject.key,
                relation.object.key,
                key=relation.predicate,
                relation=relation.predicate,
                score=relation.score,
                count=relation.count,
            )
        return graph


def describe_entity(entity: Entity) -> Mapping[str, Any]:
    """Return the attributes of an entity as texts and numbers."""
    return {"name": entity.name, "type": entity.type, "count": entity.count}
