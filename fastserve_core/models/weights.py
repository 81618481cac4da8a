"""Loading of weights with transformers: missing weights, and weights that do not fit the config, are errors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.checkpoint import list_weight_files
from fastserve_core.errors import ModelError

WRAPPERS = r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
"""Modules that torch puts around others, in the names of weights that were saved without taking it away."""
MAX_NAMES = 4
"""How many names a message shows of each kind."""


@dataclass(frozen=True)
class LoadedModel:
    """A model of transformers, and how its weights fit the folder.

    Attributes:
        model: The model.
        new: The weights that the folder does not have, all of the head or a pooler; they are random.
        faults: Descriptions of all other weights that do not fit; empty if the model can be used.
    """

    model: Any
    new: frozenset[str]
    faults: tuple[str, ...] = ()

    @property
    def has_new_head(self) -> bool:
        """Whether weights of the head are new."""
        return not all(map(_is_pooler, self.new))


def load_weights(kind: Any, folder: Path, is_complete: bool = True, **arguments: Any) -> LoadedModel:
    """Load a model; a prefix that all names of the weights share, such as DDP's ``module.``, is removed.

    Args:
        kind: A model class of transformers.
        folder: The model's folder.
        is_complete: Whether the class describes all weights; if not, components restore those that do not fit.
        arguments: Further arguments of ``from_pretrained``.

    Raises:
        ModelError: Weights other than those of a head or a pooler are missing, have other shapes than in the config,
            or are not used.
    """
    first = _load(kind, folder, **arguments)
    if not is_complete:
        return LoadedModel(first.model, frozenset())
    if not first.faults:
        return first
    for prefix in _common_prefixes(folder):
        unwrapped = _load(kind, folder, key_mapping={f"^{re.escape(prefix)}": "", WRAPPERS: r"\1"}, **arguments)
        if not unwrapped.faults:
            return unwrapped
    raise ModelError(
        f"the weights in {folder} do not fit its config.json: {'; '.join(first.faults)}. "
        "Use the config.json with which the weights were saved"
    )


def _load(kind: Any, folder: Path, **arguments: Any) -> LoadedModel:
    model, info = kind.from_pretrained(
        folder, ignore_mismatched_sizes=True, use_safetensors=True, output_loading_info=True, **arguments
    )
    mismatched = {name: (tuple(stored), tuple(expected)) for name, stored, expected in info["mismatched_keys"]}
    absent = set(info["missing_keys"]) | set(mismatched)
    new = frozenset(name for name in absent if _is_head(model, name))
    wrong_shapes = [
        f"{name} ({_shape(stored)} in the file, {_shape(expected)} by the config)"
        for name, (stored, expected) in sorted(mismatched.items())
        if name not in new
    ]
    faults = (
        _describe("missing", sorted(absent - set(mismatched) - new)),
        _describe("of another shape", wrong_shapes),
        _describe("not in the config's model", sorted(_unused(model, info["unexpected_keys"]))),
    )
    return LoadedModel(model, new, tuple(filter(None, faults)))


def _is_head(model: Any, name: str) -> bool:
    """Return whether a weight of the model belongs to its head or to a pooler."""
    prefix = model.base_model_prefix
    is_inside = bool(prefix) and hasattr(model, prefix) and name.startswith(f"{prefix}.")
    return (not is_inside and model is not model.base_model) or _is_pooler(name)


def _is_pooler(name: str) -> bool:
    return any(part.startswith("pooler") for part in name.split("."))


def _unused(model: Any, names: Iterable[str]) -> Iterator[str]:
    """Yield the unused weights of a file that belong to the body of the model, such as further layers."""
    body = {name for name, _ in model.base_model.named_children()}
    buffers = {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    for name in names:
        inner = name.removeprefix(f"{model.base_model_prefix}.")
        if inner.partition(".")[0] in body and not _is_pooler(inner) and inner.rpartition(".")[2] not in buffers:
            yield name


def _common_prefixes(folder: Path) -> list[str]:
    """Return the prefixes of one, two and more parts that the names of all weights share; ``""`` first."""
    from safetensors import safe_open

    names: list[list[str]] = []
    for file in list_weight_files(folder):
        with safe_open(folder / file, framework="pt") as tensors:
            names += [name.split(".")[:-1] for name in tensors.keys()]  # noqa: SIM118 - not a mapping
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))]
    return ["".join(f"{part}." for part in shared[:count]) for count in range(len(shared) + 1)]


def _describe(kind: str, names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:MAX_NAMES])
    others = f" and {len(names) - MAX_NAMES} others" if len(names) > MAX_NAMES else ""
    return f"{len(names)} {kind}: {shown}{others}" if names else ""


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
