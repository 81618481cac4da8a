"""The models of one application, by name; the first one is the default."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

from fastserve_core.artifacts import Artifact, find_adapter, find_artifact, load_artifact, parse_named_path
from fastserve_core.errors import OptionError, did_you_mean
from fastserve_server.deployments import Candidate
from fastserve_server.metrics import Metrics
from fastserve_server.options import ServingOptions
from fastserve_server.requests import Answers
from fastserve_server.service import Service

ServerOptionsT = TypeVar("ServerOptionsT", bound=ServingOptions)


class ModelRegistry:
    """Services of an artifact and of ``options.models``, with common metrics; iterates over the services.

    Args:
        artifact: The first model.
        options: Options of the server.
        threads: Number of threads that the workers of each model may use together.

    Raises:
        ArtifactError: An artifact is missing or damaged.
        OptionError: Two models have the same name.
    """

    def __init__(self, artifact: Artifact, options: ServingOptions, threads: int) -> None:
        self.metrics, self.options, self.threads = Metrics(), options, threads
        self._first_name = options.name or artifact.folder.name
        first = self.service(artifact, self._first_name)
        self._services = {first.name: first}
        for name, folder in map(parse_named_path, options.models):
            if name in self._services:
                raise OptionError(f"{options.where}.models: two models have the name '{name}': use NAME:FOLDER")
            self._services[name] = self.service(load_artifact(folder), name)
        self.candidate: Candidate | None = None
        self._load_task: asyncio.Task[None] | None = None
        self.metrics.watch_queue(lambda: sum(service.queue_depth for service in self))

    def service(self, artifact: Artifact, name: str) -> Service:
        """Create a service with the registry's options; it receives no requests yet."""
        adapters = self.options.adapters if name == self._first_name else []
        return Service(artifact, replace(self.options, name=name, adapters=adapters), self.threads, self.metrics)

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    @property
    def names(self) -> list[str]:
        """Names of the models, the first one first."""
        return list(self._services)

    @property
    def all(self) -> list[Service]:
        """The models, each followed by itself with each of its adapters."""
        return [one for service in self for one in (service, *map(service.with_adapter, service.adapters))]

    @property
    def first(self) -> Service:
        """Service of the default model."""
        return next(iter(self))

    def get(self, name: str | None) -> Service:
        """Return the service of a model.

        Args:
            name: Name of the model, or ``MODEL:ADAPTER``; ``None`` for the first one.

        Raises:
            HTTPException: 404, if there is no model or adapter of this name.
        """
        base, colon, adapter = ("", "", "") if name is None else name.partition(":")
        service = self.first if name is None else self._services.get(base)
        if service is not None and (not colon or adapter in service.adapters):
            return service.with_adapter(adapter) if colon else service
        hint = did_you_mean(str(name), [service.name for service in self.all])
        raise HTTPException(404, f"the server has no model '{name}'{hint}")

    def swap(self, service: Service) -> Service:
        """Replace the service of the same name, which is returned."""
        old = self._services[service.name]
        service.draining = old.draining
        self._services[service.name] = service
        return old

    def predict(self, service: Service, inputs: Sequence[Any], options: Mapping[str, Any]) -> asyncio.Future[Answers]:
        """Accept a request; a candidate takes part in those for the first model. See ``Service.predict``."""
        if self.candidate is None or not self.candidate.is_active or service is not self.first:
            return service.predict(inputs, options)
        return asyncio.ensure_future(self.candidate.predict(service, inputs, options))

    @property
    def _all_services(self) -> list[Service]:
        return [*self, *([self.candidate.service] if self.candidate is not None else [])]

    @property
    def ready(self) -> bool:
        """Whether all models are ready."""
        return all(service.ready for service in self)

    def not_ready_reason(self) -> str:
        """Return the reason why ``ready`` is false, in one line."""
        service = next(service for service in self if not service.ready)
        reason = service.not_ready_reason()
        return reason if len(self._services) == 1 else f"{service.name}: {reason}"

    @property
    def draining(self) -> bool:
        """Whether new requests are rejected."""
        return self.first.draining

    def drain(self) -> None:
        """Reject new requests."""
        for service in self._all_services:
            service.draining = True

    def start(self) -> None:
        """Start loading the models; ``wait_until_loaded`` waits for the end of it."""
        self._load_task = asyncio.create_task(self._load())

    async def _load(self) -> None:
        """Load one model after another: two threads cannot import transformers at the same time."""
        for service in self._all_services:
            service.start()
            with suppress(Exception):  # ``wait_until_loaded`` raises it
                await service.wait_until_loaded()

    async def wait_until_loaded(self) -> None:
        """Wait until all models are loaded.

        Raises:
            FastServeError: The first model that could not be loaded.
        """
        for service in self._all_services:
            await service.wait_until_loaded()

    async def stop(self) -> None:
        """Reject waiting requests and end the workers of all models."""
        if self._load_task is not None:
            self._load_task.cancel()
        await asyncio.gather(*(service.stop() for service in self._all_services))


def resolve_first(artifact: Path, options: ServerOptionsT) -> tuple[Path, ServerOptionsT]:
    """Resolve the links in the folder of the first model once, so that its files and its lineage are of one artifact.

    Args:
        artifact: The folder.
        options: Options of the server.

    Returns:
        The real folder, and the options, in which the model keeps the link's name.
    """
    if options.name is None and artifact.is_symlink():
        options = replace(options, name=artifact.name)
    return artifact.resolve(), options


def resolve_adapters(adapters: Sequence[str]) -> list[str]:
    """Find the adapters of ``options.adapters``.

    Args:
        adapters: Folders of adapters, of artifacts or of runs, or ``NAME:FOLDER``.

    Returns:
        ``NAME:FOLDER`` of each, with the absolute folder of PEFT's files.

    Raises:
        ArtifactError: A folder has no adapter.
    """
    return [f"{name}:{find_adapter(folder)}" for name, folder in map(parse_named_path, adapters)]


def resolve_models(models: Sequence[str]) -> list[str]:
    """Find the artifacts of ``options.models``.

    Args:
        models: Folders of artifacts or runs, or ``NAME:FOLDER``.

    Returns:
        ``NAME:FOLDER`` of each, with the artifact's absolute folder.

    Raises:
        ArtifactError: A folder has no artifact.
    """
    return [f"{name}:{find_artifact(folder).folder.absolute()}" for name, folder in map(parse_named_path, models)]
