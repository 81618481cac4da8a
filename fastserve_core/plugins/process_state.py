"""The state of the process that a verb may not change, because later stages depend on it; it is put back."""

from __future__ import annotations

import locale
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastserve_core.processes.environment import COMPILE_CACHE_ENV

STREAMS = (1, 2)
IMPORT_VARIABLES = frozenset({COMPILE_CACHE_ENV, "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"})
"""Environment variables that the imports of torch and scikit-learn set."""
TORCH_DEFAULTS = ("float32", "cpu", True, False)
"""The values of ``_read_torch`` while torch is not imported."""


@dataclass(frozen=True)
class Setting:
    """One setting of the process.

    Attributes:
        name: Its name, for a warning.
        read: Returns the value.
        restore: Sets a value that was read.
        is_of_main_thread: Whether only the main thread can set it.
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    is_of_main_thread: bool = False


def _read_folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - as it was set, for os.chdir
    except FileNotFoundError:  # it was removed
        return None


def _restore_folder(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _read_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in IMPORT_VARIABLES}


def _restore_environment(values: dict[str, str]) -> None:
    for name in os.environ.keys() - values.keys() - IMPORT_VARIABLES:
        del os.environ[name]
    os.environ.update(values)


def _read_handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _restore_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _read_umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _read_logging() -> tuple[Any, ...]:
    return logging.root.level, tuple(logging.root.handlers), logging.root.manager.disable


def _restore_logging(values: tuple[Any, ...]) -> None:
    logging.root.setLevel(values[0])
    logging.root.handlers[:] = values[1]
    logging.disable(values[2])


def _restore_start_method(method: str | None) -> None:
    multiprocessing.set_start_method(method, force=True)


def _read_torch() -> tuple[str, str, bool, bool]:
    """Return the data type, the device, and whether gradients and deterministic algorithms are on."""
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "are_deterministic_algorithms_enabled"):
        return TORCH_DEFAULTS
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    return dtype, str(torch.get_default_device()), torch.is_grad_enabled(), is_deterministic


def _restore_torch(values: tuple[str, str, bool, bool]) -> None:
    torch = sys.modules["torch"]
    dtype, device, has_grad, is_deterministic = values
    torch.set_default_dtype(getattr(torch, dtype))
    torch.set_grad_enabled(has_grad)
    if str(torch.get_default_device()) != device:
        torch.set_default_device(None if device == TORCH_DEFAULTS[1] else device)
    if torch.are_deterministic_algorithms_enabled() != is_deterministic:  # it imports much, also if nothing changes
        torch.use_deterministic_algorithms(is_deterministic)


SETTINGS = (
    Setting("the working directory", _read_folder, _restore_folder),
    Setting("environment variables", _read_environment, _restore_environment),
    Setting("sys.path", lambda: list(sys.path), lambda value: sys.path.__setitem__(slice(None), value)),
    Setting("sys.argv", lambda: list(sys.argv), lambda value: sys.argv.__setitem__(slice(None), value)),
    Setting("the umask", _read_umask, os.umask, is_of_main_thread=True),
    Setting("signal handlers", _read_handlers, _restore_handlers, is_of_main_thread=True),
    Setting(
        "the alarm",
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        lambda _: signal.setitimer(signal.ITIMER_REAL, 0),  # one that was cancelled cannot be set again
        is_of_main_thread=True,
    ),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting(
        "the locale", lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)
    ),
    Setting("the logging configuration", _read_logging, _restore_logging),
    Setting(
        "the start method of multiprocessing",
        lambda: multiprocessing.get_start_method(allow_none=True),
        _restore_start_method,
    ),
    Setting("the defaults of torch", _read_torch, _restore_torch),
)


class ProcessState:
    """The state of this process when the object was made; call ``restore`` once."""

    def __init__(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        settings = [setting for setting in SETTINGS if is_main or not setting.is_of_main_thread]
        self._values = [(setting, setting.read()) for setting in settings]
        self._streams = {number: os.dup(number) for number in STREAMS if _identify(number) is not None}

    def restore(self) -> list[str]:
        """Put the state back; return the names of the settings that had changed."""
        changed = ["the standard streams"] if self._restore_streams() else []
        for setting, before in self._values:
            after = setting.read()
            if after != before:
                setting.restore(before)
                changed.append(setting.name + _list_keys(before, after))
        return changed

    def _restore_streams(self) -> bool:
        changed = False
        for number, copy in self._streams.items():
            if _identify(number) != _identify(copy):
                os.dup2(copy, number)
                changed = True
            os.close(copy)
        for name, number in zip(("stdout", "stderr"), STREAMS, strict=True):
            if getattr(sys, name).closed:
                setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
                changed = True
        return changed


def _identify(descriptor: int) -> tuple[int, int] | None:
    """Return the file behind a descriptor; ``None`` if it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _list_keys(before: Any, after: Any) -> str:
    """Return the keys whose values differ, in parentheses, if the values are mappings."""
    if not isinstance(before, dict):
        return ""
    keys = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    names = sorted(key if isinstance(key, str) else signal.Signals(key).name for key in keys)
    return f" ({', '.join(names)})"
