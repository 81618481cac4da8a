"""Which engine is chosen: of those that can, the fastest that answers as well as the reference."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from fastserve_core.artifacts.artifact import Artifact, Manifest
from fastserve_core.errors import PlanError, PluginError, UnknownNameError
from fastserve_core.events import Event, WarningRaised
from fastserve_core.inference.engine import Engine
from fastserve_core.inference.engines import (
    candidate_engines,
    check_engine,
    check_generation,
    preload_modules,
    select_fastest,
)
from fastserve_core.tasks.load import load_task
from fastserve_engines.openvino_engine import OpenVINOEngine


def artifact(tmp_path: Any, form: str = "trainable", engine: str = "torch") -> Artifact:
    manifest = Manifest("text_classification", {}, (), {"engine": engine, "form": form}, (), {})
    return Artifact(tmp_path, "", manifest)


def measures(accuracy: float, latency: float, rate: float) -> dict[str, Any]:
    return {"quality_validation": {"accuracy": accuracy}, "latency_ms_p50": latency, "throughput_per_s": rate}


def accuracy(scores: Any) -> float:
    return float(scores["accuracy"])


def test_weights_run_on_every_installed_engine_and_files_on_their_own(tmp_path: Any) -> None:
    task = load_task("text_classification", {})
    assert candidate_engines(artifact(tmp_path), task) == ["torch", "onnxruntime", "openvino"]
    assert candidate_engines(artifact(tmp_path, engine="of_a_plugin"), task) == ["of_a_plugin"]
    assert candidate_engines(artifact(tmp_path), task, "openvino") == ["openvino"]
    assert candidate_engines(artifact(tmp_path, "engine", "openvino"), task, "torch") == ["openvino"]


def test_a_candidate_is_measured_on_the_engine_of_its_baseline(tmp_path: Any) -> None:
    task = load_task("text_classification", {})
    assert candidate_engines(artifact(tmp_path), task, baseline=artifact(tmp_path, engine="openvino")) == ["openvino"]
    assert candidate_engines(artifact(tmp_path), task, "torch", artifact(tmp_path, engine="openvino")) == ["torch"]
    assert candidate_engines(artifact(tmp_path), task, baseline=artifact(tmp_path, engine="gone"))[0] == "torch"


def test_a_task_that_generates_runs_on_engines_that_do(tmp_path: Any) -> None:
    task = load_task("causal_lm", {})
    assert candidate_engines(artifact(tmp_path), task, "auto") == ["torch", "openvino"]
    for name in ("auto", "torch", "openvino"):
        check_generation(name, task)


def test_an_engine_that_cannot_generate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVINOEngine, "generates", False)
    with pytest.raises(PlanError, match="the engine 'openvino' cannot generate text"):
        check_generation("openvino", load_task("causal_lm", {}))


def test_the_fastest_engine_is_chosen() -> None:
    found = {"torch": measures(0.9, 8.0, 300), "openvino": measures(0.895, 2.0, 900)}
    assert select_fastest(found, accuracy, lambda _: None) == "openvino"
    found["openvino"] = measures(0.895, 9.0, 310)
    assert select_fastest(found, accuracy, lambda _: None) == "torch"


def test_an_engine_that_answers_worse_is_reported_and_not_used() -> None:
    told: list[Event] = []
    for wrong in (0.85, float("nan")):
        found = {"torch": measures(0.9, 8.0, 300), "openvino": measures(wrong, 2.0, 900)}
        assert select_fastest(found, accuracy, told.append) == "torch"
    assert told == [WarningRaised("the engine openvino has lower quality than torch and is not used")] * 2


def test_an_unknown_engine_is_refused() -> None:
    check_engine("auto")
    check_engine("openvino")
    with pytest.raises(UnknownNameError, match="no engine named 'opnvino'; did you mean 'openvino'"):
        check_engine("opnvino")


def test_an_engine_derives_from_the_base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = EntryPoints([EntryPoint("path", "pathlib:Path", "fastserve.engines")])
    monkeypatch.setattr("fastserve_core.entry_points.all_entry_points", lambda: entries)
    with pytest.raises(PluginError, match="'path' must derive from fastserve_core.inference.Engine"):
        preload_modules("path")


def test_an_engine_without_a_pass_cannot_be_made(tmp_path: Path) -> None:
    class Halfway(Engine):
        def __init__(self, folder: Path, threads: int) -> None:
            """Nothing to load."""

    with pytest.raises(TypeError, match="abstract methods? .*run"):
        Halfway(tmp_path, 1)  # type: ignore[abstract]
