"""A model's parts by name: its layers, its head, and what a user's pattern selects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers.pytorch_utils import Conv1D

from fastserve_core.errors import ErrorCollector, InvalidOption, did_you_mean
from fastserve_torch_ddp.peft_methods.bottleneck import COMPONENT_NAME

LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
"""The number of the layer that a name inside the base model belongs to."""


def inner_name(model: nn.Module, name: str) -> str | None:
    """The name inside the base model (``encoder.layer.0.…``); ``None`` for what stands on top of it."""
    prefix = getattr(model, "base_model_prefix", "")
    prefix = f"{prefix}." if prefix and hasattr(model, prefix) else ""
    return name.removeprefix(prefix) if name.startswith(prefix) else None


def layer_number(inner: str) -> int | None:
    found = LAYER.search(inner)
    return int(found.group(1)) if found else None


def is_head(inner: str | None) -> bool:
    """Whether the name is of the part that turns the last layer's output into an answer."""
    return inner is None or inner.startswith("pooler.")


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What a task puts on top of the base model, and BERT's pooler, which only a classifier reads.

    A projection to the vocabulary is not among them: it came trained with the model.
    """
    projection = getattr(model, "get_output_embeddings", lambda: None)()
    known = {id(one) for one in projection.parameters()} if projection is not None else set()
    return [one for name, one in model.named_parameters() if is_head(inner_name(model, name)) and id(one) not in known]


def linears(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of attention and feed-forward networks that are not frozen, by name."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inner = inner_name(model, name)
        in_layer = inner is not None and layer_number(inner) is not None and f".{COMPONENT_NAME}." not in inner
        if in_layer and isinstance(module, (nn.Linear, Conv1D)) and module.weight.requires_grad:
            found[name] = module
    return found


def select_modules(model: nn.Module, wanted: Sequence[str] | None, option: str) -> list[str]:
    """The linear layers whose names end with one of the given ones or match it as a glob; all for ``None``.

    Raises ``InvalidOption`` for a name that selects nothing.
    """
    names = list(linears(model))
    if not names:
        raise InvalidOption(
            f"{option}: the model has no linear layer that an adapter could be put on, or all are frozen"
        )
    if wanted is None:
        return names
    known = {ending for name in names for ending in _endings(name)}
    chosen = [[name for name in names if name.endswith(f".{one}") or fnmatchcase(name, one)] for one in wanted]
    _refuse_empty(zip(wanted, chosen, strict=True), known, f"{option}: no linear layer of the model is called")
    return [name for name in names if any(name in part for part in chosen)]


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Stop the gradients of all parameters that a pattern names, as a part of the model or as a glob.

    ``embeddings``, ``encoder.layer.0`` and ``encoder.layer.[0-3]`` are patterns; the base model's own name
    (``bert.``) may be left out. Raises ``InvalidOption`` for a pattern that names nothing.
    """
    names = dict(model.named_parameters())
    chosen = [
        [name for name in names if any(_covers(pattern, one) for one in (name, inner_name(model, name)) if one)]
        for pattern in patterns
    ]
    known = set(_part_names(model))
    _refuse_empty(zip(patterns, chosen, strict=True), known, "train.torch_ddp.freeze: no part of the model is called")
    for name in {name for part in chosen for name in part}:
        names[name].requires_grad_(False)


def _covers(pattern: str, name: str) -> bool:
    return name.startswith(f"{pattern}.") or fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _refuse_empty(selected: Iterable[tuple[str, list[str]]], known: set[str], message: str) -> None:
    faults = ErrorCollector()
    for pattern, names in selected:
        with faults.collect():
            if not names:
                raise InvalidOption(f"{message} '{pattern}'{did_you_mean(pattern, known)}")
    faults.raise_if_any()


def _endings(name: str) -> list[str]:
    """``dense`` and ``output.dense`` of ``….output.dense``."""
    parts = name.split(".")
    return [parts[-1], *([".".join(parts[-2:])] if not parts[-2].isdigit() else [])]


def _part_names(model: nn.Module) -> Iterator[str]:
    """The parts down to whole layers, as one would name them."""
    for name, module in model.named_modules():
        inner = inner_name(model, name)
        part = name if inner is None else inner
        number = LAYER.search(part)
        if (
            part
            and (part.count(".") == 0 or (number and number.end() == len(part)))
            and next(module.parameters(), None) is not None
        ):
            yield part
