"""The scores are those of SemEval's and TACRED's own scorers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_text.relation_classification.relation_metrics import macro_f1, micro_f1, parse_relation

TRUTH = ["Cause(e1,e2)", "Cause(e1,e2)", "Cause(e2,e1)", "Part(e1,e2)", "Other", "Other"]
GUESSES = ["Cause(e1,e2)", "Cause(e2,e1)", "Cause(e2,e1)", "Other", "Cause(e1,e2)", "Other"]
LABELS = [f"{name}({way})" for name in ("Cause", "Part", "Topic") for way in ("e1,e2", "e2,e1")] + ["Other"]


def test_both_directions_of_a_relation_are_counted_together_and_a_wrong_one_is_wrong() -> None:
    # Cause: 2 right of 4 guessed and of 3 true, F1 4/7; Part: none right
    assert macro_f1(GUESSES, TRUTH, "Other") == pytest.approx((4 / 7 + 0) / 2)
    # 2 right of 4 guessed and 4 true relations
    assert micro_f1(GUESSES, TRUTH, "Other") == pytest.approx(0.5)


def test_without_a_label_for_no_relation_all_labels_count() -> None:
    assert macro_f1(["a", "b", "O"], ["a", "O", "O"], None) == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert micro_f1(["a", "b", "O"], ["a", "O", "O"], None) == pytest.approx(2 / 3)


def test_no_relations_at_all_have_no_score() -> None:
    assert macro_f1(["Other"], ["Other"], "Other") is None
    assert micro_f1(["Other"], ["Other"], "Other") is None
    assert macro_f1(["a"], ["Other"], "Other") == 0


def official_macro_f1(guesses: list[str], truth: list[str]) -> float:
    """Follow the official scorer: a matrix without directions, and a column for wrong ones."""
    names = sorted({label.partition("(")[0] for label in guesses + truth} - {"Other"})
    pairs, scores = list(zip(guesses, truth, strict=True)), []
    for name in names:
        true = [guess for guess, label in pairs if label.startswith(f"{name}(")]
        right = sum(
            guess == label and label.startswith(f"{name}(") for guess, label in zip(guesses, truth, strict=True)
        )
        wrong_direction = sum(guess.startswith(f"{name}(") for guess in true) - right
        from_others = sum(guess.startswith(f"{name}(") for guess in guesses) - right - wrong_direction
        precision = right / total if (total := right + wrong_direction + from_others) else 0
        recall = right / len(true) if true else 0
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
    return sum(scores) / len(names)


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40))
def test_the_macro_f1_is_that_of_the_official_scorer(pairs: list[tuple[str, str]]) -> None:
    guesses, truth = map(list, zip(*pairs, strict=True))
    score = macro_f1(guesses, truth, "Other")
    if score is None:
        assert set(guesses + truth) == {"Other"}
    else:
        assert score == pytest.approx(official_macro_f1(guesses, truth))


@pytest.mark.parametrize(
    ("label", "relation"),
    [
        ("Cause-Effect(e2,e1)", ("Cause-Effect", True)),
        ("Cause-Effect(e1,e2)", ("Cause-Effect", False)),
        ("per:title", ("per:title", False)),
        ("(e1,e2)", ("(e1,e2)", False)),
        ("a(e1,e3)", ("a(e1,e3)", False)),
    ],
)
def test_directions_of_labels(label: str, relation: tuple[str, bool]) -> None:
    assert parse_relation(label) == relation
