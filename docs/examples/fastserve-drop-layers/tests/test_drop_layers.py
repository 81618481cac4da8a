"""The plugin fits FastServe, and does what it says to real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fastserve_drop_layers import DropLayersOptions
from fastserve_drop_layers.drop import chosen, cut, find_layers

from fastserve_core import FastServe
from fastserve_core.errors import ModelError, OptionError
from fastserve_core.testing import PluginContract

TINY = {"dim": 32, "num_heads": 2, "num_layers": 4, "hidden_size": 64, "vocab_size": 400}
TEXTS = [f"{'a fine' if number % 2 else 'a dull'} film, number {number}" for number in range(120)]
LABELS = ["positive" if number % 2 else "negative" for number in range(120)]


class TestDropLayers(PluginContract):
    plugin, stage = "drop_layers", "compress"


def tiny(kind: str) -> Any:
    """A model of six layers with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 6, "intermediate_size": 32}
    if kind == "DistilBert":
        sizes = {"dim": 16, "n_heads": 2, "n_layers": 6, "hidden_dim": 32}
    if kind == "GPT2":
        sizes = {"n_embd": 16, "n_head": 2, "n_layer": 6}
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, pad_token_id=0, **sizes)
    return getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert"])
@pytest.mark.parametrize(("which", "kept"), [("first", [0, 1, 2]), ("spread", [0, 2, 5])])
def test_the_layers_that_stay_are_the_ones_that_were_asked_for(
    kind: str, which: str, kept: list[int], tmp_path: Path
) -> None:
    model = tiny(kind)
    before = list(find_layers(model)[2])
    cut(model, 3, which)
    assert list(find_layers(model)[2]) == [before[number] for number in kept]
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    words = torch.arange(1, 9).reshape(2, 4)
    torch.testing.assert_close(again(input_ids=words).logits, model(input_ids=words).logits)


def test_spread_layers_are_all_different() -> None:
    for layers in range(2, 25):
        for keep in range(1, layers):
            assert len(set(chosen(layers, keep, "spread"))) == keep


def test_unsupported_options_are_refused() -> None:
    with pytest.raises(OptionError, match="the model has 6 layers"):
        cut(tiny("Bert"), 6, "first")
    with pytest.raises(ModelError, match="GPT2ForSequenceClassification"):
        cut(tiny("GPT2"), 3, "first")
    with pytest.raises(OptionError, match="keep must be at least 1"):
        DropLayersOptions(keep=0)
    with pytest.raises(OptionError, match="must be one of first, spread"):
        DropLayersOptions(which="last")


def test_the_result_answers_loads_elsewhere_and_trains_further(tmp_path: Path) -> None:
    config = {"model": "bert", **TINY, "home": str(tmp_path / "home"), "gate": {"enabled": False}}
    config["engine"] = "torch"  # the one that is soonest ready; left out, each is measured and the fastest taken
    plugins = {"compress": "drop_layers"}
    fs = FastServe(config, plugins, show=False)
    fs.train(TEXTS, LABELS, epochs=2, lr=3e-3)
    result = fs.compress(filename=tmp_path / "small", keep=2, which="spread")
    assert result.status == "done"
    assert fs.predict(TEXTS[:2])[0]["label"] in ("negative", "positive")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "small")
    assert model.config.num_hidden_layers == 2
    assert len(model.bert.encoder.layer) == 2
    further = FastServe.load(tmp_path / "small", plugins, show=False).train(TEXTS, LABELS, epochs=1, lr=3e-3)
    assert transformers.AutoConfig.from_pretrained(further.artifact).num_hidden_layers == 2
