"""Recommendations: the loss, the scores over all items, answers, routes, and models that learn."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.artifacts import MANIFEST, TRAINABLE, Manifest, hash_files, write_manifest
from fastserve_core.config import ModelSpec
from fastserve_core.errors import DataError, ModelError, OptionError
from fastserve_core.inference import Predictor
from fastserve_core.tasks import LossOptions, Task, load_task
from fastserve_recommendation.baselines import Baselines
from fastserve_recommendation.ranking import RowRanks, best_items, probabilities, rank_target, score_ranks
from fastserve_recommendation.routes import Recommend, RecommendRequest
from fastserve_recommendation.sampled_softmax import SampledSoftmax, sample_candidates
from fastserve_recommendation.vocabulary import FIRST_ITEM, Vocabulary

SIZES: dict[str, Any] = {"dim": 16, "num_heads": 2, "num_layers": 1, "hidden_size": 32, "max_positions": 8}
RING = 12
OPTIONS = {"max_length": 6, "negatives": 0, "dropout": 0.0}


def ring_rows() -> list[dict[str, Any]]:
    """Users who walk along a ring of items."""
    return [
        {"user_id": f"u{start}{length}", "items": [f"i{(start + step) % RING}" for step in range(length)],
         "next": f"i{(start + length) % RING}"}
        for start in range(RING) for length in range(1, 6)
    ]  # fmt: skip


def fit(task: Task, folder: Path, rows: Sequence[dict[str, Any]], steps: int) -> Any:
    """Return the model of a folder after some steps on all rows."""
    torch.manual_seed(0)
    model: Any = task.build(folder).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    encoded = task.encoder(folder)(rows)
    for step in range(steps):
        arrays = task.collate(task.examples(encoded, str(step)), targets=True)
        batch = {key: torch.from_numpy(value) for key, value in arrays.items()}
        total, count = task.loss(model(**batch), batch, LossOptions())
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    return model


def train(folder: Path, name: str, steps: int, **options: Any) -> Task:
    """Write a tiny trained model as an artifact."""
    task = load_task("next_item", {**OPTIONS, **options})
    folder.mkdir(parents=True)
    task.init_from_scratch(ModelSpec("scratch", name, vocab_size=1000, **SIZES), ring_rows(), folder)
    task.check_model(folder)
    fit(task, folder, ring_rows(), steps).save_pretrained(folder)
    runtime = {"engine": "torch", "form": TRAINABLE}
    lineage = ({"stage": "train", "plugin": "torch_ddp", "data": "abc"},)
    files = hash_files(folder, exclude=[MANIFEST])
    write_manifest(folder, Manifest("next_item", vars(task.options), (), runtime, lineage, files))
    return task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ring") / "model"
    train(path, "sasrec", 60)
    return path


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor(folder, threads=1)


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["id"] for item in answer["items"]]


# -- the loss ----------------------------------------------------------------------------------------


def test_the_loss_of_all_items_is_that_of_torch() -> None:
    torch.manual_seed(0)
    queries, items = torch.randn(7, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    targets = torch.tensor([0, 8, 3, 3, 1, 5, 0])
    losses = [
        SampledSoftmax.apply(queries, items, targets, None),
        torch.nn.functional.cross_entropy(queries @ items.T, targets, reduction="sum"),
    ]
    gradients = [torch.autograd.grad(2 * loss, (queries, items)) for loss in losses]
    assert torch.allclose(*losses, atol=1e-4)
    assert all(torch.allclose(own, other, atol=1e-4) for own, other in zip(*gradients, strict=True))


def test_a_sampled_partition_is_unbiased() -> None:
    """The mean over samples of the sum of exponentials is that over all items."""
    torch.manual_seed(1)
    scores, shares = torch.randn(50), torch.full((50,), 0.02)
    targets, totals = torch.tensor([3, 3, 7]), []
    for _ in range(2000):
        others = torch.multinomial(shares, 2, replacement=True)
        batch = torch.cat([targets[:1], others])
        candidates, columns, log_chances = sample_candidates(batch, shares, 20)
        assert torch.equal(candidates[columns], batch)
        is_other = candidates != batch[0]
        totals.append(float((scores[candidates] - log_chances).exp()[is_other].sum()))
    expected = float(scores.exp().sum() - scores[3].exp())
    assert math.isclose(float(np.mean(totals)), expected, rel_tol=0.1)


# -- scores ------------------------------------------------------------------------------------------

SCORES = st.lists(st.integers(-3, 3), min_size=FIRST_ITEM + 1, max_size=12).map(np.float32)
HIDDEN = st.sets(st.integers(FIRST_ITEM, 11), max_size=4)


@given(SCORES, HIDDEN, st.integers(1, 15))
def test_the_best_items_are_those_of_a_full_sort(scores: Any, hidden: set[int], count: int) -> None:
    hidden = {number for number in hidden if number < len(scores)}
    ranked = sorted((n for n in range(FIRST_ITEM, len(scores)) if n not in hidden), key=lambda n: (-scores[n], n))
    assert best_items(scores, count, hidden) == ranked[:count]
    assert math.isclose(sum(probabilities(scores, range(FIRST_ITEM, len(scores)))), 1, rel_tol=1e-5)


@given(SCORES, HIDDEN, st.data())
def test_a_rank_counts_all_items_that_are_not_worse(scores: Any, hidden: set[int], data: st.DataObject) -> None:
    hidden = {number for number in hidden if number < len(scores)}
    target = data.draw(st.integers(FIRST_ITEM, len(scores) - 1))
    others = [n for n in range(FIRST_ITEM, len(scores)) if n != target and n not in hidden]
    assert rank_target(scores, target, hidden) == sum(bool(scores[n] >= scores[target]) for n in others)
    assert rank_target(scores, 0, hidden) is None


def test_scores_are_those_of_the_definitions() -> None:
    scores = score_ranks(
        [RowRanks(0, (0, None)), RowRanks(9, (3, 1)), RowRanks(10, (99, 2)), RowRanks(None, (None, 0))]
    )
    assert scores["hr10"] == 0.5 and scores["hr20"] == 0.75 and scores["mrr10"] == pytest.approx(1.1 / 4)
    assert scores["ndcg10"] == pytest.approx((1 + 1 / math.log2(11)) / 4)
    assert scores["popularity_hr10"] == 0.5 and scores["item_knn_hr10"] == 0.75


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=6, unique=True), min_size=2, max_size=8), st.booleans()
)
def test_the_ranks_of_the_baselines_are_those_of_dense_matrices(users: list[list[int]], filter_seen: bool) -> None:
    rows = [{"items": [str(item) for item in items[:-1]], "next": str(items[-1])} for items in users]
    baselines = Baselines(rows, filter_seen)
    names = sorted(baselines.numbers, key=baselines.numbers.__getitem__)
    seen = np.array([[name in (*row["items"], row["next"]) for name in names] for row in rows], dtype=float)
    cosine = seen.T @ seen / np.sqrt(np.outer(seen.sum(0), seen.sum(0)))
    np.fill_diagonal(cosine, 0)
    for row in baselines.add_ranks(rows):
        history = np.array([name in row["items"] for name in names], dtype=float)
        scores, target = (history @ cosine).astype(np.float32), names.index(row["next"])
        others = [n for n in range(len(names)) if n != target and not (filter_seen and history[n])]
        assert row["popularity"] == sum(n < target for n in others)
        close = [n for n in others if abs(scores[n] - scores[target]) < 1e-5]
        above = sum(scores[n] > scores[target] for n in others if n not in close)
        assert above <= row["item_knn"] <= above + len(close)


# -- answers -----------------------------------------------------------------------------------------


@pytest.mark.slow(8)
@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_both_models_learn_the_next_item(tmp_path: Path, folder: Path, name: str) -> None:
    if name == "bert4rec":
        folder = tmp_path / "model"
        train(folder, name, 100)
    predictor = Predictor(folder, threads=1)
    answers = predictor.predict([{"items": ["i3", "i4"], "k": 1}, ["i10", "i11"]])
    assert ids(answers[0]) == ["i5"] and ids(answers[1])[0] == "i0"
    scores = predictor.score([{"items": ["i1", "i2"], "next": "i3"}, {"items": ["i1"], "next": "i99"}])
    assert scores["hr10"] == 0.5 and "popularity_hr10" not in scores


def test_an_input_alone_is_answered_as_in_a_batch(predictor: Predictor) -> None:
    inputs = [["i1"], ["i1", "i2", "i3"], ["i5", "i6", "i7", "i8", "i9"]]
    for together, value in zip(predictor.predict(inputs), inputs, strict=True):
        alone = predictor.predict([value])[0]
        assert ids(alone) == ids(together)
        assert [one["score"] for one in alone["items"]] == pytest.approx(
            [one["score"] for one in together["items"]], 1e-4
        )


def test_answers_are_as_described(predictor: Predictor) -> None:
    task, answers = predictor.task, predictor.predict([["i1", "x", 7, "x"], ["x"], []])
    for answer in answers:
        jsonschema.validate(answer, task.answer_schema())
    assert [answer["unknown"] for answer in answers] == [["x", "7"], ["x"], []]
    assert [answer["basis"] for answer in answers] == ["model", "popularity", "popularity"]
    assert ids(answers[1]) == predictor.task._vocabulary.ids[:10]  # type: ignore[attr-defined]
    assert "skipped x, 7" in task.format_answer(answers[0]) and "by popularity" in task.format_answer(answers[1])


def test_seen_items_are_left_out_by_option_and_k_may_exceed_the_items(predictor: Predictor) -> None:
    history = ["i1", "i2"]
    kept = predictor.predict([history], parameters={"filter_seen": False, "k": 99})[0]
    left_out = predictor.predict([history], parameters={"top_k": 99})[0]
    assert set(ids(kept)) == {f"i{number}" for number in range(RING)}
    assert set(ids(kept)) - set(ids(left_out)) == set(history)
    assert sum(item["score"] for item in kept["items"]) == pytest.approx(1, rel=1e-4)
    for value in ({"items": "i1, i2", "k": "3"}, '{"items": ["i1", "i2"], "k": 3}'):
        assert ids(predictor.predict([value])[0]) == ids(left_out)[:3]
    columns = predictor.task.answer_columns(left_out)
    assert json.loads(columns["recommended"]) == ids(left_out) and columns["basis"] == "model"


def test_items_before_those_that_the_model_reads_are_reported_and_filtered(predictor: Predictor) -> None:
    answer = predictor.predict([[f"i{number}" for number in range(8)]])[0]
    assert answer["truncated"] and not {f"i{number}" for number in range(8)} & set(ids(answer))


def test_a_server_can_warm_up_before_the_model_is_read(predictor: Predictor) -> None:
    predictor.warmup(load_task("next_item", {}).warmup_inputs())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"k": 3}, "'items' is missing"),
        ({"user_id": "1", "item_id": "2"}, "one row for each user"),
        ({"items": ["a"], "k": 0}, "'k' must be a whole number"),
        ({"items": ["a"], "k": "many"}, "'k' must be a whole number"),
        ({"items": {"a": 1}}, "'items' is dict"),
        ('{"items": [', "it is not valid JSON"),
    ],
)
def test_inputs_that_cannot_be_used_are_refused(predictor: Predictor, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predictor.predict([value])


def test_the_route_answers_one_history(predictor: Predictor) -> None:
    body, route = RecommendRequest(["i1", "y"], 2), Recommend()
    response = route.response(body, predictor.predict(route.inputs(body)), "ring")
    assert response.items[0].id == "i2" and len(response.items) == 2
    assert (response.unknown, response.basis, response.model) == (["y"], "model", "ring")


# -- models ------------------------------------------------------------------------------------------


@pytest.mark.slow(25)
def test_engines_give_the_scores_of_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTSERVE_HOME", str(tmp_path))
    inputs = [["i1", "i2", "i3"], ["i7"]]
    expected = Predictor(folder, threads=1).predict(inputs)
    for name in ("openvino", "onnxruntime"):
        answers = Predictor(folder, threads=1, engine=name).predict(inputs)
        assert [ids(one)[:3] for one in answers] == [ids(one)[:3] for one in expected]
        assert answers[0]["items"][0]["score"] == pytest.approx(expected[0]["items"][0]["score"], rel=0.05)


def test_another_model_is_refused(tmp_path: Path, folder: Path) -> None:
    task = load_task("next_item", OPTIONS)
    with pytest.raises(ModelError, match="choose model=sasrec or model=bert4rec"):
        task.check_model(tmp_path)
    with pytest.raises(ModelError, match=r"task.max_length=9, but the model reads 8 items"):
        load_task("next_item", {"max_length": 9}).check_model(folder)
    with pytest.raises(OptionError, match="no model called 'sasrek': choose .*; did you mean 'sasrec'"):
        task.init_from_scratch(ModelSpec("scratch", "sasrek", **SIZES), ring_rows(), tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 2}))
    (tmp_path / "vocab_counts.json").write_text("[1, 2]")
    with pytest.raises(ModelError, match="damaged or of different models"):
        Vocabulary.load(tmp_path)


def test_the_item_table_is_one_that_compressors_code_finer(folder: Path) -> None:
    task = load_task("next_item", OPTIONS)
    model: Any = task.build(folder)
    assert [model.get_submodule(name) for name in task.compared_tables] == [model.get_input_embeddings()]


def test_the_vocabulary_keeps_the_most_frequent_items(tmp_path: Path) -> None:
    Vocabulary.learn(["b", "ü", "ü", "a", "b", "c"], 3).save(tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert (loaded.ids, loaded.counts) == (["b", "ü", "a"], [2, 2, 1])
    assert load_task("next_item", {}).unknown_share(tmp_path, [{"items": ["c", "a"]}]) == 0.5


@pytest.mark.parametrize(
    "options", [{"max_length": 1}, {"k": 0}, {"negatives": -1}, {"dropout": 1.0}, {"mask_ratio": 0.0}, {"kk": 1}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        load_task("next_item", options)
