"""Child processes that inherit the environment, report events as JSON, and end with their parent."""

from __future__ import annotations

import json
import logging
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

from fastserve_core.errors import FastServeError, StageError, StoreError, TransientError, UserError, transient_kind
from fastserve_core.events import Event, WarningRaised, from_json, to_json
from fastserve_core.processes.fork_pool import FORK_SERVERS, ForkedProcess, can_fork
from fastserve_core.processes.resources import thread_environment

POLL_SECONDS = 0.5
EVENT_FLUSH_SECONDS = 0.05
PRELOAD_MODULES = ("torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto", "sklearn.metrics")
"""For ``imports`` of ``run_in_child``: the modules of a process that runs a model of transformers and scores it."""

TERMINAL_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


def ignored_signals() -> frozenset[signal.Signals]:
    """Return the signals of a terminal that this process ignores.

    A command that was started with ``nohup``, or in the background by a script, ignores some. Its children inherit
    that, and must not install handlers for these signals.
    """
    return frozenset(number for number in TERMINAL_SIGNALS if signal.getsignal(number) is signal.SIG_IGN)


def die_with_parent(parent: int | None = None) -> None:
    """End this process soon after its parent has ended, also if the parent was killed.

    A thread that polls the parent's id is portable, and unlike Linux's death signal it does not fire if only the
    parent's *thread* that started this process ends. A process of ``multiprocessing`` may be forked by a server that
    outlives the process that requested it; then the requesting process counts as the parent.

    Args:
        parent: The id of the parent; by default the process that requested this one.
    """
    requester = multiprocessing.parent_process() if parent is None else None
    expected = parent if parent is not None else os.getppid()

    def watch() -> None:
        if requester is not None:
            requester.join()
        while requester is None and os.getppid() == expected:
            time.sleep(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10 * POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


def run_in_child(
    module: str,
    request: Mapping[str, Any],
    threads: int,
    emit: Callable[[Event], None] = lambda _: None,
    imports: Sequence[str] = (),
) -> Any:
    """Run ``python -m module`` on a JSON request; the module calls ``child_main``.

    The child has a folder of its own for temporary files, which is removed when it has ended.

    Args:
        module: The module to run.
        request: Keyword arguments of the module's function, as JSON values. ``events`` is added to them: a path for
            ``event_writer``, with which the child reports events.
        threads: The number of threads that the child may use.
        emit: Called with each event of the child.
        imports: Slow modules that the child imports. If the system allows, they are imported once for all such
            children of this process.

    Returns:
        The JSON value that the module's function returned.

    Raises:
        UserError: The child raised one.
        StageError: The child raised another error; the message ends with its output.
        TransientError: The child was killed, or memory or disk space ran out.
    """
    with tempfile.TemporaryDirectory(prefix="fastserve-") as scratch:
        request_path, response_path, events_path, output_path = (
            Path(scratch, name) for name in ("request.json", "response.json", "events.jsonl", "output.txt")
        )
        request_path.write_text(json.dumps({**request, "events": events_path}, default=str), encoding="utf-8")
        events_path.touch()
        with output_path.open("wb") as output, events_path.open(encoding="utf-8") as events:
            environment = os.environ | thread_environment(threads) | {"TMPDIR": scratch}
            child = _start(module, [str(request_path), str(response_path)], environment, imports, output)
            try:
                _forward_events(child, events, emit)
            finally:
                child.kill()  # it still runs only if this process was interrupted
                child.wait()
        if not response_path.is_file():
            end = output_path.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
            raise _crash(module, child.returncode or 0, end)
        return _read_response(response_path)


def _crash(module: str, code: int, output: str) -> StageError:
    """Return the error of a child that ended without a response."""
    if code < 0:
        name = signal.Signals(-code).name
        return TransientError(f"{module} ended with exit code {code} ({name}):\n{output}".removesuffix(":\n"))
    return (transient_kind(output) or StageError)(f"{module} ended with exit code {code}:\n{output}")


REPORTED_ERRORS: dict[str, type[FastServeError]] = {
    kind.__name__: kind for kind in (UserError, StageError, TransientError, StoreError)
}
"""The classes of errors that a child's response distinguishes, each after its base classes."""


def _read_response(path: Path) -> Any:
    response = json.loads(path.read_text(encoding="utf-8"))
    if "error" in response:
        raise REPORTED_ERRORS[response["kind"]](response["error"])
    return response["value"]


def _describe_error(error: Exception) -> dict[str, str]:
    """Return the response for an error.

    Raises:
        Exception: The error, if it is not one that FastServe reports.
    """
    if isinstance(error, FastServeError):
        kinds = [name for name, kind in REPORTED_ERRORS.items() if isinstance(error, kind)]
        return {"error": str(error), "kind": kinds[-1] if kinds else StageError.__name__}
    if (kind := transient_kind(error)) is None:
        raise error
    return {"error": f"{type(error).__name__}: {error}", "kind": kind.__name__}


def _start(
    module: str, arguments: list[str], environment: Mapping[str, str], imports: Sequence[str], output: BinaryIO
) -> subprocess.Popen[bytes] | ForkedProcess:
    if imports and can_fork():
        request = Path(arguments[0]).with_name("fork.json")
        call = {"module": module, "arguments": arguments, "imports": imports}
        request.write_text(json.dumps({**call, "environment": dict(environment), "folder": str(Path.cwd())}), "utf-8")
        return FORK_SERVERS.fork(request, environment, output.fileno())
    descriptors = FORK_SERVERS.inherited_descriptors(environment)
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments, *map(str, descriptors)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=descriptors,
    )


def _forward_events(
    child: subprocess.Popen[bytes] | ForkedProcess, events: TextIO, emit: Callable[[Event], None]
) -> None:
    """Forward the child's events until it has ended and all are read."""
    line, has_ended = "", False
    while True:
        text = events.readline()
        line += text
        if line.endswith("\n"):
            emit(from_json(json.loads(line)))
            line = ""
        elif not text:
            if has_ended:
                return
            try:
                child.wait(timeout=EVENT_FLUSH_SECONDS)
                has_ended = True
            except subprocess.TimeoutExpired:
                pass


def event_writer(path: str | Path) -> Callable[[Event], None]:
    """Return a function that sends events to the process that waits in ``run_in_child``.

    Args:
        path: The child's argument ``events``; its own children may use the same path.
    """
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def emit(event: Event) -> None:
        os.write(file, (json.dumps(to_json(event)) + "\n").encode())

    return emit


class _WarningEvents(logging.Handler):
    """Reports the warnings in a child's log to its parent; the log itself is seen only if the child fails."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        super().__init__(logging.WARNING)
        self._emit_event = emit

    def emit(self, record: logging.LogRecord) -> None:
        self._emit_event(WarningRaised(record.getMessage()))


def child_main(function: Any) -> None:
    """Run the child's side of ``run_in_child``: read the request, call the function, write the response.

    Args:
        function: Called with the request as keyword arguments; returns a JSON value. A ``FastServeError`` is raised
            again in the parent, and so is a shortage of memory or disk space, as ``TransientError``.
    """
    die_with_parent()
    request_path, response_path = map(Path, sys.argv[1:3])
    for descriptor in sys.argv[3:]:
        os.set_inheritable(int(descriptor), False)
        FORK_SERVERS.share(socket.socket(fileno=int(descriptor)), os.environ)
    request = json.loads(request_path.read_text(encoding="utf-8"))
    logging.getLogger("fastserve").addHandler(_WarningEvents(event_writer(request["events"])))
    try:
        response: dict[str, Any] = {"value": function(**request)}
    except Exception as error:
        response = _describe_error(error)
    response_path.write_text(json.dumps(response, default=str), encoding="utf-8")
