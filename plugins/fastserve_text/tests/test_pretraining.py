"""Pretraining: pairs are drawn as they should be, the loss is transformers' own, and it learns."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

from fastserve_core.artifacts import TRAINABLE, Manifest, Store, hash_files, write_manifest
from fastserve_core.config import ModelSpec
from fastserve_core.errors import ArtifactError, ModelError, OptionError
from fastserve_core.inference import Predictor, length_batches
from fastserve_core.models import resolve_model
from fastserve_core.tasks import Encoded, Task, load_task
from fastserve_text.model_factory import write_scratch

TOPICS = {
    "sea": ["wave", "salt", "ship", "sail", "harbour", "tide", "anchor"],
    "war": ["tank", "gun", "soldier", "trench", "rifle", "army", "siege"],
    "food": ["bread", "butter", "soup", "onion", "pepper", "kitchen", "oven"],
}


def corpus(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Documents of one topic each, so that a segment from elsewhere mostly shows by its words."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = TOPICS[draw.choice(list(TOPICS))]
        sentences = [" ".join(draw.choice(words) for _ in range(draw.randint(3, 6))) for _ in range(draw.randint(2, 8))]
        rows.append({"text": ". ".join(sentences) + "."})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config and the tokenizer of a tiny BERT from scratch."""
    path = tmp_path_factory.mktemp("scratch")
    size = {"dim": 32, "num_heads": 2, "num_layers": 2, "hidden_size": 64, "vocab_size": 200, "max_positions": 64}
    task = load_task("pretraining", {})
    task.init_from_scratch(ModelSpec("scratch", "bert", **size), corpus(100), path)  # type: ignore[arg-type]
    return path


def made(task: Task, folder: Path, count: int = 60, seed: str = "0 0") -> Any:
    return task.examples(task.encoder(folder)(corpus(count)), seed)


def tensors(task: Task, batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(one) for name, one in task.collate(batch, targets=True).items()}


def as_lists(examples: Sequence[Encoded]) -> list[Any]:
    return [[list(one.inputs["input_ids"]), one.target.labels.tolist(), one.target.is_random_next] for one in examples]


def logits_of(outputs: Any) -> dict[str, Any]:
    return {name: one.detach().numpy() for name, one in outputs.items() if name.endswith("logits")}


# -- the examples ------------------------------------------------------------------------------------


def test_examples_are_framed_and_as_long_as_they_say(folder: Path) -> None:
    task = load_task("pretraining", {"max_length": 32})
    examples = made(task, folder)
    tokenizer: Any = task.tokenizer  # type: ignore[attr-defined]
    first, separator = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    assert len(examples) > 60
    for one, length in zip(examples, examples.lengths, strict=True):
        ids, types = np.asarray(one.inputs["input_ids"]), np.asarray(one.inputs["token_type_ids"])
        assert len(one) == length <= 32
        assert ids[0] == first
        assert (ids == separator).sum() == 2
        assert types.tolist() == sorted(types)
        assert types[np.flatnonzero(ids == separator)].tolist() == [0, 1]
    assert max(examples.lengths) > 26  # sentences fill an example


def test_a_following_segment_is_the_text_that_follows_and_any_other_is_not(folder: Path) -> None:
    task = load_task("pretraining", {"max_length": 32})
    examples = made(task, folder, 400)
    for document, begin, end, other, other_begin, other_end, elsewhere in examples.plan.tolist():
        assert 0 <= begin < end
        assert 0 < other_begin < other_end <= len(examples.documents[other])
        assert (other != document) if elsewhere else (other == document and other_begin == end)
    assert examples.plan[:, 6].mean() == pytest.approx(0.5, abs=0.05)


def test_over_some_epochs_every_sentence_is_learnt_from(folder: Path) -> None:
    task = load_task("pretraining", {"max_length": 32})
    documents = task.encoder(folder)(corpus(30))
    seen = [np.zeros(len(one), dtype=bool) for one in documents]
    for epoch in range(6):
        examples: Any = task.examples(documents, f"0 {epoch}")
        for document, begin, end, other, other_begin, other_end, _ in examples.plan.tolist():
            seen[document][begin:end] = True
            seen[other][other_begin:other_end] = True
    assert all(one.all() for one in seen)


def test_the_same_seed_makes_the_same_examples_and_another_epoch_others(folder: Path) -> None:
    task = load_task("pretraining", {"max_length": 32})
    assert as_lists(made(task, folder, seed="0 0")) == as_lists(made(task, folder, seed="0 0"))
    assert as_lists(made(task, folder, seed="0 0")) != as_lists(made(task, folder, seed="0 1"))
    examples = made(task, folder)
    assert as_lists([examples[7], examples[3]]) == as_lists([*examples[7:8], *examples[3:4]])


def test_rows_may_be_arrays_that_are_read_when_they_are_asked_for(folder: Path) -> None:
    task = load_task("pretraining", {"max_length": 32})
    documents = task.encoder(folder)(corpus(20))
    arrays = [
        Encoded({name: np.asarray(one, dtype=np.uint16) for name, one in document.inputs.items()})
        for document in documents
    ]
    assert as_lists(task.examples(documents, "0")) == as_lists(task.examples(arrays, "0"))
    assert task.collate(arrays[:2])["input_ids"].shape[0] == 2


def test_batches_by_length_are_found_without_making_an_example(folder: Path) -> None:
    examples = made(load_task("pretraining", {"max_length": 32}), folder)
    examples.documents = None
    batches = length_batches(examples, 8)
    lengths = [examples.lengths[place] for batch in batches for place in batch]
    assert lengths == sorted(examples.lengths)


def test_texts_of_unknown_words_still_have_a_loss(folder: Path) -> None:
    task = load_task("pretraining", {"max_length": 16})
    documents = task.encoder(folder)([{"text": "слово дело. дом"}, {"text": "мир труд"}])
    examples = task.examples(documents, "0")
    assert all((one.target.labels != -100).any() for one in examples)
    assert not {1}.intersection(task.masking.ordinary.tolist())  # type: ignore[attr-defined]


def test_without_pairs_an_example_is_one_segment(folder: Path) -> None:
    task = load_task("pretraining", {"max_length": 16, "next_sentence": False, "short_fraction": 0.0})
    examples = made(task, folder, 20)
    text = sum(len(one) for one in examples.documents)
    assert sum(examples.lengths) - 2 * len(examples) == text  # nothing is lost
    arrays = task.collate(examples[:4], targets=True)
    assert set(arrays) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
    assert arrays["token_type_ids"].max() == 0


# -- the model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [True, False])
def test_the_loss_is_that_of_transformers_from_hidden_tokens_alone(folder: Path, paired: bool, tmp_path: Path) -> None:
    import transformers

    task = load_task("pretraining", {"max_length": 32, "next_sentence": paired})
    batch = made(task, folder)[:8]
    torch.manual_seed(0)
    model: Any = task.build(folder).eval()
    model.save_pretrained(tmp_path)
    kind = transformers.BertForPreTraining if paired else transformers.BertForMaskedLM
    plain = kind.from_pretrained(tmp_path).eval()
    assert type(model) is kind
    given = tensors(task, batch)
    ours, theirs = model(**given), plain(**given)
    hidden = int((given["labels"] != -100).sum())
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-5)
    assert next(iter(logits_of(ours).values())).shape[0] == hidden
    scores = task.score(task.batch_statistics(logits_of(ours), batch))
    assert scores == pytest.approx(task.score(task.batch_statistics(logits_of(theirs), batch)), rel=1e-5)
    assert scores["loss"] == pytest.approx(ours.loss.item(), rel=1e-4)
    assert task.objective(scores) == -scores["loss"]
    ours.loss.backward()
    theirs.loss.backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)
    without = model(**{name: one for name, one in given.items() if "label" not in name})
    assert next(iter(logits_of(without).values())).shape[:2] == given["input_ids"].shape


def test_bf16_weights_still_give_a_loss_in_fp32(folder: Path) -> None:
    task = load_task("pretraining", {"max_length": 32, "next_sentence": False})
    given = tensors(task, made(task, folder)[:8])
    torch.manual_seed(0)
    model = task.build(folder).eval()
    exact = model(**given).loss.item()
    outputs = model.bfloat16()(**given)
    assert outputs.logits.dtype == outputs.loss.dtype == torch.float32
    assert outputs.loss.item() == pytest.approx(exact, rel=2e-3)


def train(task: Task, model: nn.Module, documents: Sequence[Encoded], epochs: int) -> list[float]:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for epoch in range(epochs):
        examples = task.examples(documents, f"0 {epoch}")
        order = random.Random(epoch).sample(range(len(examples)), len(examples))
        for start in range(0, len(order), 32):
            loss = model(**tensors(task, [examples[place] for place in order[start : start + 32]])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def pretrained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a short pretraining."""
    return artifact_of(folder, tmp_path_factory.mktemp("pretrained"), 3)


def artifact_of(folder: Path, artifact: Path, epochs: int) -> Path:
    task = load_task("pretraining", {"max_length": 32})
    documents = task.encoder(folder)(corpus(600))
    torch.manual_seed(0)
    model: Any = task.build(folder)
    losses = train(task, model, documents, epochs)
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.5
    model.save_pretrained(artifact)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (artifact / name).write_bytes((folder / name).read_bytes())
    engine = {"engine": "torch", "form": TRAINABLE}
    lineage = ({"stage": "train", "plugin": "torch_ddp"},)
    options = vars(task.options)
    write_manifest(artifact, Manifest("pretraining", options, (), engine, lineage, hash_files(artifact)))
    return artifact


@pytest.mark.slow
def test_it_learns_which_segments_follow_each_other(folder: Path, tmp_path: Path) -> None:
    scores = Predictor(artifact_of(folder, tmp_path, 14), threads=1).score(corpus(100, seed=1))
    assert scores["nsp_accuracy"] > 0.7  # no more than 5/6: a third of the others are of the same topic
    assert scores["mlm_accuracy"] > 0.2  # of 21 words and a full stop


def test_a_pretrained_model_is_scored_alike_and_fills_in_masks(pretrained: Path) -> None:
    predictor = Predictor(pretrained, threads=1)
    scores = predictor.score(corpus(40, seed=1))
    assert set(scores) == {"loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"}
    assert predictor.score(corpus(40, seed=1)) == scores
    answer, plain = predictor.predict(["bread [MASK] soup [MASK] oven. butter pepper.", "ship"])
    assert len(answer["masks"]) == 2
    for mask in answer["masks"]:
        assert len(mask["candidates"]) == 5
        assert mask["token"] == max(mask["candidates"], key=mask["candidates"].__getitem__)
        assert 0 < sum(mask["candidates"].values()) <= 1
    assert "[MASK]" not in answer["text"]
    assert plain == {"text": "ship", "masks": []}
    for value in (answer, plain):
        jsonschema.validate(value, predictor.task.answer_schema())


def test_a_pretrained_model_starts_a_classifier(pretrained: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    classify = load_task("text_classification", {"max_length": 32}, ["negative", "positive"])
    start = resolve_model(ModelSpec("checkpoint", path=str(pretrained)), classify, None, Store(tmp_path / "home"), 0)
    assert start.manifest.task == "text_classification"
    assert [entry["stage"] for entry in start.manifest.lineage] == ["train"]
    assert not start.manifest.files
    classifier: Any = classify.build(start.folder)
    known = load_file(pretrained / "model.safetensors")["bert.encoder.layer.0.attention.self.query.weight"]
    assert torch.equal(classifier.bert.encoder.layer[0].attention.self.query.weight, known)
    (one,) = classify.encoder(start.folder)([{"text": "bread soup", "label": "positive"}])
    assert len(one) == 4  # framed by [CLS] and [SEP], as the model has learnt it


def test_a_runs_folder_stands_for_its_best_model(pretrained: Path, tmp_path: Path) -> None:
    task, store, spec = (
        load_task("pretraining", {"max_length": 32}),
        Store(tmp_path / "home"),
        ModelSpec(path=str(tmp_path)),
    )
    (tmp_path / "run.json").write_text(json.dumps({"best": str(pretrained)}))
    assert resolve_model(spec, task, None, store, 0).folder == pretrained
    (tmp_path / "run.json").write_text(json.dumps({"best": ""}))
    with pytest.raises(ArtifactError, match="made no artifact"):
        resolve_model(spec, task, None, store, 0)


def test_only_a_pretrained_model_may_start_another_task(folder: Path, tmp_path: Path, tiny_bert: Path) -> None:
    artifact = tmp_path / "classifier"
    artifact.mkdir()
    for path in tiny_bert.iterdir():
        (artifact / path.name).write_bytes(path.read_bytes())
    engine = {"engine": "torch", "form": TRAINABLE}
    write_manifest(artifact, Manifest("text_classification", {}, ("a", "b"), engine, (), hash_files(artifact)))
    other = load_task("token_classification", {})
    with pytest.raises(ModelError, match="was made for the task text_classification, not token_classification"):
        resolve_model(ModelSpec("checkpoint", path=str(artifact)), other, None, Store(tmp_path / "home"), 0)


def test_a_trained_encoder_gets_the_head_too(tiny_bert: Path) -> None:
    task = load_task("pretraining", {"max_length": 16})
    documents = task.encoder(tiny_bert)([{"text": "the film is dull. a story."}, {"text": "what a story! it moves."}])
    model: Any = task.build(tiny_bert)
    assert type(model).__name__ == "BertForPreTraining"
    batch = [*task.examples(documents, "0")]
    assert model(**tensors(task, batch)).loss.item() > 0


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_length": 7}, "task.max_length must be at least 8"),
        ({"mask_fraction": 0.0}, "task.mask_fraction must lie between 0 and 1"),
        ({"mask_fraction": 1.0}, "task.mask_fraction must lie between 0 and 1"),
        ({"short_fraction": 1.5}, "task.short_fraction must lie between 0 and 1"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        load_task("pretraining", options)


def test_more_tokens_than_the_model_has_positions_are_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"max_length is 128, but the model has 64 positions \(model.max_positions\)"):
        load_task("pretraining", {}).encoder(folder)


def test_models_without_the_heads_are_reported(tmp_path: Path) -> None:
    from transformers import DistilBertConfig

    spec = ModelSpec("scratch", "gpt2", dim=16, num_heads=2, num_layers=1, hidden_size=32, vocab_size=300)
    write_scratch(spec, ["the cat sat"] * 3, tmp_path, "LMHeadModel")
    task = load_task("pretraining", {"max_length": 16})
    with pytest.raises(ModelError, match="has no mask token: pretraining takes encoders"):
        task.encoder(tmp_path)
    DistilBertConfig(vocab_size=100, dim=16, n_heads=2, n_layers=1, hidden_dim=32).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no head for pairs of sentences: set task.next_sentence=false"):
        task.build(tmp_path)
    alone = load_task("pretraining", {"max_length": 16, "next_sentence": False})
    assert type(alone.build(tmp_path)).__name__ == "DistilBertForMaskedLM"


# -- a whole run -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_plain_text_to_a_classifier(cli: Any, tmp_path: Path, reviews: Path) -> None:
    size = ["model.dim=32", "model.num_heads=2", "model.num_layers=1", "model.hidden_size=64", "model.vocab_size=300"]
    common = ["+plugin=torch_ddp", f"data.train={reviews}", "task.max_length=32"]
    first = cli(*common, "task=pretraining", "model=bert", *size, "train.torch_ddp.epochs=2", "hydra.run.dir=first")
    assert first.returncode == 0, first.stderr
    record = json.loads((tmp_path / "first" / "run.json").read_text())
    scores = record["stages"][-1]["measures"]["quality_validation"]
    assert scores["loss"] == pytest.approx(scores["mlm_loss"] + scores["nsp_loss"], abs=1e-5)
    filled = cli("predict", "first", "the film is [MASK]")
    assert filled.returncode == 0, filled.stderr
    assert filled.stdout.startswith("the film is ")
    second = cli(*common, "model=./first", "train.torch_ddp.epochs=1", "hydra.run.dir=second")
    assert second.returncode == 0, second.stderr
    manifest = json.loads(
        (Path(json.loads((tmp_path / "second" / "run.json").read_text())["best"]) / "fastserve.json").read_text()
    )
    assert manifest["task"] == "text_classification"
    assert [entry["stage"] for entry in manifest["lineage"]] == ["model", "train", "train"]


@pytest.mark.slow
def test_a_language_model_trains_on_packed_blocks(cli: Any, tmp_path: Path, reviews: Path) -> None:
    size = ["model.dim=32", "model.num_heads=2", "model.num_layers=1", "model.hidden_size=64", "model.vocab_size=400"]
    packed = ["task=causal_lm", "task.pack=true", "task.max_length=32", "hydra.run.dir=run"]
    done = cli("+plugin=torch_ddp", f"data.train={reviews}", "model=gpt2", *size, *packed, "train.torch_ddp.epochs=1")
    assert done.returncode == 0, done.stderr
    measures = json.loads((tmp_path / "run" / "run.json").read_text())["stages"][-1]["measures"]
    assert 0 < measures["quality"]["perplexity"] < 400
