"""Windows over inputs that are longer than the model reads: nothing is cut off, neighbours share tokens."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from typing_extensions import override

from fastserve_core.errors import OptionError
from fastserve_core.tasks import Encoded
from fastserve_text.examples import Examples


@dataclass(frozen=True, slots=True)
class Frame:
    """The tokens that every window repeats: the number of them before and after the body of an input."""

    prefix: int
    suffix: int


@dataclass(frozen=True)
class WindowLayout:
    """How inputs are cut: ``max_length`` tokens a window, of which neighbours share ``stride`` of the body.

    Raises:
        OptionError: A window would not advance.
    """

    max_length: int
    stride: int

    def __post_init__(self) -> None:
        if not 0 <= self.stride <= self.max_length // 2:
            raise OptionError(
                f"task.stride must lie between 0 and half of task.max_length ({self.max_length // 2}), "
                f"not {self.stride}: it is the number of tokens that neighbouring windows share"
            )

    def room(self, frame: Frame) -> int:
        """Return the number of tokens of the body that a window holds."""
        return self.max_length - frame.prefix - frame.suffix

    def starts(self, length: int, frame: Frame) -> Sequence[int]:
        """Return where the windows of an input of ``length`` tokens begin in its body.

        The last one ends with the body, so that it has as much context as the others.
        """
        room, body = self.room(frame), length - frame.prefix - frame.suffix
        if body <= room:
            return (0,)
        step = max(1, room - min(self.stride, room // 2))
        return [*range(0, body - room, step), body - room]

    def cut(self, encoded: Encoded, frame: Frame, start: int) -> dict[str, Sequence[int]]:
        """Return the inputs of the window that begins at ``start`` of the body."""
        end = len(encoded) - frame.suffix
        begin = frame.prefix + start
        stop = min(begin + self.room(frame), end)
        return {
            name: [*values[: frame.prefix], *values[begin:stop], *values[end:]]
            for name, values in encoded.inputs.items()
        }


class WindowExamples(Examples):
    """The windows of encoded rows, cut when they are read.

    Args:
        rows: The encoded rows.
        layout: How they are cut.
        frame_of: Returns a row's frame.
        make_window: Makes an example of a row and the start of a window.
    """

    def __init__(
        self,
        rows: Sequence[Encoded],
        layout: WindowLayout,
        frame_of: Callable[[Encoded], Frame],
        make_window: Callable[[Encoded, int], Encoded],
    ) -> None:
        import numpy as np

        self.rows, self.make_window = rows, make_window
        row_numbers, starts, lengths = array("q"), array("q"), array("q")
        for number in range(len(rows)):
            row = rows[number]
            for start in layout.starts(len(row), frame_of(row)):
                row_numbers.append(number)
                starts.append(start)
                lengths.append(min(len(row), layout.max_length))
        self._row_numbers, self._starts = row_numbers, starts
        self.lengths = np.frombuffer(lengths, dtype=np.int64)

    @override
    def make(self, number: int) -> Encoded:
        return self.make_window(self.rows[self._row_numbers[number]], self._starts[number])
