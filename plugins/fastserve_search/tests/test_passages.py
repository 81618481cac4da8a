"""Passages of texts: parts of them, in order, with every word in one, and none longer than the size."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import OptionError
from fastserve_search.passages import UNIT, PassageCutter

PIECES = st.sampled_from(
    ["word", "Ende.", "“Was?”", "中文", "句子。", "」", "\n", "\n\n", "\n# Title\n", " ", "x" * 40, "é", "\u3000", "😀"]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES).map(" ".join), st.lists(PIECES).map("".join))


@given(TEXTS, st.integers(8, 30), st.integers(0, 4))
def test_passages_hold_every_word_of_a_text_in_order(text: str, size: int, overlap: int) -> None:
    passages = PassageCutter(size, overlap).cut(text)
    covered = set[int]()
    for passage in passages:
        part = text[passage.start : passage.end]
        assert part == part.strip() and 1 <= len(UNIT.findall(part)) <= size
        covered |= set(range(passage.start, passage.end))
    assert all(character.isspace() for place, character in enumerate(text) if place not in covered)
    for before, after in pairwise(passages):
        assert before.start < after.start and before.end < after.end
        if after.start < before.end:
            assert len(UNIT.findall(text[after.start : before.end])) <= overlap
    if not overlap:
        assert all(before.end <= after.start for before, after in pairwise(passages))


@given(TEXTS, st.integers(1, 30))
def test_passages_that_are_too_long_are_cut_again(text: str, limit: int) -> None:
    cutter = PassageCutter(40)
    passages = cutter.cut_to_fit(text, lambda parts: [len(part) > limit for part in parts])
    plain = cutter.cut(text)
    parts = [text[start:end] for start, end in passages]
    assert all(len(part) <= limit or len(UNIT.findall(part)) <= 8 for part in parts)
    joined, whole = ("".join("".join(one).split()) for one in (parts, [text[start:end] for start, end in plain]))
    assert joined == whole


@pytest.mark.parametrize(
    ("text", "passages"),
    [
        (
            "One two three four five. Six seven eight nine ten.",
            ["One two three four five.", "Six seven eight nine ten."],
        ),
        (
            "one two three four\nfive six\n\nseven eight. Nine ten",
            ["one two three four\nfive six", "seven eight. Nine ten"],
        ),
        ("a b c d. e f\n## Head\ng h i j k", ["a b c d. e f", "## Head\ng h i j k"]),
        ("今天天气好。我们去公园。他们也来", ["今天天气好。", "我们去公园。", "他们也来"]),
        ("他说“好的。”然后走了没有再回来过", ["他说“好的。”", "然后走了没有再回", "来过"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_a_text_is_cut_at_its_strongest_breaks(text: str, passages: list[str]) -> None:
    assert [text[start:end] for start, end in PassageCutter(8).cut(text)] == passages


def test_an_overlap_repeats_whole_sentences() -> None:
    text = "One two three. Four five. Six seven eight nine. Ten."
    passages = PassageCutter(8, 3).cut(text)
    assert [text[start:end] for start, end in passages] == [
        "One two three. Four five.",
        "Four five. Six seven eight nine. Ten.",
    ]


@pytest.mark.parametrize(("size", "overlap"), [(7, 0), (20, 11), (20, -1)])
def test_impossible_sizes_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(OptionError, match="words"):
        PassageCutter(size, overlap)
