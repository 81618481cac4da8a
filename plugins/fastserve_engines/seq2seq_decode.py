"""Decode many answers of an encoder with a decoder, each in a session of its own that keeps its keys and values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastserve_core.processes import hide_package
from fastserve_core.tasks import KV_BLOCK_SIZE, SequenceChunk
from fastserve_engines.causal_engine import read_special_tokens
from fastserve_engines.seq2seq_engine import (
    ENCODER_FILE,
    MASK,
    SOURCE_NAME,
    SOURCE_TOKENS,
    AnswerSession,
    Source,
    read_start_token,
)

FLOAT_BYTES = 4


class Session(Protocol):
    """One answer."""

    def step(self, tokens: Sequence[int], order: Sequence[int]) -> Any:
        """Return the logits after new tokens, of shape (1, vocabulary); ``order`` is always ``[0]``."""


@dataclass
class _Text:
    """The tokens of a source as far as they have come, and the session once all have."""

    source: list[int] = field(default_factory=list)
    session: Session | None = None


class AnswerEngine(ABC):
    """``DecodeEngine`` that reads a prompt with the encoder, and writes the tokens after it with the decoder.

    A text is known by its first block, which no other text has meanwhile. Its session is replaced when the block's
    next text begins.
    """

    shares_prefixes = False
    checks_guesses = False

    def __init__(self, folder: Path, memory: int, bytes_per_token: int) -> None:
        self.eos_token_ids = frozenset(read_special_tokens(folder)[0])
        self.blocks = max(1, memory // (KV_BLOCK_SIZE * bytes_per_token))
        self._start, self._texts = read_start_token(folder), dict[int, _Text]()

    @abstractmethod
    def begin(self, source: Sequence[int]) -> Session:
        """Run the encoder and return a session."""

    def step(self, pieces: Sequence[SequenceChunk]) -> np.ndarray[Any, Any]:
        """Run one pass over each chunk.

        Returns:
            fp32 logits (chunks, vocabulary) of the token after the last of each chunk; zeros within a prompt.
        """
        logits = [self._advance(piece) for piece in pieces]
        width = max(len(row) for row in logits)
        return np.stack([row if len(row) == width else np.zeros(width, np.float32) for row in logits])

    def _advance(self, piece: SequenceChunk) -> Any:
        key, begin, end = piece.blocks[0], piece.num_cached_tokens, piece.num_cached_tokens + len(piece.tokens)
        text = self._texts[key] = _Text() if begin == 0 else self._texts[key]
        own = max(0, min(piece.prompt_length or len(piece.tokens), end) - begin)
        text.source += piece.tokens[:own]
        if end < piece.prompt_length:
            return np.zeros(1, np.float32)
        new = list(piece.tokens[own:])
        if text.session is None:
            text.session, new = self.begin(text.source), [self._start, *new]
        return np.array(text.session.step(new, [0])[0], dtype=np.float32)

    def close(self) -> None:
        """Release the sessions."""
        self._texts.clear()


class OpenVINOAnswerEngine(AnswerEngine):
    """``DecodeEngine`` of the two graphs of ``Seq2SeqExport``."""

    def __init__(self, files: Path, folder: Path, config: Mapping[str, Any], memory: int) -> None:
        """Compile the graphs.

        Args:
            files: Folder of the graphs.
            folder: Folder of the model's config.
            config: OpenVINO's number of threads and number formats.
            memory: Bytes for keys and values.
        """
        with hide_package("openvino_telemetry"):
            import openvino

        core = openvino.Core()
        config = {**config, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        encoder, self._decoder = (
            core.compile_model(core.read_model(files / name), "CPU", config)
            for name in (ENCODER_FILE, "openvino_model.xml")
        )
        self._encoder = encoder.create_infer_request()
        sizes = [
            int(port.partial_shape[1].get_length() * port.partial_shape[3].get_length())
            for port in self._decoder.inputs
            if port.get_any_name().startswith(SOURCE_NAME.partition(".")[0])
        ]
        super().__init__(folder, memory, FLOAT_BYTES * sum(sizes))

    def begin(self, source: Sequence[int]) -> Session:
        """Run the encoder, and make an inference request of the decoder."""
        ids = np.array([list(source)], dtype=np.int64)
        inputs = {SOURCE_TOKENS: ids, MASK: np.ones_like(ids)}
        return AnswerSession(self._decoder.create_infer_request(), Source(self._encoder, inputs))

    def close(self) -> None:
        """Release the model and the sessions."""
        super().close()
        del self._encoder, self._decoder
