"""Results that break a rule for verbs: one message with plugin, verb and rule."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastserve_core.errors import StageError, VerbError
from fastserve_core.events import Preflight
from fastserve_core.plugins import (
    StagedArtifact,
)
from fastserve_core.plugins.tests.strange_plugins import VERBS, Act, Case, draft, good_result, raises


@pytest.mark.parametrize("verb", VERBS)
def test_a_result_that_keeps_the_rules_is_returned(case: Case, verb: str) -> None:
    result = case.call(verb, lambda run: good_result(verb, run))
    assert type(result) is type(good_result(verb, SimpleNamespace(model=case.model, clean_folder=lambda: case.work)))
    assert not case.warnings


class Stop(BaseException):
    pass


@pytest.mark.slow(1)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda _: sys.exit(0), "called sys.exit\\(0\\): a verb returns its result"),
        (lambda _: sys.exit("done"), "called sys.exit\\('done'\\)"),
        (raises(Stop("now")), "failed: Stop: now"),
        (raises(RecursionError("deep")), "failed: RecursionError: deep"),
        (raises(MemoryError()), "ran out of memory"),
        (lambda _: None, "returned NoneType: |returned NoneType without"),
        (lambda _: "a/path", "returned a str"),
        (lambda run: run.folder, "returned a PosixPath"),
        (lambda _: [1, 2], "returned a list"),
        (lambda _: StagedArtifact, "returned a type"),
    ],
)
def test_an_end_or_a_result_of_another_kind_names_plugin_and_verb(
    case: Case, verb: str, act: Act, message: str
) -> None:
    with pytest.raises(StageError, match=message) as caught:
        case.call(verb, act)
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(f"{verb}.strange")
    assert len(str(caught.value).splitlines()) == 1


def test_an_estimate_of_another_kind_is_refused(case: Case) -> None:
    assert case.call("preflight", lambda _: None) is None
    assert isinstance(case.call("preflight", lambda _: Preflight(1, 1, 1, 1, 1.0, 1)), Preflight)
    with pytest.raises(VerbError, match="train.strange: 'preflight' returned an int: it must return a Preflight"):
        case.call("preflight", lambda _: 12)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"lr": 0.1}, "returned the option 'lr', which it does not search; it searches train.x.lr"),
        ({"train.x.lr": float("nan")}, "returned train.x.lr=nan"),
        ({"train.x.lr": Path("x")}, "a value must be one that JSON has"),
        ({"train.x.lr": (1, 2)}, "a value must be one that JSON has"),
        ({1: 2}, "returned the option 1"),
    ],
)
def test_options_that_were_not_searched_are_refused(case: Case, result: Any, message: str) -> None:
    with pytest.raises(VerbError, match=message):
        case.call("tune", lambda _: result)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folder": "text"}, "whose folder is a str"),
        ({"engine": "tensorrt"}, "returned the engine 'tensorrt': it must be one of"),
        ({"form": "engine"}, "returned the form 'engine': it must be 'trainable'"),
        ({"labels": "ab"}, "returned the labels 'ab'"),
        ({"labels": ("a", "a")}, "must be different texts"),
        ({"labels": (0, 1)}, "must be different texts"),
        ({"scores": [0.5]}, "returned the scores"),
        ({"scores": {"accuracy": "high"}}, "returned the scores"),
        ({"costs": None}, "returned the costs None"),
        ({"steps": 1.5}, "returned 1.5 steps"),
    ],
)
def test_fields_of_other_types_are_refused(case: Case, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VerbError, match=f"compress.strange: 'compress' .*{message}"):
        case.call("compress", lambda run: StagedArtifact(**{"folder": draft(run), **fields}))


def change_owner(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


def write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", b"")


FILES: list[tuple[Act, str]] = [
    (lambda folder: (folder / "weights.bin").write_bytes(pickle.dumps({"a": 1})), "weights.bin, a pickle"),
    (lambda folder: (folder / "head.npz.txt").write_bytes(pickle.dumps([1], protocol=2)), "head.npz.txt, a pickle"),
    (lambda folder: (folder / "optimizer.pt").touch(), "optimizer.pt, a pickle"),
    (lambda folder: (folder / "old").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), "old, a pickle"),
    (lambda folder: write_archive(folder / "pytorch.safe"), "pytorch.safe, a pickle"),
    (lambda folder: (folder / "table").symlink_to("/etc/hostname"), "table, a link to /etc/hostname"),
    (lambda folder: (folder / "table").symlink_to("config.json"), "table, a link to config.json"),
    (lambda folder: (folder / "parts").symlink_to(folder.parent), "parts, a link to"),
    (lambda folder: os.mkfifo(folder / "pipe"), "pipe, which is neither a file nor a folder"),
    (lambda folder: os.link(folder / "config.json", folder / "again"), "again, which is also linked"),
    (lambda folder: change_owner(folder / "config.json"), "config.json, which belongs to the user 12345"),
    (lambda folder: (folder / "a\nb").touch(), "a name must be printable"),
    (lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch(), "a name must be printable"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "a model without a tokenizer"),
    (lambda folder: (folder / "config.json").unlink(), "no model: .* has no config.json"),
    (lambda folder: (folder / "model.safetensors").unlink(), "no model: .* no weights"),
    (shutil.rmtree, "which does not exist"),
]


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("verb", "change", "message"), [("compress", *one) for one in FILES] + [("train", *one) for one in FILES[:1]]
)
def test_files_that_a_model_may_not_have_are_refused(case: Case, verb: str, change: Act, message: str) -> None:
    def act(run: Any) -> StagedArtifact:
        folder = draft(run)
        change(folder)
        return StagedArtifact(folder)

    with pytest.raises(VerbError, match=f"{verb}.strange: '{verb}' returned .*{message}"):
        case.call(verb, act)


def test_weights_that_begin_like_a_pickle_are_not_one(case: Case) -> None:
    def act(run: Any) -> StagedArtifact:
        folder = draft(run)
        (folder / "openvino_model.bin").write_bytes(b"\x80\x02" + bytes(100))
        with zipfile.ZipFile(folder / "words.zip", "w") as archive:
            archive.writestr("words.txt", "a")
        return StagedArtifact(folder)

    assert isinstance(case.call("compress", act), StagedArtifact)


@pytest.mark.parametrize("verb", ["compress", "train"])
def test_a_result_outside_of_the_work_folder_is_refused(case: Case, verb: str) -> None:
    other_disk = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=other_disk) as elsewhere,
        pytest.raises(VerbError, match=re.escape(elsewhere) + "/draft: it must be in the work folder"),
    ):
        case.call(verb, lambda run: StagedArtifact(Path(shutil.copytree(draft(run), Path(elsewhere, "draft")))))
    with pytest.raises(VerbError, match="must be in the work folder"):
        case.call(verb, lambda run: StagedArtifact(run.model.folder))

    def link(run: Any) -> StagedArtifact:
        (run.folder / "shortcut").unlink(missing_ok=True)
        (run.folder / "shortcut").symlink_to(run.model.folder)
        return StagedArtifact(run.folder / "shortcut")

    with pytest.raises(VerbError, match="must be in the work folder"):
        case.call(verb, link)
