"""What every task of the benchmark is given: the data, the machine, and how often it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

QUICK_ROWS, QUICK_EPOCHS = 300, 1


@dataclass(frozen=True)
class Bench:
    """The setting of all tasks.

    Attributes:
        data: The folder with the labelled sets.
        scratch: A folder for files and runs.
        seeds: One run, ours and the reference's, for each.
        rows: The number of training rows at most; null means all of them.
        epochs: The number of epochs in place of the task's own.
    """

    data: Path
    scratch: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: int | None = None
    epochs: int | None = None

    @property
    def is_quick(self) -> bool:
        """Whether the tasks are shortened."""
        return self.rows is not None


@dataclass(frozen=True)
class Scores:
    """One model's scores on the test split by the benchmark's names, and what it took.

    ``rate`` is training rows a second over all epochs; ``speedup`` (of the latency of one input) and ``size_ratio`` are
    those of the compressed model to the trained one. ``generation`` is tokens of answers a second at batch 8.
    """

    scores: dict[str, float]
    rate: float = 0.0
    speedup: float = 0.0
    size_ratio: float = 0.0
    generation: float = 0.0
