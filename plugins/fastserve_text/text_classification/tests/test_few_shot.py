"""Training from few rows: pairs, the layer that averages the words, the loss, and the choice by a tuner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from conftest import Cli
from fastserve_core import FastServe
from fastserve_core.artifacts import load_artifact, read_json, write_json
from fastserve_core.errors import ModelError
from fastserve_core.tasks import UNLABELLED, Encoded, LossOptions, Task, load_task, softmax
from fastserve_text.text_classification.contrastive import TEMPERATURE, add_mean_layer, contrastive_loss
from fastserve_text.text_classification.head_fit import REGULARIZATION, fit_weights
from fastserve_text.text_classification.pairs import Pairs, split_pairs

LABELS = ["first", "second", "third"]


def rows(targets: list[int]) -> list[Encoded]:
    return [Encoded({"input_ids": [number] * (number % 5 + 1)}, target) for number, target in enumerate(targets)]


def few_shot_task(**options: Any) -> Task:
    task = load_task("text_classification", {"few_shot": True, **options}, LABELS)
    task.fit_targets(())
    return task


@given(st.lists(st.sampled_from([0, 1, 2, UNLABELLED]), min_size=1, max_size=40), st.text(max_size=3))
@settings(max_examples=50, deadline=None)
def test_each_row_is_paired_with_another_one_of_its_label(targets: list[int], seed: str) -> None:
    encoded = rows(targets)
    pairs = Pairs(encoded, seed)
    assert len(pairs) == len(encoded)
    for number, row in enumerate(encoded):
        texts = split_pairs([pairs[number]])
        assert texts[0].inputs is row.inputs and pairs.lengths[number] == sum(map(len, texts))
        if row.target == UNLABELLED:
            assert len(texts) == 1
        else:
            assert texts[1].target == row.target
            assert (texts[1] is row) == (targets.count(row.target) == 1)


def test_another_epoch_draws_other_partners_and_validation_none() -> None:
    task, encoded = few_shot_task(), rows([0, 1, 2] * 20)

    def partners(seed: str) -> list[int]:
        return [split_pairs([pair])[1].inputs["input_ids"][0] for pair in task.examples(encoded, seed)]

    assert partners("0-0") == partners("0-0") != partners("0-1")
    assert task.examples(encoded, "validation") is encoded
    plain = load_task("text_classification", {}, LABELS)
    plain.fit_targets(())
    assert plain.examples(encoded, "0-0") is encoded


def test_a_batch_has_both_texts_of_each_pair() -> None:
    task = few_shot_task()
    pairs = task.examples(rows([0, 0, 1, 1]), "0-0")
    arrays = task.collate(pairs[:], targets=True)
    assert arrays["labels"].tolist() == [0, 0, 1, 1] * 2
    assert arrays["input_ids"][4:].max(axis=1).tolist() == [1, 0, 3, 2]


def test_the_loss_is_that_of_the_paper_and_of_the_head() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, logits = torch.randn(6, 2, 4, generator=draw), torch.randn(6, 3, generator=draw)
    labels = torch.tensor([0, 1, 0, 1, 2, UNLABELLED])
    vectors = hidden[:, 0].double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = np.exp(vectors @ vectors.T / TEMPERATURE)
    expected = 0.0
    for anchor, positive in ((0, 2), (2, 0), (1, 3), (3, 1)):  # the only row of a label and one without count nothing
        others = [number for number in range(6) if number != anchor]
        expected -= np.log(similarities[anchor, positive] / similarities[anchor, others].sum())
    assert float(contrastive_loss(hidden, labels)) == pytest.approx(expected, rel=1e-5)

    outputs, batch = {"logits": logits, "hidden_states": (hidden,)}, {"labels": labels}
    plain = load_task("text_classification", {}, LABELS).loss(outputs, batch, LossOptions())
    both = few_shot_task().loss(outputs, batch, LossOptions())
    assert float(both.total) == pytest.approx(float(plain.total) + expected, rel=1e-5)
    assert both.denominator == plain.denominator


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_the_added_layer_averages_the_words(family: str) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        family, vocab_size=50, hidden_size=16, embedding_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=20, pad_token_id=0,
    )  # fmt: skip
    model: Any = AutoModelForSequenceClassification.from_config(config).eval()
    add_mean_layer(model)
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 9, 4, 0, 0]])
    states = model(ids, attention_mask=(ids > 0).long(), output_hidden_states=True).hidden_states
    assert len(states) == 3 == model.config.num_hidden_layers + 1
    means = torch.stack([states[1][0].mean(0), states[1][1, :3].mean(0)])
    cosine = torch.nn.functional.cosine_similarity(states[2][:, 0], means - means.mean(-1, keepdim=True))
    assert (cosine > 0.99).all()


def bare_checkpoint(source: Path, folder: Path, **config: Any) -> Path:
    """A checkpoint without a classifier's head, as pretrained encoders are."""
    shutil.copytree(source, folder)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "architectures": ["BertModel"], **config})
    return folder


def test_only_a_new_classifier_gets_the_layer_and_only_in_training(tiny_bert: Path, tmp_path: Path) -> None:
    bare = bare_checkpoint(tiny_bert, tmp_path / "bare")
    assert few_shot_task().build(bare).config.num_hidden_layers == 3
    assert few_shot_task().build(tiny_bert).config.num_hidden_layers == 2, "a student of distillation is one already"
    assert load_task("text_classification", {"few_shot": True}, LABELS).build(bare).config.num_hidden_layers == 2


@pytest.mark.slow(1)
@pytest.mark.parametrize("targets", [[0, 2] * 6, [0, 1, 2] * 4])
def test_a_new_head_is_the_logistic_regression_of_its_rows(targets: list[int]) -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 5)) + np.array(targets)[:, None]
    weight, bias = fit_weights(vectors, targets, 3)
    length = np.linalg.norm(vectors, axis=1).mean()
    expected = LogisticRegression(C=REGULARIZATION, max_iter=500).fit(vectors / length, targets)
    known = sorted(set(targets))
    found = softmax((vectors @ weight.T + bias)[:, known])
    np.testing.assert_allclose(found, expected.predict_proba(vectors / length), atol=1e-6)
    absent = set(range(3)) - set(known)
    assert all(not weight[label].any() and bias[label] == bias.min() for label in absent)


@pytest.mark.slow(1)
def test_first_weights_separate_the_rows_and_those_of_a_classifier_are_kept(tiny_bert: Path, tmp_path: Path) -> None:
    task, encoded = few_shot_task(), rows([0, 1, 2, 2, 1, 0, 0, 1])
    model: Any = task.build(bare_checkpoint(tiny_bert, tmp_path / "bare")).eval()
    task.initialize(model, encoded)
    batch = {name: torch.from_numpy(array) for name, array in task.collate(encoded).items()}
    assert model(**batch).logits.argmax(dim=1).tolist() == [row.target for row in encoded]
    before = model.classifier.weight.clone()
    task.initialize(model, rows([1, 1, 1]))
    assert torch.equal(model.classifier.weight, before), "one label has nothing to separate"
    task.build(tiny_bert)
    task.initialize(model, rows([0, 1, 1]))
    assert torch.equal(model.classifier.weight, before)


def test_a_model_of_another_family_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = bare_checkpoint(tiny_bert, tmp_path / "other", model_type="gpt2")
    with pytest.raises(ModelError, match=r"few_shot needs an encoder of the type bert, .* of the type gpt2: choose"):
        few_shot_task().check_model(folder)


@pytest.mark.slow(40)
def test_a_tuner_chooses_it_and_the_model_is_an_ordinary_classifier(
    cli: Cli, tmp_path: Path, tiny_bert: Path, reviews: Path
) -> None:
    done = cli(
        "+plugin=[nevergrad,torch_ddp,distill]", f"model={bare_checkpoint(tiny_bert, tmp_path / 'bare')}",
        f"data.train={reviews}", "tune.nevergrad.space={task.few_shot: {choice: [true, false]}}",
        "tune.nevergrad.trials=3", "tune.nevergrad.trial_steps=3", "tune.nevergrad.reduction_factor=null",
        "train.torch_ddp.epochs=3", "train.torch_ddp.lr=0.005", "train.torch_ddp.nproc=1",
        "compress.distill.epochs=1", "gate.enabled=false", "learning_curve.enabled=true", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    tuned, trained, student = record["stages"]
    assert {trial["options"]["task.few_shot"] for trial in tuned["trials"]} == {True, False}
    chosen = tuned["found"]["task.few_shot"]
    artifact = load_artifact(Path(trained["artifact"]))
    assert artifact.manifest.task_options["few_shot"] is chosen
    config = read_json(artifact.folder / "config.json")
    assert config["num_hidden_layers"] == (3 if chosen else 2) and not config.get("output_hidden_states")
    text = "a wonderful film"
    (answer,) = FastServe.load(student["artifact"], show=False).predict([text])
    assert answer["label"] in ("positive", "negative")
    curve = record["learning_curve"]
    assert [point["rows"] for point in curve["points"]] == [23, 48, 96, 191]
    assert curve["sentence"] in (tmp_path / "run" / "report.md").read_text().replace("\\", "")
