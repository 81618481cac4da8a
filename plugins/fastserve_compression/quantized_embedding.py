"""Embedding tables as codes: the module that looks up in them, and what puts it into a loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastserve_compression.checkpoint_io import StoredTensors, resolve_name
from fastserve_core.errors import InvalidModel
from fastserve_core.models import register_component

PART = "product_quantized"


class PQEmbedding(nn.Module):
    """A table whose rows are put together from codebooks (parts, centroids, width) by codes (rows, parts).

    The codebooks train, the codes stay. Rows share what they learn, so the padding token's row may move too.
    """

    codes: Tensor
    offsets: Tensor

    def __init__(self, codes: Tensor, codebooks: Tensor, padding_idx: int | None = None) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(codebooks)
        parts, centroids, width = codebooks.shape
        self.register_buffer("codes", codes)
        self.register_buffer("offsets", torch.arange(parts) * centroids, persistent=False)
        self.num_embeddings, self.embedding_dim, self.padding_idx = len(codes), parts * width, padding_idx

    @property
    def weight(self) -> Tensor:
        """The whole table, for models that read it besides looking up in it."""
        return self._look_up(self.codes)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of shape (…, parts x width); only the codes of the rows in use are read."""
        return self._look_up(functional.embedding(ids, self.codes))

    def _look_up(self, codes: Tensor) -> Tensor:
        rows = functional.embedding(codes.long() + self.offsets, self.codebooks.flatten(0, 1))
        return rows.flatten(-2)


def replace_embedding(model: Any, name: str, codes: Tensor, codebooks: Tensor) -> None:
    """Put a coded table in the place of the model's own; the config tells of all of them."""
    old = model.get_submodule(name)
    table = PQEmbedding(codes, codebooks.to(old.weight), old.padding_idx)
    model.set_submodule(name, table.train(model.training))
    register_component(model.config, {"kind": PART, "tables": quantized_embeddings(model)})


def quantized_embeddings(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, PQEmbedding)]


def restore(model: Any, folder: Path, about: Mapping[str, Any]) -> Any:
    """Give a model that was loaded from the folder the tables that the folder's weights hold as codes."""
    stored = StoredTensors(folder, model.base_model_prefix)
    for table in about["tables"]:
        name = resolve_name(model, table)
        if name is None:
            raise InvalidModel(f"a {type(model).__name__} has no table {table}, which {folder} holds as codes")
        replace_embedding(model, name, stored.get(f"{table}.codes"), stored.get(f"{table}.codebooks"))
    return model
