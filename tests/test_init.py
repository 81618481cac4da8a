"""``fastserve init FILE``: the proposal has its evidence, and the command that is printed runs."""

from __future__ import annotations

import gzip
import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pyarrow import parquet

from conftest import Cli
from fastserve_core.data import RawRecord
from fastserve_core.data.readings import find_readings
from fastserve_core.tasks.load import installed_tasks

POSTS = [{"text": f"the film number {number} was {word}", "label": label}
         for number in range(30) for word, label in (("good", "pos"), ("awful", "neg"))]  # fmt: skip
REVIEWS = [{"id": str(number), "Phrase": row["text"], "Stars": row["label"]} for number, row in enumerate(POSTS)]
PAIRS = [{"premise": row["text"], "hypothesis": f"it is {number}", "gold_label": row["label"]}
         for number, row in enumerate(POSTS)]  # fmt: skip
TAGGED = [{"words": ["New", "York", str(number)], "ner_tags": ["B-LOC", "I-LOC", "O"]} for number in range(20)]
ABSTRACTS = [{"source": [f"We study effect {number} in mice.", "It is large."], "target": [f"effect {number} is large"]}
             for number in range(60)]  # fmt: skip
SQUAD = {"data": [{"title": "x", "paragraphs": [{"context": f"Paris has {number} towers.", "qas": [
    {"id": f"{number}", "question": "How many?", "answers": [{"text": str(number), "answer_start": 10}]},
    {"id": f"{number}-none", "question": "Who?", "answers": []}]}]} for number in range(12)]}  # fmt: skip


def write_csv(path: Path, rows: list[dict[str, Any]], separator: str = ",") -> None:
    lines = [rows[0].keys(), *(row.values() for row in rows)]
    path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines), encoding="utf-8")


def write_xlsx(path: Path, rows: list[dict[str, Any]]) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for line in (list(rows[0]), *(list(row.values()) for row in rows)):
        book.active.append(line)
    book.save(path)


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("name", "write", "rows", "task", "columns"),
    [
        ("a.csv", write_csv, POSTS, "text_classification", {}),
        ("a.tsv", lambda *given: write_csv(*given, separator="\t"), REVIEWS, "text_classification",
         {"text": "Phrase", "label": "Stars"}),
        ("a.jsonl.gz", write_json_lines, PAIRS, "text_classification",
         {"text": "premise", "text_pair": "hypothesis", "label": "gold_label"}),
        ("a.json", lambda path, rows: path.write_text(json.dumps(rows)), SQUAD, "question_answering", {}),
        ("a.parquet", lambda path, rows: parquet.write_table(pa.Table.from_pylist(rows), path), TAGGED,
         "token_classification", {"tokens": "words", "tags": "ner_tags"}),
        ("a.jsonl", write_json_lines, ABSTRACTS, "seq2seq", {"text": "source"}),
        ("a.xlsx", write_xlsx, POSTS, "text_classification", {}),
    ],
)  # fmt: skip
def test_a_task_is_proposed_and_the_experiment_composes(
    cli: Cli, tmp_path: Path, name: str, write: Callable[..., None], rows: Any, task: str, columns: dict[str, str]
) -> None:
    write(tmp_path / name, rows)
    done = cli("init", name)
    assert done.returncode == 0, done.stderr
    experiment = OmegaConf.load(tmp_path / "conf" / "experiment" / "a.yaml")
    assert f"override /task: {task}" in (tmp_path / "conf" / "experiment" / "a.yaml").read_text()
    assert experiment.data.get("columns", {}) == columns
    for own, theirs in columns.items():
        assert f"column    {own} is read from '{theirs}'" in done.stdout
    command = done.stdout.splitlines()[-1].removeprefix("next: fastserve ")
    composed = cli(*shlex.split(command), "--cfg", "job")
    assert composed.returncode == 0, composed.stderr
    assert OmegaConf.create(composed.stdout).data.train == str(tmp_path / name)


@pytest.mark.slow(1)
@pytest.mark.parametrize("task", ["pretraining", "causal_lm", "joint_intent_slots", "text_regression"])
def test_a_chosen_task_composes(cli: Cli, tmp_path: Path, task: str) -> None:
    write_json_lines(
        tmp_path / "a.jsonl", SLOTS if task == "joint_intent_slots" else number_labels(lambda number: number % 4 / 2)
    )
    done = cli("init", "a.jsonl", "--task", task)
    assert done.returncode == 0, done.stderr
    composed = cli("--config-dir", "conf", "+experiment=a", "--cfg", "job")
    assert composed.returncode == 0, composed.stderr
    config = OmegaConf.create(composed.stdout)
    assert config.task.name == task
    assert ("neural_compressor" in config.compress) == (task != "pretraining")


def test_evidence_is_printed(cli: Cli, tmp_path: Path) -> None:
    rows = [*POSTS, POSTS[0], {"text": POSTS[1]["text"], "label": "pos"}, {"text": "", "label": "pos"}]
    write_json_lines(tmp_path / "a.jsonl", rows)
    done = cli("init", "a.jsonl", "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert "labels    2 in these rows: pos 32, neg 30" in done.stdout
    assert "63 read, 1.6% cannot be used, 1.6% are duplicates, 1 inputs have different labels" in done.stdout
    assert "a.jsonl:63: 'text' is empty" in done.stdout
    assert "max_length=16 cuts 0 of 62" in done.stdout
    experiment = OmegaConf.load(tmp_path / "conf" / "experiment" / "mine.yaml")
    assert (experiment.data.max_bad_rows, experiment.task.max_length) == (1, 16)


def test_chinese_texts_get_a_model_with_a_tokenizer_of_their_own(cli: Cli, tmp_path: Path) -> None:
    words = ("好", "差")
    rows = [{"评论": f"这部电影第{number}次看也很{words[number % 2]}", "标签": number % 2} for number in range(30)]
    write_csv(tmp_path / "a.csv", rows)
    done = cli("init", "a.csv")
    assert done.returncode == 0, done.stderr
    assert "the letters are mostly not Latin: bert learns a tokenizer" in done.stdout
    assert "override /model: bert" in (tmp_path / "conf" / "experiment" / "a.yaml").read_text()


def test_questions_without_answers_are_read_with_the_option_for_them(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(SQUAD))
    assert "option    task.no_answer=true" in cli("init", "a.json").stdout


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        ("text\n" + "a text of some words\n" * 3, [], "fastserve init a.csv --task pretraining"),
        ("a,b,label\n" + "".join(f"one text {n} of words,two text {n} of words,{n % 2}\n" for n in range(20)), [],
         "fastserve init a.csv data.columns.text=b"),
        ("text,label,intent\n" + "a text,x,y\n", ["--task", "text_classification"], "all 1 training rows"),
        ("review,comment,label\n" + "".join(f"a {n} x,b {n} y,{n % 2}\n" for n in range(9)), [],
         "fastserve init a.csv data.columns.text=comment"),
        ("a,b\n1,2\n3,4\n", [], "no task can use the rows of a.csv"),
        ("text,label\n", [], "has no rows"),
        ("It was good.,pos\nIt was bad,neg\n", [], "the first line is a row and not the names of columns, as 'It was"),
        ("so good it was,pos\nso bad,neg\nfine,pos\n", [], "as 'pos' shows: add a line with names"),
        ("", [], "is empty"),
        ("text\na\n", ["--task", "text_clasification"], "did you mean 'text_classification'"),
        ("text,label\na b c,x\n", ["data.columns.tekst=a"], "no such column"),
        ("text,label\na b c,x\n", ["--name", "movie_reviews"], "the experiment movie_reviews exists already"),
    ],
)  # fmt: skip
def test_a_script_is_not_guessed_for(cli: Cli, tmp_path: Path, content: str, arguments: list[str], said: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    done = cli("init", "a.csv", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "conf").exists()


def test_an_experiment_is_not_replaced(cli: Cli, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", POSTS)
    assert cli("init", "a.csv").returncode == 0
    before = (tmp_path / "conf" / "experiment" / "a.yaml").read_text()
    done = cli("init", "a.csv")
    assert (done.returncode, "--name gives another name" in done.stderr) == (2, True)
    assert (tmp_path / "conf" / "experiment" / "a.yaml").read_text() == before
    assert [path.name for path in (tmp_path / "conf" / "experiment").iterdir()] == ["a.yaml"]


def test_a_folder_that_cannot_be_written_is_reported(cli: Cli, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", POSTS)
    (tmp_path / "conf").write_text("a file")
    done = cli("init", "a.csv")
    assert done.returncode == 1
    assert "could not write a.yaml" in done.stderr


@pytest.mark.slow(1)
def test_a_terminal_is_asked(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"text": row["text"]} for row in POSTS])
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "fastserve_core", "init", "a.csv"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path)
    os.close(slave)
    os.write(master, b"7\n2\n")
    assert process.wait(timeout=120) == 0
    os.close(master)
    assert "override /task: pretraining" in (tmp_path / "conf" / "experiment" / "a.yaml").read_text()


def test_each_choice_of_columns_is_a_reading() -> None:
    columns = ("review", "comment")
    records = [
        RawRecord("", {**dict.fromkeys(columns, row["text"]), "a": row["label"], "b": row["label"]}) for row in POSTS
    ]
    readings, _ = find_readings(["text_classification"], records, {"label": "b"})
    assert [dict(reading.columns) for reading in readings] == [{"text": column, "label": "b"} for column in columns]
    readings, _ = find_readings(["text_classification"], records, {})
    assert {tuple(reading.decisions.values()) for reading in readings} == {
        (text, label) for text in columns for label in ("a", "b")
    }


SEVERAL = [{"text": row["text"], "labels": [row["label"], "film"] if number % 3 else [row["label"]]}
           for number, row in enumerate(POSTS)]  # fmt: skip
SLOTS = [{"text": "fly to Paris", "label": f"intent {number % 2}", "slots": [{"start": 7, "end": 12, "slot": "to"}]}
         for number in range(30)]  # fmt: skip


SCORED = [{**row, "score": 0.5 * number} for number, row in enumerate(POSTS)]
RELATIONS = [{"text": f"<e1>it</e1> {number} in <e2>a</e2>", "relation": f"r{number % 2}"} for number in range(30)]


def number_labels(label: Callable[[int], float]) -> list[dict[str, Any]]:
    return [{**row, "label": label(number)} for number, row in enumerate(POSTS)]


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("rows", "tasks"),
    [
        (POSTS, ["text_classification"]),
        ([{**row, "label": int(row["label"] == "pos")} for row in POSTS], ["text_classification"]),
        (number_labels(lambda number: number % 5), ["text_classification"]),
        ([{"text": row["text"], "stars": number % 5} for number, row in enumerate(POSTS)], ["text_regression"]),
        (SCORED, ["text_classification", "text_regression"]),
        (number_labels(lambda number: number / 7), ["text_regression"]),
        (SEVERAL, ["multi_label_classification"]),
        (SLOTS, ["joint_intent_slots"]),
        (TAGGED, ["token_classification"]),
        ([{"text": row["text"]} for row in POSTS], ["causal_lm", "pretraining"]),
        (RELATIONS, ["relation_classification"]),
    ],
)  # fmt: skip
def test_rows_are_those_of_one_task_unless_their_values_fit_two(rows: list[dict[str, Any]], tasks: list[str]) -> None:
    records = [RawRecord(f"row {number}", row) for number, row in enumerate(rows)]
    readings, reasons = find_readings(installed_tasks(), records, {})
    best = [reading.task.name for reading in readings if reading.rank == readings[0].rank]
    assert best == tasks, reasons


CELLS = st.one_of(
    st.none(), st.text(max_size=9), st.integers(0, 3), st.floats(), st.lists(st.text(max_size=3), max_size=2)
)
NAMES = st.sampled_from(["text", "label", "tokens", "tags", "question", "context", "answers", "x"])


@pytest.mark.slow(3)
@given(st.lists(st.dictionaries(NAMES, CELLS, max_size=4), min_size=1, max_size=8))
def test_any_rows_have_readings_or_reasons(rows: list[dict[str, Any]]) -> None:
    tasks = installed_tasks()
    readings, reasons = find_readings(tasks, [RawRecord(f"row {n}", row) for n, row in enumerate(rows)], {})
    assert {reading.task.name for reading in readings} | reasons.keys() == set(tasks)
    for reading in readings:
        assert reading.rows
        assert reading.describe()
        reading.task.propose(reading.rows)


@pytest.mark.slow(60)
def test_the_printed_command_runs(cli: Cli, tmp_path: Path, reviews: Path, tiny_bert: Path) -> None:
    (tmp_path / "posts.csv").write_text(reviews.read_text().replace("text,label", "content,sentiment", 1))
    done = cli("init", "posts.csv", "--model", tiny_bert)
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1].removeprefix("next: fastserve ")
    ran = cli(*shlex.split(command), "engine=torch")
    assert ran.returncode == 0, ran.stderr
    assert "compress neural_compressor" in ran.stdout + ran.stderr
    record = json.loads(next(tmp_path.glob("outputs/*/*/run.json")).read_text())
    for row in record["doubted_rows"]:
        assert row["label"] != row["answer"]
        assert row["input"]["text"]
