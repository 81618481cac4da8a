"""The parent's side of a server process: binds, starts, waits until it answers, stops."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
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

from fastserve_core.artifacts import find_artifact
from fastserve_core.errors import StageFailed, UserError
from fastserve_core.processes import thread_environment
from fastserve_server.auth import key_hashes
from fastserve_server.model_registry import resolve_models
from fastserve_server.options import ServerOptions
from fastserve_server.port_owner import process_listening_on

BACKLOG = 2048
LOG_TAIL_LINES = 40
END_S = 10.0
"""What a server gets after draining to end its engines, before it is killed."""


P = TypeVar("P", bound="ServerProcess")


class BadAddress(UserError):
    """The server cannot listen where it was told to."""


class ServerProcess:
    """A running server; ``stop`` it, or use it as a context manager. It dies with this process."""

    def __init__(self, url: str, process: subprocess.Popen[str], told: IO[str], patience_s: float) -> None:
        self.url = url
        self._told, self._asking = told, threading.Lock()
        self._process, self._patience_s = process, patience_s
        self._last: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        self._shown = self._stopped = self._gone = False
        self._pump = threading.Thread(target=self._pass_on, name="server-output", daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> None:
        """Block until the server ends; raises ``StageFailed`` with the end of its output when it crashed."""
        code = self._process.wait()
        if code != 0 and not self._stopped:
            raise StageFailed(self.stderr_tail(f"the server ended with exit code {code}"))

    def receive(self, silent: str) -> dict[str, Any]:
        """The next thing that the server tells; raises what it failed with, or that it died (``silent``)."""
        message = self._told.readline()
        if not message:
            raise StageFailed(self.stderr_tail(silent))
        report: dict[str, Any] = json.loads(message)
        if "error" in report:
            kind = UserError if report["exit_code"] == UserError.exit_code else StageFailed
            raise kind(report["error"])
        return report

    def request(self, message: Mapping[str, Any]) -> None:
        """Tell the server something, in a line."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """Let open requests end, then end the server; kill it when that takes too long."""
        self._stopped = True
        if self._gone:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(self._patience_s)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its session: it, if it hangs, and what it may have left
        self._process.wait()
        for pipe in filter(None, (self._told, self._process.stdin)):
            with suppress(BrokenPipeError):
                pipe.close()
        self._gone = True

    def show(self) -> None:
        """From now on pass the server's output on to stderr."""
        self._shown = True

    def stderr_tail(self, message: str) -> str:
        """The message and the end of what the server printed."""
        self._pump.join(1.0)
        return "\n".join([message + (":" if self._last else ""), *self._last])

    def _pass_on(self) -> None:
        """Keep the end of the server's output, and show it once the server runs: libraries chatter while they load."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last.append(line.rstrip())
            if self._shown:
                print(line, end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class EmbeddedProcess(ServerProcess):
    """A server that can take another artifact while it runs."""

    def reload(self, artifact: Path, model: str | None = None) -> bool:
        """Serve another artifact without a request lost, under the name of a model, the first's when ``None``.

        False where it is the one that is served.

        Raises ``UserError`` for one that cannot take the place of the old one, which is then served as before.
        """
        with self._asking:
            self.request({"artifact": str(artifact.absolute()), "model": model})
            return bool(self.receive("the server ended meanwhile")["changed"])


def start(artifact: Path, options: ServerOptions, threads: int) -> EmbeddedProcess:
    """Start the embedded server on an artifact; returns when it answers.

    Raises ``BadAddress`` (busy port), another ``UserError`` for keys that cannot be read and for what the artifact
    lacks, or ``StageFailed``.
    """
    keys = key_hashes(options.api_keys_file, f"{options.where}.api_keys_file")
    options = replace(options, models=resolve_models(options.models))
    if options.candidate is not None:
        options.candidate = str(find_artifact(Path(options.candidate).expanduser()).folder.absolute())
    with bind(options.host, options.port, options.where) as listening:
        listening.listen(BACKLOG)
        request = {"artifact": str(artifact), "options": asdict(options), "threads": threads, "keys": keys}
        return launch(
            "fastserve_server.process",
            request | {"socket": listening.fileno()},
            url_of(options.host, listening.getsockname()[1]),
            environment=thread_environment(max(1, threads // (options.workers or threads)))
            | {"RAYON_NUM_THREADS": str(threads)},  # one worker at a time tokenizes
            patience_s=options.drain_s + END_S,
            keep=[listening.fileno()],
            kind=EmbeddedProcess,
        )


def launch(
    module: str,
    request: Mapping[str, Any],
    url: str,
    environment: Mapping[str, str],
    patience_s: float,
    kind: type[P],
    keep: Sequence[int] = (),
) -> P:
    """Run ``python -m module`` (which calls ``run_child``) on a request and wait until it is ready."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        pass_fds=[writing, *keep],
        start_new_session=True,  # a Ctrl-C is ours alone: we stop the server in order
    )
    os.close(writing)
    server = kind(url, process, os.fdopen(reading, encoding="utf-8"), patience_s)
    try:
        server.request({**request, "parent": os.getpid(), "report": writing})
        server.receive("the server ended before it was ready")
        server.show()
    except BaseException:
        server.stop()
        raise
    return server


def bind(host: str, port: int, where: str) -> socket.socket:
    """A socket bound there; raises ``BadAddress`` that names the option to change."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
    except OSError as error:
        raise BadAddress(f"{where}.host={host}: {error.strerror or error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            advice = f"stop what listens there, or choose another with {where}.port=PORT (0 takes any free one)"
            holder = process_listening_on(port)
            by = f" by {holder}" if holder else ""
            raise BadAddress(f"port {port} of {host} is taken{by}: {advice}") from error
        raise BadAddress(f"{where} cannot listen on port {port} of {host}: {error.strerror}") from error
    return bound


def url_of(host: str, port: int) -> str:
    """Where a client on this machine reaches a server that listens there."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
