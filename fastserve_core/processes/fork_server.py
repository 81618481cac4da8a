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
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fastserve_core.processes.fork_pool import FORK_SERVERS, MAX_MESSAGE_BYTES


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
        interrupt_handler: The children's handler of SIGINT: that of the client when it started this process.
    """

    def __init__(self, requests: socket.socket, idle_seconds: float) -> None:
        self.requests, self.idle_seconds = requests, idle_seconds
        self.children: dict[int, Child] = {}
        self.request_descriptor = -1
        self.interrupt_handler: Any = signal.getsignal(signal.SIGINT)

    def wait(self) -> dict[str, Any]:
        """Serve requests; return in a forked child only.

        Returns:
            The child's request.
        """
        # ^C in a terminal is for the client, whose end ends this process
        self.interrupt_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
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
        signal.signal(signal.SIGINT, self.interrupt_handler)


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
    FORK_SERVERS.share(requests, environment)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # the child has its own folder for temporary files
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
