"""llama.cpp's files: what is read of them, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import Cli
from fastserve_core.artifacts import Store
from fastserve_core.errors import MissingPackageError, ModelError, UserError
from fastserve_core.models import convert_checkpoint, needs_conversion

WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "ab"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), tie_word_embeddings=True, **sizes)).eval()


def write(model: Any, path: Path) -> Path:
    """The model as llama.cpp stores it: its names, and the rows of queries and keys in its order."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        array = value.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_model_answers_as_before_and_is_converted_once(model: Any, store: Store, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = write(model, tmp_path / "tiny.gguf")
    assert needs_conversion(file)
    said: list[str] = []
    folder = convert_checkpoint(file, store, said.append)
    assert said == ["converting tiny.gguf to a Hugging Face folder, once"]
    found, ids = AutoModelForCausalLM.from_pretrained(folder), torch.arange(3, 15)[None]
    with torch.no_grad():
        assert torch.allclose(found(ids).logits, model(ids).logits, atol=1e-4)
    assert AutoTokenizer.from_pretrained(folder).eos_token == "</s>"
    file.with_name("copy.gguf").write_bytes(file.read_bytes())
    assert convert_checkpoint(file.with_name("copy.gguf"), store) == folder


def test_unreadable_files_are_reported(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(UserError, match="cut.gguf cannot be read: "):
        convert_checkpoint(cut, store)
    with pytest.raises(ModelError, match="cub.gguf does not exist; did you mean 'cut.gguf'"):
        convert_checkpoint(tmp_path / "cub.gguf", store)
    monkeypatch.setattr("fastserve_core.models.converters.missing_packages", list)
    with pytest.raises(MissingPackageError, match=r"cut.gguf needs gguf, .* pip install 'fastserve-core\[gguf\]'"):
        convert_checkpoint(cut, store)
    (tmp_path / "folder.gguf").mkdir()  # as people call folders of Hugging Face's too
    assert not needs_conversion(tmp_path / "folder.gguf")


@pytest.mark.slow(90)
@pytest.mark.network
@pytest.mark.timeout(1200)
def test_smollm2_is_fetched_and_quantized_to_four_bits(command: Cli, online: None, tmp_path: Path) -> None:
    from fastserve_core.artifacts import read_json

    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"The film number {number} is a quiet story about a family.\n" for number in range(40)))
    done = command(
        *(
            "+plugin=neural_compressor",
            "model=smollm2",
            "task=causal_lm",
            "task.max_length=16",
            "task.max_new_tokens=4",
            f"data.train={texts}",
        ),
        *("compress.neural_compressor.bits=4", "gate.enabled=false"),
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr
    original, made = read_json(next(tmp_path.glob("outputs/*/*/run.json")))["stages"]
    assert original["measures"]["size_bytes"] > 5 * made["measures"]["size_bytes"]
    assert made["measures"]["quality"]["perplexity"] < 1.5 * original["measures"]["quality"]["perplexity"]
