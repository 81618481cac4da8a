"""Simple baselines: the most frequent answer, and linear models on weighted words (TF-IDF)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.data import load_dataset
from tasks.scorers import score_classes, score_intents, score_numbers, score_relations, score_tags, score_texts

Rows = Sequence[dict[str, Any]]
Baseline = Callable[[Rows, Rows], dict[str, float]]


def score_baseline(head: str, data: Path) -> dict[str, float]:
    """Return the scores of the simple baseline of a task on the test split; none for questions."""
    dataset = load_dataset(data)
    baseline = BASELINES.get(head)
    return baseline(list(dataset.rows("train")), list(dataset.rows("test"))) if baseline else {}


def _texts(rows: Rows) -> list[str]:
    return [" ".join(filter(None, (_text(row), row.get("text_pair")))) for row in rows]


def _text(row: dict[str, Any]) -> str:
    return row["text"] if "text" in row else " ".join(row["tokens"])


def _classify(train: Rows, test: Rows, column: str) -> list[str]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000, C=10)
    )
    model.fit(_texts(train), [row[column] for row in train])
    return list(model.predict(_texts(test)))


def _classes(train: Rows, test: Rows) -> dict[str, float]:
    return score_classes(_classify(train, test, "label"), [row["label"] for row in test])


def _relations(train: Rows, test: Rows) -> dict[str, float]:
    return score_relations(_classify(train, test, "relation"), [row["relation"] for row in test])


def _numbers(train: Rows, test: Rows) -> dict[str, float]:
    """The cosine of the weighted words of both texts, which needs no training."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer().fit([row[name] for row in train for name in ("text", "text_pair")])
    first, second = (words.transform([row[name] for row in test]) for name in ("text", "text_pair"))
    guesses = first.multiply(second).sum(axis=1).A1
    return score_numbers(guesses.tolist(), [float(row["score"]) for row in test])


def _choose_tags(train: Rows, test: Rows) -> list[list[str]]:
    """The most frequent tag of each word in training; ``O`` for an unknown word."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            seen[word.lower()][tag] += 1
    best = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
    return [[best.get(word.lower(), "O") for word in row["tokens"]] for row in test]


def _tags(train: Rows, test: Rows) -> dict[str, float]:
    return score_tags(_choose_tags(train, test), [row["tags"] for row in test])


def _intents(train: Rows, test: Rows) -> dict[str, float]:
    guesses = _classify(train, test, "intent")
    if "tags" not in test[0]:
        inside = [(one, row["intent"]) for one, row in zip(guesses, test, strict=True) if row["intent"] != "oos"]
        return {"in_scope": sum(one == name for one, name in inside) / len(inside)}
    return score_intents(
        guesses, _choose_tags(train, test), [row["intent"] for row in test], [row["tags"] for row in test]
    )


def _lead(train: Rows, test: Rows) -> dict[str, float]:
    """The first sentence of each text."""
    first = [re.split(r"(?<=[.!?])\s", row["text"], maxsplit=1)[0] for row in test]
    return score_texts(first, [row["target"] for row in test])


BASELINES: dict[str, Baseline] = {
    "classes": _classes,
    "numbers": _numbers,
    "relations": _relations,
    "tags": _tags,
    "intents": _intents,
    "texts": _lead,
}
