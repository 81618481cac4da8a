"""The quantizer's process: load the model, learn the codes of its large tables, write it without the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastserve_compression import VectorQuantizeOptions
from fastserve_compression.checkpoint_io import write_model
from fastserve_compression.product_quantization import fit_codebooks
from fastserve_compression.quantized_embedding import quantized_embeddings, replace_embedding
from fastserve_core.data import load_dataset
from fastserve_core.errors import InvalidModel, InvalidOption
from fastserve_core.events import Progress
from fastserve_core.processes import child_main, event_writer
from fastserve_core.tasks import Task, load_task

CHUNK = 1024


def vector_quantize(
    model: str,
    data: str | None,
    task: tuple[str, Mapping[str, Any], Sequence[str]],
    draft: str,
    options: Mapping[str, Any],
    workers: int,
    seed: int,
    events: str,
) -> None:
    """Write the model with coded tables into the draft folder."""
    emit, source, chosen = event_writer(events), Path(model), load_task(*task)
    torch.manual_seed(seed)
    built: Any = chosen.build(source).eval()
    wanted = VectorQuantizeOptions(**options)
    names = large_tables(built, wanted)
    counts = None
    if data is not None:
        counts = token_frequencies(chosen, source, Path(data), built.get_input_embeddings().num_embeddings)
    quantize(built, names, wanted, counts, workers, seed, emit)
    books = [f"{name}.codebooks" for name in quantized_embeddings(built)]
    write_model(built, source, Path(draft), halved=books if wanted.codebooks == "fp16" else ())


def large_tables(model: Any, options: VectorQuantizeOptions) -> list[str]:
    """The names of the tables to code; tables of positions stay, for little weighs on them and much hangs on them.

    Raises ``InvalidModel`` where there is none, or where one is also the projection to the vocabulary,
    ``InvalidOption``
    for a width that does not fit.
    """
    found = []
    for name, module in model.named_modules():
        if type(module) is nn.Embedding and module.num_embeddings >= options.min_rows and not _is_of_positions(name):
            _check(model, name, module, options.width)
            found.append(name)
    if not found:
        already = ": those there are coded already" if quantized_embeddings(model) else ""
        raise InvalidModel(f"the model has no embedding table of {options.min_rows} rows or more{already}")
    return found


def _is_of_positions(name: str) -> bool:
    return "position" in name or name.rpartition(".")[2] == "wpe"


def _check(model: nn.Module, name: str, table: nn.Embedding, width: int) -> None:
    users = [one for one, module in model.named_modules() if getattr(module, "weight", None) is table.weight]
    if len(users) > 1:
        other = next(one for one in users if one != name)
        raise InvalidModel(
            f"the table {name} is also the projection {other}, which needs it whole: vector_quantize is for models "
            "that read their tables only"
        )
    if table.embedding_dim % width:
        raise InvalidOption(
            f"compress.vector_quantize.width={width} does not divide the {table.embedding_dim} columns of {name}"
        )


def token_frequencies(task: Task, source: Path, data: Path, size: int) -> NDArray[np.float64]:
    """How often the training split uses each token, plus one."""
    encode, rows = task.encoder(source), load_dataset(data).rows("train")
    counts = np.ones(size)
    for start in range(0, len(rows), CHUNK):
        ids = [np.asarray(one.inputs["input_ids"]) for one in encode(rows[start : start + CHUNK])]
        counts += np.bincount(np.concatenate(ids), minlength=size)
    return counts


def quantize(
    model: Any,
    names: Sequence[str],
    options: VectorQuantizeOptions,
    counts: NDArray[np.float64] | None,
    workers: int,
    seed: int,
    emit: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Code these tables of the model; ``counts`` are of the table that the tokens are looked up in."""
    words = model.get_input_embeddings()
    for name in names:
        table = model.get_submodule(name)
        vectors = table.weight.detach().float().numpy()
        parts = vectors.shape[1] // options.width

        def tell(part: int, name: str = name, parts: int = parts) -> None:
            emit(Progress(f"coding {name}", part + 1, parts))

        weights = counts if table is words else None
        books, codes = fit_codebooks(vectors, options.width, options.centroids, weights, seed, workers, tell)
        replace_embedding(model, name, torch.from_numpy(codes), torch.from_numpy(books))


if __name__ == "__main__":
    child_main(vector_quantize)
