"""Models with parts that Hugging Face's own loader does not know; who made the parts puts them back.

The entry ``fastserve_parts`` of a model's config is a list of ``{"kind": NAME, …}`` in the order in which the parts
were made. A name's provider is an entry point of the group ``fastserve.parts``: a function of the model, the folder
that it was loaded from and the part's own entry, which returns the model with the part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.files import read_json
from fastserve_core.entry_points import load_entry_point

GROUP = "fastserve.parts"
CONFIG_KEY = "fastserve_parts"


def components_of(config: Any) -> list[dict[str, Any]]:
    """The parts that a model's config (transformers' object) tells of, as copies."""
    return [dict(one) for one in getattr(config, CONFIG_KEY, None) or ()]


def register_component(config: Any, about: Mapping[str, Any]) -> None:
    """Have a config tell of a part when it is saved; an older entry of that kind is replaced, in its place."""
    parts = components_of(config)
    places = [number for number, one in enumerate(parts) if one["kind"] == about["kind"]]
    if places:
        parts[places[0]] = dict(about)
    else:
        parts.append(dict(about))
    setattr(config, CONFIG_KEY, parts)


def load_pretrained(kind: Any, folder: Path, **arguments: Any) -> Any:
    """The folder's model by a class of transformers, with its parts.

    Weights of other shapes than the class expects are passed over when the folder has parts, whose providers bring
    them in. Raises ``UnknownName`` for a part that no installed package provides, and what transformers raises.
    """
    has_parts = bool(read_json(folder / "config.json").get(CONFIG_KEY))
    mismatched = arguments.pop("ignore_mismatched_sizes", False) or has_parts
    model = kind.from_pretrained(folder, ignore_mismatched_sizes=mismatched, use_safetensors=True, **arguments)
    for about in components_of(model.config):
        model = load_entry_point(GROUP, about["kind"])(model, folder, about)
    return model
