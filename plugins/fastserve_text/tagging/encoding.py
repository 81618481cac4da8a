"""Words as token ids in windows, and the outputs of all windows as one sequence again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from fastserve_core.tasks import IGNORE_INDEX, UNLABELLED, Encoded, Row
from fastserve_text.tagging.words import Bounds
from fastserve_text.windows import Frame, WindowLayout

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

    Logits = np.ndarray[Any, Any]


@dataclass(frozen=True)
class WordAlignment:
    """The state for decoding a row: its words, and which tokens of the body are the first of a word.

    ``bounds`` are the characters of the words in ``text``; ``key`` identifies the row when its windows are scored.
    """

    text: str
    words: Sequence[str]
    bounds: Sequence[Bounds]
    word_numbers: Sequence[int]
    first_tokens: Sequence[int]
    frame: Frame
    tags: Sequence[str]
    key: str


class TaggedWindow(NamedTuple):
    """The state for scoring a window: its row, and its start in the tokens of the body."""

    alignment: WordAlignment
    start: int


class WordEncoder:
    """Encodes rows of words whole.

    Args:
        tokenizer: The tokenizer, which cuts nothing.
        numbers: The column of each tag in the model's outputs; no loss counts a word with another tag.
    """

    def __init__(self, tokenizer: Tokenizer, numbers: Mapping[str, int]) -> None:
        self._tokenizer, self._numbers = tokenizer, numbers

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows, in their order."""
        encodings = self._tokenizer.encode_batch([row["tokens"] for row in rows], is_pretokenized=True)
        return [self._encode(number, *pair) for number, pair in enumerate(zip(rows, encodings, strict=True))]

    def _encode(self, number: int, row: Row, encoding: Any) -> Encoded:
        word_ids = encoding.word_ids
        inside = [place for place, word in enumerate(word_ids) if word is not None] or [len(word_ids) - 1]
        frame = Frame(inside[0], len(word_ids) - inside[-1] - 1)
        first: dict[int, int] = {}
        for place in inside:
            if word_ids[place] is not None:
                first.setdefault(word_ids[place], place)
        target = self._encode_tags(row["tags"], first, len(word_ids)) if "tags" in row else None
        words = row["tokens"]
        text = row.get("text") or " ".join(words)
        alignment = WordAlignment(
            text,
            words,
            row.get("bounds") or join_bounds(words),
            list(first),
            [place - frame.prefix for place in first.values()],
            frame,
            row.get("tags") or (),
            blake2b(f"{number}\0{text}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest(),
        )
        inputs = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        return Encoded(inputs, target, alignment)

    def _encode_tags(self, tags: Sequence[str] | None, first: Mapping[int, int], length: int) -> list[int]:
        target = [IGNORE_INDEX] * length
        for word, place in first.items():
            target[place] = UNLABELLED if tags is None else self._numbers.get(tags[word], IGNORE_INDEX)
        return target


def join_bounds(words: Sequence[str]) -> list[Bounds]:
    """Return the characters of words that are joined by blanks."""
    bounds, start = [], 0
    for word in words:
        bounds.append((start, start + len(word)))
        start += len(word) + 1
    return bounds


def cut_window(layout: WindowLayout, encoded: Encoded, frame: Frame, start: int) -> Encoded:
    """Return a window of a row, with its tags if the row has some."""
    target = None
    if encoded.target is not None:
        whole = Encoded({"input_ids": encoded.inputs["input_ids"], "target": encoded.target})
        target = layout.cut(whole, frame, start)["target"]
    alignment = encoded.decode_state
    return Encoded(layout.cut(encoded, frame, start), target, alignment and TaggedWindow(alignment, start))


def merge_windows(windows: Sequence[tuple[int, Logits]], body: int) -> Logits:
    """Return the logits of a body of tokens: each token's from the window in which it has most context.

    Args:
        windows: Where each window begins, and its logits of shape (tokens, labels).
        body: The number of tokens.
    """
    import numpy as np

    if len(windows) == 1:
        return windows[0][1]
    merged = np.empty((body, windows[0][1].shape[-1]), dtype=windows[0][1].dtype)
    context = np.full(body, -1)
    for start, logits in windows:
        places = np.arange(len(logits))
        before = places if start else np.full(len(logits), body)
        after = places[::-1] if start + len(logits) < body else np.full(len(logits), body)
        own = np.minimum(before, after)
        is_better = own > context[start : start + len(logits)]
        merged[start : start + len(logits)][is_better] = logits[is_better]
        context[start : start + len(logits)][is_better] = own[is_better]
    return merged
