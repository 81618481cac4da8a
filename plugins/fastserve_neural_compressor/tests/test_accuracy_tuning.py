"""Layers left in floats: which, how many, and what is said; inputs rounded while the model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from fastserve_core.entry_points import load_entry_point
from fastserve_core.errors import ExportError
from fastserve_neural_compressor.accuracy_tuning import Tuning, rank_by_sensitivity
from fastserve_neural_compressor.static_quantization import quantize_static
from fastserve_neural_compressor.weight_only import quantize_encoder

SIZES: dict[str, Any] = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def bert() -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES, intermediate_size=64, num_labels=3)).eval()


@pytest.fixture
def batches() -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    ids = [draw.integers(5, 200, (4, 12)) for _ in range(4)]
    return [
        {"input_ids": one, "attention_mask": np.ones_like(one), "token_type_ids": np.zeros_like(one)} for one in ids
    ]


def test_the_layer_that_rounding_hurts_most_comes_first() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    with torch.no_grad():
        model[1].weight[:, 0] *= 1000  # the other weights of each row round to nothing
        model[0].weight[0] = 0
        model[0].bias[0] = 0
    with torch.no_grad():
        order = rank_by_sensitivity(model, [(torch.randn(8, 16),)])
    assert order[0] == "1"


def integers(folder: Path) -> int:
    """How many constants of 8 bits a file has that are no tables."""
    import openvino

    graph = openvino.Core().read_model(folder / "openvino_model.xml")
    shapes = [
        tuple(one.get_output_shape(0))
        for one in graph.get_ordered_ops()
        if one.get_type_name() == "Constant" and one.get_element_type().get_type_name() in ("i8", "u8")
    ]
    return sum(len(one) == 2 and one[0] > 1 and one[1] > 1 for one in shapes)


@pytest.mark.slow
def test_layers_stay_in_floats_until_the_loss_is_tolerable(
    bert: Any, batches: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The score is a stand-in that only two layers in floats can satisfy; the tries and the file are real."""
    scores = iter([1.0, 0.5, 0.9, 0.995])
    told: list[tuple[int, int]] = []

    def score(answers: Any) -> float:
        assert answers(batches[0])["logits"].shape == (4, 3)
        return next(scores)

    tuning = Tuning(score, 0.01, lambda number, of: told.append((number, of)))
    found = quantize_static(bert, batches, tmp_path / "tuned", tuning=tuning)
    assert found.is_tolerable
    assert len(found.fp32_layers) == 2
    assert told == [(0, 6), (1, 6), (2, 6), (3, 6)]
    all_of_them = quantize_static(bert, batches, tmp_path / "whole")
    assert all_of_them.fp32_layers == ()
    assert integers(tmp_path / "tuned") == integers(tmp_path / "whole") - 2


@pytest.mark.slow
def test_where_no_try_is_tolerable_the_best_is_taken(bert: Any, batches: list[dict[str, Any]], tmp_path: Path) -> None:
    scores = iter([1.0, 0.5, 0.8, 0.6, 0.5, 0.4])
    found = quantize_static(bert, batches, tmp_path, tuning=Tuning(lambda answers: next(scores), 0.01))
    assert not found.is_tolerable
    assert len(found.fp32_layers) == 1
    assert next(scores, None) is None


@pytest.mark.slow
def test_dynamic_integers_answer_as_torch_does(bert: Any, batches: list[dict[str, Any]], tmp_path: Path) -> None:
    quantize_encoder(bert, tmp_path)
    engine = load_entry_point("fastserve.engines", "openvino")(tmp_path, 1)
    given = {name: torch.from_numpy(one) for name, one in batches[0].items()}
    with torch.no_grad():
        wanted = bert(**given).logits.numpy()
    found = engine.run(batches[0])["logits"]
    engine.close()
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert integers(tmp_path) >= 12


LAST = "bert.encoder.layer.1.output.dense"
"""A module that the export moves into another, because a classifier reads the first token only."""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "tuned", "dynamic"])
def test_layers_that_the_task_excludes_stay_in_floats(
    method: str, bert: Any, batches: list[dict[str, Any]], tmp_path: Path
) -> None:
    excluded = {"classifier", LAST}
    if method == "dynamic":
        quantize_encoder(bert, tmp_path, uncompressed=excluded)
    else:
        tuning = None if method == "static" else Tuning(lambda answers: 1.0, 0.5)
        quantize_static(bert, batches, tmp_path, tuning=tuning, uncompressed=excluded)
    linear = [module for module in bert.modules() if isinstance(module, torch.nn.Linear)]
    assert integers(tmp_path) == len(linear) - len(excluded)


@pytest.mark.slow
def test_a_model_of_which_nothing_may_be_quantized_is_refused(
    bert: Any, batches: list[dict[str, Any]], tmp_path: Path
) -> None:
    names = [name for name, _ in bert.named_modules()]
    with pytest.raises(ExportError, match="no linear layer"):
        quantize_static(bert, batches, tmp_path, uncompressed=names)
    with pytest.raises(ExportError, match="no linear layer"):
        quantize_encoder(bert, tmp_path, uncompressed=names)
