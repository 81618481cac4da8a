"""What every section of the serving benchmark is given, the models that are served, and the texts that are sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compression.chains import data_of, make
from compression.setting import Bench as Compression

from fastserve_core.data import load_dataset

CONNECTIONS = 64


@dataclass(frozen=True)
class Bench:
    """``rounds`` of each figure, ``seconds`` of each load. ``rows`` and ``epochs`` bound the models' training."""

    home: Path
    scratch: Path
    threads: int
    rounds: int = 2
    seconds: int = 8
    rows: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Models:
    """MiniLM fine-tuned on movie reviews, as trained and in INT8: artifacts; and the reviews held out of both."""

    original: Path
    quantized: Path
    texts: tuple[str, ...]


def models(bench: Bench) -> Models:
    """Those of the compression benchmark; what an earlier run left in the store is reused."""
    setting = Compression(bench.home, bench.scratch / "models", bench.threads, (0,), bench.rows, bench.epochs)
    made = make(setting, "int8", 0)
    rows = load_dataset(data_of(setting, made.original)).rows("test")
    return Models(made.original, made.result, tuple(row["text"] for row in rows))
