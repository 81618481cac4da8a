"""Guesses of a text's next tokens from the text itself (prompt lookup decoding, Saxena 2023).

Answers that quote or edit their prompt repeat long parts of it. The model checks several guessed tokens in one pass,
which takes less time than a pass for each; a wrong guess is never part of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
"""Number of the last tokens that are looked up."""
MAX_GUESSES_PER_PASS = 16
"""Of all texts together: with more texts, a pass computes enough rows to keep the processor busy without guesses."""


class PromptLookup:
    """Finds an earlier place of the last tokens of one text, and guesses that the same tokens follow.

    After a wrong guess the next one is shorter, so that texts that repeat nothing lose little.

    Args:
        max_guesses: Maximum number of guessed tokens at a time.
    """

    def __init__(self, max_guesses: int) -> None:
        self._max, self._width = max_guesses, max_guesses
        self._followers: dict[tuple[int, ...], int] = {}
        self._num_indexed = NGRAM

    def guess(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return the tokens that followed the last ones before; none if they are new.

        Args:
            tokens: The text so far, which only grows from one call to the next.
            limit: Maximum number of tokens.
        """
        for end in range(self._num_indexed, len(tokens)):
            self._followers[tuple(tokens[end - NGRAM : end])] = end
        self._num_indexed = max(self._num_indexed, len(tokens))
        begin = self._followers.get(tuple(tokens[-NGRAM:]))
        return [] if begin is None else list(tokens[begin : begin + min(self._width, limit)])

    def record(self, num_right: int) -> None:
        """Adapt the length of the next guess to the number of right tokens of the last one."""
        self._width = min(self._max, 2 * num_right + 1)
