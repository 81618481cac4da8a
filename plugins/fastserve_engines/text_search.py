"""The search for the tokens of answers, one step at a time: greedy, sampled, or with beams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastserve_core.tasks import log_softmax

Array = np.ndarray[Any, Any]
Step = Callable[[Array, Array], Array]
"""Takes the last token of each row, of shape (rows,), and the row of the pass before that each row continues; returns
the logits of the next tokens, of shape (rows, vocabulary)."""


@dataclass(frozen=True)
class SearchOptions:
    """The tokens that begin, end and pad answers, and the options of the task of the same names."""

    start: int
    ends: Sequence[int]
    pad: int
    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float = 0.0

    @classmethod
    def of(cls, start: int, ends: Sequence[int], pad: int, options: Mapping[str, Any]) -> SearchOptions:
        """Return the options of a task."""
        names = set(cls.__dataclass_fields__) - {"start", "ends", "pad"}
        return cls(start, ends, pad, **{name: options[name] for name in names if options.get(name) is not None})


def search(step: Step, rows: int, options: SearchOptions) -> Array:
    """Return the tokens of the answers to so many sources, of shape (rows, longest), without the start and padded."""
    return (_search_beams if options.num_beams > 1 else _search_greedily)(step, rows, options)


def _search_greedily(step: Step, rows: int, options: SearchOptions) -> Array:
    texts, order = np.full((rows, 1), options.start, dtype=np.int64), np.arange(rows, dtype=np.int32)
    is_running, random = np.ones(rows, dtype=bool), np.random.default_rng()
    for _ in range(options.max_new_tokens):
        scores = _forbid(step(texts[:, -1], order), texts, options)
        if options.temperature:
            # the argmax of logits plus Gumbel noise is a sample from their softmax
            scores = scores / options.temperature + random.gumbel(size=scores.shape)
        tokens = np.where(is_running, scores.argmax(axis=-1), options.pad)
        texts = np.concatenate([texts, tokens[:, None]], axis=1)
        is_running &= ~np.isin(tokens, options.ends)
        if not is_running.any():
            break
    return texts[:, 1:]


@dataclass
class _Hypotheses:
    """The complete answers to one source, each with its score: the best ``size`` of them."""

    size: int
    found: list[tuple[float, Array]] = field(default_factory=list)

    def add(self, score: float, text: Array) -> None:
        self.found = sorted([*self.found, (score, text)], key=lambda one: -one[0])[: self.size]

    def is_beaten_by(self, score: float) -> bool:
        """Return whether an answer of that score would be among the best."""
        return len(self.found) < self.size or score > self.found[-1][0]


def _search_beams(step: Step, rows: int, options: SearchOptions) -> Array:
    """Search as transformers does: of the best candidates, those that end are set aside, and ``num_beams`` continue."""
    beams, penalty = options.num_beams, options.length_penalty
    texts = np.full((rows * beams, 1), options.start, dtype=np.int64)
    order = np.arange(rows * beams, dtype=np.int32)
    totals = np.full((rows, beams), -np.inf)
    totals[:, 0] = 0.0  # all beams are equal at the start
    done = [_Hypotheses(beams) for _ in range(rows)]
    is_open = np.ones(rows, dtype=bool)
    for length in range(1, options.max_new_tokens + 1):
        scores = _forbid(log_softmax(step(texts[:, -1], order)), texts, options)
        vocabulary = scores.shape[-1]
        sums = (scores.reshape(rows, beams, vocabulary) + totals[:, :, None]).reshape(rows, -1)
        best = _top(sums, beams * (1 + max(1, len(options.ends))))
        for row in range(rows):
            candidates = [(float(sums[row, place]), *divmod(int(place), vocabulary)) for place in best[row]]
            parents = texts[row * beams : (row + 1) * beams]
            for score, beam, token in candidates[:beams] if is_open[row] else ():
                if token in options.ends:
                    done[row].add(score / length**penalty, np.append(parents[beam], token))
            going = [one for one in candidates if one[2] not in options.ends][:beams]
            totals[row] = [score for score, _, _ in going]
            order[row * beams : (row + 1) * beams] = [row * beams + beam for _, beam, _ in going]
            best[row, :beams] = [token for _, _, token in going]
            is_open[row] &= done[row].is_beaten_by(totals[row, 0] / length**penalty)
        texts = np.concatenate([texts[order], best[:, :beams].reshape(-1, 1)], axis=1)
        if not is_open.any():
            break
    for row in map(int, np.flatnonzero(is_open)):
        for beam in range(beams):
            done[row].add(totals[row, beam] / length**penalty, texts[row * beams + beam])
    return _pad([hypotheses.found[0][1][1:] for hypotheses in done], options.pad)


def _top(sums: Array, count: int) -> Array:
    """Return the indices of the largest numbers of each row, the largest first."""
    found = np.argpartition(-sums, count - 1, axis=1)[:, :count]
    ranks = np.argsort(-np.take_along_axis(sums, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, ranks, axis=1)


def _forbid(scores: Array, texts: Array, options: SearchOptions) -> Array:
    """Return the scores without an end before the minimum length, and without sequences that a text has already."""
    size, length = options.no_repeat_ngram_size, texts.shape[1]
    if length > options.min_new_tokens and not 0 < size <= length:
        return scores
    scores = scores.copy()
    if length <= options.min_new_tokens:
        scores[:, list(options.ends)] = -np.inf
    if 0 < size <= length:
        for row, text in enumerate(texts):
            windows = np.lib.stride_tricks.sliding_window_view(text, size)
            is_same = (windows[:, :-1] == text[length - size + 1 :]).all(axis=1)
            scores[row, windows[is_same, -1]] = -np.inf
    return scores


def _pad(texts: Sequence[Array], pad: int) -> Array:
    padded = np.full((len(texts), max(map(len, texts))), pad, dtype=np.int64)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
    return padded
