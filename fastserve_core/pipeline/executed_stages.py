"""The execution of a run's stages; results in the store are reused."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastserve_core.artifacts.artifact import Artifact
from fastserve_core.artifacts.files import read_json
from fastserve_core.errors import PlanError
from fastserve_core.events import StageStarted
from fastserve_core.pipeline.import_model import has_measurements_for, import_checkpoint
from fastserve_core.pipeline.learning_curve import trace_learning_curve
from fastserve_core.pipeline.produce import Step, produce
from fastserve_core.pipeline.record import StageRecord
from fastserve_core.pipeline.stages import Stages
from fastserve_core.pipeline.tune import search, search_result_id
from fastserve_core.plugins.registry import ActivePlugin


class ExecutedStages(Stages):
    """Executes the stages and records each of them; a stage can also be called by itself."""

    @property
    def artifact(self) -> Artifact:
        """The current model.

        Raises:
            PlanError: There is none, because an earlier stage made none.
        """
        if self.model is None:
            raise PlanError("there is no model: an earlier stage made none")
        return self.model

    def run(self) -> None:
        """Execute the stages; a checkpoint without any stage becomes an artifact as it is, to be served."""
        super().run()
        if not self.artifact.manifest.files:
            self.model = import_checkpoint(self.session, self.artifact)

    def _search(self, tuner: ActivePlugin[Any], model: Artifact | None) -> Mapping[str, Any]:
        session, model = self.session, self.artifact
        session.emit(StageStarted("tune", tuner.name))
        begin = time.perf_counter()
        with session.store.claim(search_result_id(session, tuner, model), session.warn) as claim:
            status = "reused" if claim.is_published else "done"
            if not claim.is_published:
                with session.recording_failure(tuner, begin):
                    search(session, tuner, model, claim, ExecutedStages)
            result = read_json(claim.final / "tune.json")
        seconds = time.perf_counter() - begin
        best_options: dict[str, Any] = result["best_options"]
        session.record_stage(
            StageRecord(
                "tune", tuner.name, tuner.version, status, round(seconds, 2), str(claim.final),
                result["digest"], asdict(tuner.options), {}, found=best_options, trials=result["trials"],
            )
        )  # fmt: skip
        return best_options

    def _produce(self, step: Step, last_good: Artifact | None) -> tuple[Artifact, bool | None]:
        artifact, verdict = produce(step, last_good)
        session = step.session
        if step.active.section == "train" and session.settings.general.learning_curve.enabled and not session.in_trial:
            session.record.learning_curve = trace_learning_curve(step, artifact)
            session.record.write()
        return artifact, None if verdict is None else not verdict.reason

    def _ensure_baseline(self) -> None:
        session, model = self.session, self.artifact
        if not has_measurements_for(session, model):
            self.model = import_checkpoint(session, model)
        elif str(model.folder) not in [stage.artifact for stage in session.record.stages]:
            source = (str(model.folder), model.digest)
            session.record_stage(StageRecord("model", "artifact", "", "reused", 0.0, *source, measures=model.measures))

    def _skip(self, active: ActivePlugin[Any]) -> None:
        raise PlanError(f"'{active.path}' has no model to start from")
