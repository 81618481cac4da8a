"""What every section of the compression benchmark is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHAPES = ((1, 32), (1, 128), (8, 32), (32, 32), (32, 128))
"""Batches and tokens of each row."""


@dataclass(frozen=True)
class Bench:
    """``rows`` bounds the reviews of all splits together, ``epochs`` those of every training; null: all, as usual.

    ``conll`` are the files of the tagger: train, validation, test.
    """

    home: Path
    scratch: Path
    threads: int
    seeds: tuple[int, ...]
    rows: int | None = None
    epochs: int | None = None
    rounds: int = 15
    conll: tuple[Path, Path, Path] | None = None
