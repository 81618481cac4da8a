"""The way from inputs to predictions: encoding by the task, an engine, decoding by the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.artifact import Artifact, load_artifact
from fastserve_core.config.options import parse_options
from fastserve_core.inference.engines import load_engine
from fastserve_core.processes.resources import threads_per_process
from fastserve_core.tasks.calibration import read_calibration
from fastserve_core.tasks.encoded import Arrays, Encoded, Row
from fastserve_core.tasks.inputs import list_inputs
from fastserve_core.tasks.load import load_task
from fastserve_core.tasks.task import Task

MAX_WINDOWS = 32
"""The number of windows of long inputs that a pass has at most, unless a batch has more inputs."""


WatchBatch = Callable[[Sequence[int], Arrays, Sequence[Encoded]], None]
"""Takes the numbers of a batch's examples, the model's outputs, and the examples."""


class Predictor:
    """Predicts with one artifact.

    ``encode`` may run in any thread, all other methods only in the thread that made the predictor.

    Args:
        artifact: The artifact or its folder.
        threads: The number of threads of one pass; by default the usable cores.
        engine: The engine; by default the artifact's own.
    """

    def __init__(self, artifact: Artifact | Path, threads: int | None = None, engine: str | None = None) -> None:
        self.artifact = load_artifact(artifact) if isinstance(artifact, Path) else artifact
        manifest = self.artifact.manifest
        self.task = load_task(manifest.task, manifest.task_options, manifest.labels)
        self.task.calibration = read_calibration(self.artifact.folder)
        self.encode = self.task.encoder(self.artifact.folder)
        self.threads = threads or threads_per_process()
        self.engine = load_engine(self.artifact, self.threads, engine)

    def predict(
        self, inputs: Sequence[Any], batch_size: int = 32, parameters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Predict for raw inputs.

        Args:
            inputs: Texts, pairs of texts, or mappings by column; a single text or mapping is one input.
            batch_size: The number of inputs of one pass.
            parameters: The task's ``request_parameters`` for these inputs, such as ``top_k``.

        Returns:
            The predictions, in the order of the inputs.

        Raises:
            DataError: An input cannot be read.
            OptionError: The task does not have a parameter, or not with this value.
        """
        options = self.task.read_parameters(parameters or {})
        if options:
            parse_options(self.task.Options, {**vars(self.task.options), **options}, "parameters")
        encoded = self.encode([self.task.read_input(value) for value in list_inputs(inputs)])
        return self.answer_encoded(encoded, batch_size, options)

    def answer_encoded(
        self, encoded: Sequence[Encoded], batch_size: int = 32, options: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Predict for encoded inputs, in batches of similar length.

        Args:
            encoded: The encoded inputs.
            batch_size: The number of inputs of one pass.
            options: Options of the task for these inputs.

        Returns:
            The predictions, in the order of the inputs.
        """
        predictions: list[dict[str, Any]] = [{}] * len(encoded)
        batches = length_batches(encoded, batch_size)
        results = self.answer_all([[encoded[index] for index in indices] for indices in batches], options)
        for indices, batch_predictions in zip(batches, results, strict=True):
            for index, prediction in zip(indices, batch_predictions, strict=True):
                predictions[index] = prediction
        return predictions

    def answer(self, batch: Sequence[Encoded], options: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Predict for one encoded batch.

        Args:
            batch: The encoded inputs.
            options: Options of the task for these inputs, such as ``max_new_tokens``.

        Returns:
            The predictions; that of a truncated input has ``truncated``.
        """
        if self.task.is_generative:
            return decode_batch(self.task, self._generate(batch, options), batch)
        return next(self.answer_all([batch], options))

    def answer_all(
        self, batches: Sequence[Sequence[Encoded]], options: Mapping[str, Any] | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Predict for several encoded batches, which the engine may run concurrently.

        Args:
            batches: The encoded batches.
            options: Options of the task for these inputs, such as ``max_new_tokens``.

        Yields:
            The predictions of each batch, in the same order.
        """
        if self.task.is_generative:
            for batch in batches:
                yield self.answer(batch, options)
        else:
            task = self.task.with_options(options) if options else self.task
            passes = [split_passes(task, batch) for batch in batches]
            outputs = self._run_all(list(chain.from_iterable(passes)))
            for batch, parts in zip(batches, passes, strict=True):
                yield decode_batch(task, join_outputs(list(islice(outputs, len(parts)))), batch)

    def _run_all(self, batches: Sequence[Sequence[Encoded]]) -> Iterator[Arrays]:
        inputs = (self.task.collate(batch) for batch in batches)
        return self.engine.run_all(inputs) if len(batches) > 1 else map(self.engine.run, inputs)

    def score(self, rows: Sequence[Row], batch_size: int = 32, watch: WatchBatch | None = None) -> dict[str, float]:
        """Compute the task's metrics on labelled rows.

        Args:
            rows: The rows.
            batch_size: The number of rows of one pass.
            watch: Called with the numbers of each batch's examples, the outputs and the examples.

        Returns:
            The metrics by name.
        """
        statistics: list[Any] = []
        for numbers, outputs, batch in self._run_examples(rows, batch_size):
            statistics += self.task.batch_statistics(outputs, batch)
            if watch is not None:
                watch(numbers, outputs, batch)
        return self.task.score(statistics)

    def run_rows(self, rows: Sequence[Row], batch_size: int = 32) -> Iterator[tuple[Arrays, Sequence[Encoded]]]:
        """Run the model on labelled rows.

        Args:
            rows: The rows.
            batch_size: The number of rows of one pass.

        Yields:
            The outputs of each batch with its inputs, in an order of their lengths.
        """
        return ((outputs, batch) for _, outputs, batch in self._run_examples(rows, batch_size))

    def _run_examples(
        self, rows: Sequence[Row], batch_size: int
    ) -> Iterator[tuple[Sequence[int], Arrays, Sequence[Encoded]]]:
        examples = self.task.examples(self.encode(rows), "validation")
        numbers = length_batches(examples, min(batch_size, self.task.score_batch_size))
        batches = [[examples[number] for number in part] for part in numbers]
        outputs = map(self._generate, batches) if self.task.scores_answers else self._run_all(batches)
        yield from zip(numbers, outputs, batches, strict=True)

    def _generate(self, batch: Sequence[Encoded], options: Mapping[str, Any] | None = None) -> Arrays:
        return self.engine.generate(self.task.collate_prompts(batch), {**vars(self.task.options), **(options or {})})

    def warmup(self, inputs: Sequence[Any]) -> None:
        """Predict for a few inputs, so that the first request does not pay for lazy initialization."""
        for value in inputs:
            self.predict([value])

    def close(self) -> None:
        """Free the model."""
        self.engine.close()


def split_passes(task: Task, batch: Sequence[Encoded]) -> list[Sequence[Encoded]]:
    """Return the windows of a batch's inputs, in passes of a bounded number of them."""
    windows = [window for example in batch for window in task.windows(example)]
    size = max(len(batch), MAX_WINDOWS)
    return [windows[start : start + size] for start in range(0, len(windows), size)]


def decode_batch(task: Task, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
    """Return the predictions of a batch; those of truncated inputs have ``truncated``."""
    predictions = task.decode(outputs, batch)
    for prediction, example in zip(predictions, batch, strict=True):
        if example.truncated:
            prediction["truncated"] = True
    return predictions


def join_outputs(passes: Sequence[Arrays]) -> Arrays:
    """Return the outputs of several passes as those of one, padded with zeros to the longest.

    Args:
        passes: Arrays of shape (rows, …) by name.
    """
    import numpy as np

    if len(passes) == 1:
        return passes[0]
    joined: Arrays = {}
    for name in passes[0]:
        arrays = [outputs[name] for outputs in passes]
        shape = np.max([array.shape for array in arrays], axis=0)
        missing = [[(0, most) for most in (0, *(shape - array.shape)[1:])] for array in arrays]
        joined[name] = np.concatenate([np.pad(*pair) for pair in zip(arrays, missing, strict=True)])
    return joined


def describe_prediction(task: Task) -> dict[str, Any]:
    """Return the JSON Schema of a prediction: the task's answer, with ``truncated`` if the input was."""
    schema = task.answer_schema()
    truncated = {"const": True, "description": "The input was longer than the model reads, and was cut"}
    return {**schema, "properties": {**schema.get("properties", {}), "truncated": truncated}}


def length_batches(encoded: Sequence[Encoded], batch_size: int) -> list[list[int]]:
    """Group inputs into batches of similar length, to save padding.

    Args:
        encoded: The encoded inputs.
        batch_size: The maximum number of inputs of a batch.

    Returns:
        The indices of each batch's inputs.
    """
    known = getattr(encoded, "lengths", None)
    lengths = [len(example) for example in encoded] if known is None else list(known)
    order: list[int] = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
