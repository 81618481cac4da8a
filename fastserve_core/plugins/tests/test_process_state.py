"""A process that a verb changes is put back, and what it leaves behind is ended."""

from __future__ import annotations

import locale
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastserve_core import hookimpl
from fastserve_core.errors import StageError, VerbError
from fastserve_core.events import WarningRaised
from fastserve_core.plugins import (
    ActivePlugin,
    StagedArtifact,
    process_state,
)
from fastserve_core.plugins.tests.strange_plugins import (
    Case,
    StrangeOptions,
    StrangeTrainer,
    draft,
    good_result,
    raises,
)
from fastserve_core.plugins.verbs import ask_plugin
from fastserve_core.processes.journal import VerbJournal


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


@pytest.mark.slow(1)
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
