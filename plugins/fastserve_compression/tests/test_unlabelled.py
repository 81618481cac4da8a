"""Texts without labels: what is refused, what they are to the loss, and that they change what is learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli
from fastserve_compression.distillation import DistillOptions
from fastserve_core.artifacts import Store, read_json
from fastserve_core.config import DataOptions
from fastserve_core.data import Dataset, UnlabelledFiles, add_unlabelled, prepare_rows
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import UNLABELLED, count_labels, load_task
from fastserve_torch_ddp.data.tokens import TokenDataset, tokenize

LABELLED = [{"text": f"text {number}", "label": str(number % 2)} for number in range(30)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def prepared(store: Store, rows: list[dict[str, str]] = LABELLED) -> Dataset:
    return prepare_rows({"train": rows}, DataOptions(), load_task("text_classification", {}), store)


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("more.csv", "wordy\na\n", "more.csv:2: no column 'text'"),
        ("more.csv", "", "is empty"),
        ("more.csv", "text\n", "has no rows"),
        ("more.csv", "text,text_pair\na,b\n", "this row has the column 'text_pair', the data has not"),
        ("more.jsonl", "{\n", "more.jsonl:1: not valid JSON"),
        ("more.jsonl", '{"text": " "}\n', "more.jsonl:1: an input cannot be used: 'text' is empty"),
        ("more.pdf", "x", "unsupported file type more.pdf; supported: .csv, "),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    store: Store, tmp_path: Path, name: str, written: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(written)
    texts, task = UnlabelledFiles([str(path)], DataOptions()), load_task("text_classification", {})
    with pytest.raises(DataError, match=said) as error:
        add_unlabelled(prepared(store), texts, task, store)
    assert str(error.value).startswith("compress.distill.unlabelled: ")


def test_a_missing_file_is_reported_when_the_options_are_read(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text\na\n")
    with pytest.raises(DataError, match="text.csv does not exist; did you mean 'texts.csv'"):
        DistillOptions(unlabelled=str(tmp_path / "text.csv"))
    with pytest.raises(OptionError, match="compress.distill.unlabelled must be a path or a list of paths, not 3"):
        DistillOptions(unlabelled=3)


def test_a_task_without_labels_is_refused(store: Store, tmp_path: Path) -> None:
    texts, task = UnlabelledFiles([str(tmp_path)], DataOptions()), load_task("causal_lm", {})
    with pytest.raises(DataError, match="causal_lm learns from texts as they are: add these to data.train"):
        add_unlabelled(prepared(store), texts, task, store)


def test_pairs_want_pairs(store: Store, tmp_path: Path) -> None:
    data = prepared(store, [one | {"text_pair": "b"} for one in LABELLED])
    (tmp_path / "a.csv").write_text("text,text_pair\nx,y\n")
    (tmp_path / "b.csv").write_text("text\nx\n")
    task = load_task("text_classification", {})
    found = add_unlabelled(data, UnlabelledFiles([str(tmp_path / "a.csv")], DataOptions()), task, store)
    assert found.rows("train")[-1] == {"text": "x", "text_pair": "y", "label": None}
    with pytest.raises(DataError, match="the data has the column 'text_pair', this row has not"):
        add_unlabelled(data, UnlabelledFiles([str(tmp_path / "b.csv")], DataOptions()), task, store)


def test_the_key_follows_the_bytes_and_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "b.txt").write_text("one\n")
    (tmp_path / "c.txt").write_text("two\n")
    (tmp_path / "d.csv").write_text("one\n")
    names = ["a.txt", "b.txt", "c.txt", "d.csv"]
    keys = [UnlabelledFiles([str(tmp_path / name)], DataOptions()).fingerprint() for name in names]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    options = DataOptions(encoding="cp1252")
    assert UnlabelledFiles([str(tmp_path / "a.txt")], options).fingerprint() != keys[0]


def test_they_are_tokenized_with_the_others_and_have_no_class(store: Store, tmp_path: Path, tiny_bert: Path) -> None:
    (tmp_path / "more.txt").write_text("a film\n\nanother film\n")
    data = prepared(store)
    task = load_task("text_classification", {}, data.labels)
    both = add_unlabelled(data, UnlabelledFiles([str(tmp_path / "more.txt")], DataOptions()), task, store)
    assert both.counts == {**data.counts, "train": data.counts["train"] + 2}
    assert list(both.rows("test")) == list(data.rows("test"))
    targets = [one.target for one in TokenDataset(tokenize(task, tiny_bert, both, "train"))]
    assert targets[-2:] == [UNLABELLED] * 2
    assert set(targets[:-2]) == {0, 1}
    assert sum(count_labels(targets, 2)) == data.counts["train"]


def test_words_without_tags_count_by_their_first_token(tiny_bert: Path) -> None:
    task = load_task("token_classification", {}, ["O", "B-X"])
    labelled, bare = task.encoder(tiny_bert)(
        [{"tokens": ["film", "story"], "tags": tags} for tags in (["O"] * 2, None)]
    )
    assert [one == UNLABELLED for one in bare.target] == [one >= 0 for one in labelled.target]


@pytest.mark.slow
def test_they_change_the_result_and_the_next_run_reuses_it(
    cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path, home: Path
) -> None:
    command = [
        "+plugin=[torch_ddp,prune,distill]", f"model={tiny_bert}", f"data={reviews}", "gate.enabled=false",
        "train.torch_ddp.epochs=1", "train.torch_ddp.lr=3e-3", "train.torch_ddp.nproc=2",
        "compress.distill.quantize_aware=int8", "compress.distill.augment=1",
    ]  # fmt: skip
    file = tmp_path / "more.txt"
    lines = []
    for texts in ("a superb film\na dreadful film\n" * 40, "boring story\nmoving story\n" * 40):
        file.write_text(texts)
        done = cli(*command, f"compress.distill.unlabelled={file}")
        assert done.returncode == 0, done.stderr + done.stdout
        lines.append(newest(tmp_path)["stages"][-1])
    moved = file.rename(tmp_path / "moved.txt")
    done = cli(*command, f"compress.distill.unlabelled={moved}")
    assert done.returncode == 0, done.stderr + done.stdout
    lines.append(newest(tmp_path)["stages"][-1])
    assert [one["status"] for one in lines] == ["done", "done", "reused"]
    assert lines[0]["digest"] != lines[1]["digest"] == lines[2]["digest"]
    counts = [read_json(one / "data.json")["counts"]["train"] for one in home.glob("store/data-unlabelled-*")]
    assert counts == [191 + 80 + 191] * 2


def newest(folder: Path) -> dict[str, Any]:
    path = max(folder.glob("outputs/*/*/run.json"), key=lambda one: one.stat().st_mtime)
    found: dict[str, Any] = json.loads(path.read_text())
    return found
