"""An estimate of a training's memory and time, without torch, so that a cached run need not import it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import read_json
from fastserve_core.events import Preflight
from fastserve_core.plugins import TrainContext
from fastserve_core.processes import available_memory, read_processor
from fastserve_torch_ddp.calibration import calibrate
from fastserve_torch_ddp.options import DDPOptions

SAMPLE_ROWS = 300
"""Rows that are encoded to estimate the mean length."""
BASE_BYTES = 600_000_000
"""Memory of a rank without a model: the interpreter, torch and transformers."""
MIN_PARAMETERS, MIN_ROWS = 2_000_000, 8
"""The size of a model, and the rows of a rank's share of a batch, from which more ranks are faster than one."""
START_SECONDS = 8.0
"""Time to start the launcher and the ranks, of trainings that are too short to be calibrated."""
STATE_BYTES = 16
"""A parameter's weight, gradient and Adam's two moments in fp32."""
ACTIVATION_FLOATS = 34
"""Floats stored for the backward pass, for each token, layer and unit of width (Korthikanti et al. 2022)."""
MIN_FLOPS_PER_S_CORE, MIN_STEPS_PER_S = 5.0e9, 20.0
"""The speed of a slow core, and of steps of tiny models."""
SHORT_SECONDS = 60.0
"""A training that takes less even at that speed is not calibrated."""


def estimate(run: TrainContext, options: DDPOptions) -> Preflight:
    """Estimate rows, tokens of an epoch, parameters, memory in bytes and time in seconds.

    The time is that of steps that are taken on this machine (``calibration``), unless the training is a short one.

    Args:
        run: The context of the stage.
        options: The trainer's options.
    """
    layers, width = _dimensions(read_json(run.model.folder / "config.json"))
    parameters, embedded = count_parameters(run.model.folder)
    row_tokens, rows = _mean_row_tokens(run), run.data.counts["train"]
    tokens = round(row_tokens * rows)
    ranks = options.nproc or choose_rank_count(options.batch_size, run.threads, parameters)
    step_tokens = options.batch_tokens or min(options.batch_size, rows) * row_tokens * 2
    batch_tokens = step_tokens / options.gradient_accumulation_steps
    memory = ranks * (BASE_BYTES + STATE_BYTES * parameters) + 4 * ACTIVATION_FLOATS * batch_tokens * layers * width
    available = available_memory()
    # forward and backward take six operations for each parameter and token; embeddings are only looked up
    flops = 6 * (parameters - embedded) * tokens * options.epochs
    slow = flops / (MIN_FLOPS_PER_S_CORE * run.threads) + options.epochs * rows / options.batch_size / MIN_STEPS_PER_S
    is_measured = slow > SHORT_SECONDS and memory <= available
    costs = calibrate(run, options) if is_measured else None
    return Preflight(
        rows=rows,
        tokens=tokens,
        parameters=parameters,
        memory_bytes=round(memory),
        available_bytes=available,
        seconds=round(costs.training_seconds(options, run.budget.steps) if costs else START_SECONDS + slow, 1),
        processor=read_processor().label,
        is_measured=is_measured,
        step_seconds=costs.epoch_seconds / costs.epoch_steps if costs else 0.0,
        start_seconds=costs.start_seconds if costs else START_SECONDS,
        evaluation_seconds=costs.evaluation_seconds if costs else 0.0,
        unknown_share=run.task.unknown_share(run.model.folder, run.data.rows("train")[:SAMPLE_ROWS]),
    )


def choose_rank_count(batch_size: int, cores: int, parameters: int) -> int:
    """Choose the number of ranks on a CPU: one for each core if the model and the batch are large enough.

    A step of MiniLM took less time with two ranks of one thread than with one rank of two threads, because much of it
    is small operations that threads do not share well, and ranks on one machine exchange gradients in memory.

    Args:
        batch_size: Samples of one optimizer step.
        cores: The number of cores.
        parameters: The number of the model's parameters.
    """
    return 1 if parameters < MIN_PARAMETERS else max(1, min(cores, batch_size // MIN_ROWS))


def count_parameters(folder: Path) -> tuple[int, int]:
    """Return the numbers of all parameters and of those in embedding tables.

    They are read from the headers of the weights' files, or estimated from the config if there are no weights.

    Args:
        folder: The model's folder.
    """
    config = read_json(folder / "config.json")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        layers, width = _dimensions(config)
        positions = _first_value(config, "max_position_embeddings", "n_positions")
        vocabulary = (int(config.get("vocab_size", 0)) + positions) * width
        inner = _first_value(config, "intermediate_size", "n_inner", default=4 * width)
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
    """Read the header of a safetensors file: the type, shape and offsets of each tensor."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header


def _dimensions(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of layers and the hidden size."""
    return _first_value(config, "num_hidden_layers", "n_layer"), _first_value(config, "hidden_size", "n_embd")


def _first_value(config: Mapping[str, Any], *names: str, default: int = 0) -> int:
    return next((int(config[name]) for name in names if config.get(name) is not None), default)


def _mean_row_tokens(run: TrainContext) -> float:
    rows = run.data.rows("train")[:SAMPLE_ROWS]  # the split has shuffled them
    return sum(map(len, run.task.encoder(run.model.folder)(rows))) / max(1, len(rows))
