"""Decode many texts at a time in torch, with keys and values in blocks that are gathered for each pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastserve_core.tasks import KV_BLOCK_SIZE, SequenceChunk
from fastserve_engines.causal_engine import read_special_tokens
from fastserve_engines.decode_step import DecodeStep, check_family, get_kv_cache_shape
from fastserve_engines.hugging_face import load_model, to_inference_dtype
from fastserve_engines.lora import load_adapters
from fastserve_engines.lora_torch import TorchAdapters


class TorchDecodeEngine:
    """``DecodeEngine`` of every causal language model that transformers loads.

    It is slower than OpenVINO's, because each pass copies the cache.
    """

    shares_prefixes = True
    checks_guesses = True

    def __init__(self, folder: Path, threads: int, memory: int, adapters: Mapping[str, Path] | None = None) -> None:
        """Load the model and allocate the blocks.

        Args:
            folder: Folder of the model.
            threads: Number of threads.
            memory: Bytes for keys and values.
            adapters: Folders of adapters by name.

        Raises:
            ExportError: The model is not a causal language model with a plain KV cache.
            ArtifactError: An adapter is damaged or belongs to another base.
        """
        torch.set_num_threads(threads)
        model = to_inference_dtype(load_model(folder))
        check_family(model)
        self._adapters = TorchAdapters(model, load_adapters(adapters, folder)) if adapters else None
        self.eos_token_ids = frozenset(read_special_tokens(folder)[0])
        layers, heads, width = get_kv_cache_shape(model)
        self._step = DecodeStep(model)
        self._dtype = model.dtype
        block_bytes = 2 * layers * heads * KV_BLOCK_SIZE * width * self._dtype.itemsize
        self.blocks = max(1, memory // block_bytes)
        shape = self.blocks, KV_BLOCK_SIZE, heads, width
        self._caches = [_make_zeros(shape, self._dtype) for _ in range(2 * layers)]

    def step(self, pieces: Sequence[SequenceChunk]) -> np.ndarray[Any, Any]:
        """Run all chunks, in one pass per chunk length.

        Returns:
            fp32 logits (rows, vocabulary) of the token after the last of each chunk, and after those before guesses.
        """
        found: dict[int, Tensor] = {}
        # the rows of a pass have equal widths, so prompts are computed separately
        for width in {len(piece.tokens) for piece in pieces}:
            indices = [index for index, piece in enumerate(pieces) if len(piece.tokens) == width]
            found |= zip(indices, self._batch_step([pieces[index] for index in indices], width), strict=True)
        return torch.cat([found[index] for index in range(len(pieces))]).float().numpy()

    def _batch_step(self, pieces: Sequence[SequenceChunk], width: int) -> list[Tensor]:
        """Return the logits of the last tokens of each chunk; all have one width."""
        past = torch.tensor([piece.num_cached_tokens for piece in pieces])
        longest = int(past.max())
        before = torch.arange(longest)[None, :] < past[:, None]
        mask = torch.cat([before, torch.ones(len(pieces), width, dtype=torch.bool)], dim=1)
        block_table = _make_block_table(pieces, -(-longest // KV_BLOCK_SIZE))
        if self._adapters is not None:
            self._adapters.select([piece.adapter for piece in pieces])
        with torch.inference_mode():
            past_states = [self._gather_blocks(cache, block_table, longest) for cache in self._caches]
            ids = torch.tensor([list(piece.tokens) for piece in pieces])
            logits, *states = self._step(ids, mask.long(), past[:, None] + torch.arange(width), past_states)
            for cache, state in zip(self._caches, states, strict=True):
                self._store_blocks(cache, state[:, :, longest:], pieces)
        return [rows[-1 - piece.num_guessed :] for rows, piece in zip(logits, pieces, strict=True)]

    def _gather_blocks(self, cache: Tensor, block_table: Tensor, longest: int) -> Tensor:
        """Return the cached states as a tensor (batch, heads, longest, width)."""
        rows = cache[block_table].flatten(1, 2)[:, :longest]
        return rows.transpose(1, 2)

    def _store_blocks(self, cache: Tensor, new: Tensor, pieces: Sequence[SequenceChunk]) -> None:
        """Write new keys or values (batch, heads, tokens, width) into the chunks' blocks."""
        for row, piece in zip(new, pieces, strict=True):
            positions = torch.arange(piece.num_cached_tokens, piece.num_cached_tokens + len(piece.tokens))
            blocks = torch.tensor(list(piece.blocks))[positions // KV_BLOCK_SIZE]
            cache[blocks, positions % KV_BLOCK_SIZE] = row.transpose(0, 1)

    def close(self) -> None:
        """Release the model and its blocks."""
        del self._step, self._caches


def _make_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros whose memory the system gives when it is written: ``torch.zeros`` writes all of it at once."""
    zeros = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(zeros).view(dtype).view(shape)


def _make_block_table(pieces: Sequence[SequenceChunk], count: int) -> Tensor:
    """Return block indices (chunks, count), padded with 0; the states of padding are masked."""
    rows = [[*piece.blocks[:count], *[0] * (count - len(piece.blocks))] for piece in pieces]
    return torch.tensor(rows, dtype=torch.long)
