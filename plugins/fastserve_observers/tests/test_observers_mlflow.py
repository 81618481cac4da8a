"""MLflow: a run and its trials in a local store and on a server; a slow or absent server changes nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from conftest import Cli
from fastserve_core.errors import MissingPackageError, OptionError
from fastserve_core.events import Event, Metric, RunFinished, StageFinished, StageStarted, Step
from fastserve_core.testing import PluginContract
from fastserve_observers import delivery_queue
from fastserve_observers.mlflow import MLflow, MLflowOptions
from fastserve_observers.mlflow_tracker import MlflowTracker

STARTED = StageStarted("train", "torch_ddp")


class TestMLflow(PluginContract):
    plugin, stage = "mlflow", "observe"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_queue, "BATCH_S", 0.05)
    monkeypatch.setattr(delivery_queue, "RETRY_S", 0.05)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def step(number: int) -> Step:
    return Step(number, 1000, number / 500, 0.5, 1e-5, 812.3, 24_120.0, 250.0)


def play(uri: str, *events: Event, flush_s: float = 30.0) -> None:
    observer = MLflow(MLflowOptions(uri, flush_s=flush_s))
    for event in events:
        observer.observe(event)


def client(uri: str) -> Any:
    from mlflow import MlflowClient  # half a second, in every worker that collects these tests

    return MlflowClient(uri)


def runs(uri: str, experiment: str = "fastserve") -> list[Any]:
    """The MLflow runs, oldest first."""
    mlflow = client(uri)
    found = mlflow.get_experiment_by_name(experiment)
    assert found is not None
    return sorted(mlflow.search_runs([found.experiment_id]), key=lambda one: one.info.start_time)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return (tmp_path / "mlruns").as_uri()


# -- a local store -----------------------------------------------------------------------------------


def test_every_step_and_measure_is_a_metric(store: str, told: list[Event], done: RunFinished) -> None:
    play(store, *told, done)
    (run,) = [one for one in runs(store) if "mlflow.parentRunId" not in one.data.tags]
    trained = told[told.index(STARTED) :]
    for name in ("loss", "learning_rate", "samples_per_s", "tokens_per_s"):
        points = client(store).get_metric_history(run.info.run_id, f"train.torch_ddp/{name}")
        assert [(one.step, one.value) for one in points] == [
            (one.step, getattr(one, name)) for one in trained if isinstance(one, Step)
        ]
    scores = client(store).get_metric_history(run.info.run_id, "train.torch_ddp/validation/accuracy")
    assert [one.step for one in scores] == [
        one.step for one in told if isinstance(one, Metric) and one.name == "accuracy"
    ]
    assert run.data.metrics["compress.neural_compressor/measures/test/accuracy"] == 0.8814
    assert run.data.metrics["compress.pruner/measures/size_bytes"] == 21_800_000
    assert run.info.status == "FINISHED"


def test_each_trial_is_a_nested_run(store: str, told: list[Event], done: RunFinished) -> None:
    play(store, *told, done)
    found = runs(store)
    (parent,) = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
    trials = {one.info.run_name: one for one in found if one is not parent}
    assert sorted(trials) == [f"trial {number}" for number in range(5)]
    assert {one.data.tags["mlflow.parentRunId"] for one in trials.values()} == {parent.info.run_id}
    second, failed = trials["trial 1"], trials["trial 2"]
    assert second.data.params == {"train.torch_ddp.lr": "8.7e-05", "train.torch_ddp.batch_size": "16"}
    assert (second.info.status, second.data.metrics["score"], second.data.metrics["loss"]) == ("FINISHED", 0.8799, 0.5)
    assert second.info.end_time - second.info.start_time == pytest.approx(40_300, abs=1)
    assert failed.info.status == "FAILED"
    assert "score" not in failed.data.metrics


def test_options_are_params_and_digests_are_tags(store: str, tmp_path: Path, record: dict[str, Any]) -> None:
    config = OmegaConf.create(
        {"seed": 0, "home": None, "tune": {"nevergrad": {"trials": 6}}, "observe": {"mlflow": {}},
         "data": {"train": "a.csv"}, "train": {"torch_ddp": {"lr": 5e-5, "epochs": 3}}}
    )  # fmt: skip
    line = next(one for one in record["stages"] if one["stage"] == "train") | {"options": {"lr": 8.7e-5, "epochs": 3}}
    (tmp_path / "run.json").write_text(json.dumps(record | {"stages": [line]}))
    tracker = MlflowTracker(store, "mine", 30.0, tmp_path, config)
    tracker.write_stage("train.torch_ddp", StageFinished("train", "torch_ddp", "rejected", 1.5, {}, "too large"))
    tracker.close("done")
    (run,) = runs(store, "mine")
    assert run.data.params == {
        "seed": "0", "data.train": "a.csv", "tune.nevergrad.trials": "6",
        "train.torch_ddp.lr": "8.7e-05", "train.torch_ddp.epochs": "3",
    }  # fmt: skip
    expected = {
        "lineage.train.torch_ddp": line["digest"], "lineage.data": record["data"]["fingerprint"],
        "status.train.torch_ddp": "rejected", "reason.train.torch_ddp": "too large", "folder": str(tmp_path),
    }  # fmt: skip
    assert expected.items() <= run.data.tags.items()
    assert run.info.run_name == f"{tmp_path.parent.name}/{tmp_path.name}"


def test_a_failed_stage_fails_the_run(store: str) -> None:
    play(store, STARTED, step(1), StageFinished("train", "torch_ddp", "failed", 1.0, reason="a rank died"))
    assert [one.info.status for one in runs(store)] == ["FAILED"]


def test_names_that_mlflow_forbids_are_changed(store: str, done: RunFinished) -> None:
    play(store, STARTED, Metric("f1 of (a,b)", 0.5, 1), done)
    assert runs(store)[0].data.metrics["train.torch_ddp/validation/f1 of _a_b_"] == 0.5


def script(store: str) -> str:
    return (
        "import sys\n"
        "from fastserve_core.events import RunFinished, StageStarted, Step\n"
        "from fastserve_observers.mlflow import MLflow, MLflowOptions\n"
        f"observer = MLflow(MLflowOptions({store!r}))\n"
        "observer.observe(StageStarted('train', 'torch_ddp'))\n"
        "observer.observe(Step(7, 9, 0.7, 0.5, 1e-5, 800.0, 24_000.0, 1.0))\n"
    )


@pytest.mark.slow
def test_events_reported_before_the_process_ended_arrive(store: str) -> None:
    subprocess.run([sys.executable, "-c", script(store)], check=True)
    (run,) = runs(store)
    assert (run.info.status, run.data.metrics["train.torch_ddp/loss"]) == ("FAILED", 0.5)


@pytest.mark.slow
def test_nobody_is_phoned(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "PYTEST_CURRENT_TEST", "CI"):  # with any of these MLflow is silent anyway
        monkeypatch.delenv(name, raising=False)
    watched = (
        "import loopback_only\n"
        "seen, is_local = [], loopback_only._is_local\n"
        "loopback_only._is_local = lambda host: is_local(host) or seen.append(host)\n"
    )
    ended = "observer.observe(RunFinished(None, {}))\n__import__('time').sleep(0.5)\nassert seen == [], seen\n"
    code = watched + script(store) + ended
    subprocess.run([sys.executable, "-c", code], check=True)
    assert runs(store)[0].info.status == "FINISHED"


# -- a server ----------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """The few requests of MLflow's REST interface that a run makes."""

    server: Server

    def do_GET(self) -> None:
        self._answer(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"})

    def do_POST(self) -> None:
        time.sleep(self.server.delay)
        name = self.path.removeprefix("/api/2.0/mlflow/")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((name, body))
        info = {"run_id": f"r{len(self.server.got)}", "status": "RUNNING"}
        answers = {"experiments/create": {"experiment_id": "1"}, "runs/create": {"run": {"info": info}},
                   "runs/update": {"run_info": info}}  # fmt: skip
        self._answer(200, answers.get(name, {}))

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.delay = 0.0
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_slow_server_slows_nothing_and_gets_all_in_few_requests(server: Server, done: RunFinished) -> None:
    server.delay = 0.1
    observer = MLflow(MLflowOptions(server.url))
    begin = time.perf_counter()
    for event in (STARTED, *map(step, range(1, 501))):
        observer.observe(event)
    assert time.perf_counter() - begin < 10, "the thread that trains waits for nobody"
    observer.observe(done)
    batches = [body for name, body in server.got if name == "runs/log-batch"]
    metrics = [one for body in batches for one in body.get("metrics", [])]
    assert {(one["key"], int(one["step"])) for one in metrics} >= {
        ("train.torch_ddp/tokens_per_s", number) for number in range(1, 501)
    }
    assert len(metrics) == 2000
    assert len(batches) < 12
    assert server.got[-1][0] == "runs/update"
    assert server.got[-1][1]["status"] == "FINISHED"


def test_a_server_that_is_not_there_is_reported_once(done: RunFinished, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://ann:secret@127.0.0.1:{free.getsockname()[1]}"
    begin = time.perf_counter()
    play(url, STARTED, *map(step, range(1, 50)), done)
    assert time.perf_counter() - begin < 10
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert "Connection refused" in said
    assert "The run continues" in said
    assert "secret" not in said


def test_the_end_of_a_run_waits_no_longer_than_its_limit(
    server: Server, done: RunFinished, capsys: pytest.CaptureFixture[str]
) -> None:
    server.delay = 3.0
    begin = time.perf_counter()
    play(server.url, STARTED, step(1), done, flush_s=0.5)
    assert time.perf_counter() - begin < 2
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert "is too slow" in said


# -- options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("uri", "message"), [
    ("htp://127.0.0.1:5000", "MLflow has no store 'htp'; did you mean 'http'?"),
    ("sqlite:///mlflow.db", "pip install sqlalchemy alembic"),
])  # fmt: skip
def test_an_address_that_cannot_work_is_refused(uri: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    monkeypatch.setattr("fastserve_observers.mlflow.missing_packages", list)
    with pytest.raises((OptionError, MissingPackageError)) as caught:
        MLflow(MLflowOptions(uri))
    assert message in str(caught.value)
    assert f"observe.mlflow.tracking_uri={uri}" in str(caught.value)


def test_the_address_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch, store: str, done: RunFinished) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    observer = MLflow(MLflowOptions())
    observer.observe(STARTED)
    observer.observe(done)
    assert runs(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://there")
    with pytest.raises(OptionError, match="MLFLOW_TRACKING_URI=htp://there"):
        MLflow(MLflowOptions())


@pytest.mark.parametrize("options", [{"experiment": " "}, {"flush_s": 0.0}, {"flush_s": float("nan")}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=rf"observe\.mlflow\.{next(iter(options))}"):
        MLflowOptions(**options)


# -- a real run --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_run_is_in_the_store_of_its_home(command: Cli, tiny_bert: Path, reviews: Path, home: Path) -> None:
    done = command(
        "+plugin=[nevergrad,torch_ddp,mlflow]", f"model={tiny_bert}", f"data={reviews}", "train.torch_ddp.epochs=2",
        *("tune.nevergrad.trials=2", "tune.nevergrad.trial_steps=3", "observe.mlflow.experiment=reviews"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    run, *trials = runs((home / "mlruns").as_uri(), "reviews")
    assert len(trials) == 2
    record = json.loads((Path(run.data.tags["folder"]) / "run.json").read_text())
    assert run.data.tags["lineage.train.torch_ddp"] == record["stages"][-1]["digest"]
    assert run.data.params["train.torch_ddp.lr"] == str(record["stages"][-1]["options"]["lr"])
    assert run.data.metrics["train.torch_ddp/tokens_per_s"] > 0
    measured = record["stages"][-1]["measures"]["quality"]["accuracy"]
    assert run.data.metrics["train.torch_ddp/measures/test/accuracy"] == measured
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_an_interrupted_run_is_killed_in_mlflow(tmp_path: Path, tiny_bert: Path, reviews: Path, home: Path) -> None:
    command = [
        sys.executable, "-m", "fastserve_core", "+plugin=[torch_ddp,mlflow]", f"model={tiny_bert}", f"data={reviews}",
        "train.torch_ddp.epochs=5000",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    steps = (line for line in process.stdout if line.startswith(b"train step"))
    next(steps), next(steps)  # the screen may hear of a step before MLflow does: the first is there with the second
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    (run,) = runs((home / "mlruns").as_uri())
    assert (run.info.status, run.data.metrics["train.torch_ddp/loss"] > 0) == ("KILLED", True)
