"""The parent process of a command: it reports how the command ended, whatever ended it, and leaves no process behind.

A plugin that crashes, or calls ``os._exit``, ends the process that it runs in. Therefore a command runs in a child of
the process that the user started, which waits for it, passes signals on, and knows from the journal which verbs ran.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from fastserve_core.processes.journal import JOURNAL

FORWARDED_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
CRASHES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP", "SIGALRM", "SIGVTALRM", "SIGPROF")
ORPHAN_SECONDS = 10.0
"""How long the children of a command that has ended may take to end, before they are killed."""
PR_SET_CHILD_SUBREAPER = 36


def supervise(function: Callable[[], int]) -> int:
    """Run a function in a child process.

    Args:
        function: The command; it returns the exit code.

    Returns:
        In the child, the exit code of the function; in this process, that of the child, or 1 if it was ended by a
        plugin or a crash.
    """
    if not hasattr(signal, "sigwaitinfo") or not hasattr(os, "fork"):
        return function()
    JOURNAL.open()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    numbers = {getattr(signal, name) for name in FORWARDED_SIGNALS}
    forwarded = {number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*forwarded, signal.SIGCHLD})
    alive_reader, alive_writer = os.pipe()
    others = _list_children()  # a shell that was replaced by this program may have started some
    child = os.fork()
    if child:
        os.close(alive_reader)
        return _watch(child, forwarded, others)
    os.close(alive_writer)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    threading.Thread(target=_die_with_supervisor, args=(alive_reader,), name="supervisor", daemon=True).start()
    try:
        return function()
    finally:
        JOURNAL.clear()


def _die_with_supervisor(alive: int) -> None:
    os.read(alive, 1)  # it returns when the other end is closed, because the supervisor was killed
    os.kill(os.getpid(), signal.SIGKILL)


def _watch(child: int, forwarded: set[signal.Signals], others: set[int]) -> int:
    """Pass signals on to the child until it has ended; return the command's exit code."""
    _adopt_orphans()
    while True:
        received = signal.sigwaitinfo({*forwarded, signal.SIGCHLD})
        if received.si_signo == signal.SIGCHLD:
            _reap_orphans({child, *others})
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
        elif received.si_code <= 0:  # a process sent it; a terminal's signals reach the child as well
            os.kill(child, received.si_signo)
    _end_orphans(others)
    return _explain(os.waitstatus_to_exitcode(status))


def _explain(code: int) -> int:
    """Print a message if the child did not end as it should; return the command's exit code."""
    verbs = JOURNAL.read()
    if code < 0:
        number = signal.Signals(-code)
        if number.name in FORWARDED_SIGNALS:  # end as the child did, so that a shell sees the signal
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            os.kill(os.getpid(), number)
        kind = f"crashed ({number.name})" if number.name in CRASHES else f"was killed ({number.name})"
        place = f"while it ran {verbs}" if verbs else "outside of the plugins' verbs"
        rule = (
            "code that can crash belongs in a child process (fastserve_core.processes.run_in_child)"
            if number.name in CRASHES
            else "unless someone killed it, the machine ran out of memory"
        )
        message = f"fastserve: the process {kind} {place}; {rule}"
    elif verbs:
        rule = "a verb returns its result, or raises an error of fastserve_core.errors"
        message = f"fastserve: {verbs} ended the process with exit code {code} (os._exit): {rule}"
    else:
        return code
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
    return 1


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parents have ended (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans(others: set[int]) -> set[int]:
    """Reap the adopted processes that have ended; return those that still run."""
    return {number for number in _list_children() - others if not os.waitpid(number, os.WNOHANG)[0]}


def _end_orphans(others: set[int]) -> None:
    """Wait for the remaining processes of the command, which end with it, and kill those that do not."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while orphans := _reap_orphans(others):
        if time.monotonic() > deadline:
            for number in orphans:
                os.kill(number, signal.SIGKILL)
        time.sleep(0.01)


def _list_children() -> set[int]:
    """Return the ids of the children of this process; none if the system does not list them."""
    with suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123
        return {int(number) for number in file.read().split()}
    return set()
