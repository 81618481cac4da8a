"""Read tensors of a model folder by name, and write a compressed model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fastserve_core.artifacts import copy_tokenizer
from fastserve_core.errors import ModelError


class StoredTensors:
    """Tensors of a folder's safetensors files, each read on demand."""

    def __init__(self, folder: Path, prefix: str) -> None:
        """Index the files.

        Args:
            folder: Folder with safetensors files.
            prefix: Prefix of the base model in the names, such as ``bert``.
        """
        self.folder, self.prefix = folder, prefix
        self.files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self.files |= dict.fromkeys(file.keys(), path)

    def find(self, name: str) -> Tensor | None:
        """Return the tensor of this name, with or without the base model's prefix; None if it is absent."""
        for variant in list_name_variants(name, self.prefix):
            if variant in self.files:
                with safe_open(self.files[variant], framework="pt") as file:
                    tensor: Tensor = file.get_tensor(variant)
                return tensor
        return None

    def get(self, name: str) -> Tensor:
        """Return the tensor of this name, with or without the base model's prefix.

        Raises:
            ModelError: The tensor is absent.
        """
        tensor = self.find(name)
        if tensor is None:
            raise ModelError(f"{self.folder} lacks the tensor {name}, which its config.json lists")
        return tensor


def list_name_variants(name: str, prefix: str) -> list[str]:
    """Return the names of a module in models with a head (``bert.encoder...``) and in the base model."""
    return [name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")]


def resolve_name(model: nn.Module, name: str) -> str | None:
    """Return the path in this model of a module named by another class of the same family; None if it is absent."""
    known = dict(model.named_modules())
    prefix = getattr(model, "base_model_prefix", "")
    return next((variant for variant in list_name_variants(name, prefix) if variant in known), None)


def write_model(model: nn.Module, source: Path, target: Path, fp16_names: Iterable[str] = ()) -> None:
    """Write the model with the tokenizer of its source folder.

    Args:
        model: Model to write.
        source: Folder of the tokenizer.
        target: Folder to write.
        fp16_names: Names of the tensors to store in fp16.
    """
    state = dict(model.state_dict())
    for name in fp16_names:
        state[name] = state[name].to(torch.float16)
    model.save_pretrained(target, state_dict=state)  # type: ignore[operator]
    copy_tokenizer(source, target)
