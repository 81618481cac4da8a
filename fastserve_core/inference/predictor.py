"""The one way from inputs to answers: the task's encode, an engine, the task's decode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact, load_artifact
from fastserve_core.inference.engines import load_engine
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Arrays, Encoded, Row


class Predictor:
    """Answers for one artifact, by its own engine unless another is given.

    ``encode`` may run in any thread, ``answer`` only in the one that made this.
    """

    def __init__(self, artifact: Artifact | Path, threads: int | None = None, engine: str | None = None) -> None:
        self.artifact = load_artifact(artifact) if isinstance(artifact, Path) else artifact
        manifest = self.artifact.manifest
        self.task = load_task(manifest.task, manifest.task_options, manifest.labels)
        self.encode = self.task.encoder(self.artifact.folder)
        self.threads = threads or threads_per_process()
        self.engine = load_engine(self.artifact, self.threads, engine)

    def predict(self, inputs: Sequence[Any], batch_size: int = 32) -> list[dict[str, Any]]:
        """The answers to raw inputs (texts, pairs or mappings), in their order."""
        encoded = self.encode([self.task.read_input(value) for value in inputs])
        answers: list[dict[str, Any]] = [{}] * len(encoded)
        places = length_batches(encoded, batch_size)
        batches = [[encoded[place] for place in batch] for batch in places]
        for batch, answered in zip(places, self.answer_all(batches), strict=True):
            for place, one in zip(batch, answered, strict=True):
                answers[place] = one
        return answers

    def answer(self, batch: Sequence[Encoded], options: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The answers to one encoded batch; ``options`` are a generative task's own (``max_new_tokens`` …).

        That of an input which was cut has ``truncated``.
        """
        if self.task.is_generative:
            merged = {**vars(self.task.options), **(options or {})}
            return self._decode(self.engine.generate(self.task.collate_prompts(batch), merged), batch)
        return self._decode(self.engine.run(self.task.collate(batch)), batch)

    def answer_all(
        self, batches: Sequence[Sequence[Encoded]], options: Mapping[str, Any] | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """The answers to several encoded batches, in their order; an engine may run some at a time."""
        if self.task.is_generative:
            for batch in batches:
                yield self.answer(batch, options)
        else:
            for outputs, batch in zip(self._run_all(batches), batches, strict=True):
                yield self._decode(outputs, batch)

    def _decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        answers = self.task.decode(outputs, batch)
        for answer, one in zip(answers, batch, strict=True):
            if one.truncated:
                answer["truncated"] = True
        return answers

    def _run_all(self, batches: Sequence[Sequence[Encoded]]) -> Iterator[Arrays]:
        inputs = (self.task.collate(batch) for batch in batches)
        return self.engine.run_all(inputs) if len(batches) > 1 else map(self.engine.run, inputs)

    def score(self, rows: Sequence[Row], batch_size: int = 32) -> dict[str, float]:
        """The task's measures over labelled rows."""
        examples = self.task.examples(self.encode(rows), "validation")
        statistics: list[Any] = []
        batches = [[examples[place] for place in places] for places in length_batches(examples, batch_size)]
        for outputs, batch in zip(self._run_all(batches), batches, strict=True):
            statistics += self.task.batch_statistics(outputs, batch)
        return self.task.score(statistics)

    def warmup(self, inputs: Sequence[Any]) -> None:
        """Answer a few inputs, so that the first caller does not pay for lazy set-up."""
        for value in inputs:
            self.predict([value])

    def close(self) -> None:
        self.engine.close()


def length_batches(encoded: Sequence[Encoded], batch_size: int) -> list[list[int]]:
    """Positions in batches of similar length, so that little is padded."""
    known = getattr(encoded, "lengths", None)
    lengths = [len(one) for one in encoded] if known is None else list(known)
    order: list[int] = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
