"""The base classes of plugins: every attribute that the core reads, with its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact
from fastserve_core.tasks.task import Task


class Plugin:
    """The base class of all plugins; derive from one of its subclasses.

    A plugin class is cheap to import: heavy packages are imported when one of its verbs runs.

    Attributes:
        api_version: The version of the plugin API that the plugin is built for.
        requires: Modules that its verbs import.
        Options: A dataclass of its options, with defaults.
        not_in_key: Options that do not change the result, such as intervals of checkpoints.
        reads_files: Options that name files, whose contents decide the result, not their paths.
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
    """The base class of plugins for the stage ``train``.

    Attributes:
        supports_auxiliary_loss: Whether it can minimize a loss besides that of the labels, as distillation needs.
    """

    supports_auxiliary_loss: ClassVar[bool] = False

    def search_space(self, model: Artifact) -> Mapping[str, Any]:
        """Propose a search space for a tuner.

        Args:
            model: The model to train.

        Returns:
            The ranges by option, the most important option first.
        """
        return {}

    def shorter_options(self) -> Sequence[Mapping[str, Any]]:
        """Propose options that make the training shorter, for a run with a limited time.

        Returns:
            The changed options by name, the mildest change first.
        """
        return ()


class Tuner(Plugin):
    """The base class of plugins for the stage ``tune``."""

    def search_size(self) -> tuple[int, int] | None:
        """Return the maximum number of trainings of the search, and of their steps together, if they are known."""
        return None

    def shorter_options(self) -> Sequence[Mapping[str, Any]]:
        """Propose options that make the search shorter, for a run with a limited time.

        Returns:
            The changed options by name, the mildest change first.
        """
        return ()

    @property
    def searches(self) -> tuple[str, ...]:
        """The paths of the options to search; if empty, those that the trainer proposes."""
        return ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """The paths of further options that the search reads."""
        return ()


class Compressor(Plugin):
    """The base class of plugins for the stage ``compress``.

    Attributes:
        tasks: The tasks whose models it compresses; if empty, all.
        form: The forms of its input and of its result.
        wants_training: Whether its result has to be trained again, so that the gate waits for a compressor that trains.
        trains: Whether it uses the run's trainer, with ``CompressContext.retrain``.
    """

    tasks: ClassVar[tuple[str, ...]] = ()
    form: ClassVar[tuple[str, str]] = (TRAINABLE, TRAINABLE)
    wants_training: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    def check_task(self, task: Task) -> None:
        """Check the options against the task of the run, before anything runs.

        Args:
            task: The name of the task.

        Raises:
            OptionError: An option is not valid for the task.
        """


class Server(Plugin):
    """The base class of plugins for the stage ``serve``."""


class Observer(Plugin):
    """The base class of observers, which receive events and may wrap any verb."""


BASES: Mapping[str, type[Plugin]] = {
    "train": Trainer,
    "tune": Tuner,
    "compress": Compressor,
    "serve": Server,
    "observe": Observer,
}
"""The base class of each section of the config."""
