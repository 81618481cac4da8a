"""Cutting real models: what is useless is found, what is left answers alike, and it loads again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fastserve_compression import PruneOptions
from fastserve_compression.architectures import count_heads, count_neurons, find_layout, get_layers, get_linear
from fastserve_compression.importance import compute_unit_importance, compute_weight_importance
from fastserve_compression.masks import apply_mask, find_masked_weights
from fastserve_compression.prune import check_model, cut_units
from fastserve_compression.structural_pruning import cut_heads, cut_neurons, drop_layers, record_sizes
from fastserve_core.artifacts import read_json
from fastserve_core.errors import ModelError, OptionError
from fastserve_core.models import load_for_task, load_pretrained, register_component

Tiny = Callable[..., Any]
Batches = list[dict[str, torch.Tensor]]
Answer = Callable[[Any], torch.Tensor]

ENCODERS = ["Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "DistilBert"]
WITHOUT_HEADS = ["BigBird", "Deberta", "DebertaV2", "MPNet"]
DECODERS = ["Gemma", "Llama", "Mistral", "Qwen2", "GPT2"]
USELESS_HEADS = {0: [1], 2: [0, 3]}
USELESS_NEURONS = {0: range(32), 1: range(16, 32), 2: range(40, 56)}


def silence(model: Any) -> None:
    """Zero what reads some heads and neurons, so that they do nothing."""
    layout = find_layout(model)
    with torch.no_grad():
        for number, layer in enumerate(get_layers(model)):
            _inputs(get_linear(layer, layout.output_projection))[:, list(USELESS_NEURONS[number])] = 0
            if layout.heads is not None:
                for head in USELESS_HEADS.get(number, []):
                    _inputs(get_linear(layer, layout.heads.output_projection))[:, 8 * head : 8 * head + 8] = 0


def _inputs(module: Any) -> torch.Tensor:
    weight: torch.Tensor = module.weight
    return weight if isinstance(module, torch.nn.Linear) else weight.T


def shares(model: Any) -> PruneOptions:
    """Exactly what ``silence`` made useless."""
    return PruneOptions(head_ratio=3 / 12 if find_layout(model).heads else 0, neuron_ratio=64 / 192)


def pruned(model: Any, batches: Batches, options: PruneOptions) -> Any:
    cut_units(model, batches, options, lambda *_: None)
    record_sizes(model)
    return model


@pytest.mark.parametrize("family", ENCODERS + WITHOUT_HEADS + DECODERS)
def test_useless_units_are_found_and_cut_without_a_change(
    tiny: Tiny, batches: Batches, answer: Answer, family: str, tmp_path: Path
) -> None:
    model = tiny(family)
    silence(model)
    before, weights = answer(model), sum(one.numel() for one in model.parameters())
    pruned(model, batches, shares(model))
    assert count_neurons(model) == [32, 48, 48]
    assert count_heads(model) == ([3, 4, 2] if family in ENCODERS else [])
    torch.testing.assert_close(answer(model), before, rtol=1e-4, atol=1e-4)
    assert sum(one.numel() for one in model.parameters()) < weights
    assert all(one.requires_grad for one in model.parameters())
    model.save_pretrained(tmp_path)
    again = load_pretrained(type(model), tmp_path).eval()
    assert torch.equal(answer(again), answer(model))
    assert [one.shape for one in again.parameters()] == [one.shape for one in model.parameters()]


def test_the_folder_loads_under_other_heads_and_without_one(
    tiny: Tiny, batches: Batches, answer: Answer, tmp_path: Path
) -> None:
    model = pruned(tiny("Bert"), batches, PruneOptions())
    model.save_pretrained(tmp_path / "whole")
    body = load_pretrained(transformers.AutoModel, tmp_path / "whole").eval()
    given = {name: one for name, one in batches[0].items() if name != "labels"}
    with torch.no_grad():
        torch.testing.assert_close(
            body(**given).last_hidden_state, model.base_model(**given).last_hidden_state, rtol=0, atol=0
        )
    body.save_pretrained(tmp_path / "body")
    tags = load_for_task(transformers.AutoModelForTokenClassification, tmp_path / "body").model.eval()
    assert count_neurons(tags) == count_neurons(model)
    assert answer(tags).shape == (4, 12, 2)


def test_equal_layers_with_all_heads_load_without_us(
    tiny: Tiny, batches: Batches, answer: Answer, tmp_path: Path
) -> None:
    model = tiny("DistilBert")
    drop_layers(model, [1])
    pruned(model, batches, PruneOptions(head_ratio=0, uniform=True))
    model.save_pretrained(tmp_path)
    config = read_json(tmp_path / "config.json")
    assert "fastserve_parts" not in config
    assert (config["n_layers"], config["hidden_dim"]) == (2, 32)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(answer(again), answer(model))


def test_the_config_has_the_remaining_sizes(tiny: Tiny, batches: Batches, tmp_path: Path) -> None:
    pruned(tiny("Roberta"), batches, PruneOptions()).save_pretrained(tmp_path)
    config = read_json(tmp_path / "config.json")
    (about,) = config["fastserve_parts"]
    assert about["kind"] == "pruned"
    assert sum(about["heads"]) == 12 - 4
    assert abs(sum(about["neurons"]) - 96) <= 8
    assert config["intermediate_size"] == max(about["neurons"])
    assert config["num_attention_heads"] == 4  # which the width of a head follows from
    with pytest.raises(RuntimeError, match="size"):  # others are not given a model that answers wrongly
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_pruned_model_can_be_pruned_again(tiny: Tiny, batches: Batches, answer: Answer, tmp_path: Path) -> None:
    once = pruned(tiny("Bert"), batches, PruneOptions(head_ratio=0.25, neuron_ratio=0.25))
    once.save_pretrained(tmp_path / "once")
    model = load_pretrained(type(once), tmp_path / "once").eval()
    drop_layers(model, [0])
    heads, neurons = sum(count_heads(model)), sum(count_neurons(model))
    pruned(model, batches, PruneOptions(head_ratio=0.34, neuron_ratio=0.34))
    assert sum(count_heads(model)) == heads - round(0.34 * heads)
    assert abs(sum(count_neurons(model)) - 0.66 * neurons) <= 8
    model.save_pretrained(tmp_path / "twice")
    again = load_pretrained(type(model), tmp_path / "twice").eval()
    assert torch.equal(answer(again), answer(model))
    layer = get_layers(again)[0].attention.self
    assert layer.num_attention_heads == count_heads(again)[0]


def test_equal_runs_give_equal_bytes(tiny: Tiny, batches: Batches, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pruned(tiny("Bert"), batches, PruneOptions()).save_pretrained(tmp_path / name)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_scores_do_not_depend_on_the_batches(tiny: Tiny, batches: Batches) -> None:
    model = tiny("Bert")
    rows = [{name: one[place : place + 1] for name, one in batch.items()} for batch in batches for place in range(4)]
    for whole, single in zip(
        compute_unit_importance(model, batches), compute_unit_importance(model, rows), strict=True
    ):
        torch.testing.assert_close(torch.tensor(whole), torch.tensor(single), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", ["Bert", "GPT2"])
def test_masks_keep_important_weights(tiny: Tiny, batches: Batches, family: str) -> None:
    for pattern, sparsity in (("unstructured", 0.7), ("2:4", 0.0)):
        model = tiny(family)
        weights = find_masked_weights(model, pattern)
        scores = compute_weight_importance(model, weights, batches, lambda _: None)
        before = {name: one.detach().clone() for name, one in weights.items()}
        apply_mask(model, scores, sparsity, pattern)
        for name, after in find_masked_weights(model, pattern).items():
            kept = after != 0
            assert torch.equal(after[kept], before[name][kept])
            if pattern == "2:4":
                by_output = kept if family == "Bert" else kept.T
                assert torch.all(by_output.reshape(len(by_output), -1, 4).sum(-1) <= 2)
            else:
                assert kept.sum() <= round(0.3 * kept.numel())
                assert scores[name][kept].min() >= scores[name][~kept].max()
    with pytest.raises(ModelError, match="3:7 does not fit"):
        find_masked_weights(tiny(family), "3:7")


def test_a_decoder_without_some_layers_generates(tiny: Tiny, batches: Batches) -> None:
    model = tiny("Qwen2", "ForCausalLM")
    drop_layers(model, [0, 2])
    assert len(model.config.layer_types) == 1
    ids = model.generate(batches[0]["input_ids"][:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert ids.shape == (1, 8)


def test_models_that_cannot_be_pruned_are_refused(tiny: Tiny, batches: Batches) -> None:
    with pytest.raises(ModelError, match="does not support albert models; it supports bert"):
        check_model(tiny("Albert"), PruneOptions())
    with pytest.raises(OptionError, match="heads of llama models cannot be pruned"):
        check_model(tiny("Llama"), PruneOptions())
    with pytest.raises(OptionError, match="layer 3 does not exist, the indices are 0 to 2"):
        drop_layers(tiny("Bert"), [1, 3])
    with pytest.raises(OptionError, match="at least one must remain"):
        drop_layers(tiny("Bert"), [0, 1, 2])
    model = tiny("Bert")
    register_component(model.config, {"kind": "bottleneck", "alpha": 16.0})
    with pytest.raises(ModelError, match="components of the kind 'bottleneck'"):
        check_model(model, PruneOptions())


def test_a_model_at_its_floors_is_refused(tiny: Tiny, batches: Batches) -> None:
    model = tiny("Bert")
    cut_heads(model, [[0]] * 3)
    cut_neurons(model, [list(range(16))] * 3)
    with pytest.raises(ModelError, match="nothing can be cut out"):
        pruned(model, batches, PruneOptions())


def test_gradients_that_are_not_finite_are_refused(tiny: Tiny, batches: Batches) -> None:
    model = tiny("Bert")
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        compute_unit_importance(model, batches)
