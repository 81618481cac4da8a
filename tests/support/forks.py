"""Commands as forks of a process with the slow imports done, for whoever starts them with ``subprocess.Popen``.

A command must not be forked off the process that starts it: that one may have threads. So each process that is to
fork has a server (``fork_server.py``) from its own beginning, which does nothing but fork. A fork is made twice, with
the one in the middle gone, so that the process that asked becomes the command's parent, as with any command.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import util
from pathlib import Path
from typing import Any

READ_AT_IMPORT = ("PYTHON", "LD_", "GLIBC_", "THP_", "CUDA_", "TORCH", "HF_", "TRANSFORMERS_", "GOMP_", "KMP_")
"""Prefixes of the variables that are read while modules are imported: a fork cannot change their effect."""
READ_WHEN_USED = frozenset({"TORCHINDUCTOR_CACHE_DIR"})
"""Those with such a prefix that are read later, so that a fork follows them."""
IMPORTED_WITH = dict(os.environ)
"""The environment in which this process has imported what it has."""
OF_TERMINALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
"""Signals that a command ignores if whoever starts it does, as ``nohup``."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LARGEST_MESSAGE, MOST_DESCRIPTORS = 1 << 17, 32
COLD = b"cold"
"""The server's answer to a command that has to import for itself."""
REAL_POPEN = subprocess.Popen
PROGRAMS = ("fastserve_", "pytest")
"""How the modules begin that are forked when a process runs them; everything else imports for itself."""
ENVIRONMENTS: dict[str, str] = {}
"""Of a virtual environment that has ours beneath it: its interpreter, and its folder of packages."""
CLIENT = Path(__file__).with_name("fork_client.py")
SERVERS: list[subprocess.Popen[bytes]] = []
"""The server that this process has started: it lives as long as this process."""


def set_for_process(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def is_forkable(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether a fork of this process does what ``python ARGUMENTS`` does in that environment.

    A variable that is not set there gets the value that it has here: all of these programs set it so at their start.
    """
    # torch's pool of threads does not survive a fork: one that is to fork in its turn may not have been given another
    prefixes = READ_AT_IMPORT + (("OMP_",) if list(arguments[1:2]) == ["fastserve_core.processes.fork_server"] else ())
    given = {
        name: value for name, value in environment.items() if name.startswith(prefixes) and name not in READ_WHEN_USED
    }
    return arguments[:1] in (["-m"], ["-c"]) and all(IMPORTED_WITH.get(name) == given[name] for name in given)


# -- in the fork -------------------------------------------------------------------------------------


def run_as_main(arguments: Sequence[str], environment: Mapping[str, str], folder: str) -> int:
    """Do what ``python ARGUMENTS`` does (``-m MODULE`` or ``-c CODE``); returns the exit code."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    tempfile.tempdir = None  # that of this environment
    threads = environment.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    if threads != IMPORTED_WITH.get("OMP_NUM_THREADS") and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))  # OpenMP has read the variable already
    flag, target, *rest = arguments
    sys.argv = [flag if flag == "-c" else target, *rest]
    sys.path.insert(0, "" if flag == "-c" else folder)
    try:
        if flag == "-c":
            exec(compile(target, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def finish(code: int) -> None:
    """End a fork as an interpreter ends, but for what its parent has left to do at exit."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()  # at once: one of the functions below may end the process, as coverage's does
        sys.stderr.flush()
        util._exit_function()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def forget_parent(keep: Sequence[int], ignored: Sequence[int] = ()) -> None:
    """Leave as little of the parent's in a fork as an ``exec`` would; of the signals, it ignores those given."""
    atexit._clear()
    util._finalizer_registry.clear()  # type: ignore[attr-defined]
    gc.freeze()  # no finalizer of the parent's objects runs here
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    devnull = os.open(os.devnull, os.O_RDWR)
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number in (0, 1, 2, devnull, *keep):
            continue
        try:  # replaced rather than closed: an object of the parent's may still close the number
            os.dup2(devnull, number, inheritable=False)
        except OSError:
            continue  # it was the folder's own


def put_descriptors(received: Sequence[int], numbers: Sequence[int]) -> None:
    """Give received descriptors the numbers that they have in the process that sent them."""
    high = [os.dup2(one, max(*numbers, *received) + 1 + place) for place, one in enumerate(received)]
    for descriptor, number in zip(high, numbers, strict=True):
        os.dup2(descriptor, number)
    for descriptor in high:
        os.close(descriptor)
    for name, mode, number in (("stdin", "r", 0), ("stdout", "w", 1), ("stderr", "w", 2)):
        stream = open(number, mode, buffering=1 if name == "stderr" else -1, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


# -- in the process that starts commands ---------------------------------------------------------------


@contextmanager
def adopting() -> Iterator[None]:
    """While it lasts, what loses its parent among our descendants becomes our child."""
    set_for_process(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        set_for_process(PR_SET_CHILD_SUBREAPER, 0)


def connect(address: str) -> socket.socket:
    """Return a connection to a fork server; ``@`` at the beginning stands for an abstract address."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address.replace("@", "\0", 1))
    return connection


class ForkingPopen(REAL_POPEN):  # type: ignore[misc,type-arg]
    """``Popen`` that has a command forked if it can be; the command is our child all the same."""

    find_server: Callable[[], str]
    """The address of this process's fork server."""
    owner = 0
    """Which process that is."""
    environment: Mapping[str, str]
    """What its environment was at first: a test may have changed it when the server is started."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        (_, pass_fds, cwd, env, _, _, _, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others) = rest
        environment = dict(os.environ if env is None else env)
        command = [os.fspath(one) for one in args] if isinstance(args, (list, tuple)) else []
        packages = "" if command[:1] == [sys.executable] else ENVIRONMENTS.get("".join(command[:1]))
        is_ours = packages is not None and command[1:2] == ["-m"] and command[2].startswith(PROGRAMS)
        if not is_ours or preexec_fn or self.owner != os.getpid():
            super()._execute_child(args, executable, preexec_fn, *rest)
            return
        asked = {
            "executable": command[0],
            "packages": packages,
            "arguments": command[1:],
            "environment": environment,
            "folder": os.fspath(cwd or Path.cwd()),
            "numbers": [0, 1, 2, *pass_fds],
            "session": bool(others[5]),
            "cores": sorted(os.sched_getaffinity(0)),
            "ignored": [number for number in OF_TERMINALS if signal.getsignal(number) is signal.SIG_IGN],
            "parent": os.getpid(),
        }
        streams = [own if own >= 0 else number for number, own in enumerate((p2cread, c2pwrite, errwrite))]
        with adopting(), connect(type(self).find_server()) as server:
            socket.send_fds(server, [json.dumps(asked).encode()], [*streams, *pass_fds])
            answer = server.recv(16)
        if answer == COLD:
            super()._execute_child(args, executable, preexec_fn, *rest)
            return
        if not answer:
            raise OSError("the fork server is gone")
        self.pid = int(answer)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def use_server(find: Callable[[], str]) -> None:
    """Have this process's commands forked by the server whose address that function returns, unless it has one."""
    if ForkingPopen.owner == os.getpid():
        return
    ForkingPopen.find_server, ForkingPopen.owner = staticmethod(find), os.getpid()
    ForkingPopen.environment = dict(os.environ)
    subprocess.Popen = ForkingPopen  # type: ignore[misc]


@functools.cache
def start_server(threads: int) -> str:
    """Start a fork server that ends with this process, for commands of that many threads; returns its address."""
    address = f"@fastserve-forks-{os.getpid()}"
    program = Path(__file__).with_name("fork_server.py")
    process = REAL_POPEN(
        [sys.executable, program, address, str(threads)],
        env=ForkingPopen.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    SERVERS.append(process)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise OSError(f"the fork server ended with exit code {process.wait()}")
    return address


def client_command(packages: str = "", executable: str = sys.executable) -> list[str]:
    """Return what to put in the place of ``python`` in a command, so that this process's server forks it."""
    return [sys.executable, "-I", "-S", str(CLIENT), ForkingPopen.find_server(), packages, executable]


def wait_for_parent(pid: int) -> None:
    """Return when that process is the parent of this one."""
    while os.getppid() != pid:
        time.sleep(0.0002)
