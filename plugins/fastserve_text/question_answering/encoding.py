"""Questions with their contexts as token ids, and the windows that the model learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from fastserve_core.errors import DataError
from fastserve_core.tasks import UNLABELLED, Encoded, Row
from fastserve_text.windows import Frame, WindowLayout

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Question:
    """The state for decoding a row.

    ``offsets`` are the first and the last character of each token of the context; ``key`` identifies the row when its
    windows are scored.
    """

    context: str
    offsets: Sequence[tuple[int, int]]
    frame: Frame
    key: str
    truths: Sequence[str]

    def characters(self, start: int, end: int) -> tuple[int, int]:
        """Return the characters of a span of tokens (``end`` included), without blanks at its ends."""
        first, last = self.offsets[start][0], self.offsets[end][1]
        text = self.context[first:last]
        return first + len(text) - len(text.lstrip()), first + len(text.rstrip())


class QuestionWindow(NamedTuple):
    """The state for scoring a window: its question, and its start in the tokens of the context."""

    question: Question
    start: int


class QuestionEncoder:
    """Encodes rows whole; of a question that leaves the context less than half of a window, the end is cut.

    Args:
        tokenizer: The tokenizer, which cuts nothing.
        max_length: The number of tokens of a window.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows, in their order."""
        encodings = self._tokenizer.encode_batch([(row["question"], row["context"]) for row in rows])
        return [self._encode(number, *pair) for number, pair in enumerate(zip(rows, encodings, strict=True))]

    def _encode(self, number: int, row: Row, encoding: Any) -> Encoded:
        sequences = encoding.sequence_ids
        if 1 not in sequences:
            raise DataError("a context has nothing that the tokenizer knows: it cannot hold an answer")
        begin, end = sequences.index(1), len(sequences) - sequences[::-1].index(1)
        suffix = len(sequences) - end
        excess = max(0, begin + suffix - self._max_length // 2)
        inputs = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        if excess:  # what parts the question from the context stays
            last = begin - sequences[begin - 1 :: -1].index(0)
            inputs = {name: [*values[: last - excess], *values[last:]] for name, values in inputs.items()}
        offsets, frame = encoding.offsets[begin:end], Frame(begin - excess, suffix)
        target = [frame.prefix, suffix, *_token_span(row["answers"], offsets)] if "answers" in row else None
        truths = [answer["text"] for answer in row.get("answers") or ()]
        question = Question(row["context"], offsets, frame, _row_key(row, number), truths)
        return Encoded(inputs, target, question, truncated=excess > 0)


def target_frame(encoded: Encoded) -> Frame:
    """Return the frame of an encoded row with a target."""
    return Frame(int(encoded.target[0]), int(encoded.target[1]))


def make_window(layout: WindowLayout, encoded: Encoded, start: int) -> Encoded:
    """Return a window of a row with the places of the answer in it.

    They are those of the first token if the window does not hold the whole answer, and ``UNLABELLED`` without a label.
    """
    prefix, suffix, answer_start, answer_end = (int(number) for number in encoded.target)
    inputs = layout.cut(encoded, Frame(prefix, suffix), start)
    room = len(inputs["input_ids"]) - prefix - suffix
    if answer_start == UNLABELLED:
        target = [UNLABELLED, UNLABELLED]
    elif start <= answer_start and answer_end < start + room:
        target = [prefix + answer_start - start, prefix + answer_end - start]
    else:
        target = [0, 0]
    question = encoded.decode_state
    return Encoded(inputs, target, question and QuestionWindow(question, start))


def _row_key(row: Row, number: int) -> str:
    """Return a name of the row that differs from that of every other row of its split."""
    text = f"{number}\0{row['question']}\0{row['context']}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _token_span(answers: Sequence[Mapping[str, Any]] | None, offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the first and the last token of the first answer: -1 twice without one, ``UNLABELLED`` without a label."""
    if answers is None:
        return UNLABELLED, UNLABELLED
    if not answers:
        return -1, -1
    begin = answers[0]["start"]
    end = begin + len(answers[0]["text"])
    inside = [number for number, (first, last) in enumerate(offsets) if first < end and last > begin]
    return (inside[0], inside[-1]) if inside else (-1, -1)
