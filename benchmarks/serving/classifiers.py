"""What the peers' servers hold: texts to labels, with torch as its documentation has it, or with our engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Classify = Callable[[Sequence[str]], list[dict[str, Any]]]
EAGER, OURS = "torch", "ours"
MAX_LENGTH = 128
"""As our artifacts have it."""


def classifier(kind: str, model: str, threads: int) -> Classify:
    """Answers a batch of texts; use it in the thread that calls this."""
    return {EAGER: _eager, OURS: _ours}[kind](model, threads)


def _eager(model: str, threads: int) -> Classify:
    """Fp32, padded to the longest of the batch."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForSequenceClassification.from_pretrained(model).eval()

    def classify(texts: Sequence[str]) -> list[dict[str, Any]]:
        inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            scores, places = loaded(**inputs).logits.softmax(-1).max(-1)
        return [
            {"label": loaded.config.id2label[place], "score": score}
            for score, place in zip(scores.tolist(), places.tolist(), strict=True)
        ]

    return classify


def _ours(model: str, threads: int) -> Classify:
    """The engine that the artifact names, without our server."""
    from fastserve_core.inference import Predictor

    predictor = Predictor(Path(model), threads)
    return predictor.predict
