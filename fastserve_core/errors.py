"""The errors that FastServe reports: one class for each kind of error."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class FastServeError(Exception):
    """The base class of errors that are reported as one message.

    Attributes:
        exit_code: The exit code of the command line.
    """

    exit_code = 1


class StageError(FastServeError):
    """A stage failed for a reason other than the user's input."""


class TransientError(StageError):
    """The machine failed, and not the work: a process was killed, or memory ran out. The same work may succeed later.

    Such a failure is never recorded as a result, because options and data do not decide it.
    """


class VerbError(StageError):
    """A plugin broke a rule for verbs.

    Args:
        path: The path of the plugin, such as ``compress.prune``.
        verb: The verb.
        fault: The plugin's action, and the rule that it breaks.
    """

    def __init__(self, path: str, verb: str, fault: str) -> None:
        self.path, self.verb, self.fault = path, verb, fault
        super().__init__(f"{path}: '{verb}' {fault}")


class StoreError(TransientError):
    """The store cannot be written: the disk is full, or there is no permission."""


class DownloadError(FastServeError):
    """A pinned file cannot be downloaded, or has another hash."""


class UserError(FastServeError):
    """The user's input is wrong; the exit code is 2."""

    exit_code = 2


class UnknownNameError(UserError):
    """No installed package provides a plugin, task, data source, engine or config with this name.

    Args:
        kind: The kind of thing, for the message.
        name: The unknown name.
        known: The known names.
        advice: Further text for the message.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], advice: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"no {kind} named '{name}'{did_you_mean(name, self.known)}{advice}")


class PluginError(UserError):
    """An installed plugin cannot be used: blocked, another API version, wrong hooks, wrong section."""


class MissingPackageError(UserError):
    """A package that a plugin, engine or format requires is not installed."""


class OptionError(UserError):
    """An option does not exist, or its value has the wrong type or range."""


class DataError(UserError):
    """The data cannot be used: a missing file or column, invalid rows, unknown labels."""


class MissingColumnError(DataError):
    """The data lacks a column that a task requires.

    Args:
        column: The task's name of the column.
        message: The message.
    """

    def __init__(self, column: str, message: str) -> None:
        self.column = column
        super().__init__(message)


class AmbiguousColumnError(DataError):
    """Several columns of the data may be one of a task.

    Args:
        column: The task's name of the column.
        candidates: The data's names.
        message: The message.
    """

    def __init__(self, column: str, candidates: Sequence[str], message: str) -> None:
        self.column, self.candidates = column, tuple(candidates)
        super().__init__(message)


class ModelError(UserError):
    """The model cannot be used: no folder, no weights, a pickle, the head of another task."""


class ExportError(UserError):
    """A model cannot be exported or converted for an engine."""


class ArtifactError(UserError):
    """A folder is not an artifact, or was changed after it was published."""


class PlanError(UserError):
    """The chosen stages do not fit together."""


class ValidationError(UserError):
    """Several errors in a run's input, reported together.

    Args:
        errors: The errors.
    """

    def __init__(self, errors: list[UserError]) -> None:
        self.errors = errors
        lines = "\n".join(f"  {number}. {error}" for number, error in enumerate(errors, 1))
        super().__init__(f"{len(errors)} errors:\n{lines}")


class ErrorCollector:
    """Collects errors in the user's input, so that all are reported together."""

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Collect a ``UserError`` that is raised in this context; execution continues after it."""
        try:
            yield
        except ValidationError as error:
            self._errors += error.errors
        except UserError as error:
            self._errors.append(error)

    def raise_if_any(self) -> None:
        """Raise the collected errors.

        Raises:
            UserError: The only error.
            ValidationError: Several errors.
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise ValidationError(self._errors)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the hint ``; did you mean …? (known: …)`` for an unknown name.

    Args:
        name: The unknown name.
        known: The known names.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"{hint} (known: {', '.join(names)})" if names else ""


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MEMORY_ERRORS = (errno.ENOMEM, errno.EAGAIN)


def transient_kind(error: BaseException | str) -> type[TransientError] | None:
    """Return the class for an error that the machine caused, such as a full disk or the end of another process.

    Args:
        error: An exception of any library, or its message. Libraries in other languages pass on only the text of the
            system's error.

    Returns:
        The class, or ``None`` if the work itself failed.
    """
    if isinstance(error, TransientError):
        return type(error)
    if isinstance(error, (MemoryError, ConnectionError)):
        return TransientError
    number, text = getattr(error, "errno", None), str(error)
    for numbers, kind in ((DISK_ERRORS, StoreError), (MEMORY_ERRORS, TransientError)):
        if number in numbers or any(os.strerror(known) in text for known in numbers):
            return kind
    cause = error.__cause__ or error.__context__ if isinstance(error, BaseException) else None
    return transient_kind(cause) if cause is not None else None


@contextmanager
def wrap_write_errors(name: str, folder: Path) -> Iterator[None]:
    """Raise an ``OSError`` in this context as ``StoreError``.

    Args:
        name: The thing that is written, for the message.
        folder: The folder that it is written to, for the message.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(f"could not write {name} to {folder}: {error.strerror or error}") from error
