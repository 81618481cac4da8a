"""One model as a service: its artifact, its batcher, and whether it may be asked."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from fastserve_core.artifacts import Artifact, max_positions
from fastserve_core.errors import ExportError, FastServeError, InvalidData, InvalidOption, InvalidPlan, did_you_mean
from fastserve_core.inference import Predictor, load_decoder, supports_token_streaming
from fastserve_core.tasks import Encoded, Row, load_task
from fastserve_server.batcher import Batcher
from fastserve_server.generation.generator import BROKEN, GenerationEngine, collect
from fastserve_server.generation.jobs import GenerationRequest, TokenStream
from fastserve_server.generation.sampling import Sampling
from fastserve_server.metrics import Metrics
from fastserve_server.options import ServingOptions
from fastserve_server.requests import Answers, Unavailable, check_positions

WARMUP_TEXTS = ("A first sentence.", "A much longer text, so that no shape is new to the engine. " * 8)
POLL_SECONDS = 0.05
ENCODING_OPTIONS = frozenset({"max_length"})
"""Options that decide how texts are encoded, which a request cannot change."""


class Service:
    """Answers inputs with one artifact. ``threads`` is what all its workers together may use."""

    def __init__(self, artifact: Artifact, options: ServingOptions, threads: int, metrics: Metrics) -> None:
        manifest = artifact.manifest
        self.artifact, self.options = artifact, options
        self.name = options.name or artifact.folder.name
        self.task = load_task(manifest.task, manifest.task_options, manifest.labels)
        self.metrics = metrics
        # Many single-thread workers answer more than one many-thread worker, whose threads wait for each other.
        workers = options.workers or threads
        self._threads_each = max(1, threads // workers)
        self._positions = max_positions(artifact.folder)
        self.batcher: Batcher | GenerationEngine = Batcher(
            options, workers, self._make_worker, self._check_length, self.metrics.record_batch
        )
        self._threads = threads
        self._unwritable = f"the engine {artifact.engine} cannot"
        self._known = frozenset({"text", *(column.name for column in self.task.columns)})
        self._loaded = asyncio.Event()
        self._fault: BaseException | None = None
        self._loading: asyncio.Task[None] | None = None
        self.draining = False

    @property
    def ready(self) -> bool:
        """Every worker is warm and goes on, and the server is not shutting down."""
        return self._loaded.is_set() and self._fault is None and not self.draining and not self._broken

    @property
    def _broken(self) -> bool:
        return isinstance(self.batcher, GenerationEngine) and self.batcher.broken

    def why_not_ready(self) -> str:
        """One line for a reader."""
        if self._fault is not None:
            return str(self._fault) if isinstance(self._fault, FastServeError) else "the model could not be loaded"
        if self._broken:
            return BROKEN
        return "the server is shutting down" if self.draining else "the model is still being loaded"

    def start(self) -> None:
        """Begin to load the model; ``loaded`` says when it is done."""
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            if not await self._start_writing():
                await self.batcher.start()
            freeze_gc()
        except Exception as error:
            self._fault = error
        finally:
            self._loaded.set()

    async def _start_writing(self) -> bool:
        """Have a model that writes do so side by side, where its engine and its kind allow."""
        if not self.task.generative or not supports_token_streaming(self.artifact):
            return False
        memory = self.options.kv_cache_mb * 1_000_000
        writer = self.task.writer(self.artifact.folder)
        made = partial(load_decoder, self.artifact, self._threads, memory)
        generator = GenerationEngine(
            self.options, writer, made, self._positions, self.metrics.record_batch, self.metrics.record_tokens
        )
        try:
            await generator.start()
        except ExportError as error:
            self._unwritable = str(error)
            return False
        self.batcher = generator
        return True

    async def loaded(self) -> None:
        """Wait until the service is ready; raises what loading the model failed with."""
        await self._loaded.wait()
        if self._fault is not None:
            raise self._fault

    async def answered(self) -> None:
        """Wait until nothing is open that was asked of it."""
        while self.batcher.in_flight:
            await asyncio.sleep(POLL_SECONDS)

    async def stop(self) -> None:
        """Refuse what waits and end the threads."""
        self.draining = True
        if self._loading is not None:
            self._loading.cancel()
        await self.batcher.stop()

    def predict(self, inputs: Sequence[Any], options: Mapping[str, Any]) -> asyncio.Future[Answers]:
        """The answers to come; cancel the future when nobody wants them.

        Raises ``Unavailable``, ``QueueFull``, ``InvalidOption`` or ``InvalidData``; the future may fail with
        ``InvalidData``.
        """
        self._check_ready()
        if not inputs:
            raise InvalidData("no inputs were given")
        if options:
            self._check_options(options)
        rows = [self.task.read_input(self._named(value)) for value in inputs]
        if isinstance(self.batcher, GenerationEngine):
            return asyncio.ensure_future(self._written(self.batcher, rows, options))
        return self.batcher.submit(rows, options)

    def generate(self, wishes: Sequence[GenerationRequest]) -> list[TokenStream]:
        """The texts to come, part by part; raises as ``ask`` does."""
        return self.generator().submit(wishes)

    def generator(self) -> GenerationEngine:
        """What writes texts; raises ``InvalidPlan`` for a model that does not, ``Unavailable``."""
        self._check_ready()
        if isinstance(self.batcher, GenerationEngine):
            return self.batcher
        if not self.task.generative:
            raise InvalidPlan(f"the model is for {self.task.name} and does not write texts: ask /predict")
        raise InvalidPlan(f"this model does not write texts part by part ({self._unwritable}): ask /predict")

    def max_new_tokens_for(self, prompt: int) -> int:
        """How many new tokens the model has positions for, after a prompt; at least one, for which it may refuse."""
        most = self.options.max_new_tokens
        return most if self._positions is None else max(1, min(most, self._positions - prompt))

    async def _written(self, generator: GenerationEngine, rows: Sequence[Row], options: Mapping[str, Any]) -> Answers:
        prompts = await asyncio.to_thread(generator.writer.tokens, [row["text"] for row in rows])
        asked = {**vars(self.task.options), **options}
        sampling = Sampling(temperature=asked["temperature"])
        texts = await collect(
            generator.submit([GenerationRequest(one, asked["max_new_tokens"], sampling) for one in prompts])
        )
        return [{"text": one["text"], "tokens": one["tokens"]} for one in texts]

    def _check_ready(self) -> None:
        if not self.ready:
            raise Unavailable(self.why_not_ready())

    def _check_options(self, options: Mapping[str, Any]) -> None:
        own = vars(self.task.options)
        allowed = own.keys() - ENCODING_OPTIONS if self.task.generative else ()
        for name in options:
            if name not in allowed:
                raise InvalidOption(f"the task {self.task.name} takes no option '{name}'{did_you_mean(name, allowed)}")
        try:
            asked: Any = msgspec.convert({**own, **options}, self.task.Options)
        except msgspec.ValidationError as error:
            raise InvalidOption(f"options: {error}") from error
        most = self.options.max_new_tokens
        if getattr(asked, "max_new_tokens", 0) > most:
            raise InvalidOption(f"max_new_tokens must be at most {most} on this server, not {asked.max_new_tokens}")

    def _check_length(self, encoded: Sequence[Encoded], options: Mapping[str, Any]) -> None:
        """Refuse what was cut, if it shall be, and a prompt that leaves no positions; runs in a worker's thread."""
        if self.options.truncation == "refuse" and any(one.cut for one in encoded):
            most = getattr(self.task.options, "max_length", None)
            reads = "what the model reads" if most is None else f"the {most} tokens that the model reads"
            raise InvalidData(f"an input is longer than {reads}: shorten it")
        if self.task.generative:
            new = {**vars(self.task.options), **options}.get("max_new_tokens", 0)
            check_positions(max(map(len, encoded)), new, self._positions)

    def _named(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            for name in value:
                if name not in self._known:
                    raise InvalidData(f"an input has the unknown field '{name}'{did_you_mean(name, self._known)}")
        return value

    def _make_worker(self) -> Predictor:
        """A warm predictor, made in the thread that will use it."""
        predictor = Predictor(self.artifact, self._threads_each)
        required = [column.name for column in self.task.columns if column.required]
        texts = WARMUP_TEXTS[:1] if self.task.generative else WARMUP_TEXTS
        with suppress(InvalidData):  # another's task may want inputs of another kind; it is then warm after its first
            predictor.warmup([{**dict.fromkeys(required, text), "text": text} for text in texts])
        return predictor


def freeze_gc() -> None:
    """Keep the libraries' objects from being looked through again and again, which stalled requests for 0.2 s."""
    gc.collect()
    gc.freeze()


def refreeze() -> None:
    """The same after a model has left, whose objects may go."""
    gc.unfreeze()
    freeze_gc()
