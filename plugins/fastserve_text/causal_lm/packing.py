"""Several texts or conversations in blocks of equal length, so that little or nothing is padded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from typing_extensions import override

from fastserve_core.tasks import IGNORE_INDEX, Encoded
from fastserve_text.examples import Examples, seed_number

OPEN_BLOCKS = 64
"""Blocks that a conversation may still be put into: few enough to look at, many enough to fill nearly all."""


class PackedSequences(Examples):
    """The texts in an order drawn by the seed, an end-of-text token after each, cut every ``length`` tokens.

    A text may continue in the next block, and in a block the tokens see those of the texts before theirs, as in
    GPT-2's training (Radford et al. 2019). The last block is shorter; one of a single token is left out, because
    nothing follows it.
    """

    def __init__(self, texts: Sequence[Encoded], length: int, end_of_text: int, seed: str) -> None:
        import numpy as np

        known = getattr(texts, "lengths", None)
        sizes = np.asarray([len(one) for one in texts] if known is None else known, dtype=np.int64) + 1
        self.texts, self.length, self.end_of_text = texts, length, end_of_text
        self.order = np.random.default_rng(seed_number(seed)).permutation(len(sizes))
        self.starts = np.concatenate([[0], np.cumsum(sizes[self.order])])
        full, rest = divmod(int(self.starts[-1]), length)
        self.lengths = np.asarray([length] * full + [rest] * (rest > 1), dtype=np.int64)

    @override
    def make(self, number: int) -> Encoded:
        import numpy as np

        begin = number * self.length
        end = begin + int(self.lengths[number])
        place = int(self.starts.searchsorted(begin, side="right")) - 1
        parts = []
        while place < len(self.order) and self.starts[place] < end:
            ids = np.append(self.texts[int(self.order[place])].inputs["input_ids"], self.end_of_text)
            start = int(self.starts[place])
            parts.append(ids[max(begin - start, 0) : end - start])
            place += 1
        block: Any = np.concatenate(parts).astype(np.int64)
        return Encoded({"input_ids": block, "attention_mask": np.ones_like(block)}, block)


class PackedConversations(Examples):
    """Whole conversations in blocks of up to ``length`` tokens, in an order drawn by the seed.

    None attends to another: ``segments`` numbers the conversations of a block from 1, and each begins at position 0.
    A conversation goes into the first block with enough room.
    """

    def __init__(self, conversations: Sequence[Encoded], length: int, seed: str) -> None:
        import numpy as np

        known = getattr(conversations, "lengths", None)
        sizes = [len(one) for one in conversations] if known is None else list(map(int, known))
        self.conversations = conversations
        order = np.random.default_rng(seed_number(seed)).permutation(len(sizes))
        self.blocks = _fill_blocks(order.tolist(), sizes, length)
        self.lengths = np.asarray([sum(sizes[number] for number in block) for block in self.blocks], dtype=np.int64)

    @override
    def make(self, number: int) -> Encoded:
        return join_rows([self.conversations[index] for index in self.blocks[number]], "segments")


def join_rows(rows: Sequence[Encoded], name: str) -> Encoded:
    """Return labelled rows as one; the input of that name numbers them from 1, and each begins at position 0."""
    sizes = [len(row) for row in rows]
    target = chain.from_iterable([IGNORE_INDEX, *row.target[1:]] for row in rows)
    inputs = {
        "input_ids": _join(row.inputs["input_ids"] for row in rows),
        "position_ids": _join(range(size) for size in sizes),
        name: _join([index] * size for index, size in enumerate(sizes, 1)),
    }
    return Encoded(inputs, list(target), truncated=any(row.truncated for row in rows))


def _fill_blocks(order: Iterable[int], sizes: Sequence[int], length: int) -> list[list[int]]:
    blocks: list[list[int]] = []
    rooms: list[int] = []
    for number in order:
        first = max(0, len(blocks) - OPEN_BLOCKS)
        place = next((index for index in range(first, len(blocks)) if rooms[index] >= sizes[number]), None)
        if place is None:
            blocks.append([number])
            rooms.append(length - sizes[number])
        else:
            blocks[place].append(number)
            rooms[place] -= sizes[number]
    return blocks


def _join(parts: Iterable[Iterable[int]]) -> list[int]:
    return list(chain.from_iterable(parts))
