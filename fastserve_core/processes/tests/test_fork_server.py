"""Children forked off a process that has the imports done: real processes, and real ends of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fastserve_core.errors import StageError, StoreError, TransientError, UserError
from fastserve_core.events import Progress, WarningRaised
from fastserve_core.processes import child, fork_pool
from fastserve_core.processes.child import run_in_child
from fastserve_core.processes.fork_pool import ForkServerPool

pytestmark = pytest.mark.skipif(not fork_pool.can_fork(), reason="forks only on Linux")

WORK = """
    import atexit, logging, os, pathlib, signal, sys, time
    from fastserve_core.processes.child import child_main, event_writer, ignored_signals
    from fastserve_core.errors import OptionError
    from fastserve_core.events import Progress

    def work(what, events, **more):
        if what == "crash":
            raise RuntimeError("no such luck")
        if what == "wrong":
            raise OptionError("that is not an option")
        if what == "die":
            os.kill(os.getpid(), more.get("signal", signal.SIGKILL))
        if what == "fill":
            raise {"disk": OSError(28, os.strerror(28)), "library": RuntimeError("I/O error: " + os.strerror(28)),
                   "memory": MemoryError(), "allocator": RuntimeError("Error code 12 (" + os.strerror(12) + ")"),
                   "peer": BrokenPipeError(32, os.strerror(32)), "input": OSError(2, os.strerror(2))}[more["kind"]]
        if what == "warn":
            logging.getLogger("fastserve").warning("the file %s is damaged", "x")
            return None
        if what == "wait":
            event_writer(events)(Progress(str(os.getpid()), 0, 1))
            time.sleep(60)
        if what == "nest":
            from fastserve_core.processes.child import run_in_child
            print("before the inner one", flush=True)
            return {"parent": os.getppid(), "inner": run_in_child("some_work", {"what": "tell", "marked": True}, 1,
                                                          imports=["slowly"])}
        if what == "litter":
            import tempfile
            return [tempfile.mkdtemp(), tempfile.mkstemp()[1]]
        if what == "leave":
            atexit.register(pathlib.Path(more["file"]).write_text, "left")
            sys.exit(more["code"])
        if what == "spawn":
            import multiprocessing
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return pool.map(double, [21])
        here = {name: os.environ.get(name) for name in ("FASTSERVE_HOME", "OMP_NUM_THREADS", "TORCH_X")}
        here["ignored"] = sorted(number.name for number in ignored_signals())
        return {"pid": os.getpid(), "parent": os.getppid(), "slow": "slowly" in sys.modules, "folder": os.getcwd(),
                "imported_by": sys.modules["slowly"].PID if "slowly" in sys.modules else None, **here}

    def double(number):
        return 2 * number

    if __name__ == "__main__":
        child_main(work)
"""


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls the module above, in processes of this test alone."""
    (tmp_path / "some_work.py").write_text(textwrap.dedent(WORK))
    (tmp_path / "slowly.py").write_text("import os\nPID = os.getpid()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(child, "FORK_SERVERS", ForkServerPool(idle_seconds=5.0))

    def ask(what: str, threads: int = 1, **more: Any) -> Any:
        return run_in_child("some_work", {"what": what, **more}, threads, imports=["slowly", "not_installed"])

    return ask


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_imports_are_done_once_for_all_children(ask: Callable[..., Any]) -> None:
    first, second = ask("tell"), ask("tell")
    assert first["pid"] != second["pid"]
    assert first["imported_by"] == second["imported_by"] == first["parent"] == second["parent"] != os.getpid()


@pytest.mark.slow(1)
@pytest.mark.parametrize("forks", [True, False])
def test_temporary_files_of_a_child_are_removed(
    ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(child, "can_fork", lambda: forks)
    ask("tell")  # a server that has its own folder for temporary files by now
    left = ask("litter")
    assert all(Path(path).is_relative_to(tmp_path / "temporary") for path in left)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_child_has_the_folder_and_the_variables_of_the_one_who_asks(
    ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask("tell")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    monkeypatch.setenv("FASTSERVE_HOME", "elsewhere")
    second = ask("tell")
    assert (second["folder"], second["FASTSERVE_HOME"], second["OMP_NUM_THREADS"]) == (str(other), "elsewhere", "1")
    assert second["parent"] == first["parent"]


@pytest.mark.slow(1)
@pytest.mark.parametrize("ignored", [[], ["SIGHUP"], ["SIGINT"], ["SIGHUP", "SIGINT", "SIGQUIT"]])
def test_a_child_ignores_the_signals_that_the_command_does(ask: Callable[..., Any], ignored: list[str]) -> None:
    before = {name: signal.signal(signal.Signals[name], signal.SIG_IGN) for name in ignored}
    try:
        assert ask("tell")["ignored"] == ignored
    finally:
        for name, handler in before.items():
            signal.signal(signal.Signals[name], handler)


def test_warnings_in_the_log_of_a_child_are_events(ask: Callable[..., Any]) -> None:
    events: list[Any] = []
    assert run_in_child("some_work", {"what": "warn"}, 1, events.append, imports=["slowly"]) is None
    assert events == [WarningRaised("the file x is damaged")]


def test_variables_read_at_import_need_another_process(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ask("tell"), ask("tell", threads=2)
    monkeypatch.setenv("TORCH_X", "1")
    third = ask("tell")
    assert [second["OMP_NUM_THREADS"], third["TORCH_X"]] == ["2", "1"]
    assert len({one["parent"] for one in (first, second, third)}) == 3


def test_faults_come_back_as_from_any_child(ask: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="that is not an option"):
        ask("wrong")
    with pytest.raises(StageError, match=r"some_work ended with exit code 1:(?s:.*)RuntimeError: no such luck"):
        ask("crash")
    assert ask("tell")["slow"]


@pytest.mark.slow(1)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_killed_child_is_not_a_fault_of_its_work(ask: Callable[..., Any], number: signal.Signals) -> None:
    with pytest.raises(TransientError, match=rf"some_work ended with exit code -{number:d} \({number.name}\)"):
        ask("die", signal=number)


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        *(("disk", StoreError), ("library", StoreError)),
        *(("memory", TransientError), ("allocator", TransientError), ("peer", TransientError)),
        ("input", StageError),
    ],
)
def test_faults_of_the_machine_differ_from_other_faults(
    ask: Callable[..., Any], kind: str, error: type[Exception]
) -> None:
    with pytest.raises(StageError) as raised:
        ask("fill", kind=kind)
    assert raised.type is error


def test_a_child_may_start_processes_that_import_its_main_module(ask: Callable[..., Any]) -> None:
    assert ask("spawn") == [42]


def test_the_children_of_a_child_are_forked_off_the_same_process(ask: Callable[..., Any]) -> None:
    first, nested = ask("tell"), ask("nest")
    assert nested["inner"]["parent"] == nested["parent"] == first["parent"]


def test_a_child_that_is_not_forked_shares_the_process_too(ask: Callable[..., Any]) -> None:
    first = ask("tell")
    plain = run_in_child("some_work", {"what": "nest"}, 1)
    assert plain["parent"] == os.getpid() != plain["inner"]["parent"] == first["parent"]


@pytest.mark.parametrize(("code", "said"), [(3, "exit code 3"), ("the last words", "(?s)exit code 1.*last words")])
def test_a_child_that_exits_has_its_code_and_runs_its_exit_functions(
    ask: Callable[..., Any], tmp_path: Path, code: object, said: str
) -> None:
    with pytest.raises(StageError, match=said):
        ask("leave", code=code, file=tmp_path / "note")
    assert (tmp_path / "note").read_text() == "left"


def test_where_the_process_was_killed_another_takes_its_place(ask: Callable[..., Any]) -> None:
    first = ask("tell")["parent"]
    os.kill(first, signal.SIGKILL)
    until(lambda: gone(first))
    assert ask("tell")["parent"] != first


def test_a_process_that_is_killed_before_its_first_request_is_replaced(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, killed = child.FORK_SERVERS._start, list[int]()

    def start_and_kill(*arguments: Any) -> Any:
        requests, process = start(*arguments)
        if len(killed) < fork_pool.MAX_STARTS - 1:
            process.kill()
            killed.append(process.wait())
        return requests, process

    monkeypatch.setattr(child.FORK_SERVERS, "_start", start_and_kill)
    assert ask("tell")["slow"]
    assert killed == [-signal.SIGKILL]


def test_a_child_ends_with_the_process_it_was_forked_off(ask: Callable[..., Any]) -> None:
    parent, said, failed = ask("tell")["parent"], [], []

    def wait() -> None:
        try:
            run_in_child("some_work", {"what": "wait"}, 1, said.append, imports=["slowly"])
        except StageError as error:
            failed.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: bool(said))
    os.kill(parent, signal.SIGKILL)
    thread.join(10)
    assert "exit code -9" in failed[0]
    until(lambda: gone(_pid(said[0])))


def _pid(event: Any) -> int:
    assert isinstance(event, Progress)
    return int(event.activity)


def test_children_at_the_same_time_do_not_hold_each_other_up(ask: Callable[..., Any]) -> None:
    said: list[Any] = []

    def stop(event: Any) -> None:
        said.append(event)
        assert ask("tell")["slow"]  # answered while the other one sleeps
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_child("some_work", {"what": "wait"}, 1, stop, imports=["slowly"])
    assert gone(_pid(said[0])), "a child that nobody waits for is ended"


def test_it_leaves_when_nobody_asks_and_comes_again(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "FORK_SERVERS", ForkServerPool(idle_seconds=0.2))
    first = ask("tell")["parent"]
    until(lambda: gone(first))
    assert ask("tell")["parent"] != first


def test_all_end_with_the_one_who_asked(ask: Callable[..., Any], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from fastserve_core.processes.child import run_in_child\n"
        "emit = lambda event: print(event.activity, flush=True)\n"
        "run_in_child('some_work', {'what': 'wait'}, 1, emit, imports=['slowly'])\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        child = int(asking.stdout.readline())
        parent = psutil.Process(child).ppid()
        asking.kill()
    until(lambda: gone(child) and gone(parent))
