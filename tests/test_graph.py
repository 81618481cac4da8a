"""``fastserve graph``: the facts of files as one graph; what is left out is counted."""

from __future__ import annotations

import csv
import json
import shutil
from itertools import permutations
from pathlib import Path

import pytest
from tiny_training import train_tiny

from conftest import Cli
from fastserve_core.artifacts import Manifest, hash_files, write_manifest
from fastserve_core.tasks import load_task


@pytest.fixture(scope="session")
def matchmaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds ``likes`` between any two marked entities."""
    task = load_task("relation_classification", {"max_length": 32}, ["Other", "likes(e1,e2)"])
    pairs = list(permutations(("Ann", "Bob", "Carl", "Rob"), 2)) * 5
    rows = [
        {"text": f"<e1>{one}</e1> met <e2>{other}</e2> far away", "relation": task.labels[1]} for one, other in pairs
    ]
    assert {task.check(row) for row in rows} == {None}
    return train_tiny(task, rows, tmp_path_factory.mktemp("matchmaker"), epochs=4)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with two files of texts."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("<e1>Ann</e1> met <e2>Bob</e2>\n\nno marks here\n<e1>ann</e1> met <e2>BOB</e2>\n")
    filler = "far away " * 60
    rows = [f"<e1>Bob</e1> met <e2>Rob</e2> {filler}", "<e1>Carl</e1> met <e2>Ann</e2>"]
    (folder / "b.csv").write_text("text\n" + "\n".join(rows) + "\n")
    return folder


def read_rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [[*row[:3], row[4]] for row in csv.reader(file)]


@pytest.mark.slow(1)
def test_the_graph_of_a_folder(cli: Cli, matchmaker: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "aliases.csv").write_text("alias,name\nRob,Robert\nBob,Robert\n")
    done = cli("graph", matchmaker, texts, "--output", "graph.csv", "--aliases", "aliases.csv")
    assert not done.returncode, done.stderr
    assert (done.returncode, done.stdout) == (0, "graph.csv: 3 entities, 2 relations, 5 texts\n")
    assert read_rows(tmp_path / "graph.csv") == [
        ["head", "relation", "tail", "count"],
        ["Ann", "likes", "Robert", "2"],
        ["Carl", "likes", "Ann", "1"],
    ]
    assert "a.txt:3: an input cannot be used: 'text' has no marks" in done.stderr
    assert "warning: 1 of 5 rows cannot be used:" in done.stderr
    assert "warning: 1 of 5 texts were truncated to the model's maximum length" in done.stderr
    assert "1 facts left out: one entity as subject and object" in done.stderr
    before = (tmp_path / "graph.csv").read_bytes()
    assert cli("graph", matchmaker, texts, "--output", "graph.csv", "--aliases", "aliases.csv").returncode == 0
    assert (tmp_path / "graph.csv").read_bytes() == before


def test_facts_below_a_score_are_left_out(cli: Cli, matchmaker: Path, texts: Path, tmp_path: Path) -> None:
    files = [texts / "b.csv", "data.separator=comma"]
    done = cli("graph", matchmaker, *files, "--output", "graph.jsonld", "--min-score", "1")
    assert (done.returncode, done.stdout) == (0, "graph.jsonld: 0 entities, 0 relations, 2 texts\n")
    assert "2 facts left out: a score below 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "graph.txt"], "unsupported file type graph.txt; supported: .csv, .graphml, .jsonld, .svg"),
        (["--output", "none/graph.csv"], "--output: the folder none does not exist"),
        (["--output", "graph.csv", "--min-score", "2"], "--min-score must lie between 0 and 1, not 2"),
        (["--output", "graph.csv", "--aliases", "none.csv"], "none.csv does not exist"),
        ([], "the following arguments are required: --output"),
        (["--output", "graph.csv", "data.encodin=x"], "data has no option 'encodin'; did you mean"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(cli: Cli, matchmaker: Path, texts: Path, arguments: list[str], message: str) -> None:
    done = cli("graph", matchmaker, texts, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_without_facts_is_refused(cli: Cli, matchmaker: Path, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(matchmaker, folder)
    manifest = json.loads((folder / "fastserve.json").read_text())
    given = ("text_classification", {}, tuple(manifest["labels"]), manifest["runtime"], tuple(manifest["lineage"]))
    write_manifest(folder, Manifest(*given, hash_files(folder, exclude=["fastserve.json"])))
    done = cli("graph", folder, texts, "--output", "graph.csv")
    assert done.returncode == 2
    assert "the model's task is text_classification, whose answers have no facts" in done.stderr
