"""Predict for the rows of a DataFrame of pandas, which is not imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fastserve_core.data.inputs import match_rows
from fastserve_core.data.source import RawRecord
from fastserve_core.errors import DataError
from fastserve_core.events import Event, Notice
from fastserve_core.serving.answer_columns import AnswerColumns
from fastserve_core.serving.counts import PredictionCounts
from fastserve_core.serving.windows import answer_window, iterate_windows
from fastserve_core.tasks.encoded import Row

if TYPE_CHECKING:
    from fastserve_core.config.nodes import DataOptions
    from fastserve_core.inference.predictor import Predictor


def predict_frame(predictor: Predictor, frame: Any, options: DataOptions, emit: Callable[[Event], None]) -> Any:
    """Predict for the rows of a DataFrame.

    Args:
        predictor: The model.
        frame: The DataFrame.
        options: The names of columns.
        emit: Receives guesses and the reasons for bad rows.

    Returns:
        A DataFrame with the same index, the same columns, and those of the answers.

    Raises:
        DataError: It is not a DataFrame, lacks a column, or has two of one name.
    """
    if not (hasattr(frame, "itertuples") and hasattr(frame, "assign")):
        raise DataError(f"a DataFrame of pandas is needed, not {type(frame).__name__}")
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise DataError(f"two columns of the DataFrame have one name: {', '.join(names)}")
    counts, found = PredictionCounts(), list[Row]()

    def report(message: str) -> None:
        emit(Notice(message))

    columns = AnswerColumns(predictor.task, names, report)
    for window in iterate_windows(match_rows(_read_records(frame, names), predictor.task, options, report)):
        answers = answer_window(predictor, window)
        found += [columns.add({}, answer) for answer in answers]
        counts.count(window, answers)
    if len(found) != len(frame):
        raise DataError(
            f"the task reads {len(found)} inputs in the {len(frame)} rows of the DataFrame: one each is needed"
        )
    counts.report(emit)
    added = dict.fromkeys(name for row in found for name in row)
    return frame.assign(**{name: [row.get(name) for row in found] for name in added})


def _read_records(frame: Any, names: list[str]) -> Iterator[RawRecord]:
    rows = frame.itertuples(index=False, name=None)
    for index, values in zip(frame.index, rows, strict=True):
        yield RawRecord(f"row {index}", dict(zip(names, values, strict=True)))
