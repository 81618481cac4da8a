"""Windows hold every token of the body, share what neighbours must share, and repeat the frame."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import OptionError
from fastserve_core.tasks import Encoded
from fastserve_text.windows import Frame, WindowExamples, WindowLayout

FRAMES = st.builds(Frame, st.integers(1, 9), st.integers(0, 2))


@given(st.integers(1, 400), FRAMES, st.integers(24, 64), st.data())
def test_every_token_is_in_a_window_and_neighbours_overlap(
    body: int, frame: Frame, max_length: int, data: st.DataObject
) -> None:
    layout = WindowLayout(max_length, data.draw(st.integers(0, max_length // 2)))
    whole = [*range(1000, 1000 + frame.prefix), *range(body), *range(2000, 2000 + frame.suffix)]
    row = Encoded({"input_ids": whole})
    starts = layout.starts(len(whole), frame)
    windows = [layout.cut(row, frame, start)["input_ids"] for start in starts]
    for window in windows:
        assert len(window) <= max_length
        assert window[: frame.prefix] == whole[: frame.prefix]
        assert window[len(window) - frame.suffix :] == whole[len(whole) - frame.suffix :]
    inner = [set(window[frame.prefix : len(window) - frame.suffix]) for window in windows]
    assert set.union(*inner) == set(range(body))
    room = layout.room(frame)
    for first, second in pairwise(inner):
        assert len(first) == len(second) == room
        assert len(first & second) >= min(layout.stride, room // 2)


def test_windows_that_would_not_advance_are_refused() -> None:
    with pytest.raises(OptionError, match=r"task.stride must lie between 0 and .* \(32\), not 33"):
        WindowLayout(64, 33)


def test_examples_are_the_windows_of_all_rows_in_order() -> None:
    layout, frame = WindowLayout(24, 4), Frame(1, 1)
    rows = [Encoded({"input_ids": list(range(length))}) for length in (5, 60)]
    examples = WindowExamples(
        rows, layout, lambda _: frame, lambda row, start: Encoded(layout.cut(row, frame, start), start)
    )
    assert [example.target for example in examples] == [0, 0, 18, 36]
    assert examples.lengths.tolist() == [len(example) for example in examples] == [5, 24, 24, 24]
