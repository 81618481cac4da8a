"""What a run is about to do: which stages the store has already, and which are to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import Artifact, load_artifact
from fastserve_core.artifacts.files import read_json
from fastserve_core.evaluation.gate import is_judged_later, judge, rivals
from fastserve_core.evaluation.paired_timing import find_speedups
from fastserve_core.pipeline.cache import find_twin
from fastserve_core.pipeline.import_model import adopted_name, comparable
from fastserve_core.pipeline.recipe_trial import is_after_training
from fastserve_core.pipeline.settings import option_changes
from fastserve_core.pipeline.tune import tune_name

if TYPE_CHECKING:
    from fastserve_core.pipeline.context import Pipeline
    from fastserve_core.plugins.registry import Active

REUSED, TO_DO = "reused", "to do"


def plan(pipeline: Pipeline) -> list[tuple[str, str, str]]:
    """``(stage, plugin, state)`` in order; what follows a stage that is to do is to do as well."""
    return [(active.place, active.name, state) for active, state in _walk(pipeline)]


def _walk(pipeline: Pipeline) -> list[tuple[Active, str]]:
    registry = pipeline.settings.registry
    states: list[tuple[Active, str]] = []
    model: Artifact | None = pipeline.model
    found: dict[str, Any] | None = {}
    late = is_after_training(registry)
    for active in [] if late else registry.of("tune"):
        found = _found(pipeline, active, model)
        states.append((active, _state(found)))
    model = None if found is None else model
    for active in registry.of("train"):
        with registry.with_options(active, option_changes(found or {}, active.path)) as changed:
            model = _made(pipeline, changed, model)
        states.append((active, _state(model)))
    if registry.of("compress"):
        model = _measured(pipeline, model)
    for active in registry.of("tune") if late else []:
        found = _found(pipeline, active, model)
        states.append((active, _state(found)))
    return states + _compressors(pipeline, None if found is None else model, found or {})


def _found(pipeline: Pipeline, tuner: Active, model: Artifact | None) -> dict[str, Any] | None:
    """What an earlier search found; ``None`` where it is to do."""
    folder = pipeline.store.find(tune_name(pipeline, tuner, model)) if model is not None else None
    found: dict[str, Any] | None = read_json(folder / "tune.json")["found"] if folder is not None else None
    return found


def _measured(pipeline: Pipeline, model: Artifact | None) -> Artifact | None:
    """The model that compressed ones are compared with."""
    if model is None or comparable(pipeline, model):
        return model
    folder = pipeline.store.find(adopted_name(pipeline, model))
    return load_artifact(folder) if folder is not None else None


def _compressors(pipeline: Pipeline, model: Artifact | None, found: Mapping[str, Any]) -> list[tuple[Active, str]]:
    registry = pipeline.settings.registry
    chosen = registry.of("compress")
    original = good = model
    half_done = False
    states = []
    for number, active in enumerate(chosen):
        with registry.with_options(active, option_changes(found, active.path)) as changed:
            made = _made(pipeline, changed, model, original)
        states.append((active, _state(made)))
        half_done = is_judged_later(active, chosen[number + 1 :], half_done)
        if made is None or original is None:
            model = None
        elif half_done:
            model = made
        else:
            model = good = _judged(pipeline, made, original, good)
    return states


def _judged(pipeline: Pipeline, made: Artifact, original: Artifact, good: Artifact | None) -> Artifact | None:
    """The model that the chain goes on from; ``None`` where the candidate has not been timed against the others."""
    if good is None or pipeline.data is None:
        return None
    found = find_speedups(pipeline.store, rivals(made, original, good), pipeline.data)
    if found is None:
        return None
    settings = pipeline.settings
    return good if judge(made, original, found, settings.general.gate, settings.task).reason else made


def _made(
    pipeline: Pipeline, active: Active, model: Artifact | None, original: Artifact | None = None
) -> Artifact | None:
    if model is None:
        return None
    folder = pipeline.store.find(pipeline.name(active, model, original))
    if folder is None:
        return find_twin(pipeline.store, active, pipeline.key(active, model, original))
    return load_artifact(folder)


def _state(result: object) -> str:
    return TO_DO if result is None else REUSED
