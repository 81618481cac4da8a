"""Columns: as the options say, of the task's name, or of one usual name; never one of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fastserve_core.data.columns import find_columns, match_inputs
from fastserve_core.data.source import RawRecord
from fastserve_core.errors import DataError
from fastserve_core.tasks.load import load_task

CLASSIFICATION = load_task("text_classification", {})


def records(*rows: dict[str, Any] | None) -> list[RawRecord]:
    return [RawRecord(f"f:{number}", row, "" if row else "cut") for number, row in enumerate(rows, 1)]


def names(known: Sequence[str], notes: list[str] | None = None, **chosen: str) -> dict[str, str]:
    report = (notes if notes is not None else []).append
    columns, _ = find_columns(records(dict.fromkeys(known, "x")), CLASSIFICATION.columns, chosen, report)
    return dict(columns.names)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (["text", "label", "review", "category"], {"text": "text", "label": "label"}),
        (["id", "review", "sentiment"], {"text": "review", "label": "sentiment"}),
        ([" Text ", "LABEL"], {"text": " Text ", "label": "LABEL"}),
        (
            ["premise", "hypothesis", "gold_label"],
            {"text": "premise", "text_pair": "hypothesis", "label": "gold_label"},
        ),
        (["text", "hypothesis", "label"], {"text": "text", "label": "label"}),  # a pair is not guessed beside a text
        (["text", "text_pair", "label"], {"text": "text", "text_pair": "text_pair", "label": "label"}),
        (["评论", "类别"], {"text": "评论", "label": "类别"}),
    ],
)
def test_usual_names_are_guessed_and_reported(known: list[str], expected: dict[str, str]) -> None:
    notes: list[str] = []
    assert names(known, notes) == expected
    guessed = {name: own for name, own in expected.items() if name != own}
    said = {f"column '{own}' is read as {name} (data.columns.{name})" for name, own in guessed.items()}
    assert set(notes) == said


def test_the_options_win() -> None:
    notes: list[str] = []
    assert names(["text", "title", "label"], notes, text="title") == {"text": "title", "label": "label"}
    assert names(["content", "review", "label"], notes, text="review") == {"text": "review", "label": "label"}
    assert notes == []


@pytest.mark.parametrize(
    ("known", "chosen", "fault"),
    [
        (["content", "review", "label"], {}, r"f:1: no column 'text', and 'content', 'review' may be meant: data\.col"),
        (["question", "sentence", "label"], {}, "no column 'text', and 'question', 'sentence' may be meant"),
        (["text", "intent", "category"], {}, "no column 'label', and 'intent', 'category' may be meant"),
        (["headline", "label"], {}, r"f:1: no column 'text' \(known: headline, label\); data\.columns\.text=NAME"),
        (["text", "label"], {"text": "txt"}, r"no column 'txt'; did you mean 'text'"),
        (["text", "label"], {"text_pair": "second"}, "no column 'second'"),
        (
            ["text", "label"],
            {"lable": "label"},
            "lable: the task has no such column; did you mean 'label'",
        ),
        (["text", "label"], {"label": "text"}, "'text' cannot be both text and label"),
    ],
)
def test_no_column_or_two_are_refused(known: list[str], chosen: dict[str, str], fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        names(known, **chosen)


def test_a_column_that_some_rows_lack_is_found() -> None:
    rows = records(None, {"text": "a"}, {"text": "b", "label": 1})
    columns, again = find_columns(rows, CLASSIFICATION.columns, {}, print)
    assert list(again) == rows
    assert columns.read_row({"text": "a"}) == ({"text": "a"}, "no column 'label'")
    assert columns.read_row({"text": float("nan"), "label": b"x"}) == ({"text": None, "label": "x"}, None)
    assert find_columns(records(None), CLASSIFICATION.columns, {}, print)[0].names == {}


@pytest.mark.parametrize(("known", "name"), [("tokens", "tokens"), ("text", "text"), ("words", "words")])
def test_inputs_of_a_prediction_need_no_label(known: str, name: str) -> None:
    columns, _ = match_inputs(records({known: "x"}), load_task("token_classification", {}), {}, lambda _: None)
    assert list(columns.names.values()) == [name]
    with pytest.raises(DataError, match="no column 'text'"):
        match_inputs(records({"label": "x"}), load_task("token_classification", {}), {}, print)
