"""Decode many answers of an encoder with a decoder in torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastserve_engines.hugging_face import load_model, to_inference_dtype
from fastserve_engines.seq2seq_decode import AnswerEngine, Session
from fastserve_engines.seq2seq_step import AnswerStep, SourceEncoder


class TorchAnswerEngine(AnswerEngine):
    """``DecodeEngine`` of every encoder with a decoder that transformers loads."""

    def __init__(self, folder: Path, threads: int, memory: int) -> None:
        """Load the model.

        Args:
            folder: Folder of the model.
            threads: Number of threads.
            memory: Bytes for keys and values.
        """
        torch.set_num_threads(threads)
        self._model = to_inference_dtype(load_model(folder))
        self._encoder = SourceEncoder(self._model)
        states = self._encode([self._model.config.decoder_start_token_id])
        size = sum(state.shape[1] * state.shape[3] * state.element_size() for state in states)
        super().__init__(folder, memory, size)

    def _encode(self, source: Sequence[int]) -> list[torch.Tensor]:
        with torch.inference_mode():
            ids = torch.tensor([list(source)])
            return list(self._encoder(ids, torch.ones_like(ids)))

    def begin(self, source: Sequence[int]) -> Session:
        """Run the encoder."""
        return _TorchSession(AnswerStep(self._model), self._encode(source))

    def close(self) -> None:
        """Release the model and the sessions."""
        super().close()
        del self._model, self._encoder


class _TorchSession:
    def __init__(self, decoder: AnswerStep, source: list[torch.Tensor]) -> None:
        self._decoder, self._source = decoder, source
        self._past = [state[:, :, :0] for state in source]
        self._mask = torch.ones(1, source[0].shape[2], dtype=torch.long)

    def step(self, tokens: Sequence[int], order: Sequence[int]) -> Any:
        with torch.inference_mode():
            ids = torch.tensor([list(tokens)])
            logits, *self._past = self._decoder(ids, self._mask, [*self._past, *self._source])
        return logits[:, -1].float().numpy()
