"""Inputs of a verb that it changes: one message, and nothing is published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fastserve_core import hookimpl
from fastserve_core.errors import ModelError, StageError, VerbError
from fastserve_core.plugins import (
    StagedArtifact,
)
from fastserve_core.plugins.tests.strange_plugins import VERBS, Act, Case, StrangeCompressor, draft, good_result


def rewrite_in_secret(path: Path) -> None:
    """Other bytes of the same number, and the old times."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


INPUTS: list[tuple[Act, str]] = [
    (lambda run: (run.model.folder / "model.safetensors").write_bytes(b""), "changed .*model.safetensors"),
    (lambda run: rewrite_in_secret(run.model.folder / "model.safetensors"), "changed .*model.safetensors"),
    (lambda run: (run.model.folder / "config.json").unlink(), "removed .*config.json"),
    (lambda run: run.model.manifest.measures.update(size=0), "changed the manifest of"),
    (lambda run: setattr(run, "used", 1), "cannot assign to field|failed: FrozenInstanceError"),
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("change", "message"), INPUTS)
def test_a_changed_model_is_noticed(case: Case, verb: str, change: Act, message: str) -> None:
    def act(run: Any) -> Any:
        result = good_result(verb, run)
        change(run)
        return result

    with pytest.raises(StageError, match=f"{verb}.strange.*{message}"):
        case.call(verb, act)


def test_changed_data_and_options_are_noticed_also_after_a_failure(case: Case) -> None:
    with pytest.raises(VerbError, match="changed .*data.json: a verb may not change its inputs"):
        case.call("train", lambda run: (run.data.folder / "data.json").write_text("{}"))

    def act(run: Any) -> Any:
        rewrite_in_secret(run.model.folder / "tokenizer.json")
        raise ModelError("no such layer")

    with pytest.raises(VerbError, match="changed .*tokenizer.json.*; it also failed: no such layer"):
        case.call("compress", act)


def test_a_plugin_may_not_change_its_options(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def compress(self: Any, run: Any) -> Any:
        self.options.level = 3
        return StagedArtifact(draft(run))

    monkeypatch.setattr(StrangeCompressor, "compress", hookimpl(compress))
    with pytest.raises(VerbError, match="changed its option level from 1 to 3"):
        case.call("compress", print)


def test_a_model_that_is_touched_but_not_changed_is_accepted(case: Case) -> None:
    def act(run: Any) -> Any:
        (run.model.folder / "config.json").touch()
        return StagedArtifact(draft(run))

    assert case.call("compress", act).engine == "torch"
