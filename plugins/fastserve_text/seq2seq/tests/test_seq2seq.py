"""Encoders with decoders: composed of two encoders, built, encoded, trained, and refused if they cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import make_model

from fastserve_core.errors import ModelError, OptionError
from fastserve_core.tasks import Encoded, LossOptions, load_task
from fastserve_text.seq2seq.encoding import SEPARATOR
from fastserve_text.seq2seq.task import Seq2Seq

WORDS = ["the", "film", "was", "good", "bad", "long", "very", "a"]
ROWS: list[dict[str, Any]] = [
    {"text": "the film was very good", "target": ["good film", "a good film"]},
    {"text": "the film was bad a long long film", "target": ["bad"]},
]


def make_task(folder: Path, **options: Any) -> Seq2Seq:
    task = load_task("seq2seq", {"max_length": 16, "max_target_length": 8, "max_new_tokens": 6, **options})
    assert isinstance(task, Seq2Seq)
    task.check_model(folder)
    task.encode = task.encoder(folder)  # type: ignore[attr-defined]
    return task


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("bert", tmp_path_factory.mktemp("encoder"), "ForMaskedLM", WORDS)


@pytest.fixture(scope="module", params=["t5", "bart"])
def pretrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(request.param, tmp_path_factory.mktemp(request.param), "ForSeq2SeqLM", WORDS)


def test_an_encoder_becomes_an_encoder_with_a_decoder(encoder: Path, tmp_path: Path) -> None:
    task = make_task(encoder)
    model: Any = task.build(encoder)
    assert "two copies of the encoder" in task.head_report and "its head" not in task.head_report
    own, copy = model.encoder.state_dict(), model.decoder.bert.state_dict()
    assert all(torch.equal(copy[name], tensor) for name, tensor in own.items() if "pooler" not in name)
    assert not any(tensor.requires_grad for name, tensor in model.named_parameters() if "pooler" in name)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((encoder / name).read_bytes())
    again: Any = make_task(tmp_path).build(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_targets_are_learnt_behind_the_start(pretrained: Path) -> None:
    task = make_task(pretrained)
    encoded = task.encode(ROWS)  # type: ignore[attr-defined]
    start, end = task._encode.special.start, task._encode.special.end
    assert list(encoded[0].target).count(SEPARATOR) == 1 and encoded[0].decode_state == ROWS[0]["target"]
    arrays = task.collate(encoded, targets=True)
    assert (arrays["decoder_input_ids"][:, 0] == start).all()
    for labels, inputs in zip(arrays["labels"], arrays["decoder_input_ids"], strict=True):
        kept = labels[labels != SEPARATOR]
        assert kept[-1] == end and (inputs[1 : len(kept)] == kept[:-1]).all()
    model: Any = task.build(pretrained)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    outputs = model(**{name: batch[name] for name in batch if name != "labels"})
    loss = task.loss(outputs, batch, LossOptions())
    assert float(loss.total / loss.denominator) == pytest.approx(float(model(**batch).loss), abs=1e-5)


def test_an_epoch_takes_one_of_several_targets(encoder: Path) -> None:
    task = make_task(encoder)
    encoded = task.encode(ROWS)  # type: ignore[attr-defined]
    chosen = {tuple(task.examples(encoded, f"0-{epoch}")[0].target) for epoch in range(20)}
    assert len(chosen) == 2 and all(SEPARATOR not in target for target in chosen)


def test_long_sources_are_marked_and_long_targets_are_cut_and_counted(encoder: Path) -> None:
    task = make_task(encoder, max_length=6, max_target_length=4)
    rows = [{"text": "a " * 9, "target": ["good " * 4]}, {"text": "a", "target": ["good " * 3, "bad"]}]
    encoded = task.encode(rows)  # type: ignore[attr-defined]
    assert [one.truncated for one in encoded] == [True, False]
    task.fit_targets(one.target for one in encoded)
    task.build(encoder)
    assert "1 of 3 targets are longer than task.max_target_length=4 tokens and are cut" in task.head_report


def test_the_prefix_is_before_every_source(encoder: Path) -> None:
    plain, prefixed = make_task(encoder), make_task(encoder, prefix="very long ")
    (first,), (second,) = (task.encode([{"text": "film"}]) for task in (plain, prefixed))  # type: ignore[attr-defined]
    assert len(second) == len(first) + 2 and first.target is None


def test_an_evaluation_answers_a_sample_and_takes_the_loss_of_all(encoder: Path) -> None:
    for count, names in ((0, {"loss"}), (2, {"loss", "rougeL", "bleu"})):
        task = make_task(encoder, eval_rows=count)
        examples = task.examples(task.encode(ROWS), "validation")  # type: ignore[attr-defined]
        inputs = {name: torch.from_numpy(array) for name, array in task.collate(examples, targets=True).items()}
        with torch.no_grad():
            outputs = task.validation_outputs(task.build(encoder).eval(), inputs, examples)
        arrays = {name: tensor.float().numpy() for name, tensor in outputs.items()}
        scores = task.score(task.batch_statistics(arrays, examples))
        assert names <= set(scores) and ("rougeL" in scores) == bool(count)
        assert task.objective(scores) == (scores["rougeL"] if count else -scores["loss"])


def test_answers_end_at_the_end_token(encoder: Path) -> None:
    task = make_task(encoder)
    special, word = task._encode.special, task._encode.tokenizer.token_to_id("good")
    ids = np.array([[word, special.end, special.pad], [word, word, word]])
    answers = task.decode({"ids": ids}, [Encoded({"input_ids": [1]})] * 2)
    assert answers == [{"text": "good", "tokens": 2}, {"text": "good good good", "tokens": 3}]


@pytest.mark.parametrize(
    ("family", "head", "message"),
    [("gpt2", "ForCausalLM", "gpt2 model, which is no encoder with a decoder, but a decoder, which continues texts"),
     ("distilbert", "ForMaskedLM", "distilbert model, which is no encoder with a decoder; seq2seq takes")],
)  # fmt: skip
def test_models_of_another_kind_are_refused(family: str, head: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        make_task(make_model(family, tmp_path, head, WORDS))


def test_a_model_without_a_start_token_is_refused_and_so_are_lengths_beyond_its_positions(tmp_path: Path) -> None:
    folder = make_model("bart", tmp_path, "ForSeq2SeqLM", WORDS)
    for name in ("max_length", "max_target_length", "max_new_tokens"):
        with pytest.raises(OptionError, match=f"task.{name} is 5000, but the model has"):
            make_task(folder, **{name: 5000})
    for name in ("config.json", "generation_config.json"):
        config = json.loads((folder / name).read_text())
        config.update(decoder_start_token_id=None, bos_token_id=None, pad_token_id=None)
        (folder / name).write_text(json.dumps(config))
    with pytest.raises(ModelError, match="names no decoder_start_token_id and no pad_token_id"):
        make_task(folder)


def test_a_checkpoints_own_settings_of_generation_are_left_out(tmp_path: Path) -> None:
    folder = make_model("bart", tmp_path, "ForSeq2SeqLM", WORDS)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_beams": 4, "min_length": 56}))
    task = make_task(folder)
    task.complete_checkpoint(folder)
    assert set(json.loads(path.read_text())) == {"decoder_start_token_id", "eos_token_id", "pad_token_id"}
    model: Any = task.build(folder)
    assert model.generation_config.num_beams != 4


def test_a_row_without_a_target_is_refused_in_training(encoder: Path) -> None:
    with pytest.raises(OptionError, match="texts without one are no use"):
        make_task(encoder).encode([{"text": "film", "target": None}])  # type: ignore[attr-defined]


def test_summaries_are_recognized_in_a_file() -> None:
    task = load_task("seq2seq", {})
    rows = [{"text": f"the film number {number} was very long " * 9, "target": [f"a long film {number}"]}
            for number in range(20)]  # fmt: skip
    proposal = task.propose(rows)
    assert proposal.options["max_target_length"] < proposal.options["max_length"]
    assert task.why_unlikely(rows) is None
    assert task.why_unlikely([{"text": "a b c d", "target": ["good"]}]) is not None
