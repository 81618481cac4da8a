"""Windows of inputs: as many as are sorted by length and answered together, in bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastserve_core.data.inputs import InputRow
from fastserve_core.errors import DataError
from fastserve_core.tasks.encoded import Encoded
from fastserve_core.tasks.task import Task

if TYPE_CHECKING:
    from fastserve_core.inference.predictor import Predictor

WINDOW_ROWS = 2048
"""The maximum number of inputs of a window; more would save less than one per cent of padding."""
WINDOW_CHARACTERS = 4_000_000
"""The number of characters after which a window ends, so that long documents do not fill the memory."""
LIVE_ROWS = 256
"""The maximum number of rows of a window of a followed stream: later rows wait until it is answered."""
BATCH_SIZE = 32
ERROR = "error"
"""The column with the reason why an input has no answer."""


def read_values(inputs: Iterable[Any], task: Task) -> Iterator[InputRow]:
    """Read a caller's inputs; one that cannot be used has the reason instead of a row."""
    for number, value in enumerate(inputs):
        try:
            yield InputRow(f"input {number}", {}, task.read_input(value))
        except DataError as error:
            yield InputRow(f"input {number}", {}, None, str(error))


def iterate_windows(inputs: Iterable[InputRow], rows: int | None = None) -> Iterator[list[InputRow]]:
    """Cut inputs into windows, which depend on the inputs alone.

    Args:
        inputs: The inputs.
        rows: The maximum number of inputs of a window; by default ``WINDOW_ROWS``.
    """
    limit = rows or WINDOW_ROWS
    window, characters = list[InputRow](), 0
    for one in inputs:
        window.append(one)
        characters += sum(len(value) if isinstance(value, (str, list)) else 1 for value in (one.row or {}).values())
        if len(window) == limit or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def gather_windows(inputs: Iterator[InputRow]) -> Iterator[list[InputRow]]:
    """Read inputs that come over time, in a thread; a window has those that wait.

    Args:
        inputs: The inputs.
    """
    waiting: queue.Queue[InputRow | BaseException | None] = queue.Queue(LIVE_ROWS)

    def read() -> None:
        end: BaseException | None = None
        try:
            for one in inputs:
                waiting.put(one)
        except BaseException as error:
            end = error
        waiting.put(end)

    threading.Thread(target=read, name="reader", daemon=True).start()
    while True:
        window, end = _take(waiting)
        if window:
            yield window
        if isinstance(end, BaseException):
            raise end
        if end:
            return


def _take(waiting: queue.Queue[InputRow | BaseException | None]) -> tuple[list[InputRow], BaseException | bool]:
    """Return the inputs that wait, at least one unless the stream has ended, and the end."""
    window = list[InputRow]()
    found = waiting.get()
    while isinstance(found, InputRow):
        window.append(found)
        if len(window) == LIVE_ROWS or waiting.empty():
            return window, False
        found = waiting.get()
    return window, True if found is None else found


def encode_window(predictor: Predictor, window: Sequence[InputRow]) -> list[Encoded]:
    """Encode the inputs of a window that can be used."""
    return predictor.encode([one.row for one in window if one.row is not None])


def answer_window(
    predictor: Predictor, window: Sequence[InputRow], encoded: Sequence[Encoded] | None = None
) -> list[dict[str, Any]]:
    """Predict for a window, in batches of similar length.

    Args:
        predictor: The model.
        window: The inputs.
        encoded: The result of ``encode_window``, if it was called before.

    Returns:
        The answers in the order of the inputs; one that cannot be used has ``error`` instead.
    """
    answers = iter(
        predictor.answer_encoded(encode_window(predictor, window) if encoded is None else encoded, BATCH_SIZE)
    )
    return [{ERROR: one.fault} if one.row is None else next(answers) for one in window]


def stream_answers(predictor: Predictor, inputs: Iterable[Any], rows: int) -> Iterator[dict[str, Any]]:
    """Yield the answers to a caller's inputs in their order, window by window."""
    for window in iterate_windows(read_values(inputs, predictor.task), rows):
        yield from answer_window(predictor, window)
