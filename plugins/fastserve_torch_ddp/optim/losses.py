"""Cross-entropy with class weights and label smoothing, alike on any number of ranks and parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastserve_core.errors import ErrorCollector, InvalidOption, did_you_mean
from fastserve_core.tasks import UNLABELLED

IGNORED = -100
"""The label of a position that no loss counts."""
LABEL_ARCHITECTURES = ("ForSequenceClassification", "ForTokenClassification")
HERE = "train.torch_ddp"


class Loss:
    """The summed cross-entropy of a batch, and what to divide it by.

    A mean over a batch that was cut in parts is not the mean of the parts' means where a part has fewer tokens,
    or lighter classes, than another. So a part's loss is its sum divided by the denominators' total over all
    parts and ranks. DDP takes the mean over the ranks: multiply by their number.
    """

    def __init__(self, shifted: bool, smoothing: float, weights: Tensor | None) -> None:
        self.shifted, self.smoothing, self.weights = shifted, smoothing, weights

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over all counted positions; logits are (…, classes), labels (…) or ``IGNORE_INDEX``.

        Smoothing is that of Szegedy et al. 2016; with class weights it is weighted as ``torch`` does it.
        """
        targets = self._targets(labels).flatten()
        return nn.functional.cross_entropy(
            logits.float().flatten(0, -2),
            targets.masked_fill(targets == UNLABELLED, IGNORED),
            weight=self._weights_on(logits.device),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.smoothing,
        )

    def denominator(self, labels: Tensor) -> Tensor:
        """The counted positions, each with its class's weight (1 without a label): a number, on the labels' device."""
        counted = self._targets(labels)
        without = (counted == UNLABELLED).sum()
        counted = counted[counted >= 0]
        weights = self._weights_on(labels.device)
        if weights is not None:
            return weights[counted].sum() + without
        return torch.tensor(float(counted.numel())).to(labels.device) + without

    def counted(self, labels: Tensor) -> Tensor:
        """Which positions of the logits count, with a label or without: true or false in the labels' shape."""
        return self._targets(labels) != IGNORED

    def _targets(self, labels: Tensor) -> Tensor:
        # padding the labels costs less than cutting the logits, which would be copied
        return nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:] if self.shifted else labels

    def _weights_on(self, device: torch.device) -> Tensor | None:
        return self.weights.to(device) if self.weights is not None else None


def make_loss(options: Mapping[str, Any], head: str, labels: Sequence[str], counts: Sequence[int] = ()) -> Loss | None:
    """The loss for a task's head; ``None`` where the model's own is the only one that fits (pretraining).

    ``counts`` are the training labels' numbers, in the labels' order; only balanced weights need them. Raises
    ``InvalidOption`` for weights that do not fit the labels.
    """
    given, smoothing = options["class_weights"], float(options["label_smoothing"])
    if given is not None and head not in LABEL_ARCHITECTURES:
        raise InvalidOption(f"{HERE}.class_weights needs a task with labels; this one has none")
    if head not in (*LABEL_ARCHITECTURES, "ForCausalLM"):
        if smoothing:
            raise InvalidOption(f"{HERE}.label_smoothing does not go with this task, whose model brings its own loss")
        return None
    weights = torch.tensor(class_weights(given, labels, counts)) if given is not None else None
    return Loss(head == "ForCausalLM", smoothing, weights)


def class_weights(given: Any, labels: Sequence[str], counts: Sequence[int]) -> list[float]:
    """One weight a label: ``balanced`` is n / (k * count) as in scikit-learn, a mapping's missing labels weigh 1."""
    if given == "balanced":
        there = sum(1 for count in counts if count)
        return [sum(counts) / (there * count) if count else 1.0 for count in counts]
    if not isinstance(given, Mapping):
        raise InvalidOption(f"{HERE}.class_weights must be 'balanced' or a mapping of labels to weights, not '{given}'")
    by_label = {str(label): weight for label, weight in given.items()}
    faults = ErrorCollector()
    for label, weight in by_label.items():
        with faults.collect():
            _check_weight(label, weight, labels)
    faults.raise_if_any()
    return [float(by_label.get(label, 1.0)) for label in labels]


def _check_weight(label: str, weight: Any, labels: Sequence[str]) -> None:
    if label not in labels:
        raise InvalidOption(f"{HERE}.class_weights: the data has no label '{label}'{did_you_mean(label, labels)}")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
        raise InvalidOption(f"{HERE}.class_weights: the weight of '{label}' must be a number above 0, not {weight!r}")


def count_labels(targets: Iterable[Any], classes: int) -> list[int]:
    """How often each class occurs in encoded targets, a number a row or a list of them; those below 0 are none."""
    import numpy as np

    counts = np.zeros(classes, dtype=np.int64)
    for target in targets:
        numbers = np.atleast_1d(np.asarray(target, dtype=np.int64))
        counts += np.bincount(numbers[numbers >= 0], minlength=classes)
    return [int(count) for count in counts]
