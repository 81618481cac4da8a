"""The labels of the model: intents, perhaps that of texts out of scope, and tags."""

from __future__ import annotations

from collections.abc import Sequence

INTENT, SLOT = "intent:", "slot:"
"""Prefixes of the labels, which tell an intent and a tag of one name apart."""


class LabelColumns:
    """Which columns of the model's logits belong to which label.

    Args:
        labels: The labels in the order of the columns.
        outside: The intent of texts out of scope.

    Attributes:
        intents: The column of each intent by name, with that of texts out of scope.
        tags: The column of each tag by name.
        names: The intents that an answer may have.
        inside: Their columns.
        outside: The column of texts out of scope; ``None`` if the model was trained on none.
    """

    def __init__(self, labels: Sequence[str], outside: str) -> None:
        self.intents, self.tags = (
            {label.removeprefix(prefix): number for number, label in enumerate(labels) if label.startswith(prefix)}
            for prefix in (INTENT, SLOT)
        )
        self.names = [name for name in self.intents if name != outside]
        self.inside = [self.intents[name] for name in self.names]
        self.outside = self.intents.get(outside)
