"""Texts for texts after ``run_summarization.py``, from two copies of an encoder, and the rate of writing answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import transformers

from tasks.scorers import score_texts

BATCH_SIZE, MAX_TARGET = 8, 64
NO_REPEAT = 3
"""No answer has three tokens in the order of three before, in ours and in the reference's."""
Rows = Sequence[dict[str, Any]]


def build_two(model: str, tokenizer: Any) -> Any:
    """Return an encoder with a decoder, both from one checkpoint."""
    network = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(model, model)
    tokens = {
        "decoder_start_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    for name, value in tokens.items():
        setattr(network.config, name, value)
        setattr(network.generation_config, name, value)
    return network


def encode_pairs(tokenizer: Any, rows: Rows, max_length: int) -> list[dict[str, Any]]:
    """Return sources and the first of their targets, without the token before it."""
    sources = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length, padding=False)
    targets = tokenizer([row["target"][0] for row in rows], truncation=True, max_length=MAX_TARGET, padding=False)
    return [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels[1:]}
        for ids, labels in zip(sources["input_ids"], targets["input_ids"], strict=True)
    ]


def score_generation(write: Callable[[list[str]], tuple[list[str], int]], rows: Rows) -> tuple[dict[str, float], float]:
    """Return the scores of the answers to all rows, and the tokens a second in batches of similar length.

    Args:
        write: Returns the answers to a batch of texts, and the number of their tokens.
        rows: The rows of the test split.
    """
    ordered = sorted(rows, key=lambda row: len(row["text"]))
    answers, tokens = [], 0
    write([row["text"] for row in ordered[:BATCH_SIZE]])  # a warm-up
    begin = time.perf_counter()
    for start in range(0, len(ordered), BATCH_SIZE):
        texts, count = write([row["text"] for row in ordered[start : start + BATCH_SIZE]])
        answers += texts
        tokens += count
    seconds = time.perf_counter() - begin
    return score_texts(answers, [row["target"] for row in ordered]), tokens / seconds
