"""TensorBoard: what is told can be read back by TensorBoard itself, and its server shows it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS

from conftest import Cli
from fastserve_core.errors import OptionError
from fastserve_core.events import Event, Metric, RunFinished, StageFinished, StageStarted, Step
from fastserve_core.testing import PluginContract
from fastserve_observers.tensorboard import TensorBoard, TensorBoardOptions

RATES = ("loss", "learning_rate", "samples_per_s", "tokens_per_s")


class TestTensorBoard(PluginContract):
    plugin, stage = "tensorboard", "observe"


def play(folder: Path, *events: Event) -> None:
    observer = TensorBoard(TensorBoardOptions(str(folder)))
    for event in events:
        observer.observe(event)


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in read(folder).Scalars(tag)]


def test_every_step_is_in_the_curves_of_its_stage(tmp_path: Path, told: list[Event], done: RunFinished) -> None:
    play(tmp_path, *told, done)
    trained = told[told.index(StageStarted("train", "torch_ddp")) :]
    steps = [event for event in trained if isinstance(event, Step)]
    assert len(steps) == 320
    for name in RATES:
        expected = [(one.step, pytest.approx(getattr(one, name), rel=1e-6)) for one in steps]
        assert curve(tmp_path / "train.torch_ddp", name) == expected
    scores = [
        (one.step, pytest.approx(one.value)) for one in told if isinstance(one, Metric) and one.name == "accuracy"
    ]
    assert curve(tmp_path / "train.torch_ddp", "validation/accuracy") == scores


def test_each_stage_has_its_measures(tmp_path: Path, told: list[Event], done: RunFinished) -> None:
    play(tmp_path, *told, done)
    small = tmp_path / "compress.neural_compressor"
    assert curve(small, "measures/test/accuracy") == [(0, pytest.approx(0.8814))]
    assert curve(small, "measures/size_bytes") == [(0, pytest.approx(23.3e6))]
    assert curve(tmp_path / "compress.pruner", "measures/validation/accuracy") == [(0, pytest.approx(0.8477))]


def hparams(folder: Path) -> tuple[dict[str, float], int]:
    """What the HPARAMS page is told of a trial: its options and how it ended."""
    found = read(folder).SummaryMetadata
    start, end = found(metadata.SESSION_START_INFO_TAG), found(metadata.SESSION_END_INFO_TAG)
    options = metadata.parse_session_start_info_plugin_data(start.plugin_data.content).hparams
    ended = metadata.parse_session_end_info_plugin_data(end.plugin_data.content)
    return {path: value.number_value for path, value in options.items()}, ended.status


def test_each_trial_is_a_session_with_its_own_curve(tmp_path: Path, told: list[Event]) -> None:
    play(tmp_path, *told)
    tuned = tmp_path / "tune.nevergrad"
    second = {"train.torch_ddp.lr": 8.7e-5, "train.torch_ddp.batch_size": 16.0}
    assert hparams(tuned / "trial-0001") == (second, STATUS_SUCCESS)
    assert hparams(tuned / "trial-0002")[1] == STATUS_FAILURE
    assert curve(tuned / "trial-0001", "score") == [(60, pytest.approx(0.8799))]
    assert curve(tuned / "trial-0001", "loss") == [(60, 0.5)]
    assert "score" not in read(tuned / "trial-0002").Tags()["scalars"]
    assert [step for step, _ in curve(tuned, "score")] == [0, 1, 3, 4]


def test_reported_events_can_be_read_while_the_run_continues(tmp_path: Path) -> None:
    observer = TensorBoard(TensorBoardOptions(str(tmp_path)))
    observer.observe(StageStarted("train", "torch_ddp"))
    observer.observe(Step(7, 10, 0.7, 0.25, 1e-5, 800.0, 24_000.0, 1.0))
    assert curve(tmp_path / "train.torch_ddp", "loss") == [(7, 0.25)]
    observer.observe(StageFinished("train", "torch_ddp", "failed", 1.0, reason="a rank died"))


def test_a_folder_that_cannot_be_written_is_reported_once(
    tmp_path: Path, told: list[Event], done: RunFinished, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    play(tmp_path / "file", *told, done)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("warning: observe.tensorboard is disabled for the rest of the run: could not write")


def test_a_run_that_starts_no_stage_writes_nothing(tmp_path: Path, done: RunFinished) -> None:
    play(tmp_path / "curves", done)
    assert not (tmp_path / "curves").exists()


def test_an_empty_folder_is_refused() -> None:
    with pytest.raises(OptionError, match=r"observe\.tensorboard\.folder"):
        TensorBoardOptions(" ")


def test_torch_is_not_loaded() -> None:
    code = "import sys; import fastserve_observers.tensorboard_writer; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- a real run and the real server ------------------------------------------------------------------


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """TensorBoard's own server on the test's folder; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--port", str(port)]
    process = subprocess.Popen([*command, "--load_fast=false", "--reload_interval=1"], stderr=subprocess.DEVNULL)
    yield port
    process.terminate()
    process.wait(20)


def eventually(shown: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):  # the server is still starting
            if shown():
                return
        assert time.monotonic() < end, "TensorBoard does not show it"
        time.sleep(0.5)


@pytest.mark.slow
def test_the_server_shows_a_real_run(cli: Cli, tiny_bert: Path, reviews: Path, tmp_path: Path, server: int) -> None:
    done = cli(
        "+plugin=[nevergrad,torch_ddp,tensorboard]", f"model={tiny_bert}", f"data={reviews}",
        *("train.torch_ddp.epochs=2", "tune.nevergrad.trials=2", "tune.nevergrad.trial_steps=3"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    (folder,) = tmp_path.glob("outputs/*/*/tensorboard")
    run = folder.relative_to(tmp_path).as_posix()
    trial, trained = f"{run}/tune.nevergrad/trial-0001", f"{run}/train.torch_ddp"

    def shown() -> bool:
        tags = ask(server, "data/plugin/scalars/tags")
        wanted = {*RATES, "validation/accuracy", "measures/test/accuracy"}
        return wanted <= tags.get(trained, {}).keys() and {*RATES, "score"} <= tags.get(trial, {}).keys()

    eventually(shown)
    points = ask(server, f"data/plugin/scalars/scalars?run={trained}&tag=tokens_per_s")
    assert [step for _, step, _ in points][-1] == 12
    assert all(value > 0 for *_, value in points)
    experiment = ask(server, "data/plugin/hparams/experiment", {"experimentName": ""})
    assert "train.torch_ddp.lr" in [one["name"] for one in experiment["hparamInfos"]]
