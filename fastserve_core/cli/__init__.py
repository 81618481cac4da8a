"""The command line: runs, composed by Hydra, and the other commands."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType

from fastserve_core.entry_points import installed_commands
from fastserve_core.errors import FastServeError

INTERRUPTED_EXIT_CODE = 130
REPEAT_SECONDS = 0.5
"""A signal to a process group reaches a command twice, the second time by its parent: it is one interruption."""
CALLING_VERBS = frozenset({"serve"})
"""Commands that call verbs of plugins, besides runs."""
SCREENS = frozenset({"--cfg", "-c", "--help", "-h", "--hydra-help", "--info", "-i", "--version"})
"""Flags of Hydra and of the command line that show something, and start no run."""
COMMANDS = {
    "plugins": "list the installed plugins",
    "doctor": "check this machine and this installation",
    "runs": "list the runs below this folder",
    "diff": "compare two runs: options and measures",
    "init": "read a file, and write an experiment for it",
    "predict": "predict with the model of a run, an artifact or a server",
    "graph": "write the entities and relations of texts as a graph",
    "export": "export a model for another runtime or a device, and verify it",
    "serve": "serve an artifact or a run's best model",
    "new-plugin": "write an installable plugin package with its contract test",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line; by default that of the process, in which the command then runs in a child.

    Returns:
        The exit code: 0 done, 1 a stage failed, 2 wrong input, 130 interrupted.
    """
    if arguments is not None:
        return exit_on_error(lambda: _dispatch(list(arguments)))
    command_line = sys.argv[1:]
    is_run = not command_line or command_line[0] not in COMMANDS
    shows = not command_line or (is_run and any(argument.partition("=")[0] in SCREENS for argument in command_line))
    if shows or command_line[0] in COMMANDS.keys() - CALLING_VERBS:
        return main(command_line)
    from fastserve_core.cli.supervisor import supervise

    return supervise(lambda: main(command_line))


def _dispatch(command_line: list[str]) -> int:
    if not command_line or command_line == ["--version"]:
        command, arguments = "main_help", command_line
    elif command_line[0] in COMMANDS:
        command, arguments = command_line[0].replace("-", "_"), command_line[1:]
    elif _is_extension(command_line[0]):
        command, arguments = "extension", command_line
    else:
        command, arguments = "job", command_line
    interrupt = _make_interrupt()
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    module = import_module(f"fastserve_core.cli.{command}")
    code: int = module.main(arguments)
    return code


def _is_extension(word: str) -> bool:
    """Return whether a word is the command of an installed package; an option is recognized by its signs."""
    return word.replace("-", "").isalnum() and not word.startswith("-") and word in installed_commands()


def _make_interrupt() -> Callable[[int, FrameType | None], None]:
    last = -REPEAT_SECONDS

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > REPEAT_SECONDS:
            last = time.monotonic()
            raise KeyboardInterrupt

    return interrupt


def exit_on_error(function: Callable[[], int]) -> int:
    """Call a function and report an error or an interruption; return the exit code."""
    try:
        return report_error(function)
    except KeyboardInterrupt:
        _print_error(
            "fastserve: interrupted; finished work is saved, and the same command resumes from it",
            traceback.format_exc(),
        )
        return INTERRUPTED_EXIT_CODE


def report_error(function: Callable[[], int]) -> int:
    """Call a function and report an error as one message; return the exit code.

    A traceback is printed only if ``FASTSERVE_DEBUG`` is set.
    """
    try:
        return function()
    except FastServeError as error:
        debug = traceback.format_exc()
        code, message = error.exit_code, f"fastserve: {error}"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of the output has ended
        return 0
    except Exception as error:
        code, debug = 1, traceback.format_exc()
        message = (
            f"fastserve: an error in FastServe or in a plugin: {type(error).__name__}: {error}\n"
            "(set FASTSERVE_DEBUG=1 for the traceback)"
        )
    _print_error(message, debug)
    return code


def _print_error(message: str, debug: str) -> None:
    if os.environ.get("FASTSERVE_DEBUG"):
        print(debug, file=sys.stderr)
    print(message, file=sys.stderr)
