"""The training methods: what is trained, what is saved, and that each of them learns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    RobertaConfig,
)

from fastserve_core.artifacts import ADAPTER_WEIGHTS, BASE_DIGEST, weights_digest
from fastserve_core.errors import OptionError, ValidationError
from fastserve_core.models import list_components
from fastserve_torch_ddp.peft_methods import bottleneck
from fastserve_torch_ddp.peft_methods.adapters import AdaLora, FinetuningMethod, attach_method, count_trainable
from fastserve_torch_ddp.peft_methods.module_selection import find_linears, head_parameters

VOCABULARY = 50
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
GPT2 = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
CONFIGS = {
    "bert": BertConfig(num_hidden_layers=2, **SMALL),
    "roberta": RobertaConfig(num_hidden_layers=2, **SMALL),
    "distilbert": DistilBertConfig(vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "gpt2": GPT2,
    "llama": LlamaConfig(num_hidden_layers=2, num_key_value_heads=1, pad_token_id=0, **SMALL),
}
IDS = torch.arange(5, 41).view(4, 9)
ADAPTERS = ("lora", "adalora", "bottleneck")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower with several."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def options(**given: Any) -> dict[str, Any]:
    usual = {"adapter_rank": 4, "adapter_alpha": 8.0, "adapter_dropout": 0.0, "adapter_targets": None}
    return {"method": "full", "freeze": [], **usual, **given}


def classifier(kind: str = "bert") -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForSequenceClassification.from_config(CONFIGS[kind])
    return model.eval()


def disturb(model: nn.Module) -> None:
    """Move what is trained, so that an adapter does something."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# -- saving ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "adalora"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_merged_model_is_an_ordinary_one_with_the_same_answers(kind: str, method: str, tmp_path: Path) -> None:
    plain = logits(classifier(kind))
    model = classifier(kind)
    names = set(model.state_dict())
    attached = attach_method(model, options(method=method), 10)
    torch.testing.assert_close(logits(model), plain)  # an adapter begins as nothing
    disturb(model)
    expected = logits(model)
    assert (expected - plain).abs().max() > 1e-3
    merged: Any = attached.merge()
    assert set(merged.state_dict()) == names
    merged.save_pretrained(tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    loaded, about = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"]
    torch.testing.assert_close(logits(loaded.eval()), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["lora", "adalora"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_adapter_that_is_written_beside_is_the_merged_model_for_peft(kind: str, method: str, tmp_path: Path) -> None:
    from peft import PeftModel

    base: Any = AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()
    base.save_pretrained(tmp_path / "base")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    attached = attach_method(model, options(method=method), 10)
    disturb(model)
    if method == "adalora":  # a layer whose ranks were pruned
        layer = next(module for module in model.modules() if hasattr(module, "lora_E"))
        layer.ranknum["default"].fill_(2.0)
    attached.write_adapter(tmp_path / "adapter", tmp_path / "base")
    expected = logits(attached.merge())
    loaded: Any = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded), expected, atol=1e-6, rtol=1e-5)
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))).abs().max() > 1e-3
    with safe_open(tmp_path / "adapter" / ADAPTER_WEIGHTS, "pt") as file:
        assert file.metadata()[BASE_DIGEST] == weights_digest(tmp_path / "base")


def test_a_model_whose_head_was_trained_too_has_no_adapter_file(tmp_path: Path) -> None:
    attached = attach_method(classifier(), options(method="lora"), 10)
    attached.write_adapter(tmp_path / "adapter", tmp_path)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_saved_model_with_bottlenecks_is_restored(kind: str, tmp_path: Path) -> None:
    model = classifier(kind)
    plain = logits(model)
    attached = attach_method(model, options(method="bottleneck"), 10)
    torch.testing.assert_close(logits(model), plain)
    assert len(bottleneck.find_adapters(model)) == 2 * 2
    disturb(model)
    attached.merge().save_pretrained(tmp_path)  # type: ignore[operator]
    loaded, about = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not about["missing_keys"]
    assert all(f".{bottleneck.COMPONENT_NAME}." in name for name in about["unexpected_keys"])
    assert (logits(loaded.eval()) - logits(model)).abs().max() > 1e-4
    restored = bottleneck.restore(loaded, tmp_path, list_components(loaded.config)[0])
    assert torch.equal(logits(restored), logits(model))


def test_a_model_with_bottlenecks_trains_further_with_those(tmp_path: Path) -> None:
    model = classifier()
    attach_method(model, options(method="bottleneck"), 10)
    names = trained_names(model)
    disturb(model)
    model.save_pretrained(tmp_path)  # type: ignore[operator]

    def again() -> nn.Module:
        loaded: nn.Module = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        return bottleneck.restore(loaded, tmp_path, list_components(loaded.config)[0]).eval()

    model = again()
    expected = logits(model)
    attach_method(model, options(method="bottleneck"), 10)
    assert trained_names(model) == names
    assert torch.equal(logits(model), expected)
    with pytest.raises(OptionError, match="adapter_rank=4 and adapter_alpha=8: .* not 8 and 8"):
        attach_method(again(), options(method="bottleneck", adapter_rank=8), 10)
    model = again()
    attach_method(model, options(method="bottleneck", freeze=["encoder.layer.0"]), 10)
    assert trained_names(model) == {name for name in names if ".layer.0." not in name}
    model = again()
    attach_method(model, options(method="lora"), 10)
    assert not any(f".{bottleneck.COMPONENT_NAME}." in name for name in trained_names(model))


def test_layers_that_were_cut_out_take_their_adapters_with_them(tmp_path: Path) -> None:
    model = classifier()
    attach_method(model, options(method="bottleneck"), 10)
    disturb(model)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    shorter = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_hidden_layers=1)
    (about,) = list_components(shorter.config)
    assert len(bottleneck.find_adapters(bottleneck.restore(shorter, tmp_path, about))) == 2


# -- what is trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_adapters_and_the_head_are_trained_and_nothing_else(kind: str, method: str) -> None:
    model = classifier(kind)
    head = {
        name
        for name, parameter in model.named_parameters()
        if any(parameter is part for part in head_parameters(model))
    }
    assert any("classifier" in name or "score" in name for name in head)
    attach_method(model, options(method=method), 10)
    added = trained_names(model) - head
    assert head < trained_names(model)
    assert added and all("lora_" in name or f".{bottleneck.COMPONENT_NAME}." in name for name in added)
    count, of_all = count_trainable(model)
    assert 0 < count < of_all


def test_parameters_are_counted_by_hand() -> None:
    model = classifier()
    assert count_trainable(model) == (sum(parameter.numel() for parameter in model.parameters()),) * 2
    _, before = count_trainable(model)
    attach_method(model, options(method="lora", adapter_targets=["query", "value"], adapter_rank=3), 10)
    head = 16 * 16 + 16 + 16 * 2 + 2  # the pooler and the classifier
    assert count_trainable(model) == (head + 2 * 2 * 3 * (16 + 16), before + 2 * 2 * 3 * (16 + 16))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("method", ADAPTERS)
def test_a_language_model_keeps_its_projection_to_the_vocabulary(kind: str, method: str) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[kind])
    projection = model.get_output_embeddings().weight
    attached = attach_method(model, options(method=method), 10)
    assert not projection.requires_grad
    attached.merge()
    assert model.get_output_embeddings().weight is projection


def test_a_token_classifiers_head_is_trained() -> None:
    model = AutoModelForTokenClassification.from_config(CONFIGS["bert"])
    attach_method(model, options(method="lora"), 10)
    assert {"classifier.weight", "classifier.bias"} < trained_names(model)


def test_targets_are_chosen_by_ending_or_glob() -> None:
    for wanted, number in ((["query"], 2), (["output.dense"], 4), (["*layer.1.*"], 6), (["key", "value"], 4)):
        model = classifier()
        attach_method(model, options(method="lora", adapter_targets=wanted), 10)
        assert sum(".lora_A." in name for name in trained_names(model)) == number, wanted


@pytest.mark.parametrize("method", ADAPTERS)
def test_targets_that_the_model_lacks_are_all_named(method: str) -> None:
    with pytest.raises(ValidationError) as raised:
        attach_method(classifier(), options(method=method, adapter_targets=["querry", "value", "c_attn"]), 10)
    assert (
        "train.torch_ddp.adapter_targets: no linear layer of the model is called 'querry'; did you mean 'query'?"
        in (str(raised.value))
    )
    assert "'c_attn'" in str(raised.value)


def test_a_model_whose_blocks_are_not_known_needs_targets_for_bottlenecks() -> None:
    model = classifier()
    for layer in model.bert.encoder.layer:  # type: ignore[union-attr]
        layer.output.mix = layer.output.dense
        del layer.output.dense
        layer.attention.output.mix = layer.attention.output.dense
        del layer.attention.output.dense
    with pytest.raises(OptionError, match="adapter_targets must be set.*mix"):
        attach_method(model, options(method="bottleneck"), 10)


# -- freezing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("embeddings", {"bert.embeddings"}),
        ("bert.embeddings", {"bert.embeddings"}),
        ("encoder.layer.0", {"bert.encoder.layer.0"}),
        ("encoder.layer.[01]", {"bert.encoder.layer.0", "bert.encoder.layer.1"}),
        ("bert", {"bert"}),
        ("classifier", {"classifier"}),
    ],
)
def test_a_pattern_freezes_its_part_and_no_other(pattern: str, frozen: set[str]) -> None:
    model = classifier()
    attach_method(model, options(freeze=[pattern]), 10)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != any(name.startswith(f"{part}.") for part in frozen), name


@pytest.mark.parametrize("method", ADAPTERS)
def test_frozen_layers_get_no_adapters(method: str) -> None:
    model = classifier()
    attach_method(model, options(method=method, freeze=["encoder.layer.0", "pooler"]), 10)
    assert trained_names(model)
    assert not any(".layer.0." in name or ".pooler." in name for name in trained_names(model))
    assert any(".layer.1." in name for name in trained_names(model))


def test_a_pattern_that_names_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="no part of the model is called 'embedings'; did you mean 'embeddings'"):
        attach_method(classifier(), options(freeze=["embedings"]), 10)


def test_something_must_be_left_to_train() -> None:
    with pytest.raises(OptionError, match="leaves nothing to train"):
        attach_method(classifier(), options(freeze=["*"]), 10)
    with pytest.raises(OptionError, match="no linear layer"):
        attach_method(classifier(), options(method="lora", freeze=["encoder"]), 10)


# -- AdaLoRA -----------------------------------------------------------------------------------------


def draw_places(draw: torch.Generator) -> Tensor:
    return torch.randperm(8, generator=draw)[:3]


def toy(seed: int) -> tuple[Tensor, Tensor]:
    """Texts of eight tokens, of which three decide the label: all are 10, or all are 11."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(12, VOCABULARY, (16, 8), generator=draw)
    labels = torch.randint(0, 2, (16,), generator=draw)
    ids[:, draw_places(draw)] = 10 + labels.unsqueeze(1)
    return ids, labels


def train(model: nn.Module, attached: FinetuningMethod, steps: range, optimizer: torch.optim.Optimizer) -> list[float]:
    losses = []
    for step in steps:
        ids, labels = toy(step)
        loss: Tensor = model(input_ids=ids, labels=labels).loss
        losses.append(loss.item())
        extra = attached.extra_loss()
        (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        attached.after_step(step)
        optimizer.zero_grad()
    return losses


def adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=lr)


def singular_values(model: nn.Module) -> Tensor:
    return torch.cat([parameter for name, parameter in model.named_parameters() if ".lora_E." in name])


@pytest.mark.parametrize("total", [1, 2, 3, 10, 25])
def test_adalora_ends_with_the_rank_that_was_asked_for(total: int) -> None:
    model = classifier()
    count = len(find_linears(model))
    attached = attach_method(model, options(method="adalora"), total)
    assert len(singular_values(model)) == 6 * count
    train(model, attached, range(total), adam(model, 1e-2))
    left = int((singular_values(model) != 0).sum())
    assert left == (4 if total > 1 else 6) * count


def test_adaloras_extra_loss_is_the_one_that_peft_adds() -> None:
    model = classifier()
    attached = attach_method(model, options(method="adalora"), 10)
    assert isinstance(attached, AdaLora)
    disturb(model)
    ids, labels = toy(0)
    plain, with_extra = model(input_ids=ids, labels=labels).loss, attached.tuner(input_ids=ids, labels=labels).loss
    extra = attached.extra_loss()
    assert extra is not None and extra.requires_grad
    torch.testing.assert_close(plain + extra, with_extra)


@pytest.mark.slow(1)
@pytest.mark.parametrize("stop", [4, 9])
def test_adalora_continues_from_a_checkpoint_as_if_nothing_had_been(stop: int) -> None:
    total = 12
    whole = classifier()
    attached = attach_method(whole, options(method="adalora"), total)
    train(whole, attached, range(total), adam(whole, 1e-2))

    first = classifier()
    attached = attach_method(first, options(method="adalora"), total)
    optimizer = adam(first, 1e-2)
    train(first, attached, range(stop), optimizer)
    second = classifier()
    again = attach_method(second, options(method="adalora"), total)
    second.load_state_dict(first.state_dict())
    again.load_state_dict({name: tensor.clone() for name, tensor in attached.state_dict().items()})
    follower = adam(second, 1e-2)
    follower.load_state_dict(optimizer.state_dict())
    train(second, again, range(stop, total), follower)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


# -- learning ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("method", "lr"), [("full", 1e-3), ("lora", 2e-3), ("adalora", 5e-3), ("bottleneck", 2e-3)])
def test_each_method_learns(method: str, lr: float) -> None:
    torch.manual_seed(0)
    # random weights of usual size mix their inputs so little that an adapter finds nothing to work with
    sizes = {"hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.1}
    model = AutoModelForSequenceClassification.from_config(BertConfig(num_hidden_layers=2, **SMALL | sizes)).eval()
    attached = attach_method(model, options(method=method, adapter_rank=8, adapter_alpha=16.0), 250)
    losses = train(model, attached, range(250), adam(model, lr))
    assert sum(losses[-20:]) / 20 < 0.2 < 0.5 < sum(losses[:5]) / 5
    merged, right = attached.merge(), 0
    for seed in range(10_000, 10_010):
        ids, labels = toy(seed)
        with torch.no_grad():
            right += int((merged(input_ids=ids).logits.argmax(-1) == labels).sum())
    assert right >= 0.9 * 160
