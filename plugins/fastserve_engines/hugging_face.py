"""Load the torch model of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastserve_core.artifacts import read_json
from fastserve_core.errors import ArtifactError
from fastserve_core.models import load_pretrained
from fastserve_core.processes import read_processor


def load_model(folder: Path) -> Any:
    """Load the model of the class that its config names, with its components and in its stored dtype.

    Raises:
        ArtifactError: transformers has no such class.
    """
    import transformers

    name = (read_json(folder / "config.json").get("architectures") or ["?"])[0]
    model_class = getattr(transformers, name, None)
    if model_class is None:
        raise ArtifactError(
            f"{folder} has the class {name}, which transformers {transformers.__version__} does not have"
        )
    return load_pretrained(model_class, folder).eval()


def to_inference_dtype(model: Any) -> Any:
    """Cast the model to the dtype that is fastest on this CPU, and return it.

    16-bit weights become bf16 if the CPU has instructions for it, otherwise fp32; most CPUs have no fp16 products.
    Modules in fp32 are left unchanged.
    """
    import torch

    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() and read_processor().has_bf16_units
    if not has_bf16:  # emulated bf16 is slower than fp32
        return model.float()
    for parameter in model.parameters():
        if parameter.dtype == torch.float16:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model
