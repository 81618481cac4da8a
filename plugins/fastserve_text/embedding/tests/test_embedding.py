"""Vectors of texts: rows, pooling, losses and scores, against plain implementations of the same mathematics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from fastserve_core.errors import DataError, ModelError, OptionError
from fastserve_core.tasks import LossOptions, Task, load_task
from fastserve_text.embedding import mining
from fastserve_text.embedding.losses import SCALE, cosent_loss, ranking_loss
from fastserve_text.embedding.metrics import METRICS, find_objective, score_ranking
from fastserve_text.embedding.mining import add_negatives, mine_negatives
from fastserve_text.embedding.pooled_model import CHUNK_TEXTS, pool
from fastserve_text.embedding.sentence_settings import SentenceSettings

TASK = "embedding"
PAIR = {"text": "a moving film", "positive": "a film that moves"}


@pytest.fixture
def task() -> Task:
    return load_task(TASK, {"max_length": 16})


def tensors(task: Task, rows: list[dict[str, Any]], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs and the targets of a training batch."""
    arrays = task.collate(task.encoder(folder)(rows), targets=True)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {name: batch[name] for name in batch if name not in task.target_names}, batch


# -- rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " ", "positive": "b"}, "'text' is empty"),
        ({"text": "a"}, "'positive' is missing"),
        ({"text": "a", "positive": "b", "score": "high"}, "'score' is not a finite number: 'high'"),
        ({"text": "a", "positive": "b", "score": math.inf}, "'score' is not a finite number"),
        ({"text": "a", "positive": "b", "score": 1, "negative": "c"}, "'score' and 'negative' are in one row"),
        ({"text": "a", "positive": "b", "negative": ["c", ""]}, "'negative' is empty"),
        ({"text": "a", "positive": "b", "negative": 7}, "'negative' is int"),
        ({"text": "a", "positive": "b", "negative": "b"}, "'negative' is the same text"),
    ],
)
def test_rows_that_cannot_be_used_are_reported(task: Task, row: dict[str, Any], message: str) -> None:
    assert str(task.check(row)).startswith(message)


def test_rows_get_one_form_whatever_their_columns(task: Task) -> None:
    row = {"text": "a", "positive": "b", "negative": {"negative_1": "c", "negative_2": None}, "score": None}
    assert task.check(row) is None
    assert row == {"text": "a", "positive": "b", "negative": ["c"]}
    row = {"text": "a", "positive": "b", "negative": "", "score": "3.8"}
    assert task.check(row) is None
    assert row == {"text": "a", "positive": "b", "score": 3.8}


@pytest.mark.parametrize("value", ["", " \n", {"text": None}, [], [-1], ["a"], [True], {"text": "a", "prompt_name": 1}])
def test_inputs_that_cannot_be_used_are_refused(task: Task, value: Any) -> None:
    with pytest.raises(DataError, match="an input cannot be used"):
        task.read_input(value)


def test_token_ids_are_inputs_like_texts(task: Task, tiny_bert: Path) -> None:
    encode = task.encoder(tiny_bert)
    (text,) = encode([task.read_input("a moving film")])
    (ids,) = encode([task.read_input(list(text.inputs["input_ids"][1:-1]))])
    assert ids.inputs == text.inputs
    (cut,) = encode([task.read_input([7] * 100)])
    assert len(cut) == 16 and cut.truncated
    with pytest.raises(DataError, match="has the token 9999, but the vocabulary has"):
        encode([task.read_input([9999])])


def test_texts_of_any_length_are_cut_and_marked(task: Task, tiny_bert: Path) -> None:
    (encoded,) = task.encoder(tiny_bert)([task.read_input("film " * 10_000)])
    assert len(encoded) == 16 and encoded.truncated


def test_prompts_stand_before_queries_and_documents(tiny_bert: Path) -> None:
    plain = load_task(TASK, {"max_length": 32})
    task = load_task(TASK, {"max_length": 32, "query_prompt": "query: ", "document_prompt": "passage: "})
    encode, expected = task.encoder(tiny_bert), plain.encoder(tiny_bert)
    asked = encode([task.read_input({"text": "a film", "prompt_name": "query"}), task.read_input("a film")])
    wanted = expected([plain.read_input("query: a film"), plain.read_input("a film")])
    assert [one.inputs for one in asked] == [one.inputs for one in wanted]
    row = {"text": "a film", "positive": "a story", "negative": ["a match"]}
    prompted = {"text": "query: a film", "positive": "passage: a story", "negative": ["passage: a match"]}
    assert encode([row])[0].inputs == expected([prompted])[0].inputs
    with pytest.raises(DataError, match="has no prompt 'querry'; did you mean 'query'"):
        encode([task.read_input({"text": "a film", "prompt_name": "querry"})])


# -- the model ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2))
def test_pooling_reads_the_tokens_and_not_the_padding(lengths: list[int], more: int) -> None:
    longest = max(lengths) + more
    hidden = torch.randn(len(lengths), longest, 3)
    mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
    rows = [hidden[number, :length] for number, length in enumerate(lengths)]
    expected = {"mean": [row.mean(0) for row in rows], "cls": [row[0] for row in rows],
                "max": [row.amax(0) for row in rows], "last": [row[-1] for row in rows]}  # fmt: skip
    for name, vectors in expected.items():
        torch.testing.assert_close(pool(hidden, mask, name), torch.stack(vectors))


@pytest.mark.slow(3)
def test_a_large_batch_is_computed_in_chunks_with_the_same_vectors_and_gradients(task: Task, tiny_bert: Path) -> None:
    model: Any = task.build(tiny_bert).eval()
    rows = [{"text": f"film {'x ' * (number % 9)}{number}", "positive": f"story {number}"} for number in range(40)]
    inputs, batch = tensors(task, rows, tiny_bert)
    assert len(inputs["input_ids"]) > 2 * CHUNK_TEXTS
    found = []
    for is_training, is_recomputed in ((False, False), (True, False), (True, True)):
        model.train(is_training)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if is_recomputed:
            model.gradient_checkpointing_enable()
        outputs = model(**inputs)
        assert (outputs.last_hidden_state is None) is is_training
        loss, count = task.loss(outputs, batch, LossOptions())
        model.zero_grad()
        loss.backward()
        found.append((outputs["embedding"].detach(), loss.detach(), model.embeddings.word_embeddings.weight.grad))
    assert count == 80  # a teacher is compared on each text
    for other in found[1:]:
        for value, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_a_saved_model_is_one_of_transformers_and_keeps_its_pooling(tiny_bert: Path, tmp_path: Path) -> None:
    task = load_task(TASK, {"max_length": 16, "pooling": "cls", "query_prompt": "q: "})
    model: Any = task.build(tiny_bert).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]
    again = load_task(TASK, {})
    batch = {"input_ids": torch.randint(5, 90, (2, 6))}
    vectors = again.build(tmp_path).eval()(**batch)["embedding"]
    torch.testing.assert_close(vectors, model(**batch).last_hidden_state[:, 0])
    assert again.read_settings(tmp_path).prompts == {"query": "q: "}


def test_the_files_of_sentence_transformers_are_written_and_read(task: Task, tiny_bert: Path, tmp_path: Path) -> None:
    settings = SentenceSettings("last", False, {"query": "q: "}, "query")
    (tmp_path / "config.json").write_text("{}")
    settings.write_component(tmp_path)
    settings.write_modules(tmp_path, 32, 16)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text("{}")  # the files alone
    assert SentenceSettings.read(tmp_path) == settings
    assert config["fastserve_parts"][0]["pooling"] == "last"
    (tmp_path / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 32, "pooling_mode": "cls"}')
    assert SentenceSettings.read(tmp_path).pooling == "cls"


def test_results_have_the_files_of_sentence_transformers_beside_weights_alone(
    task: Task, tiny_bert: Path, tmp_path: Path
) -> None:
    for name, has_weights in (("weights", True), ("engine", False)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text((tiny_bert / "config.json").read_text())
        if has_weights:
            (folder / "model.safetensors").write_bytes((tiny_bert / "model.safetensors").read_bytes())
        task.complete_artifact(folder, tiny_bert)
        assert (folder / "modules.json").is_file() is has_weights
        assert SentenceSettings.read(folder) == SentenceSettings()
        assert json.loads((folder / "config.json").read_text())["fastserve_parts"]
    assert task.accepts_model("BertModel") and not task.accepts_model("BertForSequenceClassification")


@pytest.mark.parametrize(
    ("pooling", "module", "message"),
    [
        ({"pooling_mode_weightedmean_tokens": True}, "Pooling", "pools by weightedmean_tokens, which is not supported"),
        ({"pooling_mode": ["mean", "cls"]}, "Pooling", "pools by mean and cls"),
        ({"pooling_mode": "mean", "include_prompt": False}, "Pooling", "leaves the prompts out"),
        ({"pooling_mode": "mean"}, "Dense", "has the module Dense, which is not supported"),
        ({"pooling_mode": "mean"}, "LSTM", "has the module LSTM, which is not supported"),
    ],
)
def test_other_modules_and_poolings_are_refused_by_name(
    pooling: dict[str, Any], module: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    SentenceSettings(prompts={"query": "q: "}).write_modules(tmp_path, 32, 16)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[1]["type"] = f"sentence_transformers.models.{module}"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(ModelError, match=message):
        SentenceSettings.read(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "average"}, "task.pooling must be one of mean, cls, max, last, not 'average'"),
        ({"pair_loss": "cosine"}, "task.pair_loss must be one of ranking, triplet"),
        ({"widths": [0]}, "must be at least 1"),
        ({"metric": "spearmann"}, "did you mean 'spearman'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_task(TASK, options)


@pytest.mark.parametrize("options", [{"widths": [32]}, {"widths": [16], "dimensions": 8}, {"dimensions": 16}])
def test_lengths_that_the_model_is_not_trained_for_are_refused(options: dict[str, Any], tiny_bert: Path) -> None:
    with pytest.raises(OptionError, match="32"):
        load_task(TASK, {"max_length": 16, **options}).check_model(tiny_bert)


# -- learning ----------------------------------------------------------------------------------------


def unit_vectors(count: int) -> torch.Tensor:
    return functional.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(count)), dim=-1)


def test_ranking_compares_with_every_other_text_but_those_that_are_close() -> None:
    unit = unit_vectors(7)
    # rows: 0 → 3, 1 → 4, and the first text again → 5; 6 is a further negative, 5 the same text as the anchor 1
    anchors, positives = torch.tensor([0, 1, 0]), torch.tensor([3, 4, 5])
    found = ranking_loss(unit, anchors, positives, torch.tensor([6]), torch.tensor([-1, 5, -1]))
    logits = SCALE * unit @ unit.T
    rows = [(0, 3, [3, 4, 6]), (1, 4, [3, 4, 6]), (0, 5, [4, 5, 6])]
    expected = sum(torch.logsumexp(logits[a, docs], 0) - logits[a, own] for a, own, docs in rows)
    torch.testing.assert_close(found, torch.as_tensor(expected))


def test_scored_pairs_are_brought_into_the_order_of_their_scores() -> None:
    similarities, scores = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([1.0, 3.0, 3.0])
    expected = 3 * math.log(1 + math.exp(SCALE * 0.8) + math.exp(SCALE * 0.4))
    assert cosent_loss(similarities, scores).item() == pytest.approx(expected, rel=1e-5)
    assert cosent_loss(similarities, torch.ones(3)).item() == 0


@pytest.mark.slow(2)
@pytest.mark.parametrize("options", [{}, {"pair_loss": "triplet", "score_loss": "cosine", "widths": [16, 8]}])
@pytest.mark.parametrize(
    "rows",
    [
        [PAIR],
        [PAIR, PAIR, {"text": "x", "positive": None}],
        [{"text": "x", "positive": None}],
        [{**PAIR, "negative": ["a match", "a win"]}, {**PAIR, "score": 2.0}, {**PAIR, "score": 4.0}],
    ],
)
def test_every_kind_of_row_has_a_finite_loss_and_gradient(
    options: dict[str, Any], rows: list[dict[str, Any]], tiny_bert: Path
) -> None:
    task = load_task(TASK, {"max_length": 16, **options})
    model: Any = task.build(tiny_bert).train()
    task.fit_targets(one.target for one in task.encoder(tiny_bert)(rows))
    inputs, batch = tensors(task, rows, tiny_bert)
    loss, count = task.loss(model(**inputs), batch, LossOptions())
    loss.backward()
    assert count == len(inputs["input_ids"]) and math.isfinite(loss.item())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# -- scores and answers ------------------------------------------------------------------------------


def score(task: Task, rows: list[dict[str, Any]], vectors: dict[str, list[float]], folder: Path) -> dict[str, float]:
    """The scores of rows whose texts have these vectors."""
    texts = task.examples(task.encoder(folder)(rows), "validation")
    known = {tuple(one.inputs["input_ids"]): text for text, one in zip(
        vectors, task.encoder(folder)([{"text": text} for text in vectors]), strict=True)}  # fmt: skip
    outputs = np.asarray([vectors[known[tuple(map(int, text.inputs["input_ids"]))]] for text in texts])
    return task.score(task.batch_statistics({"embedding": outputs}, texts))


def test_queries_are_ranked_among_the_documents_of_all_rows(task: Task, tiny_bert: Path) -> None:
    rows = [{"text": "film", "positive": "a film", "negative": ["match"]}, {"text": "film", "positive": "the film"},
            {"text": "story", "positive": "a story"}]  # fmt: skip
    vectors = {"film": [1.0, 0.0], "a film": [0.9, 0.1], "match": [0.8, 0.2], "the film": [0.7, 0.3],
               "story": [0.0, 1.0], "a story": [-1.0, 0.0]}  # fmt: skip
    found = score(task, rows, vectors, tiny_bert)
    first = score_ranking([True, False, True, False], 2)  # "film" finds "a film", "match", "the film"
    second = score_ranking([False, False, False, True], 1)  # "story" finds "the film", "match", "a film", "a story"
    assert found == {name: pytest.approx((first[name] + second[name]) / 2) for name in first}
    assert first["ndcg10"] == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3)))
    assert (second["mrr10"], second["recall10"], second["recall1"]) == (0.25, 1.0, 0.0)


def test_similarities_are_correlated_with_the_scores(task: Task, tiny_bert: Path) -> None:
    rows = [{"text": "film", "positive": text, "score": value} for text, value in (("a", 5), ("b", 3), ("c", 1))]
    vectors = {"film": [1.0, 0.0], "a": [3.0, 0.3], "b": [0.1, 0.9], "c": [0.2, 0.8]}
    found = score(task, rows, vectors, tiny_bert)
    assert found["spearman"] == pytest.approx(0.5) and set(found) == {"spearman", "pearson"}
    assert task.objective(found) == found["spearman"]
    with pytest.raises(DataError, match="not defined on the validation split"):
        task.objective({})


def test_answers_are_cut_and_normalized_as_asked(tiny_bert: Path) -> None:
    task = load_task(TASK, {"max_length": 16, "widths": [2]})
    batch = task.encoder(tiny_bert)([task.read_input("a film")])
    outputs = {"embedding": np.asarray([[3.0, 4.0, 12.0]])}
    for options, expected in (
        ({}, [3 / 13, 4 / 13, 12 / 13]),
        ({"normalize": False}, [3.0, 4.0, 12.0]),
        ({"dimensions": 2}, [0.6, 0.8]),
    ):
        (answer,) = task.with_options(options).decode(outputs, batch)
        assert answer["embedding"] == pytest.approx(expected)


def test_hard_negatives_are_close_but_neither_right_nor_as_close(tiny_bert: Path) -> None:
    corpus = {"a": [1.0, 0.0], "right": [0.8, 0.6], "as right": [0.79, 0.613], "close": [0.6, 0.8], "far": [0.0, 1.0]}
    unit = {text: np.asarray(vector) for text, vector in corpus.items()}
    rows = [{"text": "a", "positive": "right"}, {"text": "b", "positive": "as right", "negative": ["close", "far"]},
            {"text": "c", "positive": "a"}, {"text": "d", "positive": "x", "score": 1.0}]  # fmt: skip
    messages: list[str] = []

    def embed(texts: Any, is_query: bool) -> Any:
        return np.stack([unit.get(text, np.asarray([1.0, 0.0])) for text in texts])

    mined = mine_negatives(rows, 2, embed, messages.append)
    assert mined["a"] == ["close", "far"] and "d" not in mined
    assert add_negatives(rows[0], mined, 1)["negative"] == ["close"]
    assert add_negatives(rows[1], mined, 1)["negative"] == ["close", "far"]
    assert add_negatives(rows[3], mined, 1) == rows[3]
    assert messages[0].startswith("hard negatives: ")
    mine_negatives(rows[3:], 2, embed, messages.append)
    assert messages[1] == "no hard negatives are mined: all rows have scores"


def test_rows_are_completed_by_the_model_that_is_trained(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "MAX_SHARE", 2.0)  # random weights take all texts for close ones
    task = load_task(TASK, {"max_length": 16, "hard_negatives": 2})
    rows = [{"text": f"which film {number}", "positive": f"the film {number}"} for number in range(8)]
    complete = task.complete_rows(rows, tiny_bert, print)
    assert task.completes_rows and not load_task(TASK, {}).completes_rows
    assert all(len(complete(row)["negative"]) == 2 for row in rows)


def test_the_first_defined_score_decides_and_a_missing_one_is_reported() -> None:
    scores = {"mrr10": 0.5, "ndcg10": 0.7}
    assert find_objective(scores, None, METRICS) == 0.7
    assert find_objective(scores, "mrr10", METRICS) == 0.5
    with pytest.raises(DataError, match=r"task\.metric=pearson is not defined on the validation split"):
        find_objective(scores, "pearson", METRICS)
