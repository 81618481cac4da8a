"""The plugin fits, and refuses what it cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_core.errors import OptionError
from fastserve_core.testing import PluginContract
from fastserve_neural_compressor import QuantizeOptions


class TestNeuralCompressor(PluginContract):
    plugin, stage = "neural_compressor", "compress"


@pytest.mark.parametrize("wrong", [{"embeddings": "int4"}, {"calibration_rows": 0}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"compress.neural_compressor.{next(iter(wrong))}"):
        QuantizeOptions(**wrong)
