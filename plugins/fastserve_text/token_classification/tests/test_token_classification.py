"""Tags of texts of any length, with the characters of their entities."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import DataError, OptionError
from fastserve_core.inference.predictor import join_outputs
from fastserve_core.tasks import Encoded, Task, load_task
from fastserve_text.tagging.aggregation import STRATEGIES, word_log_probabilities
from fastserve_text.tagging.encoding import merge_windows
from fastserve_text.tagging.words import split_words

WORDS = ["Ann", "lives", "in", "Oslo"]
TAGS = ["B-PER", "O", "O", "B-LOC"]
LABELS = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]


@pytest.fixture
def task() -> Task:
    return load_task("token_classification", {"max_length": 16, "stride": 4}, LABELS)


def right_logits(task: Task, encoded: Encoded) -> np.ndarray[Any, Any]:
    """Logits that give a whole row its tags."""
    logits = np.full((len(encoded), len(task.labels)), -5.0, dtype=np.float32)
    alignment = encoded.decode_state
    for word, token in zip(alignment.word_numbers, alignment.first_tokens, strict=True):
        logits[token + alignment.frame.prefix, task.labels.index(alignment.tags[word])] = 5
    return logits


def outputs_of(task: Task, batch: list[Encoded]) -> dict[str, Any]:
    """What the model puts out for the windows of the batch."""
    passes = []
    for encoded in batch:
        logits, frame = right_logits(task, encoded), encoded.decode_state.frame
        for start in task.options.layout.starts(len(encoded), frame):
            window = task.options.layout.cut(Encoded({"input_ids": list(logits)}), frame, start)["input_ids"]
            passes.append({"logits": np.stack(window)[None]})
    return join_outputs(passes)


def test_the_tokens_of_a_word_become_one_by_the_strategy_of_the_request(task: Task) -> None:
    probabilities = np.array([[0.5, 0.4, 0.1], [0.1, 0.7, 0.2], [0.1, 0.2, 0.7], [0.0, 0.9, 0.1], [0.6, 0.3, 0.1]])
    logits, first_tokens = np.log(np.maximum(probabilities, 1e-9)), [0, 3]  # words of three and of two tokens
    expected = {
        "first": [probabilities[0], probabilities[3]],
        "average": [probabilities[:3].mean(0), probabilities[3:].mean(0)],
        "max": [probabilities[1], probabilities[3]],
    }
    expected |= dict.fromkeys(("simple", "none"), expected["first"])
    assert set(expected) == set(STRATEGIES)
    for strategy, words in expected.items():
        assert np.exp(word_log_probabilities(logits, first_tokens, strategy)) == pytest.approx(
            np.array(words), abs=1e-6
        )


def test_words_are_not_grouped_with_the_strategy_none(task: Task, tiny_bert: Path) -> None:
    words, tags = ["New", "York", "is", "big"], ["B-LOC", "I-LOC", "O", "O"]
    batch = task.encoder(tiny_bert)([{"tokens": words, "tags": tags}])
    options = task.read_parameters({"aggregation_strategy": "none"})
    (answer,) = task.with_options(options).decode(outputs_of(task, batch), batch)
    found = [(span["entity"], span["word"], span["index"], span["start"], span["end"]) for span in answer["spans"]]
    assert found == [("B-LOC", "New", 0, 0, 3), ("I-LOC", "York", 1, 4, 8)]
    assert [entity["text"] for entity in answer["entities"]] == ["New York"]
    with pytest.raises(OptionError, match="task.aggregation_strategy must be one of .*, not 'avg'"):
        task.with_options({"aggregation_strategy": "avg"})


def test_a_request_may_choose_the_stride_of_the_windows(task: Task, tiny_bert: Path) -> None:
    batch = task.encoder(tiny_bert)([{"tokens": WORDS * 12, "tags": TAGS * 12}])
    for stride in (0, 8):
        changed = task.with_options(task.read_parameters({"stride": stride}))
        assert len(changed.windows(batch[0])) != len(task.windows(batch[0]))
        (answer,) = changed.decode(outputs_of(changed, batch), batch)
        assert answer["tags"] == TAGS * 12


def test_the_first_piece_of_each_word_has_its_tag(task: Task, tiny_bert: Path) -> None:
    (one,) = task.encoder(tiny_bert)([{"tokens": WORDS, "tags": TAGS}])
    assert [task.labels[label] for label in one.target if label != -100] == TAGS
    (answer,) = task.decode({"logits": right_logits(task, one)[None]}, [one])
    assert answer["tags"] == TAGS
    assert [(found["type"], found["text"]) for found in answer["entities"]] == [("PER", "Ann"), ("LOC", "Oslo")]
    assert [(one["word"], one["start"], one["end"]) for one in answer["spans"]] == [("Ann", 0, 3), ("Oslo", 13, 17)]
    scores = task.score(task.batch_statistics({"logits": right_logits(task, one)[None]}, [one]))
    assert scores == {"accuracy": 1.0, "f1": 1.0}


def test_long_texts_are_read_in_windows_and_nothing_is_lost(task: Task, tiny_bert: Path) -> None:
    rows = [{"tokens": WORDS * count, "tags": TAGS * count} for count in (1, 40, 7)]
    encode = task.encoder(tiny_bert)
    batch = encode(rows)
    windows = [list(task.windows(encoded)) for encoded in batch]
    assert [len(one) for one in windows] == [1, len(windows[1]), len(windows[2])]
    assert len(windows[1]) > len(windows[2]) > 1
    assert max(len(window) for one in windows for window in one) == 16
    answers = task.decode(outputs_of(task, batch), batch)
    assert [answer["tags"] for answer in answers] == [row["tags"] for row in rows]
    assert len(answers[1]["spans"]) == 80
    examples = task.examples(encode(rows), "validation")
    statistics = [
        one
        for example in examples
        for one in task.batch_statistics({"logits": one_logits(task, example)[None]}, [example])
    ]
    assert task.score(statistics) == {"accuracy": 1.0, "f1": 1.0}


def one_logits(task: Task, example: Encoded) -> np.ndarray[Any, Any]:
    logits = np.full((len(example), len(task.labels)), -5.0, dtype=np.float32)
    for place, label in enumerate(example.target):
        logits[place, label if label >= 0 else LABELS.index("O")] = 5
    return logits


def test_short_rows_are_examples_as_they_are(task: Task, tiny_bert: Path) -> None:
    encoded = task.encoder(tiny_bert)([{"tokens": WORDS, "tags": TAGS}])
    assert task.examples(encoded, "0") is encoded


def test_tags_contradict_each_other_nowhere(task: Task, tiny_bert: Path) -> None:
    (one,) = task.encoder(tiny_bert)([{"tokens": WORDS}])
    logits = np.zeros((1, len(one), len(LABELS)), dtype=np.float32)
    first = [token + one.decode_state.frame.prefix for token in one.decode_state.first_tokens]
    logits[0, first[0], LABELS.index("I-PER")] = 3  # nothing has begun
    logits[0, first[0], LABELS.index("B-PER")] = 2
    logits[0, first[1], LABELS.index("I-PER")] = 3
    logits[0, first[2:], LABELS.index("O")] = 3
    (answer,) = task.decode({"logits": logits}, [one])
    assert answer["tags"] == ["B-PER", "I-PER", "O", "O"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann lives in Oslo.", ["Ann", "lives", "in", "Oslo", "."]),
        (
            'He said: "U.S. (maybe), Dr. Who?!"',
            ["He", "said", *':"', "U.S.", "(", "maybe", *"),", "Dr", ".", "Who", *'?!"'],
        ),
        ("我住在北京，Tom也是。", [*"我住在北京，", "Tom", *"也是。"]),
        ("C++ costs $5.50, @ann #tag don't", ["C++", "costs", "$5.50", ",", "@ann", "#tag", "don't"]),
        (" \t🏠  ... ", ["🏠", "..."]),
        ("カタカナ　ひらがな", [*"カタカナ　ひらがな".replace("　", "")]),
    ],
)
def test_texts_are_split_as_annotated_corpora_are(text: str, words: list[str]) -> None:
    found = [text[start:end] for start, end in split_words(text)]
    assert [word for word in found if word.strip()] == words


@given(st.text(max_size=60))
def test_words_are_parts_of_the_text_in_order(text: str) -> None:
    bounds = split_words(text)
    assert all(start < end for start, end in bounds)
    assert all(first[1] <= second[0] for first, second in pairwise(bounds))
    assert "".join(text[start:end] for start, end in bounds).split() == "".join(text.split()).split()


def test_entities_have_the_characters_of_the_text(task: Task, tiny_bert: Path) -> None:
    text = "🏠 e\u0301 Ann\u3000lives in\n\nNew Oslo."
    row = {**task.read_input(text), "tags": ["O", "O", "B-PER", "O", "O", "B-LOC", "I-LOC", "O"]}
    (one,) = task.encoder(tiny_bert)([row])
    (answer,) = task.decode(outputs_of(task, [one]), [one])
    for span in answer["spans"]:
        assert text[span["start"] : span["end"]] == span["word"]
        assert span["score"] > 0.9
    assert [span["word"] for span in answer["spans"]] == ["Ann", "New Oslo"]


def test_each_token_has_the_logits_of_the_window_with_most_context() -> None:
    windows = [(start, np.full((10, 1), start)) for start in (0, 6, 9)]
    assert merge_windows(windows, 19)[:, 0].tolist() == [0] * 8 + [6] * 5 + [9] * 6


@pytest.mark.parametrize("options", [{"max_length": 16, "stride": 9}, {"max_length": 16, "stride": -1}])
def test_windows_that_would_not_advance_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="task.stride must lie between 0 and half of task.max_length"):
        load_task("token_classification", options)


@pytest.mark.parametrize("value", ["", " \n", [], {"text": ""}, {"tokens": []}, 7])
def test_inputs_without_words_are_refused(task: Task, value: Any) -> None:
    with pytest.raises(DataError, match="an input cannot be used"):
        task.read_input(value)


def test_targets_are_for_the_words_between_blanks(task: Task) -> None:
    (row,) = task.make_rows(["Ann, of Oslo."], [["B-PER", "O", "B-LOC"]])
    assert row == {"tokens": ["Ann,", "of", "Oslo."], "tags": ["B-PER", "O", "B-LOC"]}
