"""Adapters beside one base: the answers of the models with each adapter merged, and refusals with their reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fastserve_core.artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_DIGEST, weights_digest
from fastserve_core.errors import ArtifactError, PlanError
from fastserve_core.tasks import DecodeEngine, SequenceChunk
from fastserve_engines.lora import load_adapters, read_adapter, read_tensor
from fastserve_engines.openvino_engine import OpenVINOEngine
from fastserve_engines.tests.test_causal import model
from fastserve_engines.torch_engine import TorchEngine

MEMORY, EOS = 1_000_000, 1
ENGINES = {"openvino": OpenVINOEngine, "torch": TorchEngine}
FAMILIES = {"Llama": {"num_key_value_heads": 2, "tie_word_embeddings": True}, "GPT2": {}}
PROMPTS = ([5, 9, 13, 17, 21], [30, 31, 32], [7, 8, 9, 10], [100])


def train(base: Path, folder: Path, seed: int, **settings: Any) -> Path:
    """PEFT's own files of an adapter with random weights, and the base with it merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": "all-linear", **settings})
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    return folder


def generate(engine: DecodeEngine, names: list[str | None], count: int = 12) -> list[list[int]]:
    """Continue one prompt for each adapter, all in the same passes."""
    texts = [list(prompt) for prompt, _ in zip(PROMPTS, names, strict=False)]
    past = [0] * len(texts)
    for _ in range(count):
        chunks = [
            SequenceChunk(text[begin:], begin, [place], adapter=name)
            for place, (text, begin, name) in enumerate(zip(texts, past, names, strict=True))
        ]
        past = [len(text) for text in texts]
        for text, logits in zip(texts, engine.step(chunks), strict=True):
            logits[EOS] = -np.inf
            text.append(int(logits.argmax()))
    return [text[len(prompt) :] for text, prompt in zip(texts, PROMPTS, strict=False)]


@pytest.mark.slow(12)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_texts_of_several_adapters_in_one_pass_are_those_of_the_merged_models(
    engine: str, family: str, tmp_path: Path, home: Path
) -> None:
    base = tmp_path / "base"
    model(family, **FAMILIES[family]).save_pretrained(base)
    few = {"target_modules": ["v_proj", "down_proj"] if family == "Llama" else ["c_proj"]}
    adapters = {
        "formal": train(base, tmp_path / "formal", 1),
        "short": train(base, tmp_path / "short", 2, r=3, use_rslora=True, **few),
    }
    names: list[str | None] = ["short", None, "formal", "short"]
    make = ENGINES[engine].make_decoder
    found = generate(make(base, 1, MEMORY, adapters), names)
    for place, name in enumerate(names):
        folder = base if name is None else adapters[name] / "merged"
        inputs = {"input_ids": np.array([PROMPTS[place]]), "attention_mask": np.ones((1, len(PROMPTS[place])), int)}
        expected = TorchEngine(folder, 1).generate(inputs, {"max_new_tokens": 12, "min_new_tokens": 12})["ids"][0]
        assert found[place] == expected.tolist(), name
    plain = [text for text, name in zip(generate(make(base, 1, MEMORY), names), names, strict=True) if name is None]
    assert plain == [found[1]]
    assert len({*map(tuple, found)}) == len(found)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    model("Llama", **FAMILIES["Llama"]).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "tone")


def write_adapter(folder: Path, width: int = 32, rank: int = 2, digest: str = "", **settings: Any) -> Path:
    """PEFT's files of an adapter of one layer."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "base_model_name_or_path": "acme/writer", "bias": "none"}
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, **settings}))
    prefix = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
    matrices = {
        f"{prefix}A.weight": np.ones((rank, width), np.float32),
        f"{prefix}B.weight": np.ones((width, rank), np.float32),
    }
    save_file(matrices, folder / ADAPTER_WEIGHTS, {BASE_DIGEST: digest} if digest else None)
    return folder


def refusal(base: Path, folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load_adapters({"tone": folder}, base)
    return str(caught.value)


def test_an_adapter_of_its_base_is_read(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "tone", digest=weights_digest(base))
    stack = load_adapters({"tone": folder, "other": write_adapter(tmp_path / "other", rank=3)}, base)
    assert stack.numbers == {None: 0, "tone": 1, "other": 2}
    assert stack.masks.tolist() == [[0] * 5, [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]
    ((first, second),) = stack.layers.values()
    assert first.shape == (5, 32)
    assert second[0].tolist() == [4.0, 4.0] + [np.float32(8 / 3)] * 3


def test_an_adapter_of_another_base_is_refused_with_both_names(base: Path, tmp_path: Path) -> None:
    for folder, reason in [
        (
            write_adapter(tmp_path / "wide", width=48),
            "its model.layers.1.self_attn.q_proj has 48 inputs and 48 outputs",
        ),
        (write_adapter(tmp_path / "copy", digest="0" * 64), "their weights differ"),
    ]:
        found = refusal(base, folder)
        assert reason in found
        assert "'tone'" in found and "acme/writer" in found and str(base) in found
    tensors = load_file(tmp_path / "wide" / ADAPTER_WEIGHTS)
    deep = {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}
    save_file(deep, tmp_path / "wide" / ADAPTER_WEIGHTS)
    assert refusal(base, tmp_path / "wide").endswith("which has no layer model.layers.7.self_attn.q_proj")


def test_a_torn_adapter_is_refused(base: Path, adapter: Path) -> None:
    path = adapter / ADAPTER_WEIGHTS
    content = path.read_bytes()
    for end in (0, 4, 40, len(content) - 1):
        path.write_bytes(content[:end])
        assert f"({path.name}: " in refusal(base, adapter)
    path.unlink()
    assert "cannot be read" in refusal(base, adapter)
    (adapter / ADAPTER_CONFIG).write_text('{"r": ')
    assert "is not valid JSON" in refusal(base, adapter)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "IA3"}, "of the kind IA3"),
        ({"use_dora": True}, "sets use_dora"),
        ({"bias": "all", "modules_to_save": ["lm_head"]}, "sets bias, modules_to_save"),
        ({"r": 5}, "has the rank 2"),
        ({"a_later_setting": 1}, "sets a_later_setting"),
    ],
)
def test_an_adapter_that_would_be_computed_wrongly_is_refused(
    base: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    assert reason in refusal(base, write_adapter(tmp_path / "tone", **settings))


def test_weights_that_are_not_lora_or_not_numbers_are_refused(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    first = next(name for name in tensors if "lora_A" in name)
    for changed, reason in [
        ({**tensors, "base_model.model.lm_head.weight": np.ones((4, 4), np.float32)}, "only lora_A and lora_B"),
        ({first: tensors[first]}, "only one of lora_A and lora_B"),
        ({**tensors, first: tensors[first] * np.float32("nan")}, "not finite"),
        ({**tensors, first: tensors[first][:1]}, "do not fit together"),
    ]:
        save_file(changed, adapter / ADAPTER_WEIGHTS)
        assert reason in refusal(base, adapter)


def test_16_bit_adapters_and_patterns_of_ranks(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    folder = write_adapter(
        tmp_path / "tone", rank_pattern={"q_proj": 2}, r=16, alpha_pattern={"layers.1.self_attn.q_proj": 3}
    )
    tensors = {name: torch.tensor(one).bfloat16() for name, one in load_file(folder / ADAPTER_WEIGHTS).items()}
    save_torch(tensors, folder / ADAPTER_WEIGHTS)
    ((first, second),) = read_adapter("tone", folder).layers.values()
    assert first.dtype == second.dtype == np.float32
    assert float(second[0, 0]) == 1.5
    assert read_tensor(folder / ADAPTER_WEIGHTS, next(iter(tensors))).dtype == np.float32


def test_engines_without_the_weights_refuse_adapters(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").touch()
    with pytest.raises(PlanError, match="'tone' cannot be served: .* compressed for OpenVINO"):
        OpenVINOEngine.make_decoder(tmp_path, 1, MEMORY, {"tone": adapter})
    (tmp_path / "config.json").write_text('{"is_encoder_decoder": true}')
    with pytest.raises(PlanError, match="an encoder with a decoder"):
        TorchEngine.make_decoder(tmp_path, 1, MEMORY, {"tone": adapter})
