"""Whole trainings with real ranks: every way of sharing, every method, and what goes wrong on the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest

from conftest import ranks_below
from fastserve_core.artifacts import Store, hash_file
from fastserve_core.config import DataOptions
from fastserve_core.data import load_dataset, prepare_dataset
from fastserve_core.errors import OptionError, StageError, TransientError
from fastserve_core.events import Event, Metric, Step, WarningRaised
from fastserve_core.processes import TERMINAL_SIGNALS, child, run_in_child
from fastserve_core.processes.fork_pool import ForkServerPool
from fastserve_core.tasks import Encoded, load_task
from fastserve_torch_ddp.checkpointing import checkpoint
from fastserve_torch_ddp.checkpointing.validation import TrainState
from fastserve_torch_ddp.fork_server import PRELOADED_MODULES
from fastserve_torch_ddp.options import DDPOptions

pytestmark = pytest.mark.slow
Tell = Callable[[Event], None]


@dataclass
class Trained:
    folder: Path
    result: dict[str, Any]
    events: list[Event]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def digest(self) -> str:
        return hash_file(self.folder / "draft" / "model.safetensors")


class Train(Protocol):
    requests: list[dict[str, Any]]

    def __call__(self, name: str = "work", seed: int = 0, tell: Tell = ..., **given: Any) -> Trained: ...


AWARE = {"alpha": 0.5, "temperature": 2.0, "hidden_weight": 1.0, "relation_weight": 0.0, "quantize_aware": "int8"}
"""A auxiliary_loss that has a state of its own on each rank."""


@pytest.fixture
def train(tmp_path: Path, home: Path, tiny_bert: Path, reviews: Path) -> Train:
    """Train the tiny BERT on easy reviews through the launcher, as the plugin does."""
    task = load_task("text_classification", {})
    data = prepare_dataset(DataOptions(train=str(reviews)), task, Store(home), print)

    def run(
        name: str = "work",
        seed: int = 0,
        tell: Callable[[Event], None] = lambda _: None,
        auxiliary_loss: dict[str, Any] | None = None,
        steps: int | None = None,
        stop_at_step: int | None = None,
        **given: Any,
    ) -> Trained:
        folder, events = tmp_path / name, list[Event]()
        folder.mkdir(exist_ok=True)
        request = {
            "model": tiny_bert,
            "data": data.folder,
            "task": ["text_classification", vars(task.options), list(data.labels)],
            "folder": folder,
            "options": asdict(DDPOptions(**{"lr": 5e-3, "epochs": 4, "batch_size": 16, **given})),
            "steps": steps,
            "stop_at_step": stop_at_step,
            "seed": seed,
            "cores": 2,
            "auxiliary_loss": {"loss": "distillation", "options": {"teacher": str(tiny_bert), **auxiliary_loss}}
            if auxiliary_loss
            else None,
        }

        requests.append(request)

        def both(event: Event) -> None:
            events.append(event)
            tell(event)

        return Trained(folder, run_in_child("fastserve_torch_ddp.launch", request, 2, both, PRELOADED_MODULES), events)

    requests = run.requests = []  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    "given_options",
    [
        {},
        {"nproc": 2},
        {"nproc": 2, "gradient_compression": "powersgd", "gradient_accumulation_steps": 2},
        {"nproc": 2, "gradient_compression": "bf16", "precision": "fp32"},
        {"nproc": 2, "local_sgd_steps": 3},
        {"nproc": 2, "sharding": "fsdp"},
        {"batch_tokens": 200, "schedule": "cosine", "deterministic": True},
        {"gradient_accumulation_steps": 3, "activation_checkpointing": True, "ema_decay": 0.8},
        {"label_smoothing": 0.1, "class_weights": "balanced", "layer_decay": 0.9, "schedule": "constant"},
        {"freeze": ["embeddings"], "epochs": 40},  # random embeddings that stay so: the layers above need longer
        {"compile": True},
        {"method": "lora", "lr": 2e-2, "nproc": 2},
        {"method": "adalora", "lr": 3e-2},
        {"method": "bottleneck", "lr": 2e-2},
    ],
    ids=lambda options: ",".join(f"{name}={value}" for name, value in options.items()) or "defaults",
)
def test_every_way_learns_the_easy_task(train: Train, given_options: dict[str, Any]) -> None:
    done = train(**{"epochs": 8, **given_options})
    steps = done.of(Step)
    if "method" not in given_options:  # adapters learn little on a model of random weights; test_adapters says they do
        assert done.result["scores"]["accuracy"] > 0.9
        assert steps[-1].loss < steps[0].loss
    assert [step.step for step in steps] == list(range(1, done.result["steps"] + 1)), "every step is told"
    assert all(step.samples_per_s > 0 and step.tokens_per_s > step.samples_per_s for step in steps)
    assert done.result["peak_memory_bytes"] > 1e8
    config = json.loads((done.folder / "draft" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(train: Train) -> None:
    first, again, other = train("a", epochs=1), train("b", epochs=1), train("c", epochs=1, seed=1)
    assert first.digest() == again.digest() != other.digest()


@pytest.mark.parametrize(
    "given_options",
    [
        {},
        {"nproc": 2},
        {"nproc": 2, "sharding": "fsdp"},
        {"nproc": 2, "auxiliary_loss": AWARE},
        {"nproc": 2, "sharding": "fsdp", "auxiliary_loss": AWARE},
        {"method": "adalora", "lr": 2e-2, "ema_decay": 0.9, "gradient_accumulation_steps": 2},
    ],
    ids=lambda options: ",".join(f"{name}={value}" for name, value in options.items()) or "defaults",
)
def test_a_killed_rank_changes_nothing_in_the_result(train: Train, given_options: dict[str, Any]) -> None:
    settings = {"checkpoint_every_s": 0.0, "epochs": 3, "eval_steps": 7, **given_options}
    calm = train("calm", **settings)
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, Step) and event.step >= 12 and not killed:
            killed.append(ranks_below(os.getpid())[-1])
            os.kill(killed[-1], signal.SIGKILL)

    disturbed = train("disturbed", tell=kill, **settings)
    assert killed
    assert list(disturbed.folder.glob("logs/**/attempt_1")), "the group was restarted"
    assert disturbed.result["scores"] == calm.result["scores"]
    assert disturbed.digest() == calm.digest()


def test_a_killed_launcher_and_damaged_best_weights_change_nothing_in_the_result(train: Train) -> None:
    settings = {"checkpoint_every_s": 0.0, "epochs": 3, "eval_steps": 7}
    calm = train("calm", **settings)
    killed: list[psutil.Process] = []

    def kill(event: Event) -> None:
        if isinstance(event, Step) and event.step >= 12 and not killed:
            killed.append(psutil.Process(ranks_below(os.getpid())[-1]).parents()[1])
            killed[0].kill()

    with pytest.raises(TransientError, match="SIGKILL"):
        train("disturbed", tell=kill, **settings)
    best = calm.folder.with_name("disturbed") / checkpoint.BEST
    content = best.read_bytes()
    best.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    disturbed = train("disturbed", **settings)
    assert [str(best) in warning.message for warning in disturbed.of(WarningRaised)] == [True]
    assert disturbed.result["scores"] == calm.result["scores"]
    assert disturbed.digest() == calm.digest()


def test_signals_that_the_command_ignores_do_not_end_its_training(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with ``nohup``: all processes of the training begin while the signals are ignored."""
    monkeypatch.setattr(child, "FORK_SERVERS", ForkServerPool())
    older, signalled = psutil.Process().children(recursive=True), set[int]()

    def send(event: Event) -> None:
        if isinstance(event, Step) and event.step in (2, 4, 6):
            for process in set(psutil.Process().children(recursive=True)) - set(older):
                process.send_signal(TERMINAL_SIGNALS[event.step // 2 - 1])
                signalled.add(process.pid)

    before = {number: signal.signal(number, signal.SIG_IGN) for number in TERMINAL_SIGNALS}
    try:
        done = train(tell=send, epochs=2, max_restarts=0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done.result["steps"] == 24 and len(signalled) > 2


@pytest.mark.parametrize(
    "given_options",
    [{"ema_decay": 0.9}, {"nproc": 2, "local_sgd_steps": 3}, {"nproc": 2, "sharding": "fsdp"}],
    ids=lambda options: ",".join(f"{name}={value}" for name, value in options.items()) or "defaults",
)
def test_a_paused_training_continues_as_one_that_was_not(train: Train, given_options: dict[str, Any]) -> None:
    settings = {"steps": 18, "eval_steps": 6, **given_options}
    straight = train("straight", **settings)
    first = train("paused", stop_at_step=6, **settings)
    assert first.result["steps"] == 6
    assert [step.step for step in first.of(Step)] == [1, 2, 3, 4, 5, 6]
    assert (first.folder / "draft" / "model.safetensors").is_file()
    again = train("paused", stop_at_step=6, **settings)
    assert again.of(Step) == [] and again.result["scores"] == first.result["scores"]
    ended = train("paused", **settings)
    assert [step.step for step in ended.of(Step)] == list(range(7, 19))
    assert ended.result["scores"] == straight.result["scores"]
    assert ended.digest() == straight.digest()


def test_training_stops_when_there_is_no_more_gain(train: Train) -> None:
    done = train(lr=1e-9, epochs=10, eval_steps=5, patience=2)
    looks = [metric.step for metric in done.of(Metric) if metric.name == "accuracy"]
    assert looks == [5, 10, 15]
    assert done.result["steps"] == 15


def test_a_loss_that_is_not_finite_stops_at_once_and_reports_where(train: Train, tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        train(lr=1e30, schedule="constant", warmup_ratio=0.0, checkpoint_every_s=0.0, max_restarts=2)
    message = str(caught.value)
    assert "not finite" in message or "loss is nan" in message or "loss is inf" in message
    for part in ("at step ", "the last good checkpoint is ", "Try a smaller train.torch_ddp.lr"):
        assert part in message
    named = message.partition("the last good checkpoint is ")[2]
    kept = Path(named.partition(";")[0].partition(". Try")[0])
    assert kept.is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB as the work folder, where mounting one is allowed."""
    folder = tmp_path / "work"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only the superuser of a whole machine may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_is_warned_of_and_training_continues(train: Train, small_disk: Path) -> None:
    filler = small_disk / "filler"

    def fill(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3:
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(4096))
        if isinstance(event, Step) and event.step == 30:
            filler.unlink(missing_ok=True)

    done = train(checkpoint_every_s=0.0, epochs=8, eval_steps=40, tell=fill)
    warned = [warning.message for warning in done.of(WarningRaised)]
    assert any("checkpoint-" in message and "could not be written" in message for message in warned), warned
    assert done.result["steps"] == 96 and done.result["scores"]["accuracy"] > 0.9


def test_a_name_that_freezes_nothing_is_refused(train: Train) -> None:
    with pytest.raises((OptionError, Exception), match="embedings.*did you mean"):
        train(freeze=["embedings"])


def test_a_batch_that_does_not_fit_is_named_with_advice(train: Train, tmp_path: Path) -> None:
    """This process, as a rank of its own, may have 30 MB more than it has, and the first layer's output alone is 65."""
    train(epochs=1)
    (request,) = train.requests

    def forward() -> str:
        import resource

        from fastserve_torch_ddp.data.tokens import tokenize
        from fastserve_torch_ddp.job import TrainingJob
        from fastserve_torch_ddp.trainer import Trainer

        task = load_task(*request["task"])
        tokens = tokenize(task, Path(request["model"]), load_dataset(Path(request["data"])), "train")
        given = {name: value for name, value in request.items() if name != "cores"}
        trainer = Trainer(TrainingJob(**given, tokens=str(tokens), threads=1, events=str(tmp_path / "events")))
        trainer.progress = TrainState(step=6)
        long = Encoded({name: [1] * 128 for name in ("input_ids", "attention_mask", "token_type_ids")}, 0)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 30_000_000, resource.RLIM_INFINITY))
        try:
            trainer._forward([long] * 4000)
        except StageError as error:
            return str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return "it did fit"

    message = forward()
    assert "a batch does not fit into memory: 4000 rows of up to 128 tokens at step 7 on rank 0" in message
    for advice in ("gradient_accumulation_steps=2", "batch_tokens=256000", "activation_checkpointing=true"):
        assert advice in message
