"""The windows of questions and contexts after ``run_qa.py``, and the answers that their logits give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.scorers import score_answers

STRIDE, BEST, LONGEST_ANSWER = 128, 20, 30
Rows = Sequence[dict[str, Any]]


def _cut(tokenizer: Any, rows: Rows, max_length: int) -> Any:
    return tokenizer(
        [row["question"] for row in rows],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=max_length,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )


def encode_questions(tokenizer: Any, rows: Rows, max_length: int) -> list[dict[str, Any]]:
    """Return windows with the places of the first answer; the first token, where a window does not have it."""
    columns = _cut(tokenizer, rows, max_length)
    windows = []
    for number, row in enumerate(columns["overflow_to_sample_mapping"]):
        answer = rows[row]["answers"][0]
        start, end = _find(columns, number, answer["start"], answer["start"] + len(answer["text"]))
        inputs = {name: columns[name][number] for name in tokenizer.model_input_names if name in columns}
        windows.append(inputs | {"start_positions": start, "end_positions": end})
    return windows


def _find(columns: Any, number: int, first: int, last: int) -> tuple[int, int]:
    offsets, parts = columns["offset_mapping"][number], columns.sequence_ids(number)
    places = [place for place, part in enumerate(parts) if part == 1]
    inside = [place for place in places if offsets[place][0] < last and offsets[place][1] > first]
    is_whole = offsets[places[0]][0] <= first and offsets[places[-1]][1] >= last
    return (inside[0], inside[-1]) if inside and is_whole else (0, 0)


def encode_contexts(tokenizer: Any, rows: Rows, max_length: int) -> list[dict[str, Any]]:
    """Return windows with their row and the characters of the context's tokens."""
    columns = _cut(tokenizer, rows, max_length)
    return [
        {name: columns[name][number] for name in tokenizer.model_input_names if name in columns}
        | {
            "row": row,
            "offsets": [
                offset if part == 1 else None
                for offset, part in zip(columns["offset_mapping"][number], columns.sequence_ids(number), strict=True)
            ],
        }
        for number, row in enumerate(columns["overflow_to_sample_mapping"])
    ]


def score_question_outputs(start: Any, end: Any, windows: Sequence[dict[str, Any]], rows: Rows) -> dict[str, float]:
    """Return the scores of the best answer of each row over its windows."""
    found: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for window, first, last in zip(windows, start, end, strict=True):
        offsets, context = window["offsets"], rows[window["row"]]["context"]
        for begin in np.argsort(first)[::-1][:BEST]:
            for stop in np.argsort(last)[::-1][:BEST]:
                if offsets[begin] and offsets[stop] and begin <= stop < begin + LONGEST_ANSWER:
                    text = context[offsets[begin][0] : offsets[stop][1]]
                    found[window["row"]].append((float(first[begin] + last[stop]), text))
    guesses = [max(found[number])[1] if found[number] else "" for number in range(len(rows))]
    return score_answers(guesses, [[answer["text"] for answer in row["answers"]] for row in rows])
