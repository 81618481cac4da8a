"""Sources and references as files have them, and the scores of answers beside those of the libraries."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import Task, load_task
from fastserve_text.seq2seq.metrics import AnswerStatistic, LossStatistic, WordTokenizer, score_answers, score_losses
from fastserve_text.seq2seq.rows import read_source

ENGLISH = st.text("abcdefghij  ,.-'\n0123456789", max_size=60)


@pytest.fixture
def task() -> Task:
    return load_task("seq2seq", {})


def test_lists_of_sentences_are_one_source_and_lists_of_targets_are_references(task: Task) -> None:
    row = {"text": ["We came. ", " ", "We saw.\n"], "target": ["veni", " vidi "]}
    assert task.check(row) is None
    assert row == {"text": "We came. We saw.", "target": ["veni", "vidi"]}
    assert read_source(["我们来了。", "我们看见了。", "Done."]) == "我们来了。我们看见了。Done."
    single = {"text": "a text", "target": "one"}
    assert task.check(single) is None and single["target"] == ["one"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " ", "target": "a"}, "'text' is empty"),
        ({"text": [], "target": "a"}, "'text' is empty"),
        ({"text": math.nan, "target": "a"}, "'text' is missing"),
        ({"text": 3, "target": "a"}, "'text' is int, not text"),
        ({"text": ["a", None], "target": "a"}, "'text' has a NoneType among its sentences"),
        ({"text": "a"}, "'target' is missing"),
        ({"text": "a", "target": ""}, "'target' is empty"),
        ({"text": "a", "target": []}, "'target' is an empty list"),
        ({"text": "a", "target": ["b", "\t"]}, "'target' is empty at place 2"),
        ({"text": "a", "target": ["b", 4]}, "'target' is int at place 2, not text"),
    ],
)
def test_unusable_rows_are_reported(task: Task, row: dict[str, Any], message: str) -> None:
    assert task.check(row) == message


def test_an_input_without_text_is_refused(task: Task) -> None:
    with pytest.raises(DataError, match="'text' is empty"):
        task.read_input({"text": "\n"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "rouge3"}, "task.metric must be one of"),
        ({"num_beams": 0}, "task.num_beams must be at least 1"),
        ({"num_beams": 4, "temperature": 0.7}, "exclude each other"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "is more than task.max_new_tokens=8"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_task("seq2seq", options)


@given(st.lists(st.tuples(ENGLISH, st.lists(ENGLISH, min_size=1, max_size=3)), min_size=1, max_size=3))
def test_english_scores_are_those_of_rouge_score(texts: list[tuple[str, list[str]]]) -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = score_answers([AnswerStatistic(answer, references) for answer, references in texts])
    for name in ("rouge1", "rouge2", "rougeL"):
        expected = [scorer.score_multi(references, answer)[name].fmeasure for answer, references in texts]
        assert scores[name] == pytest.approx(sum(expected) / len(expected))


def test_chinese_is_scored_by_characters() -> None:
    scores = score_answers([AnswerStatistic("北京今天下雨。", ["北京今天下大雨。"])])
    assert scores["rouge1"] == pytest.approx(2 * 6 / (6 + 7))
    assert scores["bleu"] > 30 and scores["chrf"] > 30
    assert WordTokenizer().tokenize("GPT-4 写的摘要, été") == ["gpt", "4", "写", "的", "摘", "要", "été"]


def test_several_references_may_differ_in_number() -> None:
    pairs = [AnswerStatistic("the cat sat", ["a dog", "the cat sat"]), AnswerStatistic("yes", ["yes"])]
    scores = score_answers(pairs)
    assert scores["rouge1"] == scores["rougeL"] == 1.0
    assert scores["length_ratio"] == pytest.approx(4 / 3)


def test_repetition_is_the_share_of_triples_that_a_text_has_already() -> None:
    assert score_answers([AnswerStatistic("a b c a b c", ["x"])])["repetition"] == pytest.approx(1 / 4)
    assert score_losses([LossStatistic(6.0, 2), LossStatistic(0.0, 1)]) == {"loss": 2.0}
