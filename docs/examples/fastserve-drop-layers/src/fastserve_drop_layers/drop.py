"""The part that imports torch; it runs in a process of its own, which shows none of what its libraries print.

Sajjad et al. (2023), On the effect of dropping layers of pre-trained transformer models.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fastserve_core.errors import ModelError, OptionError
from fastserve_core.events import Progress
from fastserve_core.processes import child_main, event_writer
from fastserve_core.tasks import load_task

PLACES = ("encoder.layer", "transformer.layer")
"""Where a model's body keeps its layers: BERT and RoBERTa, DistilBERT."""

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)


def drop(
    model: str, draft: str, task: tuple[str, Mapping[str, Any], Sequence[str]], keep: int, which: str, events: str
) -> None:
    """Write the model with ``keep`` of its layers into the draft folder, with the tokenizer it came with."""
    tell = event_writer(events)
    source, target = Path(model), Path(draft)
    built = load_task(*task).build(source)
    tell(Progress("dropping layers", 1, 2))
    cut(built, keep, which)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    built.save_pretrained(target)  # type: ignore[operator]
    tell(Progress("dropping layers", 2, 2))


def cut(model: Any, keep: int, which: str) -> None:
    """Leave ``keep`` layers in the model and in its config.

    Raises ``ModelError`` when it is not known where the model has its layers, ``OptionError`` when it has too few.
    """
    parent, name, layers = find_layers(model)
    if keep >= len(layers):
        raise OptionError(
            f"compress.drop_layers.keep={keep} leaves nothing to drop: the model has {len(layers)} layers"
        )
    setattr(parent, name, nn.ModuleList(layers[number] for number in chosen(len(layers), keep, which)))
    model.config.num_hidden_layers = keep


def find_layers(model: Any) -> tuple[nn.Module, str, nn.ModuleList]:
    """The module that holds the layers, under which name, and the layers."""
    body = model.base_model
    for place in PLACES:
        outer, _, inner = place.partition(".")
        parent = getattr(body, outer, None)
        layers = getattr(parent, inner, None)
        if parent is not None and isinstance(layers, nn.ModuleList) and len(layers) == model.config.num_hidden_layers:
            return parent, inner, layers
    raise ModelError(f"drop_layers cannot find the layers of a {type(model).__name__}: it knows {', '.join(PLACES)}")


def chosen(layers: int, keep: int, which: str) -> list[int]:
    """The numbers of the layers that stay: 3 of 6 are 0, 1, 2 (first) or 0, 2, 5 (spread)."""
    if which == "first" or keep == 1:
        return list(range(keep))
    return [round(number * (layers - 1) / (keep - 1)) for number in range(keep)]


if __name__ == "__main__":
    child_main(drop)
