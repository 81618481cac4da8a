"""Values: missing is missing, equal numbers are one label, a list is read or refused."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.tasks.values import is_missing, plain_value, read_label, read_words

MISSING = [None, float("nan"), np.float32("nan"), np.datetime64("NaT"), pd.NaT, pd.NA, Decimal("NaN"), Decimal("sNaN")]


@pytest.mark.parametrize("value", [*MISSING, "", " \t", b""], ids=repr)
def test_a_missing_label_is_none(value: Any) -> None:
    with pytest.raises(ValueError, match="is empty"):
        read_label(value)


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ([2, 2.0, "2", "2.0", "2.00", np.int8(2), np.float32(2), Decimal("2.0"), b"2"], "2"),
        ([0, -0.0, "-0.0", "0.0"], "0"),
        ([3.5, "3.5", np.float64(3.5), Decimal("3.50")], "3.5"),
        (["2.10"], "2.10"),  # a version or a section, which is not 2.1
        (["02.0"], "02.0"),
        ([True, np.bool_(True), "True"], "True"),
        ([" joy ", b"joy", np.str_("joy"), np.array("joy")], "joy"),
        (["nan"], "nan"),
        (["null"], "null"),
        (["[UNK]"], "[UNK]"),
    ],
)
def test_equal_values_are_one_label(values: list[Any], label: str) -> None:
    assert {read_label(value) for value in values} == {label}


@pytest.mark.parametrize(
    "value", [["joy"], ("joy", "fear"), {"joy": 1}, np.array([1, 2]), "['joy', 'fear']", '["joy"]', b"\xff", object()]
)
def test_values_that_are_not_one_label_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"is (a list|a mapping|bytes|object), not one label"):
        read_label(value)


@given(st.integers(-(10**15), 10**15))
def test_whole_numbers_have_one_name_in_every_type(number: int) -> None:
    given_values = [number, str(number), float(number), str(float(number)), np.float64(number), Decimal(number)]
    plain = [value for value in given_values if "e" not in str(value)]
    assert {read_label(value) for value in plain} == {str(number)}


@pytest.mark.parametrize("value", [0, "", False, [], {}, np.array([1, 2]), np.array([]), Decimal(1), "nan"], ids=repr)
def test_a_value_is_not_missing(value: Any) -> None:
    assert not is_missing(value)


def test_plain_values_are_those_of_json() -> None:
    given_value = {"a": np.array([[1, 2]]), "b": (b"x", np.nan), "c": Decimal("1.5"), "d": np.str_("z")}
    assert plain_value(given_value) == {"a": [[1, 2]], "b": ["x", None], "c": 1.5, "d": "z"}
    assert plain_value(b"\xff") == b"\xff"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("B-ORG  O", ["B-ORG", "O"]),
        ("['B-ORG', 'O']", ["B-ORG", "O"]),
        ('["B-ORG", "O"]', ["B-ORG", "O"]),
        ("('B-ORG', 'O')", ["B-ORG", "O"]),
        ("['B-ORG' 'O'\n 'O']", ["B-ORG", "O", "O"]),  # as numpy prints, which Python reads as one string
        ("['it\\'s', \"a b\"]", ["it's", "a b"]),
        ("[0, 12, 0]", ["0", "12", "0"]),
        ("[ see note ]", ["[", "see", "note", "]"]),
        ("[deleted]", ["[deleted]"]),
        ("(see page 3)", ["(see", "page", "3)"]),
        (["B-ORG", " O "], ["B-ORG", "O"]),
        (np.array(["B-ORG", "O"]), ["B-ORG", "O"]),
    ],
)
def test_words_are_read_however_they_are_written(value: Any, words: list[str]) -> None:
    assert read_words(value) == words


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("['B-ORG', 'O'", "looks like a list and cannot be read"),
        ("[B-ORG, O]", "looks like a list and cannot be read"),
        ("['a' ... 'z']", "looks like a list and cannot be read"),
        (["O", None], "has an empty one at place 2"),
        (["O", float("nan")], "has an empty one at place 2"),
        ("[nan, 'O']", "has an empty one at place 1"),
        (["O", ["O"]], "has a list at place 2"),
        (" ", "is empty or no list of words"),
        ([], "is empty or no list of words"),
        (7, "is empty or no list of words"),
        (None, "is empty or no list of words"),
    ],
)
def test_words_that_cannot_be_read_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_words(value)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip), min_size=1))
def test_a_list_written_as_text_is_the_list(words: list[str]) -> None:
    expected = [word.strip() for word in words]
    assert read_words(json.dumps(words)) == expected == read_words(repr(words))


@given(st.text())
def test_any_text_gives_words_or_a_reason(text: str) -> None:
    try:
        assert all(isinstance(word, str) and word for word in read_words(text))
        assert read_label(text)
    except ValueError as error:
        assert str(error)
