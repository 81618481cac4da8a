"""Choice of the next token from logits and sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastserve_core.tasks import Sampling, softmax

TOP_P_CANDIDATES = 1024
"""Number of most likely tokens that ``top_p`` looks at first: sorting a whole vocabulary takes milliseconds."""


def sample(logits: Any, sampling: Sampling, counts: Mapping[int, int], random: np.random.Generator) -> int:
    """Choose a token.

    Args:
        logits: Array of shape (vocabulary,).
        sampling: The sampling parameters.
        counts: How often the text has each of its tokens.
        random: Generator of the draw.

    Returns:
        The token id.
    """
    logits = _apply_penalties(logits, sampling, counts)
    if not sampling.temperature:
        return int(logits.argmax())
    tokens = _top_k_top_p(logits / sampling.temperature, sampling)
    probabilities = softmax((logits[tokens] / sampling.temperature).astype(np.float64))
    drawn = np.searchsorted(probabilities.cumsum(), random.random() * probabilities.sum(), side="right")
    return int(tokens[min(drawn, len(tokens) - 1)])


def _apply_penalties(logits: Any, sampling: Sampling, counts: Mapping[int, int]) -> Any:
    has_penalty = counts and (sampling.presence_penalty or sampling.frequency_penalty)
    if not has_penalty and not sampling.logit_bias:
        return logits
    logits = logits.copy()
    if has_penalty:
        tokens, occurrences = np.array(list(counts)), np.array(list(counts.values()))
        logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * occurrences
    for token, bias in sampling.logit_bias.items():
        if 0 <= token < len(logits):
            logits[token] += bias
    return logits


def _top_k_top_p(logits: Any, sampling: Sampling) -> Any:
    """Token ids that ``top_k`` and ``top_p`` keep, the most likely first; at least one."""
    count = min(sampling.top_k or len(logits), len(logits))
    if sampling.top_p >= 1:
        return np.arange(len(logits)) if count == len(logits) else top_indices(logits, count)
    probabilities = softmax(logits.astype(np.float64))
    for candidates in (min(TOP_P_CANDIDATES, count), count):
        order = top_indices(logits, candidates)
        mass = probabilities[order].cumsum()
        total = probabilities.sum() if count == len(logits) else probabilities[top_indices(logits, count)].sum()
        if mass[-1] >= sampling.top_p * total:
            break
    return order[: int(np.searchsorted(mass, sampling.top_p * total)) + 1]


def top_indices(logits: Any, count: int) -> Any:
    """Return the indices of the largest logits, largest first."""
    indices = np.arange(len(logits)) if count == len(logits) else np.argpartition(-logits, count - 1)[:count]
    return indices[np.argsort(-logits[indices], kind="stable")]
