"""``fastserve predict`` of files: read as training data is, in chunks, with the faults of each row."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Cli
from fastserve_core.artifacts import Artifact
from fastserve_core.cli import predict
from fastserve_server.tests.conftest import make_artifact


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("model") / "classifier", "text_classification")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("model") / "tagger", "token_classification")


@pytest.mark.slow(1)
def test_files_are_read_as_training_data_is(
    cli: Cli, tmp_path: Path, classifier: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "CHUNK_ROWS", 2)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress('id;review\n1;fine\n2;"two\nlines"\n'.encode("utf-16")))
    (tmp_path / "b.json").write_text('[{"review": "dull"}]')
    done = cli("predict", classifier.folder, "--input", "a.csv.gz", "--input", "b.json")
    assert done.returncode == 0, done.stderr
    assert [line.split("\t")[2] for line in done.stdout.splitlines()] == ["fine", "two lines", "dull"]
    assert "column 'review' is read as text (data.columns.text)" in done.stderr
    assert "fields are separated by ';'" in done.stderr
    done = cli("predict", classifier.folder, "--json", "--input", "*.json", "data.columns.text=review")
    (answer,) = map(json.loads, done.stdout.splitlines())
    assert (answer["text"], set(answer)) == ("dull", {"text", "label", "score", "scores"})
    assert cli("predict", classifier.folder, "--json", "dull").stdout == done.stdout


def test_several_files_follow_the_option(cli: Cli, tmp_path: Path, classifier: Artifact) -> None:
    for name in ("a.csv", "b.csv", "data.x=c.csv"):
        (tmp_path / name).write_text(f"review\n{name}\n")
    done = cli("predict", classifier.folder, "--input", "a.csv", "b.csv", "data.columns.text=review")
    assert done.returncode == 0, done.stderr
    assert [line.split("\t")[2] for line in done.stdout.splitlines()] == ["a.csv", "b.csv"]
    refused = cli("predict", classifier.folder, "--input", "a.csv", "none.csv")
    assert (refused.returncode, "'none.csv' is none" in refused.stderr) == (2, True)


def test_lists_of_words_are_inputs(cli: Cli, tmp_path: Path, tagger: Artifact) -> None:
    (tmp_path / "x.csv").write_text("tokens,tags\n\"['New', 'York']\",\"['O', 'O']\"\n")
    (answer,) = map(json.loads, cli("predict", tagger.folder, "--json", "--input", "x.csv").stdout.splitlines())
    assert answer["tokens"] == ["New", "York"]
    assert len(answer["tags"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "x.csv"], "x.csv:3: 2 fields, but the header has 1; data.max_bad_rows=1 leaves out as many rows"),
        (["--input", "none.csv"], "--input: the file"),
        (["--input", "other.csv"], "no column 'text'"),
        (["--input", "latin.csv"], "data.encoding=cp1252 reads the line as 'café'"),
        (["--input", "x.csv", "some text"], "only options of data: 'some text' is none"),
        (["--input", "x.csv", "data.encodin=utf-8"], "data has no option 'encodin'; did you mean 'encoding'"),
        (["--input", "x.csv", "--pair", "x"], "--pair is for texts"),
    ],
)
def test_wrong_input_is_refused(
    cli: Cli, tmp_path: Path, classifier: Artifact, arguments: list[str], said: str
) -> None:
    (tmp_path / "x.csv").write_text("text\nfine\ntoo,many\n")
    (tmp_path / "other.csv").write_text("headline\nfine\n")
    (tmp_path / "latin.csv").write_bytes(b"text\ncaf\xe9\n")
    done = cli("predict", classifier.folder, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_that_may_be_left_out_are_reported(cli: Cli, tmp_path: Path, classifier: Artifact) -> None:
    (tmp_path / "x.csv").write_text("text\nfine\ntoo,many\n \ngood\n")
    done = cli("predict", classifier.folder, "--input", "x.csv", "data.max_bad_rows=2")
    assert len(done.stdout.splitlines()) == 2
    assert "left out: " in done.stderr
    assert "x.csv:4: an input cannot be used: 'text' is empty" in done.stderr


def test_a_text_that_is_a_files_name_is_reported(cli: Cli, tmp_path: Path, classifier: Artifact) -> None:
    (tmp_path / "x.csv").write_text("text\nfine\n")
    done = cli("predict", classifier.folder, "x.csv", "好" * 200)
    assert done.returncode == 0
    assert "'x.csv' is predicted for as a text; --input x.csv reads the file" in done.stderr
    assert done.stderr.count("--input") == 1


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        ([], b"fine\ncaf\xe9\n", "standard input, line 2: byte 4 is not UTF-8"),
        ([b"caf\xe9"], b"", "an argument is not text in the terminal's encoding"),
    ],
)
def test_text_that_is_not_utf8_is_refused(
    tmp_path: Path, classifier: Artifact, arguments: list[bytes], given: bytes, said: str
) -> None:
    command = [sys.executable, "-m", "fastserve_core", "predict", str(classifier.folder)]
    done = subprocess.run([*command, *map(os.fsdecode, arguments)], input=given, capture_output=True, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_standard_input_has_a_text_a_line(tmp_path: Path, classifier: Artifact) -> None:
    command = [sys.executable, "-m", "fastserve_core", "predict", str(classifier.folder)]
    given = b"\xef\xbb\xbffine\r\n\r\n\xe5\xa5\xbd\n"
    done = subprocess.run(command, input=given, capture_output=True, cwd=tmp_path)
    assert [line.split("\t")[2] for line in done.stdout.decode().splitlines()] == ["fine", "好"]
