"""The logits of words to tags without contradictions, and to the spans of a text that the tags mark."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from fastserve_text.tagging import tag_schemes
from fastserve_text.tagging.aggregation import word_log_probabilities
from fastserve_text.tagging.encoding import WordAlignment
from fastserve_text.tagging.tag_schemes import OUTSIDE

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, Any]


class TaggedSpan(NamedTuple):
    """A part of a text with its type: its words and its characters, each from a first one to the one behind its last.

    ``score`` is the mean probability of the tags of its words.
    """

    kind: str
    text: str
    first_word: int
    end_word: int
    start: int
    end: int
    score: float


class Tagger:
    """Chooses the likeliest tags that do not contradict each other.

    Args:
        tags: All tags, in the order of the logits' columns.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        self.tags = list(tags)
        self._forbidden = tag_schemes.forbidden_transitions(self.tags)

    def choose(
        self, alignment: WordAlignment, logits: Matrix, aggregation_strategy: str = "first"
    ) -> tuple[list[str], list[float]]:
        """Return the tag of each word and its probability; those of words without tokens are ``O`` and 0.

        Args:
            alignment: The words and their tokens.
            logits: Shape (tokens, tags).
            aggregation_strategy: How the tokens of a word become one.
        """
        import numpy as np

        tags, scores = [OUTSIDE] * len(alignment.words), [0.0] * len(alignment.words)
        if alignment.first_tokens and self.tags:
            probabilities = word_log_probabilities(logits, alignment.first_tokens, aggregation_strategy)
            chosen = tag_schemes.best_tags(probabilities, *self._forbidden)
            found = np.exp(probabilities[np.arange(len(chosen)), chosen]).tolist()
            for word, number, score in zip(alignment.word_numbers, chosen, found, strict=True):
                tags[word], scores[word] = self.tags[number], score
        return tags, scores

    def find_spans(self, alignment: WordAlignment, tags: Sequence[str], scores: Sequence[float]) -> list[TaggedSpan]:
        """Return the spans that tags mark.

        Args:
            alignment: The words and their characters.
            tags: One tag a word.
            scores: The probability of each word's tag.
        """
        spans = []
        for kind, first, end in tag_schemes.find_entities(tags, self.tags):
            begin, stop = alignment.bounds[first][0], alignment.bounds[end - 1][1]
            score = fmean(scores[first:end])
            spans.append(TaggedSpan(kind, alignment.text[begin:stop], first, end, begin, stop, score))
        return spans

    def mark(self, tags: Sequence[str]) -> list[str]:
        """Return the BIO tags that mark the same spans."""
        return tag_schemes.mark_entities(tags, self.tags)
