"""The plugins fit, and refuse options that make no sense."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_core.errors import BadOption, Faults
from fastserve_core.testing import PluginContract
from fastserve_slim import PruneOptions, VectorQuantizeOptions
from fastserve_slim.distillation import DistillOptions


class TestPrune(PluginContract):
    plugin, stage = "prune", "compress"


class TestDistill(PluginContract):
    plugin, stage = "distill", "compress"


class TestVectorQuantize(PluginContract):
    plugin, stage = "vector_quantize", "compress"


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": 1.0},
        {"heads": -0.1},
        {"neurons": 1.5},
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
    with pytest.raises(BadOption, match=f"compress.prune.{next(iter(wrong))}"):
        PruneOptions(**wrong)


def test_every_wrong_option_is_said_at_once() -> None:
    with pytest.raises(Faults, match="3 things are wrong"):
        PruneOptions(heads=2, neurons=-1, rows=0)


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(BadOption, match="nothing to do"):
        PruneOptions(heads=0, neurons=0)
    assert PruneOptions(heads=0, neurons=0, pattern="2:4").masks
    assert not PruneOptions().masks


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"centroids": 1}, {"centroids": 257}, {"least_rows": 100}, {"codebooks": "int8"}]
)
def test_options_of_vector_quantize_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"compress.vector_quantize.{next(iter(wrong))}"):
        VectorQuantizeOptions(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"soft": 1.1},
        {"temperature": 0.0},
        {"hidden": -1.0},
        {"relations": -0.5},
        {"layers": 0},
        {"epochs": 0},
        {"lr": 0.0},
    ],
)
def test_options_of_distill_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=f"compress.distill.{next(iter(wrong))}"):
        DistillOptions(**wrong)


def test_a_distillation_that_learns_from_nothing_is_refused() -> None:
    with pytest.raises(BadOption, match="nothing to learn from"):
        DistillOptions(soft=0.0, hidden=0.0)
