"""What stays in each layer: never less than the floor, and as much in all as was asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastserve_compression.sparsity_allocation import allocate

VALUES = st.floats(0, 1e6, allow_subnormal=False)
LAYERS = st.lists(st.lists(VALUES, min_size=1, max_size=70), min_size=1, max_size=6)
SHARES = st.floats(0, 0.99)


def least(scores: list[list[float]], floor: int, block: int) -> list[int]:
    return [min(len(layer), -(-floor // block) * block) for layer in scores]


@given(LAYERS, SHARES, st.integers(1, 40), st.sampled_from([1, 4, 16]))
def test_floors_blocks_and_totals_are_kept(scores: list[list[float]], share: float, floor: int, block: int) -> None:
    kept = allocate(scores, share, [floor] * len(scores), block)
    floors, total = least(scores, floor, block), sum(map(len, scores))
    for one, layer, lowest in zip(kept, scores, floors, strict=True):
        assert one == sorted(set(one))
        assert set(one) <= set(range(len(layer)))
        assert len(one) >= lowest
        assert len(one) % block == 0 or len(one) == len(layer)
    wanted = total - round(share * total)
    assert abs(sum(map(len, kept)) - max(wanted, sum(floors))) <= block / 2


@given(LAYERS, st.floats(0.01, 0.99), st.integers(1, 40), st.sampled_from([1, 16]))
def test_uniform_layers_are_alike(scores: list[list[float]], share: float, floor: int, block: int) -> None:
    counts = {len(one) for one in allocate(scores, share, [floor] * len(scores), block, uniform=True)}
    shortest = min(map(len, scores))
    assert len(counts) == 1
    assert min(shortest, floor) <= counts.pop() <= shortest


@given(LAYERS, SHARES)
def test_within_a_layer_the_best_stay(scores: list[list[float]], share: float) -> None:
    for one, layer in zip(allocate(scores, share, [1] * len(scores)), scores, strict=True):
        gone = [value for number, value in enumerate(layer) if number not in one]
        assert not gone or max(gone) <= min(layer[number] for number in one)


def test_layers_are_ranked_together() -> None:
    scores = [[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 3.0, 4.0]]
    assert allocate(scores, 0.5, [1, 1]) == [[0, 1, 2], [3]]
    assert allocate(scores, 0.5, [1, 1], uniform=True) == [[0, 1], [2, 3]]
    assert allocate(scores, 0, [1, 1]) == [[0, 1, 2, 3], [0, 1, 2, 3]]
