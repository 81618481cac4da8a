"""``fastserve predict --input … --output …``: every row with its answer, in constant memory, resumed after a kill."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Cli
from fastserve_core.artifacts import Artifact
from fastserve_core.config import DataOptions
from fastserve_core.errors import DataError
from fastserve_core.events import Event, Notice, Progress
from fastserve_core.inference import Predictor
from fastserve_core.serving import windows
from fastserve_core.serving.file_prediction import predict_file
from fastserve_data.writers import write_rows
from fastserve_server.tests.conftest import make_artifact

TEXTS = [f"a {'wonderful ' * (number % 7)}film number {number}" for number in range(25)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("model") / "classifier", "text_classification")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_ROWS", 10)


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    path = tmp_path / "posts.csv.gz"
    rows = "".join(f'{number},"{text}",x\n' for number, text in enumerate(TEXTS))
    path.write_bytes(gzip.compress(f"id,text,label\n{rows}".encode()))
    return path


def run(artifact: Artifact, given_path: Path, output: Path, emit: Callable[[Event], None] = lambda _: None) -> Any:
    return predict_file(Predictor(artifact, threads=1), str(given_path), output, DataOptions(), emit)


def test_all_rows_are_written_in_their_order_with_their_answers(
    cli: Cli, classifier: Artifact, posts: Path, tmp_path: Path
) -> None:
    done = cli("predict", classifier.folder, "--input", posts, "--output", "scored.parquet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("scored.parquet: 25 rows, ")
    assert "the answer's column 'label' is written as 'predicted_label'" in done.stderr
    rows = pyarrow.parquet.read_table(tmp_path / "scored.parquet").to_pylist()
    answers = Predictor(classifier, threads=1).predict(TEXTS)
    assert [row["text"] for row in rows] == TEXTS
    assert [row["id"] for row in rows] == [str(number) for number in range(25)]
    assert {row["label"] for row in rows} == {"x"}
    for row, answer in zip(rows, answers, strict=True):
        assert row["predicted_label"] == answer["label"]
        assert row["score"] == pytest.approx(answer["score"], abs=1e-5)
        assert json.loads(row["scores"]).keys() == answer["scores"].keys()
        assert row["error"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["posts.csv.gz", "scored.parquet"]


@pytest.mark.slow(1)
@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl", "out.csv.gz", "out.parquet"])
def test_an_interrupted_prediction_ends_with_the_same_bytes(
    classifier: Artifact, posts: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole" / name
    whole.parent.mkdir()
    run(classifier, posts, whole)

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(classifier, posts, tmp_path / name, interrupt)
    assert not (tmp_path / name).exists()
    answered = []
    answer = Predictor.answer_encoded
    monkeypatch.setattr(Predictor, "answer_encoded", lambda *rest: answered.append(len(rest[1])) or answer(*rest))
    result = run(classifier, posts, tmp_path / name)
    assert answered == [5]
    assert (result.rows, result.bad_rows) == (25, 0)
    assert (tmp_path / name).read_bytes() == whole.read_bytes()


def test_chunks_of_another_input_are_not_used(classifier: Artifact, posts: Path, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(classifier, posts, tmp_path / "out.jsonl", interrupt)
    posts.write_bytes(gzip.compress(b"text\nanother\n"))
    notices: list[Event] = []
    run(classifier, posts, tmp_path / "out.jsonl", notices.append)
    assert any("chunks of another input" in event.message for event in notices if isinstance(event, Notice))
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row["text"] == "another"


def test_bad_rows_are_written_with_their_reasons_and_counted(cli: Cli, classifier: Artifact, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "fine"}\n{"text": ""}\nnot json\n{"other": 1}\n')
    done = cli("predict", classifier.folder, "--input", "x.jsonl", "--output", "y.csv")
    assert done.returncode == 0, done.stderr
    assert "warning: 3 of 4 rows have no answer:" in done.stderr
    assert "x.jsonl:2: an input cannot be used: 'text' is empty" in done.stderr
    rows = list(csv.DictReader((tmp_path / "y.csv").open()))
    assert [bool(row["label"]) for row in rows] == [True, False, False, False]
    assert "not valid JSON" in rows[2]["error"]
    assert rows[3]["other"] == "1"


def test_two_commands_do_not_write_one_output(classifier: Artifact, posts: Path, tmp_path: Path) -> None:
    def second(event: Event) -> None:
        if isinstance(event, Progress):
            with pytest.raises(DataError, match=r"another command is writing .*out\.csv"):
                run(classifier, posts, tmp_path / "out.csv")

    assert run(classifier, posts, tmp_path / "out.csv", second).rows == 25


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "x.csv"], "--output needs --input"),
        (["--input", "posts.csv.gz", "--output", "x.xlsx"], "--output: unsupported file type x.xlsx"),
        (["--input", "posts.csv.gz", "--output", "x.parquet.gz"], "unsupported file type"),
        (["--input", "posts.csv.gz", "--output", "none/x.csv"], "the folder none does not exist"),
        (["--input", "nothing.csv", "--output", "x.csv"], "nothing.csv does not exist"),
        (["--input", "posts.csv.gz", "--output", "x.csv", "--json"], "--output takes no --pair, --json and --name"),
    ],
)
def test_wrong_arguments_are_refused(
    cli: Cli, classifier: Artifact, posts: Path, arguments: list[str], said: str
) -> None:
    done = cli("predict", classifier.folder, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


CELLS = st.one_of(st.none(), st.text(max_size=8), st.integers(-9, 9), st.lists(st.integers(), max_size=2))


@pytest.mark.slow(1)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), CELLS), min_size=1, max_size=6), st.integers(1, 3))
def test_tables_have_every_value(rows: list[dict[str, Any]], size: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [folder / str(start) for start in range(0, len(rows), size)]
        for part, start in zip(parts, range(0, len(rows), size), strict=True):
            part.write_text("".join(json.dumps(row) + "\n" for row in rows[start : start + size]), encoding="utf-8")
        write_rows(parts, ["a", "b", "c"], folder / "x.csv")
        with (folder / "x.csv").open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        write_rows(parts, ["a", "b", "c"], folder / "x.jsonl")
        assert list(map(json.loads, (folder / "x.jsonl").read_text(encoding="utf-8").split("\n")[:-1])) == rows
        write_rows(parts, ["a", "b", "c"], folder / "x.parquet")
        assert pyarrow.parquet.read_table(folder / "x.parquet").num_rows == len(rows)
    for row, line in zip(rows, found, strict=True):
        for column in "abc":
            value = row.get(column)
            expected = json.dumps(value) if isinstance(value, list) else "" if value is None else str(value)
            assert line[column] == expected
