"""Models with parts that Hugging Face's own loader does not know; who made the parts puts them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastserve_core.registry import provide

GROUP = "fastserve.adapters"
ENTRY = "fastserve_adapter"
"""The entry of a model's config that names the provider, as ``{"kind": NAME, …}``."""


def restored(model: Any, folder: Path) -> Any:
    """The model that was loaded from the folder, with its adapters where its config tells of any.

    Raises ``UnknownName`` for adapters that no installed package provides.
    """
    about = getattr(model.config, ENTRY, None)
    return provide(GROUP, about["kind"])(model, folder) if about else model
