"""Prepare a model of transformers for tracing: positional inputs, bare outputs, dynamic batch and length."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_core.errors import ExportError
from fastserve_core.export import FormatReader
from fastserve_core.tasks import DEFAULT_OUTPUTS
from fastserve_engines.cls_only_attention import compute_cls_only
from fastserve_engines.model_outputs import compute_outputs
from fastserve_engines.torch_engine import TorchEngine

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
SHARED_TOKEN_TYPE_TABLE = frozenset({"ctrl", "gpt2", "openai-gpt"})
"""By ``model_type``: families that look up token types in the word embeddings, so zeros differ from none."""
MAX_BATCH = 4096
"""An upper bound for torch.export only; the batch dimension of the files is dynamic."""
DEFAULT_MAX_LENGTH = 512
"""Maximum length of a model without a position table."""


class PositionalModel(nn.Module):
    """Model with positional inputs and a tuple of outputs, as torch.export expects."""

    def __init__(self, model: nn.Module, outputs: Sequence[str], without: Sequence[str] = ()) -> None:
        """Wrap a model.

        Args:
            model: Model of transformers.
            outputs: Names of the outputs to return.
            without: Names of arguments that are always False.
        """
        super().__init__()
        self.model, self.outputs = model, list(outputs)
        self.constant_inputs = dict.fromkeys(without, False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the outputs for int64 inputs of shape (batch, length)."""
        token_types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **token_types, **self.constant_inputs}
        outputs = compute_outputs(self.model, self.outputs, inputs)
        return tuple(outputs[name] for name in self.outputs)


class TracedModel:
    """Base of the export formats: a ``module`` with int64 inputs (batch, length) and fp32 outputs.

    Subclasses add how the file is written and read.
    """

    shape: tuple[str | int, str | int] = ("batch", "length")

    def __init__(
        self, model: Any, outputs: Sequence[str] = DEFAULT_OUTPUTS, uncompressed: Collection[str] = ()
    ) -> None:
        """Prepare the model, which the export owns from now on, and run it once on two short rows.

        Attention is fused, a classifier's last layer computes one token only, and 16-bit weights are cast to fp32,
        which every runtime supports; ``has_16bit_weights`` records whether there were any.

        Args:
            model: Model of transformers in evaluation mode, changed in place.
            outputs: Patterns of the names of the outputs to export.
            uncompressed: Names of modules whose weights an export to fewer bits leaves as they are.

        Raises:
            ModelError: The model has no such output.
            ExportError: The model is an encoder with a decoder.
        """
        if model.config.is_encoder_decoder:
            raise ExportError(f"{type(model).__name__} is an encoder with a decoder, which runs in torch only")
        self.has_16bit_weights = any(
            parameter.dtype in (torch.bfloat16, torch.float16) for parameter in model.parameters()
        )
        model.float()
        excluded = {module for name, module in model.named_modules() if name in uncompressed}
        fuse_attention(model)
        compute_cls_only(model, outputs)
        parameters = set(signature(model.forward).parameters)
        self.inputs = tuple(
            name for name in INPUT_NAMES if name in parameters and not _has_unused_token_types(name, model.config)
        )
        self.longest = find_max_length(model)
        disabled = [name for name in ("use_cache",) if name in parameters]  # a single pass needs no cache
        example, _ = self.example()
        with torch.no_grad():
            inputs = dict(zip(self.inputs, example, strict=True))
            self.outputs = tuple(compute_outputs(model, outputs, {**inputs, **dict.fromkeys(disabled, False)}))
        self.module = PositionalModel(model, self.outputs, disabled)
        self.uncompressed = {name for name, module in self.module.named_modules() if module in excluded}

    def example(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
        """Return inputs to trace with, and their dynamic dimensions for ``torch.export``."""
        batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
        length = torch.export.Dim("length", min=1, max=self.longest)
        # torch.export treats dimensions of 0 or 1 as constants, and silently merges inputs that are the same tensor.
        example = tuple(torch.ones(2, min(16, self.longest), dtype=torch.long) for _ in self.inputs)
        return example, tuple({0: batch, 1: length} for _ in self.inputs)

    @staticmethod
    def reference(folder: Path, threads: int, outputs: Sequence[str] = DEFAULT_OUTPUTS) -> FormatReader:
        """Load the model with transformers, in fp32."""
        return TorchEngine(folder, threads, outputs, exact=True)


def _has_unused_token_types(name: str, config: Any) -> bool:
    """Return whether the argument is token types and the model has only one type."""
    one_row = getattr(config, "type_vocab_size", 2) < 2  # RoBERTa
    return name == "token_type_ids" and (one_row or config.model_type in SHARED_TOKEN_TYPE_TABLE)


def find_max_length(model: Any) -> int:
    """Return the number of tokens that the position table supports; 512 for a model without one."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa counts positions from padding_idx + 1, so its first rows are never used.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    bound = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return bound if isinstance(bound, int) and bound > 0 else DEFAULT_MAX_LENGTH


def fuse_attention(model: Any) -> None:
    """Use torch's fused attention, a single operator in the runtimes; training builds eager attention.

    Decoders with a sliding window keep eager attention: a window of nothing but padding has no token to attend to, and
    OpenVINO's fused attention returns NaN for it, which spreads to the other tokens.
    """
    if find_window(model) is not None:
        model.set_attn_implementation("eager")
    elif getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation("sdpa")


def find_window(model: Any) -> int | None:
    """Return the number of tokens that a decoder's layers attend to, if it is less than the model's positions."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False or not is_decoder(model):
        return None
    return window if window < find_max_length(model) else None


def is_decoder(model: Any) -> bool:
    """Return whether the layers of a model attend to earlier tokens only; families without a declaration do."""
    flags = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    return not flags or any(flags)
