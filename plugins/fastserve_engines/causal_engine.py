"""Runs a stateful graph of a causal language model: all logits in one pass, or text, a token at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.artifacts import read_json
from fastserve_core.tasks import Arrays

INPUT_NAMES = ("input_ids", "attention_mask")
"""The inputs that a caller gives; the others are worked out here."""
CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
"""A token chosen otherwise changes all that follow: what is not quantized is computed as torch does it."""


def is_causal(graph: Any) -> bool:
    """Whether a graph has keys and values as states."""
    return any(port.get_any_name() == "beam_idx" for port in graph.inputs)


class CausalRunner:
    """``compiled`` is a stateful graph with the inputs of ``CausalExport``; ``folder`` has the model's config."""

    def __init__(self, compiled: Any, folder: Path) -> None:
        self._request = compiled.create_infer_request()
        self._ends, self._pad = special_tokens(folder)

    def run(self, inputs: Arrays) -> Arrays:
        """One pass over ``input_ids`` (batch, length): ``logits`` (batch, length, vocabulary)."""
        self._request.reset_state()
        return {"logits": self._step(inputs["input_ids"], _mask(inputs))}

    def generate(self, inputs: Arrays, options: Mapping[str, Any]) -> Arrays:
        """Continue left-padded rows by ``max_new_tokens`` or until all have ended; ended rows are filled up.

        ``temperature`` 0 takes the likeliest token; else tokens are drawn by their probabilities.
        """
        ids, mask = inputs["input_ids"], _mask(inputs)
        temperature, random = float(options.get("temperature", 0.0)), np.random.default_rng()
        going, found = np.ones(len(ids), dtype=bool), []
        self._request.reset_state()
        for _ in range(int(options["max_new_tokens"])):
            logits = self._step(ids, mask)[:, -1]
            chosen = np.where(going, _sample(logits, temperature, random), self._pad)
            found.append(chosen)
            going &= ~np.isin(chosen, self._ends)
            if not going.any():
                break
            ids = chosen[:, None]
            mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
        return {"ids": np.stack(found, axis=1)}

    def close(self) -> None:
        del self._request

    def _step(self, ids: Any, mask: Any) -> Any:
        """``mask`` covers the tokens of the passes before as well."""
        places = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -ids.shape[1] :]
        rows = np.arange(len(ids), dtype=np.int32)
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": places, "beam_idx": rows}
        return self._request.infer(given)["logits"]


def _mask(inputs: Arrays) -> Any:
    mask = inputs.get("attention_mask")
    return np.ones_like(inputs["input_ids"]) if mask is None else mask.astype(np.int64)


def _sample(logits: Any, temperature: float, random: np.random.Generator) -> Any:
    if temperature:
        # the largest of logits with Gumbel noise is a draw from their softmax
        logits = logits / temperature + random.gumbel(size=logits.shape)
    return logits.argmax(axis=-1).astype(np.int64)


def special_tokens(folder: Path) -> tuple[list[int], int]:
    """The tokens that end a text, and the one that fills up, as transformers takes them from the folder."""
    files = [folder / name for name in ("generation_config.json", "config.json")]
    config: dict[str, Any] = next((read_json(path) for path in files if path.is_file()), {})
    ends = config.get("eos_token_id")
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    pad = config.get("pad_token_id")
    return ends, pad if pad is not None else (ends[0] if ends else 0)
