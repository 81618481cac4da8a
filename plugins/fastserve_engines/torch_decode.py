"""Many texts side by side in a torch model: keys and values in blocks, gathered for each pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastserve_core.tasks import KV_BLOCK_SIZE, SequenceChunk
from fastserve_engines.causal_engine import special_tokens
from fastserve_engines.decode_step import DecodeStep, check_family, kv_cache_shape
from fastserve_engines.hugging_face import load_model, to_inference_dtype


class TorchStepper:
    """A ``DecodeEngine`` for every folder that transformers loads; slower than OpenVINO's, since all is copied each
    pass."""

    def __init__(self, folder: Path, threads: int, memory: int) -> None:
        """``memory`` is what keys and values may take, in bytes; raises ``ExportError`` for another kind of model."""
        torch.set_num_threads(threads)
        model = to_inference_dtype(load_model(folder))
        check_family(model)
        self.eos_token_ids = frozenset(special_tokens(folder)[0])
        layers, heads, width = kv_cache_shape(model)
        self._step = DecodeStep(model)
        self._kind = model.dtype
        each = 2 * layers * heads * KV_BLOCK_SIZE * width * self._kind.itemsize
        self.blocks = max(1, memory // each)
        self._kept = [
            torch.zeros(self.blocks, KV_BLOCK_SIZE, heads, width, dtype=self._kind) for _ in range(2 * layers)
        ]

    def step(self, pieces: Sequence[SequenceChunk]) -> np.ndarray[Any, Any]:
        found: dict[int, Tensor] = {}
        # rows of one pass are as wide as each other: the pieces that begin a text go by themselves
        for width in {len(one.tokens) for one in pieces}:
            places = [place for place, one in enumerate(pieces) if len(one.tokens) == width]
            found |= zip(places, self._batch_step([pieces[place] for place in places], width), strict=True)
        return torch.stack([found[place] for place in range(len(pieces))]).float().numpy()

    def _batch_step(self, pieces: Sequence[SequenceChunk], width: int) -> Tensor:
        """The logits after the last tokens of pieces of one width."""
        past = torch.tensor([one.num_cached_tokens for one in pieces])
        longest = int(past.max())
        before = torch.arange(longest)[None, :] < past[:, None]
        mask = torch.cat([before, torch.ones(len(pieces), width, dtype=torch.bool)], dim=1)
        kept_in = _blocks(pieces, -(-longest // KV_BLOCK_SIZE))
        with torch.inference_mode():
            kept = [self._gather_blocks(one, kept_in, longest) for one in self._kept]
            ids = torch.tensor([list(one.tokens) for one in pieces])
            logits, *news = self._step(ids, mask.long(), past[:, None] + torch.arange(width), kept)
            for kept_one, new in zip(self._kept, news, strict=True):
                self._keep(kept_one, new[:, :, longest:], pieces)
        last: Tensor = logits[:, -1]
        return last

    def _gather_blocks(self, kept: Tensor, numbers: Tensor, longest: int) -> Tensor:
        """From blocks to (batch, heads, longest, width)."""
        rows = kept[numbers].flatten(1, 2)[:, :longest]
        return rows.transpose(1, 2)

    def _keep(self, kept: Tensor, new: Tensor, pieces: Sequence[SequenceChunk]) -> None:
        """Put new keys or values (batch, heads, tokens, width) where the pieces have their places."""
        for row, one in zip(new, pieces, strict=True):
            at = torch.arange(one.num_cached_tokens, one.num_cached_tokens + len(one.tokens))
            kept[torch.tensor(list(one.blocks))[at // KV_BLOCK_SIZE], at % KV_BLOCK_SIZE] = row.transpose(0, 1)

    def close(self) -> None:
        del self._step, self._kept


def _blocks(pieces: Sequence[SequenceChunk], count: int) -> Tensor:
    """As many block numbers for each; those beyond a text's own are any, and what they hold is masked."""
    return torch.tensor([[*one.blocks[:count], *[0] * (count - len(one.blocks))] for one in pieces], dtype=torch.long)
