"""``fastserve monitor``: posts are scored with their targets, counted by day, and drawn."""

from __future__ import annotations

import csv
import json
import math
import re
import signal
import statistics
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

from fastserve_core.artifacts import Artifact
from fastserve_core.config import DataOptions
from fastserve_core.errors import DataError, OptionError, PlanError, UserError
from fastserve_core.events import Event, Notice, WarningRaised
from fastserve_core.inference import Predictor
from fastserve_opinion import Monitor
from fastserve_server.tests.conftest import biased, make_artifact


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("model") / "classifier", "text_classification")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("model") / "tagger", "token_classification")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_artifact(tmp_path_factory.mktemp("model") / "writer", "causal_lm")


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def monitor(artifact: Artifact, *arguments: str) -> list[str]:
    """Run the command in this process; return its messages."""
    command, messages = Monitor(), list[str]()
    parser = ArgumentParser()
    command.add_arguments(parser)

    def emit(event: Event) -> None:
        if isinstance(event, (Notice, WarningRaised)):
            messages.append(event.message)

    options = parser.parse_args([str(artifact.folder), *arguments])
    assert command.run(options, DataOptions(), emit) == 0
    return messages


def write_posts(path: Path, posts: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(post) + "\n" for post in posts))


POSTS = [{"created_at": f"2026-03-{day:02}", "text": f"film {number} of Acme", "brand": "<script>alert(1)</script>"}
         for day in (1, 2, 4) for number in range(4)]  # fmt: skip


@pytest.mark.slow(1)
def test_shares_and_the_page_are_written(
    classifier: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"created_at": "2026-03-04", "text": "a long post " * 90_000, "brand": "Borealis"}
    write_posts(tmp_path / "posts.jsonl", [*POSTS, long, {"created_at": "never", "text": "Acme"}])
    messages = monitor(
        classifier,
        "--input",
        "posts.jsonl",
        "--target-column",
        "brand",
        "--shares",
        "shares.csv",
        "--page",
        "page.html",
    )
    assert any("'created_at' is 'never', not a time" in message for message in messages)
    assert "1 posts were truncated to the model's maximum length" in messages
    out = capsys.readouterr().out
    assert "14 posts, 1 left out, 0 without a target, 0 alarms" in out
    rows = list(csv.DictReader((tmp_path / "shares.csv").open()))
    assert [row["day"] for row in rows[::2]] == ["2026-03-01", "2026-03-02", "2026-03-04", "2026-03-04"]
    predictor = Predictor(classifier, threads=1)
    answers = predictor.predict([{"text": post["text"], "text_pair": post["brand"]} for post in POSTS[:4]])
    for row in rows[:2]:
        assert float(row["share"]) == sum(answer["label"] == row["label"] for answer in answers) / 4
    page = (tmp_path / "page.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"<script|https?://|<link|<img", page)
    assert page.count("<polyline") == 2 * 2
    assert page.count("<title>2026-03-04") == 2 * 2


def test_the_label_depends_on_the_target_unless_the_model_reads_texts(classifier: Artifact, tmp_path: Path) -> None:
    write_posts(tmp_path / "posts.jsonl", POSTS[:4])
    (tmp_path / "targets.txt").write_text("Acme\nfilm\n")
    predictor, asked = Predictor(classifier, threads=1), list[Any]()
    encoder = type(predictor.task).encoder

    def record(task: Any, folder: Path) -> Any:
        encode = encoder(task, folder)
        return lambda rows: asked.extend(rows) or encode(rows)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(predictor.task), "encoder", record)
        monitor(classifier, "--input", "posts.jsonl", "--targets", "targets.txt")
        assert [row["text_pair"] for row in asked] == ["film", "Acme"] * 4
        asked.clear()
        monitor(classifier, "--input", "posts.jsonl", "--targets", "targets.txt", "--text-only")
        assert [row.keys() for row in asked] == [{"text"}] * 8


def test_entities_of_a_model_are_targets(classifier: Artifact, tagger: Artifact, tmp_path: Path) -> None:
    write_posts(tmp_path / "posts.jsonl", POSTS)
    found = {span["word"] for answer in Predictor(tagger, threads=1).predict([post["text"] for post in POSTS])
             for span in answer["spans"]}  # fmt: skip
    monitor(classifier, "--input", "posts.jsonl", "--entities", str(tagger.folder), "--shares", "shares.csv")
    rows = csv.DictReader((tmp_path / "shares.csv").open())
    assert {row["target"] for row in rows} == found


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["--target-column", "brand", "--label", "negativ"], OptionError, "did you mean 'negative'"),
        (["--target-column", "brand", "--page", "none/x.html"], DataError, "the folder of none/x.html does not exist"),
        (["--target-column", "brand", "--time", "day"], DataError, "none of the 12 posts can be used"),
        (["--targets", "none.txt"], DataError, "none.txt cannot be read"),
        (["--entities", "CLASSIFIER"], PlanError, "the model finds no entities"),
        (["--target-column", "brand", "--input", "-"], OptionError, "without further files"),
        (["--target-column", "brand", "--text-only"], PlanError, "gives each text one label is needed, not causal_lm"),
    ],
)
def test_wrong_input_is_refused(
    classifier: Artifact, writer: Artifact, tmp_path: Path, arguments: list[str], kind: type[UserError], said: str
) -> None:
    write_posts(tmp_path / "posts.jsonl", POSTS)
    arguments = [str(classifier.folder) if one == "CLASSIFIER" else one for one in arguments]
    with pytest.raises(kind, match=said):
        monitor(writer if "causal_lm" in said else classifier, "--input", "posts.jsonl", *arguments)
    assert not (tmp_path / "opinion.html").exists()


@pytest.fixture(scope="module")
def split_classifier(classifier: Artifact, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, list[str]]:
    """A model with random weights that gives both labels, and a text for each."""
    texts = [f"{'word ' * (number % 9)}{number} Acme" for number in range(40)]
    pairs = [(text, "Acme") for text in texts]
    differences = []
    for answer in Predictor(classifier, threads=1).predict(pairs):
        negative, positive = answer["scores"].values()
        differences.append(math.log(negative / positive))
    folder = tmp_path_factory.mktemp("model") / "split"
    artifact = biased(classifier, folder, -statistics.median(differences))
    by_label: dict[str, str] = {}
    for text, answer in zip(texts, Predictor(artifact, threads=1).predict(pairs), strict=True):
        by_label.setdefault(answer["label"], text)
    return artifact, list(by_label.values())


@pytest.mark.slow(1)
def test_alarms_are_raised_while_posts_come(split_classifier: tuple[Artifact, list[str]], tmp_path: Path) -> None:
    artifact, (first, second) = split_classifier
    (tmp_path / "targets.txt").write_text("Acme\n")
    write_posts(tmp_path / "posts.jsonl", [{"created_at": "2026-03-01", "text": first}] * 20)
    arguments = ["--input", "posts.jsonl", "--targets", "targets.txt", "--follow", "--min-posts", "10"]
    command = [sys.executable, "-m", "fastserve_core", "monitor", str(artifact.folder), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with (tmp_path / "posts.jsonl").open("a") as file:
            file.write((json.dumps({"created_at": "2026-03-02", "text": second}) + "\n") * 20)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ALARM 2026-03-02 Acme: ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err
    assert "page: opinion.html" in out
    assert "ALARM 2026-03-02" in (tmp_path / "opinion.html").read_text()
