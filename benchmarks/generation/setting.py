"""What every section of the generation benchmark is given, and the models that they write with."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastserve_core.artifacts import read_json
from fastserve_core.errors import StageError

TOKENS, CONCURRENCY = 64, (1, 8)
PROMPT_TOKENS = (8, 48)


@dataclass(frozen=True)
class Bench:
    """``rounds`` of each figure; ``jobs`` of the mixed load."""

    home: Path
    scratch: Path
    threads: int
    rounds: int = 3
    jobs: int = 80


@dataclass(frozen=True)
class Models:
    """SmolLM2-135M in fp32, and with weights of 8 bits: artifacts."""

    original: Path
    quantized: Path


def models(bench: Bench) -> Models:
    """Made as a user makes them; what an earlier run left in the store is reused."""
    folder = bench.scratch / "run"
    command = [
        *(sys.executable, "-m", "fastserve_core", "+plugin=neural_compressor", "model=smollm2", "task=causal_lm"),
        *("data=movie_reviews", "data.max_rows=600", "engine=openvino", "gate.enabled=false"),
        *("compress.neural_compressor.method=rtn", "compress.neural_compressor.bits=8"),
        f"hydra.run.dir={folder}",
    ]
    environment = os.environ | {"FASTSERVE_HOME": str(bench.home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"the models could not be made:\n{done.stderr[-2000:]}")
    original, made = read_json(folder / "run.json")["stages"]
    return Models(Path(original["artifact"]), Path(made["artifact"]))


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Tokens at random: what a text costs does not depend on what it says."""
    random = np.random.default_rng(seed)
    return [random.integers(100, 40_000, int(random.integers(*PROMPT_TOKENS))).tolist() for _ in range(count)]
