"""The head of a classifier: its rows follow the names of the labels, whatever the order of the data's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

GENERIC = "LABEL_"
"""transformers' names for labels without names: ``LABEL_0``, ``LABEL_1`` …"""
MAX_LABELS = 6
"""How many labels a message shows."""


def match_labels(own: Sequence[str], labels: Sequence[str]) -> list[int | None]:
    """Find the row of each label in a head.

    Labels match by their names, else by their names in lower case if no two of a side are equal then. ``LABEL_0`` …
    match the numbers 0 …, if the data has no other labels.

    Args:
        own: The labels of the head's rows.
        labels: The labels of the data.

    Returns:
        A row for each of ``labels``; ``None`` for a label that the head does not know.
    """
    rows = {label: row for row, label in enumerate(own)}
    numbers = {str(row): row for row in range(len(own))}
    if len(own) > 1 and list(own) == [f"{GENERIC}{row}" for row in numbers] and set(labels) <= set(numbers):
        return [numbers[label] for label in labels]
    if set(own).isdisjoint(labels):
        lowered = {label.lower(): row for label, row in rows.items()}
        if len(lowered) == len(rows) and len({label.lower() for label in labels}) == len(labels):
            return [lowered.get(label.lower()) for label in labels]
    return [rows.get(label) for label in labels]


def head_linears(model: Any, labels: int) -> list[str]:
    """Return the names of the linear layers of a model that have one output for each label.

    Their shapes change with the number of labels: two models without weights are compared.

    Args:
        model: The model.
        labels: Its number of labels.
    """
    import torch

    shapes: list[dict[str, Any]] = []
    for count in (labels, labels + 1):
        config = type(model.config).from_dict({**model.config.to_dict(), **name_labels(list(map(str, range(count))))})
        with torch.device("meta"):
            shapes.append({name: weight.shape for name, weight in type(model)(config).named_parameters()})
    changed = [name for name, shape in shapes[0].items() if shapes[1][name] != shape]
    return sorted({name.rpartition(".")[0] for name in changed})


def reorder_head(model: Any, labels: Sequence[str], rows: Sequence[int | None]) -> nn.Module:
    """Give a model's head one row for each label, and return the model.

    Args:
        model: A model with the head that it was trained with, changed in place.
        labels: The labels of the data.
        rows: The row of each label in the head; ``None`` for a new row with random weights.
    """
    import torch
    from torch import nn

    for name in head_linears(model, model.config.num_labels):
        old = model.get_submodule(name)
        new = nn.Linear(old.in_features, len(labels), old.bias is not None, dtype=old.weight.dtype)
        model._init_weights(new)
        with torch.no_grad():
            for row, source in enumerate(rows):
                if source is not None:
                    new.weight[row] = old.weight[source]
                    if old.bias is not None:
                        new.bias[row] = old.bias[source]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    for module in model.modules():
        if "num_labels" in vars(module):
            module.num_labels = len(labels)  # a plain attribute, from the config at hand when it was made
    for key, value in name_labels(labels).items():
        setattr(model.config, key, value)
    result: nn.Module = model
    return result


def name_labels(labels: Sequence[str]) -> dict[str, Mapping[Any, Any]]:
    """Return the entries of a config that name the labels."""
    by_row = dict(enumerate(labels))
    return {"id2label": by_row, "label2id": {label: row for row, label in by_row.items()}}


def describe_head(own: Sequence[str], labels: Sequence[str], rows: Sequence[int | None]) -> str:
    """Return a line on the use of a checkpoint's head."""
    kept = [label for label, row in zip(labels, rows, strict=True) if row is not None]
    new = [label for label, row in zip(labels, rows, strict=True) if row is None]
    dropped = [label for row, label in enumerate(own) if row not in rows]
    if not kept:
        return f"the head is new: the checkpoint's head has the labels {_list(own)}, the data has {_list(labels)}"
    if list(rows) == list(range(len(own))):
        names = "" if list(own) == list(labels) else f", which the checkpoint calls {_list(own)}"
        return f"the checkpoint's head is kept: {_list(labels)}{names}"
    pairs = [(own[row], label) for label, row in zip(labels, rows, strict=True) if row is not None]
    parts = [
        "rows by name: " + _list([label if name == label else f"{name} for {label}" for name, label in pairs]),
        f"new rows: {_list(new)}" if new else "",
        f"without {_list(dropped)}" if dropped else "",
    ]
    return f"the checkpoint's head is reordered; {'; '.join(filter(None, parts))}"


def _list(labels: Sequence[str]) -> str:
    others = f" and {len(labels) - MAX_LABELS} others" if len(labels) > MAX_LABELS else ""
    return ", ".join(labels[:MAX_LABELS]) + others
