"""Parent side of a server process: binds the port, starts the process, waits until it answers, and stops it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from fastserve_core.artifacts import expand_user, find_artifact
from fastserve_core.errors import StageError, UserError
from fastserve_core.processes import thread_environment, write_line
from fastserve_server.addresses import bind, local_url, warn_if_open
from fastserve_server.auth import key_hashes
from fastserve_server.model_registry import resolve_adapters, resolve_first, resolve_models
from fastserve_server.options import ServerOptions

BACKLOG = 2048
LOG_TAIL_LINES = 40
MAX_LINES_TO_SHOW = 1000
"""Maximum number of lines that wait until stderr can be written; further ones are dropped."""
END_S = 10.0
"""Time after draining for the server to end its engines, before it is killed."""


P = TypeVar("P", bound="ServerProcess")


class ServerProcess:
    """A running server; call ``stop``, or use it as a context manager. It ends when this process ends.

    Args:
        url: Address of the server for clients on this machine.
        process: The process, with pipes for stdin and stdout.
        reports: Pipe with the server's reports, one JSON object per line.
        patience_s: Seconds after which ``stop`` kills the server.
    """

    def __init__(self, url: str, process: subprocess.Popen[str], reports: IO[str], patience_s: float) -> None:
        self.url = url
        self._reports, self._reload_lock = reports, threading.Lock()
        self._process, self._patience_s = process, patience_s
        self._log_tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        self._is_shown = self._is_stopping = self._has_ended = False
        self._shown: queue.Queue[str | None] = queue.Queue(MAX_LINES_TO_SHOW)
        self._pump = threading.Thread(target=self._pump_output, name="server-output", daemon=True)
        self._pump.start()
        self._printer = threading.Thread(target=self._print_output, name="server-output-printer", daemon=True)
        self._printer.start()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def wait(self) -> None:
        """Wait until the server ends.

        Raises:
            StageError: The server crashed; the message has the end of its output.
        """
        code = self._process.wait()
        if code != 0 and not self._is_stopping:
            raise StageError(self.stderr_tail(f"the server ended with exit code {code}"))

    def receive(self, end_message: str) -> dict[str, Any]:
        """Wait for the server's next report.

        Args:
            end_message: Message of the error if the server ends instead.

        Raises:
            StageError: The server ended or failed.
            UserError: The server reported an error of the user.
        """
        line = self._reports.readline()
        if not line:
            raise StageError(self.stderr_tail(end_message))
        report: dict[str, Any] = json.loads(line)
        if "error" in report:
            kind = UserError if report["exit_code"] == UserError.exit_code else StageError
            raise kind(report["error"])
        return report

    def request(self, message: Mapping[str, Any]) -> None:
        """Send a message to the server, as a line of JSON."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Let the server answer its open requests and end; kill it after ``patience_s``."""
        self._is_stopping = True
        if self._has_ended:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(self._patience_s)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its session: the server, if it hangs, and its children
        self._process.wait()
        self._printer.join(1.0)
        for pipe in filter(None, (self._reports, self._process.stdin)):
            with suppress(BrokenPipeError):
                pipe.close()
        self._has_ended = True

    def show(self) -> None:
        """Print the server's output to stderr from now on."""
        self._is_shown = True

    def stderr_tail(self, message: str) -> str:
        """Return a message followed by the end of the server's output."""
        self._pump.join(1.0)
        return "\n".join([message + (":" if self._log_tail else ""), *self._log_tail])

    def _pump_output(self) -> None:
        """Store the end of the server's output, and show it after ``show``: libraries are noisy while they load.

        The pipe is read whether or not the output can be shown, because the server stops answering when it is full.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._log_tail.append(line.rstrip())
            if self._is_shown:
                with suppress(queue.Full):
                    self._shown.put_nowait(line.rstrip("\n"))
        self._shown.put(None)

    def _print_output(self) -> None:
        """Write the lines to stderr, which may block for as long as nobody reads it."""
        while (line := self._shown.get()) is not None:
            write_line(sys.stderr, line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class EmbeddedProcess(ServerProcess):
    """A server that can replace its artifacts while it runs."""

    def reload(self, artifact: Path, model: str | None = None) -> bool:
        """Serve another artifact without losing a request. If that fails, the old one stays.

        Args:
            artifact: Folder of the artifact.
            model: Name of the model to replace; ``None`` for the first one.

        Returns:
            False if the same artifact is already served.

        Raises:
            StageError: The server ended.
            UserError: The artifact cannot replace the old one.
        """
        with self._reload_lock:
            self.request({"artifact": str(artifact.absolute()), "model": model})
            return bool(self.receive("the server ended during the reload")["changed"])


def start(artifact: Path, options: ServerOptions, threads: int) -> EmbeddedProcess:
    """Start the embedded server and wait until it answers.

    Args:
        artifact: Folder of the first model's artifact.
        options: Options of the server.
        threads: Number of threads that the workers of a model may use together.

    Raises:
        BindError: The port is in use, or the address is wrong.
        StageError: The server failed to start.
        UserError: The API keys or an artifact cannot be used.
    """
    keys = key_hashes(options.api_keys_file, f"{options.where}.api_keys_file")
    models, adapters = resolve_models(options.models), resolve_adapters(options.adapters)
    artifact, options = resolve_first(artifact, replace(options, models=models, adapters=adapters))
    if options.candidate is not None:
        options.candidate = str(find_artifact(expand_user(options.candidate)).folder.absolute())
    with bind(options.host, options.port, options.where) as listening:
        if not keys:
            warn_if_open(listening, options.where)
        listening.listen(BACKLOG)
        request = {"artifact": str(artifact), "options": asdict(options), "threads": threads, "keys": keys}
        return launch(
            "fastserve_server.process",
            request | {"socket": listening.fileno()},
            local_url(options.host, listening.getsockname()[1]),
            environment=thread_environment(max(1, threads // (options.workers or threads)))
            | {"RAYON_NUM_THREADS": str(threads)},  # one worker at a time tokenizes
            patience_s=options.drain_s + END_S,
            pass_fds=[listening.fileno()],
            kind=EmbeddedProcess,
        )


def launch(
    module: str,
    request: Mapping[str, Any],
    url: str,
    environment: Mapping[str, str],
    patience_s: float,
    kind: type[P],
    pass_fds: Sequence[int] = (),
) -> P:
    """Run ``python -m module``, which calls ``run_child``, and wait until it is ready.

    Args:
        module: The module to run.
        request: Request for the child; must be serializable as JSON.
        url: Address of the server.
        environment: Variables added to this process's environment.
        patience_s: Seconds after which ``stop`` kills the server.
        kind: Class of the result.
        pass_fds: File descriptors that the child inherits.

    Raises:
        StageError: The child ended or failed.
        UserError: The child reported an error of the user.
    """
    read_fd, write_fd = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        pass_fds=[write_fd, *pass_fds],
        start_new_session=True,  # Ctrl-C reaches only this process, which then stops the server
    )
    os.close(write_fd)
    server = kind(url, process, os.fdopen(read_fd, encoding="utf-8"), patience_s)
    try:
        server.request({**request, "parent": os.getpid(), "report": write_fd})
        server.receive("the server ended before it was ready")
        server.show()
    except BaseException:
        server.stop()
        raise
    return server
