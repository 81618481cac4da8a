"""Recipes: the number that a trial gets, what a tuner may search, and a real search that goes on after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Cli, on_torch
from fastserve_core.config.nodes import GateOptions
from fastserve_core.errors import FastServeError, PlanError
from fastserve_core.pipeline.recipe_trial import score_recipe
from fastserve_core.pipeline.search_scope import (
    check_search,
    searched_stages,
    searches_compressors_only,
    training_options,
)
from fastserve_core.plugins.registry import Registry
from fastserve_core.tasks.load import load_task

GATE = GateOptions(max_quality_drop=0.01)
TIMES = st.lists(st.floats(0.01, 100), min_size=3, max_size=3)


def test_twice_as_good_in_all_three_is_one() -> None:
    assert score_recipe([2.0, 2.0, 2.0], 0.0, False, GATE) == 1.0
    assert score_recipe([4.0, 1.0, 0.25], 0.0, False, GATE) == 0.0


def test_losses_within_the_gate_cost_nothing_and_more_cost_in_proportion() -> None:
    assert score_recipe([2.0] * 3, 0.01, False, GATE) == 1.0
    assert score_recipe([2.0] * 3, 0.02, False, GATE) == pytest.approx(0.0)
    assert score_recipe([2.0] * 3, 0.03, False, GATE) == pytest.approx(-1.0)
    assert score_recipe([2.0] * 3, -0.5, False, GATE) == 1.0
    assert score_recipe([1.0] * 3, 0.02, False, GateOptions(max_quality_drop=0.0)) == pytest.approx(-2.0)


@given(TIMES, st.floats(0, 1), st.floats(0, 1))
def test_it_never_rises_with_the_loss(times: list[float], one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert score_recipe(times, less, False, GATE) >= score_recipe(times, more, False, GATE)


@given(TIMES, TIMES)
def test_a_refused_model_scores_below_every_accepted_one(refused: list[float], accepted: list[float]) -> None:
    assert score_recipe(refused, 0.0, True, GATE) < score_recipe(accepted, 0.0, False, GATE)


def registry(space: dict[str, object], *places: str) -> Registry:
    made = Registry()
    made.activate("tune", "nevergrad", {"space": space})
    for place in places:
        made.activate(*place.split("."), {})
    return made


@pytest.mark.parametrize(
    ("space", "places", "said"),
    [
        ({"compress.prun.heads": [0.0, 0.5]}, ["compress.prune"], "no trainer or compressor 'compress.prun' is chosen"),
        ({"compress.prun.heads": [0.0, 0.5]}, ["compress.prune"], "did you mean 'compress.prune'"),
        ({"compress.prune.head": [0.0, 0.5]}, ["compress.prune"], "did you mean 'compress.prune.head_ratio'"),
        ({"train.torch_ddp.lr": [0.1, 0.5]}, ["compress.prune"], "a tuner needs a trainer"),
        ({"compress.a.b": [0, 1], "compress.c.d": [0, 1]}, ["compress.prune"], "2 errors"),
        (
            {"compress.prune.head_ratio": {"linear": [0.0, 0.5], "when": {"compress.prune.neuron": 0.5}}},
            ["compress.prune"],
            "has a condition on 'compress.prune.neuron', but there is no such option; did you mean",
        ),
    ],
)
def test_a_space_over_plugins_that_are_not_chosen_is_refused(
    space: dict[str, object], places: list[str], said: str
) -> None:
    chosen = registry(space, *places)
    with pytest.raises(Exception, match=said) as error:
        check_search(chosen, *chosen.plugins_for("tune"), load_task("text_classification", {}))
    assert issubclass(error.type, PlanError) or "2 errors" in said


def test_only_options_that_decide_the_training_of_a_task_are_searched() -> None:
    task = load_task("text_classification", {})
    chosen = registry({"task.few_shot": {"choice": [True, False]}}, "train.torch_ddp")
    (tuner,) = chosen.plugins_for("tune")
    check_search(chosen, tuner, task)
    assert searched_stages(tuner) == {"train"}
    assert training_options(task) == {"task.few_shot": False}
    wrong = registry({"task.few_shots": {"choice": [True, False]}, "task.max_length": [8, 16]}, "train.torch_ddp")
    with pytest.raises(FastServeError) as error:
        check_search(wrong, *wrong.plugins_for("tune"), task)
    assert "searches 'task.few_shots', but there is no such option; did you mean 'task.few_shot'?" in str(error.value)
    assert "searches 'task.max_length', but there is no such option" in str(error.value)


def test_a_search_of_compressors_alone_needs_no_trainer_and_comes_after_it() -> None:
    alone = registry({"compress.prune.head_ratio": [0.0, 0.5]}, "compress.prune")
    check_search(alone, *alone.plugins_for("tune"), load_task("text_classification", {}))
    assert searches_compressors_only(alone)
    both = {"compress.prune.head_ratio": [0.0, 0.5], "train.torch_ddp.lr": [0.1, 0.5]}
    assert not searches_compressors_only(registry(both, "train.torch_ddp", "compress.prune"))
    assert not searches_compressors_only(
        registry({"train.torch_ddp.lr": [0.1, 0.5]}, "train.torch_ddp", "compress.prune")
    )


@pytest.mark.slow
def test_a_killed_search_continues_keeps_its_failures_and_reuses_the_winner(
    cli: Cli, tmp_path: Path, tiny_bert: Path, reviews: Path
) -> None:
    space = "{compress.prune.neuron_ratio: [0.2, 0.7], compress.prune.layers: {choice: [[7], [1, 7]]}}"  # it has two
    command = [
        "+plugin=[nevergrad,torch_ddp,prune]", f"model={tiny_bert}", f"data={reviews}", "train.torch_ddp.epochs=1",
        *(f"tune.nevergrad.space={space}", "tune.nevergrad.trials=2"),
        *("gate.min_speedup=0.1", "gate.max_quality_drop=0.5"),
    ]  # fmt: skip
    kill_after_a_trial(tmp_path, command)
    stages = finish(cli, tmp_path, command)
    assert [one["stage"] for one in stages] == ["train", "tune", "compress"]
    assert [one["status"] for one in stages] == ["reused", "done", "reused"]
    first, second = stages[1]["trials"]
    pruning = {"compress.prune.neuron_ratio": 0.5, "compress.prune.layers": []}
    assert first["options"] == stages[1]["found"] == pruning
    assert {"quality_validation", "latency_ms_p50", "size_bytes", "speedup", "accepted"} <= set(first["measures"])
    assert second["score"] is None
    assert "7" in second["error"]
    assert [one["status"] for one in finish(cli, tmp_path, command)] == ["reused"] * 3


def kill_after_a_trial(folder: Path, command: list[str]) -> None:
    killed = subprocess.Popen([sys.executable, "-m", "fastserve_core", *on_torch(command)], cwd=folder)
    home, end = Path(os.environ["FASTSERVE_HOME"]), time.monotonic() + 200
    while not list(home.glob("partial/tune-*/work/trials/0000.json")) and time.monotonic() < end:
        time.sleep(0.1)
    assert killed.poll() is None
    killed.kill()
    killed.wait()


def finish(cli: Cli, folder: Path, command: list[str]) -> list[dict[str, Any]]:
    done = cli(*command)
    assert done.returncode == 0, done.stderr + done.stdout
    newest = max(folder.glob("outputs/*/*/run.json"), key=lambda path: path.stat().st_mtime)
    stages: list[dict[str, Any]] = json.loads(newest.read_text())["stages"]
    return stages
