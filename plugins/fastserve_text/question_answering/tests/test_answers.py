"""The forms of answers in files, and the metrics of SQuAD's evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fastserve_text.question_answering.answers import normalize_answers, split_article
from fastserve_text.question_answering.metrics import exact_match, normalize, token_f1
from fastserve_text.question_answering.spans import WindowLogits, best_spans

CONTEXT = "The mill was built by Ada Byron in 1871 🏠 beside the river."
ADA = [{"text": "Ada Byron", "start": 22}]


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ([{"text": "Ada Byron", "answer_start": 22}], ADA),
        ({"text": ["Ada Byron"], "answer_start": [22]}, ADA),
        ({"text": "Ada Byron", "answer_start": 22}, ADA),
        (ADA, ADA),
        ([{"text": "river", "answer_start": CONTEXT.index("river")}], [{"text": "river", "start": 53}]),
        ([], []),
        (None, []),
        ({"text": [], "answer_start": []}, []),
        ([{"text": "", "answer_start": -1}], []),
    ],
)
def test_answers_of_every_form_are_read(given_value: Any, expected: Any) -> None:
    row = {"context": CONTEXT, "answers": given_value}
    assert normalize_answers(row) is None
    assert row["answers"] == expected


@pytest.mark.parametrize(
    ("given_value", "fault"),
    [
        ([{"text": "Ada Byron", "answer_start": 21}], "'Ada Byron' is not at character 21 of its context: it is at 22"),
        ([{"text": "Ada Lovelace", "answer_start": 22}], "it is nowhere in the context"),
        ([{"text": "Ada Byron", "answer_start": -38}], "not at character -38"),
        ([{"text": "x" * 100, "answer_start": 9999}], "x…' is not at character 9999"),
        ([{"text": "Ada Byron"}], "needs 'text' (a text) and 'answer_start' (a whole number)"),
        ([{"text": 1871, "answer_start": 35}], "needs 'text' (a text)"),
        ([{"text": " ", "answer_start": 3}], "an answer is empty"),
        ({"text": ["Ada Byron", "1871"], "answer_start": [22]}, "2 of 'text' but not as many"),
        ("Ada Byron", "not a list of answers"),
        ([22], "not a list of answers"),
    ],
)
def test_answers_that_cannot_be_used_are_reported(given_value: Any, fault: str) -> None:
    assert fault in (normalize_answers({"context": CONTEXT, "answers": given_value}) or "")


def test_questions_of_articles_are_rows() -> None:
    questions = [{"id": "q7", "question": "who", "answers": []}, {"question": "when", "is_impossible": True}]
    article = {"title": "Mills", "paragraphs": [{"context": CONTEXT, "qas": questions}, {"context": "x"}, 7]}
    found = list(split_article(article))
    assert [(place, row["question"], row["context"]) for place, row in found] == [
        (", paragraph 1, question q7", "who", CONTEXT),
        (", paragraph 1, question 2", "when", CONTEXT),
        (", paragraph 2", None, None),
        (", paragraph 3", None, None),
    ]
    (single,) = split_article({"context": CONTEXT, "qas": questions[:1]})
    assert single == (", question q7", {**questions[0], "context": CONTEXT})
    row = {"question": "who", "context": CONTEXT, "answers": []}
    assert list(split_article(row)) == [("", row)]


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "f1"),
    [
        ("The Denver Broncos!", ["denver broncos"], 1, 1),
        ("Denver", ["Denver Broncos", "the Broncos"], 0, 2 / 3),
        ("a quick, brown fox", ["quick brown dogs jump"], 0, 4 / 7),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("the", ["a"], 1, 1),
        ("北京市", ["北京"], 0, 4 / 5),
        ("《红楼梦》", ["红楼梦"], 1, 1),
        ("２０１２年", ["2012年"], 1, 1),
    ],
)
def test_metrics_are_those_of_squads_evaluation(answer: str, truths: list[str], exact: float, f1: float) -> None:
    assert exact_match(answer, truths) == exact
    assert token_f1(answer, truths) == pytest.approx(f1)


@given(st.text(max_size=40))
def test_a_normalized_text_stays_as_it_is(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)


LOGITS = st.integers(1, 12).flatmap(
    lambda size: st.tuples(*[arrays(np.float32, size, elements=st.floats(-9, 9, width=32))] * 2)
)


@given(LOGITS, st.integers(1, 15), st.integers(1, 5))
def test_the_best_spans_are_those_of_a_search_through_all(logits: Any, max_tokens: int, count: int) -> None:
    start, end = logits
    found, null = best_spans([WindowLogits(7, start, end, 0.5)], max_tokens, count)
    every = {
        (first + 7, last + 7): float(start[first]) + float(end[last])
        for first in range(len(start))
        for last in range(first, min(len(start), first + max_tokens))
    }
    total = np.log(np.sum(np.exp([0.5, *every.values()])))
    assert null == pytest.approx(0.5 - total, abs=1e-4)
    best = sorted(every.values(), reverse=True)[:count]
    assert [span.log_probability + total for span in found] == pytest.approx(best, abs=1e-4)
    for span in found:
        assert every[span.start, span.end] == pytest.approx(span.log_probability + total, abs=1e-4)


def test_a_span_of_two_windows_counts_once_and_one_window_without_doubt_decides() -> None:
    logits = np.array([0.0, 9.0, 0.0], dtype=np.float32)
    sure = WindowLogits(0, logits, logits, 0.0)
    shifted = WindowLogits(1, np.roll(logits, -1), np.roll(logits, -1), 30.0)
    louder = WindowLogits(3, logits + 5, logits + 5, 60.0)
    found, null = best_spans([sure, shifted, louder], 1, 9)
    assert [(span.start, span.end) for span in found][:3] == [(1, 1), (0, 0), (2, 2)]
    assert len({(span.start, span.end) for span in found}) == len(found) == 6
    assert np.exp(found[0].log_probability) == pytest.approx(1.0, abs=1e-3)
    assert null == pytest.approx(-18, abs=1e-3)
