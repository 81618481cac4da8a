"""Modules that a task excludes from compression stay as they are, whichever compressor runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastserve_compression import PruneOptions, VectorQuantizeOptions, half_precision
from fastserve_compression.architectures import count_heads, count_neurons
from fastserve_compression.masks import find_masked_weights
from fastserve_compression.prune import check_excluded, cut_units, mask_weights
from fastserve_compression.qat import FakeQuantizer
from fastserve_compression.structural_pruning import drop_layers
from fastserve_compression.vector_quantize import find_large_tables
from fastserve_core.errors import ModelError, OptionError
from fastserve_core.tasks import Task, load_task

Tiny = Callable[..., Any]
Batches = list[dict[str, torch.Tensor]]
TABLE = "bert.embeddings.word_embeddings"


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    task = load_task("text_classification", {})
    monkeypatch.setattr(type(task), "uncompressed_modules", ("class*", "*.layer.1", TABLE))
    return task


def parameters(model: Any, excluded: frozenset[str]) -> dict[str, torch.Tensor]:
    """Copies of the parameters that must not change."""
    named = {name: one for name, one in model.named_parameters() if name.rpartition(".")[0] in excluded}
    return {name: one.detach().clone() for name, one in named.items()}


def test_patterns_exclude_modules_with_all_that_is_inside(tiny: Tiny, task: Task) -> None:
    found = task.find_uncompressed(tiny("Bert"))
    assert {"classifier", TABLE, "bert.encoder.layer.1", "bert.encoder.layer.1.attention.self.query"} <= found
    assert not {"", "bert", "bert.encoder.layer.0", "bert.encoder.layer.2.output.dense"} & found
    assert load_task("token_classification", {}).find_uncompressed(tiny("Bert")) == frozenset()


def test_an_excluded_layer_keeps_its_heads_its_neurons_and_its_weights(
    tiny: Tiny, batches: Batches, task: Task
) -> None:
    model = tiny("Bert")
    excluded = task.find_uncompressed(model)
    before = parameters(model, excluded)
    cut_units(model, batches, PruneOptions(head_ratio=0.5, neuron_ratio=0.5), lambda *_: None, uncompressed=excluded)
    assert count_heads(model)[1] == 4 and sum(count_heads(model)) == 6
    assert count_neurons(model)[1] == 64 and sum(count_neurons(model)) == 96
    sparse = PruneOptions(head_ratio=0, neuron_ratio=0, sparsity=0.5)
    mask_weights(model, batches, sparse, lambda *_: None, uncompressed=excluded)
    assert (model.bert.encoder.layer[0].output.dense.weight == 0).any()
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in before.items())
    assert not any(name.startswith("1.") for name in find_masked_weights(model, "unstructured", excluded))


def test_options_that_would_cut_excluded_modules_are_refused(tiny: Tiny, task: Task) -> None:
    model = tiny("Bert")
    excluded = task.find_uncompressed(model)
    with pytest.raises(OptionError, match="layer 1 cannot be removed: the task excludes bert.encoder.layer.1 "):
        drop_layers(model, [0, 1], excluded)
    drop_layers(model, [0], excluded)
    with pytest.raises(
        OptionError, match="uniform=true cuts all layers alike, but the task excludes modules of layer 1"
    ):
        check_excluded(tiny("Bert"), PruneOptions(uniform=True), excluded)
    check_excluded(tiny("Bert"), PruneOptions(), excluded)
    check_excluded(tiny("Bert"), PruneOptions(uniform=True), {"classifier"})


def test_excluded_weights_are_not_rounded(tiny: Tiny, batches: Batches, task: Task) -> None:
    model = tiny("Bert")
    excluded = task.find_uncompressed(model)
    quantizer = FakeQuantizer(model, "int8", torch.device("cpu"), excluded)
    assert len(quantizer.ranges) == 2 * 6 + 1  # two layers, and the pooler
    assert "forward" not in vars(model.classifier) and "forward" in vars(model.bert.encoder.layer[0].output.dense)

    with pytest.raises(ModelError, match=f"cannot leave the embedding table {TABLE} in fp32"):
        half_precision.find_fp32_modules(tiny("Bert"), [], excluded)
    modules = half_precision.find_fp32_modules(tiny("Bert"), ["*pooler*"], excluded - {TABLE})
    assert {"classifier", "bert.pooler.dense", "bert.encoder.layer.1.output.LayerNorm"} <= set(modules)
    assert not any(".layer.0." in name for name in modules)

    small = VectorQuantizeOptions(width=4, centroids=16, min_rows=50)
    assert find_large_tables(tiny("Bert"), small) == [TABLE]
    with pytest.raises(ModelError, match="no embedding table of 50 rows or more"):
        find_large_tables(tiny("Bert"), small, excluded)
