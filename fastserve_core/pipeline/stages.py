"""The walk through the stages of a run, the same for a plan and for its execution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastserve_core.artifacts.artifact import TRAINABLE, Artifact
from fastserve_core.errors import InvalidModel
from fastserve_core.evaluation.gate import defers_gate
from fastserve_core.pipeline.produce import Step
from fastserve_core.pipeline.search_scope import searches_compressors_only
from fastserve_core.pipeline.session import Session
from fastserve_core.plugins.registry import ActivePlugin

DEFAULTS: Mapping[str, Any] = MappingProxyType({})
"""No options but those of the config, for a run without a tuner."""


class Stages(ABC):
    """Tune, train, compress, in the order of the run.

    A subclass gives the results of single steps: it makes them, or it looks them up. A result that is not known is
    ``None``; so is everything that depends on it.

    Attributes:
        session: The run.
        model: The current model; ``None`` while it is not known.
    """

    def __init__(self, session: Session, model: Artifact) -> None:
        self.session = session
        self.model: Artifact | None = model

    def run(self) -> None:
        """Walk through all stages; a tuner that searches compressors only comes after the training."""
        registry = self.session.registry
        is_late = searches_compressors_only(registry)
        found: Mapping[str, Any] | None = {}
        if registry.tuner is not None and not is_late:
            found = self.tune()
        if registry.trainer is not None:
            self.train(found)
        if registry.tuner is not None and is_late:
            found = self.tune()
        if registry.compressors:
            self.compress(found)

    def tune(self) -> Mapping[str, Any] | None:
        """Search the trainer's options, the compressors', or both; return the best ones by path."""
        (tuner,) = self.session.registry.plugins_for("tune")
        if searches_compressors_only(self.session.registry):
            self._ensure_baseline()
        return self._search(tuner, self.model)

    def train(self, found: Mapping[str, Any] | None = DEFAULTS) -> Artifact | None:
        """Train the model with the options that a tuner found."""
        (trainer,) = self.session.registry.plugins_for("train")
        self.model = self._take(trainer, found)[0]
        return self.model

    def compress(self, found: Mapping[str, Any] | None = DEFAULTS) -> Artifact | None:
        """Apply the compressors in turn; a candidate that the gate refuses stays in the store and is not used.

        The trials of a tuner continue with a refused candidate: the tuner learns from its measurements.
        """
        self._ensure_baseline()
        original = last_good = self.model
        is_deferred = False
        chain = self.session.registry.compressors
        for number, compressor in enumerate(chain):
            is_deferred = defers_gate(compressor, chain[number + 1 :], is_deferred)
            candidate, is_accepted = self._take(compressor, found, original, None if is_deferred else last_good)
            if is_deferred:
                self.model = candidate
            elif is_accepted is None:
                self.model = None
            elif is_accepted or self.session.in_trial:
                self.model = last_good = candidate
            else:
                self.model = last_good
        return self.model

    def _take(
        self,
        active: ActivePlugin[Any],
        found: Mapping[str, Any] | None,
        original: Artifact | None = None,
        last_good: Artifact | None = None,
    ) -> tuple[Artifact | None, bool | None]:
        """Give one plugin its step, with the options that were found for it."""
        if self.model is None or found is None:
            self._skip(active)
            return None, None
        if active.place == "compress" and self.model.form != TRAINABLE:
            raise InvalidModel(f"'{active.name}' needs trainable weights, but {self.model.folder} is an engine's file")
        registry, changed = self.session.registry.with_overrides(active, active.select_options(found))
        return self._produce(Step(self.session.with_registry(registry), changed, self.model, original), last_good)

    @abstractmethod
    def _search(self, tuner: ActivePlugin[Any], model: Artifact | None) -> Mapping[str, Any] | None:
        """Return the options that a search found."""

    @abstractmethod
    def _produce(self, step: Step, last_good: Artifact | None) -> tuple[Artifact | None, bool | None]:
        """Return a step's artifact, and whether the gate accepts it (``None``: it was not judged)."""

    @abstractmethod
    def _ensure_baseline(self) -> None:
        """Make the current model one with measurements of this run's data, to compare compressed ones with."""

    @abstractmethod
    def _skip(self, active: ActivePlugin[Any]) -> None:
        """Note a stage whose input is not known yet."""
