"""Rows as token ids whose first token stands for the intent, and the first token of each word for its tag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastserve_core.errors import ModelError
from fastserve_core.tasks import IGNORE_INDEX, UNLABELLED, Encoded, Row
from fastserve_text.joint_intent_slots.labels import LabelColumns
from fastserve_text.tagging.encoding import WordAlignment, WordEncoder
from fastserve_text.windows import Frame


@dataclass(frozen=True)
class Utterance(WordAlignment):
    """The state for decoding a row, with its intent if it is labelled."""

    intent: str | None


class IntentEncoder:
    """Encodes rows with the intent at one of the special tokens around the text.

    Args:
        words: The encoder of words and tags.
        place: The index of the token that stands for the intent: 0 or -1.
        columns: The columns of the model; no loss counts a row with another intent.
    """

    def __init__(self, words: WordEncoder, place: int, columns: LabelColumns) -> None:
        self._words, self._place = words, place
        self._numbers, self._has_tags = columns.intents, bool(columns.tags)

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows, in their order."""
        return [self._add_intent(encoded, row) for encoded, row in zip(self._words(rows), rows, strict=True)]

    def _add_intent(self, encoded: Encoded, row: Row) -> Encoded:
        intent, target = row.get("intent"), None
        if "intent" in row:
            target = list(encoded.target or ()) if self._has_tags else []
            target = target or [IGNORE_INDEX] * len(encoded)
            target[self._place] = UNLABELLED if intent is None else self._numbers.get(intent, IGNORE_INDEX)
        return replace(encoded, target=target, decode_state=Utterance(**vars(encoded.decode_state), intent=intent))


def find_intent_place(frame: Frame, folder: Path) -> int:
    """Return the index of the special token that stands for the intent: the first one, else the last.

    Raises:
        ModelError: The tokenizer puts no token around a text.
    """
    if not frame.prefix and not frame.suffix:
        raise ModelError(
            f"the tokenizer of {folder} adds no token at the beginning or the end of a text, which stands for the "
            "intent: use an encoder such as BERT"
        )
    return 0 if frame.prefix else -1
