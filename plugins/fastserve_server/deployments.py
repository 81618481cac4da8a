"""Another artifact beside the one that is served: asked in its shadow, or as a canary for a share of the requests.

In the shadow the candidate is asked after the model has answered, and nobody waits for it. As a canary it answers,
and the model is asked after it; what the candidate cannot answer the model does. Either way both have the same
requests, and a candidate that answers otherwise or more slowly than it may is not asked any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from fastserve_core.errors import FastServeError, InvalidOption
from fastserve_server.canary_analysis import CanaryAnalysis, decision_of
from fastserve_server.metrics import Metrics
from fastserve_server.options import CANARY, ServerOptions
from fastserve_server.requests import Answers, EngineFailed, QueueFull, Unavailable
from fastserve_server.schemas import CandidateResponse
from fastserve_server.service import Service, refreeze

MOST_COMPARED = 64
"""Comparisons that may be under way; what comes meanwhile is not compared, rather than kept in memory."""


class Candidate:
    """``service`` is the candidate's own; ``metrics`` are those that everybody reads."""

    def __init__(self, service: Service, options: ServerOptions, metrics: Metrics) -> None:
        if service.task.generative:
            raise InvalidOption(
                f"{options.where}.candidate: texts that models write are not compared; use reload instead"
            )
        self.service, self._options = service, options
        self.reset()
        self.reason = ""
        self._drawn = 0.0
        self._counted = {"same": 0, "other": 0, "failed": 0, "skipped": 0}
        self._under_way: set[asyncio.Task[None]] = set()
        metrics.watch_candidate(self._counted, lambda: float(not self.reason), self.slowdown)

    def reset(self) -> None:
        """Forget what was seen of it beside a model that is served no more."""
        given = self._options
        self._judge = CanaryAnalysis(
            given.candidate_window, given.candidate_max_disagreement, given.candidate_max_slowdown
        )

    @property
    def active(self) -> bool:
        """Whether it is loaded and was not rolled back."""
        return not self.reason and self.service.ready

    async def ask(self, model: Service, inputs: Sequence[Any], options: Mapping[str, Any]) -> Answers:
        """The model's answers, or for a share of the requests to a canary the candidate's."""
        self._drawn += self._options.candidate_share
        if self._drawn < 1:
            return await model.predict(inputs, options)
        self._drawn -= 1
        begin = time.perf_counter()
        if self._options.candidate_mode == CANARY:
            try:
                async with asyncio.timeout(
                    self._options.request_timeout_s / 2
                ):  # the model needs the rest, if it has to answer
                    answers = await self.service.predict(inputs, options)
            except (EngineFailed, QueueFull, Unavailable, TimeoutError) as error:
                self._record_failure(len(inputs), error)
                return await model.predict(inputs, options)
            compare = self._with_model(model, inputs, options, answers, time.perf_counter() - begin)
        else:
            answers = await model.predict(inputs, options)
            compare = self._with_candidate(inputs, options, answers, time.perf_counter() - begin)
        self._shadow_request(compare, len(inputs))
        return answers

    async def _with_candidate(
        self, inputs: Sequence[Any], options: Mapping[str, Any], answers: Answers, seconds: float
    ) -> None:
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(self._options.request_timeout_s):
                own = await self.service.predict(inputs, options)
        except (FastServeError, EngineFailed, QueueFull, Unavailable, TimeoutError) as error:
            self._record_failure(len(inputs), error)
            return
        self._compare(answers, own, seconds, time.perf_counter() - begin)

    async def _with_model(
        self, model: Service, inputs: Sequence[Any], options: Mapping[str, Any], own: Answers, seconds: float
    ) -> None:
        begin = time.perf_counter()
        try:
            answers = await model.predict(inputs, options)
        except (FastServeError, EngineFailed, QueueFull, Unavailable):
            self._counted["skipped"] += len(inputs)
            return
        self._compare(answers, own, time.perf_counter() - begin, seconds)

    def _shadow_request(self, compare: Coroutine[Any, Any, None], answers: int) -> None:
        if self.reason or len(self._under_way) >= MOST_COMPARED:
            self._counted["skipped"] += answers
            compare.close()
            return
        task = asyncio.create_task(compare)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _compare(self, answers: Answers, own: Answers, model_s: float, candidate_s: float) -> None:
        same = [decision_of(one) == decision_of(other) for one, other in zip(answers, own, strict=True)]
        self._counted["same"] += sum(same)
        self._counted["other"] += len(same) - sum(same)
        self._judge.compared(same, model_s, candidate_s)
        self._check_slo()

    def _record_failure(self, answers: int, error: Exception) -> None:
        """It failed, which counts; that it was busy, or the server shuts down, does not."""
        if isinstance(error, QueueFull) or self.service.draining or self.reason:
            self._counted["skipped"] += answers
            return
        self._counted["failed"] += answers
        self._judge.failed(answers)
        self._check_slo()

    def _check_slo(self) -> None:
        if fault := self._judge.violation():
            self.retire(f"rolled back: {fault}")

    def retire(self, reason: str) -> None:
        """Ask it no more, say why, and end it."""
        if self.reason:
            return
        self.reason = reason
        print(f"the candidate {self.service.artifact.folder} is {reason}", flush=True)
        task = asyncio.create_task(self._end())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _end(self) -> None:
        await self.service.wait_until_idle()
        await self.service.stop()
        refreeze()

    def slowdown(self) -> float:
        """Its median time over the model's; 0 before both have answered a request."""
        times = self._judge.times
        return times[1] / times[0] if times else 0.0

    def status(self) -> CandidateResponse:
        """How it does."""
        times = self._judge.times
        return CandidateResponse(
            model=self.service.name,
            digest=self.service.artifact.digest,
            mode=self._options.candidate_mode,
            share=self._options.candidate_share,
            asked=self.active,
            reason=self.reason,
            answers=dict(self._counted),
            disagreement=self._judge.disagreement,
            model_ms=round(1000 * times[0], 3) if times else None,
            candidate_ms=round(1000 * times[1], 3) if times else None,
        )
