"""What is raised when the fault is the user's, a plugin's or the machine's: one class a fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class FastServeError(Exception):
    """The base of every error that is shown as one message; a stage that fails exits with 1."""

    exit_code = 1


class StageFailed(FastServeError):
    """A plugin's verb ended in an error that is not the user's input."""


class StoreError(FastServeError):
    """The store could not be written: disk full, no permission."""


class DownloadFailed(FastServeError):
    """A pinned file could not be fetched or is not the one that was pinned."""


class UserError(FastServeError):
    """The user's input is wrong; exits with 2."""

    exit_code = 2


class UnknownName(UserError):
    """A plugin, task, data source, engine or config that nobody provides."""

    def __init__(self, kind: str, name: str, known: Iterable[str], advice: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"no {kind} named '{name}'{did_you_mean(name, self.known)}{advice}")


class PluginError(UserError):
    """A plugin was found but cannot be used: blocked, another API version, wrong hooks, wrong place."""


class MissingPackage(UserError):
    """A plugin is chosen whose packages are not installed."""


class InvalidOption(UserError):
    """An option that does not exist, or whose value has the wrong type or range."""


class InvalidData(UserError):
    """The data cannot be used: missing file or column, bad rows, labels that do not fit."""


class InvalidModel(UserError):
    """The model cannot be used: no folder, no weights, a pickle, another task's head."""


class ExportError(UserError):
    """A model cannot be brought into the form that an engine reads; the reason is one line."""


class InvalidArtifact(UserError):
    """A folder that should be an artifact is not one, or was changed after it was published."""


class InvalidPlan(UserError):
    """The chosen stages do not fit together."""


class ValidationErrors(UserError):
    """Everything that is wrong with a run's input, in one error."""

    def __init__(self, errors: list[UserError]) -> None:
        self.errors = errors
        lines = "\n".join(f"  {number}. {error}" for number, error in enumerate(errors, 1))
        super().__init__(f"{len(errors)} things are wrong:\n{lines}")


class ErrorCollector:
    """Gathers the user's errors so that all are said at once."""

    def __init__(self) -> None:
        self._errors: list[UserError] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep a ``UserError`` raised in the block and go on after it."""
        try:
            yield
        except ValidationErrors as error:
            self._errors += error.errors
        except UserError as error:
            self._errors.append(error)

    def raise_if_any(self) -> None:
        """Raise the only error as it is, several as ``ValidationErrors``."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise ValidationErrors(self._errors)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` did you mean …? (known: …)`` for a name that is not among the known ones."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"{hint} (known: {', '.join(names) or 'none'})"


@contextmanager
def wrap_write_errors(what: str, where: Path) -> Iterator[None]:
    """Turn an ``OSError`` in the block into one message that says what could not be written and where."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"could not write {what} to {where}: {error.strerror or error}") from error
