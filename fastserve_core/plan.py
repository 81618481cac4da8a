"""What a run is about to do: which stages the store has already, and which are to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_core.adopting import adopted_name, comparable
from fastserve_core.artifact import Artifact, load_artifact
from fastserve_core.files import read_json
from fastserve_core.gate import is_judged_later, judge, rivals
from fastserve_core.pairs import find_speedups
from fastserve_core.settings import option_changes
from fastserve_core.twins import find_twin

if TYPE_CHECKING:
    from fastserve_core.pipeline import Pipeline
    from fastserve_core.registry import Active

REUSED, TO_DO = "reused", "to do"


def plan(pipeline: Pipeline) -> list[tuple[str, str, str]]:
    """``(stage, plugin, state)`` in order; what follows a stage that is to do is to do as well."""
    return [(active.place, active.name, state) for active, state in _walk(pipeline)]


def _walk(pipeline: Pipeline) -> list[tuple[Active, str]]:
    registry, store = pipeline.settings.registry, pipeline.store
    states: list[tuple[Active, str]] = []
    model: Artifact | None = pipeline.model
    found: dict[str, Any] = {}
    for active in registry.of("tune"):
        folder = store.find(pipeline.tune_name(active, *registry.of("train")))
        if folder is None:
            model = None
        else:
            found = read_json(folder / "tune.json")["found"]
        states.append((active, _state(model)))
    for active in registry.of("train"):
        with registry.with_options(active, option_changes(found, active.path)) as changed:
            model = _made(pipeline, changed, model)
        states.append((active, _state(model)))
    return states + _compressors(pipeline, model)


def _compressors(pipeline: Pipeline, model: Artifact | None) -> list[tuple[Active, str]]:
    chosen = pipeline.settings.registry.of("compress")
    if chosen and model is not None and not comparable(pipeline, model):
        folder = pipeline.store.find(adopted_name(pipeline, model))
        model = load_artifact(folder) if folder is not None else None
    original, half_done = model, False
    good = original
    states = []
    for number, active in enumerate(chosen):
        made = _made(pipeline, active, model, original)
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
