"""What a run is about to do: which stages the store has already, and which are to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import Artifact, load_artifact
from fastserve_core.artifacts.files import read_json
from fastserve_core.evaluation.gate import baselines, defers_gate, evaluate_gate
from fastserve_core.evaluation.paired_timing import cached_speedups
from fastserve_core.pipeline.cache import find_equivalent_result
from fastserve_core.pipeline.import_model import has_measurements_for, imported_artifact_key
from fastserve_core.pipeline.recipe_trial import searches_compressors_only
from fastserve_core.pipeline.settings import option_changes
from fastserve_core.pipeline.tune import tune_name

if TYPE_CHECKING:
    from fastserve_core.pipeline.context import Pipeline
    from fastserve_core.plugins.registry import ActivePlugin

REUSED, TO_DO = "reused", "to do"


def plan_run(pipeline: Pipeline) -> list[tuple[str, str, str]]:
    """``(stage, plugin, state)`` in order; what follows a stage that is to do is to do as well."""
    return [(active.place, active.name, state) for active, state in _plan_stages(pipeline)]


def _plan_stages(pipeline: Pipeline) -> list[tuple[ActivePlugin, str]]:
    registry = pipeline.settings.registry
    states: list[tuple[ActivePlugin, str]] = []
    model: Artifact | None = pipeline.model
    found: dict[str, Any] | None = {}
    late = searches_compressors_only(registry)
    for active in [] if late else registry.plugins_for("tune"):
        found = _cached_search(pipeline, active, model)
        states.append((active, _state(found)))
    model = None if found is None else model
    for active in registry.plugins_for("train"):
        with registry.override_options(active, option_changes(found or {}, active.path)) as changed:
            model = _cached_artifact(pipeline, changed, model)
        states.append((active, _state(model)))
    if registry.plugins_for("compress"):
        model = _cached_baseline(pipeline, model)
    for active in registry.plugins_for("tune") if late else []:
        found = _cached_search(pipeline, active, model)
        states.append((active, _state(found)))
    return states + _compressors(pipeline, None if found is None else model, found or {})


def _cached_search(pipeline: Pipeline, tuner: ActivePlugin, model: Artifact | None) -> dict[str, Any] | None:
    """What an earlier search found; ``None`` where it is to do."""
    folder = pipeline.store.find(tune_name(pipeline, tuner, model)) if model is not None else None
    found: dict[str, Any] | None = read_json(folder / "tune.json")["found"] if folder is not None else None
    return found


def _cached_baseline(pipeline: Pipeline, model: Artifact | None) -> Artifact | None:
    """The model that compressed ones are compared with."""
    if model is None or has_measurements_for(pipeline, model):
        return model
    folder = pipeline.store.find(imported_artifact_key(pipeline, model))
    return load_artifact(folder) if folder is not None else None


def _compressors(
    pipeline: Pipeline, model: Artifact | None, found: Mapping[str, Any]
) -> list[tuple[ActivePlugin, str]]:
    registry = pipeline.settings.registry
    chosen = registry.plugins_for("compress")
    original = good = model
    half_done = False
    states = []
    for number, active in enumerate(chosen):
        with registry.override_options(active, option_changes(found, active.path)) as changed:
            made = _cached_artifact(pipeline, changed, model, original)
        states.append((active, _state(made)))
        half_done = defers_gate(active, chosen[number + 1 :], half_done)
        if made is None or original is None:
            model = None
        elif half_done:
            model = made
        else:
            model = good = _cached_verdict(pipeline, made, original, good)
    return states


def _cached_verdict(pipeline: Pipeline, made: Artifact, original: Artifact, good: Artifact | None) -> Artifact | None:
    """The model that the chain goes on from; ``None`` where the candidate has not been timed against the others."""
    if good is None or pipeline.data is None:
        return None
    found = cached_speedups(pipeline.store, baselines(made, original, good), pipeline.data)
    if found is None:
        return None
    settings = pipeline.settings
    return good if evaluate_gate(made, original, found, settings.general.gate, settings.task).reason else made


def _cached_artifact(
    pipeline: Pipeline, active: ActivePlugin, model: Artifact | None, original: Artifact | None = None
) -> Artifact | None:
    if model is None:
        return None
    folder = pipeline.store.find(pipeline.name(active, model, original))
    if folder is None:
        return find_equivalent_result(pipeline.store, active, pipeline.key(active, model, original))
    return load_artifact(folder)


def _state(result: object) -> str:
    return TO_DO if result is None else REUSED
