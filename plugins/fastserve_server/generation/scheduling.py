"""Order in which texts are generated: first come first served, or short ones first without knowing which are short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastserve_server.generation.jobs import TextSequence

QUANTUM, NUM_LEVELS = 16.0, 8
"""Generated tokens that a sequence may have at the first level, doubled at each further level; number of levels."""
PROMPT_TOKEN_COST = 1 / 8
"""Cost of a prompt token, in generated tokens: the tokens of a prompt go through the model together."""
STARVATION_S = 20.0


class Scheduler(Protocol):
    """Orders the sequences that are not complete; times are seconds of the monotonic clock."""

    def add(self, sequence: TextSequence, now: float) -> None:
        """Add a sequence that has just arrived."""

    def remove(self, sequence: TextSequence) -> None:
        """Remove a complete, failed or cancelled sequence."""

    def order(self, now: float) -> list[TextSequence]:
        """Return all sequences, the most urgent first."""

    def on_step(self, sequence: TextSequence, prompt: int, generated: int, now: float) -> None:
        """Record a pass.

        Args:
            sequence: A sequence of the pass.
            prompt: Number of its prompt tokens that were processed.
            generated: Number of tokens that were generated.
            now: Time at the end of the pass.
        """


class FCFSScheduler:
    """First come, first served: a sequence runs until it is complete."""

    def __init__(self) -> None:
        self._sequences: dict[TextSequence, None] = {}

    def add(self, sequence: TextSequence, now: float) -> None:
        """Add a sequence behind all others."""
        self._sequences[sequence] = None

    def remove(self, sequence: TextSequence) -> None:
        """Remove a sequence."""
        del self._sequences[sequence]

    def order(self, now: float) -> list[TextSequence]:
        """Return all sequences in order of arrival."""
        return list(self._sequences)

    def on_step(self, sequence: TextSequence, prompt: int, generated: int, now: float) -> None:
        """Ignore the pass: it does not change the order."""


class SkipJoinMLFQ:
    """Skip-join multi-level feedback queue of FastServe (Wu et al., 2023, arXiv 2305.05920).

    A sequence that has used its level's quantum moves one level down. The length of an answer is unknown, but the
    length of its prompt is known: a sequence joins at the first level whose quantum covers the prompt. A sequence that
    has not run for ``STARVATION_S`` seconds moves to the top level.
    """

    def __init__(self) -> None:
        self._levels: list[dict[TextSequence, None]] = [{} for _ in range(NUM_LEVELS)]

    def add(self, sequence: TextSequence, now: float) -> None:
        """Add a sequence at the level that its prompt's length determines."""
        cost = PROMPT_TOKEN_COST * len(sequence.request.prompt)
        sequence.level = next((level for level in range(NUM_LEVELS) if _quantum(level) >= cost), NUM_LEVELS - 1)
        sequence.service, sequence.last_run_s = 0.0, now
        self._levels[sequence.level][sequence] = None

    def remove(self, sequence: TextSequence) -> None:
        """Remove a sequence."""
        del self._levels[sequence.level][sequence]

    def order(self, now: float) -> list[TextSequence]:
        """Return all sequences by level, after starved ones have moved to the top."""
        for level in self._levels[1:]:
            for sequence in [sequence for sequence in level if now - sequence.last_run_s > STARVATION_S]:
                self._move(sequence, 0)
                sequence.last_run_s = now
        return [sequence for level in self._levels for sequence in level]

    def on_step(self, sequence: TextSequence, prompt: int, generated: int, now: float) -> None:
        """Add the cost of a pass, and move the sequence down if it has used its quantum."""
        sequence.last_run_s = now
        sequence.service += PROMPT_TOKEN_COST * prompt + generated
        if sequence.service >= _quantum(sequence.level) and sequence.level < NUM_LEVELS - 1:
            self._move(sequence, sequence.level + 1)

    def _move(self, sequence: TextSequence, level: int) -> None:
        del self._levels[sequence.level][sequence]
        sequence.level, sequence.service = level, 0.0
        self._levels[level][sequence] = None


def _quantum(level: int) -> float:
    return QUANTUM * float(1 << level)


SCHEDULERS: dict[str, Callable[[], Scheduler]] = {"fcfs": FCFSScheduler, "mlfq": SkipJoinMLFQ}
"""Scheduler classes by the values of the option ``scheduler``."""
