"""A text as a document: its tokens, and at which of them a word or a sentence begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fastserve_core.tasks import Encoded

if TYPE_CHECKING:
    import random

    import numpy as np

    Flags = np.ndarray[Any, Any]

WORD, SENTENCE = 1, 2
"""The marks of a token that begins a word, and of one that begins a sentence; 0 continues a word."""

SENTENCE_END = re.compile(
    r"""[!?。！？…]+['")\]”’）」』》]*"""  # signs that only ever end a sentence, with what closes after them
    r"""|\.+['")\]”’）」』》]*(?=\s|[\u3400-\u9fff])"""  # a full stop, but not the one in 3.5 or in a web address
    r"""|[\r\n]+"""
)


def sentence_starts(text: str) -> list[int]:
    """Where the sentences begin, in characters: after an end in English or Chinese, and after a line break."""
    return [0, *(found.end() for found in SENTENCE_END.finditer(text))]


def tokenize_document(text: str, encoding: Any) -> Encoded:
    """The tokens of a whole text, uncut and without special ones; ``marks`` are the units that begin at each.

    Words are those of the tokenizer: parts between blanks and punctuation, and every Chinese character.
    """
    import numpy as np

    words = np.asarray([-1 if word is None else word for word in encoding.word_ids], dtype=np.int64)
    marks = np.ones(len(words), dtype=np.int64)
    marks[1:] = (words[1:] != words[:-1]) | (words[1:] < 0)
    begins = np.asarray([begin for begin, _ in encoding.offsets], dtype=np.int64)
    places = np.searchsorted(begins, sentence_starts(text))
    marks[places[places < len(words)]] = SENTENCE
    return Encoded({"input_ids": encoding.ids, "marks": marks.tolist()}, decode_state=text)


def sentence_bounds(marks: Sequence[int] | Flags, longest: int, draw: random.Random) -> list[int]:
    """The bounds of a document's units, its end among them: sentences, none longer than ``longest`` tokens.

    A document of one sentence is cut at a word, not too near its ends, so that it too has a part that follows
    another. One of a single word has a single unit.
    """
    import numpy as np

    words = np.flatnonzero(marks).tolist()
    bounds = np.flatnonzero(np.asarray(marks) == SENTENCE).tolist()
    if len(bounds) == 1 and len(words) > 1:
        quarter = len(words) // 4
        bounds.append(words[draw.randint(max(1, quarter), max(1, len(words) - 1 - quarter))])
    bounds.append(len(marks))
    if all(end - begin <= longest for begin, end in pairwise(bounds)):
        return bounds
    return _shortened(bounds, np.asarray(words), longest)


def _shortened(bounds: list[int], words: Flags, longest: int) -> list[int]:
    """More bounds, at words where one is near enough, until no unit is too long."""
    found = [bounds[0]]
    for end in bounds[1:]:
        while end - found[-1] > longest:
            nearest = int(words[words.searchsorted(found[-1] + longest, side="right") - 1])
            found.append(nearest if nearest > found[-1] else found[-1] + longest)
        found.append(end)
    return found
