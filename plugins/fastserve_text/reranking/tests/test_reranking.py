"""Scores of pairs: rows, the pairs of an epoch and of an evaluation, the loss, and the routes' shapes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional

from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import LossOptions, Task, load_task
from fastserve_text.embedding import mining
from fastserve_text.reranking.encoding import CANDIDATES, Candidate
from fastserve_text.reranking.metrics import compute_scores
from fastserve_text.reranking.routes import Rerank, RerankRequest

TASK = "reranking"


@pytest.fixture
def task() -> Task:
    return load_task(TASK, {"max_length": 32, "hard_negatives": 2, "random_negatives": 1})


def rows_of(task: Task, count: int = 6) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"query": f"which film {number}", "document": f"the film {number}"} for number in range(count)
    ]
    assert all(task.check(row) is None for row in rows)
    return rows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": " ", "document": "b"}, "'query' is empty"),
        ({"query": "a"}, "'document' is missing"),
        ({"query": "a", "document": "b", "score": "x"}, "'score' is not a finite number: 'x'"),
        ({"query": "a", "document": "b", "negative": ["b"]}, "'negative' is the same text as 'document' or 'query'"),
        ({"query": "a", "document": "b", "negative": "c", "score": 1}, "'score' and 'negative' are in one row"),
    ],
)
def test_rows_that_cannot_be_used_are_reported(task: Task, row: dict[str, Any], message: str) -> None:
    assert str(task.check(row)).startswith(message)


@pytest.mark.parametrize("value", ["a", ["a"], ["a", ""], {"query": "a"}, {"query": 1, "document": "b"}])
def test_inputs_that_cannot_be_used_are_refused(task: Task, value: Any) -> None:
    with pytest.raises(DataError, match="an input cannot be used"):
        task.read_input(value)


def test_options_without_any_negatives_are_refused() -> None:
    with pytest.raises(OptionError, match="not both 0"):
        load_task(TASK, {"hard_negatives": 0, "random_negatives": 0})


def test_an_epoch_has_every_right_document_and_its_mined_and_drawn_negatives(
    task: Task, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mining, "MAX_SHARE", 2.0)  # random weights take all texts for close ones
    rows, messages = rows_of(task), list[str]()
    scored = {"query": "a", "document": "b", "score": 0.5}
    assert task.check(scored) is None
    complete = task.complete_rows(rows, tiny_bert, messages.append)
    full = [complete(row) for row in [*rows, scored]]
    assert full == [task.complete_rows(rows, tiny_bert, messages.append)(row) for row in [*rows, scored]]
    assert full[-1] == scored and messages[0].startswith("hard negatives: 12 for 6 queries, of 6 documents")
    assert all(row["document"] not in row["negative"] and len(set(row["negative"])) == 3 for row in full[:-1])
    examples = task.examples(task.encoder(tiny_bert)(full), "0-0")
    assert [example.target for example in examples] == [1.0, 0.0, 0.0, 0.0] * 6 + [0.5]
    (right,) = task.encoder(tiny_bert)([task.read_input(["which film 1", "the film 1"])])
    assert list(examples[4].inputs["input_ids"]) == list(right.inputs["input_ids"])


def test_rows_without_labels_have_no_loss_and_are_compared_with_a_teacher(task: Task, tiny_bert: Path) -> None:
    unlabelled = {**task.read_input(["which film", "the film"]), "negative": None, "score": None}
    rows = [*rows_of(task, 1), unlabelled]
    batch = task.collate(task.examples(task.encoder(tiny_bert)(rows), "0-0"), targets=True)
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    logits = torch.tensor([[2.0], [5.0]])
    loss = task.loss({"logits": logits}, tensors, LossOptions())
    expected = functional.binary_cross_entropy_with_logits(torch.tensor(2.0), torch.tensor(1.0))
    assert loss.total.item() == pytest.approx(expected.item()) and loss.denominator == 2
    assert task.counted_positions(tensors).tolist() == [True, True]


def test_scores_of_any_scale_are_learnt_as_probabilities(task: Task, tiny_bert: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "a", "document": text, "score": value} for text, value in (("b", 5), ("c", 1))
    ]
    assert all(task.check(row) is None for row in rows)
    encoded = task.encoder(tiny_bert)(rows)
    task.fit_targets(one.target for one in encoded)
    batch = task.collate(task.examples(encoded, "0-0"), targets=True)
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    logits = torch.tensor([[0.3], [0.4]])
    expected = functional.binary_cross_entropy_with_logits(
        torch.tensor([0.3, 0.4]), torch.tensor([1.0, 0.2]), reduction="sum"
    )
    assert task.loss({"logits": logits}, tensors, LossOptions()).total.item() == pytest.approx(expected.item())


def test_a_query_is_evaluated_with_its_documents_and_others_of_the_split(task: Task, tiny_bert: Path) -> None:
    rows = rows_of(task, 40)
    rows[0]["negative"] = ["a story"]
    encode = task.encoder(tiny_bert)
    pairs = task.examples(encode(rows), "validation")
    assert len(pairs) == 40 * CANDIDATES
    assert [pair.decode_state for pair in pairs] == [
        pair.decode_state for pair in task.examples(encode(rows), "validation")
    ]
    assert sum(pair.target for pair in pairs) == 40
    outputs = {"logits": np.asarray([[float(pair.target)] for pair in pairs])}
    assert task.score(task.batch_statistics(outputs, pairs)) == {"ndcg10": 1.0, "mrr10": 1.0, "recall1": 1.0}


def test_a_model_that_tells_nothing_apart_gets_no_credit() -> None:
    pairs = [(Candidate("a", float(number == 0), False), 0.0) for number in range(CANDIDATES)]
    assert compute_scores(pairs) == {"ndcg10": 0.0, "mrr10": 0.0, "recall1": 0.0}
    scored = [(Candidate("a", 3.0, True), 1.0), (Candidate("b", 1.0, True), 0.5)]
    assert compute_scores(scored) == {"spearman": pytest.approx(1.0), "pearson": pytest.approx(1.0)}
    with pytest.raises(DataError, match="not defined on the validation split"):
        load_task(TASK, {}).objective({})


def test_answers_are_probabilities(task: Task, tiny_bert: Path) -> None:
    batch = task.encoder(tiny_bert)([task.read_input({"query": "a", "document": "b"})] * 2)
    answers = task.decode({"logits": np.asarray([[0.0], [-800.0]], dtype=np.float32)}, batch)
    assert [answer["score"] for answer in answers] == [0.5, pytest.approx(0)]


def test_both_shapes_of_a_request_are_answered_in_their_own() -> None:
    route, answers = Rerank(), [{"score": 0.2}, {"score": 0.8}]
    tei = msgspec.convert({"query": "q", "texts": ["a", "b"], "return_text": True, "raw_scores": True}, RerankRequest)
    assert route.inputs(tei) == [{"query": "q", "document": text} for text in "ab"]
    assert msgspec.to_builtins(route.response(tei, answers, "m")) == [
        {"index": 1, "score": pytest.approx(math.log(4)), "text": "b"},
        {"index": 0, "score": pytest.approx(-math.log(4)), "text": "a"},
    ]
    cohere = msgspec.convert(
        {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True, "model": "m"},
        RerankRequest,
    )
    assert msgspec.to_builtins(route.response(cohere, answers, "m")) == {
        "model": "m", "results": [{"index": 1, "relevance_score": 0.8, "document": {"text": "b"}}]
    }  # fmt: skip


@pytest.mark.parametrize(
    "body", [{"query": "q"}, {"query": "q", "texts": ["a"], "documents": ["b"]}, {"query": "q", "texts": []}]
)
def test_a_request_has_either_texts_or_documents(body: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, RerankRequest)


def test_a_text_that_was_cut_is_refused_if_the_request_says_so() -> None:
    body = msgspec.convert({"query": "q", "texts": ["a"], "truncate": False}, RerankRequest)
    with pytest.raises(DataError, match="longer than the model reads"):
        Rerank().response(body, [{"score": 0.5, "truncated": True}], "m")
