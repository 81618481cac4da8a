"""The next token: the likeliest, or one drawn from those that are left in, as often as its probability says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.tasks import Sampling
from fastserve_server.generation.sampling import TOP_P_CANDIDATES, sample

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def drawn(sampling: Sampling, times: int = 4000, counts: dict[int, int] | None = None) -> Counter[int]:
    random = np.random.default_rng(0)
    return Counter(sample(LOGITS, sampling, counts or {}, random) for _ in range(times))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(top_p=0.8), [0.625, 0.375, 0, 0]),
        (Sampling(top_p=0.81), [0.526, 0.316, 0.158, 0]),
        (Sampling(top_p=1e-9), [1, 0, 0, 0]),
        (Sampling(top_k=3, top_p=0.5), [1, 0, 0, 0]),
        (Sampling(temperature=0.5), [0.685, 0.247, 0.062, 0.007]),
        (Sampling(temperature=0), [1, 0, 0, 0]),
        (Sampling(logit_bias={3: 100, 99: 5}), [0, 0, 0, 1]),
        (Sampling(temperature=0, logit_bias={0: -100}), [0, 1, 0, 0]),
    ],
)
def test_tokens_come_as_often_as_asked_for(sampling: Sampling, expected: list[float]) -> None:
    found = drawn(sampling)
    for token, share in enumerate(expected):
        assert found[token] / found.total() == pytest.approx(share, abs=0.025)


def test_repeated_tokens_are_less_likely() -> None:
    assert drawn(Sampling(temperature=0, presence_penalty=1.0), 1, {0: 1}) == {1: 1}
    assert drawn(Sampling(temperature=0, frequency_penalty=0.5), 1, {0: 1}) == {0: 1}
    assert drawn(Sampling(temperature=0, frequency_penalty=0.5), 1, {0: 2}) == {1: 1}


@given(
    st.integers(0, 2**32 - 1), st.floats(0.01, 0.999), st.integers(0, 4000), st.floats(0.2, 2.0), st.floats(0.1, 8.0)
)  # fmt: skip
def test_the_draw_is_always_among_the_likeliest(
    seed: int, top_p: float, top_k: int, heat: float, spread: float
) -> None:
    random = np.random.default_rng(seed)
    logits: Any = random.normal(0, spread, 2 * TOP_P_CANDIDATES).astype(np.float32)
    token = sample(logits, Sampling(temperature=heat, top_p=top_p, top_k=top_k), {}, random)
    chances = np.exp(logits.astype(np.float64) / heat)
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    before = chances[order[: int(np.flatnonzero(order == token)[0])]].sum()
    assert before < top_p * chances[order].sum() * (1 + 1e-9)
