"""The client of fork servers: starts them, and requests children from them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

from fastserve_core.processes.environment import COMPILE_CACHE_ENV

MAX_MESSAGE_BYTES = 4096
MAX_STARTS = 2
"""How often a server is started for one request: one may be killed before it has received the request."""
IDLE_SECONDS = 30.0
"""An idle server ends soon, because it holds some 400 MB once torch and transformers are imported."""
IMPORT_TIME_ENV_PREFIXES = (
    *("PYTHON", "LD_", "GLIBC_", "THP_", "CUDA_", "TORCH", "HF_", "TRANSFORMERS_", "TOKENIZERS_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "RAYON_"),
)
"""Prefixes of variables that modules read at import: children that differ in these need another server."""


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

        Raises:
            OSError: No server could be started, or each one ended at once.
        """
        key, (ours, theirs) = self._key(environment), socket.socketpair()
        with self.lock, theirs:
            for _ in range(MAX_STARTS):
                with contextlib.suppress(KeyError, OSError):  # there is no server yet, or it has ended
                    self._send_request(self.running[key][0], request, theirs, output)
                    return ForkedProcess(ours)
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
                env={COMPILE_CACHE_ENV: gettempdir(), **environment, "TMPDIR": gettempdir()},  # those of no child
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
