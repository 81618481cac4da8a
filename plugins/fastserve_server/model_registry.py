"""The models that one application serves, by their names; the first is asked where none is named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from starlette.exceptions import HTTPException

from fastserve_core.artifacts import Artifact, find_artifact, load_artifact, parse_named_path
from fastserve_core.errors import InvalidOption, did_you_mean
from fastserve_server.deployments import Candidate
from fastserve_server.metrics import Metrics
from fastserve_server.options import ServingOptions
from fastserve_server.requests import Answers
from fastserve_server.service import Service


class ModelRegistry:
    """All share the metrics, and the processor: ``threads`` is what the workers of each together may use."""

    def __init__(self, artifact: Artifact, options: ServingOptions, threads: int) -> None:
        self.metrics, self.options, self.threads = Metrics(), options, threads
        first = self.service(artifact, options.name or artifact.folder.name)
        self._services = {first.name: first}
        for name, folder in map(parse_named_path, options.models):
            if name in self._services:
                raise InvalidOption(f"{options.where}.models: two models are called '{name}': say NAME:FOLDER for one")
            self._services[name] = self.service(load_artifact(folder), name)
        self.candidate: Candidate | None = None
        self._loading: asyncio.Task[None] | None = None
        self.metrics.watch_queue(lambda: sum(one.engine.queue_depth for one in self))

    def service(self, artifact: Artifact, name: str) -> Service:
        """A service of these options under that name, which nobody asks yet."""
        return Service(artifact, replace(self.options, name=name), self.threads, self.metrics)

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    @property
    def names(self) -> list[str]:
        return list(self._services)

    @property
    def first(self) -> Service:
        return next(iter(self))

    def get(self, name: str | None) -> Service:
        """The service of that name, of no name the first; raises a 404."""
        found = self.first if name is None else self._services.get(name)
        if found is None:
            raise HTTPException(404, f"the server has no model '{name}'{did_you_mean(str(name), self.names)}")
        return found

    def swap(self, service: Service) -> Service:
        """Have a service asked from now on, instead of the one of its name, which is returned."""
        old = self._services[service.name]
        service.draining = old.draining
        self._services[service.name] = service
        return old

    def ask(self, service: Service, inputs: Sequence[Any], options: Mapping[str, Any]) -> asyncio.Future[Answers]:
        """As ``Service.predict``; of what the first model is asked a candidate has its share."""
        if self.candidate is None or not self.candidate.active or service is not self.first:
            return service.predict(inputs, options)
        return asyncio.ensure_future(self.candidate.ask(service, inputs, options))

    @property
    def _all(self) -> list[Service]:
        return [*self, *([self.candidate.service] if self.candidate is not None else [])]

    @property
    def ready(self) -> bool:
        return all(one.ready for one in self)

    def not_ready_reason(self) -> str:
        """One line for a reader."""
        why = next(one for one in self if not one.ready)
        return why.not_ready_reason() if len(self._services) == 1 else f"{why.name}: {why.not_ready_reason()}"

    @property
    def draining(self) -> bool:
        return self.first.draining

    def drain(self) -> None:
        """Refuse what comes from now on."""
        for one in self._all:
            one.draining = True

    def start(self) -> None:
        """Begin to load the models; ``wait_until_loaded`` says when it is done."""
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        """One after the other: transformers cannot be imported by two threads at a time."""
        for one in self._all:
            one.start()
            with suppress(Exception):  # told to whoever waits for ``wait_until_loaded``
                await one.wait_until_loaded()

    async def wait_until_loaded(self) -> None:
        """Wait until all are ready; raises what loading one of them failed with."""
        for one in self._all:
            await one.wait_until_loaded()

    async def stop(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
        await asyncio.gather(*(one.stop() for one in self._all))


def resolve_models(models: Sequence[str]) -> list[str]:
    """Those models with the folders of their artifacts, in the words of ``also``; raises ``InvalidArtifact``."""
    return [f"{name}:{find_artifact(folder).folder.absolute()}" for name, folder in map(parse_named_path, models)]
