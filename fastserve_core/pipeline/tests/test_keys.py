"""What a stage's result is kept under: whatever decides it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from fastserve_core.pipeline.keys import stage_result_id
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.base import Trainer
from fastserve_core.plugins.requests import Budget


@dataclass
class Options:
    lr: float = 0.1
    show: bool = False


class Plugin(Trainer):
    not_in_key = ("show",)


def name(**changed: Any) -> str:
    """The name in the store, with one of the things that it may depend on changed."""
    given: dict[str, Any] = {
        "lr": 0.1, "show": False, "version": "1", "plugin": "toy", "seed": 0, "engine": "auto", "task": "some",
        "max_length": 8, "data": "abc", "model": "def", "steps": None,
    } | changed  # fmt: skip
    task = SimpleNamespace(name=given["task"], options=SimpleNamespace(max_length=given["max_length"]))
    general = SimpleNamespace(seed=given["seed"], engine=given["engine"])
    settings: Any = SimpleNamespace(task=task, general=general, registry=SimpleNamespace(trainer=None))
    model: Any = SimpleNamespace(digest=given["model"])
    data: Any = SimpleNamespace(fingerprint=given["data"])
    none: Any = None
    active: Any = SimpleNamespace(
        section="train", name=given["plugin"], version=given["version"], path="train.toy", plugin=Plugin(None),
        options=Options(given["lr"], given["show"]),
    )  # fmt: skip
    session = Session(settings, none, data, none, budget=Budget(steps=given["steps"]))
    return stage_result_id(session, active, model)


@pytest.mark.parametrize(
    "changed",
    [
        *({"lr": 0.2}, {"version": "2"}, {"plugin": "other"}, {"seed": 1}, {"engine": "torch"}, {"task": "another"}),
        *({"max_length": 9}, {"data": "abd"}, {"model": "dee"}, {"steps": 5}),
    ],
    ids=str,
)
def test_the_name_of_a_result_depends_on_its_inputs(changed: dict[str, Any]) -> None:
    assert name(**changed) != name() == name()


def test_the_name_of_a_result_depends_on_nothing_else() -> None:
    assert name(show=True) == name()
