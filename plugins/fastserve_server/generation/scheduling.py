"""In what order texts are written: first come first served, or short ones before long ones without knowing which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastserve_server.generation.jobs import TextSequence

QUANTUM, LEVELS = 16.0, 8
"""Tokens that a job may write at the first level; at each further one twice as many."""
PROMPT = 1 / 8
"""What a token of a prompt costs, in written ones: a prompt's go through the model together."""
STARVED_SECONDS = 20.0


class Scheduler(Protocol):
    """Knows the jobs that are not done."""

    def add(self, job: TextSequence, now: float) -> None: ...

    def remove(self, job: TextSequence) -> None: ...

    def order(self, now: float) -> list[TextSequence]:
        """All jobs, those that shall run first at the front."""

    def on_step(self, job: TextSequence, prompt: int, written: int, now: float) -> None:
        """So many tokens of the prompt were read, and so many written, in a pass that has ended now."""


class FCFSScheduler:
    """Whoever came first runs until it is done."""

    def __init__(self) -> None:
        self._jobs: dict[TextSequence, None] = {}

    def add(self, job: TextSequence, now: float) -> None:
        self._jobs[job] = None

    def remove(self, job: TextSequence) -> None:
        del self._jobs[job]

    def order(self, now: float) -> list[TextSequence]:
        return list(self._jobs)

    def on_step(self, job: TextSequence, prompt: int, written: int, now: float) -> None:
        pass


class SkipJoinMLFQ:
    """The skip-join multi-level feedback queue of FastServe (Wu et al., 2023, arXiv 2305.05920).

    A job that has used up its level's quantum goes on one level below, where whoever has had less comes first. How
    long its answer will be is not known, but its prompt is: it joins at the level whose quantum covers the prompt,
    rather than push everyone aside for it. What has waited for long begins anew at the top.
    """

    def __init__(self) -> None:
        self._levels: list[dict[TextSequence, None]] = [{} for _ in range(LEVELS)]

    def add(self, job: TextSequence, now: float) -> None:
        cost = PROMPT * len(job.wish.prompt)
        job.level = next((level for level in range(LEVELS) if _quantum(level) >= cost), LEVELS - 1)
        job.served, job.since = 0.0, now
        self._levels[job.level][job] = None

    def remove(self, job: TextSequence) -> None:
        del self._levels[job.level][job]

    def order(self, now: float) -> list[TextSequence]:
        for level in self._levels[1:]:
            for job in [one for one in level if now - one.since > STARVED_SECONDS]:
                self._move(job, 0)
                job.since = now
        return [job for level in self._levels for job in level]

    def on_step(self, job: TextSequence, prompt: int, written: int, now: float) -> None:
        job.since = now
        job.served += PROMPT * prompt + written
        if job.served >= _quantum(job.level) and job.level < LEVELS - 1:
            self._move(job, job.level + 1)

    def _move(self, job: TextSequence, level: int) -> None:
        del self._levels[job.level][job]
        job.level, job.served = level, 0.0
        self._levels[level][job] = None


def _quantum(level: int) -> float:
    return QUANTUM * float(1 << level)


SCHEDULERS: dict[str, Callable[[], Scheduler]] = {"fcfs": FCFSScheduler, "mlfq": SkipJoinMLFQ}
"""By the names of the option ``scheduler``."""
