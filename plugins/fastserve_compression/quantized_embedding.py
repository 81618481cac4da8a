"""Product-quantized embedding tables: the module, and its insertion into a loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastserve_compression.checkpoint_io import StoredTensors, resolve_name
from fastserve_core.errors import ModelError
from fastserve_core.models import register_component

COMPONENT_KIND = "product_quantized"


class PQEmbedding(nn.Module):
    """Embedding table that is composed of codebooks by codes.

    The codebooks are trained, the codes are not. Rows share codebook entries, so training may move the padding token's
    row too.
    """

    codes: Tensor
    offsets: Tensor

    def __init__(self, codes: Tensor, codebooks: Tensor, padding_idx: int | None = None) -> None:
        """Create the table.

        Args:
            codes: uint8 tensor of shape (rows, subspaces).
            codebooks: Tensor of shape (subspaces, centroids, width).
            padding_idx: Row of the padding token.
        """
        super().__init__()
        self.codebooks = nn.Parameter(codebooks)
        parts, centroids, width = codebooks.shape
        self.register_buffer("codes", codes)
        self.register_buffer("offsets", torch.arange(parts) * centroids, persistent=False)
        self.num_embeddings, self.embedding_dim, self.padding_idx = len(codes), parts * width, padding_idx

    @property
    def weight(self) -> Tensor:
        """Return the whole table, (rows, subspaces x width), for models that read it directly."""
        return self._look_up(self.codes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return embeddings of shape (..., subspaces x width); only the codes of the given rows are read."""
        return self._look_up(functional.embedding(ids, self.codes))

    def _look_up(self, codes: Tensor) -> Tensor:
        rows = functional.embedding(codes.long() + self.offsets, self.codebooks.flatten(0, 1))
        return rows.flatten(-2)


def replace_embedding(model: Any, name: str, codes: Tensor, codebooks: Tensor) -> None:
    """Replace an embedding table of the model by a product-quantized one and register it in the config.

    Args:
        model: Model, changed in place.
        name: Path of the table.
        codes: uint8 tensor of shape (rows, subspaces).
        codebooks: Tensor of shape (subspaces, centroids, width).
    """
    old = model.get_submodule(name)
    table = PQEmbedding(codes, codebooks.to(old.weight), old.padding_idx)
    model.set_submodule(name, table.train(model.training))
    register_component(model.config, {"kind": COMPONENT_KIND, "tables": find_quantized_embeddings(model)})


def find_quantized_embeddings(model: nn.Module) -> list[str]:
    """Return the paths of the product-quantized tables."""
    return [name for name, module in model.named_modules() if isinstance(module, PQEmbedding)]


def restore(model: Any, folder: Path, component: Mapping[str, Any]) -> Any:
    """Replace the tables of a loaded model by those that its folder holds as codes.

    Args:
        model: Model that transformers loaded from the folder, changed in place.
        folder: Folder with the safetensors files.
        component: Entry of the config with the paths of the ``tables``.

    Returns:
        The model.

    Raises:
        ModelError: The model has no such table, or the folder lacks its tensors.
    """
    stored = StoredTensors(folder, model.base_model_prefix)
    for table in component["tables"]:
        name = resolve_name(model, table)
        if name is None:
            raise ModelError(f"{type(model).__name__} has no embedding table {table}, which {folder} holds as codes")
        replace_embedding(model, name, stored.get(f"{table}.codes"), stored.get(f"{table}.codebooks"))
    return model
