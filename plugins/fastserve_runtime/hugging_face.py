"""A folder's torch model, of the class that its config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastserve_core.errors import BadArtifact
from fastserve_core.files import read_json
from fastserve_core.parts import load_pretrained


def load_model(folder: Path) -> Any:
    """The model with its parts, in fp32, ready to answer; raises ``BadArtifact`` for a class that is not known."""
    import transformers

    name = (read_json(folder / "config.json").get("architectures") or ["?"])[0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise BadArtifact(f"{folder} is of class {name}, which transformers {transformers.__version__} lacks")
    return load_pretrained(kind, folder).eval()
