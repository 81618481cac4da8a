"""Training batches of conversations: only logits that a target needs are computed, and packed ones stay apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastserve_core.tasks import IGNORE_INDEX, Arrays, Encoded
from fastserve_text.tokenization import pad

HIDDEN = -1e9
"""Added to the score of a token that another must not attend to, before the softmax."""


def collate_answers(batch: Sequence[Encoded], padding: Mapping[str, int]) -> Arrays:
    """Return a padded batch with ``labels``, aligned at its end if logits of its beginning are not needed.

    A vocabulary is the largest matrix of a small model, and most tokens of a conversation are of prompts. So
    ``logits_to_keep`` names the positions from the one before the first answer on, and ``labels`` has only those.
    """
    import numpy as np

    longest = max(map(len, batch))
    kept = max(len(one) - _first_counted(one.target) for one in batch) + 1
    if kept >= longest:
        return pad(batch, padding, targets=True)
    arrays = pad(batch, padding, targets=True, left=True)
    mask = arrays["attention_mask"]
    return arrays | {
        "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0),
        "logits_to_keep": np.arange(longest - kept, longest),
        "labels": arrays["labels"][:, -kept:],
    }


def _first_counted(target: Sequence[int]) -> int:
    """Return the index of the first token with a label; the last index if there is none."""
    return next((place for place, label in enumerate(target) if label != IGNORE_INDEX), len(target) - 1)


def collate_packed(batch: Sequence[Encoded], padding: Mapping[str, int], name: str) -> Arrays:
    """Return a batch of rows of ``join_rows``: ``attention_mask`` has the shape (batch, 1, length, length).

    It is 0 where a token attends to one before it of its own conversation, and ``HIDDEN`` elsewhere.

    Args:
        batch: The rows.
        padding: The numbers to pad with, by the names of inputs.
        name: The input that numbers the conversations of a row.
    """
    import numpy as np

    arrays = pad(batch, {**padding, "position_ids": 0, name: 0}, targets=True)
    segments = arrays[name]
    length = segments.shape[1]
    is_own = segments[:, :, None] == segments[:, None, :]
    is_before = np.tril(np.ones((length, length), dtype=bool))
    mask: Any = np.where(is_own & is_before, 0.0, HIDDEN).astype(np.float32)
    return arrays | {"attention_mask": mask[:, None]}


def align_targets(logits: Any, batch: Sequence[Encoded]) -> list[tuple[Any, Any]]:
    """Return the logits and the targets of each row of a batch, position by position.

    Args:
        logits: Array of shape (batch, positions, vocabulary), of padded rows or those of ``collate_answers``.
        batch: The rows.
    """
    import numpy as np

    longest, positions = max(map(len, batch)), logits.shape[1]
    pairs = []
    for row, one in zip(logits, batch, strict=True):
        target = np.asarray(one.target)
        count = min(len(one), positions)
        pairs.append((row[-count:], target[-count:]) if positions < longest else (row[: len(one)], target))
    return pairs
