"""Answers from contexts of any length: offsets are exact, windows lose nothing, scores are those of the answers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import train_tiny

from fastserve_core import FastServe
from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions
from fastserve_core.data import prepare_dataset
from fastserve_core.errors import DataError, OptionError
from fastserve_core.inference import Predictor
from fastserve_core.tasks import LossOptions, Task, load_task
from fastserve_text.question_answering.metrics import exact_match, token_f1

TOOLS = ("hammer", "saw", "chisel", "anvil", "wrench", "plane")
FILLERS = ("river", "cloud", "stone", "paper", "window", "garden", "street", "winter", "island", "mirror")
OPTIONS = {"max_length": 32, "stride": 8, "max_answer_length": 4, "no_answer": True}


def questions(count: int, seed: int, fillers: int = 12) -> list[dict[str, Any]]:
    """Rows whose context has one tool, or none."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [draw.choice(FILLERS) for _ in range(fillers)]
        answers = []
        if draw.random() < 0.75:
            tool = draw.choice(TOOLS)
            words.insert(draw.randrange(len(words)), tool)
            answers = [{"text": tool, "start": " ".join(words).index(tool)}]
        rows.append({"question": "which tool", "context": " ".join(words), "answers": answers})
    return rows


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("question_answering", OPTIONS)


@pytest.fixture(scope="module")
def artifact(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that has learnt to find tools."""
    rows = [row for size in (4, 12, 40) for row in questions(100, seed=size, fillers=size)]
    return train_tiny(task, rows, tmp_path_factory.mktemp("reader"), epochs=6)


@pytest.mark.slow(1)
def test_contexts_longer_than_the_model_reads_are_answered(artifact: Path) -> None:
    predictor, rows = Predictor(artifact, threads=1), questions(40, seed=1, fillers=90)
    answers = predictor.predict([{name: row[name] for name in ("question", "context")} for row in rows])
    truths = [[answer["text"] for answer in row["answers"]] for row in rows]
    exact = [exact_match(answer["answer"], truth) for answer, truth in zip(answers, truths, strict=True)]
    assert sum(exact) / len(exact) > 0.9
    for row, answer in zip(rows, answers, strict=True):
        assert row["context"][answer["start"] : answer["end"]] == answer["answer"]
        assert 0 < answer["score"] <= 1
    scores = predictor.score(rows)
    assert scores["em"] == pytest.approx(sum(exact) / len(exact))
    f1 = [token_f1(answer["answer"], truth) for answer, truth in zip(answers, truths, strict=True)]
    assert scores["f1"] == pytest.approx(sum(f1) / len(f1))
    assert 0 <= scores["no_answer_accuracy"] <= 1


@pytest.mark.slow(1)
def test_inputs_of_a_batch_are_answered_as_alone(artifact: Path) -> None:
    predictor = Predictor(artifact, threads=1)
    pairs = [
        (row["question"], row["context"]) for size in (3, 50, 400) for row in questions(2, seed=size, fillers=size)
    ]
    together = predictor.predict(pairs, batch_size=len(pairs))
    for pair, answer in zip(pairs, together, strict=True):
        (alone,) = predictor.predict([pair])
        assert alone["answer"] == answer["answer"]
        assert alone["score"] == pytest.approx(answer["score"], abs=1e-4)


def test_a_hundred_windows_are_read_in_passes(artifact: Path) -> None:
    context = " ".join(FILLERS * 150)
    place = context.index("island", 7000)
    context = f"{context[:place]}hammer {context[place:]}"
    (answer,) = Predictor(artifact, threads=1).predict([("which tool", context)])
    assert (answer["answer"], answer["start"]) == ("hammer", place)
    assert "truncated" not in answer


def test_offsets_are_those_of_the_characters(artifact: Path) -> None:
    context = "🏠 rivér  ｗｉｎｄｏｗ\u200b e\u0301 cloud\thammer\n👩‍👩‍👧 stone"
    (answer,) = Predictor(artifact, threads=1).predict([("which tool", context)])
    assert answer["answer"] == context[answer["start"] : answer["end"]] == "hammer"


def test_a_long_question_is_cut_and_the_answer_marked(artifact: Path) -> None:
    (answer,) = Predictor(artifact, threads=1).predict([("which tool " * 30, "river cloud hammer stone")])
    assert answer["truncated"] is True


def test_several_answers_are_returned(artifact: Path, task: Task) -> None:
    predictor = Predictor(artifact, threads=1)
    predictor.task.options.top_k = 3
    (answer,) = predictor.predict([("which tool", "river saw cloud stone")])
    assert answer["answers"][0]["answer"] == answer["answer"] == "saw"
    scores = [one["score"] for one in answer["answers"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) <= 1


def test_the_loss_is_that_of_transformers(artifact: Path, task: Task) -> None:
    model: Any = task.build(artifact)
    examples = task.examples(task.encoder(artifact)(questions(8, seed=3)), "0")
    batch = {name: torch.from_numpy(array) for name, array in task.collate(examples[:], targets=True).items()}
    with torch.no_grad():
        outputs = model(**batch)
        total, count = task.loss(outputs, batch, LossOptions())
    assert float(total / count) == pytest.approx(float(outputs.loss), rel=1e-5)


def test_rows_without_labels_add_no_loss(artifact: Path, task: Task) -> None:
    rows = [{**row, "answers": None} for row in questions(3, seed=4)]
    examples = task.examples(task.encoder(artifact)(rows), "0")
    batch = {name: torch.from_numpy(array) for name, array in task.collate(examples[:], targets=True).items()}
    logits = torch.zeros(batch["input_ids"].shape)
    loss = task.loss({"start_logits": logits, "end_logits": logits}, batch, LossOptions())
    assert (float(loss.total), float(loss.denominator)) == (0, 3)
    assert bool(task.counted_positions(batch).all())


def test_places_in_a_window_point_to_the_answer(artifact: Path, task: Task) -> None:
    rows = questions(30, seed=5, fillers=60)
    encoded = task.encoder(artifact)(rows)
    examples = task.examples(encoded, "0")
    found = 0
    for example in examples:
        question = example.decode_state.question
        start, end = example.target
        if (start, end) == (0, 0):
            continue
        shift = example.decode_state.start - question.frame.prefix
        first, last = question.characters(start + shift, end + shift)
        assert question.context[first:last] == question.truths[0]
        found += 1
    assert found >= sum(bool(row["answers"]) for row in rows)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"context": "a river"}, "'question' is missing"),
        ({"question": " ", "context": "a river"}, "'question' is empty"),
        ({"question": "which", "context": 7}, "'context' is int, not text"),
        ({"question": "which", "context": "a river", "answers": [{"text": "sea", "answer_start": 0}]}, "nowhere"),
        ({"question": "which", "context": "a river"}, "set task.no_answer=true"),
    ],
)
def test_rows_that_cannot_be_used_are_reported(row: dict[str, Any], fault: str) -> None:
    assert fault in str(load_task("question_answering", {}).check(dict(row)))


def test_questions_without_any_answer_are_refused(task: Task) -> None:
    with pytest.raises(DataError, match="none of the 2 training questions has an answer"):
        task.collect_labels([{"answers": []}, {"answers": []}])


@pytest.mark.parametrize("value", ["a question alone", 7, ["one", "two", "three"], {"question": "q"}, ("", "c")])
def test_inputs_that_are_no_question_and_context_are_refused(task: Task, value: Any) -> None:
    with pytest.raises(DataError, match="an input cannot be used"):
        task.read_input(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 8}, "at least 16"),
        ({"stride": 200}, "between 0 and half of task.max_length"),
        ({"top_k": 0}, "task.top_k must be at least 1"),
        ({"max_answer_length": 0}, "task.max_answer_length must be at least 1"),
        ({"no_answer_threshold": float("nan")}, "must be a finite number"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load_task("question_answering", options)


def test_logits_of_the_question_are_no_answer(artifact: Path, task: Task) -> None:
    """The tokens of a question are words of the answer's kind too."""
    (answer,) = Predictor(artifact, threads=1).predict([("which tool hammer saw", "river cloud stone anvil")])
    assert answer["answer"] == "anvil"


def write_article(path: Path, rows: list[dict[str, Any]]) -> Path:
    paragraphs = [
        {
            "context": row["context"],
            "qas": [
                {
                    "id": f"q{number}",
                    "question": row["question"],
                    "answers": [{"text": one["text"], "answer_start": one["start"]} for one in row["answers"]],
                }
            ],
        }
        for number, row in enumerate(rows)
    ]
    path.write_text(json.dumps({"version": "2.0", "data": [{"title": "Tools", "paragraphs": paragraphs}]}))
    return path


def test_a_file_of_squad_is_read(task: Task, tmp_path: Path) -> None:
    path, notes = write_article(tmp_path / "squad.json", questions(30, seed=6)), list[str]()
    data = prepare_dataset(DataOptions(train=str(path)), task, Store(tmp_path / "home"), notes.append)
    assert sum(len(data.rows(split)) for split in ("train", "validation", "test")) == 30
    assert f"{path}: the rows are those of 'data'" in notes
    assert set(data.rows("train")[0]) == {"question", "context", "answers"}


def test_a_misplaced_answer_is_reported_with_its_question(task: Task, tmp_path: Path) -> None:
    rows = questions(30, seed=6)
    number = next(number for number, row in enumerate(rows) if row["answers"])
    rows[number]["answers"][0]["start"] += 1
    path = write_article(tmp_path / "squad.json", rows)
    with pytest.raises(DataError, match=f"paragraph {number + 1}, question q{number}: .* is not at character"):
        prepare_dataset(DataOptions(train=str(path)), task, Store(tmp_path / "home"), print)


def test_positions_are_integers_in_the_open_inference_protocol() -> None:
    task = load_task("question_answering", {})
    datatypes = {tensor.name: tensor.datatype for tensor in task.output_tensors()}
    assert datatypes == {"answer": "BYTES", "score": "FP32", "start": "INT64", "end": "INT64"}
    answers = [{"answer": "a hammer", "score": 0.5, "start": 20_000_001, "end": 20_000_009}]
    assert task.tensor_values("start", answers) == [20_000_001]


def test_a_request_sets_the_parameters_of_transformers_pipeline(artifact: Path) -> None:
    predictor = Predictor(artifact, threads=1)
    empty = {"question": "which tool", "context": "river cloud stone"}
    assert predictor.predict(empty)[0]["answer"] == ""
    (forced,) = predictor.predict(empty, parameters={"handle_impossible_answer": False})
    assert forced["answer"] != "" and "answers" not in forced
    (several,) = predictor.predict(empty, parameters={"top_k": 3, "max_answer_len": 1})
    assert FastServe.load(artifact, show=False).predict(empty, top_k=3)[0]["answers"]
    assert len(several["answers"]) == 3 and all(" " not in answer["answer"] for answer in several["answers"])
    for parameters, message in (
        ({"top_k": 0}, "task.top_k must be at least 1"),
        ({"topk": 3}, "did you mean 'top_k'"),
        ({"doc_stride": 17}, "task.stride must lie between 0 and half"),
        ({"top_k": "many"}, "parameters.top_k='many'"),
    ):
        with pytest.raises(OptionError, match=message):
            predictor.predict(empty, parameters=parameters)
