"""Models with components that Hugging Face's loader does not know, such as adapters and quantized embeddings.

The entry ``fastserve_parts`` of a model's config is a list of ``{"kind": NAME, …}`` in the order in which the
components were added. An entry point of the group ``fastserve.parts`` with that name restores a component: a function
of the model, the folder that it was loaded from and the component's entry, which returns the model with the component.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.files import read_json
from fastserve_core.entry_points import load_entry_point

GROUP = "fastserve.parts"
CONFIG_KEY = "fastserve_parts"


def list_components(config: Any) -> list[dict[str, Any]]:
    """Return copies of the entries of a model's components.

    Args:
        config: The model's config, an object of transformers.
    """
    return [dict(entry) for entry in getattr(config, CONFIG_KEY, None) or ()]


def register_component(config: Any, entry: Mapping[str, Any]) -> None:
    """Add a component's entry to a model's config; an older entry of the same kind is replaced.

    Args:
        config: The model's config, an object of transformers.
        entry: ``kind`` and the options with which the component is restored, as JSON values.
    """
    entries = list_components(config)
    kinds = [existing["kind"] for existing in entries]
    if entry["kind"] in kinds:
        entries[kinds.index(entry["kind"])] = dict(entry)
    else:
        entries.append(dict(entry))
    setattr(config, CONFIG_KEY, entries)


def load_pretrained(kind: Any, folder: Path, **arguments: Any) -> Any:
    """Load a model with its components.

    If there are components, weights whose shapes the class does not expect are ignored; the components restore them.

    Args:
        kind: A model class of transformers.
        folder: The model's folder.
        arguments: Further arguments of ``from_pretrained``.

    Raises:
        UnknownNameError: No installed package provides a component.
        Exception: Errors of transformers.
    """
    has_components = bool(read_json(folder / "config.json").get(CONFIG_KEY))
    mismatched = arguments.pop("ignore_mismatched_sizes", False) or has_components
    model = kind.from_pretrained(folder, ignore_mismatched_sizes=mismatched, use_safetensors=True, **arguments)
    for entry in list_components(model.config):
        model = load_entry_point(GROUP, entry["kind"])(model, folder, entry)
    return model
