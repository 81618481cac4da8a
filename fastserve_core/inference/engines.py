"""Which engine a model runs on: of those that can, the one that is fastest on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastserve_core.artifacts.artifact import COMPILED, Artifact
from fastserve_core.entry_points import all_entry_points, load_entry_point, missing_packages
from fastserve_core.errors import InvalidPlan, MissingPackage, UnknownName
from fastserve_core.events import Event, WarningRaised

if TYPE_CHECKING:
    from fastserve_core.inference.engine import Engine
    from fastserve_core.tasks.generation import DecodeEngine
    from fastserve_core.tasks.task import Task

log = logging.getLogger("fastserve")

GROUP = "fastserve.engines"
AUTO, BASELINE_ENGINE = "auto", "torch"
"""The option that leaves the choice to a measurement, and the engine that the others have to agree with."""
TOLERANCE = 0.01
"""How much of the objective an engine may lose against the reference: bf16 turns a few near answers."""


def check_engine(name: str) -> None:
    """Raise ``UnknownName`` for an engine that nobody provides, ``MissingPackage`` where its packages are missing."""
    known = {one.name for one in all_entry_points().select(group=GROUP)}
    if name != AUTO and name not in known:
        raise UnknownName("engine", name, {AUTO, *known})
    if name != AUTO and (missing := missing_packages(_load_kind(name).requires)):
        raise _install_error(name, missing)


def check_generates(name: str, task: Task) -> None:
    """Raise ``InvalidPlan`` for an engine that cannot run a task that generates text."""
    if name != AUTO and task.is_generative and not _load_kind(name).generates:
        raise InvalidPlan(
            f"the engine '{name}' cannot generate text, which {task.name} does: leave engine=auto or torch"
        )


def candidate_engines(artifact: Artifact, task: Task, wanted: str = AUTO, like: Artifact | None = None) -> list[str]:
    """The engines to measure the artifact on: its own, the wanted one, or with ``auto`` all that can run it.

    The reference comes first. Files that a compressor made for an engine run on that one alone, and so do weights
    for which a plugin names an engine of its own. A candidate is measured on the engine of the model that it is
    compared with, ``like``.
    """
    if artifact.form == COMPILED or (wanted == AUTO and artifact.engine != BASELINE_ENGINE):
        return [artifact.engine]
    if wanted != AUTO:
        return [wanted]
    names = {one.name for one in all_entry_points().select(group=GROUP)} - {BASELINE_ENGINE}
    kinds = {name: _load_kind(name) for name in sorted(names)}
    found = [BASELINE_ENGINE, *(name for name, kind in kinds.items() if _supports(kind, task))]
    return [like.engine] if like is not None and like.engine in found else found


def _supports(kind: type[Engine], task: Task) -> bool:
    """Whether an engine is installed and runs Hugging Face weights for the task."""
    can_answer = kind.generates or not task.is_generative
    return kind.takes_weights and can_answer and not missing_packages(kind.requires)


def preload_modules_of(name: str) -> tuple[str, ...]:
    """The slow modules that an engine imports, if it says; see ``processes.child.call``."""
    return _load_kind(name).imports


def fastest(
    found: Mapping[str, Mapping[str, Any]],
    objective: Callable[[Mapping[str, float]], float],
    tell: Callable[[Event], None],
) -> str:
    """The engine with the most throughput for its latency, of those that answer as well as the reference."""
    if BASELINE_ENGINE in found:
        least = objective(found[BASELINE_ENGINE]["quality_validation"]) - TOLERANCE
        wrong = [name for name, one in found.items() if not objective(one["quality_validation"]) >= least]
        for name in wrong:
            tell(WarningRaised(f"the engine {name} answers worse than {BASELINE_ENGINE} and is not used"))
        found = {name: one for name, one in found.items() if name not in wrong}
    return max(found, key=lambda name: float(found[name]["throughput_per_s"] / found[name]["latency_ms_p50"]))


def load_engine(artifact: Artifact, threads: int, name: str | None = None) -> Engine:
    """The engine of that name, else the artifact's own. Use it in the thread that calls this.

    Hugging Face weights run on torch, and a warning is logged, where the engine that was fastest when they were made
    is not installed here. Raises ``MissingPackage`` for files that only such an engine reads.
    """
    return _kind(artifact, name or artifact.engine)(artifact.folder, threads)


def supports_token_streaming(artifact: Artifact) -> bool:
    """Whether the artifact's engine knows how to write texts token by token."""
    return _kind(artifact, artifact.engine).decodes


def load_decoder(artifact: Artifact, threads: int, memory: int) -> DecodeEngine:
    """The artifact's engine as one that writes many texts token by token, ``memory`` bytes for keys and values.

    Chosen and refused as by ``load_engine``; raises ``InvalidPlan`` for an engine that cannot.
    """
    kind = _kind(artifact, artifact.engine)
    if not kind.decodes:
        raise InvalidPlan(f"the engine '{artifact.engine}' cannot write texts token by token")
    return kind.make_decoder(artifact.folder, threads, memory)


def _load_kind(name: str) -> type[Engine]:
    kind: type[Engine] = load_entry_point(GROUP, name)
    return kind


def _kind(artifact: Artifact, wanted: str) -> type[Engine]:
    kind = _load_kind(wanted)
    if missing := missing_packages(kind.requires):
        if artifact.form == COMPILED or wanted == BASELINE_ENGINE:
            raise _install_error(wanted, missing)
        log.warning(
            "the engine %s needs %s: %s runs on %s", wanted, ", ".join(missing), artifact.folder, BASELINE_ENGINE
        )
        kind = _load_kind(BASELINE_ENGINE)
    return kind


def _install_error(engine: str, packages: list[str]) -> MissingPackage:
    install = _load_kind(engine).install
    return MissingPackage(f"the engine '{engine}' needs {', '.join(packages)}: pip install '{install}'")
