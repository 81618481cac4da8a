"""The tasks: encode, pad, decode and score, against a real tokenizer and real models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.config import ModelSpec
from fastserve_core.errors import DataError, ModelError, OptionError
from fastserve_core.inference import length_batches
from fastserve_core.tasks import Encoded, Task, load_task, log_softmax, softmax
from fastserve_text.base import sorted_labels
from fastserve_text.model_factory import build_model, write_scratch
from fastserve_text.tokenization import encode_within, load_tokenizer, num_characters, pad


@pytest.fixture(scope="module")
def classify() -> Task:
    return load_task("text_classification", {"max_length": 16}, ["negative", "positive"])


def test_nothing_is_padded_before_it_is_a_batch_and_long_texts_are_cut(classify: Task, tiny_bert: Path) -> None:
    encode = classify.encoder(tiny_bert)
    short, long = encode([{"text": "the film"}, {"text": "the film " * 50}])
    assert len(short) < 8
    assert len(long) == 16
    arrays = classify.collate([short, long])
    assert arrays["input_ids"].shape == (2, 16)
    assert arrays["attention_mask"].sum() == len(short) + 16


def test_a_long_text_has_the_tokens_of_the_whole_one(tiny_bert: Path) -> None:
    tokenizer, length = load_tokenizer(tiny_bert, 16), 16
    lengths: list[int] = []

    def encode(inputs: list[Any]) -> list[Any]:
        lengths.extend(map(num_characters, inputs))
        return list(tokenizer.encode_batch(inputs))

    words = [
        "the film " * 10_000,
        "a story",
        "x" * 100_000,
        "no " + " " * 700 + " end",
        " " * 5000 + "late",
        "评论" * 9000,
    ]
    inputs = [*words, ("the film", "a story " * 10_000), ("a film " * 10_000, "x" * 10_000)]
    found = encode_within(encode, inputs, length)
    assert max(lengths) <= 128 * length
    whole = tokenizer.encode_batch(inputs)
    is_same = [encoding.ids == expected.ids for (encoding, _), expected in zip(found, whole, strict=True)]
    assert is_same == [True, True, True, True, False, True, True, True]
    assert [truncated for _, truncated in found] == [True, False, True, False, True, True, True, True]


@pytest.mark.parametrize("name", ["text_classification", "causal_lm", "pretraining"])
def test_an_input_that_was_cut_is_marked(name: str, tiny_bert: Path) -> None:
    labels = ["a", "b"] if "classification" in name else []
    task = load_task(name, {"max_length": 16}, labels)
    rows = [task.read_input(text) for text in ("the film", "the film " * 50, "the film " * 20_000)]
    assert [one.truncated for one in task.encoder(tiny_bert)(rows)] == [False, True, True]


def test_pairs_have_two_segments(classify: Task, tiny_bert: Path) -> None:
    (one,) = classify.encoder(tiny_bert)([classify.read_input(["the film", "a story"])])
    assert set(one.inputs["token_type_ids"]) == {0, 1}


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.booleans())
def test_padding_keeps_every_token_and_masks_the_rest(lengths: list[int], left: bool) -> None:
    batch = [Encoded({"input_ids": list(range(1, n + 1)), "attention_mask": [1] * n}, [7] * n) for n in lengths]
    arrays = pad(batch, {"input_ids": 99}, targets=True, left=left)
    assert arrays["input_ids"].shape == (len(lengths), max(lengths))
    for row, mask, labels, length in zip(
        arrays["input_ids"], arrays["attention_mask"], arrays["labels"], lengths, strict=True
    ):
        assert row[mask == 1].tolist() == list(range(1, length + 1))
        assert set(row[mask == 0]) <= {99}
        assert set(labels[mask == 0]) <= {-100}


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 9))
def test_batches_by_length_hold_every_row_once(lengths: list[int], size: int) -> None:
    encoded = [Encoded({"input_ids": [0] * length}) for length in lengths]
    batches = length_batches(encoded, size)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= size for batch in batches)


def test_classification_decodes_and_scores(classify: Task) -> None:
    outputs = {"logits": np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])}
    batch = [Encoded({"input_ids": [1]}, target) for target in (0, 1, 1)]
    answers = classify.decode(outputs, batch)
    assert [one["label"] for one in answers] == ["negative", "positive", "negative"]
    assert answers[0]["score"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert sum(answers[1]["scores"].values()) == pytest.approx(1)
    scores = classify.score(classify.batch_statistics(outputs, batch))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx(2 / 3)
    assert classify.objective(scores) == scores["accuracy"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "", "label": "a"}, "'text' is empty"),
        ({"text": None, "label": "a"}, "'text' is missing"),
        ({"text": 3, "label": "a"}, "'text' is int"),
        ({"text": "x", "label": " "}, "'label' is empty"),
        ({"text": "x", "text_pair": "", "label": "a"}, "'text_pair' is empty"),
    ],
)
def test_rows_that_cannot_be_classified_are_reported(classify: Task, row: dict[str, Any], said: str) -> None:
    assert classify.check(row) == said or (classify.check(row) or "").startswith(said)


@pytest.mark.parametrize("value", [3, "", None, {"txt": "x"}, ["a", ""]])
def test_inputs_that_cannot_be_read_are_reported(classify: Task, value: Any) -> None:
    with pytest.raises(DataError, match="an input cannot be used"):
        classify.read_input(value)


def test_numbers_as_labels_keep_their_order() -> None:
    assert sorted_labels({"10", "9", "-1"}) == ["-1", "9", "10"]
    assert sorted_labels({"b", "10", "9"}) == ["10", "9", "b"]


def test_rows_of_tokens_are_checked_and_split() -> None:
    task = load_task("token_classification", {})
    row: dict[str, Any] = {"tokens": "Ann lives", "tags": "B-PER O"}
    assert task.check(row) is None
    assert row["tokens"] == ["Ann", "lives"]
    assert task.check({"tokens": "Ann lives", "tags": "O"}) == "2 tokens but 1 tags"
    assert task.check({"tokens": ["Ann", "lives"], "tags": ["O", " "]}) == "'tags' has an empty one at place 2"
    assert "no list" in str(task.check({"tokens": "", "tags": []}))
    assert task.read_input("Ann lives")["tokens"] == ["Ann", "lives"]
    with pytest.raises(DataError):
        task.read_input(5)
    with pytest.raises(DataError, match="all tags"):
        task.collect_labels([{"tags": ["O", "O"]}])


def test_a_language_models_loss_is_that_of_torch(tmp_path: Path) -> None:
    import torch

    spec = ModelSpec("scratch", "gpt2", dim=16, num_heads=2, num_layers=1, hidden_size=32, vocab_size=300)
    write_scratch(spec, ["the cat sat on the mat", "a dog ran"] * 5, tmp_path, "LMHeadModel")
    task = load_task("causal_lm", {})
    model = task.build(tmp_path).eval()
    batch = task.encoder(tmp_path)([{"text": "the cat sat"}, {"text": "a dog ran on the mat"}])
    arrays = task.collate(batch, targets=True)
    tensors = {name: torch.from_numpy(one) for name, one in arrays.items()}
    with torch.no_grad():
        outputs = model(**tensors)
    scores = task.score(task.batch_statistics({"logits": outputs.logits.numpy()}, batch))
    assert scores["loss"] == pytest.approx(float(outputs.loss), rel=1e-4)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    prompts = task.collate_prompts(batch)
    assert prompts["attention_mask"][0, 0] == 0  # padded on the left
    ids = np.array([[5, 6, 7, 8], [5, 0, 0, 0]])
    assert [one["tokens"] for one in task.decode({"ids": ids}, batch)] == [4, 2]


@pytest.mark.parametrize("name", ["text_classification", "token_classification", "causal_lm"])
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=r"task\.max_length"):
        load_task(name, {"max_length": 1})


def test_models_that_cannot_be_built_are_reported(tmp_path: Path, tiny_bert: Path) -> None:
    with pytest.raises(OptionError, match="no model from scratch is called 'brt'; did you mean 'bert'"):
        write_scratch(ModelSpec("scratch", "brt"), ["x"], tmp_path, "ForMaskedLM")
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
    with pytest.raises(ModelError, match=r"config\.json cannot be used"):
        build_model(tmp_path, "ForSequenceClassification", ["a", "b"])
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "evil.Config"}}')
    (tmp_path / "evil.py").write_text("raise SystemExit('a model folder ran its code')")
    with pytest.raises(ModelError, match="brings its own Python code, which is never run"):
        build_model(tmp_path, "ForSequenceClassification", ["a", "b"])
    with pytest.raises(ModelError, match=r"has no tokenizer: neither tokenizer\.json"):
        load_tokenizer(tmp_path, 8)


def test_the_same_seed_builds_the_same_head(tiny_bert: Path) -> None:
    import torch

    heads = []
    for _ in range(2):
        torch.manual_seed(5)
        model: Any = build_model(tiny_bert, "ForSequenceClassification", ["a", "b", "c"])
        heads.append(model.classifier.weight.clone())
    assert heads[0].shape[0] == 3
    assert torch.equal(*heads)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_rows_are_made_of_inputs_and_targets_or_taken_as_they_are() -> None:
    classify, tag = load_task("text_classification", {}), load_task("token_classification", {})
    expected = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    assert classify.make_rows(["a", "b"], ["x", "y"]) == expected == classify.make_rows(expected)
    assert classify.make_rows([("a", "b")], ["x"]) == [{"text": "a", "text_pair": "b", "label": "x"}]
    assert tag.make_rows(["a b"], [["O", "B-X"]]) == [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}]
    assert load_task("causal_lm", {}).make_rows(["a"], ["ignored"]) == [{"text": "a"}]
    for inputs, targets, said in (
        (["a"], None, "1 inputs but no labels"),
        (["a"], ["x", "y"], "1 inputs but 2 labels"),
    ):
        with pytest.raises(DataError, match=said):
            classify.make_rows(inputs, targets)
    with pytest.raises(DataError, match="2 inputs but no labels"):
        classify.make_rows([expected[0], {"text": "b"}])


@pytest.mark.parametrize("name", ["text_classification", "token_classification", "causal_lm", "pretraining"])
def test_every_task_has_all_declarations(name: str) -> None:
    task = load_task(name, {})
    assert task.metrics
    assert task.label_columns == tuple(column.name for column in task.columns if column.is_label)
    assert next(iter(task.input_tensors())).name == "text"
    assert task.warmup_inputs()


@given(st.lists(st.floats(-80, 80), min_size=1, max_size=9), st.integers(1, 3))
def test_probabilities_are_torchs(row: list[float], rows: int) -> None:
    import torch

    logits = np.array([row] * rows)
    assert np.allclose(softmax(logits), torch.from_numpy(logits).softmax(-1).numpy())
    assert np.allclose(log_softmax(logits), torch.from_numpy(logits).log_softmax(-1).numpy())
    assert softmax(logits.astype(np.float32)).dtype == np.float32
