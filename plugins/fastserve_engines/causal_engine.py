"""Run a stateful graph of a causal language model: all logits in one pass, or generation token by token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.artifacts import read_json
from fastserve_core.tasks import Arrays

INPUT_NAMES = ("input_ids", "attention_mask")
"""Inputs that callers pass; the engine computes the others."""
FP32_CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
"""One different token changes the whole continuation, so unquantized operators compute in fp32, as in torch."""
MAX_TOKENS_PER_PASS = 4096
"""Of all prompts of a batch: a pass computes the logits of every token, which may take more memory than the model."""


def is_causal(graph: Any) -> bool:
    """Return whether a graph keeps keys and values as states."""
    return any(port.get_any_name() == "beam_idx" for port in graph.inputs)


class CausalRunner:
    """Runner of a stateful graph with the inputs of ``CausalExport``."""

    def __init__(self, compiled: Any, folder: Path) -> None:
        """Create an inference request.

        Args:
            compiled: Compiled OpenVINO model.
            folder: Folder with the model's config.
        """
        self._request = compiled.create_infer_request()
        self._eos_token_ids, self._pad_token_id = read_special_tokens(folder)

    def run(self, inputs: Arrays) -> Arrays:
        """Run one pass over the whole texts.

        Args:
            inputs: ``input_ids`` of shape (batch, length), and optionally ``attention_mask``.

        Returns:
            ``logits`` of shape (batch, length, vocabulary).
        """
        self._request.reset_state()
        return {"logits": self._step(inputs["input_ids"], _get_mask(inputs))}

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        """Continue left-padded rows until all have ended or ``max_new_tokens`` is reached; ended rows are padded.

        Args:
            inputs: ``input_ids`` of shape (batch, length), and optionally ``attention_mask``.
            options: ``max_new_tokens``, and optionally ``temperature``: 0 is greedy decoding, other values sample.

        Returns:
            ``ids`` of the new tokens, of shape (batch, new tokens).
        """
        ids, mask = inputs["input_ids"], _get_mask(inputs)
        temperature, rng = float(options.get("temperature", 0.0)), np.random.default_rng()
        is_running, new_tokens = np.ones(len(ids), dtype=bool), []
        self._request.reset_state()
        ids, mask = self._read_prompts(ids, mask)
        for _ in range(int(options["max_new_tokens"])):
            logits = self._step(ids, mask)[:, -1]
            tokens = np.where(is_running, _sample(logits, temperature, rng), self._pad_token_id)
            new_tokens.append(tokens)
            is_running &= ~np.isin(tokens, self._eos_token_ids)
            if not is_running.any():
                break
            ids = tokens[:, None]
            mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
        return {"ids": np.stack(new_tokens, axis=1)}

    def _read_prompts(self, ids: Any, mask: Any) -> tuple[Any, Any]:
        """Run passes over the beginnings of long prompts; return the rest of the tokens, and the mask of all."""
        width = max(1, MAX_TOKENS_PER_PASS // len(ids))
        begin = 0
        while ids.shape[1] - begin > width:
            self._step(ids[:, begin : begin + width], mask[:, : begin + width])
            begin += width
        return ids[:, begin:], mask

    def close(self) -> None:
        """Release the inference request."""
        del self._request

    def _step(self, ids: Any, mask: Any) -> Any:
        """Run one pass; ``mask`` also covers the tokens of earlier passes."""
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        rows = np.arange(len(ids), dtype=np.int32)
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "beam_idx": rows}
        return self._request.infer(feed)["logits"]


def _get_mask(inputs: Arrays) -> Any:
    mask = inputs.get("attention_mask")
    return np.ones_like(inputs["input_ids"]) if mask is None else mask.astype(np.int64)


def _sample(logits: Any, temperature: float, rng: np.random.Generator) -> Any:
    if temperature:
        # the argmax of logits plus Gumbel noise is a sample from their softmax
        logits = logits / temperature + rng.gumbel(size=logits.shape)
    return logits.argmax(axis=-1).astype(np.int64)


def read_special_tokens(folder: Path) -> tuple[list[int], int]:
    """Return the token ids that end a text and the padding token id, with transformers' precedence of config files."""
    files = [folder / name for name in ("generation_config.json", "config.json")]
    config: dict[str, Any] = next((read_json(path) for path in files if path.is_file()), {})
    eos = config.get("eos_token_id")
    eos = [] if eos is None else eos if isinstance(eos, list) else [eos]
    pad_token = config.get("pad_token_id")
    return eos, pad_token if pad_token is not None else (eos[0] if eos else 0)
