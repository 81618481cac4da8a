"""Run the two graphs of ``Seq2SeqExport``: the encoder once for each source, the decoder once for each token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.artifacts import read_config, read_json
from fastserve_core.errors import ArtifactError
from fastserve_core.tasks import Arrays
from fastserve_engines.causal_engine import read_special_tokens
from fastserve_engines.text_search import SearchOptions, search

ENCODER_FILE = "openvino_encoder.xml"
SOURCE_TOKENS, MASK = "input_ids", "attention_mask"
SOURCE_NAME = "source.{}.{}"
"""Names of the decoder's keys and values of the source, by layer."""
LENGTH_MULTIPLE = 8
"""Sources are padded to a multiple of this length, because OpenVINO never frees the memory of a shape."""


class Source:
    """Keys and values of a batch of sources, and their mask, as the decoder's inputs."""

    def __init__(self, encoder: Any, inputs: Arrays, copies: int = 1) -> None:
        """Run the encoder.

        Args:
            encoder: Inference request of the encoder.
            inputs: ``input_ids`` of shape (batch, length), and optionally ``attention_mask``.
            copies: Number of answers that are searched for each source at a time.
        """
        ids = inputs[SOURCE_TOKENS].astype(np.int64)
        mask = inputs.get(MASK, np.ones_like(ids)).astype(np.int64)
        padding = ((0, 0), (0, -ids.shape[1] % LENGTH_MULTIPLE))
        ids, mask = np.pad(ids, padding), np.pad(mask, padding)
        results = encoder.infer({SOURCE_TOKENS: ids, MASK: mask})
        named = {port.get_any_name(): np.array(results[port]) for port in results}
        self.tensors = {name: np.repeat(array, copies, axis=0) for name, array in {**named, MASK: mask}.items()}


class AnswerSession:
    """One batch of answers in the decoder, which keeps its keys and values."""

    def __init__(self, request: Any, source: Source) -> None:
        import openvino

        self._request, self._source = request, source
        request.reset_state()
        for name, array in source.tensors.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

    def step(self, tokens: Any, order: Any) -> Any:
        """Return the logits after tokens of shape (rows,) or (rows, length), of shape (rows, vocabulary)."""
        ids = np.asarray(tokens, dtype=np.int64).reshape(len(order), -1)
        return self._request.infer({SOURCE_TOKENS: ids, "beam_idx": np.asarray(order, dtype=np.int32)})["logits"][:, -1]


class Seq2SeqRunner:
    """Runner of an encoder with a decoder."""

    def __init__(self, encoder: Any, decoder: Any, folder: Path) -> None:
        """Create the inference requests.

        Args:
            encoder: Compiled OpenVINO model of the encoder.
            decoder: Compiled OpenVINO model of the decoder.
            folder: Folder with the model's config.
        """
        self.encoder, self._decoder = encoder.create_infer_request(), decoder.create_infer_request()
        self.start, (self.ends, self.pad) = read_start_token(folder), read_special_tokens(folder)

    def run(self, inputs: Arrays) -> Arrays:
        """Run one pass over sources.

        Returns:
            ``logits`` of the first token of each answer, of shape (batch, 1, vocabulary).
        """
        rows = len(inputs[SOURCE_TOKENS])
        session = AnswerSession(self._decoder, Source(self.encoder, inputs))
        return {"logits": session.step(np.full(rows, self.start), np.arange(rows))[:, None]}

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        """Answer each source.

        Args:
            inputs: ``input_ids`` and ``attention_mask`` of shape (batch, length).
            options: ``max_new_tokens``, and optionally others of ``SearchOptions``.

        Returns:
            ``ids`` of the answers, of shape (batch, longest).
        """
        chosen = SearchOptions.of(self.start, self.ends, self.pad, options)
        session = AnswerSession(self._decoder, Source(self.encoder, inputs, chosen.num_beams))
        return {"ids": search(session.step, len(inputs[SOURCE_TOKENS]), chosen)}

    def close(self) -> None:
        """Release the inference requests."""
        del self.encoder, self._decoder


def read_start_token(folder: Path) -> int:
    """Return the decoder's first input.

    Raises:
        ArtifactError: The folder's configs do not name it.
    """
    path = folder / "generation_config.json"
    for config in ([read_json(path)] if path.is_file() else []) + [read_config(folder)]:
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(config.get(name), int):
                return int(config[name])
    raise ArtifactError(f"{folder} names no decoder_start_token_id in its config.json")
