"""Models with components that Hugging Face's loader does not know, such as adapters and quantized embeddings.

The entry ``fastserve_parts`` of a model's config is a list of ``{"kind": NAME, …}`` in the order in which the
components were added. An entry point of the group ``fastserve.parts`` with that name restores a component: a function
of the model, the folder that it was loaded from and the component's entry, which returns the model with the component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.checkpoint import read_config
from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import FastServeError, ModelError
from fastserve_core.models.weights import LoadedModel, load_weights

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
    """Load a model with all its weights and components.

    Args:
        kind: A model class of transformers.
        folder: The model's folder.
        arguments: Further arguments of ``from_pretrained``.

    Raises:
        ModelError: The model cannot be loaded, or a weight is missing or does not fit the config.
        UnknownNameError: No installed package provides a component.
    """
    loaded = load_for_task(kind, folder, **arguments)
    if loaded.new:
        names = ", ".join(sorted(loaded.new))
        raise ModelError(f"the folder {folder} lacks weights of its {type(loaded.model).__name__}: {names}")
    return loaded.model


def load_for_task(kind: Any, folder: Path, **arguments: Any) -> LoadedModel:
    """Load a model whose head or pooler may be new.

    If there are components, weights whose shapes the class does not expect are ignored; the components restore them.

    Args:
        kind: A model class of transformers.
        folder: The model's folder.
        arguments: Further arguments of ``from_pretrained``.

    Raises:
        ModelError: The model cannot be loaded, or another weight is missing or does not fit the config.
        UnknownNameError: No installed package provides a component.
    """
    has_components = bool(read_config(folder).get(CONFIG_KEY))
    try:
        loaded = load_weights(kind, folder, not has_components, **arguments)
    except FastServeError:
        raise
    except Exception as error:  # transformers raises a dozen kinds for configs and files that cannot be
        if "auto_map" in read_config(folder):
            raise own_code_error(folder) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"{folder} cannot be loaded as {kind.__name__}: {reason}") from error
    model = loaded.model
    for entry in list_components(model.config):
        model = load_entry_point(GROUP, entry["kind"])(model, folder, entry)
    return replace(loaded, model=model)


def own_code_error(folder: Path) -> ModelError:
    """Return the error for a model whose config names Python code of its own."""
    return ModelError(
        f"{folder} brings its own Python code, which is never run; use a model that transformers itself has"
    )
