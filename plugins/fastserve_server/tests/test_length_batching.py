"""The picker loses nothing, doubles nothing, keeps its bound, and lets nobody starve."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastserve_server.length_batching import MAX_PASS_TOKENS, PASS_TOKENS, BatchCostModel, LengthQueue

LENGTHS = st.integers(1, 128)
ADD = st.tuples(st.just("add"), LENGTHS, st.sampled_from(["greedy", "sampled"]))
TAKE = st.tuples(st.just("take"), st.integers(1, 8), st.just(""))
REMOVE = st.tuples(st.just("remove"), st.integers(0, 59), st.just(""))


@given(st.lists(st.one_of(ADD, ADD, ADD, TAKE, REMOVE), max_size=60))
def test_any_order_of_adding_taking_and_removing(steps: list[tuple[str, int, str]]) -> None:
    waiting: LengthQueue[int] = LengthQueue()
    groups: dict[int, str] = {}
    here: list[int] = []  # the numbers that should be waiting, oldest first
    for kind, value, group in steps:
        if kind == "add":
            number = waiting.add(len(groups), value, group)
            assert number == len(groups)
            groups[number] = group
            here.append(number)
        elif kind == "remove":
            assert waiting.remove(value) == (value in here)
            here = [one for one in here if one != value]
        elif here:
            assert waiting.oldest() == here[0]
            batch = waiting.take(value)
            assert here[0] in batch
            assert len(batch) == len(set(batch)) <= value
            assert {groups[one] for one in batch} == {groups[here[0]]}
            assert set(batch) <= set(here)
            here = [one for one in here if one not in batch]
        assert len(waiting) == len(here)
    while waiting:
        for one in waiting.take(8):
            here.remove(one)
    assert not here


@given(st.lists(LENGTHS, min_size=1, max_size=60), st.integers(1, 16))
def test_the_oldest_waits_for_no_more_passes_than_came_before_it(lengths: list[int], most: int) -> None:
    waiting: LengthQueue[int] = LengthQueue()
    for number, length in enumerate(lengths):
        waiting.add(number, length)
    passes = 0
    while waiting:
        for one in waiting.take(most):
            assert passes <= one
        passes += 1
        if passes < 20:
            waiting.add(10**6, 64)  # newcomers push nobody back


def test_equal_lengths_fill_the_batch_oldest_first() -> None:
    waiting: LengthQueue[int] = LengthQueue()
    for number in range(10):
        waiting.add(number, 20)
    assert waiting.take(4) == [0, 1, 2, 3]


def test_near_lengths_go_together_and_far_ones_wait() -> None:
    waiting: LengthQueue[str] = LengthQueue()
    for name, length in (("short", 5), ("long", 120), ("shorter", 3), ("longer", 125)):
        waiting.add(name, length)
    assert sorted(waiting.take(8)) == ["short", "shorter"]
    assert sorted(waiting.take(8)) == ["long", "longer"]


def test_an_input_joins_when_padding_costs_less_than_a_pass() -> None:
    waiting: LengthQueue[str] = LengthQueue()
    waiting.add("oldest", 40)
    waiting.add("joins", 40 - round(PASS_TOKENS))
    waiting.add("waits", 40 + round(PASS_TOKENS) + 1)
    assert sorted(waiting.take(8)) == ["joins", "oldest"]


def test_the_more_there_are_the_less_padding_is_worth_it() -> None:
    waiting: LengthQueue[int] = LengthQueue()
    for length in (40, 40, 40, 40, 40 - 9):
        waiting.add(length, length)
    assert waiting.take(8, pass_tokens=4 * 9 - 1) == [40] * 4
    waiting.add(40 - 8, 40 - 8)
    assert waiting.take(8, pass_tokens=8) == [31, 32]


def test_where_others_wait_anyway_a_pass_has_a_usual_size() -> None:
    waiting: LengthQueue[int] = LengthQueue()
    for number in range(7):
        waiting.add(number, 20)
    assert waiting.take(32) == [0, 1, 2, 3, 4, 5, 6]
    for number in range(7):
        waiting.add(number, 20)
    waiting.add(7, 500)
    assert waiting.take(32) == [0, 1, 2, 3, 4, 5]
    assert waiting.take(32) == [6]
    assert waiting.take(32) == [7]


@given(st.floats(1e-4, 1e-2), st.floats(10, 400), st.lists(st.integers(8, 4096), min_size=20, max_size=60, unique=True))
def test_the_cost_of_a_pass_is_learned_from_passes(token_s: float, cost: float, sizes: list[int]) -> None:
    learned = BatchCostModel()
    assert learned.tokens == PASS_TOKENS
    for tokens in [8, 2048, *sizes]:
        learned.update(tokens, token_s * (cost + tokens))
    assert abs(learned.tokens - cost) < 0.01 * cost + 0.1


def test_passes_of_one_size_teach_nothing_and_the_cost_keeps_its_bounds() -> None:
    learned = BatchCostModel()
    for _ in range(50):
        learned.update(100, 0.01)
    assert learned.tokens == PASS_TOKENS
    other = BatchCostModel()
    for tokens in range(10, 100):
        other.update(tokens, 1.0 + 1e-6 * tokens)
    assert other.tokens == MAX_PASS_TOKENS
