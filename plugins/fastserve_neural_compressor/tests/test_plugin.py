"""The plugin fits, and refuses what it cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_core.errors import OptionError
from fastserve_core.processes import read_processor
from fastserve_core.tasks import load_task
from fastserve_core.testing import PluginContract
from fastserve_neural_compressor import QuantizeOptions, choose_methods


class TestNeuralCompressor(PluginContract):
    plugin, stage = "neural_compressor", "compress"


@pytest.mark.parametrize("wrong", [{"embeddings": "int4"}, {"calibration_rows": 0}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"compress.neural_compressor.{next(iter(wrong))}"):
        QuantizeOptions(**wrong)


@pytest.mark.parametrize(
    ("options", "task", "methods"),
    [
        ({}, "text_classification", ("static", "dynamic")),
        ({}, "token_classification", ("static", "dynamic")),
        ({"method": "static"}, "text_classification", ("static",)),
        ({"tolerable_loss": 0.1}, "text_classification", (None,)),
        ({}, "causal_lm", (None,)),
    ],
)
def test_where_floats_may_be_as_fast_the_form_that_computes_in_them_is_tried_too(
    options: dict[str, Any], task: str, methods: tuple[str | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert choose_methods(QuantizeOptions(**options), load_task(task, {})) == methods
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    expected = methods if read_processor().may_prefer_floats or len(methods) == 1 else (None,)
    assert choose_methods(QuantizeOptions(**options), load_task(task, {})) == expected
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    if read_processor().has_int8_units:  # and none for bf16
        assert len(choose_methods(QuantizeOptions(**options), load_task(task, {}))) == 1
