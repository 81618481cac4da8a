"""Coded embedding tables in real models: what they give, how they load, train and travel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open

from fastserve_compression import VectorQuantizeOptions
from fastserve_compression.checkpoint_io import write_model
from fastserve_compression.quantized_embedding import PQEmbedding, find_quantized_embeddings
from fastserve_compression.vector_quantize import find_large_tables, quantize
from fastserve_core.errors import ModelError, OptionError
from fastserve_core.models import load_for_task, load_pretrained

Tiny = Callable[..., Any]
Batches = list[dict[str, torch.Tensor]]
Answer = Callable[[Any], torch.Tensor]

SMALL = VectorQuantizeOptions(width=4, centroids=16, min_rows=50)
WORDS = "embeddings.word_embeddings"


def coded(model: Any, options: VectorQuantizeOptions = SMALL, counts: Any = None) -> Any:
    quantize(model, find_large_tables(model, options), options, counts, workers=1, seed=0)
    return model


@pytest.mark.parametrize("family", ["Bert", "Roberta", "Electra", "DistilBert", "GPT2", "Albert"])
def test_a_coded_model_loads_again_and_answers_alike(tiny: Tiny, answer: Answer, family: str, tmp_path: Path) -> None:
    model = tiny(family)
    before = answer(model)
    coded(model)
    assert answer(model).shape == before.shape
    assert len(find_quantized_embeddings(model)) == 1
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        (name,) = find_quantized_embeddings(model)
        assert f"{name}.weight" not in file.keys()  # noqa: SIM118 - not a mapping
        assert file.get_tensor(f"{name}.codes").dtype == torch.uint8
        assert file.get_tensor(f"{name}.codebooks").shape == (model.get_input_embeddings().embedding_dim // 4, 16, 4)
    again = load_pretrained(type(model), tmp_path).eval()
    assert torch.equal(answer(again), answer(model))


def test_the_whole_table_can_be_read(tiny: Tiny) -> None:
    table = coded(tiny("Bert")).get_input_embeddings()
    ids = torch.tensor([[3, 59, 0]])
    assert table.weight.shape == (60, 32)
    assert torch.equal(table(ids), table.weight[ids])
    assert (table.num_embeddings, table.embedding_dim, table.padding_idx) == (60, 32, 0)


def test_as_many_centroids_as_rows_change_nothing(tiny: Tiny, answer: Answer) -> None:
    model = tiny("Bert")
    before = answer(model)
    coded(model, VectorQuantizeOptions(centroids=60, min_rows=60))
    torch.testing.assert_close(answer(model), before, rtol=1e-4, atol=1e-5)


def test_tokens_that_are_used_are_kept_more_exactly(tiny: Tiny) -> None:
    before, counts = tiny("Bert").get_input_embeddings().weight.detach(), np.ones(60)
    counts[5:10] = 10_000
    errors = [
        (coded(tiny("Bert"), counts=one).get_input_embeddings().weight - before)[5:10].square().sum()
        for one in (None, counts)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_codebooks_train_and_codes_stay(tiny: Tiny, batches: Batches) -> None:
    model = coded(tiny("Bert")).train()
    table = model.get_input_embeddings()
    codes, books = table.codes.clone(), table.codebooks.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**batches[0]).loss.backward()
    optimizer.step()
    assert torch.equal(table.codes, codes)
    assert not torch.equal(table.codebooks, books)


def test_the_folder_loads_without_a_head_and_under_another(tiny: Tiny, answer: Answer, tmp_path: Path) -> None:
    model = coded(tiny("Bert"))
    model.save_pretrained(tmp_path / "whole")
    body = load_pretrained(transformers.AutoModel, tmp_path / "whole")
    assert find_quantized_embeddings(body) == [WORDS]
    body.save_pretrained(tmp_path / "body")
    tags = load_for_task(transformers.AutoModelForTokenClassification, tmp_path / "body").model
    assert torch.equal(tags.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_codebooks_can_be_halved(tiny: Tiny, answer: Answer, tmp_path: Path) -> None:
    model = coded(tiny("Bert"))
    write_model(
        model, tmp_path, tmp_path / "half", fp16_names=[f"{one}.codebooks" for one in find_quantized_embeddings(model)]
    )
    again = load_pretrained(type(model), tmp_path / "half").eval()
    assert again.get_input_embeddings().codebooks.dtype == torch.float32
    assert again.dtype == torch.float32
    torch.testing.assert_close(answer(again), answer(model), rtol=0.02, atol=0.02)


def test_it_exports_with_free_dimensions() -> None:
    torch.manual_seed(0)
    table = PQEmbedding(torch.randint(0, 16, (60, 8), dtype=torch.uint8), torch.randn(8, 16, 4))
    free = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=1, max=64)}
    exported = torch.export.export(table, (torch.ones(2, 7, dtype=torch.long),), dynamic_shapes=(free,)).module()
    for shape in ((1, 1), (5, 33)):
        ids = torch.randint(0, 60, shape)
        assert torch.equal(exported(ids), table(ids))


def test_tables_of_positions_stay(tiny: Tiny) -> None:
    model = tiny("Bert")
    assert model.config.max_position_embeddings > SMALL.min_rows
    assert find_large_tables(model, SMALL) == [f"bert.{WORDS}"]
    assert find_large_tables(tiny("GPT2"), SMALL) == ["transformer.wte"]


def test_tables_that_outputs_are_compared_with_are_coded_finer_with_equal_weights(tiny: Tiny) -> None:
    options, counts = VectorQuantizeOptions(centroids=16, min_rows=50), np.ones(60)
    counts[:10] = 1e6
    books = []
    for compared, weights in (((), None), ((), counts), ((WORDS,), None), ((WORDS,), counts)):
        torch.manual_seed(0)
        model = tiny("Bert").bert
        names = find_large_tables(model, options, compared=compared)
        quantize(model, names, options, weights, 1, 0, compared=compared)
        books.append(model.get_input_embeddings().codebooks)
    assert [tuple(book.shape) for book in books] == [(8, 16, 4)] * 2 + [(16, 16, 2)] * 2
    assert not torch.equal(books[0], books[1]) and torch.equal(books[2], books[3])


def test_tables_that_cannot_be_coded_are_refused(tiny: Tiny) -> None:
    with pytest.raises(ModelError, match="no embedding table of 1024 rows or more"):
        find_large_tables(tiny("Bert"), VectorQuantizeOptions())
    with pytest.raises(ModelError, match="quantized already"):
        find_large_tables(coded(tiny("Bert")), SMALL)
    with pytest.raises(ModelError, match="transformer.wte is tied to the projection lm_head"):
        find_large_tables(tiny("GPT2", "LMHeadModel"), SMALL)
    with pytest.raises(OptionError, match="width=5 does not divide the 32 columns"):
        find_large_tables(tiny("Bert"), VectorQuantizeOptions(width=5, centroids=16, min_rows=50))
