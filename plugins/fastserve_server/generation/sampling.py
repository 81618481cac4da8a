"""Which token comes next, of the logits and what a request asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CANDIDATES = 1024
"""Of so many likeliest tokens ``top_p`` chooses first: to sort a whole vocabulary takes milliseconds."""


@dataclass(frozen=True)
class Sampling:
    """OpenAI's parameters: ``temperature`` 0 takes the likeliest token; ``top_k`` 0 and ``top_p`` 1 leave all in.

    Penalties are taken off the logits of tokens that the text has already, ``logit_bias`` is added by token.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


def sample(logits: Any, sampling: Sampling, counts: Mapping[int, int], random: np.random.Generator) -> int:
    """A token of logits (vocabulary); ``counts`` is how often the text has each of its tokens."""
    logits = _apply_penalties(logits, sampling, counts)
    if not sampling.temperature:
        return int(logits.argmax())
    kept = _top_k_top_p(logits / sampling.temperature, sampling)
    chances = _softmax(logits[kept] / sampling.temperature)
    drawn = np.searchsorted(chances.cumsum(), random.random() * chances.sum(), side="right")
    return int(kept[min(drawn, len(kept) - 1)])


def _apply_penalties(logits: Any, sampling: Sampling, counts: Mapping[int, int]) -> Any:
    penalized = counts and (sampling.presence_penalty or sampling.frequency_penalty)
    if not penalized and not sampling.logit_bias:
        return logits
    logits = logits.copy()
    if penalized:
        tokens, times = np.array(list(counts)), np.array(list(counts.values()))
        logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * times
    for token, bias in sampling.logit_bias.items():
        if 0 <= token < len(logits):
            logits[token] += bias
    return logits


def _top_k_top_p(logits: Any, sampling: Sampling) -> Any:
    """The tokens that ``top_k`` and ``top_p`` leave, likeliest first; at least one."""
    count = min(sampling.top_k or len(logits), len(logits))
    if sampling.top_p >= 1:
        return np.arange(len(logits)) if count == len(logits) else _first(logits, count)
    chances = _softmax(logits)
    for most in (min(CANDIDATES, count), count):
        order = _first(logits, most)
        reached = chances[order].cumsum()
        mass = sampling.top_p * (chances.sum() if count == len(logits) else chances[_first(logits, count)].sum())
        if reached[-1] >= mass:
            break
    return order[: int(np.searchsorted(reached, mass)) + 1]


def _first(logits: Any, count: int) -> Any:
    """The places of the largest logits, largest first."""
    places = np.arange(len(logits)) if count == len(logits) else np.argpartition(-logits, count - 1)[:count]
    return places[np.argsort(-logits[places], kind="stable")]


def _softmax(logits: Any) -> Any:
    chances = np.exp((logits - logits.max()).astype(np.float64))
    return chances / chances.sum()
