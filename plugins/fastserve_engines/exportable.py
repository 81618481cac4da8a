"""A model of transformers made ready for tracing: inputs by place, bare logits out, batch and length free."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_core.export import FormatReader
from fastserve_engines.cls_only_attention import compute_cls_only
from fastserve_engines.torch_engine import TorchEngine

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
SHARED_TOKEN_TYPE_TABLE = frozenset({"ctrl", "gpt2", "openai-gpt"})
"""By ``model_type``: they look token types up among their words, so that zeros are not as good as none."""
MAX_BATCH = 4096
"""An upper bound for torch.export alone; the files have a free batch dimension."""
LONGEST = 512
"""The limit of a model that has no table of positions."""


class PositionalInputs(nn.Module):
    """Inputs by their place, and a tuple of bare logits out, which is what torch.export likes."""

    def __init__(self, model: nn.Module, outputs: Sequence[str], without: Sequence[str] = ()) -> None:
        super().__init__()
        self.model, self.outputs = model, list(outputs)
        self.fixed = dict.fromkeys(without, False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **given, **self.fixed)
        return tuple(found[name] for name in self.outputs)


class TracedModel:
    """What every format starts from: ``module``, its inputs int64 (batch, length), its outputs fp32 logits.

    The formats beside this module add how the file is written and read.
    """

    shape: tuple[str | int, str | int] = ("batch", "length")

    def __init__(self, model: Any) -> None:
        """``model`` is one of transformers', in evaluation mode. It is run once, on two short rows, and is the export's
        from here on: it is set to torch's fused attention, a classifier's last layer gives one token alone, and 16 bit
        weights, ``halved``, are brought into fp32, which every runtime computes in.
        """
        self.halved = any(one.dtype in (torch.bfloat16, torch.float16) for one in model.parameters())
        model.float()
        fuse_attention(model)
        compute_cls_only(model)
        takes = set(signature(model.forward).parameters)
        self.inputs = tuple(
            name for name in INPUT_NAMES if name in takes and not _has_unused_token_types(name, model.config)
        )
        self.longest = max_length(model)
        without = [name for name in ("use_cache",) if name in takes]  # a decoder's cache is of no use in one pass
        example, _ = self.example()
        with torch.no_grad():
            found = model(**dict(zip(self.inputs, example, strict=True)), **dict.fromkeys(without, False))
        self.outputs = tuple(name for name, one in found.items() if name.endswith("logits") and one is not None)
        self.module = PositionalInputs(model, self.outputs, without)

    def example(self) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
        """Inputs to trace with, and which of their dimensions stay free, for ``torch.export``."""
        batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
        length = torch.export.Dim("length", min=1, max=self.longest)
        # No dimension of the example may be 0 or 1: torch.export takes those for constants. And each input needs a
        # tensor of its own: of one that is passed twice it makes one input, without a word.
        example = tuple(torch.ones(2, min(16, self.longest), dtype=torch.long) for _ in self.inputs)
        return example, tuple({0: batch, 1: length} for _ in self.inputs)

    @staticmethod
    def reference(folder: Path, threads: int) -> FormatReader:
        """The model as transformers runs it, in fp32."""
        return TorchEngine(folder, threads, exact=True)


def _has_unused_token_types(name: str, config: Any) -> bool:
    """Whether a model has an argument for token types and no types."""
    one_row = getattr(config, "type_vocab_size", 2) < 2  # RoBERTa
    return name == "token_type_ids" and (one_row or config.model_type in SHARED_TOKEN_TYPE_TABLE)


def max_length(model: Any) -> int:
    """The longest input that the table of positions can serve; 512 for a model without one."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa counts positions from padding_idx + 1, so its first rows are never used.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return int(getattr(getattr(model, "config", None), "max_position_embeddings", LONGEST))


def fuse_attention(model: Any) -> None:
    """Training builds models with attention in many steps: runtimes compute each apart, the one operator at once."""
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation("sdpa")
