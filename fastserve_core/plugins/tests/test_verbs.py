"""Plugins that misbehave in a verb: one message with plugin, verb and rule, and a process that is as it was."""

from __future__ import annotations

import locale
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastserve_core import hookimpl
from fastserve_core.artifacts import Artifact, Manifest, copy_tokenizer, hash_files, write_manifest
from fastserve_core.data import Dataset
from fastserve_core.data.dataset import write_description
from fastserve_core.errors import ModelError, StageError, VerbError
from fastserve_core.events import Event, Preflight, WarningRaised
from fastserve_core.plugins import (
    ActivePlugin,
    CompressContext,
    Compressor,
    Registry,
    ServeContext,
    Server,
    StageContext,
    StagedArtifact,
    TrainContext,
    Trainer,
    TuneContext,
    Tuner,
    process_state,
)
from fastserve_core.plugins import verbs as verbs_module
from fastserve_core.plugins.verbs import ask_plugin, call_verb
from fastserve_core.processes.journal import VerbJournal

Act = Callable[[Any], Any]


@dataclass
class StrangeOptions:
    level: int = 1


class Strange:
    """A verb that does what a test says."""

    api_version = 2
    Options = StrangeOptions
    act: Act

    def __init__(self, options: StrangeOptions) -> None:
        self.options = options


class StrangeCompressor(Strange, Compressor):
    @hookimpl
    def compress(self, run: Any) -> Any:
        return self.act(run)


class StrangeTrainer(Strange, Trainer):
    @hookimpl
    def train(self, run: Any) -> Any:
        return self.act(run)

    @hookimpl
    def preflight(self, run: Any) -> Any:
        return self.act(run)


class StrangeTuner(Strange, Tuner):
    @hookimpl
    def tune(self, run: Any) -> Any:
        return self.act(run)


class StrangeServer(Strange, Server):
    @hookimpl
    def serve(self, run: Any) -> Any:
        return self.act(run)


KINDS: dict[str, tuple[type[Any], type[StageContext]]] = {
    "compress": (StrangeCompressor, CompressContext),
    "train": (StrangeTrainer, TrainContext),
    "preflight": (StrangeTrainer, TrainContext),
    "tune": (StrangeTuner, TuneContext),
    "serve": (StrangeServer, ServeContext),
}
VERBS = ("compress", "train", "tune", "serve")


class Case:
    """A run's inputs in a folder, a plugin for each verb, and the warnings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = self._write_model(folder / "store" / "model")
        self.data = Dataset(folder / "store" / "data", "0", {"train": 1}, ("bad", "good"))
        self.data.folder.mkdir()
        write_description(self.data.folder, self.data)
        self.work = folder / "work"
        self.work.mkdir()
        self.warnings: list[str] = []

    @staticmethod
    def _write_model(folder: Path) -> Artifact:
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_text(f'{{"this": "is {name}"}}')
        runtime = {"engine": "torch", "form": "trainable"}
        manifest = Manifest("text_classification", {}, ("bad", "good"), runtime, (), hash_files(folder), {"size": 1})
        return write_manifest(folder, manifest)

    def call(self, verb: str, act: Act) -> Any:
        kind, context = KINDS[verb]
        registry, plugin = Registry(), kind(StrangeOptions())
        plugin.act = act
        section = "train" if verb == "preflight" else verb
        registry._register(plugin, section, "strange")
        registry.add_observer(self)
        active: ActivePlugin[Any] = ActivePlugin(section, "strange", "1", plugin, plugin.options)
        registry._active[section].append(active)
        more: dict[str, Any] = {} if verb == "serve" else {"data": self.data}
        if verb == "compress":
            more["original"] = self.model
        if verb == "tune":
            more |= {"trial_runner": None, "trial_discarder": None, "trainer_options": {"train.x.lr": 0.1}}
        task = SimpleNamespace(labels=("bad", "good"))
        base: dict[str, Any] = {"model": self.model, "task": task, "folder": self.work, "seed": 0, "threads": 1}
        return call_verb(registry, active, verb, context(**base, emit=registry.notify, **more))

    @hookimpl
    def observe(self, event: Event) -> None:
        if isinstance(event, WarningRaised):
            self.warnings.append(event.message)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> VerbJournal:
    """A journal as a command's process has."""
    journal = VerbJournal()
    journal.open()
    monkeypatch.setattr(verbs_module, "JOURNAL", journal)
    monkeypatch.setattr("fastserve_core.plugins.leftovers.GRACE_SECONDS", 0.2)
    return journal


def draft(run: Any) -> Path:
    """A result as it should be."""
    folder: Path = run.clean_folder()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(run.model.folder / name, folder / name)
    copy_tokenizer(run.model.folder, folder)
    return folder


def good_result(verb: str, run: Any) -> Any:
    if verb == "serve":
        return SimpleNamespace(url="http://127.0.0.1:1", wait=print, stop=print)
    return {"train.x.lr": 0.2} if verb == "tune" else StagedArtifact(draft(run))


def raises(error: BaseException) -> Act:
    def act(run: Any) -> Any:
        raise error

    return act


@pytest.mark.parametrize("verb", VERBS)
def test_a_result_that_keeps_the_rules_is_returned(case: Case, verb: str) -> None:
    result = case.call(verb, lambda run: good_result(verb, run))
    assert type(result) is type(good_result(verb, SimpleNamespace(model=case.model, clean_folder=lambda: case.work)))
    assert not case.warnings


class Stop(BaseException):
    pass


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


def set_torch_dtype() -> None:
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)


CHANGES: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
    ("the working directory", lambda: os.chdir("/"), os.getcwd),
    ("environment variables \\(STRANGE\\)", lambda: os.environ.update(STRANGE="1"), lambda: dict(os.environ)),
    ("environment variables \\(PATH\\)", lambda: os.environ.pop("PATH"), lambda: dict(os.environ)),
    ("sys.path", lambda: sys.path.insert(0, "/strange"), lambda: list(sys.path)),
    ("sys.argv", lambda: sys.argv.append("x"), lambda: list(sys.argv)),
    ("the umask", lambda: os.umask(0o000), lambda: os.umask(os.umask(0o077))),
    (
        "signal handlers \\(SIGTERM\\)",
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: signal.getsignal(signal.SIGTERM),
    ),
    ("the alarm", lambda: signal.alarm(100), lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0),
    ("the recursion limit", lambda: sys.setrecursionlimit(5000), sys.getrecursionlimit),
    ("the locale", lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"), lambda: locale.setlocale(locale.LC_ALL)),
    ("the logging configuration", lambda: logging.disable(logging.ERROR), lambda: logging.root.manager.disable),
    ("the standard streams", lambda: os.close(1), lambda: os.fstat(1).st_ino),
    ("the defaults of torch", set_torch_dtype, process_state._read_torch),
]


@pytest.mark.parametrize(("name", "change", "read"), CHANGES)
def test_a_changed_process_is_put_back_with_a_warning(
    request: pytest.FixtureRequest, case: Case, name: str, change: Callable[[], Any], read: Callable[[], Any]
) -> None:
    request.addfinalizer(partial(locale.setlocale, locale.LC_ALL, locale.setlocale(locale.LC_ALL)))
    locale.setlocale(locale.LC_ALL, "C")
    signal.setitimer(signal.ITIMER_REAL, 0)  # that of this test's own limit
    before = read()
    if name == "the umask":
        os.umask(before)

    def act(run: Any) -> Any:
        result = StagedArtifact(draft(run))
        change()
        return result

    case.call("compress", act)
    assert read() == before
    if name == "the umask":
        os.umask(before)
    (warning,) = case.warnings
    assert re.match(f"compress.strange changed {name} in 'compress': a verb may not change the process", warning)


def test_a_changed_process_is_put_back_after_an_error(case: Case) -> None:
    folder = Path.cwd()

    def act(run: Any) -> Any:
        os.chdir("/")
        raise ValueError("no")

    with pytest.raises(StageError, match="failed: ValueError: no"):
        case.call("train", act)
    assert Path.cwd() == folder


def test_variables_that_imports_set_are_no_change(case: Case) -> None:
    def act(run: Any) -> Any:
        os.environ.setdefault("KMP_INIT_AT_FORK", "FALSE")  # as scikit-learn does
        return StagedArtifact(draft(run))

    case.call("compress", act)
    assert case.warnings == []


def start_thread(daemon: bool) -> None:
    threading.Thread(target=time.sleep, args=(3,), name="strange work", daemon=daemon).start()


@pytest.mark.parametrize("verb", ["compress", "train", "tune"])
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (lambda: start_thread(True), "left the thread 'strange work' behind: a verb ends what it has started"),
        (lambda: start_thread(False), "left the thread 'strange work' behind"),
        (lambda: subprocess.Popen(["sleep", "60"]), "left the process \\d+ \\('sleep'\\) behind"),
        (lambda: subprocess.Popen(["sh", "-c", "sleep 60; true"], start_new_session=True), "\\('sleep'\\) behind"),
    ],
)
@pytest.mark.usefixtures("supervised")
def test_threads_and_processes_left_behind_are_ended_or_reported(
    case: Case, verb: str, start: Callable[[], Any], message: str
) -> None:
    def act(run: Any) -> Any:
        start()
        return good_result(verb, run)

    with pytest.raises(VerbError, match=message) as caught:
        case.call(verb, act)
    for number in re.findall("process (\\d+)", str(caught.value)):
        process = Path("/proc", number, "stat")
        end = time.monotonic() + 60
        while process.exists() and process.read_text().split()[2] != "Z":
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.usefixtures("supervised")
def test_threads_of_observers_and_of_others_are_not_the_plugins(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case, "observe", hookimpl(lambda event: start_thread(False)))

    def act(run: Any) -> Any:
        run.emit(WarningRaised("slow"))
        return StagedArtifact(draft(run))

    assert case.call("compress", act).steps == 0


def test_in_a_python_program_its_own_threads_are_left_alone(case: Case) -> None:
    def act(run: Any) -> Any:
        start_thread(False)
        return StagedArtifact(draft(run))

    assert case.call("compress", act).steps == 0


def test_a_forked_copy_of_the_process_does_not_run_on(case: Case, tmp_path: Path) -> None:
    def act(run: Any) -> Any:
        result = StagedArtifact(draft(run))
        if child := os.fork():
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        return result

    case.call("compress", act)
    (tmp_path / "ran").open("a").write("once ")  # the copy would come here too
    assert (tmp_path / "ran").read_text() == "once "


def test_the_journal_names_the_running_verbs(supervised: VerbJournal) -> None:
    with supervised.entry("tune.a in 'tune'"), supervised.entry("train.b in 'train'"):
        assert supervised.read() == "train.b in 'train', tune.a in 'tune'"
        assert not supervised.runs_in_other_threads()
    assert supervised.read() == ""


def test_other_methods_that_fail_name_the_plugin() -> None:
    plugin = StrangeTrainer(StrangeOptions())
    plugin.search_space = raises(ZeroDivisionError("no steps"))  # type: ignore[method-assign]
    active: ActivePlugin[Any] = ActivePlugin("train", "strange", "1", plugin, plugin.options)
    with pytest.raises(StageError, match="train.strange: 'search_space' failed: ZeroDivisionError: no steps"):
        ask_plugin(active, "search_space", None)
