"""A folder's torch model, of the class that its config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastserve_core.artifacts import read_json
from fastserve_core.errors import InvalidArtifact
from fastserve_core.models import load_pretrained


def load_model(folder: Path) -> Any:
    """The model with its parts, in the number format that the folder has it in; raises ``InvalidArtifact`` for a
    class that
    is not known."""
    import transformers

    name = (read_json(folder / "config.json").get("architectures") or ["?"])[0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise InvalidArtifact(f"{folder} is of class {name}, which transformers {transformers.__version__} lacks")
    return load_pretrained(kind, folder).eval()


def to_inference_dtype(model: Any) -> Any:
    """The same model in numbers that the CPU is fast in: 16 bit weights in bf16, by its own instructions, else in fp32.

    fp16 has no products on most CPUs. Modules that are in fp32 stay so.
    """
    import torch

    if not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():  # emulated, it is slower than fp32
        return model.float()
    for one in model.parameters():
        if one.dtype == torch.float16:
            one.data = one.data.to(torch.bfloat16)
    return model
