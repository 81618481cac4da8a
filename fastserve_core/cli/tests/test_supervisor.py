"""The process above a command: real ends of real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

HEAD = """
import ctypes, os, signal, subprocess, sys, time
from fastserve_core.cli.supervisor import supervise
from fastserve_core.processes.journal import JOURNAL

def in_verb(function):
    with JOURNAL.entry("compress.strange in 'compress'"):
        return function()
"""
RULE = "a verb returns its result, or raises an error of fastserve_core.errors"


def start(body: str, **more: object) -> subprocess.Popen[str]:
    code = f"{HEAD}\n{body}"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )  # type: ignore[call-overload, no-any-return]


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("function", "code", "message"),
    [
        ("lambda: 0", 0, ""),
        ("lambda: 7", 7, ""),
        ("lambda: in_verb(lambda: 2)", 2, ""),
        (
            "lambda: in_verb(lambda: os._exit(0))",
            1,
            f"'compress' ended the process with exit code 0 (os._exit): {RULE}",
        ),
        ("lambda: in_verb(lambda: os._exit(3))", 1, "with exit code 3 (os._exit)"),
        ("lambda: in_verb(lambda: ctypes.string_at(0))", 1, "crashed (SIGSEGV) while it ran compress.strange in"),
        ("lambda: in_verb(os.abort)", 1, "crashed (SIGABRT) while it ran compress.strange in 'compress'"),
        ("lambda: ctypes.string_at(0)", 1, "crashed (SIGSEGV) outside of the plugins' verbs"),
        (
            "lambda: in_verb(lambda: signal.raise_signal(signal.SIGKILL))",
            1,
            "was killed (SIGKILL) while it ran compress",
        ),
        ("lambda: os._exit(4)", 4, ""),
    ],
)
def test_the_end_of_a_command_is_reported(function: str, code: int, message: str) -> None:
    process = start(f"sys.exit(supervise({function}))")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert len(err.splitlines()) == bool(message)
    assert message in err


def test_output_is_written_once_and_an_error_is_the_childs() -> None:
    process = start("print('before')\nsys.exit(supervise(lambda: print('inside') or 0))")
    assert process.communicate(timeout=60) == ("before\ninside\n", "")


WAITING = "supervise(lambda: print(os.getpid(), flush=True) or time.sleep(60) or 0)"


@pytest.mark.slow(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    process = start(f"signal.signal({int(number)}, lambda *_: sys.exit(9))\nsys.exit({WAITING})")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 9


def test_a_signal_without_a_handler_ends_both() -> None:
    process = start(f"sys.exit({WAITING})")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGHUP, "")
    assert not psutil.pid_exists(child)


def test_an_ignored_signal_stays_ignored() -> None:
    process = start(f"signal.signal(signal.SIGHUP, signal.SIG_IGN)\nsys.exit({WAITING})")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_a_command_ends_with_its_supervisor() -> None:
    process = start(f"sys.exit({WAITING})")
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate(timeout=60)
    assert child.wait(timeout=60) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_daemons_of_a_command_end_with_it() -> None:
    daemon = "subprocess.run(['sh', '-c', 'setsid sleep 60 & echo $!'], stdin=subprocess.DEVNULL)"
    head = "import fastserve_core.cli.supervisor as module\nmodule.ORPHAN_SECONDS = 0.2"
    process = start(f"{head}\nsys.exit(supervise(lambda: {daemon}.returncode))")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert not psutil.pid_exists(int(out))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists children")
def test_children_that_were_there_before_are_left_alone() -> None:
    body = """
        own, other = os.getpid(), subprocess.Popen(['sleep', '60'])
        supervise(lambda: 0)
        if os.getpid() == own:
            print(other.poll())
            other.kill()
    """
    out, err = start(textwrap.dedent(body)).communicate(timeout=30)
    assert (out, err) == ("None\n", "")
