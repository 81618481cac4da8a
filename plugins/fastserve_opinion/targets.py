"""Targets of opinions: names in a file that occur in a text, a column, or entities that a model finds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fastserve_core.data import InputRow
from fastserve_core.errors import DataError, PlanError
from fastserve_core.inference import Predictor

SEPARATOR = re.compile(r"\s*[,\t，、]\s*")


class TargetFinder(Protocol):
    """Finds the targets of posts."""

    def find(self, posts: Sequence[InputRow]) -> list[list[str]]:
        """Return the targets of each post, each once."""


@dataclass(frozen=True)
class NamedTargets:
    """Targets by their names, which are found in texts as whole words, whatever the case.

    Attributes:
        names: The targets by each of their names in lower case.
    """

    names: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> NamedTargets:
        """Read a file with a target a line: its name, then other names, separated by commas or tabs.

        Raises:
            DataError: It cannot be read, is empty, or gives a name to two targets.
        """
        names: dict[str, str] = {}
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeError) as error:
            raise DataError(f"--targets: {path} cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            aliases = [name for name in SEPARATOR.split(line.strip()) if name]
            for alias in aliases if not line.startswith("#") else []:
                other = names.setdefault(alias.casefold(), aliases[0])
                if other != aliases[0]:
                    raise DataError(f"--targets: {path}:{number}: '{alias}' is a name of '{other}' already")
        if not names:
            raise DataError(f"--targets: {path} has no targets")
        return cls(names)

    def find(self, posts: Sequence[InputRow]) -> list[list[str]]:
        """Return the targets whose names occur in each post; the longest name counts."""
        pattern = re.compile("|".join(map(_bound, sorted(self.names, key=len, reverse=True))))
        return [
            list(dict.fromkeys(self.names[found] for found in pattern.findall(post.row["text"].casefold())))
            if post.row is not None
            else []
            for post in posts
        ]


def _bound(name: str) -> str:
    """Return the pattern of a name; letters of scripts with blanks between words do not touch others."""
    first, last = (r"(?<![^\W㐀-鿿぀-ヿ])", r"(?![^\W㐀-鿿぀-ヿ])")
    is_bound = [character.isalnum() and not "぀" <= character <= "鿿" for character in (name[0], name[-1])]
    return (first if is_bound[0] else "") + re.escape(name) + (last if is_bound[1] else "")


@dataclass(frozen=True)
class ColumnTargets:
    """Targets that the posts' column has.

    Attributes:
        column: The column.
    """

    column: str

    def find(self, posts: Sequence[InputRow]) -> list[list[str]]:
        """Return the target of each post; none for an empty one."""
        values = [str(post.values.get(self.column) or "").strip() for post in posts]
        return [[value] if value else [] for value in values]


class EntityTargets:
    """Entities that a model finds in the posts.

    Args:
        predictor: The model.

    Raises:
        PlanError: Its answers have no entities.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        if "spans" not in predictor.task.answer_schema().get("properties", {}):
            raise PlanError("--entities: the model finds no entities: its answers have no 'spans'")

    def find(self, posts: Sequence[InputRow]) -> list[list[str]]:
        """Return the entities of each post."""
        texts = [post.row["text"] for post in posts if post.row is not None]
        answers = iter(self._predictor.predict(texts) if texts else [])
        return [
            list(dict.fromkeys(span["word"] for span in next(answers)["spans"])) if post.row is not None else []
            for post in posts
        ]
