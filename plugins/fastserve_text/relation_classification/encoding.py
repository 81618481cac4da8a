"""Texts with signs around two entities as token ids, cut around the entities if they are too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import ModelError
from fastserve_core.tasks import IGNORE_INDEX, Encoded, Row
from fastserve_text.relation_classification.entity_marks import Span
from fastserve_text.tokenization import CHARACTERS_PER_TOKEN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SIGNS = tuple("@#$*&^~+=|%/<>")
"""The first two that a tokenizer knows mark the first and the second entity (Zhou and Chen 2022)."""
PROBE = "a {} a"


@dataclass(frozen=True)
class EntityPair:
    """The state for decoding a row: its entities, and the token at which the model names their relation."""

    text: str
    head: Span
    tail: Span
    place: int


def choose_signs(tokenizer: Tokenizer, unknown: int | None) -> tuple[str, str]:
    """Return the signs that mark the first and the second entity: those whose tokens the model has seen in texts.

    Args:
        tokenizer: The tokenizer.
        unknown: The id of the token for unknown words.

    Raises:
        ModelError: The tokenizer knows fewer than two.
    """
    known = []
    for sign in SIGNS:
        encoding = tokenizer.encode(PROBE.format(sign), add_special_tokens=False)
        token = encoding.char_to_token(PROBE.index("{"))
        if token is not None and encoding.ids[token] != unknown:
            known.append(sign)
    if len(known) < 2:
        raise ModelError(
            f"the tokenizer knows fewer than two of the signs {' '.join(SIGNS)}, with which entities are marked: "
            "choose another model"
        )
    return known[0], known[1]


class PairEncoder:
    """Encodes rows with a sign before and behind each entity.

    Args:
        tokenizer: The tokenizer, which cuts nothing.
        signs: The signs of the first and of the second entity.
        max_length: The number of tokens that the model reads.
        target: Returns the number of a row's label; ``None`` for a row without label columns.
    """

    def __init__(
        self, tokenizer: Tokenizer, signs: tuple[str, str], max_length: int, target: Callable[[Row], int | None]
    ) -> None:
        self._tokenizer, self._signs, self._max_length, self._target = tokenizer, signs, max_length, target

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows, in their order."""
        marked = [self._mark(row) for row in rows]
        encodings = self._tokenizer.encode_batch([text for text, _, _ in marked])
        return [
            self._encode(row, encoding, places, is_cut)
            for row, encoding, (_, places, is_cut) in zip(rows, encodings, marked, strict=True)
        ]

    def _mark(self, row: Row) -> tuple[str, list[int], bool]:
        """Return the text with signs, their characters in it, and whether a part far from the entities is missing."""
        text, reach = row["text"], CHARACTERS_PER_TOKEN[1] * self._max_length
        spans = (row["head"], row["tail"])
        begin = max(0, min(spans)[0] - reach)
        end = min(len(text), max(spans)[1] + reach)
        cuts = sorted((place, sign) for span, sign in zip(spans, self._signs, strict=True) for place in span)
        marked, places, last = "", [], begin
        for place, sign in cuts:
            marked = _append(_append(marked, text[last:place]), sign)
            places.append(len(marked) - len(sign))
            last = place
        return _append(marked, text[last:end]), places, (begin, end) != (0, len(text))

    def _encode(self, row: Row, encoding: Any, places: Sequence[int], is_cut: bool) -> Encoded:
        inside = [number for number, is_special in enumerate(encoding.special_tokens_mask) if not is_special]
        tokens = [encoding.char_to_token(place) for place in places]
        room = self._max_length - (len(encoding.ids) - len(inside))
        body = _nearest(inside, tokens, room)
        kept = [*range(inside[0]), *body, *range(inside[-1] + 1, len(encoding.ids))]
        inputs = {
            name: [values[number] for number in kept]
            for name, values in (
                ("input_ids", encoding.ids),
                ("attention_mask", encoding.attention_mask),
                ("token_type_ids", encoding.type_ids),
            )
        }
        place = kept.index(tokens[-1])  # a decoder has read both entities there
        label = self._target(row)
        target = None
        if label is not None:
            target = [IGNORE_INDEX] * len(kept)
            target[place] = label
        pair = EntityPair(row["text"], row["head"], row["tail"], place)
        return Encoded(inputs, target, pair, truncated=is_cut or len(body) < len(inside))


def _append(text: str, part: str) -> str:
    """Return a text with a further part, and at least one blank between."""
    is_apart = not text or not part or text[-1].isspace() or part[0].isspace()
    return text + part if is_apart else f"{text} {part}"


def _nearest(inside: Sequence[int], places: Sequence[int], room: int) -> Sequence[int]:
    """Return as many tokens as there is room for: those nearest to a sign, in their order."""
    if len(inside) <= room:
        return inside
    nearest = sorted(inside, key=lambda token: min(abs(token - place) for place in places))
    return sorted(nearest[:room])
