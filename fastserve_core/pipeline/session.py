"""The session of a run: its settings, store, data and record, and the reporting of its events and stages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fastserve_core.artifacts.store import Store
from fastserve_core.data.dataset import Dataset
from fastserve_core.errors import FastServeError, PlanError
from fastserve_core.events import Event, Progress, StageFinished, Step, WarningRaised
from fastserve_core.pipeline.record import RunRecord, StageRecord
from fastserve_core.pipeline.search_scope import TASK_PREFIX, is_task_path
from fastserve_core.pipeline.settings import Settings
from fastserve_core.plugins.contexts import StageContext
from fastserve_core.plugins.registry import ActivePlugin, Registry
from fastserve_core.plugins.requests import Budget
from fastserve_core.plugins.verbs import call_verb

TRIAL_EVENTS = (Step, Progress, WarningRaised)


@dataclass(frozen=True)
class Session:
    """The state that all stages of one run share.

    Attributes:
        settings: The typed config, with the registry of the run's plugins.
        store: The store of results.
        data: The splits, if the run has data.
        record: The run's record, to which every stage is added.
        in_trial: Whether these stages are a tuner's trial, which reports steps, progress and warnings only.
        budget: Limits a training, and is part of its key.
    """

    settings: Settings
    store: Store
    data: Dataset | None
    record: RunRecord
    in_trial: bool = False
    budget: Budget = field(default_factory=Budget)

    @property
    def registry(self) -> Registry:
        """The plugins of the run."""
        return self.settings.registry

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data; empty without data."""
        return self.data.fingerprint if self.data is not None else ""

    def require_data(self) -> Dataset:
        """Return the splits.

        Raises:
            PlanError: The run has no data.
        """
        if self.data is None:
            raise PlanError("this stage needs data: set data.train=FILE or data=NAME")
        return self.data

    def with_registry(self, registry: Registry) -> Session:
        """Return the same session with other plugins."""
        return replace(self, settings=replace(self.settings, registry=registry))

    def with_task_options(self, options: Mapping[str, Any]) -> Session:
        """Return the same session with other options of the task.

        Args:
            options: Options by path; those that are not the task's, such as ``train.torch_ddp.lr``, are ignored.
        """
        changes = {path.removeprefix(TASK_PREFIX): value for path, value in options.items() if is_task_path(path)}
        if not changes:
            return self
        return replace(self, settings=replace(self.settings, task=self.settings.task.with_options(changes)))

    def for_trial(self, budget: Budget) -> Session:
        """Return a session for the stages of one trial, with a record of its own."""
        record = RunRecord(None, self.record.task, 0)
        return replace(self, in_trial=True, budget=budget, record=record)

    def emit(self, event: Event) -> None:
        """Report an event to the observers."""
        if not self.in_trial or isinstance(event, TRIAL_EVENTS):
            self.registry.notify(event)

    def warn(self, message: str) -> None:
        """Report a warning to the observers."""
        self.emit(WarningRaised(message))

    def call_plugin(self, active: ActivePlugin[Any], verb: str, context: StageContext) -> Any:
        """Call a verb of a plugin.

        Args:
            active: The plugin.
            verb: The verb, such as ``train``.
            context: The verb's context.

        Returns:
            The verb's result.

        Raises:
            StageError: The plugin failed or broke a rule for verbs; the message names it.
            TransientError: The machine failed, and not the plugin.
            FastServeError: The plugin rejected its input.
        """
        return call_verb(self.registry, active, verb, context)

    @contextmanager
    def recording_failure(self, active: ActivePlugin[Any], begin: float) -> Iterator[None]:
        """Record the stage if it fails in this context; the error is raised again.

        Args:
            active: The stage's plugin.
            begin: When the stage started, by ``time.perf_counter``.
        """
        try:
            yield
        except FastServeError as error:
            seconds = round(time.perf_counter() - begin, 2)
            self.record_stage(
                StageRecord(
                    active.section, active.name, active.version, "failed", seconds,
                    options=asdict(active.options), reason=str(error),
                )
            )  # fmt: skip
            raise

    def record_stage(self, stage: StageRecord, is_usable: bool = True) -> None:
        """Add a stage to the run's record, and report it.

        Args:
            stage: The stage's record.
            is_usable: Whether the stage's artifact may become the run's best; false while its gate is deferred.
        """
        self.record.stages.append(stage)
        if is_usable and stage.artifact and stage.status in ("done", "reused") and stage.stage != "tune":
            self.record.best = stage.artifact
        self.record.write()
        self.emit(
            StageFinished(
                stage.stage, stage.plugin, stage.status, stage.seconds, stage.measures, stage.reason,
                self.record.metrics,
            )
        )  # fmt: skip
