"""A process that has the slow imports done and forks children off itself: importing takes seconds, a fork does not.

    python -m fastserve_core.processes.fork_server FD SECONDS

Who asks sends, over the socket ``FD``, a file's path (JSON: ``module``, ``arguments``, ``imports``, ``environment``,
``folder``) with three descriptors: a socket that is answered with the child's exit code when the child has ended, and
on which the end of the one who asked ends the child; what the child prints to; and the asking end of ``FD``, over which
the child may ask for children in its turn. The process runs nothing itself and starts no thread, without which a fork
would not be safe. It ends when its stdin does, which the process that started it holds, and when nobody has asked for
so many seconds.
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
"""It holds some 400 MB once torch and transformers are imported."""
IMPORT_TIME_ENV_PREFIXES = (
    *("PYTHON", "LD_", "GLIBC_", "THP_", "CUDA_", "TORCH", "HF_", "TRANSFORMERS_", "TOKENIZERS_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "RAYON_"),
)
"""How the variables begin that count while modules are imported: children with others there need another process."""
MESSAGE = 4096


class ForkedProcess:
    """A child as ``subprocess.Popen`` shows one: what ``child.call`` needs of it."""

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises ``subprocess.TimeoutExpired`` while the child runs."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                answer = self._status.recv(MESSAGE)
            except TimeoutError as error:
                raise subprocess.TimeoutExpired("a forked child", timeout or 0.0) from error
            # without an answer the process that forked it was killed, and the child follows that
            self.returncode = int(answer or -signal.SIGKILL)
            self._status.close()
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(OSError):
                self._status.shutdown(socket.SHUT_WR)


@dataclass
class ForkServerPool:
    """The processes of this one, by what was decided when they were imported."""

    idle: float = IDLE_SECONDS
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: dict[tuple[object, ...], tuple[socket.socket, subprocess.Popen[bytes] | None]] = field(
        default_factory=dict
    )

    def fork(self, order: Path, environment: Mapping[str, str], output: int) -> ForkedProcess:
        """A child that does what the file says; its environment is in there as well."""
        key, (ours, theirs) = self._key(environment), socket.socketpair()
        with self.lock, theirs:
            try:
                self._ask(self.running[key][0], order, theirs, output)
            except (KeyError, OSError):  # none yet, or it has left
                self.running[key] = self._start(environment, output)
                self._ask(self.running[key][0], order, theirs, output)
        return ForkedProcess(ours)

    def share(self, asking: socket.socket, environment: Mapping[str, str]) -> None:
        """In a child: have its own children forked off the process that it was itself forked off."""
        self.running[self._key(environment)] = (asking, None)

    def to_inherit(self, environment: Mapping[str, str]) -> list[int]:
        """The descriptor that a child which is not forked inherits for ``share``, if there is a process to share."""
        return [asking.fileno() for asking, _ in filter(None, [self.running.get(self._key(environment))])]

    @staticmethod
    def _key(environment: Mapping[str, str]) -> tuple[object, ...]:
        return (os.getpid(), *sorted(one for one in environment.items() if one[0].startswith(IMPORT_TIME_ENV_PREFIXES)))

    @staticmethod
    def _ask(asking: socket.socket, order: Path, status: socket.socket, output: int) -> None:
        socket.send_fds(asking, [os.fsencode(order)], [status.fileno(), output, asking.fileno()])

    def _start(self, environment: Mapping[str, str], output: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            started = subprocess.Popen(
                [sys.executable, "-m", "fastserve_core.processes.fork_server", str(theirs.fileno()), str(self.idle)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        return ours, started


FORK_SERVERS = ForkServerPool()
"""Like ``multiprocessing``'s own server of forks, one for this process: to share what is imported is what it is for."""


def can_fork() -> bool:
    """Whether the system can do it: only on Linux a fork is safe after such imports, and its end can be waited for."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


@dataclass(frozen=True)
class Child:
    pid: int
    ended: int
    """A descriptor that can be read when the child has ended."""
    status: socket.socket


class ForkServer:
    """The process itself: ``wait`` comes back in every child, with what it is to do."""

    def __init__(self, asked: socket.socket, idle: float) -> None:
        self.asked, self.idle = asked, idle
        self.children: dict[int, Child] = {}
        self.asking = -1
        """In a child: where it may ask for children of its own."""

    def wait(self) -> dict[str, Any]:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for who asked, whose end is ours
        while True:
            waiting: list[Any] = [0, self.asked, *self.children, *(one.status for one in self.children.values())]
            ready = select.select(waiting, [], [], None if self.children else self.idle)[0]
            if not ready or 0 in ready:
                os._exit(0)  # nothing is open here, and taking torch down in order takes a second
            for one in ready:
                if one is self.asked:
                    if (order := self._fork_child()) is not None:
                        return order
                elif one in self.children:
                    self._reap(self.children.pop(one))
                elif (child := self._child_by_pid(one)) is not None:
                    os.kill(child.pid, signal.SIGKILL)

    def _child_by_pid(self, status: Any) -> Child | None:
        """The child whose end is wished; none where it has just been buried."""
        return next((one for one in self.children.values() if one.status is status), None)

    def _reap(self, child: Child) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        with contextlib.suppress(OSError), child.status:
            child.status.sendall(str(code).encode())
        os.close(child.ended)

    def _fork_child(self) -> dict[str, Any] | None:
        message, descriptors, _, _ = socket.recv_fds(self.asked, MESSAGE, 3)
        if not message:
            os._exit(0)  # who asked is gone, and the children that are left see that we are
        for one in descriptors:
            os.set_inheritable(one, False)
        status, output, self.asking = socket.socket(fileno=descriptors[0]), descriptors[1], descriptors[2]
        order: dict[str, Any] = json.loads(Path(os.fsdecode(message)).read_text(encoding="utf-8"))
        for name in order["imports"]:
            with contextlib.suppress(ImportError):  # the child misses it where it needs it, and says so
                importlib.import_module(name)
        if pid := os.fork():
            os.close(output)
            os.close(self.asking)
            ended = os.pidfd_open(pid)
            self.children[ended] = Child(pid, ended, status)
            return None
        status.close()
        self._detach_in_child(output)
        return order

    def _detach_in_child(self, output: int) -> None:
        """In the child: nothing of the others stays open, and what is printed goes where it was asked to."""
        self.asked.close()
        for one in self.children.values():
            one.status.close()
            os.close(one.ended)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for given, number in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(given, number)
        os.close(nothing)
        os.close(output)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_module(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], folder: str, asking: socket.socket
) -> None:
    """Do what ``python -m module arguments`` does, in a folder and an environment."""
    from fastserve_core.processes import fork_server  # the module by its name; this one runs as the main module

    fork_server.FORK_SERVERS.share(asking, environment)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        _end(ended.code)
    except BaseException:
        traceback.print_exc()
        _end(1)
    _end(0)


def _end(code: object) -> NoReturn:
    """End as ``multiprocessing``'s children do: taking down everything that torch has loaded takes a second."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    here = ForkServer(socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2]))
    order = here.wait()
    order.pop("imports")
    run_module(**order, asking=socket.socket(fileno=here.asking))
