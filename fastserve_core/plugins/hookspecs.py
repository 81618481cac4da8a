"""The verbs that a plugin may implement: one a stage, and one to listen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from fastserve_core.events import Event, Preflight
    from fastserve_core.plugins.contexts import CompressContext, ServeContext, TrainContext, TuneContext
    from fastserve_core.plugins.requests import RunningServer, StagedArtifact

API_VERSION = 2
"""Raised when a verb changes in a way that breaks an existing plugin."""

PROJECT_NAME = "fastserve"
STAGES = ("tune", "train", "compress", "serve")
REPEATABLE_STAGES = frozenset({"compress"})
OBSERVE = "observe"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


class Hooks:
    """What each stage asks of its plugin; a wrapper (``hookimpl(wrapper=True)``) may surround any verb."""

    @hookspec(firstresult=True)
    def tune(self, run: TuneContext) -> dict[str, Any] | None:
        """Search with ``run.attempt``; return the best options by path, e.g. ``train.torch_ddp.lr``.

        What it searches are the trainer's options, or what its attribute ``searches`` names: paths of the trainer's
        and the compressors' options. ``conditions`` names further ones that it looks at.
        """

    @hookspec(firstresult=True)
    def train(self, run: TrainContext) -> StagedArtifact | None:
        """Train ``run.model`` on ``run.data`` for ``run.budget``; return the draft of the trained model."""

    @hookspec(firstresult=True)
    def preflight(self, run: TrainContext) -> Preflight | None:
        """Estimate what ``train`` with the same run will take; optional, quick, for trainers."""

    @hookspec(firstresult=True)
    def compress(self, run: CompressContext) -> StagedArtifact | None:
        """Make ``run.model`` smaller or faster; return the draft of the new one."""

    @hookspec(firstresult=True)
    def serve(self, run: ServeContext) -> RunningServer | None:
        """Start answering requests with ``run.model``; return the running server."""

    @hookspec
    def observe(self, event: Event) -> None:
        """Be told what happens: stages, steps, metrics, trials, candidates, warnings."""
