"""Shadow and canary deployment of a candidate beside the served model.

A shadow candidate receives requests after the model has answered them, and its answers are only compared. A canary
answers its share of the requests, and the model receives them afterwards; requests that the canary fails to answer go
to the model. In both modes, a candidate whose answers differ too often or that is too slow is rolled back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from fastserve_core.errors import FastServeError, OptionError
from fastserve_server.canary_analysis import CanaryAnalysis
from fastserve_server.metrics import Metrics
from fastserve_server.options import CANARY, ServerOptions
from fastserve_server.requests import Answers, EngineError, QueueFullError, UnavailableError
from fastserve_server.schemas import CandidateResponse
from fastserve_server.service import Service, refreeze

MAX_COMPARISONS = 64
"""Maximum number of concurrent comparisons; requests beyond are not compared, so that memory stays bounded."""


class Candidate:
    """A candidate beside the first model.

    Args:
        service: The candidate's own service.
        options: Options of the server.
        metrics: The server's metrics.

    Raises:
        OptionError: The task is generative; generated texts are not compared.
    """

    def __init__(self, service: Service, options: ServerOptions, metrics: Metrics) -> None:
        if service.task.is_generative:
            raise OptionError(f"{options.where}.candidate: generated texts are not compared; use reload instead")
        self.service, self._options = service, options
        self.reset()
        self.reason = ""
        """Reason why the candidate was retired; empty while it is not."""
        self._pending_share = 0.0
        self._counts = {"same": 0, "other": 0, "failed": 0, "skipped": 0}
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.watch_candidate(self._counts, lambda: float(not self.reason), self.slowdown)

    def reset(self) -> None:
        """Forget the comparisons with a model that has been replaced."""
        options = self._options
        self._analysis = CanaryAnalysis(
            options.candidate_window, options.candidate_max_disagreement, options.candidate_max_slowdown
        )

    @property
    def is_active(self) -> bool:
        """Whether the candidate is loaded and not retired."""
        return not self.reason and self.service.ready

    async def predict(self, model: Service, inputs: Sequence[Any], options: Mapping[str, Any]) -> Answers:
        """Answer a request with the model, or with a canary for its share of the requests.

        Args:
            model: The served model.
            inputs: See ``Service.predict``.
            options: See ``Service.predict``.

        Returns:
            One answer per input.
        """
        self._pending_share += self._options.candidate_share
        if self._pending_share < 1:
            return await model.predict(inputs, options)
        self._pending_share -= 1
        begin = time.perf_counter()
        if self._options.candidate_mode == CANARY:
            try:
                async with asyncio.timeout(self._options.request_timeout_s / 2):  # the model may need the rest
                    answers = await self.service.predict(inputs, options)
            except (EngineError, QueueFullError, UnavailableError, TimeoutError) as error:
                self._record_failure(len(inputs), error)
                return await model.predict(inputs, options)
            comparison = self._compare_with_model(model, inputs, options, answers, time.perf_counter() - begin)
        else:
            answers = await model.predict(inputs, options)
            comparison = self._compare_with_candidate(inputs, options, answers, time.perf_counter() - begin)
        self._start_comparison(comparison, len(inputs))
        return answers

    async def _compare_with_candidate(
        self, inputs: Sequence[Any], options: Mapping[str, Any], model_answers: Answers, model_s: float
    ) -> None:
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(self._options.request_timeout_s):
                answers = await self.service.predict(inputs, options)
        except (FastServeError, EngineError, QueueFullError, UnavailableError, TimeoutError) as error:
            self._record_failure(len(inputs), error)
            return
        self._record_comparison(model_answers, answers, model_s, time.perf_counter() - begin)

    async def _compare_with_model(
        self, model: Service, inputs: Sequence[Any], options: Mapping[str, Any], answers: Answers, candidate_s: float
    ) -> None:
        begin = time.perf_counter()
        try:
            model_answers = await model.predict(inputs, options)
        except (FastServeError, EngineError, QueueFullError, UnavailableError):
            self._counts["skipped"] += len(inputs)
            return
        self._record_comparison(model_answers, answers, time.perf_counter() - begin, candidate_s)

    def _start_comparison(self, comparison: Coroutine[Any, Any, None], answers: int) -> None:
        if self.reason or len(self._tasks) >= MAX_COMPARISONS:
            self._counts["skipped"] += answers
            comparison.close()
            return
        self._start_task(comparison)

    def _start_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _record_comparison(self, model_answers: Answers, answers: Answers, model_s: float, candidate_s: float) -> None:
        agrees = self.service.task.agrees
        agreements = [agrees(expected, answer) for expected, answer in zip(model_answers, answers, strict=True)]
        self._counts["same"] += sum(agreements)
        self._counts["other"] += len(agreements) - sum(agreements)
        self._analysis.record_comparison(agreements, model_s, candidate_s)
        self._check_limits()

    def _record_failure(self, answers: int, error: Exception) -> None:
        """Count a failure, unless the candidate is only busy, or ends."""
        if isinstance(error, QueueFullError) or self.service.draining or self.reason:
            self._counts["skipped"] += answers
            return
        self._counts["failed"] += answers
        self._analysis.record_failure(answers)
        self._check_limits()

    def _check_limits(self) -> None:
        if violation := self._analysis.violation():
            self.retire(f"rolled back: {violation}")

    def retire(self, reason: str) -> None:
        """Stop sending requests to the candidate, print the reason and end its service."""
        if self.reason:
            return
        self.reason = reason
        print(f"the candidate {self.service.artifact.folder} is {reason}", flush=True)
        self._start_task(self._stop())

    async def _stop(self) -> None:
        await self.service.wait_until_idle()
        await self.service.stop()
        refreeze()

    def slowdown(self) -> float:
        """Return the ratio of the candidate's median time to the model's; 0 before there are any."""
        medians = self._analysis.median_seconds
        return medians[1] / medians[0] if medians else 0.0

    def status(self) -> CandidateResponse:
        """Return the state of the comparison, for ``/candidate``."""
        medians = self._analysis.median_seconds
        return CandidateResponse(
            model=self.service.name,
            digest=self.service.artifact.digest,
            mode=self._options.candidate_mode,
            share=self._options.candidate_share,
            asked=self.is_active,
            reason=self.reason,
            answers=dict(self._counts),
            disagreement=self._analysis.disagreement,
            model_ms=round(1000 * medians[0], 3) if medians else None,
            candidate_ms=round(1000 * medians[1], 3) if medians else None,
        )
