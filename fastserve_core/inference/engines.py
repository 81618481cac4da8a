"""The choice of the engine that runs a model: the fastest one on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import COMPILED, Artifact
from fastserve_core.entry_points import all_entry_points, load_entry_point, missing_packages
from fastserve_core.errors import MissingPackageError, PlanError, PluginError, UnknownNameError
from fastserve_core.events import Event, WarningRaised
from fastserve_core.inference.engine import Engine
from fastserve_core.tasks.load import load_task

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_core.tasks.generation import DecodeEngine
    from fastserve_core.tasks.task import Task

log = logging.getLogger("fastserve")

GROUP = "fastserve.engines"
AUTO, BASELINE_ENGINE = "auto", "torch"
"""The option for the fastest engine, and the engine whose quality the others must reach."""
QUALITY_TOLERANCE = 0.01
"""The allowed loss in the objective relative to the baseline engine: bf16 changes a few close predictions."""


def check_engine(name: str) -> None:
    """Check the option ``engine``.

    Raises:
        UnknownNameError: No installed package provides the engine.
        MissingPackageError: A package that it requires is not installed.
    """
    known = {entry_point.name for entry_point in all_entry_points().select(group=GROUP)}
    if name != AUTO and name not in known:
        raise UnknownNameError("engine", name, {AUTO, *known})
    if name != AUTO and (missing := missing_packages(_load_class(name).requires)):
        raise _install_error(name, missing)


def check_generation(name: str, task: Task) -> None:
    """Check that an engine can run the task, if the task generates text.

    Raises:
        PlanError: It cannot.
    """
    if name != AUTO and task.is_generative and not _load_class(name).generates:
        raise PlanError(
            f"the engine '{name}' cannot generate text, which {task.name} needs: use engine=auto or engine=torch"
        )


def candidate_engines(
    artifact: Artifact, task: Task, option: str = AUTO, baseline: Artifact | None = None
) -> list[str]:
    """List the engines to measure an artifact with.

    Args:
        artifact: The artifact. Files for an engine run on that engine only; so do weights for which a plugin named
            another engine than the baseline, if the option is ``auto``.
        task: The task.
        option: The option ``engine``: a name, or ``auto`` for all engines that can run the artifact.
        baseline: The model that a candidate is compared with; the candidate is measured on the same engine.

    Returns:
        The names, the baseline engine first.
    """
    if artifact.form == COMPILED or (option == AUTO and artifact.engine != BASELINE_ENGINE):
        return [artifact.engine]
    if option != AUTO:
        return [option]
    names = {entry_point.name for entry_point in all_entry_points().select(group=GROUP)} - {BASELINE_ENGINE}
    engines = {name: _load_class(name) for name in sorted(names)}
    supported = [BASELINE_ENGINE, *(name for name, engine in engines.items() if _is_supported(engine, task))]
    return [baseline.engine] if baseline is not None and baseline.engine in supported else supported


def _is_supported(engine: type[Engine], task: Task) -> bool:
    """Return whether an engine is installed and runs Hugging Face weights for the task."""
    runs_task = engine.generates or not task.is_generative
    return engine.takes_weights and runs_task and not missing_packages(engine.requires)


def preload_modules(name: str) -> tuple[str, ...]:
    """Return the slow modules that an engine imports, for the argument ``imports`` of ``run_in_child``."""
    return _load_class(name).imports


def select_fastest(
    measures: Mapping[str, Mapping[str, Any]],
    objective: Callable[[Mapping[str, float]], float],
    emit: Callable[[Event], None],
) -> str:
    """Select the engine with the highest throughput divided by latency.

    Args:
        measures: The measures by engine. Engines of lower quality than the baseline engine are not selected.
        objective: The task's objective.
        emit: Called with a warning for each such engine.

    Returns:
        The engine's name.
    """
    if BASELINE_ENGINE in measures:
        minimum = objective(measures[BASELINE_ENGINE]["quality_validation"]) - QUALITY_TOLERANCE
        qualities = {name: objective(values["quality_validation"]) for name, values in measures.items()}
        inaccurate = [name for name, quality in qualities.items() if not quality >= minimum]
        for name in inaccurate:
            emit(WarningRaised(f"the engine {name} has lower quality than {BASELINE_ENGINE} and is not used"))
        measures = {name: values for name, values in measures.items() if name not in inaccurate}
    return max(measures, key=lambda name: float(measures[name]["throughput_per_s"] / measures[name]["latency_ms_p50"]))


def load_engine(artifact: Artifact, threads: int, name: str | None = None) -> Engine:
    """Load an artifact with an engine. Use the engine in the thread that calls this function.

    If the engine of Hugging Face weights is not installed, the baseline engine runs them, with a warning in the log.

    Args:
        artifact: The artifact.
        threads: The number of threads of one pass.
        name: The engine; by default the artifact's own.

    Raises:
        MissingPackageError: The engine is not installed, and no other one reads the files.
    """
    manifest = artifact.manifest
    outputs = load_task(manifest.task, manifest.task_options, manifest.labels).outputs
    return _resolve_class(artifact, name or artifact.engine)(artifact.folder, threads, outputs)


def supports_token_streaming(artifact: Artifact) -> bool:
    """Return whether the artifact's engine can decode token by token."""
    return _resolve_class(artifact, artifact.engine).decodes


def load_decoder(
    artifact: Artifact, threads: int, memory: int, adapters: Mapping[str, Path] | None = None
) -> DecodeEngine:
    """Load an artifact for decoding many texts token by token.

    Args:
        artifact: The artifact.
        threads: The number of threads of one pass.
        memory: Bytes for keys and values.
        adapters: Folders of adapters by name.

    Raises:
        PlanError: The artifact's engine does not support it.
        ArtifactError: An adapter is damaged or belongs to another base.
        MissingPackageError: The engine is not installed, and no other one reads the files.
    """
    engine = _resolve_class(artifact, artifact.engine)
    if not engine.decodes:
        raise PlanError(f"the engine '{artifact.engine}' cannot decode token by token")
    if not adapters:
        return engine.make_decoder(artifact.folder, threads, memory)
    if not engine.takes_adapters:
        raise PlanError(f"the engine '{artifact.engine}' cannot switch adapters; these can: {_adapter_engines()}")
    return engine.make_decoder(artifact.folder, threads, memory, adapters)


def _adapter_engines() -> str:
    names = sorted(entry_point.name for entry_point in all_entry_points().select(group=GROUP))
    return ", ".join(name for name in names if _load_class(name).takes_adapters)


def _load_class(name: str) -> type[Engine]:
    engine: type[Engine] = load_entry_point(GROUP, name)
    if not issubclass(engine, Engine):
        raise PluginError(f"the engine '{name}' must derive from fastserve_core.inference.Engine")
    return engine


def _resolve_class(artifact: Artifact, name: str) -> type[Engine]:
    engine = _load_class(name)
    if missing := missing_packages(engine.requires):
        if artifact.form == COMPILED or name == BASELINE_ENGINE:
            raise _install_error(name, missing)
        log.warning("the engine %s needs %s: %s runs on %s", name, ", ".join(missing), artifact.folder, BASELINE_ENGINE)
        engine = _load_class(BASELINE_ENGINE)
    return engine


def _install_error(engine: str, packages: list[str]) -> MissingPackageError:
    install = _load_class(engine).install
    return MissingPackageError(f"the engine '{engine}' needs {', '.join(packages)}: pip install '{install}'")
