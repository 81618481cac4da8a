"""One served model: its artifact, its engine loop and its readiness."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from fastserve_core.artifacts import Artifact, parse_named_path
from fastserve_core.errors import (
    DataError,
    ExportError,
    FastServeError,
    OptionError,
    PlanError,
    StageError,
    did_you_mean,
)
from fastserve_core.inference import Predictor, load_decoder, supports_token_streaming
from fastserve_core.tasks import Encoded, GenerationRequest, load_task, read_calibration
from fastserve_server.batcher import Batcher
from fastserve_server.engine_loop import SHUTTING_DOWN, EngineLoop
from fastserve_server.generation.generator import GenerationEngine
from fastserve_server.generation.jobs import TokenStream
from fastserve_server.metrics import Metrics
from fastserve_server.options import ServingOptions
from fastserve_server.requests import Answers, UnavailableError, check_positions

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05


class LoadError(StageError):
    """An artifact with intact files cannot be loaded by its engine."""


class Service:
    """Serves one artifact.

    Args:
        artifact: The model.
        options: Options of the server; ``options.name`` is the model's name in URLs.
        threads: Number of threads that all workers of the model may use together.
        metrics: Receives batch sizes, pass times and token counts.
    """

    def __init__(self, artifact: Artifact, options: ServingOptions, threads: int, metrics: Metrics) -> None:
        manifest = artifact.manifest
        self.artifact, self.options = artifact, options
        self.name = options.name or artifact.folder.name
        self.task = load_task(manifest.task, manifest.task_options, manifest.labels)
        self.task.calibration = read_calibration(artifact.folder)
        self.routes = {route.path: route for route in self.task.routes(artifact.folder)}
        self.metrics = metrics
        # Many single-thread workers answer more than one many-thread worker, whose threads wait for each other.
        num_workers = options.workers or threads
        self._threads, self._threads_per_worker = threads, max(1, threads // num_workers)
        self._positions = self.task.max_positions(artifact.folder)
        self.engine: EngineLoop[Any] = Batcher(
            options, num_workers, self._make_worker, self._check_length, self.metrics.record_batch
        )
        self._generator: GenerationEngine | None = None
        self.adapters = dict(map(parse_named_path, options.adapters))
        self._adapter: str | None = None
        if self.adapters and not self.task.is_generative:
            raise OptionError(
                f"{options.where}.adapters: adapters are served for models that generate texts, and '{self.name}' is "
                f"for {manifest.task}: serve the merged model"
            )
        self._not_streaming = f"the engine {artifact.engine} cannot"
        columns = (*self.task.columns, *self.task.request_columns)
        self._input_fields = frozenset(column.name for column in columns)
        self._loaded = asyncio.Event()
        self._load_error: FastServeError | None = None
        self._load_task: asyncio.Task[None] | None = None
        self.draining = False

    def with_adapter(self, name: str) -> Service:
        """Return this service as the model ``MODEL:ADAPTER``, for one request: its state is that of now."""
        adapted = copy.copy(self)
        adapted.name, adapted._adapter = f"{self.name}:{name}", name
        return adapted

    @property
    def ready(self) -> bool:
        """Whether every worker is warm and running, and the server is not shutting down."""
        return self._loaded.is_set() and self._load_error is None and not self.draining and not self._failure

    @property
    def queue_depth(self) -> int:
        """Number of accepted items that no engine has started."""
        return sum(loop.queue_depth for loop in self._loops)

    @property
    def _failure(self) -> str:
        return next((loop.failure for loop in self._loops if loop.failure), "")

    def not_ready_reason(self) -> str:
        """Return the reason why ``ready`` is false, in one line."""
        if self._load_error is not None:
            hidden = isinstance(self._load_error, LoadError)
            return "the model could not be loaded" if hidden else str(self._load_error)
        return self._failure or (SHUTTING_DOWN if self.draining else "the model is still being loaded")

    def start(self) -> None:
        """Start loading the model; ``wait_until_loaded`` waits for the end of it."""
        self._load_task = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            if not await self._start_generator() or self.task.predicts_in_batches:
                await self.engine.start()
            freeze_gc()
        except FastServeError as error:
            self._load_error = error
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # some libraries' errors derive from it
            level = logging.ERROR if os.environ.get("FASTSERVE_DEBUG") else logging.DEBUG
            log.log(level, "%s cannot be loaded", self.artifact.folder, exc_info=error)
            self._load_error = LoadError(f"{self.artifact.folder} cannot be loaded: {type(error).__name__}: {error}")
        finally:
            self._loaded.set()

    async def _start_generator(self) -> bool:
        """Generate texts with continuous batching if the model's engine and kind support it.

        Raises:
            PlanError: There are adapters, and the engine cannot switch them.
            ArtifactError: An adapter is damaged or belongs to another base.
        """
        if not self.task.is_generative or not (self.adapters or supports_token_streaming(self.artifact)):
            return False
        generator = GenerationEngine(
            self.options,
            self.task.writer(self.artifact.folder),
            partial(load_decoder, self.artifact, self._threads, self.options.kv_cache_mb * 1_000_000, self.adapters),
            self._positions,
            self.metrics.record_batch,
            self.metrics.record_tokens,
            vars(self.task.options),
        )
        try:
            await generator.start()
        except ExportError as error:
            if self.adapters:
                raise
            self._not_streaming = str(error)
            return False
        self._generator = generator
        if not self.task.predicts_in_batches:
            self.engine = generator
        return True

    @property
    def _loops(self) -> set[EngineLoop[Any]]:
        return {self.engine, self._generator} if self._generator is not None else {self.engine}

    async def wait_until_loaded(self) -> None:
        """Wait until the model is loaded.

        Raises:
            FastServeError: Loading the model failed.
        """
        await self._loaded.wait()
        if self._load_error is not None:
            raise self._load_error

    async def wait_until_idle(self) -> None:
        """Wait until every accepted request is answered."""
        while any(loop.in_flight for loop in self._loops):
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self) -> None:
        """Reject waiting requests and end the workers' threads."""
        self.draining = True
        if self._load_task is not None:
            self._load_task.cancel()
        for loop in self._loops:
            await loop.stop()

    def predict(self, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> asyncio.Future[Answers]:
        """Accept a request for complete answers.

        Args:
            inputs: Texts, pairs, word lists or mappings of the task's fields, as in the JSON of ``/predict``.
            parameters: Parameters of the task for this request, such as ``top_k``.

        Returns:
            A future of one answer per input, which may fail with ``DataError``. Cancel it to withdraw the request.

        Raises:
            DataError: An input has the wrong form.
            OptionError: The task does not have a parameter, or not with this value.
            QueueFullError: Too many inputs are waiting.
            UnavailableError: The model is not ready.
        """
        self._check_ready()
        if not inputs:
            raise DataError("no inputs were given")
        options = self._read_parameters(parameters) if parameters else {}
        rows = [self.task.read_input(self._check_fields(value)) for value in inputs]
        if self._adapter is not None:
            return self.generator().predict(rows, options, self._adapter)
        return self.engine.predict(rows, options)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[TokenStream]:
        """Accept requests for texts; see ``GenerationEngine.submit`` and ``generator`` for the errors."""
        return self.generator().submit([replace(request, adapter=self._adapter) for request in requests])

    def generator(self) -> GenerationEngine:
        """Return the engine that streams texts.

        Raises:
            PlanError: The model does not generate texts, or cannot stream them.
            UnavailableError: The model is not ready.
        """
        self._check_ready()
        if self._generator is not None:
            return self._generator
        if not self.task.is_generative:
            raise PlanError(f"the model is for {self.task.name} and does not generate texts: use /predict")
        raise PlanError(f"this model cannot stream texts ({self._not_streaming}): use /predict")

    def max_new_tokens_for(self, prompt: int) -> int:
        """Return the default number of new tokens after a prompt of so many tokens; at least 1."""
        limit = self.options.max_new_tokens
        return limit if self._positions is None else max(1, min(limit, self._positions - prompt))

    def _check_ready(self) -> None:
        if not self.ready:
            raise UnavailableError(self.not_ready_reason())

    def _read_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        options = self.task.read_parameters(parameters)
        try:
            converted: Any = msgspec.convert({**vars(self.task.options), **options}, self.task.Options)
        except msgspec.ValidationError as error:
            raise OptionError(f"parameters: {error}") from error
        limit, requested = self.options.max_new_tokens, getattr(converted, "max_new_tokens", 0)
        if requested > limit:
            raise OptionError(f"max_new_tokens must be at most {limit} on this server, not {requested}")
        return options

    def _check_length(self, encoded: Sequence[Encoded], options: Mapping[str, Any]) -> None:
        """Reject inputs that are too long, and prompts that leave no positions; runs in a worker's thread."""
        task = self.task.with_options(options) if options else self.task
        count, most = sum(len(task.windows(row)) for row in encoded), self.options.max_windows
        if count > max(most, len(encoded)):
            raise DataError(f"the inputs have {count} windows together, and this server's limit is {most}: split them")
        if not self.options.truncation and any(row.truncated for row in encoded):
            max_length = getattr(self.task.options, "max_length", None)
            limit = "the model's limit" if max_length is None else f"the model's limit of {max_length} tokens"
            raise DataError(f"an input is longer than {limit}: shorten it")
        if task.is_generative:
            check_positions(max(map(len, encoded)), getattr(task.options, "max_new_tokens", 0), self._positions)

    def _check_fields(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            for name in value:
                if name not in self._input_fields:
                    hint = did_you_mean(name, self._input_fields)
                    raise DataError(f"an input has the unknown field '{name}'{hint}")
        return value

    def _make_worker(self) -> Predictor:
        """Create a warm predictor; called in the thread that will use it."""
        predictor = Predictor(self.artifact, self._threads_per_worker)
        with suppress(DataError):  # the first request then warms the model
            predictor.warmup(self.task.warmup_inputs())
        return predictor


def freeze_gc() -> None:
    """Exclude all current objects from garbage collection, whose full passes stalled requests for 0.2 s."""
    gc.collect()
    gc.freeze()


def refreeze() -> None:
    """Collect the objects of a removed model, then exclude the remaining ones again."""
    gc.unfreeze()
    freeze_gc()
