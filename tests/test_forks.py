"""Commands that the tests have forked behave as commands that import for themselves: ``tests/support``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import forks

PROGRAM = """
import json, os, signal, sys, time
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "own": os.environ.get("OWN"), "parent": os.getppid(),
    "main": __name__, "torch": "torch" in sys.modules, "lines": sys.stdin.read(),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
}), flush=True)
if sys.argv[1:] == ["wait"]:
    time.sleep(60)
sys.exit(3)
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A folder with the module ``fastserve_toy``, which says how it was started and exits with 3."""
    (tmp_path / "fastserve_toy.py").write_text(PROGRAM)
    return tmp_path


def run(folder: Path, *command: object, **environment: str) -> tuple[dict[str, object], int]:
    done = subprocess.run(
        [str(one) for one in command],
        cwd=folder,
        env=os.environ | environment,
        input="a line\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return json.loads(done.stdout), done.returncode


def test_a_fork_is_like_a_command_but_has_the_imports(module: Path) -> None:
    said, code = run(module, sys.executable, "-m", "fastserve_toy", "one", "two words", OWN="set")
    expected = {"arguments": ["one", "two words"], "folder": str(module), "own": "set", "parent": os.getpid()}
    expected |= {"main": "__main__", "torch": True, "lines": "a line\n", "interrupt": True}
    assert {name: said[name] for name in expected} == expected
    assert code == 3


def test_variables_read_at_import_need_a_new_process(module: Path) -> None:
    said, code = run(module, sys.executable, "-m", "fastserve_toy", HF_HUB_OFFLINE="0")
    assert (said["torch"], said["parent"], code) == (False, os.getpid(), 3)


def test_a_shell_has_its_commands_forked_too(module: Path) -> None:
    client = forks.client_command()
    said, code = run(module, *client, "-m", "fastserve_toy", "x")
    assert (said["arguments"], said["torch"], code) == (["x"], True, 3)
    cold, code = run(module, *client, "-m", "fastserve_toy", "x", HF_HUB_OFFLINE="0")
    assert (cold["arguments"], cold["torch"], code) == (["x"], False, 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("through", ["python", "a client"])
def test_signals_end_a_fork(module: Path, number: signal.Signals, through: str) -> None:
    command = [sys.executable, "-m", "fastserve_toy", "wait"]
    if through == "a client":
        command = [*forks.client_command(executable=command[0]), *command[1:]]
    with subprocess.Popen(command, cwd=module, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        fork = next(one for one in psutil.process_iter(["environ"]) if one.pid == process.pid)
        process.send_signal(number)
        assert process.wait(timeout=30) == -number
        assert not fork.is_running()
        assert process.stdout.read() == "", "nobody holds its output any more"
