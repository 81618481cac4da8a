"""Whatever the tokens, what is shown is the text up to its first stop string, and never more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastserve_server.generation.stop_strings import StopStringFilter


class Parts:
    """A speller whose tokens are the places of given parts."""

    def __init__(self, parts: list[str], left: str = "") -> None:
        self.parts, self.left = parts, left

    def add(self, token: int) -> str:
        return self.parts[token]

    def end(self) -> str:
        return self.left


PARTS = st.lists(st.text("abc", max_size=4), max_size=12)
STOPS = st.lists(st.text("abc", max_size=4), max_size=3)


def first_stop(text: str, stops: list[str]) -> int:
    return min((place for one in stops if one and (place := text.find(one)) >= 0), default=-1)


@given(PARTS, STOPS)
def test_shown_is_the_text_before_the_first_stop(parts: list[str], stops: list[str]) -> None:
    spelling, shown, whole = StopStringFilter(Parts(parts, "?"), stops), "", ""
    for token, part in enumerate(parts):
        whole += part
        shown += spelling.add(token)
        assert spelling.stopped == (first_stop(whole, stops) >= 0)
        assert whole.startswith(shown)
        if spelling.stopped:
            break
    shown += spelling.flush()
    assert shown == (whole[: first_stop(whole, stops)] if spelling.stopped else whole + "?")


def test_nothing_is_held_back_without_need() -> None:
    spelling = StopStringFilter(Parts(["a\n", "\nb", "c"]), ["\n\nUser:"])
    assert [spelling.add(token) for token in range(3)] == ["a", "\n\nb", "c"]
