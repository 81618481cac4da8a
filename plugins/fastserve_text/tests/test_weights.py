"""Weights that do not fit their config are refused; only a head and a pooler may be new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model
from safetensors.torch import load_file, save_file

from fastserve_core.errors import ModelError
from fastserve_core.models import load_pretrained
from fastserve_core.tasks import load_task

WORDS = ["one", "two", "three"]


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename(folder: Path, prefix: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {prefix + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def build(folder: Path) -> torch.nn.Module:
    return load_task("text_classification", {}, ["no", "yes"]).build(folder)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_model("distilbert", tmp_path / "model", "ForSequenceClassification", WORDS, ["no", "yes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layers": 3}, r"16 missing: distilbert\.transformer\.layer\.2\..* and 12 others"),
        ({"n_layers": 1}, r"16 not in the config's model: .*transformer\.layer\.1\."),
        ({"hidden_dim": 96}, r"6 of another shape: distilbert.* \(64 in the file, 96 by the config\)"),
        ({"vocab_size": 500}, r"1 of another shape: .*word_embeddings\.weight \(8 x 64 in the file, 500 x 64"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_named(checkpoint: Path, change: dict[str, int], message: str) -> None:
    change_config(checkpoint, **change)
    with pytest.raises(ModelError, match=message):
        build(checkpoint)


@pytest.mark.slow(1)
@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module.", "net.encoder."])
def test_a_prefix_of_all_weights_is_understood(checkpoint: Path, prefix: str) -> None:
    before = build(checkpoint).state_dict()
    rename(checkpoint, prefix)
    after = build(checkpoint).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_wrappers_inside_the_names_are_understood_too(checkpoint: Path) -> None:
    before = build(checkpoint).state_dict()
    tensors = load_file(checkpoint / "model.safetensors")
    wrapped = {name.replace("layer.1.", "layer.1._checkpoint_wrapped_module."): one for name, one in tensors.items()}
    save_file(wrapped, checkpoint / "model.safetensors", {"format": "pt"})
    after = build(checkpoint).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_body_gets_a_new_head_and_a_pooler_which_are_named(tmp_path: Path) -> None:
    make_model("bert", tmp_path, "ForMaskedLM", WORDS)
    task = load_task("text_classification", {}, ["no", "yes"])
    task.build(tmp_path)
    assert "bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, classifier.weight" in task.head_report


def test_engines_accept_no_new_weights(tmp_path: Path) -> None:
    import transformers

    make_model("bert", tmp_path, "", WORDS)
    with pytest.raises(ModelError, match=r"lacks weights of its BertForSequenceClassification: classifier\.bias"):
        load_pretrained(transformers.AutoModelForSequenceClassification, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 5},
        {"num_hidden_layers": -2},
        {"hidden_act": "no"},
        {"hidden_size": "wide"},
        {"vocab_size": 0},
        {"num_attention_heads": 0},
    ],
)
def test_sizes_that_cannot_be_are_one_message(tmp_path: Path, change: dict[str, Any]) -> None:
    make_model("bert", tmp_path, "ForSequenceClassification", WORDS, ["no", "yes"])
    change_config(tmp_path, **change)
    with pytest.raises(ModelError, match=str(tmp_path)):
        build(tmp_path)
