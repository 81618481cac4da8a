"""The walk through the stages of a run, the same for a plan and for its execution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact
from fastserve_core.errors import ModelError
from fastserve_core.evaluation.gate import defers_gate
from fastserve_core.pipeline.produce import Step
from fastserve_core.pipeline.search_scope import searches_compressors_only
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.registry import ActivePlugin

DEFAULTS: Mapping[str, Any] = MappingProxyType({})
"""No options but those of the config, for a run without a tuner."""


class Stages(ABC):
    """Tune, train, compress, in the order of the run.

    A subclass provides the results of single steps: it makes them, or looks them up. An unknown result is ``None``;
    so are all results that depend on it.

    Attributes:
        session: The run.
        model: The current model; ``None`` if it is not known.
    """

    def __init__(self, session: Session, model: Artifact) -> None:
        self.session = session
        self.model: Artifact | None = model

    def run(self) -> None:
        """Walk through all stages; a tuner that searches compressors only runs after the training."""
        registry = self.session.registry
        tunes_after_training = searches_compressors_only(registry)
        best_options: Mapping[str, Any] | None = {}
        if registry.tuner is not None and not tunes_after_training:
            best_options = self.tune()
        if registry.trainer is not None:
            self.train(best_options)
        if registry.tuner is not None and tunes_after_training:
            best_options = self.tune()
        if registry.compressors:
            self.compress(best_options)

    def tune(self) -> Mapping[str, Any] | None:
        """Search options of the trainer, the compressors, or both.

        Returns:
            The best options by path; ``None`` if they are not known.
        """
        (tuner,) = self.session.registry.plugins_for("tune")
        if searches_compressors_only(self.session.registry):
            self._ensure_baseline()
        return self._search(tuner, self.model)

    def train(self, options: Mapping[str, Any] | None = DEFAULTS) -> Artifact | None:
        """Train the model.

        Args:
            options: Options by path in place of the config's, such as a tuner's best; ``None`` if they are not known.

        Returns:
            The trained model; ``None`` if it is not known.
        """
        (trainer,) = self.session.registry.plugins_for("train")
        self.model = self._run_step(trainer, options)[0]
        return self.model

    def compress(self, options: Mapping[str, Any] | None = DEFAULTS) -> Artifact | None:
        """Apply the compressors in turn; a candidate that the gate refuses stays in the store and is not used.

        The trials of a tuner continue with a refused candidate, because the tuner learns from its measurements.

        Args:
            options: Options by path in place of the config's, such as a tuner's best; ``None`` if they are not known.

        Returns:
            The last good model; ``None`` if it is not known.
        """
        self._ensure_baseline()
        original = last_good = self.model
        is_deferred = False
        compressors = self.session.registry.compressors
        for number, compressor in enumerate(compressors):
            is_deferred = defers_gate(compressor, compressors[number + 1 :], is_deferred)
            baseline = None if is_deferred else last_good
            candidate, is_accepted = self._run_step(compressor, options, original, baseline)
            if is_deferred:
                self.model = candidate
            elif is_accepted is None:
                self.model = None
            elif is_accepted or self.session.in_trial:
                self.model = last_good = candidate
            else:
                self.model = last_good
        return self.model

    def _run_step(
        self,
        active: ActivePlugin[Any],
        options: Mapping[str, Any] | None,
        original: Artifact | None = None,
        last_good: Artifact | None = None,
    ) -> tuple[Artifact | None, bool | None]:
        """Run the step of one plugin with its share of the options."""
        if self.model is None or options is None:
            self._skip(active)
            return None, None
        if active.section == "compress" and self.model.form != TRAINABLE:
            raise ModelError(f"'{active.name}' needs trainable weights, but {self.model.folder} is an engine's file")
        registry, changed = self.session.registry.with_overrides(active, active.select_options(options))
        session = self.session.with_registry(registry)
        if active.section == "train":
            session = session.with_task_options(options)
        return self._produce(Step(session, changed, self.model, original), last_good)

    @abstractmethod
    def _search(self, tuner: ActivePlugin[Any], model: Artifact | None) -> Mapping[str, Any] | None:
        """Return the best options of a search."""

    @abstractmethod
    def _produce(self, step: Step, last_good: Artifact | None) -> tuple[Artifact | None, bool | None]:
        """Return a step's artifact, and whether the gate accepts it (``None``: not evaluated)."""

    @abstractmethod
    def _ensure_baseline(self) -> None:
        """Make sure that the current model has measurements on this run's data, as the baseline of the gate."""

    @abstractmethod
    def _skip(self, active: ActivePlugin[Any]) -> None:
        """Record a stage whose input is not known yet."""
