"""A run: an artifact is carried through the stages; what the store has already is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fastserve_core.artifact import MANIFEST, TRAINABLE, Artifact, Manifest, load_artifact, write_manifest
from fastserve_core.data import Prepared
from fastserve_core.errors import BadModel, FastServeError, StageFailed
from fastserve_core.events import Event, Metric, StageFinished, StageStarted, Warned
from fastserve_core.files import copy_tree, read_json, write_json
from fastserve_core.gate import refusal
from fastserve_core.hashing import hash_files, stable_hash
from fastserve_core.hookspecs import API_VERSION
from fastserve_core.measure import measure
from fastserve_core.predictor import load_task
from fastserve_core.record import Record, StageRecord
from fastserve_core.registry import Active
from fastserve_core.run import Attempt, Draft, Run, Trial
from fastserve_core.settings import Settings, option_changes
from fastserve_core.store import Claim, Store, result_name
from fastserve_core.task import Task
from fastserve_core.threads import threads_per_process


@dataclass
class Pipeline:
    """The stages of one run, each of which may be called by itself (the Python object does)."""

    settings: Settings
    store: Store
    data: Prepared | None
    model: Artifact
    record: Record

    def tell(self, event: Event) -> None:
        self.settings.registry.tell(event)

    def warn(self, message: str) -> None:
        self.tell(Warned(message))

    # -- the stages ----------------------------------------------------------------------------------

    def tune(self) -> Mapping[str, Any]:
        """Search the trainer's options; returns what was found, by path, and has the trainer use it."""
        (active,) = self.settings.registry.of("tune")
        (trainer,) = self.settings.registry.of("train")
        key = self._key(active, self.model) | {"trainer": self._key(trainer, self.model), "fixed": self._fixed(trainer)}
        name = result_name("tune", active.name, stable_hash(key))
        self.tell(StageStarted("tune", active.name))
        begin = time.perf_counter()
        with self.store.claim(name, self.warn) as claim:
            status = "reused" if claim.published else "done"
            if not claim.published:
                with self._failing(active, begin):
                    self._search(active, trainer, claim)
            result = read_json(claim.final / "tune.json")
        seconds = time.perf_counter() - begin
        found: dict[str, Any] = result["found"]
        self._note(
            StageRecord(
                "tune", active.name, active.version, status, round(seconds, 2), str(claim.final),
                result["digest"], asdict(active.options), {}, found=found,
            )
        )  # fmt: skip
        return found

    def train(self, found: Mapping[str, Any] | None = None) -> Artifact:
        """Train the model, with the options that a tuner found where the user did not set them."""
        (active,) = self.settings.registry.of("train")
        changes = option_changes(found or {}, active.path)
        with self.settings.registry.with_options(active, changes) as trainer:
            self.model = self._make(trainer, self.model)
        return self.model

    def compress(self) -> Artifact:
        """Every compressor in turn; a candidate that the gate refuses is kept in the store but not used."""
        if not self.model.measures:
            self.model = self._adopt(self.model)
        reference = self.model.measures
        for active in self.settings.registry.of("compress"):
            if self.model.form != TRAINABLE:
                raise BadModel(f"'{active.name}' needs trainable weights, but {self.model.folder} is an engine's file")
            candidate = self._make(active, self.model, reference)
            if self.record.stages[-1].status != "rejected":
                self.model = candidate
        return self.model

    def run_for(self, folder: Path, model: Artifact, **more: Any) -> Run:
        """What a verb is given."""
        return Run(
            model=model,
            task=self.task(model),
            folder=folder,
            seed=self.settings.general.seed,
            threads=threads_per_process(),
            emit=self.tell,
            source=self.data,
            trust_remote_code=self.settings.model.trust_remote_code,
            **more,
        )

    def task(self, model: Artifact) -> Task:
        """The task with the labels that the data has, or else the model."""
        labels = self.data.labels if self.data is not None else model.manifest.labels
        return load_task(self.settings.task.name, vars(self.settings.task.options), labels)

    # -- making one result ---------------------------------------------------------------------------

    def _key(self, active: Active, model: Artifact) -> dict[str, Any]:
        """Everything that decides a stage's result."""
        left_out = getattr(active.plugin, "not_in_key", ())
        options = {name: value for name, value in asdict(active.options).items() if name not in left_out}
        return {
            "plugin": [active.place, active.name, active.version, API_VERSION],
            "options": options,
            "model": model.digest,
            "task": [self.settings.task.name, vars(self.settings.task.options)],
            "data": self.data.fingerprint if self.data is not None else "",
            "seed": self.settings.general.seed,
        }

    def _fixed(self, trainer: Active) -> list[str]:
        """The trainer's options that the user set; a tuner leaves them alone."""
        return sorted(path for path in self.settings.fixed if path.startswith(trainer.path + "."))

    def _make(self, active: Active, model: Artifact, reference: Mapping[str, Any] | None = None) -> Artifact:
        """One artifact, from the store or made, measured and published."""
        key = self._key(active, model)
        name = result_name(active.place, active.name, stable_hash(key))
        self.tell(StageStarted(active.place, active.name))
        begin = time.perf_counter()
        with self.store.claim(name, self.warn) as claim:
            status = "reused" if claim.published else "done"
            if not claim.published:
                work = claim.partial / "work"
                work.mkdir(exist_ok=True)
                with self._failing(active, begin):
                    draft = self._verb(active, active.place, self.run_for(work, model))
                    self._seal(draft, model, self._lineage(active, key, begin))
                    claim.publish(draft.folder)
        artifact = load_artifact(claim.final)
        reason = (
            refusal(artifact.measures, reference, self.settings.general.gate, self.task(model)) if reference else None
        )
        self._note(
            StageRecord(
                active.place, active.name, active.version, "rejected" if reason else status,
                round(time.perf_counter() - begin, 2), str(artifact.folder), artifact.digest,
                asdict(active.options), artifact.measures, reason or "",
            )
        )  # fmt: skip
        return artifact

    def _verb(self, active: Active, verb: str, run: Run) -> Any:
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

    def _lineage(self, active: Active, key: Mapping[str, Any], begin: float) -> dict[str, Any]:
        return {
            "stage": active.place,
            "plugin": active.name,
            "version": active.version,
            "options": asdict(active.options),
            "data": key["data"],
            "parent": key["model"],
            "seconds": round(time.perf_counter() - begin, 2),
        }

    def _seal(self, draft: Draft, model: Artifact, entry: Mapping[str, Any]) -> Artifact:
        """Write the draft's manifest, measure it, and write the manifest with its measures."""
        task, data = self.task(model), self.data
        files = hash_files(draft.folder, leave_out=[MANIFEST])
        manifest = Manifest(
            task=task.name,
            task_options=vars(task.options),
            labels=tuple(draft.labels if draft.labels is not None else task.labels),
            runtime={"engine": draft.engine, "form": draft.form},
            lineage=(*model.manifest.lineage, entry),
            files=files,
        )
        artifact = write_manifest(draft.folder, manifest)
        if data is None:
            return artifact
        return write_manifest(draft.folder, replace(manifest, measures=measure(artifact, data, self.tell)))

    def _adopt(self, model: Artifact) -> Artifact:
        """Take a model that was trained elsewhere into the store, measured, as what compressors start from."""
        task = self.task(model)
        self._check_adoptable(model, task)
        with self.store.claim(
            result_name("model", "checkpoint", stable_hash(self._adoption(model))), self.warn
        ) as claim:
            begin = time.perf_counter()
            status = "reused" if claim.published else "done"
            if not claim.published:
                self.tell(StageStarted("model", "checkpoint"))
                copy_tree(model.folder, claim.partial / "draft")
                labels = model.manifest.labels
                draft = Draft(claim.partial / "draft", model.engine, model.form, labels)
                # the labels' numbers are the model's own, so the data's order does not count
                self._seal(draft, model, {"stage": "adopt", "parent": model.digest})
                claim.publish(draft.folder)
        artifact = load_artifact(claim.final)
        seconds = round(time.perf_counter() - begin, 2)
        self._note(
            StageRecord(
                "model", "checkpoint", "", status, seconds, str(claim.final), artifact.digest, {}, artifact.measures
            )
        )
        return artifact

    def _adoption(self, model: Artifact) -> list[Any]:
        data = self.data.fingerprint if self.data is not None else ""
        return [model.digest, data, self.settings.task.name, vars(self.settings.task.options)]

    def _check_adoptable(self, model: Artifact, task: Task) -> None:
        classes = read_json(model.folder / "config.json").get("architectures") or ["?"]
        if not any(str(one).endswith(task.head) for one in classes):
            raise BadModel(
                f"{model.folder} is a {classes[0]}, without a trained head for {task.name}: "
                "train it first, e.g. with +plugin=[torch_ddp,…]"
            )
        strangers = sorted(set(task.labels) - set(model.manifest.labels))
        if strangers:
            raise BadModel(
                f"the data's label '{strangers[0]}' is none of the model's: {', '.join(model.manifest.labels)}"
            )

    # -- tuning --------------------------------------------------------------------------------------

    def _search(self, active: Active, trainer: Active, claim: Claim) -> None:
        options = {f"{trainer.path}.{name}": value for name, value in asdict(trainer.options).items()}
        work = claim.partial / "work"
        work.mkdir(exist_ok=True)
        run = self.run_for(
            work,
            self.model,
            trainer=options,
            fixed=frozenset(self._fixed(trainer)),
            attempting=self._attempting(trainer, work),
        )
        found = self._verb(active, "tune", run)
        result = run.fresh_folder("result")
        for log in sorted(work.glob("*.jsonl")):
            (result / log.name).write_bytes(log.read_bytes())
        write_json(result / "tune.json", {"found": found, "digest": stable_hash(found)})
        claim.publish(result)

    def _attempting(self, trainer: Active, work: Path) -> Callable[[Trial], Attempt]:
        def attempt(trial: Trial) -> Attempt:
            folder = work / f"trial-{trial.number:04d}"
            folder.mkdir(exist_ok=True)
            begin = time.perf_counter()
            with self.settings.registry.with_options(trainer, option_changes(trial.options, trainer.path)) as changed:
                run = replace(self.run_for(folder, self.model), budget=trial.budget, emit=self._quieter())
                draft: Draft = self._verb(changed, "train", run)
            if not draft.scores:
                raise StageFailed(f"{trainer.path} gave no validation scores, which a tuner needs")
            seconds = round(time.perf_counter() - begin, 2)
            return Attempt(run.task.objective(draft.scores), dict(draft.scores), draft.steps, seconds)

        return attempt

    def _quieter(self) -> Callable[[Event], None]:
        """A trial's steps are shown as the trial's, so its metrics and stages are not passed on."""

        def emit(event: Event) -> None:
            if not isinstance(event, Metric):
                self.tell(event)

        return emit

    # -- telling -------------------------------------------------------------------------------------

    @contextmanager
    def _failing(self, active: Active, begin: float) -> Iterator[None]:
        """Note a stage that fails, and let the error go on."""
        try:
            yield
        except FastServeError as error:
            seconds = round(time.perf_counter() - begin, 2)
            options = asdict(active.options)
            self._note(
                StageRecord(
                    active.place, active.name, active.version, "failed", seconds, "", "", options, reason=str(error)
                )
            )
            raise

    def _note(self, line: StageRecord) -> None:
        self.record.stages.append(line)
        if line.artifact and line.status in ("done", "reused") and line.stage != "tune":
            self.record.best = line.artifact
        self.record.write()
        self.tell(StageFinished(line.stage, line.plugin, line.status, line.seconds, line.measures, line.reason))
