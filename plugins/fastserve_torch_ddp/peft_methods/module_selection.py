"""The modules of a model by name: its layers, its head, and those that a user's pattern selects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers.pytorch_utils import Conv1D

from fastserve_core.errors import ErrorCollector, OptionError, did_you_mean
from fastserve_torch_ddp.peft_methods.bottleneck import COMPONENT_NAME

LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
"""The number of the layer in a name inside the base model."""


def inner_name(model: nn.Module, name: str) -> str | None:
    """Return a name relative to the base model (``encoder.layer.0.…``), or ``None`` if it is outside of it."""
    prefix = getattr(model, "base_model_prefix", "")
    prefix = f"{prefix}." if prefix and hasattr(model, prefix) else ""
    return name.removeprefix(prefix) if name.startswith(prefix) else None


def layer_number(inner: str) -> int | None:
    """Return the number of the layer that contains a module of the base model, or ``None`` outside of layers."""
    match = LAYER.search(inner)
    return int(match.group(1)) if match else None


def is_head(inner: str | None) -> bool:
    """Return whether a name belongs to the head, which turns the last layer's output into an answer."""
    return inner is None or inner.startswith("pooler.")


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the task's head, and those of BERT's pooler, which only a classifier reads.

    A projection to the vocabulary is excluded, because it was pretrained with the model.
    """
    projection = getattr(model, "get_output_embeddings", lambda: None)()
    pretrained = {id(parameter) for parameter in projection.parameters()} if projection is not None else set()
    return [
        parameter
        for name, parameter in model.named_parameters()
        if is_head(inner_name(model, name)) and id(parameter) not in pretrained
    ]


def find_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers of attention and feed-forward blocks that are not frozen, by name."""
    linears: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inner = inner_name(model, name)
        in_layer = inner is not None and layer_number(inner) is not None and f".{COMPONENT_NAME}." not in inner
        if in_layer and isinstance(module, (nn.Linear, Conv1D)) and module.weight.requires_grad:
            linears[name] = module
    return linears


def select_modules(model: nn.Module, patterns: Sequence[str] | None, option: str) -> list[str]:
    """Select linear layers by the end of their names or by globs.

    Args:
        model: The model.
        patterns: Endings or globs; ``None`` selects all.
        option: The name of the option, for messages.

    Returns:
        The qualified names of the layers, in the model's order.

    Raises:
        OptionError: The model has no linear layer to select, or a pattern selects none.
    """
    names = list(find_linears(model))
    if not names:
        raise OptionError(
            f"{option}: the model has no linear layer that can take an adapter, or all of them are frozen"
        )
    if patterns is None:
        return names
    known = {ending for name in names for ending in _endings(name)}
    selected = [
        [name for name in names if name.endswith(f".{pattern}") or fnmatchcase(name, pattern)] for pattern in patterns
    ]
    _raise_if_empty(zip(patterns, selected, strict=True), known, f"{option}: no linear layer of the model is called")
    return [name for name in names if any(name in group for group in selected)]


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze all parameters whose names match a pattern.

    Args:
        model: The model, changed in place.
        patterns: Names of modules or globs, such as ``embeddings``, ``encoder.layer.0`` and ``encoder.layer.[0-3]``;
            the base model's own prefix (``bert.``) is optional.

    Raises:
        OptionError: A pattern matches no parameter.
    """
    parameters = dict(model.named_parameters())
    selected = [
        [
            name
            for name in parameters
            if any(_matches(pattern, candidate) for candidate in (name, inner_name(model, name)) if candidate)
        ]
        for pattern in patterns
    ]
    known = set(_module_names(model))
    _raise_if_empty(
        zip(patterns, selected, strict=True), known, "train.torch_ddp.freeze: no part of the model is called"
    )
    for name in {name for group in selected for name in group}:
        parameters[name].requires_grad_(False)


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(f"{pattern}.") or fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _raise_if_empty(selected: Iterable[tuple[str, list[str]]], known: set[str], message: str) -> None:
    faults = ErrorCollector()
    for pattern, names in selected:
        with faults.collect():
            if not names:
                raise OptionError(f"{message} '{pattern}'{did_you_mean(pattern, known)}")
    faults.raise_if_any()


def _endings(name: str) -> list[str]:
    """Return ``dense`` and ``output.dense`` for ``….output.dense``."""
    segments = name.split(".")
    return [segments[-1], *([".".join(segments[-2:])] if not segments[-2].isdigit() else [])]


def _module_names(model: nn.Module) -> Iterator[str]:
    """Yield the names of top-level modules and whole layers, for suggestions."""
    for name, module in model.named_modules():
        inner = inner_name(model, name)
        path = name if inner is None else inner
        number = LAYER.search(path)
        is_whole_layer = number is not None and number.end() == len(path)
        if path and ("." not in path or is_whole_layer) and next(module.parameters(), None) is not None:
            yield path
