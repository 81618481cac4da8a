"""Child processes that share our environment, report through JSON, and die with their parent."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from fastserve_core.errors import FastServeError, StageFailed, UserError
from fastserve_core.events import Event, from_json, to_json
from fastserve_core.processes.fork_server import FORK_SERVERS, ForkedProcess, can_fork
from fastserve_core.processes.resources import thread_environment

POLL_SECONDS = 0.5
EVENT_FLUSH_SECONDS = 0.05
PRELOAD_MODULES = ("torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto", "sklearn.metrics")
"""For ``imports`` of ``call``: what a process needs that has a model of transformers, and scores it."""


def die_with_parent(parent: int | None = None) -> None:
    """End this process soon after its parent has ended, however that ended (SIGKILL too).

    A thread that looks at the parent's id is portable, and unlike Linux's death signal it does not
    fire when only the parent's *thread* that started us ends. A process of ``multiprocessing`` may have been
    forked by a server, which outlives the process that asked for it: there the one that asked counts.
    """
    asked_by = multiprocessing.parent_process() if parent is None else None
    expected = parent if parent is not None else os.getppid()

    def watch() -> None:
        if asked_by is not None:
            asked_by.join()
        while asked_by is None and os.getppid() == expected:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10 * POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


def run_in_child(
    module: str,
    request: Mapping[str, Any],
    threads: int,
    tell: Callable[[Event], None] = lambda _: None,
    imports: Sequence[str] = (),
) -> Any:
    """Run ``python -m module`` on a JSON request and return its JSON answer.

    The child uses ``answer`` below, and ``event_writer(events)`` with the path it is given as ``events`` to
    tell what happens meanwhile. ``imports`` are slow modules that it needs: where the system allows, they are
    imported once for all such children of this process. Its ``FastServeError`` is raised here again with its exit
    code; anything else it fails with becomes ``StageFailed`` with the end of what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="fastserve-") as scratch:
        asked, answered, events, output = (
            Path(scratch, name) for name in ("request.json", "answer.json", "events.jsonl", "output.txt")
        )
        asked.write_text(json.dumps({**request, "events": events}, default=str), encoding="utf-8")
        events.touch()
        with output.open("wb") as printed, events.open(encoding="utf-8") as told:
            child = _start(module, [str(asked), str(answered)], threads, imports, printed)
            try:
                _forward_events(child, told, tell)
            finally:
                child.kill()  # only an interrupted parent finds it still running
                child.wait()
        if not answered.is_file():
            end = output.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
            raise StageFailed(f"{module} ended with exit code {child.returncode}:\n{end}")
        result = json.loads(answered.read_text(encoding="utf-8"))
    if "error" in result:
        kind = UserError if result["exit_code"] == UserError.exit_code else StageFailed
        raise kind(result["error"])
    return result["value"]


def _start(
    module: str, arguments: list[str], threads: int, imports: Sequence[str], printed: BinaryIO
) -> subprocess.Popen[bytes] | ForkedProcess:
    environment = os.environ | thread_environment(threads)
    if imports and can_fork():
        order = Path(arguments[0]).with_name("order.json")
        said = {"module": module, "arguments": arguments, "imports": imports}
        order.write_text(json.dumps({**said, "environment": dict(environment), "folder": str(Path.cwd())}), "utf-8")
        return FORK_SERVERS.fork(order, environment, printed.fileno())
    asking = FORK_SERVERS.to_inherit(environment)
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments, *map(str, asking)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.STDOUT,
        pass_fds=asking,
    )


def _forward_events(
    child: subprocess.Popen[bytes] | ForkedProcess, told: TextIO, tell: Callable[[Event], None]
) -> None:
    """Pass on the child's events until it has ended and all are read."""
    line, ended = "", False
    while True:
        part = told.readline()
        line += part
        if line.endswith("\n"):
            tell(from_json(json.loads(line)))
            line = ""
        elif not part:
            if ended:
                return
            try:
                child.wait(timeout=EVENT_FLUSH_SECONDS)
                ended = True
            except subprocess.TimeoutExpired:
                pass


def event_writer(path: str | Path) -> Callable[[Event], None]:
    """A function that hands events to the process that waits in ``call``; for the child and its children."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def emit(event: Event) -> None:
        os.write(file, (json.dumps(to_json(event)) + "\n").encode())

    return emit


def child_main(function: Any) -> None:
    """The child's side of ``call``: read the request, run the function on it, write the answer."""
    die_with_parent()
    asked, answered = map(Path, sys.argv[1:3])
    for descriptor in sys.argv[3:]:
        os.set_inheritable(int(descriptor), False)
        FORK_SERVERS.share(socket.socket(fileno=int(descriptor)), os.environ)
    try:
        result: dict[str, Any] = {"value": function(**json.loads(asked.read_text(encoding="utf-8")))}
    except FastServeError as error:
        result = {"error": str(error), "exit_code": error.exit_code}
    answered.write_text(json.dumps(result, default=str), encoding="utf-8")
