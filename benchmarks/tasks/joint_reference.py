"""JointBERT (Chen et al. 2019) in plain torch: two linear layers on one encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn.functional import cross_entropy

from fastserve_core.tasks import IGNORE_INDEX
from tasks.scorers import score_intents, score_scope

IN_SCOPE_SHARE = 0.97
"""The share of validation rows in scope that the threshold keeps."""
OUT_OF_SCOPE = "oos"
DROPOUT = 0.1
Rows = Sequence[dict[str, Any]]


class Labels:
    """The intents and tags in the labels of a task, each in order."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.intents = [name.removeprefix("intent:") for name in labels if name.startswith("intent:")]
        self.tags = [name.removeprefix("slot:") for name in labels if name.startswith("slot:")] or ["O"]


class JointModel(nn.Module):
    """An encoder with a layer for intents and one for tags."""

    def __init__(self, model: str, labels: Sequence[str]) -> None:
        super().__init__()
        names = Labels(labels)
        self.encoder = transformers.AutoModel.from_pretrained(model)
        width = self.encoder.config.hidden_size
        self.dropout = nn.Dropout(DROPOUT)
        self.intents, self.tags = nn.Linear(width, len(names.intents)), nn.Linear(width, len(names.tags))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, tags: torch.Tensor
    ) -> dict[str, Any]:
        hidden = self.dropout(self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state)
        intents, words = self.intents(hidden[:, 0]), self.tags(hidden)
        loss = cross_entropy(intents, labels, ignore_index=IGNORE_INDEX)
        if (tags != IGNORE_INDEX).any():
            loss = loss + cross_entropy(words.flatten(0, 1), tags.flatten(), ignore_index=IGNORE_INDEX)
        return {"loss": loss, "intents": intents, "words": words}


def encode_intents(tokenizer: Any, rows: Rows, labels: Sequence[str], max_length: int) -> list[dict[str, Any]]:
    """Return padded inputs with the intent and a tag for the first token of each word."""
    names = Labels(labels)
    columns = tokenizer(
        [row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=max_length,
        padding="max_length",
    )  # fmt: skip
    encoded = []
    for number, row in enumerate(rows):
        intent = names.intents.index(row["intent"]) if row["intent"] in names.intents else IGNORE_INDEX
        tags = _align(columns.word_ids(number), row.get("tags") or ["O"] * len(row["tokens"]), names.tags)
        encoded.append({name: column[number] for name, column in columns.items()} | {"labels": intent, "tags": tags})
    return encoded


def _align(words: Sequence[int | None], tags: Sequence[str], known: Sequence[str]) -> list[int]:
    """Return the number of a tag at the first token of each word; 0 for a tag that was not in training."""
    return [
        IGNORE_INDEX if word is None or word == before else known.index(tags[word]) if tags[word] in known else 0
        for word, before in zip(words, [None, *words], strict=False)
    ]


def score_intent_outputs(
    run: Callable[[Rows], tuple[Any, Any, Any]], splits: dict[str, Any], labels: Sequence[str]
) -> dict[str, float]:
    """Return the scores of intents and slots, or of intents and the rows out of scope where there are such rows.

    Args:
        run: Returns the probabilities of intents, the logits of tags, and where the words begin, for rows.
        splits: The rows.
        labels: The labels of the task.
    """
    names, rows = Labels(labels), splits["test"]
    probabilities, words, begins = run(rows)
    guesses = [names.intents[best] for best in probabilities.argmax(-1)]
    truth = [row["intent"] for row in rows]
    if OUT_OF_SCOPE in truth:
        inside = [row for row in splits["validation"] if row["intent"] != OUT_OF_SCOPE]
        threshold = float(np.quantile(run(inside)[0].max(-1), 1 - IN_SCOPE_SHARE))
        return score_scope(guesses, probabilities.max(-1).tolist(), truth, threshold, OUT_OF_SCOPE)
    true_slots = [row["tags"] for row in rows]
    slots = []
    for best, is_first, tags in zip(words.argmax(-1), begins, true_slots, strict=True):
        read = [names.tags[one] for one in best[is_first]]
        slots.append(read + ["O"] * (len(tags) - len(read)))  # words behind the maximum length
    return score_intents(guesses, slots, truth, true_slots)
