"""What training will take, said before it starts; without torch, so that a reused run does not load it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import read_json
from fastserve_core.events import Preflight
from fastserve_core.plugins import TrainContext
from fastserve_core.processes import available_memory
from fastserve_torch_ddp.options import DDPOptions

SAMPLE = 300
BASE_BYTES = 600_000_000
"""A rank before it has a model: the interpreter, torch and transformers."""
LEAST_PARAMETERS = 2_000_000
MIN_ROWS = 8
"""What a rank needs to be worth its start, and rows of a batch for it to be worth its exchange."""
START_SECONDS = 8.0
"""Starting the launcher and the ranks, which import torch and transformers."""
STATE_BYTES = 16
"""A parameter's weight, gradient and Adam's two moments in fp32."""
ACTIVATION_FLOATS = 34
"""Floats kept for the backward pass, for each token, layer and unit of width (Korthikanti et al. 2022)."""
FLOPS_PER_S_CORE = 2.0e11
"""What one core of a CPU with bf16 matrix units reached in training here; older ones take several times longer."""


def estimate(run: TrainContext, options: DDPOptions) -> Preflight:
    """Rows, tokens an epoch, parameters, memory and time; time is right within a factor of a few."""
    config = read_json(run.model.folder / "config.json")
    layers, width = _first(config, "num_hidden_layers", "n_layer"), _first(config, "hidden_size", "n_embd")
    parameters, embedded = count_parameters(run.model.folder, config, layers, width)
    tokens_a_row, rows = _tokens_a_row(run), run.data.counts["train"]
    tokens = round(tokens_a_row * rows)
    ranks = options.nproc or ranks_for(options.batch_size, run.threads, parameters)
    step_tokens = options.batch_tokens or min(options.batch_size, rows) * tokens_a_row * 2
    batch_tokens = step_tokens / options.gradient_accumulation_steps
    memory = ranks * (BASE_BYTES + STATE_BYTES * parameters) + 4 * ACTIVATION_FLOATS * batch_tokens * layers * width
    # forward and backward take six operations a parameter and token; embeddings are only looked up
    flops = 6 * (parameters - embedded) * tokens * options.epochs
    return Preflight(
        rows=rows,
        tokens=tokens,
        parameters=parameters,
        memory_bytes=round(memory),
        available_bytes=available_memory(),
        seconds=round(START_SECONDS + flops / (FLOPS_PER_S_CORE * run.threads), 1),
    )


def ranks_for(batch_size: int, cores: int, parameters: int) -> int:
    """How many ranks a CPU does best with: one a core, each with enough rows, but for models that cost nothing.

    A step of MiniLM took two ranks of one thread less time than one rank of two threads, since much of it is
    small work that threads do not share well, and ranks on one machine hand each other gradients in memory.
    """
    return 1 if parameters < LEAST_PARAMETERS else max(1, min(cores, batch_size // MIN_ROWS))


def parameters_of(folder: Path) -> tuple[int, int]:
    """A model folder's parameters: all, and those of embedding tables."""
    config = read_json(folder / "config.json")
    layers, width = _first(config, "num_hidden_layers", "n_layer"), _first(config, "hidden_size", "n_embd")
    return count_parameters(folder, config, layers, width)


def count_parameters(folder: Path, config: Mapping[str, Any], layers: int, width: int) -> tuple[int, int]:
    """All parameters and those of embedding tables: from the weights' header, or from the dimensions."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        positions = _first(config, "max_position_embeddings", "n_positions")
        vocabulary = (int(config.get("vocab_size", 0)) + positions) * width
        inner = _first(config, "intermediate_size", "n_inner", default=4 * width)
        return vocabulary + layers * (4 * width * width + 2 * width * inner), vocabulary
    total = embedded = 0
    for path in files:
        for name, tensor in _safetensors_header(path).items():
            size = 1
            for dimension in tensor["shape"]:
                size *= dimension
            total += size
            embedded += size if "embeddings.weight" in name or name.endswith(("wte.weight", "wpe.weight")) else 0
    return total, embedded


def _safetensors_header(path: Path) -> dict[str, Any]:
    """A safetensors file's own table of contents."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header


def _first(config: Mapping[str, Any], *names: str, default: int = 0) -> int:
    return next((int(config[name]) for name in names if config.get(name) is not None), default)


def _tokens_a_row(run: TrainContext) -> float:
    rows = run.data.rows("train")[:SAMPLE]  # which the cut has shuffled
    return sum(len(one) for one in run.task.encoder(run.model.folder)(rows)) / max(1, len(rows))
