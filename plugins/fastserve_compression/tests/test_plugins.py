"""The plugins fit, and refuse options that make no sense."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_compression import PruneOptions, VectorQuantizeOptions
from fastserve_compression.distillation import DistillOptions
from fastserve_core.errors import OptionError, ValidationError
from fastserve_core.testing import PluginContract


class TestPrune(PluginContract):
    plugin, stage = "prune", "compress"


class TestDistill(PluginContract):
    plugin, stage = "distill", "compress"


class TestVectorQuantize(PluginContract):
    plugin, stage = "vector_quantize", "compress"


@pytest.mark.parametrize(
    "wrong",
    [
        {"head_ratio": 1.0},
        {"head_ratio": -0.1},
        {"neuron_ratio": 1.5},
        {"sparsity": float("nan")},
        {"rows": 0},
        {"layers": [-1]},
        {"layers": [1, 1]},
        {"pattern": "4:2"},
        {"pattern": "0:4"},
        {"pattern": "two of four"},
        {"pattern": "2:4", "sparsity": 0.5},
    ],
)
def test_options_of_prune_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"compress.prune.{next(iter(wrong))}"):
        PruneOptions(**wrong)


def test_every_wrong_option_is_reported_at_once() -> None:
    with pytest.raises(ValidationError, match="3 errors"):
        PruneOptions(head_ratio=2, neuron_ratio=-1, rows=0)


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(OptionError, match="nothing to do"):
        PruneOptions(head_ratio=0, neuron_ratio=0)
    assert PruneOptions(head_ratio=0, neuron_ratio=0, pattern="2:4").has_masks
    assert not PruneOptions().has_masks


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"centroids": 1}, {"centroids": 257}, {"min_rows": 100}, {"codebooks": "int8"}]
)
def test_options_of_vector_quantize_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"compress.vector_quantize.{next(iter(wrong))}"):
        VectorQuantizeOptions(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 1.1},
        {"temperature": 0.0},
        {"hidden_weight": -1.0},
        {"relation_weight": -0.5},
        {"layers": 0},
        {"epochs": 0},
        {"lr": 0.0},
    ],
)
def test_options_of_distill_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"compress.distill.{next(iter(wrong))}"):
        DistillOptions(**wrong)


def test_a_distillation_that_learns_from_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="has no loss"):
        DistillOptions(alpha=0.0, hidden_weight=0.0)
