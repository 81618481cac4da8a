"""The base of the tasks that tag words: callers' texts as words, and texts of any length in windows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from typing_extensions import override

from fastserve_core.errors import DataError
from fastserve_core.tasks import Arrays, Column, Encoded, Proposal, Row, read_label, read_words
from fastserve_text.base import TEXT, TextOptions, TextTask
from fastserve_text.tagging.encoding import TaggedWindow, cut_window, merge_windows
from fastserve_text.tagging.tag_schemes import begin_entities
from fastserve_text.tagging.words import split_words
from fastserve_text.windows import Frame, WindowExamples, WindowLayout

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

    Matrix = np.ndarray[Any, Any]


@dataclass
class Options(TextOptions):
    """``max_length`` is the number of tokens of a window, of which neighbours share ``stride``.

    By default they share a quarter. Texts of any length are read.
    """

    stride: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.layout

    @property
    def layout(self) -> WindowLayout:
        """How texts are cut into windows."""
        return WindowLayout(self.max_length, self.max_length // 4 if self.stride is None else self.stride)


class RowWindow(NamedTuple):
    """The outputs of a window of a row: its tokens in the row, their logits, and what ``read_evidence`` returned."""

    alignment: Any
    start: int
    end: int
    logits: Matrix
    evidence: Any


class WordTask(TextTask):
    """Reads texts as words, in as many windows as they need."""

    head: ClassVar[str] = "ForTokenClassification"

    @override
    @property
    def request_columns(self) -> tuple[Column, ...]:
        return (TEXT,)  # which is split into words

    @override
    def read_input(self, value: Any) -> Row:
        words = value.get("text") if isinstance(value, Mapping) else value
        try:
            if isinstance(value, Mapping) and "tokens" in value:
                words = read_words(value["tokens"])
        except ValueError as error:
            raise DataError(f"an input cannot be used: 'tokens' {error}") from error
        if isinstance(words, str) and (bounds := split_words(words)):
            return {"tokens": [words[start:end] for start, end in bounds], "text": words, "bounds": bounds}
        if not isinstance(words, (list, tuple)) or not words or not all(isinstance(one, str) for one in words):
            raise DataError("an input cannot be used: give a text, or a list of words as 'tokens'")
        return {"tokens": list(words)}

    @override
    def make_rows(self, inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> list[Row]:
        if targets is not None:  # which are for the words between blanks
            inputs = [value.split() if isinstance(value, str) else value for value in inputs]
        return super().make_rows(inputs, targets)

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        return (" ".join(row["tokens"]) for row in rows)

    @override
    def propose_length(self, rows: Sequence[Row]) -> Proposal:
        return Proposal()  # texts of any length are read

    def prepare_tokenizer(self, folder: Path) -> Tokenizer:
        """Load the tokenizer of a model folder, which cuts nothing, and find the tokens around a text."""
        tokenizer = self.prepare_padding(folder)
        tokenizer.no_truncation()
        self.frame = find_frame(tokenizer)
        return tokenizer

    @override
    def windows(self, encoded: Encoded) -> Sequence[Encoded]:
        layout, frame = self.options.layout, encoded.decode_state.frame
        starts = layout.starts(len(encoded), frame)
        return (encoded,) if len(starts) == 1 else [Encoded(layout.cut(encoded, frame, start)) for start in starts]

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        layout, frame = self.options.layout, self.frame
        known = getattr(encoded, "lengths", None)
        if max(map(len, encoded) if known is None else known, default=0) <= layout.max_length:
            return encoded

        def make_window(row: Encoded, start: int) -> Encoded:
            return row if len(row) <= layout.max_length else cut_window(layout, row, frame, start)

        return WindowExamples(encoded, layout, lambda _: frame, make_window)

    def merge_rows(self, outputs: Arrays, batch: Sequence[Encoded]) -> Iterator[tuple[Encoded, slice, Matrix]]:
        """Yield each row of a batch with the rows of its windows in the outputs, and the logits of its tokens."""
        row = 0
        for encoded in batch:
            frame, body = find_body(encoded)
            starts = self.options.layout.starts(len(encoded), frame)
            windows = [
                (start, self.body_logits(outputs, row + number, frame, body - start))
                for number, start in enumerate(starts)
            ]
            yield encoded, slice(row, row + len(starts)), merge_windows(windows, body)
            row += len(starts)

    def body_logits(self, outputs: Arrays, row: int, frame: Frame, count: int) -> Matrix:
        """Return the logits of a window's tokens, at most ``count``, without those that every window repeats."""
        room = self.options.layout.room(frame)
        logits: Matrix = outputs["logits"][row, frame.prefix : frame.prefix + min(count, room)]
        return logits

    # -- the statistics of labelled rows -------------------------------------------------------------

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        statistics: list[Any] = []
        for row, encoded in enumerate(batch):
            window = self._read_window(outputs, row, encoded)
            is_part = isinstance(encoded.decode_state, TaggedWindow)
            statistics.append(window if is_part else self.compare(window.alignment, window.logits, [window.evidence]))
        return statistics

    def _read_window(self, outputs: Arrays, row: int, encoded: Encoded) -> RowWindow:
        state = encoded.decode_state
        alignment, start = state if isinstance(state, TaggedWindow) else (state, 0)
        count = len(encoded) - alignment.frame.prefix - alignment.frame.suffix
        logits = self.body_logits(outputs, row, alignment.frame, count)
        return RowWindow(alignment, start, start + count, logits, self.read_evidence(outputs, row, encoded))

    def read_evidence(self, outputs: Arrays, row: int, encoded: Encoded) -> Any:
        """Return what ``compare`` needs of one row of the outputs besides the logits of its words; by default none."""
        return None

    @abstractmethod
    def compare(self, alignment: Any, logits: Matrix, evidence: Sequence[Any]) -> Any:
        """Return the statistics of a labelled row.

        Args:
            alignment: The row's state for decoding.
            logits: Those of its tokens, of shape (tokens, labels).
            evidence: The results of ``read_evidence`` for its windows, in their order.
        """

    def join_windows(self, statistics: Sequence[Any]) -> Iterator[Any]:
        """Yield the statistics of each row; those of rows that were read in windows are made of all their windows."""
        rows: dict[str, list[RowWindow]] = {}
        for one in statistics:
            if isinstance(one, RowWindow):
                rows.setdefault(one.alignment.key, []).append(one)
            else:
                yield one
        for windows in rows.values():
            windows.sort(key=lambda window: window.start)
            body = max(window.end for window in windows)
            logits = merge_windows([(window.start, window.logits) for window in windows], body)
            yield self.compare(windows[0].alignment, logits, [window.evidence for window in windows])


def read_tags(value: Any, count: int) -> list[str]:
    """Return the tags of a row, in which every entity that begins with ``I-x`` begins with ``B-x``.

    Args:
        value: A list, a list that is written as text, or tags with blanks between them.
        count: The number of words.

    Raises:
        ValueError: The value is not a list of tags, or has more or fewer.
    """
    try:
        tags = begin_entities([read_label(tag) for tag in read_words(value)])
    except ValueError as error:
        raise ValueError(f"'tags' {error}") from error
    if len(tags) != count:
        raise ValueError(f"{count} tokens but {len(tags)} tags")
    return tags


def find_frame(tokenizer: Any) -> Frame:
    """Return the special tokens around a text."""
    word_ids = tokenizer.encode(["a"], is_pretokenized=True).word_ids
    inside = [place for place, word in enumerate(word_ids) if word is not None]
    return Frame(inside[0], len(word_ids) - inside[-1] - 1) if inside else Frame(0, 0)


def find_body(encoded: Encoded) -> tuple[Frame, int]:
    """Return the frame of an encoded row, and the number of tokens between."""
    frame = encoded.decode_state.frame
    return frame, len(encoded) - frame.prefix - frame.suffix
