"""The command line: Hydra's run, and the small commands beside it."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType

from fastserve_core.errors import FastServeError

INTERRUPTED = 130
COMMANDS = {
    "plugins": "list what is installed",
    "doctor": "check this machine and this installation",
    "runs": "list the runs below this folder",
    "diff": "compare two runs: options and measures",
    "predict": "answer texts with a run's or an artifact's model",
    "export": "write a model for another runtime or a device, and compare it",
    "serve": "serve an artifact or a run's best model",
    "new-plugin": "write an installable plugin package with its contract test",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 a stage failed, 2 wrong input, 130 interrupted)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return exit_on_error(lambda: _dispatch(given))


def _dispatch(given: list[str]) -> int:
    if not given or given == ["--version"]:
        command, rest = "main_help", given
    elif given[0] in COMMANDS:
        command, rest = given[0].replace("-", "_"), given[1:]
    else:
        command, rest = "job", given
    signal.signal(signal.SIGTERM, _interrupt)
    module = import_module(f"fastserve_core.cli.{command}")
    code: int = module.main(rest)
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def exit_on_error(function: Callable[[], int]) -> int:
    """``said``, and an interruption is said too."""
    try:
        return report_error(function)
    except KeyboardInterrupt:
        _print_error(
            "fastserve: interrupted; what was done is kept, the same command goes on from it", traceback.format_exc()
        )
        return INTERRUPTED


def report_error(function: Callable[[], int]) -> int:
    """Say what went wrong in one message, never a traceback unless ``FASTSERVE_DEBUG`` asks for it."""
    try:
        return function()
    except FastServeError as error:
        debug = traceback.format_exc()
        code, message = error.exit_code, f"fastserve: {error}"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone; nothing more can be said
        return 0
    except Exception as error:
        code, debug = 1, traceback.format_exc()
        message = (
            f"fastserve: an error of FastServe or of a plugin: {type(error).__name__}: {error}\n"
            "(FASTSERVE_DEBUG=1 shows where)"
        )
    _print_error(message, debug)
    return code


def _print_error(message: str, debug: str) -> None:
    if os.environ.get("FASTSERVE_DEBUG"):
        print(debug, file=sys.stderr)
    print(message, file=sys.stderr)
