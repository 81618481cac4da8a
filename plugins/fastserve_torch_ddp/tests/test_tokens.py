"""Tokens are made once for what decides them, and come back from the disk as the encoder gave them."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions
from fastserve_core.data import Dataset, load_dataset, prepare_rows
from fastserve_core.errors import StageError
from fastserve_core.events import Event, WarningRaised
from fastserve_core.tasks import Encoded, Row, Task, load_task
from fastserve_torch_ddp.data import tokens
from fastserve_torch_ddp.data.columns import ColumnWriter, map_column
from fastserve_torch_ddp.data.tokens import TokenDataset, tokenize

WORDS = st.sampled_from(["the", "film", "is", "wonderful", "dreadful", "Ünïcode", "中文", "clumsy", "x" * 120, "1,000"])
TEXTS = st.lists(WORDS, min_size=1, max_size=40).map(" ".join)
PAIRS = st.fixed_dictionaries({"text": TEXTS, "text_pair": st.none() | TEXTS, "label": st.sampled_from("ab")})
TAGGED = st.lists(st.tuples(WORDS, st.sampled_from(["O", "B-x", "I-x"])), min_size=1, max_size=30).map(
    lambda pairs: {"tokens": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]}
)
PLAIN = st.fixed_dictionaries({"text": TEXTS})
FIXED: dict[str, list[Row]] = {
    "text_classification": [{"text": "the film", "label": "a"}, {"text": "is", "label": "b"}],
    "token_classification": [{"tokens": ["a", "b", "c"], "tags": ["O", "B-x", "I-x"]}],
    "causal_lm": [{"text": "the film is"}],
}


def prepared(name: str, rows: Sequence[Row], home: Path, **options: Any) -> tuple[Task, Dataset]:
    """A task with its labels, and data with those rows as its train split."""
    splits = {"train": [*FIXED[name], *rows], "validation": FIXED[name], "test": FIXED[name]}
    data = prepare_rows(splits, DataOptions(), load_task(name, options), Store(home))
    return load_task(name, options, data.labels), data


def plain(row: Encoded) -> tuple[dict[str, list[int]], Any]:
    """What can be compared: lists in place of arrays."""
    target = row.target.tolist() if isinstance(row.target, np.ndarray) else row.target
    return {name: list(map(int, ids)) for name, ids in row.inputs.items()}, target


@pytest.mark.parametrize(
    ("name", "rows"), [("text_classification", PAIRS), ("token_classification", TAGGED), ("causal_lm", PLAIN)]
)
@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_encoded_rows_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, name: str, rows: Any, data: st.DataObject
) -> None:
    given_rows = data.draw(st.lists(rows, max_size=12))
    task, ready = prepared(name, given_rows, tmp_path_factory.mktemp("home"), max_length=24)
    found, expected = (
        TokenDataset(tokenize(task, tiny_bert, ready, "train")),
        task.encoder(tiny_bert)(ready.rows("train")),
    )
    assert [plain(row) for row in found] == [plain(row) for row in expected]
    assert found.lengths.tolist() == [len(row) for row in expected]
    assert [plain(row) for row in found[1:]] == [plain(row) for row in expected[1:]]
    ours, theirs = task.collate(list(found), targets=True), task.collate(expected, targets=True)
    assert {key: (values.dtype, values.tolist()) for key, values in ours.items()} == {
        key: (values.dtype, values.tolist()) for key, values in theirs.items()
    }


@given(
    st.lists(st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 3), max_size=5), max_size=6)
    | st.lists(st.lists(st.integers(-9, 9) | st.floats(allow_nan=False), max_size=5), max_size=6)
    | st.lists(st.lists(st.just(7), max_size=5), max_size=6)
)
@example([[0.5], [0, 1]])  # whole numbers after a fraction that needed no file
def test_numbers_come_back_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[float]]
) -> None:
    folder = tmp_path_factory.mktemp("column")
    column = ColumnWriter(folder / "numbers")
    for chunk in chunks:
        column.add(np.asarray(chunk))
    found = map_column(folder / "numbers", json.loads(json.dumps(column.describe())))
    everything = [number for chunk in chunks for number in chunk]
    assert found.tolist() == everything
    assert (folder / "numbers").exists() == (len(set(everything)) > 1)


def test_missing_numbers_stay_missing(tmp_path: Path) -> None:
    column = ColumnWriter(tmp_path / "numbers")
    for values in ([math.nan, math.nan], [3.0], [math.nan]):
        column.add(np.asarray(values))
    found = map_column(tmp_path / "numbers", column.describe())
    assert np.array_equal(found, [math.nan, math.nan, 3.0, math.nan], equal_nan=True)


def test_files_are_narrow_and_grow_wider_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve_torch_ddp.data.columns.COPY_ELEMENTS", 7)
    column, types = ColumnWriter(tmp_path / "numbers"), []
    for value in (5, 5, 6, 300, -1, 70000, 2**40):
        column.add(np.full(10, value))
        types.append(column.describe()["type"])
    assert types == [None, None, "|u1", "<u2", "<i2", "<i4", "<i8"]
    found = map_column(tmp_path / "numbers", column.describe())
    assert found.tolist() == [value for value in (5, 5, 6, 300, -1, 70000, 2**40) for _ in range(10)]
    assert [path.name for path in tmp_path.iterdir()] == ["numbers"]


def test_many_chunks_give_the_same_as_one(
    home: Path, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"film number {number} " * (1 + number % 5), "label": "ab"[number % 2]} for number in range(60)]
    task, data = prepared("text_classification", rows, home)
    once = [plain(row) for row in TokenDataset(tokenize(task, tiny_bert, data, "train"))]
    for name, value in (("CHUNK_ROWS", 7), ("CHUNK_BYTES", 200)):
        monkeypatch.setattr(tokens, name, value)
        task, data = prepared("text_classification", rows, tmp_path / name)
        assert [plain(row) for row in TokenDataset(tokenize(task, tiny_bert, data, "train"))] == once


def counting(task: Task) -> list[int]:
    """Counts the rows that a task's encoders are given from now on."""
    made, seen = task.encoder, []

    def encoder(folder: Path) -> Callable[[Sequence[Row]], list[Encoded]]:
        encode = made(folder)

        def counted(rows: Sequence[Row]) -> list[Encoded]:
            seen.append(len(rows))
            return encode(rows)

        return counted

    task.encoder = encoder  # type: ignore[method-assign]
    return seen


def test_texts_are_tokenized_again_only_when_something_changed(home: Path, tmp_path: Path, tiny_bert: Path) -> None:
    model = shutil.copytree(tiny_bert, tmp_path / "model")
    rows = [{"text": "a wonderful film", "label": "a"}]

    def made(rows: Sequence[Row] = rows, split: str = "train", **options: Any) -> bool:
        task, data = prepared("text_classification", rows, home, **options)
        seen = counting(task)
        tokenize(task, model, data, split)
        return bool(seen)

    assert made()
    assert not made()
    assert made(split="validation")
    assert made(max_length=8)
    assert made(rows=[*rows, {"text": "another", "label": "b"}])
    (model / "model.safetensors").write_bytes(b"trained further")
    assert not made()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"id2label": {}}))
    assert not made()
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4}))
    assert made()
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text() + "\n")
    assert made()


def test_a_damaged_result_is_made_again_and_said(home: Path, tiny_bert: Path) -> None:
    task, data = prepared("text_classification", [{"text": "a wonderful film", "label": "a"}], home)
    folder = tokenize(task, tiny_bert, data, "train")
    whole = [plain(row) for row in TokenDataset(folder)]
    for name in ("input-input_ids", "tokens.json", "offsets"):
        told: list[Event] = []
        tokenize(task, tiny_bert, data, "train", told.append)
        assert told == []
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        assert tokenize(task, tiny_bert, data, "train", told.append) == folder
        assert [type(event) for event in told] == [WarningRaised]
        assert [plain(row) for row in TokenDataset(folder)] == whole


def test_a_task_that_labels_only_some_rows_is_refused(home: Path, tiny_bert: Path) -> None:
    task, data = prepared("text_classification", [], home)
    with pytest.raises(StageError, match="returned no target for 1 of 2 rows"):
        tokenize(load_task("text_classification", {}, ["a"]), tiny_bert, data, "train")
    assert task.labels == ["a", "b"]


def _work(home: str, model: str, data: str, log: str) -> None:
    task = load_task("text_classification", {}, load_dataset(Path(data)).labels)
    seen = counting(task)
    folder = tokenize(task, Path(model), load_dataset(Path(data)), "train")
    with Path(log).open("a") as file:
        file.write(json.dumps([sum(seen), plain(TokenDataset(folder)[0])]) + "\n")


@pytest.mark.slow
def test_of_several_processes_one_tokenizes(home: Path, tmp_path: Path, tiny_bert: Path) -> None:
    rows = [{"text": f"film {number}", "label": "a"} for number in range(5000)]
    task, data = prepared("text_classification", rows, home)
    context, log = multiprocessing.get_context("spawn"), tmp_path / "log"
    arguments = (str(home), str(tiny_bert), str(data.folder), str(log))
    workers = [context.Process(target=_work, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    made = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(count for count, _ in made) == [0, 0, 5002]
    assert made[0][1] == made[1][1] == made[2][1]
    there = TokenDataset(tokenize(task, tiny_bert, data, "train"))
    assert plain(pickle.loads(pickle.dumps(there))[-1]) == plain(there[-1])


HALFWAY = """
import sys, time
from pathlib import Path
from fastserve_core.data import load_dataset
from fastserve_core.tasks import load_task
from fastserve_torch_ddp.data import tokens
model, data = Path(sys.argv[1]), load_dataset(Path(sys.argv[2]))
tokens.CHUNK_ROWS = 10
task = load_task("text_classification", {}, data.labels)
made, count = task.encoder, 0
def encoder(folder):
    encode = made(folder)
    def slow(rows):
        global count
        count += 1
        if count == 3:
            print("halfway", flush=True)
            time.sleep(60)
        return encode(rows)
    return slow
task.encoder = encoder
tokens.tokenize(task, model, data, "train")
"""


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_published(home: Path, tiny_bert: Path) -> None:
    rows = [{"text": f"film {number}", "label": "a"} for number in range(50)]
    task, data = prepared("text_classification", rows, home)
    arguments = [sys.executable, "-c", HALFWAY, str(tiny_bert), str(data.folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "halfway\n"
        child.send_signal(signal.SIGKILL)
    assert list((home / "partial").glob("tokens-train-*/tokens/input-input_ids"))
    assert not list((home / "store").glob("tokens-*"))
    found = TokenDataset(tokenize(task, tiny_bert, data, "train"))
    assert [plain(row) for row in found] == [plain(row) for row in task.encoder(tiny_bert)(data.rows("train"))]
    assert not list((home / "partial").glob("tokens-*"))


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from fastserve_core.data import prepare_dataset
from fastserve_core.config import DataOptions
from fastserve_core.tasks import load_task
from fastserve_core.artifacts import Store
from fastserve_torch_ddp.data.tokens import TokenDataset, tokenize
model, texts, home, room = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
load_task("text_classification", {}).encoder(model)([{"text": "a first one"}] * 10)  # loads what is loaded once
generator = np.random.default_rng(0)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
used = 1024 * int(status["VmData"].split()[0])
resource.setrlimit(resource.RLIMIT_DATA, (used + room, used + room))
try:
    texts.read_bytes()
except MemoryError:
    print("the texts do not fit")
task = load_task("text_classification", {})
data = prepare_dataset(DataOptions(train=str(texts)), task, Store(home), print)
task = load_task("text_classification", {}, data.labels)
rows = TokenDataset(tokenize(task, model, data, "train"))
for batch in generator.integers(len(rows), size=(20, 32)):
    arrays = task.collate([rows[place] for place in batch.tolist()], targets=True)
    assert arrays["input_ids"].shape[0] == 32 and set(arrays["labels"].tolist()) == {0, 1}
print(sum(data.counts.values()), len(rows))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux bounds what mmap takes for data")
def test_data_larger_than_memory_is_prepared_tokenized_and_read(home: Path, tmp_path: Path, tiny_bert: Path) -> None:
    rows, room, long = 20_000, 20_000_000, "y" * 150  # of so long a word the tokenizer makes one token
    texts = tmp_path / "texts.csv"
    with texts.open("w") as file:
        file.write("text,label\n")
        file.writelines(f"film number {row} {' '.join([long] * 30)},{'ab'[row % 2]}\n" for row in range(rows))
    assert texts.stat().st_size > 4 * room
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tiny_bert), str(texts), str(home), str(room)],
        capture_output=True,
        text=True,
        env=os.environ | {"RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},  # an arena for a thread takes memory
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the texts do not fit", f"{rows} {rows * 8 // 10}"]
