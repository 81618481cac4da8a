"""The plan of a run: its stages, with the results that are already in the store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastserve_core.artifacts.artifact import Artifact, load_artifact
from fastserve_core.artifacts.files import read_json
from fastserve_core.evaluation.gate import evaluate_gate, is_decided, models_to_time
from fastserve_core.evaluation.paired_timing import cached_speedups
from fastserve_core.pipeline.import_model import has_measurements_for, imported_artifact_id
from fastserve_core.pipeline.produce import Step
from fastserve_core.pipeline.session import Session
from fastserve_core.pipeline.stages import Stages
from fastserve_core.pipeline.tune import search_result_id
from fastserve_core.plugins.registry import ActivePlugin

REUSED, TO_DO = "reused", "to do"


def plan_run(session: Session, model: Artifact) -> list[tuple[str, str, str]]:
    """List ``(stage, plugin, state)`` in the order of the run, without running anything."""
    stages = PlannedStages(session, model)
    stages.run()
    return stages.states


class PlannedStages(Stages):
    """Looks up every result in the store; stages after a missing result are planned as well.

    Attributes:
        states: ``(stage, plugin, state)`` of the stages so far, in the order of the run.
    """

    def __init__(self, session: Session, model: Artifact) -> None:
        super().__init__(session, model)
        self.states: list[tuple[str, str, str]] = []

    def _search(self, tuner: ActivePlugin[Any], model: Artifact | None) -> Mapping[str, Any] | None:
        folder = self.session.store.find(search_result_id(self.session, tuner, model)) if model is not None else None
        if folder is None:
            self._add_state(tuner, None)
            self.model = None
            return None
        best_options: Mapping[str, Any] = read_json(folder / "tune.json")["best_options"]
        self._add_state(tuner, best_options)
        return best_options

    def _produce(self, step: Step, last_good: Artifact | None) -> tuple[Artifact | None, bool | None]:
        artifact = step.find()
        self._add_state(step.active, artifact)
        return artifact, self._judge(step, artifact, last_good)

    def _judge(self, step: Step, candidate: Artifact | None, last_good: Artifact | None) -> bool | None:
        """Evaluate the gate if timings of the candidate are in the store."""
        session, original = self.session, step.original
        if candidate is None or original is None or last_good is None or session.data is None:
            return None
        options, models = session.settings.general.gate, models_to_time(candidate, original, last_good)
        speedups = cached_speedups(session.store, models, session.data, partial(is_decided, options=options))
        if speedups is None:
            return None
        return not evaluate_gate(candidate, original, speedups, options, session.settings.task).reason

    def _ensure_baseline(self) -> None:
        if self.model is not None and not has_measurements_for(self.session, self.model):
            folder = self.session.store.find(imported_artifact_id(self.session, self.model))
            self.model = load_artifact(folder) if folder is not None else None

    def _skip(self, active: ActivePlugin[Any]) -> None:
        self._add_state(active, None)

    def _add_state(self, active: ActivePlugin[Any], result: object) -> None:
        self.states.append((active.section, active.name, TO_DO if result is None else REUSED))
