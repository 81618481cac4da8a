"""Quantize the weights of language models, calibrated on texts of the training split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fastserve_core.errors import ExportError
from fastserve_core.tasks import Row, Task
from fastserve_neural_compressor.job import QuantizeJob
from fastserve_neural_compressor.weight_only import quantize_weights

BLOCK_LENGTH = 256
"""Maximum number of tokens in a calibration block."""
DEFAULT_METHOD = "rtn"


def quantize(job: QuantizeJob) -> None:
    """Write the engine's files.

    Raises:
        ExportError: The model cannot be quantized.
    """
    options, model = job.options, job.load_model()
    method = options.method or DEFAULT_METHOD
    if model.config.is_encoder_decoder and method != DEFAULT_METHOD:
        raise ExportError(
            f"compress.neural_compressor.method={method} calibrates decoders without an encoder: take {DEFAULT_METHOD}"
        )
    longest = min(BLOCK_LENGTH, getattr(model.config, "max_position_embeddings", BLOCK_LENGTH))
    blocks = (
        [] if method == DEFAULT_METHOD else make_calibration_blocks(job.task, job.model, job.sample_rows(), longest)
    )
    quantize_weights(
        model, job.folder, options.bits, options.group_size, method, blocks, job.task.find_uncompressed(model)
    )


def make_calibration_blocks(task: Task, model: Path, rows: Sequence[Row], longest: int) -> list[torch.Tensor]:
    """Concatenate the rows' tokens and split them into blocks of shape (1, length), all of one length.

    Args:
        task: Task that encodes the rows.
        model: Folder of the tokenizer.
        rows: Rows of the training split.
        longest: Length of a block; shorter if the rows have fewer tokens.
    """
    ids = [token for row in task.encoder(model)(rows) for token in row.inputs["input_ids"]]
    length = min(longest, len(ids))
    return [torch.tensor([ids[start : start + length]]) for start in range(0, len(ids) - length + 1, length)]
