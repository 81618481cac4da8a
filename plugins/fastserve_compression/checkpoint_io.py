"""A model's folder: its tensors by name, whatever class saved them, and the smaller model that is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fastserve_core.artifacts import copy_tokenizer
from fastserve_core.errors import InvalidModel


class StoredTensors:
    """The tensors of a folder's safetensors files, each read when it is asked for."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self.files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self.files |= dict.fromkeys(file.keys(), path)

    def find(self, name: str) -> Tensor | None:
        """The tensor of that name, with or without the base model's prefix; ``None`` where there is none."""
        for one in name_variants(name, self.prefix):
            if one in self.files:
                with safe_open(self.files[one], framework="pt") as file:
                    tensor: Tensor = file.get_tensor(one)
                return tensor
        return None

    def get(self, name: str) -> Tensor:
        """The same; raises ``InvalidModel`` where there is none."""
        tensor = self.find(name)
        if tensor is None:
            raise InvalidModel(f"{self.folder} lacks {name}, which its config.json speaks of")
        return tensor


def name_variants(name: str, prefix: str) -> list[str]:
    """A name as models with a head have it (``bert.encoder…``) and as the base model has it."""
    return [name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")]


def resolve_name(model: nn.Module, name: str) -> str | None:
    """What a module that another class of the same family calls so is called in this model."""
    known = dict(model.named_modules())
    prefix = getattr(model, "base_model_prefix", "")
    return next((one for one in name_variants(name, prefix) if one in known), None)


def write_model(model: nn.Module, source: Path, target: Path, halved: Iterable[str] = ()) -> None:
    """Write the model, some of its tensors in fp16, with the tokenizer of the folder that it came from."""
    state = dict(model.state_dict())
    for name in halved:
        state[name] = state[name].to(torch.float16)
    model.save_pretrained(target, state_dict=state)  # type: ignore[operator]
    copy_tokenizer(source, target)
