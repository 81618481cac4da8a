"""Relations between two entities: learnt, answered with exact characters, and cut around the entities."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tiny_training import train_tiny

from fastserve_core.errors import DataError, ModelError
from fastserve_core.inference import Predictor
from fastserve_core.tasks import Task, Triple, load_task
from fastserve_text.relation_classification.encoding import choose_signs
from fastserve_text.tokenization import load_tokenizer

NAME = "relation_classification"
NOUNS = ("cord", "child", "engine", "wheel", "storm", "flood", "paper", "author")
VERBS = {"Cause(e1,e2)": "brings", "Cause(e2,e1)": "follows", "Part(e1,e2)": "belongs to", "Other": "near"}
LABELS = sorted(VERBS)


def relations(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with two pairs of nouns, of which one is marked: its verb names the relation."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label, other = draw.choice(LABELS), draw.choice(LABELS)
        first, second, third, fourth = draw.sample(NOUNS, 4)
        marked = f"<e1>{first}</e1> {VERBS[label]} <e2>{second}</e2>"
        parts = [marked, f"{third} {VERBS[other]} {fourth}"]
        draw.shuffle(parts)
        rows.append({"text": " and ".join(parts), "relation": label})
    return rows


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that has learnt the verbs."""
    task, rows = load_task(NAME, {"max_length": 32, "top_k": 2}, LABELS), relations(400, seed=0)
    assert [task.check(row) for row in rows] == [None] * len(rows)
    return train_tiny(task, rows, tmp_path_factory.mktemp("relations"), epochs=8)


@pytest.fixture(scope="module")
def predictor(artifact: Path) -> Predictor:
    return Predictor(artifact, threads=1)


@pytest.mark.slow(1)
def test_relations_are_learnt_and_scored(predictor: Predictor) -> None:
    rows = relations(60, seed=1)
    answers = predictor.predict([row["text"] for row in rows])
    right = sum(answer["relation"] == row["relation"] for answer, row in zip(answers, rows, strict=True))
    assert right > 50
    for row in rows:
        predictor.task.check(row)
    scores = predictor.score(rows)
    assert scores["accuracy"] == pytest.approx(right / len(rows))
    assert predictor.task.objective(scores) == scores["macro_f1"]
    assert set(scores) == set(predictor.task.metrics)


@pytest.mark.slow(1)
def test_wrong_labels_are_doubted(predictor: Predictor) -> None:
    rows, wrong = relations(40, seed=2), {3, 17}
    for number in wrong:
        rows[number]["relation"] = "Other" if rows[number]["relation"] != "Other" else LABELS[0]
    for row in rows:
        predictor.task.check(row)
    found: dict[int, Any] = {}
    predictor.score(rows, watch=lambda numbers, outputs, batch: found.update(
        zip(numbers, predictor.task.find_doubts(outputs, batch), strict=True)))  # fmt: skip
    answers = predictor.predict([row["text"] for row in relations(40, seed=2)])
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        doubt = found[number]
        assert (doubt is None) == (answer["relation"] == row["relation"])
        if doubt is not None:
            assert (doubt.label, doubt.answer) == (row["relation"], answer["relation"])
            assert doubt.score == pytest.approx(answer["score"], abs=1e-5)
    assert wrong <= {number for number, doubt in found.items() if doubt is not None}


def test_an_answer_has_the_triple_and_its_characters(predictor: Predictor) -> None:
    (answer,) = predictor.predict(["🏠 <e1>flood</e1> follows <e2>storm</e2>\u200b"])
    jsonschema.validate(answer, predictor.task.answer_schema())
    assert answer["relation"] == "Cause(e2,e1)"
    assert answer["head"] == {"text": "flood", "start": 2, "end": 7}
    assert answer["tail"] == {"text": "storm", "start": 16, "end": 21}
    assert answer["triples"] == [["storm", "Cause", "flood"]]
    assert answer["relations"][0] == {"relation": answer["relation"], "score": answer["score"]}
    assert answer["relations"][1]["score"] == sorted(answer["scores"].values())[-2]
    assert predictor.task.triples(answer) == [Triple("storm", "Cause", "flood", answer["score"])]
    assert predictor.task.format_answer(answer) == f"Cause(e2,e1)\t{answer['score']:.3f}\tflood\tstorm"
    tensors = {one.name: predictor.task.tensor_values(one.name, [answer]) for one in predictor.task.output_tensors()}
    assert tensors["relation"] == ["Cause(e2,e1)"]
    assert tensors["scores"] == [answer["scores"][label] for label in LABELS]


def test_a_wrong_label_is_doubted(predictor: Predictor) -> None:
    rows = [{"text": "<e1>storm</e1> brings <e2>flood</e2>", "relation": label} for label in ("Cause(e1,e2)", "Other")]
    for row in rows:
        predictor.task.check(row)
    batch = predictor.encode(rows)
    right, wrong = predictor.task.find_doubts(predictor.engine.run(predictor.task.collate(batch)), batch)
    assert right is None
    assert wrong is not None
    assert (wrong.label, wrong.answer) == ("Other", "Cause(e1,e2)")
    assert wrong.score > 0.5


def test_no_relation_gives_no_triple(predictor: Predictor) -> None:
    (answer,) = predictor.predict(["<e1>cord</e1> near <e2>child</e2> and storm brings flood"])
    assert (answer["relation"], answer["triples"]) == ("Other", [])


def test_marks_and_spans_give_one_answer(predictor: Predictor) -> None:
    text = "storm brings flood and paper near author"
    answers = predictor.predict(
        [
            text.replace("storm", "<e1>storm</e1>").replace("flood", "<e2>flood</e2>"),
            {"text": text, "head": [0, 5], "tail": [13, 18]},
            {"text": text, "head": "storm", "tail": "flood"},
        ]
    )
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("gap", [0, 40])
def test_long_texts_are_cut_around_both_entities(predictor: Predictor, gap: int) -> None:
    filler = "paper near author and " * 200
    middle = "near paper and wheel " * gap
    (answer,) = predictor.predict([f"{filler}<e1>storm</e1> {middle}brings <e2>flood</e2> {filler}"])
    assert answer["truncated"] is True
    assert answer["head"]["text"], answer["tail"]["text"] == ("storm", "flood")
    encode, text = predictor.encode, "cord near wheel " * 10_000 + "storm brings flood"
    (one,) = encode([predictor.task.read_input({"text": text, "head": "storm", "tail": "flood"})])
    assert len(one) <= 32
    assert one.truncated
    (whole,) = encode([predictor.task.read_input("<e1>storm</e1> brings <e2>flood</e2>")])
    assert not whole.truncated


def test_signs_surround_the_entities(predictor: Predictor, artifact: Path) -> None:
    tokenizer = load_tokenizer(artifact, 32)
    rows = [predictor.task.read_input(text) for text in ("<e2>storm</e2>brings<e1>flood</e1>", "<e1>a</e1><e2>b</e2>")]
    first, second = predictor.encode(rows)
    assert tokenizer.decode(first.inputs["input_ids"]) == "# storm # brings @ flood @"
    assert first.decode_state.place == len(first) - 2  # the last sign
    assert tokenizer.decode(second.inputs["input_ids"], skip_special_tokens=False).count("@") == 2


def test_a_tokenizer_without_signs_is_refused(artifact: Path) -> None:
    tokenizer = load_tokenizer(artifact, 32)
    assert choose_signs(tokenizer, tokenizer.token_to_id("#")) == ("@", "$")
    with pytest.raises(ModelError, match="knows fewer than two of the signs"):
        choose_signs(_only_letters(tokenizer), tokenizer.token_to_id("[UNK]"))


def _only_letters(tokenizer: Any) -> Any:
    """Return a tokenizer to which signs are blanks."""
    from tokenizers import Regex, Tokenizer, normalizers

    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.normalizer = normalizers.Replace(Regex(r"[^a-z\s]"), " ")
    return copy


@pytest.fixture
def task() -> Task:
    return load_task(NAME, {})


def rows_of(*labels: str) -> list[dict[str, Any]]:
    return [{"text": "a b", "head": [0, 1], "tail": [2, 3], "relation": label} for label in labels]


@pytest.mark.parametrize("name", ["O", "None", "null", "nan", "Other"])
def test_labels_that_look_like_nothing_are_labels(task: Task, name: str) -> None:
    row = {"text": "<e1>a</e1> <e2>b</e2>", "relation": name}
    assert task.check(row) is None
    assert row["relation"] == name
    labels = task.collect_labels([*rows_of("works_for", "works_for"), row])
    assert set(labels) == {"works_for", name}  # a relation that occurs once is one
    assert task.find_no_relation(labels) == (name if name == "Other" else None)


def test_labels_that_cannot_be_learnt_are_refused(task: Task) -> None:
    with pytest.raises(DataError, match="all 2 training rows have the relation 'Other': two are needed"):
        task.collect_labels(rows_of("Other", "Other"))
    with pytest.raises(DataError, match="'Other' and 'NA' may both stand for no relation: task.no_relation=NAME"):
        task.collect_labels(rows_of("Other", "NA", "works_for"))
    chosen = load_task(NAME, {"no_relation": "none"})
    assert chosen.collect_labels(rows_of("none", "Other")) == ["Other", "none"]
    with pytest.raises(DataError, match="no training row has the relation 'none'; did you mean 'None'"):
        chosen.collect_labels(rows_of("None", "works_for"))
