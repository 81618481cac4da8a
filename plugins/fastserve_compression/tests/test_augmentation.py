"""Texts made of texts: whole words of theirs, the same for a seed, rows of the kind they were made of."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_compression.augmentation import AUGMENTATIONS, AugmentedRows
from fastserve_compression.distillation import Distill, DistillOptions
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import load_task

WORD = st.text(st.characters(categories=("L",)), min_size=1, max_size=6)
WORDS = st.lists(WORD, min_size=1, max_size=30)


@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(0, 9))
def test_every_change_leaves_words_and_only_words_of_the_texts(texts: list[list[str]], seed: int) -> None:
    known = {word for words in texts for word in words}
    for change in AUGMENTATIONS:
        for words in texts:
            draw = random.Random(seed)
            made = change(words, lambda draw=draw: draw.choice(texts), draw)
            assert made
            assert set(made) <= known


def test_each_row_has_its_share_and_the_seed_decides() -> None:
    rows: list[dict[str, Any]] = [{"text": f"the {number} film is quite good", "label": "a"} for number in range(20)]
    made = list(AugmentedRows(rows, 3, 0))
    assert len(made) == 60
    assert all(one.keys() == {"text"} for one in made)
    again = AugmentedRows(rows, 3, 0)
    assert made == list(again) == list(again) != list(AugmentedRows(rows, 3, 1))
    windows = [one["text"] for one in made[40:]]
    assert all(text in row["text"] for text, row in zip(windows, rows, strict=True))


def test_words_stay_a_list_and_a_text_without_spaces_one_piece() -> None:
    tagged = list(AugmentedRows([{"tokens": ["New", "York"], "tags": ["B", "I"]}], 2, 0))
    assert [type(one["tokens"]) for one in tagged] == [list, list]
    assert all(one.keys() == {"tokens"} for one in tagged)
    (text,) = (one["text"] for one in AugmentedRows([{"text": "这部电影非常好看"}], 1, 0))
    assert " " not in text and len(text) == 8


def test_impossible_options_are_reported() -> None:
    with pytest.raises(DataError, match="augment needs single texts, but the data has pairs"):
        list(AugmentedRows([{"text": "a", "text_pair": "b"}], 1, 0))
    with pytest.raises(OptionError, match="compress.distill.augment: causal_lm learns from texts as they are"):
        Distill(DistillOptions(augment=1)).check_task(load_task("causal_lm", {}))
    with pytest.raises(OptionError, match="compress.distill.augment must be at least 0, not -1"):
        DistillOptions(augment=-1)
