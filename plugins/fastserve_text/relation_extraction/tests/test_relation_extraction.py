"""Entities and their relations from one pass: learnt, with exact characters, in texts of any length."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from tiny_training import train_tiny

from fastserve_core.errors import DataError, OptionError
from fastserve_core.inference import Predictor
from fastserve_core.tasks import CALIBRATION_FILE, LossOptions, Task, Triple, load_task
from fastserve_text.relation_extraction.encoding import EntityWords, split_at_entities, tag_words
from fastserve_text.relation_extraction.pair_scores import score_pairs
from fastserve_text.relation_extraction.triple_scores import RowStatistics, best_threshold, score_rows

NAME = "relation_extraction"
ROLES = {"ann": "boss_of", "bob": "boss_of", "carl": "works_for", "dora": "works_for", "emil": ""}
FIRMS = ("acme", "globex", "initech", "umbra")
FILLERS = ("today", "and", "here", "often", "maybe")
OPTIONS = {"max_length": 32, "stride": 8, "pair_width": 4}


def facts(count: int, seed: int, parts: int = 1, gap: int = 4) -> list[dict[str, Any]]:
    """Rows of ``ann at acme`` or ``acme and ann`` among other words; the person names the relation."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words: list[str] = []
        entities: list[list[Any]] = []
        relations: list[list[Any]] = []
        for number in range(0, 2 * parts, 2):
            names = [(draw.choice(list(ROLES)), "person"), (draw.choice(FIRMS), "firm")]
            draw.shuffle(names)
            words += draw.choices(FILLERS, k=gap)
            for name, kind in names:
                start = len(" ".join(words)) + 1
                entities.append([start, start + len(name), kind])
                words += [name, draw.choice(FILLERS)]
            person = 0 if names[0][1] == "person" else 1
            if relation := ROLES[names[person][0]]:
                relations.append([number + person, number + 1 - person, relation])
        rows.append({"text": " ".join(words), "entities": entities, "relations": relations})
    return rows


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that has learnt the sentences."""
    rows = [row for gap in (1, 4, 12, 25) for row in facts(80, seed=gap, gap=gap)]
    task = load_task(NAME, OPTIONS)
    assert [task.check(row) for row in rows] == [None] * len(rows)
    task = load_task(NAME, OPTIONS, task.collect_labels(rows))
    assert task.labels == ["entity:firm", "entity:person", "relation:boss_of", "relation:works_for"]
    return train_tiny(task, rows, tmp_path_factory.mktemp("facts"), epochs=12)


@pytest.fixture(scope="module")
def predictor(artifact: Path) -> Predictor:
    return Predictor(artifact, threads=1)


def find_facts(answer: dict[str, Any]) -> set[tuple[int, int, str]]:
    """Return the relations of an answer by the characters at which their entities begin."""
    starts = [entity["start"] for entity in answer["entities"]]
    return {(starts[one["head"]], starts[one["tail"]], one["relation"]) for one in answer["relations"]}


def true_facts(row: dict[str, Any]) -> set[tuple[int, int, str]]:
    return {(row["entities"][head][0], row["entities"][tail][0], name) for head, tail, name in row["relations"]}


@pytest.mark.slow(2)
def test_entities_and_relations_are_learnt(predictor: Predictor) -> None:
    rows = facts(50, seed=1)
    answers = predictor.predict([row["text"] for row in rows])
    right = sum(find_facts(answer) == true_facts(row) for answer, row in zip(answers, rows, strict=True))
    assert right > 40
    scores = predictor.score(rows)
    assert set(scores) == set(predictor.task.metrics)
    assert predictor.task.objective(scores) == scores["triple_f1"] > 0.9


@pytest.mark.slow(1)
def test_long_texts_are_read_in_windows_and_scored_as_one(predictor: Predictor) -> None:
    rows = facts(6, seed=2, parts=12, gap=34)
    answers = predictor.predict([row["text"] for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert all(row["text"][one["start"] : one["end"]] == one["text"] for one in answer["entities"])
        assert len(find_facts(answer) & true_facts(row)) > 0.8 * len(true_facts(row))
        assert "truncated" not in answer
    found = [len(find_facts(answer) & true_facts(row)) for row, answer in zip(rows, answers, strict=True)]
    total = sum(len(find_facts(answer)) + len(true_facts(row)) for row, answer in zip(rows, answers, strict=True))
    assert predictor.score(rows)["triple_f1"] == pytest.approx(2 * sum(found) / total)


def test_an_answer_has_entities_relations_and_triples(predictor: Predictor) -> None:
    text = "here\u3000And\n acme here Carl\u200b maybe"
    (answer,) = predictor.predict([text])
    jsonschema.validate(answer, predictor.task.answer_schema())
    assert [text[one["start"] : one["end"]] for one in answer["entities"]] == [
        one["text"] for one in answer["entities"]
    ]
    assert answer["triples"] == [["Carl\u200b", "works_for", "acme"]]
    (relation,) = answer["relations"]
    assert (relation["head"], relation["tail"]) == (1, 0)
    fact = Triple("Carl\u200b", "works_for", "acme", relation["score"], "person", "firm")
    assert predictor.task.triples(answer) == [fact]
    assert predictor.task.format_answer(answer) == "Carl\u200b | works_for | acme"
    assert predictor.predict([{"tokens": ["acme", "today", "bob"]}])[0]["triples"] == [["bob", "boss_of", "acme"]]


def test_texts_without_entities_have_empty_answers(predictor: Predictor) -> None:
    (answer,) = predictor.predict(["here and here"])
    assert answer == {"entities": [], "relations": [], "triples": []}
    assert predictor.task.format_answer(answer) == "(nothing)"
    with pytest.raises(DataError, match="an input cannot be used: 'text' is empty"):
        predictor.predict([" "])


def test_inputs_of_a_batch_are_answered_as_alone(predictor: Predictor) -> None:
    texts = [row["text"] for parts in (1, 20, 3) for row in facts(2, seed=parts, parts=parts, gap=9)]
    together = predictor.predict(texts, batch_size=len(texts))
    for text, answer in zip(texts, together, strict=True):
        (alone,) = predictor.predict([text])
        assert alone["triples"] == answer["triples"]


def test_the_threshold_is_chosen_on_validation_rows(artifact: Path) -> None:
    predictor, rows = Predictor(artifact, threads=1), facts(40, seed=3)
    found = predictor.task.calibrate(lambda split: predictor.run_rows(rows if split == "validation" else []))
    before = predictor.score(rows)["triple_f1"]
    predictor.task.calibration = found
    assert predictor.score(rows)["triple_f1"] >= before
    np.savez(artifact / CALIBRATION_FILE, threshold=np.asarray(2.0))
    try:
        assert Predictor(artifact, threads=1).predict(["ann today acme"])[0]["relations"] == []
    finally:
        (artifact / CALIBRATION_FILE).unlink()


def statistics(candidates: list[tuple[float, bool]], true: int) -> RowStatistics:
    entity = EntityWords(0, 1, "a")
    return RowStatistics(["B-a"], ["B-a"], frozenset([entity]), frozenset([entity]), candidates, true)


def test_the_best_threshold_has_the_best_f1() -> None:
    rows = [statistics([(0.9, True), (0.4, True)], 2), statistics([(0.3, False), (0.2, False), (0.1, True)], 2)]
    threshold = best_threshold(rows)
    assert threshold == pytest.approx(0.35)
    assert score_rows(rows, threshold)["triple_f1"] == pytest.approx(2 * 2 / (2 + 4))
    assert best_threshold([statistics([], 0)]) == 0.5
    assert "triple_f1" not in score_rows([statistics([], 0)], 0.5)
    # equal scores are answered together
    assert best_threshold([statistics([(0.8, True), (0.8, False), (0.6, True)], 2)]) < 0.6


def test_scores_are_those_of_the_vectors() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(30, 2, 3, 4))
    places = [0, None, 7, 12, 29]
    pairs = list(score_pairs(vectors.reshape(30, 24), places, width=4, reach=12, min_score=0.0))
    assert {(pair.head, pair.tail) for pair in pairs} == {(0, 2), (2, 0), (2, 3), (3, 2)}  # 12 tokens are too far
    for head, tail, relation, score in pairs:
        product = vectors[places[head], 0, relation] @ vectors[places[tail], 1, relation] * 2
        assert score == pytest.approx(1 / (1 + np.exp(-product)))


def test_types_and_relations_that_train_lacks_are_errors(predictor: Predictor, artifact: Path) -> None:
    rows = facts(20, seed=5)
    known = predictor.score(rows)["triple_f1"]
    rare = [{**row, "relations": [[head, tail, "rare"] for head, tail, _ in row["relations"]]} for row in rows]
    assert predictor.score([*rows, *rare])["triple_f1"] == pytest.approx(known / 2, abs=0.01)
    city = {"text": "here oslo", "entities": [[5, 9, "city"]], "relations": []}
    (one,) = predictor.task.encoder(artifact)([city])
    assert set(one.target) == {-100, predictor.task.tags.index("O")}  # the loss counts the other word only
    assert predictor.score([city])["entity_f1"] == 0


def test_words_are_split_at_entities() -> None:
    text = "a 3km-run, 张三在华为"
    entities = [[3, 5, "unit"], [11, 13, "person"], [14, 16, "firm"]]
    words = [text[start:end] for start, end in split_at_entities(text, entities)]
    assert words == ["a", "3", "km", "-run", ",", "张", "三", "在", "华", "为"]


def test_types_that_look_like_tags_are_types() -> None:
    assert tag_words(3, [EntityWords(0, 1, "O"), EntityWords(1, 3, "B-x")]) == ["B-O", "B-B-x", "I-B-x"]
    task = load_task(NAME, {}, ["entity:O", "entity:null", "relation:None", "relation:entity:x"])
    assert task.tags == ["O", "B-O", "I-O", "B-null", "I-null"]
    assert task.relations == ["None", "entity:x"]


def test_rows_without_any_relation_are_refused() -> None:
    with pytest.raises(DataError, match="none of the 1 training rows has a relation"):
        load_task(NAME, {}).collect_labels([{"text": "a", "entities": [[0, 1, "x"]], "relations": []}])


@pytest.mark.parametrize("options", [{"pair_width": 0}, {"threshold": 0.01}, {"threshold": 1.5}, {"top_k": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=f"task.{next(iter(options))} must"):
        load_task(NAME, options)


def test_unlabelled_rows_have_positions_and_no_targets(artifact: Path) -> None:
    task: Task = Predictor(artifact, threads=1).task
    (one,) = task.encoder(artifact)([{"text": "ann runs acme", "entities": None, "relations": None}])
    arrays = task.collate([one], targets=True)
    assert set(arrays["labels"][0].tolist()) == {-100, -101}
    assert arrays["entity_places"].shape == (1, 0)
    counted = task.counted_positions({name: torch.from_numpy(array) for name, array in arrays.items()})
    assert counted.sum() == 3  # on which a student is compared with its teacher, one position a word
    total, count = task.loss(
        {"logits": torch.zeros(1, len(one), 3 + 2 + 2 * 2 * 4)},
        {name: torch.from_numpy(array) for name, array in arrays.items()},
        LossOptions(),
    )
    assert (float(total), int(count)) == (0, 3)
