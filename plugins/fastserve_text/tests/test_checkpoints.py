"""Model folders that were made elsewhere: tokenizers, padding, positions and files that cannot be read."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model

from fastserve_core.artifacts import Store, copy_tokenizer, list_model_files
from fastserve_core.config import ModelSpec
from fastserve_core.errors import MissingPackageError, ModelError, OptionError, UserError
from fastserve_core.models import resolve_model
from fastserve_core.tasks import Task, load_task
from fastserve_text.tokenization import load_tokenizer, unknown_share

WORDS = ["seven", "quick", "boxing", "wizards", "jump"]
HEAD = "ForSequenceClassification"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_model("electra", tmp_path / "model", HEAD, WORDS, ["no", "yes"])


@pytest.fixture
def task() -> Task:
    return load_task("text_classification", {"max_length": 16}, ["no", "yes"])


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


# -- tokenizers ----------------------------------------------------------------------------------------


def test_a_folder_without_a_tokenizer_is_refused(checkpoint: Path, task: Task) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer: neither tokenizer.json nor a vocabulary"):
        task.check_model(checkpoint)
    (checkpoint / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    change(checkpoint / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    with pytest.raises(ModelError, match="no vocabulary"):
        task.check_model(checkpoint)


@pytest.mark.parametrize("content", ["{}", "", "{", "[]", '{"version": "1.0", "model": {"type": "WordLevel"}}'])
def test_a_damaged_tokenizer_is_named(content: str, checkpoint: Path, task: Task) -> None:
    (checkpoint / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        task.check_model(checkpoint)


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spm.model", "source.spm", "spiece.model"])
def test_every_vocabulary_goes_along_and_names_the_package_that_reads_it(
    name: str, checkpoint: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / name).write_bytes(b"pieces")
    target = tmp_path / "copy"
    target.mkdir()
    copy_tokenizer(checkpoint, target)
    assert (target / name).read_bytes() == b"pieces"
    monkeypatch.setattr("fastserve_text.tokenization.missing_packages", list)
    with pytest.raises(MissingPackageError, match=rf"{name} needs sentencepiece: pip install sentencepiece"):
        task.check_model(checkpoint)


def test_tokens_without_an_embedding_are_refused(checkpoint: Path, task: Task) -> None:
    tokenizer = load_tokenizer(checkpoint, 8)
    tokenizer.add_tokens(["extra", "more"])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"2 tokens without an embedding in the model, such as 'extra' \(10\)"):
        task.check_model(checkpoint)


def test_the_share_of_unknown_words_is_counted(checkpoint: Path, task: Task) -> None:
    assert unknown_share(checkpoint, ["seven quick wizards"]) == 0
    assert unknown_share(checkpoint, ["seven 巫师 jump 跳"]) == 0.5
    assert task.unknown_share(checkpoint, [{"text": "七 巫师"}, {"text": "boxing wizards"}]) == 0.5


# -- padding and positions -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_a_text_scores_the_same_alone_and_in_a_batch(family: str, tmp_path: Path) -> None:
    folder = make_model(family, tmp_path, HEAD, WORDS, ["no", "yes"])
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "pad_token": None}))
    task = load_task("text_classification", {"max_length": 16}, ["no", "yes"])
    task.check_model(folder)
    model = task.build(folder).eval()
    rows = task.encoder(folder)([{"text": "jump"}, {"text": "seven quick boxing wizards jump"}])

    def logits(batch: list[Any]) -> torch.Tensor:
        arrays = task.collate(batch)
        arrays.pop("token_type_ids", None)
        with torch.no_grad():
            return model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits  # type: ignore

    alone = torch.cat([logits([row]) for row in rows])
    torch.testing.assert_close(logits(rows), alone)
    assert (alone[0] - alone[1]).abs().max() > 1e-4


def test_token_types_are_left_out_where_they_would_be_words(tmp_path: Path) -> None:
    names = {}
    for family in ("gpt2", "bert", "deberta"):
        folder = make_model(family, tmp_path / family, HEAD, WORDS, ["no", "yes"])
        task = load_task("text_classification", {"max_length": 16}, ["no", "yes"])
        names[family] = "token_type_ids" in task.collate(task.encoder(folder)([{"text": "jump", "text_pair": "quick"}]))
    assert names == {"gpt2": False, "bert": True, "deberta": False}


def test_the_padding_of_an_imported_decoder_is_written_into_its_config(tmp_path: Path, task: Task) -> None:
    folder = make_model("gpt2", tmp_path, HEAD, WORDS, ["no", "yes"])
    task.complete_checkpoint(folder)
    assert json.loads((folder / "config.json").read_text())["pad_token_id"] == 0


@pytest.mark.parametrize(
    ("family", "most"), [("bert", 64), ("roberta", 63), ("gpt2", 64), ("t5", None), ("xlnet", None)]
)
def test_texts_longer_than_the_positions_are_refused_before_anything_runs(
    family: str, most: int | None, tmp_path: Path
) -> None:
    folder = make_model(family, tmp_path, HEAD, WORDS, ["no", "yes"])
    load_task("text_classification", {"max_length": most or 4000}, ["no", "yes"]).check_model(folder)
    if most is not None:
        longer = load_task("text_classification", {"max_length": most + 1}, ["no", "yes"])
        with pytest.raises(OptionError, match=f"set task.max_length={most} or less"):
            longer.check_model(folder)


# -- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{not json"),
        ("config.json", b"[]"),
        ("config.json", b"\xff\xfe"),
        ("tokenizer_config.json", b"{"),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x00" * 64),
        ("model.safetensors", struct.pack("<Q", 9) + b"{not json"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, checkpoint: Path, task: Task, tmp_path: Path) -> None:
    (checkpoint / name).write_bytes(content)
    with pytest.raises(UserError, match=str(checkpoint / name)):
        resolve_model(ModelSpec("checkpoint", path=str(checkpoint)), task, None, Store(tmp_path / "home"), 0)


def test_altered_offsets_are_found(checkpoint: Path, task: Task) -> None:
    weights = checkpoint / "model.safetensors"
    data = weights.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    last = max((one for one in header if one != "__metadata__"), key=lambda one: header[one]["data_offsets"])
    header[last]["data_offsets"][1] += 4
    text = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        task.check_model(checkpoint)


def test_a_folder_lists_the_files_of_a_model_and_nothing_else(checkpoint: Path) -> None:
    before = list_model_files(checkpoint)
    assert before == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "trainer_state.json"):
        (checkpoint / name).write_bytes(b"state")
    (checkpoint / "README.md").write_text("a card")
    shutil.copyfile(checkpoint / "model.safetensors", checkpoint / "model.fp16.safetensors")
    (checkpoint / "onnx").mkdir()
    assert list_model_files(checkpoint) == before


def test_shards_are_listed_by_their_index(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    assert "model-00001-of-00002.safetensors" in list_model_files(checkpoint)
    assert index.name in list_model_files(checkpoint)
    change(index, weight_map={"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"})
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors"):
        list_model_files(checkpoint)


# -- families ------------------------------------------------------------------------------------------


def test_models_that_read_ahead_are_no_language_models(tmp_path: Path) -> None:
    task = load_task("causal_lm", {"max_length": 16})
    make_model("bert", tmp_path / "bert", "ForMaskedLM", WORDS)
    with pytest.raises(ModelError, match="reads the tokens behind a position too"):
        task.build(tmp_path / "bert")
    change(tmp_path / "bert" / "config.json", is_decoder=True)
    task.build(tmp_path / "bert")
    make_model("bart", tmp_path / "bart", "ForSeq2SeqLM", WORDS)
    with pytest.raises(ModelError, match="is a bart model, an encoder with a decoder; causal_lm takes decoders"):
        task.check_model(tmp_path / "bart")
