"""Shallower decoders: the layers that remain, and a model that transformers loads and generates with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model

from fastserve_compression.decoder_layers import count_decoder_layers, keep_decoder_layers, select_decoder_layers
from fastserve_compression.distillation_loss import Distillation
from fastserve_compression.student import make_student
from fastserve_core.errors import ModelError
from fastserve_core.tasks import load_task

WORDS = ["a", "b", "c", "d"]


def test_layers_are_evenly_spaced_from_the_first() -> None:
    assert select_decoder_layers(6, 1) == [0]
    assert select_decoder_layers(6, 2) == [0, 5]
    assert select_decoder_layers(6, 3) == [0, 2, 5]
    assert select_decoder_layers(4, 4) == [0, 1, 2, 3]


@pytest.mark.slow(1)
@pytest.mark.parametrize("family", ["t5", "bart", "bert"])
def test_a_student_has_a_shallower_decoder_and_the_same_encoder(family: str, tmp_path: Path) -> None:
    head = "ForMaskedLM" if family == "bert" else "ForSeq2SeqLM"
    base = make_model(family, tmp_path / "base", head, WORDS, layers=3)
    options = {"max_length": 8, "max_target_length": 8, "max_new_tokens": 8}
    task = load_task("seq2seq", options)
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    teacher_model: Any = task.build(base)
    teacher_model.save_pretrained(teacher)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (teacher / name).write_bytes((base / name).read_bytes())
    make_student(str(teacher), str(student), 2, ("seq2seq", options, []), "")
    model: Any = task.build(student).eval()
    assert count_decoder_layers(model) == 2 and count_decoder_layers(teacher_model) == 3
    expected: Any = task.build(teacher).eval()
    keep_decoder_layers(expected, [0, 2])
    ids = torch.tensor([[3, 5, 6, 4]])
    with torch.no_grad():
        outputs = [one(input_ids=ids, decoder_input_ids=ids[:, :2]).logits for one in (model, expected)]
    assert torch.equal(*outputs)
    assert model.generate(ids, max_new_tokens=4).shape[1] <= 5
    with pytest.raises(ModelError, match="compress.distill.layers=4, but .* has only 3"):
        make_student(str(teacher), str(tmp_path / "x"), 4, ("seq2seq", options, []), "")


def test_hidden_states_of_an_encoder_with_a_decoder_are_not_compared(tmp_path: Path) -> None:
    model: Any = load_task("seq2seq", {}).build(make_model("bert", tmp_path, "ForMaskedLM", WORDS))
    model.save_pretrained(tmp_path)
    given = {"teacher": str(tmp_path), "hidden_weight": 1.0, "relation_weight": 0.0, "alpha": 0.5}
    with pytest.raises(ModelError, match="hidden_weight: the model's layers do not return a vector"):
        Distillation(given, model, torch.float32, torch.device("cpu"))
