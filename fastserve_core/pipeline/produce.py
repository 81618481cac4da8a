"""Produces one artifact: from the store, or by a plugin, measured and published."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import MANIFEST, Artifact, Manifest, load_artifact, write_manifest
from fastserve_core.artifacts.checkpoint import list_weight_files
from fastserve_core.artifacts.hashing import hash_files
from fastserve_core.artifacts.store import Claim
from fastserve_core.errors import StageError
from fastserve_core.evaluation.calibrate import calibrate_artifact
from fastserve_core.evaluation.gate import Verdict, evaluate_gate, is_decided, models_to_time
from fastserve_core.evaluation.measure import measure_artifact
from fastserve_core.evaluation.paired_timing import measure_speedups
from fastserve_core.evaluation.samples import answer_before
from fastserve_core.events import StageStarted
from fastserve_core.inference.engines import candidate_engines
from fastserve_core.pipeline.cache import content_key, find_equivalent_result, link_result
from fastserve_core.pipeline.context import labels_after, make_compress_context, make_train_context
from fastserve_core.pipeline.keys import stage_key, stage_result_id
from fastserve_core.pipeline.record import StageRecord
from fastserve_core.pipeline.retrain import make_retrainer
from fastserve_core.pipeline.session import Session
from fastserve_core.pipeline.variants import select_variant
from fastserve_core.plugins.registry import ActivePlugin
from fastserve_core.plugins.requests import StagedArtifact


@dataclass(frozen=True)
class Step:
    """One artifact to make.

    Attributes:
        session: The run; its registry holds the plugin with the options of this step.
        active: The plugin.
        model: The model that it starts from.
        original: The model before the first compressor, for compressors.
    """

    session: Session
    active: ActivePlugin[Any]
    model: Artifact
    original: Artifact | None = None

    @property
    def key(self) -> dict[str, Any]:
        """Everything that decides the result."""
        return stage_key(self.session, self.active, self.model, self.original)

    @property
    def result_id(self) -> str:
        """The result's name in the store."""
        return stage_result_id(self.session, self.active, self.model, self.original)

    def find(self) -> Artifact | None:
        """Look up the result in the store, or one with the same bytes that was measured for another engine."""
        store = self.session.store
        folder = store.find(self.result_id)
        return load_artifact(folder) if folder is not None else find_equivalent_result(store, self.active, self.key)


def produce(step: Step, last_good: Artifact | None = None) -> tuple[Artifact, Verdict | None]:
    """Make a step's artifact, or take it from the store.

    Args:
        step: The step.
        last_good: The last model that passed the gate. If given, the artifact is a candidate, and the gate compares
            it with this model and with the step's ``original``.

    Returns:
        The published artifact, and the gate's verdict if it was evaluated.
    """
    session, active = step.session, step.active
    session.emit(StageStarted(active.section, active.name))
    begin = time.perf_counter()
    with session.store.claim(step.result_id, session.warn) as claim:
        status = _publish(step, claim, begin)
    artifact = load_artifact(claim.final)
    verdict = _judge(step, artifact, last_good) if last_good is not None else None
    measures = artifact.measures if verdict is None else {**artifact.measures, "speedup": verdict.speedup}
    reason = "" if verdict is None else verdict.reason
    session.record_stage(
        StageRecord(
            active.section, active.name, active.version, "rejected" if reason else status,
            round(time.perf_counter() - begin, 2), str(artifact.folder), artifact.digest,
            asdict(active.options), measures, reason,
        ),
        is_usable=step.original is None or verdict is not None,
    )  # fmt: skip
    return artifact, verdict


def _publish(step: Step, claim: Claim, begin: float) -> str:
    """Publish the result if the store does not have it; return the stage's status."""
    session = step.session
    if claim.is_published:
        return "reused"
    equivalent = find_equivalent_result(session.store, step.active, step.key)
    if equivalent is not None:
        staged = link_result(equivalent, claim.partial / "copy")
        seal(session, staged, step.model, equivalent.manifest.lineage[-1], step.original)
        claim.publish(staged.folder)
        return "reused"
    with session.recording_failure(step.active, begin):
        claim.publish(_run_plugin(step, claim, begin))
    return "done"


def _run_plugin(step: Step, claim: Claim, begin: float) -> Path:
    """Call the plugin; return the folder of its result, measured and with a manifest."""
    session, active, original = step.session, step.active, step.original
    work = claim.partial / "work"
    work.mkdir(exist_ok=True)
    context = (
        make_train_context(session, work, step.model)
        if original is None
        else make_compress_context(session, work, step.model, original, make_retrainer(session))
    )
    staged: StagedArtifact = session.call_plugin(active, active.section, context)
    entry = _lineage_entry(step, begin, staged.costs)
    if staged.alternatives and original is not None:
        return _seal_best(step, staged, entry, original).folder
    seal(session, staged, step.model, entry, original)
    return staged.folder


def _seal_best(step: Step, staged: StagedArtifact, entry: Mapping[str, Any], original: Artifact) -> Artifact:
    """Measure the variants of a candidate, and return the best; its lineage has the figures of all."""
    session = step.session
    variants = {
        variant.variant: seal(session, variant, step.model, entry, original)
        for variant in (staged, *staged.alternatives)
    }
    best, figures = select_variant(session, variants, original)
    ratios = (f"{1 / other['speed']:.2f} times as fast as {name}" for name, other in figures.items() if name != best)
    session.warn(f"{step.active.name} measured {len(variants)} variants: {best} is published, {', '.join(ratios)}")
    artifact = variants[best]
    lineage = (*step.model.manifest.lineage, {**entry, "variant": best, "variants": figures})
    return write_manifest(artifact.folder, replace(artifact.manifest, lineage=lineage))


def _judge(step: Step, candidate: Artifact, last_good: Artifact) -> Verdict:
    """Time the candidate interleaved with the models that it is compared with, and evaluate the gate."""
    session, original = step.session, step.original
    if original is None:
        raise StageError(f"{step.active.path}: the gate needs a compressed model")
    options, models = session.settings.general.gate, models_to_time(candidate, original, last_good)
    speedups = measure_speedups(
        session.store, models, session.require_data(), session.emit, partial(is_decided, options=options)
    )
    return evaluate_gate(candidate, original, speedups, options, session.settings.task)


def seal(
    session: Session,
    staged: StagedArtifact,
    model: Artifact,
    entry: Mapping[str, Any],
    original: Artifact | None = None,
) -> Artifact:
    """Measure a staged artifact and write its manifest.

    Args:
        session: The run.
        staged: The files.
        model: The model that the stage started from.
        entry: The stage's entry in the lineage.
        original: The model that a candidate is compared with; the candidate is measured on its engine.

    Returns:
        The artifact, not yet published.
    """
    task = session.settings.task
    task.complete_artifact(staged.folder, model.folder)
    labels = staged.labels if staged.labels is not None else labels_after(session, str(entry["stage"]), model)
    manifest = Manifest(
        task=task.name,
        task_options=vars(task.options),
        labels=tuple(labels),
        runtime={"engine": staged.engine, "form": staged.form, "staged_engine": staged.engine},
        lineage=(*model.manifest.lineage, entry),
        files=hash_files(staged.folder, exclude=[MANIFEST]),
    )
    artifact = write_manifest(staged.folder, manifest)
    if session.data is None:
        return artifact
    if task.is_calibrated:
        calibrate_artifact(artifact, session.data, session.emit)
        manifest = replace(manifest, files=hash_files(staged.folder, exclude=[MANIFEST]))
        artifact = write_manifest(staged.folder, manifest)
    engines = candidate_engines(artifact, task, session.settings.general.engine, original)
    measures = measure_artifact(artifact, session.data, task, session.emit, engines)
    best = next(iter(measures))
    samples = measures[best].get("samples")
    if entry["stage"] == "train" and samples and list_weight_files(model.folder):
        for sample, answer in zip(samples, answer_before(model, session.data, task, session.emit), strict=True):
            sample["before"] = answer
    runtime = {**manifest.runtime, "engine": best, "measured": measures}
    return write_manifest(staged.folder, replace(manifest, runtime=runtime, measures=measures[best]))


def _lineage_entry(step: Step, begin: float, costs: Mapping[str, float]) -> dict[str, Any]:
    """Return the stage's entry in the manifest of its result."""
    active, key = step.active, step.key
    return {
        "stage": active.section,
        "plugin": active.name,
        "version": active.version,
        "options": asdict(active.options),
        "data": key["data"],
        "parent": key["model"],
        "content_key": content_key(key),
        "seconds": round(time.perf_counter() - begin, 2),
        "costs": dict(costs),
    }
