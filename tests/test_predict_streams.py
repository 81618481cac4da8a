"""Rows scored as they come: from standard input, from a file that grows, from any iterable, from a DataFrame."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Cli
from fastserve_core import FastServe
from fastserve_core.artifacts import Artifact
from fastserve_core.errors import DataError, OptionError
from fastserve_core.inference import Predictor
from fastserve_core.serving import windows
from fastserve_server.tests.conftest import make_artifact


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("model") / "classifier", "text_classification")


@pytest.fixture(scope="module")
def model(classifier: Artifact) -> FastServe:
    return FastServe.load(classifier.folder, show=False)


def predict(artifact: Artifact, folder: Path, given_input: bytes, *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "fastserve_core", "predict", str(artifact.folder), "--input", "-", *arguments]
    done = subprocess.run([*command, "--output", "-"], input=given_input, capture_output=True, cwd=folder, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_table_is_read_from_standard_input_and_written_to_standard_output(
    classifier: Artifact, tmp_path: Path
) -> None:
    code, out, err = predict(classifier, tmp_path, b'id,text\n1,"good, \nfine"\n2,\n3,dull\n')
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["id"], row["text"]) for row in rows] == [("1", "good, \nfine"), ("2", ""), ("3", "dull")]
    assert [bool(row["label"]) for row in rows] == [True, False, True]
    assert "standard input is read as csv (--format csv" in err
    assert "warning: no answer: standard input:4: an input cannot be used: 'text' is empty" in err
    assert "3 rows, 1 without an answer" in err


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("arguments", "given_input", "said"),
    [
        ([], b"headline\nfine\n", "no column 'text'"),
        ([], b"text\ncaf\xe9\n", "the text is not utf-8"),
        (["--format", "json"], b"", "invalid choice: 'json'"),
        (["--input", "b.csv"], b"text\n", "--input - reads standard input alone"),
    ],
)
def test_wrong_input_is_refused(
    classifier: Artifact, tmp_path: Path, arguments: list[str], given_input: bytes, said: str
) -> None:
    code, _, err = predict(classifier, tmp_path, given_input, *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "-"], "--input - reads a table and needs --output -"),
        (["--input", "-", "--output", "x.csv"], "--input - writes to standard output"),
        (["--input", "x.csv", "--follow"], "--follow needs --output -"),
        (["--input", "x.csv", "--input", "y.csv", "--follow", "--output", "-"], "--follow reads one file"),
        (["--input", "x.csv", "--output", "y.csv", "--format", "csv"], "--format is that of standard input"),
        (["--input", "none.csv", "--output", "-", "--follow"], "none.csv does not exist"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    cli: Cli, classifier: Artifact, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "x.csv").write_text("text\nfine\n")
    done = cli("predict", classifier.folder, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


# -- following ---------------------------------------------------------------------------------------


@contextmanager
def following(artifact: Artifact, folder: Path, *arguments: str, stdin: Any = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "fastserve_core", "predict", str(artifact.folder), "--output", "-", "--follow"]
    process = subprocess.Popen(
        [*command, *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stream(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def test_appended_lines_are_answered_at_once_until_a_signal(classifier: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text('{"id": 1, "text": "good"}\n')
    with following(classifier, tmp_path, "--input", "posts.jsonl") as process:
        assert json.loads(stream(process).readline())["id"] == 1
        for line, key in [
            ('{"id": 2, "text": "bad"}', "label"),
            ("not json", "error"),
            ('{"id": 3, "text": "x"}', "label"),
        ]:
            with path.open("a") as file:
                file.write(line + "\n")
            assert json.loads(stream(process).readline())[key]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "posts.jsonl:3: not valid JSON" in err
    assert "4 rows, 1 without an answer" in err


def test_standard_input_is_followed_until_it_ends(classifier: Artifact, tmp_path: Path) -> None:
    with following(classifier, tmp_path, "--input", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write("text,id\ngood,1\n")
        process.stdin.flush()
        assert stream(process).readline().startswith("text,id,label,score")
        assert stream(process).readline().startswith("good,1,")
        out, _ = process.communicate("bad,2\nno line end,3", timeout=60)
    assert process.returncode == 0
    assert [line.split(",")[1] for line in out.splitlines()] == ["2", "3"]


# -- from Python -------------------------------------------------------------------------------------


@pytest.mark.slow(1)
@given(st.lists(st.sampled_from(["good", "a long and moving story " * 5, "", 3]), max_size=9), st.integers(1, 4))
def test_a_stream_keeps_the_order_and_reads_one_window_ahead(model: FastServe, texts: list[Any], window: int) -> None:
    read = 0

    def inputs() -> Iterator[Any]:
        nonlocal read
        for read, text in enumerate(texts, 1):  # noqa: B007 - the assertion below reads it
            yield text

    expected = {text: model.predict([text])[0]["label"] for text in ("good", "a long and moving story " * 5)}
    answers = model.predict_stream(inputs(), window=window)
    assert read == 0
    for number, answer in enumerate(answers):
        assert number < read <= number // window * window + window
        assert answer.get("label") == expected.get(texts[number])
        assert ("error" in answer) == (texts[number] not in expected)
    assert read == len(texts)


def test_long_documents_end_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_CHARACTERS", 100)
    rows = [windows.InputRow("", {}, {"text": "a" * length}) for length in (30, 60, 20, 500, 10)]
    assert [[len(one.row["text"]) for one in window if one.row] for window in windows.iterate_windows(rows)] == [
        [30, 60, 20], [500], [10],
    ]  # fmt: skip


def test_batches_of_a_window_have_little_padding(classifier: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(classifier, threads=1)
    sizes: list[tuple[int, int]] = []
    collate = predictor.task.collate

    def record(batch: Any, targets: bool = False) -> Any:
        arrays = collate(batch, targets)
        sizes.append((arrays["input_ids"].size, int(arrays["attention_mask"].sum())))
        return arrays

    monkeypatch.setattr(predictor.task, "collate", record)
    texts = ["good " * (number % 40 + 1) for number in range(640)]
    assert len(list(windows.stream_answers(predictor, texts, 640))) == 640
    padded, used = map(sum, zip(*sizes, strict=True))
    assert padded < 1.1 * used


def test_a_document_of_a_megabyte_and_mixed_scripts_are_answered(model: FastServe) -> None:
    texts = ["long " * 200_000, "好电影 good 👍🏽 фильм ﷽", "\u200b"]
    first, second, third = model.predict_stream(texts)
    assert first["truncated"] is True
    assert "label" in second
    assert ("label" in third) != ("error" in third)


def test_files_are_predicted_from_python(model: FastServe, tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"review\n{name}\n\n \n")
    result = model.predict_file(
        [tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out.jsonl", columns={"text": "review"}
    )
    assert (result.rows, result.bad_rows, result.output) == (4, 2, tmp_path / "out.jsonl")
    rows = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert [row["review"] for row in rows if not row["error"]] == ["a.csv", "b.csv"]
    with pytest.raises(OptionError, match="did you mean 'encoding'"):
        model.predict_file(tmp_path / "a.csv", tmp_path / "out.jsonl", encodin="utf-8")


def test_a_frame_keeps_its_index_and_columns(model: FastServe) -> None:
    frame = pd.DataFrame({"review": ["good", None, "bad"], "label": [1, 2, 3], 7: [0.5, 1, 2]}, index=["c", "a", "a"])
    scored = model.predict_frame(frame, columns={"text": "review"})
    assert list(scored.index) == ["c", "a", "a"]
    assert scored[list(frame.columns)].equals(frame)
    assert [bool(label) for label in scored["predicted_label"].notna()] == [True, False, True]
    assert "'text' is missing" in scored["error"].iloc[1]
    assert scored["predicted_label"].iloc[0] == model.predict(["good"])[0]["label"]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (["good"], "a DataFrame of pandas is needed, not list"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "two columns of the DataFrame have one name"),
        (pd.DataFrame({"headline": ["good"]}), "no column 'text'"),
    ],
)
def test_frames_that_cannot_be_read_are_refused(model: FastServe, frame: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        model.predict_frame(frame)
