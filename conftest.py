"""Fixtures for every test: offline, a store of one's own, tiny data and models, the command line."""

from __future__ import annotations

import csv
import functools
import importlib
import itertools
import logging.config
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any
from weakref import WeakValueDictionary

import psutil
import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings

import fastserve_core.cli
from fastserve_core.processes import thread_environment, usable_cores

# On a busy machine an example may take any time. A change is judged by the same examples every time.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("random", deadline=None, max_examples=500)

ROOT = Path(__file__).parent
CORES = os.sched_getaffinity(0)
"""Those of the whole run: a worker gives itself one of them."""
sys.path[:0] = [str(ROOT / "tests" / "offline"), str(ROOT / "tests" / "support")]

from loopback_only import refuse_other_sockets  # noqa: E402

import forks  # noqa: E402

pytest.register_assert_rewrite("fastserve_core.testing")
pytest_plugins = ["scheduling"]

GOOD = ("wonderful", "brilliant", "moving", "superb", "delightful", "charming")
BAD = ("dreadful", "boring", "clumsy", "awful", "tedious", "lifeless")
PLOTS = ("the film is {}", "a {} piece of work", "what a {} story", "{} acting all the way", "it was {} , truly {}")


def pytest_configure(config: pytest.Config) -> None:
    """No test reaches beyond loopback, and the commands that tests start share what is slow to import."""
    if config.getoption("--hypothesis-profile") is None:
        settings.load_profile("quick" if "not slow" in config.option.markexpr else "suite")
    refuse_other_sockets()
    if hasattr(config, "workerinput"):
        use_one_core(int(config.workerinput["workerid"].removeprefix("gw")))
    # a shell's background job starts with SIGINT ignored, and so would every process that a test interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # more are processes that each import torch
    offline, paths = str(ROOT / "tests" / "offline"), os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [offline, *(one for one in paths if one != offline)]))
    is_alone = not hasattr(config, "workerinput") and not config.option.tx
    forks.use_server(functools.partial(forks.start_server, usable_cores() if is_alone else 1))


def use_one_core(worker: int) -> None:
    """Give this worker and the commands it starts one core.

    Threads that wait for their turn on a core that another worker uses made a training 40 times as slow.
    """
    os.sched_setaffinity(0, {sorted(CORES)[worker % len(CORES)]})
    with pytest.MonkeyPatch.context() as patched:
        for name, value in thread_environment(1).items():
            patched.setenv(name, value)
        import torch

    torch.set_num_threads(1)


@pytest.fixture
def every_core() -> Iterator[None]:
    """For a test of many processes that all work, such as a cluster: the cores that its worker leaves to others too."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, own)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For the tests that fetch from the package index: the processes they start may leave loopback."""
    monkeypatch.setenv("FASTSERVE_TESTS_ONLINE", "1")
    yield


HOMES = itertools.count()


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own, which only a test that uses it makes: a folder for each costs a millisecond."""
    folder = tmp_path_factory.getbasetemp() / f"home-{next(HOMES)}"
    monkeypatch.setenv("FASTSERVE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run of the tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def shared_home(shared_folder: Path) -> Path:
    """A store for tests that want a result and do not care who made it: what one has made, the others reuse."""
    return shared_folder / "shared-home"


def review(draw: random.Random) -> tuple[str, str]:
    """A short review that a tiny model can learn, and its label."""
    positive = draw.random() < 0.5
    words = [draw.choice(GOOD if positive else BAD) for _ in range(2)]
    text = draw.choice(PLOTS).format(*words) + f" number {draw.randrange(1000)}"
    return text, "positive" if positive else "negative"


def write_reviews(path: Path, rows: int, seed: int = 0) -> Path:
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(review(draw) for _ in range(rows))
    return path


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 240 reviews."""
    return write_reviews(tmp_path_factory.mktemp("data") / "reviews.csv", 240)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, reviews: Path) -> Path:
    """A BERT checkpoint with random weights, small enough to train in a second."""
    import torch

    from fastserve_core.config import ModelSpec
    from fastserve_text.model_factory import build_model, write_scratch

    folder = tmp_path_factory.mktemp("tiny-bert")
    spec = ModelSpec("scratch", "bert", dim=32, num_heads=2, num_layers=2, hidden_size=64, vocab_size=400)
    texts = [line.partition(",")[0] for line in reviews.read_text().splitlines()]
    write_scratch(spec, texts, folder, "ForSequenceClassification")
    torch.manual_seed(0)
    build_model(folder, "ForSequenceClassification", ["negative", "positive"]).save_pretrained(folder)
    return folder


def on_torch(arguments: Sequence[object]) -> list[str]:
    """A run's arguments, with the engine that needs no lowering where they name none: it saves seconds a model."""
    given = [str(one) for one in arguments]
    place = next((number for number, one in enumerate(given) if one.startswith("+plugin")), None)
    if place is not None and not any(one.startswith("engine=") for one in given):
        given.insert(place + 1, "engine=torch")  # beside the overrides: flags may follow
    return given


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A module of the benchmarks by its name, found by this process and by those it starts."""
    folder = str(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")])))
    return importlib.import_module


Cli = Callable[..., subprocess.CompletedProcess[str]]


def run_here(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in that folder and in this process, so that what takes seconds to import serves every run."""
    given = on_torch(arguments)
    with pytest.MonkeyPatch.context() as patched, open_outputs(folder) as (out, err):
        patched.chdir(folder)
        patched.setattr(sys, "argv", ["fastserve", *given])
        # Hydra configures logging, which closes every handler there is: here those of this run alone
        patched.setattr(logging, "_handlers", WeakValueDictionary())
        patched.setattr(logging, "_handlerList", [])
        patched.setattr(logging.root, "handlers", [])
        for name, value in environment.items():
            patched.setenv(name, value)
        before, terminate = dict(os.environ), signal.getsignal(signal.SIGTERM)
        try:
            code = fastserve_core.cli.main(given)
        except SystemExit as ended:  # argparse's
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            signal.signal(signal.SIGTERM, terminate)
            os.environ.clear()
            os.environ.update(before)
            GlobalHydra.instance().clear()
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "root": {}})
        sys.stdout.flush()
        sys.stderr.flush()
        printed = [Path(one.name).read_text(encoding="utf-8", errors="replace") for one in (out, err)]
    return subprocess.CompletedProcess(given, code, *printed)


@contextmanager
def open_outputs(folder: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """Files that get what this process prints."""
    with (
        NamedTemporaryFile("w", dir=folder.parent, encoding="utf-8") as out,
        NamedTemporaryFile("w", dir=folder.parent, encoding="utf-8") as err,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        yield out, err


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the command line in the test's own folder: ``run_here``."""
    return functools.partial(run_here, tmp_path)


@pytest.fixture
def command(tmp_path: Path) -> Cli:
    """Run ``python -m fastserve_core`` in the test's own folder, a process of its own as users have."""

    def run(*arguments: object, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fastserve_core", *on_torch(arguments)],
            check=False,
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


def ranks_below(pid: int, generations: int = 4) -> list[int]:
    """The ranks of a process that trains: its nursery has the launcher, that a fork server, and that the ranks."""
    generation = [psutil.Process(pid)]
    for _ in range(generations):
        generation = [child for one in generation for child in one.children()]
    return [one.pid for one in generation]
