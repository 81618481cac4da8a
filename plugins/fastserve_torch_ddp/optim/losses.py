"""The options that a task's loss takes from the trainer: label smoothing and class weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastserve_core.errors import ErrorCollector, OptionError, did_you_mean
from fastserve_core.tasks import LossOptions, Task

HERE = "train.torch_ddp"


def make_loss_options(options: Mapping[str, Any], task: Task, targets: Iterable[Any] = ()) -> LossOptions:
    """Return the options of the task's loss.

    Args:
        options: The trainer's options.
        task: The task with its labels.
        targets: The targets of the training rows; only balanced weights need them.

    Raises:
        OptionError: The task's loss does not read an option that is set, or weights do not fit the labels.
    """
    given, smoothing = options["class_weights"], float(options["label_smoothing"])
    if given is not None and "class_weights" not in task.loss_options:
        raise OptionError(f"{HERE}.class_weights does not go with the task {task.name}: it has no classes")
    if smoothing and "label_smoothing" not in task.loss_options:
        raise OptionError(f"{HERE}.label_smoothing does not go with the task {task.name} and its own loss")
    if given is None:
        return LossOptions(smoothing)
    weights = task.balanced_class_weights(targets) if given == "balanced" else class_weights(given, task.labels)
    return LossOptions(smoothing, tuple(weights))


def class_weights(given: Any, labels: Sequence[str]) -> list[float]:
    """One weight a label; labels that the mapping lacks weigh 1."""
    if not isinstance(given, Mapping):
        raise OptionError(f"{HERE}.class_weights must be 'balanced' or a mapping of labels to weights, not '{given}'")
    by_label = {_label_name(label, labels): weight for label, weight in given.items()}
    faults = ErrorCollector()
    for label, weight in by_label.items():
        with faults.collect():
            _check_weight(label, weight, labels)
    faults.raise_if_any()
    return [float(by_label.get(label, 1.0)) for label in labels]


def _label_name(label: Any, labels: Sequence[str]) -> str:
    """A label's name; ``true`` on the command line is a truth value, and may be the label ``true`` or ``True``."""
    name = str(label)
    return name.lower() if isinstance(label, bool) and name not in labels else name


def _check_weight(label: str, weight: Any, labels: Sequence[str]) -> None:
    if label not in labels:
        raise OptionError(f"{HERE}.class_weights: the data has no label '{label}'{did_you_mean(label, labels)}")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
        raise OptionError(f"{HERE}.class_weights: the weight of '{label}' must be a number above 0, not {weight!r}")
