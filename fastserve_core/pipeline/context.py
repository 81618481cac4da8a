"""A run: an artifact is carried through the stages; what the store has already is not done again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import MANIFEST, TRAINABLE, Artifact, Manifest, load_artifact, write_manifest
from fastserve_core.artifacts.files import read_json
from fastserve_core.artifacts.hashing import hash_files, stable_hash
from fastserve_core.artifacts.store import Claim, Store, result_id
from fastserve_core.data.dataset import Dataset
from fastserve_core.data.unlabelled import file_hashes
from fastserve_core.errors import FastServeError, InvalidModel, StageFailed
from fastserve_core.evaluation.gate import Verdict, baselines, defers_gate, evaluate_gate
from fastserve_core.evaluation.measure import measure_artifact
from fastserve_core.evaluation.paired_timing import measure_speedups
from fastserve_core.events import Event, Progress, StageFinished, StageStarted, Step, WarningRaised
from fastserve_core.inference.engines import candidate_engines
from fastserve_core.pipeline.cache import content_key, find_equivalent_result, link_result
from fastserve_core.pipeline.import_model import has_measurements_for, import_checkpoint
from fastserve_core.pipeline.recipe_trial import searches_compressors_only
from fastserve_core.pipeline.record import RunRecord, StageRecord
from fastserve_core.pipeline.retrain import make_retrainer
from fastserve_core.pipeline.settings import Settings, option_changes
from fastserve_core.pipeline.tune import search, tune_name
from fastserve_core.plugins.contexts import Budget, Run, StagedArtifact
from fastserve_core.plugins.hookspecs import API_VERSION
from fastserve_core.plugins.registry import ActivePlugin
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Task

TOLD_OF_A_TRIAL = (Step, Progress, WarningRaised)


@dataclass
class Pipeline:
    """The stages of one run, each of which may be called by itself (the Python object does).

    As a tuner's ``trial`` it tells of no stage, and goes on from a candidate that the gate refuses. ``budget`` bounds
    a training and is part of its name in the store.
    """

    settings: Settings
    store: Store
    data: Dataset | None
    model: Artifact
    record: RunRecord
    trial: bool = False
    budget: Budget = field(default_factory=Budget)

    def tell(self, event: Event) -> None:
        if not self.trial or isinstance(event, TOLD_OF_A_TRIAL):
            self.settings.registry.notify(event)

    def warn(self, message: str) -> None:
        self.tell(WarningRaised(message))

    # -- the stages ----------------------------------------------------------------------------------

    def tune(self) -> Mapping[str, Any]:
        """Search the trainer's options, the compressors', or both; returns what was found, by path."""
        (active,) = self.settings.registry.plugins_for("tune")
        if searches_compressors_only(self.settings.registry):
            self.model = self.measured()
        name = tune_name(self, active, self.model)
        self.tell(StageStarted("tune", active.name))
        begin = time.perf_counter()
        with self.store.claim(name, self.warn) as claim:
            status = "reused" if claim.published else "done"
            if not claim.published:
                with self.failing(active, begin):
                    search(self, active, claim)
            result = read_json(claim.final / "tune.json")
        seconds = time.perf_counter() - begin
        found: dict[str, Any] = result["found"]
        self.note(
            StageRecord(
                "tune", active.name, active.version, status, round(seconds, 2), str(claim.final),
                result["digest"], asdict(active.options), {}, found=found, trials=result["trials"],
            )
        )  # fmt: skip
        return found

    def train(self, found: Mapping[str, Any] | None = None) -> Artifact:
        """Train the model, with the options that a tuner found where the user did not set them."""
        (active,) = self.settings.registry.plugins_for("train")
        changes = option_changes(found or {}, active.path)
        with self.settings.registry.override_options(active, changes) as trainer:
            self.model = self._make(trainer, self.model)
        return self.model

    def measured(self) -> Artifact:
        """The model so far with measures of this run's data, noted: what compressed ones are compared with."""
        if not has_measurements_for(self, self.model):
            return import_checkpoint(self, self.model)
        if str(self.model.folder) not in [line.artifact for line in self.record.stages]:
            given = (str(self.model.folder), self.model.digest)
            self.note(StageRecord("model", "artifact", "", "reused", 0.0, *given, measures=self.model.measures))
        return self.model

    def compress(self, found: Mapping[str, Any] | None = None) -> Artifact:
        """Every compressor in turn; a candidate that the gate refuses is kept in the store but not used."""
        original = good = self.model = self.measured()
        half_done = False
        chain = self.settings.registry.plugins_for("compress")
        for number, active in enumerate(chain):
            if self.model.form != TRAINABLE:
                raise InvalidModel(
                    f"'{active.name}' needs trainable weights, but {self.model.folder} is an engine's file"
                )
            half_done = defers_gate(active, chain[number + 1 :], half_done)
            with self.settings.registry.override_options(active, option_changes(found or {}, active.path)) as changed:
                candidate = self._make(changed, self.model, original, None if half_done else good)
            if self.record.stages[-1].status == "rejected" and not self.trial:
                self.model = good
            else:
                self.model = candidate
                good = good if half_done else candidate
        return self.model

    def run_for(self, place: str, folder: Path, model: Artifact, **more: Any) -> Run:
        """What the verb of a stage is given."""
        return Run(
            model=model,
            task=self.task(self.labels(place, model)),
            folder=folder,
            seed=self.settings.general.seed,
            threads=threads_per_process(),
            emit=self.tell,
            source=self.data,
            budget=self.budget,
            **more,
        )

    def task(self, labels: Sequence[str]) -> Task:
        """The task with its labels by their number."""
        return load_task(self.settings.task.name, vars(self.settings.task.options), labels)

    def labels(self, place: str, model: Artifact) -> tuple[str, ...]:
        """Training learns the data's labels; whatever comes after it keeps the model's own and their order."""
        learns = place in ("tune", "train") and self.data is not None
        return self.data.labels if learns and self.data is not None else tuple(model.manifest.labels)

    # -- making one result ---------------------------------------------------------------------------

    def key(self, active: ActivePlugin, model: Artifact, original: Artifact | None = None) -> dict[str, Any]:
        """Everything that decides a stage's result; what a compressor trains depends on trainer and teacher too."""
        left_out = getattr(active.plugin, "not_in_key", ())
        options = {name: value for name, value in asdict(active.options).items() if name not in left_out}
        for name in getattr(active.plugin, "reads_files", ()):
            options[name] = file_hashes(options[name], f"{active.path}.{name}")  # what they hold, wherever they lie
        for name in getattr(active.plugin, "reads_artifacts", ()):
            options[name] = load_artifact(Path(options[name]).expanduser()).digest if options[name] else None
        key = {
            "plugin": [active.place, active.name, active.version, API_VERSION],
            "options": options,
            "model": model.digest,
            "task": [self.settings.task.name, vars(self.settings.task.options)],
            "data": self.data.fingerprint if self.data is not None else "",
            "seed": self.settings.general.seed,
            "engine": self.settings.general.engine,
            "training": self._training_key(active, original),
        }
        return key if self.budget.steps is None else key | {"steps": self.budget.steps}

    def _training_key(self, active: ActivePlugin, original: Artifact | None) -> list[Any]:
        if original is None or not getattr(active.plugin, "trains", False):
            return []
        (trainer,) = self.settings.registry.plugins_for("train")
        return [content_key(self.key(trainer, original)), original.digest]

    def name(self, active: ActivePlugin, model: Artifact, original: Artifact | None = None) -> str:
        """A stage's result in the store."""
        return result_id(active.place, active.name, stable_hash(self.key(active, model, original)))

    def _make(
        self, active: ActivePlugin, model: Artifact, original: Artifact | None = None, before: Artifact | None = None
    ) -> Artifact:
        """One artifact, from the store or made, measured and published.

        A compressor's is a candidate. With ``before``, the last good model, it is judged: against that one, and
        against the ``original``, the model before the first compressor.
        """
        key, name = self.key(active, model, original), self.name(active, model, original)
        self.tell(StageStarted(active.place, active.name))
        begin = time.perf_counter()
        with self.store.claim(name, self.warn) as claim:
            twin = None if claim.published else find_equivalent_result(self.store, active, key)
            status = "reused" if claim.published or twin else "done"
            if twin is not None:
                draft = link_result(twin, claim.partial / "copy")
                self.seal(draft, model, twin.manifest.lineage[-1], original)
                claim.publish(draft.folder)
            elif not claim.published:
                with self.failing(active, begin):
                    claim.publish(self._work(active, model, original, claim, key, begin))
        artifact = load_artifact(claim.final)
        verdict = self._judge(artifact, original, before) if original is not None and before is not None else None
        measures = artifact.measures if verdict is None else {**artifact.measures, "speedup": verdict.speedup}
        reason = "" if verdict is None else verdict.reason
        self.note(
            StageRecord(
                active.place, active.name, active.version, "rejected" if reason else status,
                round(time.perf_counter() - begin, 2), str(artifact.folder), artifact.digest,
                asdict(active.options), measures, reason,
            ),
            judged=original is None or verdict is not None,
        )  # fmt: skip
        return artifact

    def _work(
        self,
        active: ActivePlugin,
        model: Artifact,
        original: Artifact | None,
        claim: Claim,
        key: Mapping[str, Any],
        begin: float,
    ) -> Path:
        """Have the plugin make the result; returns the sealed folder."""
        work = claim.partial / "work"
        work.mkdir(exist_ok=True)
        run = self.run_for(active.place, work, model)
        if original is not None:
            run = replace(run, original=original, retraining=make_retrainer(self))
        draft: StagedArtifact = self.verb(active, active.place, run)
        self.seal(draft, model, lineage_entry(active, key, begin, draft.costs), original)
        return draft.folder

    def _judge(self, candidate: Artifact, original: Artifact, before: Artifact) -> Verdict:
        """Time the candidate in turn with what it is compared with, and see whether the gate lets it through."""
        assert self.data is not None  # compressors need data
        found = measure_speedups(self.store, baselines(candidate, original, before), self.data, self.tell)
        return evaluate_gate(candidate, original, found, self.settings.general.gate, self.settings.task)

    def verb(self, active: ActivePlugin, verb: str, run: Run) -> Any:
        """Call a plugin; what it fails with is said in one message that names it."""
        try:
            return self.settings.registry.call(active, verb, run=run)
        except StageFailed as error:
            raise StageFailed(f"{active.path}: {error}") from error
        except FastServeError:
            raise
        except MemoryError as error:
            raise StageFailed(f"{active.path} ran out of memory") from error
        except Exception as error:
            raise StageFailed(f"{active.path} failed: {type(error).__name__}: {error}") from error

    def seal(
        self, draft: StagedArtifact, model: Artifact, entry: Mapping[str, Any], original: Artifact | None = None
    ) -> Artifact:
        """Write the draft's manifest, measure it, and write the manifest with its measures.

        A candidate is measured on the engine of the ``original``.
        """
        task = self.settings.task
        labels = draft.labels if draft.labels is not None else self.labels(str(entry["stage"]), model)
        manifest = Manifest(
            task=task.name,
            task_options=vars(task.options),
            labels=tuple(labels),
            runtime={"engine": draft.engine, "form": draft.form, "named": draft.engine},
            lineage=(*model.manifest.lineage, entry),
            files=hash_files(draft.folder, leave_out=[MANIFEST]),
        )
        artifact = write_manifest(draft.folder, manifest)
        if self.data is None:
            return artifact
        engines = candidate_engines(artifact, task, self.settings.general.engine, original)
        found = measure_artifact(artifact, self.data, task, self.tell, engines)
        best = next(iter(found))
        runtime = {**manifest.runtime, "engine": best, "measured": found}
        return write_manifest(draft.folder, replace(manifest, runtime=runtime, measures=found[best]))

    # -- telling -------------------------------------------------------------------------------------

    @contextmanager
    def failing(self, active: ActivePlugin, begin: float) -> Iterator[None]:
        """Note a stage that fails, and let the error go on."""
        try:
            yield
        except FastServeError as error:
            seconds = round(time.perf_counter() - begin, 2)
            options = asdict(active.options)
            self.note(
                StageRecord(
                    active.place, active.name, active.version, "failed", seconds, "", "", options, reason=str(error)
                )
            )
            raise

    def note(self, line: StageRecord, judged: bool = True) -> None:
        self.record.stages.append(line)
        if judged and line.artifact and line.status in ("done", "reused") and line.stage != "tune":
            self.record.best = line.artifact
        self.record.write()
        self.tell(StageFinished(line.stage, line.plugin, line.status, line.seconds, line.measures, line.reason))


def lineage_entry(
    active: ActivePlugin, key: Mapping[str, Any], begin: float, costs: Mapping[str, float]
) -> dict[str, Any]:
    """A stage's line in the manifest of what it made."""
    return {
        "stage": active.place,
        "plugin": active.name,
        "version": active.version,
        "options": asdict(active.options),
        "data": key["data"],
        "parent": key["model"],
        "made_of": content_key(key),
        "seconds": round(time.perf_counter() - begin, 2),
        "costs": dict(costs),
    }
