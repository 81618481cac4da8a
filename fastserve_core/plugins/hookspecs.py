"""The hook specifications: the verbs that a plugin may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from fastserve_core.events import Event, Preflight
    from fastserve_core.plugins.contexts import CompressContext, ServeContext, TrainContext, TuneContext
    from fastserve_core.plugins.requests import RunningServer, StagedArtifact

API_VERSION = 2
"""Increased with every change of a verb that breaks existing plugins."""

PROJECT_NAME = "fastserve"
STAGES = ("tune", "train", "compress", "serve")
REPEATABLE_STAGES = frozenset({"compress"})
OBSERVE = "observe"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


class Hooks:
    """The verb of each stage; an observer may wrap any verb (``hookimpl(wrapper=True)``)."""

    @hookspec(firstresult=True)
    def tune(self, run: TuneContext) -> dict[str, Any] | None:
        """Search options with ``run.run_trial``.

        Args:
            run: The context.

        Returns:
            The best options by path, such as ``train.torch_ddp.lr``.
        """

    @hookspec(firstresult=True)
    def train(self, run: TrainContext) -> StagedArtifact | None:
        """Train ``run.model`` on ``run.data`` within ``run.budget``.

        Args:
            run: The context.

        Returns:
            The trained model, not yet published.
        """

    @hookspec(firstresult=True)
    def preflight(self, run: TrainContext) -> Preflight | None:
        """Estimate memory and time of ``train`` with the same context; optional, and quick.

        Args:
            run: The context.

        Returns:
            The estimate, or ``None``.
        """

    @hookspec(firstresult=True)
    def compress(self, run: CompressContext) -> StagedArtifact | None:
        """Make ``run.model`` smaller or faster.

        Args:
            run: The context.

        Returns:
            The compressed model, not yet published.
        """

    @hookspec(firstresult=True)
    def serve(self, run: ServeContext) -> RunningServer | None:
        """Start a server for ``run.model``.

        Args:
            run: The context.

        Returns:
            The running server.
        """

    @hookspec
    def observe(self, event: Event) -> None:
        """Receive an event of the run.

        Args:
            event: A stage, step, metric, trial, warning or another event of ``fastserve_core.events``.
        """
