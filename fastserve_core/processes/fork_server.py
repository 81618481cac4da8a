"""A server that has imported slow modules and forks children: an import takes seconds, a fork does not.

    python -m fastserve_core.processes.fork_server FD SECONDS

A client sends over the socket ``FD`` the path of a request (JSON: ``module``, ``arguments``, ``imports``,
``environment``, ``folder``) and three descriptors: a status socket, on which the server sends the child's exit code
and whose closing by the client kills the child; the child's output; and the client's end of ``FD``, on which the child
may itself send requests. The server runs no code of its children and starts no thread, because a fork would not be
safe then. It ends when its stdin is closed, which the process that started it holds open, and after SECONDS without a
request or a running child.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

IDLE_SECONDS = 30.0
"""An idle server ends soon, because it holds some 400 MB once torch and transformers are imported."""
IMPORT_TIME_ENV_PREFIXES = (
    *("PYTHON", "LD_", "GLIBC_", "THP_", "CUDA_", "TORCH", "HF_", "TRANSFORMERS_", "TOKENIZERS_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "RAYON_"),
)
"""Prefixes of variables that modules read at import: children that differ in these need another server."""
MAX_MESSAGE_BYTES = 4096


class ForkedProcess:
    """A forked child, with the part of the interface of ``subprocess.Popen`` that ``run_in_child`` uses.

    Attributes:
        returncode: The exit code; ``None`` while the child runs.
    """

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the child.

        Args:
            timeout: Seconds to wait; ``None`` waits without a limit.

        Returns:
            The exit code.

        Raises:
            subprocess.TimeoutExpired: The child still runs.
        """
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                message = self._status.recv(MAX_MESSAGE_BYTES)
            except TimeoutError as error:
                raise subprocess.TimeoutExpired("a forked child", timeout or 0.0) from error
            # an empty message means that the server was killed, and the child ends with the server
            self.returncode = int(message or -signal.SIGKILL)
            self._status.close()
        return self.returncode

    def kill(self) -> None:
        """Kill the child if it still runs."""
        if self.returncode is None:
            with contextlib.suppress(OSError):
                self._status.shutdown(socket.SHUT_WR)


@dataclass
class ForkServerPool:
    """The fork servers of this process, one for each environment that decides how modules are imported.

    Attributes:
        idle_seconds: How long a server waits for requests before it ends.
        lock: Held while a request is sent.
        running: The request socket and the process of each server, by the environment. A server that is shared with
            the parent has no process here.
    """

    idle_seconds: float = IDLE_SECONDS
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: dict[tuple[object, ...], tuple[socket.socket, subprocess.Popen[bytes] | None]] = field(
        default_factory=dict
    )

    def fork(self, request: Path, environment: Mapping[str, str], output: int) -> ForkedProcess:
        """Fork a child off a server, which is started if there is none.

        Args:
            request: The file with the request.
            environment: The child's environment, which the request also holds.
            output: The descriptor for the child's output.
        """
        key, (ours, theirs) = self._key(environment), socket.socketpair()
        with self.lock, theirs:
            try:
                self._send_request(self.running[key][0], request, theirs, output)
            except (KeyError, OSError):  # there is no server yet, or it has ended
                self.running[key] = self._start(environment, output)
                self._send_request(self.running[key][0], request, theirs, output)
        return ForkedProcess(ours)

    def share(self, requests: socket.socket, environment: Mapping[str, str]) -> None:
        """Use the parent's server for this process's own children.

        Args:
            requests: The client's end of the server's socket.
            environment: The environment that the server was started with.
        """
        self.running[self._key(environment)] = (requests, None)

    def inherited_descriptors(self, environment: Mapping[str, str]) -> list[int]:
        """List the descriptors that a child inherits for ``share`` if it is not forked: one if there is a server."""
        server = self.running.get(self._key(environment))
        return [] if server is None else [server[0].fileno()]

    @staticmethod
    def _key(environment: Mapping[str, str]) -> tuple[object, ...]:
        variables = (item for item in environment.items() if item[0].startswith(IMPORT_TIME_ENV_PREFIXES))
        return (os.getpid(), *sorted(variables))

    @staticmethod
    def _send_request(requests: socket.socket, request: Path, status: socket.socket, output: int) -> None:
        socket.send_fds(requests, [os.fsencode(request)], [status.fileno(), output, requests.fileno()])

    def _start(self, environment: Mapping[str, str], output: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = [str(theirs.fileno()), str(self.idle_seconds)]
            server = subprocess.Popen(
                [sys.executable, "-m", "fastserve_core.processes.fork_server", *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        return ours, server


FORK_SERVERS = ForkServerPool()
"""The pool of this process; one for all its parts, so that they share the imported modules."""


def can_fork() -> bool:
    """Return whether the system supports fork servers.

    They need Linux: only there a fork is safe after such imports, and a process can wait for a pid's descriptor.
    """
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


@dataclass(frozen=True)
class Child:
    """A child of the fork server.

    Attributes:
        pid: Its process id.
        exit_descriptor: A descriptor that becomes readable when the child has ended.
        status: The socket for its exit code.
    """

    pid: int
    exit_descriptor: int
    status: socket.socket


class ForkServer:
    """The server's loop. ``wait`` returns in every child, with the child's request.

    Attributes:
        requests: The server's end of the socket for requests.
        idle_seconds: The server ends after so many seconds without a request or a child.
        children: The running children by their ``exit_descriptor``.
        request_descriptor: In a child: the client's end of the socket for requests.
    """

    def __init__(self, requests: socket.socket, idle_seconds: float) -> None:
        self.requests, self.idle_seconds = requests, idle_seconds
        self.children: dict[int, Child] = {}
        self.request_descriptor = -1

    def wait(self) -> dict[str, Any]:
        """Serve requests; return in a forked child only.

        Returns:
            The child's request.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C in a terminal is for the client, whose end ends this process
        while True:
            sockets = [child.status for child in self.children.values()]
            waiting: list[Any] = [0, self.requests, *self.children, *sockets]
            ready = select.select(waiting, [], [], None if self.children else self.idle_seconds)[0]
            if not ready or 0 in ready:
                os._exit(0)  # nothing is open here, and the regular shutdown of torch takes a second
            for source in ready:
                if source is self.requests:
                    if (request := self._fork_child()) is not None:
                        return request
                elif source in self.children:
                    self._reap(self.children.pop(source))
                elif (child := self._child_by_status(source)) is not None:
                    os.kill(child.pid, signal.SIGKILL)

    def _child_by_status(self, status: Any) -> Child | None:
        """Return the child whose client closed this socket; ``None`` if the child has just been reaped."""
        return next((child for child in self.children.values() if child.status is status), None)

    def _reap(self, child: Child) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        with contextlib.suppress(OSError), child.status:
            child.status.sendall(str(code).encode())
        os.close(child.exit_descriptor)

    def _fork_child(self) -> dict[str, Any] | None:
        """Fork a child for the next request; return the request in the child, ``None`` in the server."""
        message, descriptors, _, _ = socket.recv_fds(self.requests, MAX_MESSAGE_BYTES, 3)
        if not message:
            os._exit(0)  # all clients have ended; the remaining children notice that this process has
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        status, output, self.request_descriptor = socket.socket(fileno=descriptors[0]), descriptors[1], descriptors[2]
        request: dict[str, Any] = json.loads(Path(os.fsdecode(message)).read_text(encoding="utf-8"))
        for name in request["imports"]:
            with contextlib.suppress(ImportError):  # the child reports it if it needs the module
                importlib.import_module(name)
        if pid := os.fork():
            os.close(output)
            os.close(self.request_descriptor)
            exit_descriptor = os.pidfd_open(pid)
            self.children[exit_descriptor] = Child(pid, exit_descriptor, status)
            return None
        status.close()
        self._detach_in_child(output)
        return request

    def _detach_in_child(self, output: int) -> None:
        """Close the other children's descriptors in this child, and redirect its standard streams."""
        self.requests.close()
        for child in self.children.values():
            child.status.close()
            os.close(child.exit_descriptor)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(output)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_module(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], folder: str, requests: socket.socket
) -> None:
    """Run ``python -m module arguments`` in this process, and end it.

    Args:
        module: The module.
        arguments: Its arguments.
        environment: The environment, which replaces that of this process.
        folder: The working directory.
        requests: The client's end of the server's socket, for the module's own children.
    """
    # imported by its name, because this file also runs as the main module
    from fastserve_core.processes import fork_server

    fork_server.FORK_SERVERS.share(requests, environment)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as request:
        _exit(request.code)
    except BaseException:
        traceback.print_exc()
        _exit(1)
    _exit(0)


def _exit(code: object) -> NoReturn:
    """End like a child of ``multiprocessing``: the regular shutdown of torch takes a second."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    fork_server = ForkServer(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]))
    request = fork_server.wait()
    request.pop("imports")
    run_module(**request, requests=socket.socket(fileno=fork_server.request_descriptor))
