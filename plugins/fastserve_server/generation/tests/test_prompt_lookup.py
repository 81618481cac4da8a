"""Guesses of the next tokens: those that followed the last ones before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastserve_server.generation.prompt_lookup import NGRAM, PromptLookup


def test_what_followed_the_last_tokens_before_is_guessed() -> None:
    lookup, text = PromptLookup(4), [1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3]
    assert lookup.guess(text, 10) == [4, 5, 6, 7]
    assert lookup.guess(text, 2) == [4, 5]
    text += [8, 1, 2, 3]
    assert lookup.guess(text, 10) == [8, 1, 2, 3]  # the last time
    assert lookup.guess([*text, 50], 10) == []


def test_wrong_guesses_make_the_next_ones_short() -> None:
    lookup, text = PromptLookup(8), [*range(20), 0, 1, 2]
    lookup.record(0)
    assert lookup.guess(text, 10) == [3]
    lookup.record(1)
    assert lookup.guess(text, 10) == [3, 4, 5]
    lookup.record(8)
    assert lookup.guess(text, 10) == list(range(3, 11))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_a_guess_is_a_part_of_the_text_behind_the_same_tokens(text: list[int], most: int, limit: int) -> None:
    grown = PromptLookup(most)
    for end in range(1, len(text)):
        grown.guess(text[:end], limit)
    found = grown.guess(text, limit)
    assert found == PromptLookup(most).guess(text, limit)
    assert len(found) <= min(most, limit)
    places = [place for place in range(NGRAM, len(text)) if text[place - NGRAM : place] == text[-NGRAM:]]
    assert found == (text[places[-1] :][: min(most, limit)] if places else [])
