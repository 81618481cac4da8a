"""Predict for rows that are read once, or that come over time, and write them with their answers to a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from fastserve_core.data.inputs import InputRow
from fastserve_core.data.source import RowStream
from fastserve_core.events import Event, Notice, WarningRaised
from fastserve_core.serving.answer_columns import AnswerColumns
from fastserve_core.serving.counts import MAX_MESSAGES, PredictionCounts
from fastserve_core.serving.windows import answer_window

if TYPE_CHECKING:
    from fastserve_core.inference.predictor import Predictor


def predict_rows(
    predictor: Predictor, windows: Iterable[Sequence[InputRow]], output: RowStream, emit: Callable[[Event], None]
) -> PredictionCounts:
    """Predict for windows of rows, and write each window when it is answered.

    Args:
        predictor: The model.
        windows: The rows.
        output: Writes the rows with their answers.
        emit: Receives the reasons for the first bad rows when they are read, and warnings at the end.

    Returns:
        The counts.
    """
    counts = PredictionCounts()
    columns: AnswerColumns | None = None
    for window in windows:
        if columns is None:
            known = {name for one in window for name in one.values}
            columns = AnswerColumns(predictor.task, known, lambda message: emit(Notice(message)))
        answers = answer_window(predictor, window)
        output.write([columns.add(one.values, answer) for one, answer in zip(window, answers, strict=True)])
        reported = len(counts.messages)
        counts.count(window, answers)
        for message in counts.messages[reported:]:
            emit(WarningRaised(f"no answer: {message}"))
    if counts.bad_rows > MAX_MESSAGES:
        emit(WarningRaised(f"{counts.bad_rows} of {counts.rows} rows have no answer"))
    counts.report_truncated(emit)
    for name, number in output.dropped.items():
        emit(WarningRaised(f"{number} values of '{name}' are not written: the first rows lack the column"))
    return counts
