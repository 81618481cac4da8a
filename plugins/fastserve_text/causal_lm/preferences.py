"""Direct preference optimization (Rafailov et al. 2023): two answers to one prompt, of which one was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fastserve_core.tasks import IGNORE_INDEX, Arrays, BatchLoss, Encoded, log_softmax
from fastserve_text.causal_lm.packing import join_rows
from fastserve_text.examples import Examples

if TYPE_CHECKING:
    from torch import Tensor

CANDIDATES, REFERENCE = "candidates", "reference"
"""The input that numbers the two conversations of a row, and the log-probabilities of a model before its training."""


def join_candidates(chosen: Encoded, rejected: Encoded) -> Encoded:
    """Return both conversations as one row, in which they do not attend to each other."""
    return join_rows([chosen, rejected], CANDIDATES)


class SplitCandidates(Examples):
    """The conversations of rows one by one, each chosen one before its rejected one; ``decode_state`` is the row."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        import numpy as np

        self._rows = rows
        sizes = [[list(row.inputs[CANDIDATES]).count(candidate) for candidate in (1, 2)] for row in rows]
        self.lengths = np.asarray(sizes, dtype=np.int64).reshape(-1)

    @override
    def make(self, number: int) -> Encoded:
        row, candidate = self._rows[number // 2], number % 2
        begin = int(self.lengths[number - 1]) if candidate else 0
        part = slice(begin, begin + int(self.lengths[number]))
        ids = list(row.inputs["input_ids"][part])
        return Encoded({"input_ids": ids, "attention_mask": [1] * len(ids)}, list(row.target[part]), number)


def identify(row: Encoded) -> bytes:
    """Return a key of a row's tokens."""
    import numpy as np

    return np.asarray(row.inputs["input_ids"], dtype=np.int64).tobytes()


def candidate_log_probabilities(logits: Any, row: Encoded) -> tuple[float, float]:
    """Return the log-probabilities of the chosen and of the rejected answer, from logits (positions, vocabulary)."""
    import numpy as np

    targets, candidates = np.asarray(row.target)[1:], np.asarray(row.inputs[CANDIDATES])[1:]
    found = []
    for candidate in (1, 2):
        places = ((targets != IGNORE_INDEX) & (candidates == candidate)).nonzero()[0]
        found.append(float(log_softmax(logits[places])[range(len(places)), targets[places]].sum()))
    return found[0], found[1]


def add_reference(arrays: Arrays, batch: Sequence[Encoded], reference: Mapping[bytes, tuple[float, float]]) -> Arrays:
    """Add the log-probabilities before the training, of shape (batch, 2); zeros while they are not known."""
    import numpy as np

    values = [reference.get(identify(row), (0.0, 0.0)) for row in batch]
    return arrays | {REFERENCE: np.asarray(values, dtype=np.float32)}


def preference_loss(logits: Tensor, batch: Mapping[str, Tensor], beta: float) -> BatchLoss:
    """Return the summed loss of a batch, and the number of its rows.

    Args:
        logits: Of shape (batch, positions, vocabulary).
        batch: ``labels`` and ``candidates`` of shape (batch, positions), ``reference`` of shape (batch, 2).
        beta: How strongly the model is held to the one before the training.
    """
    import torch
    from torch.nn import functional

    labels, candidates = batch["labels"][:, 1:], batch[CANDIDATES][:, 1:]
    counts = labels != IGNORE_INDEX
    chosen_logits = logits[:, :-1][counts].float()
    logs = torch.zeros(labels.shape, dtype=torch.float32, device=logits.device)
    logs = logs.masked_scatter(counts, -functional.cross_entropy(chosen_logits, labels[counts], reduction="none"))
    sums = [(logs * (candidates == candidate)).sum(dim=1) for candidate in (1, 2)]
    reference = batch[REFERENCE]
    margins = (sums[0] - reference[:, 0]) - (sums[1] - reference[:, 1])
    return BatchLoss(-functional.logsigmoid(beta * margins).sum(), len(labels))


def score_preferences(statistics: Sequence[tuple[int, float]]) -> float:
    """Return the share of rows whose chosen answer is likelier than the rejected one.

    Args:
        statistics: The number of each example of ``SplitCandidates``, and its log-probability.
    """
    by_number = dict(statistics)
    rows = [number for number in by_number if number % 2 == 0]
    return sum(by_number[number] > by_number[number + 1] for number in rows) / len(rows)
