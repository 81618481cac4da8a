"""The base classes of plugins: every attribute that the core reads, with its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact
from fastserve_core.tasks.task import Task


class Plugin:
    """The base of all plugins; derive from one of its subclasses.

    A plugin is a light class: it imports nothing heavy before one of its verbs runs.

    Attributes:
        api_version: The version of the plugin API that the plugin is built for.
        requires: Modules that its verbs import.
        Options: A dataclass of its options, with defaults.
        not_in_key: Options that do not change the result, such as intervals of checkpoints.
        reads_files: Options that name files: their contents decide the result, not their paths.
        reads_artifacts: Options that name an artifact's folder.
        options: The options of this run.
    """

    api_version: ClassVar[int]
    requires: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type[Any]]
    not_in_key: ClassVar[tuple[str, ...]] = ()
    reads_files: ClassVar[tuple[str, ...]] = ()
    reads_artifacts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: Any) -> None:
        self.options = options


class Trainer(Plugin):
    """Fills the stage ``train``.

    Attributes:
        supports_auxiliary_loss: Whether it can minimize a loss besides that of the labels, as distillation needs.
    """

    supports_auxiliary_loss: ClassVar[bool] = False

    def search_space(self, model: Artifact) -> Mapping[str, Any]:
        """Propose what a tuner should search for such a model, by option, the most important first."""
        return {}


class Tuner(Plugin):
    """Fills the stage ``tune``."""

    @property
    def searches(self) -> tuple[str, ...]:
        """The paths of the options to search; empty: those that the trainer proposes."""
        return ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """The paths of further options that the search reads."""
        return ()


class Compressor(Plugin):
    """Fills the stage ``compress``.

    Attributes:
        tasks: The tasks whose models it compresses; empty: all.
        form: The form of artifact that it takes and the one that it gives.
        wants_training: Whether its result is worse until it is trained again, so that the gate waits for a
            compressor that trains.
        trains: Whether it has the run's trainer train, with ``CompressContext.retrain``.
    """

    tasks: ClassVar[tuple[str, ...]] = ()
    form: ClassVar[tuple[str, str]] = (TRAINABLE, TRAINABLE)
    wants_training: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    def check_task(self, task: Task) -> None:
        """Check the options against the task of the run, before anything runs.

        Raises:
            InvalidOption: An option does not go with the task.
        """


class Server(Plugin):
    """Fills the stage ``serve``."""


class Observer(Plugin):
    """Is told of events, and may wrap any verb."""


BASES: Mapping[str, type[Plugin]] = {
    "train": Trainer,
    "tune": Tuner,
    "compress": Compressor,
    "serve": Server,
    "observe": Observer,
}
"""The base class of each section of the config."""
