"""Calls of verbs: a plugin that breaks a rule ends the stage with one message, and does not change the process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastserve_core.errors import FastServeError, StageError, TransientError, VerbError, transient_kind
from fastserve_core.events import WarningRaised
from fastserve_core.plugins.inputs import VerbInputs
from fastserve_core.plugins.leftovers import Leftovers
from fastserve_core.plugins.process_state import ProcessState
from fastserve_core.plugins.results import find_faults
from fastserve_core.processes.journal import JOURNAL

if TYPE_CHECKING:
    from fastserve_core.plugins.contexts import StageContext
    from fastserve_core.plugins.registry import ActivePlugin, Registry

MAX_FAULTS = 3
"""The number of faults of one call that are reported."""


def call_verb(registry: Registry, active: ActivePlugin[Any], verb: str, run: StageContext) -> Any:
    """Call a verb of a plugin, and check that it keeps the rules for verbs.

    It may not change its inputs, its result must be complete, and it leaves no threads and processes. Settings of the
    process that it changes are put back, with a warning; while other threads run verbs, that is left to the verb that
    called them.

    Args:
        registry: The registry of the plugin.
        active: The plugin.
        verb: The verb, such as ``train``.
        run: The verb's context.

    Returns:
        The verb's result.

    Raises:
        VerbError: The plugin broke a rule.
        StageError: The plugin failed; the message names it.
        TransientError: The machine failed, and not the plugin.
        FastServeError: The plugin rejected its input.
    """
    inputs = VerbInputs(active, run)
    watch = None if JOURNAL.runs_in_other_threads() else ProcessWatch(registry, active, verb)
    process, failure, result = os.getpid(), None, None
    try:
        with JOURNAL.entry(f"{active.path} in '{verb}'"):
            result = _call(registry, active, verb, run)
    except FastServeError as error:
        failure = error
    finally:
        if os.getpid() != process:
            os._exit(1)  # a process that the plugin forked, and that must not run the rest of the command
        leftovers = watch.end() if watch is not None else []
    faults = [f"{change}: a verb may not change its inputs" for change in inputs.find_changes()]
    if failure is not None:
        raise VerbError(active.path, verb, f"{faults[0]}; it also failed: {failure}") if faults else failure
    faults += [f"left {found} behind: a verb ends what it has started" for found in leftovers]
    faults += find_faults(active.plugin, verb, run, result)
    if faults:
        raise VerbError(active.path, verb, "; ".join(faults[:MAX_FAULTS]))
    return result


def _call(registry: Registry, active: ActivePlugin[Any], verb: str, run: StageContext) -> Any:
    try:
        return registry.call(active, verb, optional=True, run=run)
    except (KeyboardInterrupt, VerbError):
        raise
    except StageError as error:
        raise (transient_kind(error) or StageError)(f"{active.path}: {error}") from error
    except FastServeError:
        raise
    except MemoryError as error:
        raise TransientError(f"{active.path} ran out of memory") from error
    except SystemExit as error:
        rule = "a verb returns its result, or raises an error of fastserve_core.errors"
        raise VerbError(active.path, verb, f"called sys.exit({error.code!r}): {rule}") from error
    except BaseException as error:
        kind = transient_kind(error) or StageError
        raise kind(f"{active.path} failed: {type(error).__name__}: {error}") from error


def ask_plugin(active: ActivePlugin[Any], method: str, *arguments: Any) -> Any:
    """Call a method of a plugin that is not a verb, such as ``search_space``.

    Args:
        active: The plugin.
        method: The method.
        arguments: Its arguments.

    Returns:
        The method's result.

    Raises:
        StageError: The method failed; the message names it.
        FastServeError: The plugin rejected its input.
    """
    try:
        return getattr(active.plugin, method)(*arguments)
    except FastServeError:
        raise
    except (Exception, SystemExit) as error:
        raise StageError(f"{active.path}: '{method}' failed: {type(error).__name__}: {error}") from error


class ProcessWatch:
    """Notices changes of the process during a verb.

    Args:
        registry: The registry, which reports the warnings and knows the threads of observers.
        active: The plugin.
        verb: The verb.
    """

    def __init__(self, registry: Registry, active: ActivePlugin[Any], verb: str) -> None:
        self._registry, self._active, self._verb = registry, active, verb
        self._leftovers = Leftovers(type(active.plugin).__module__.partition(".")[0])
        self._state = ProcessState()

    def end(self) -> list[str]:
        """Put settings back, with a warning, and end processes.

        Returns:
            A description of each thread and process that was left behind. In a Python program they may be the
            program's own: nothing is ended, and nothing returned.
        """
        if changed := self._state.restore():
            self._registry.notify(
                WarningRaised(
                    f"{self._active.path} changed {', '.join(changed)} in '{self._verb}': a verb may not change the "
                    "process; the change is undone"
                )
            )
        if not JOURNAL.is_supervised or self._verb == "serve":
            return []
        return self._leftovers.end(self._registry.observer_threads)
