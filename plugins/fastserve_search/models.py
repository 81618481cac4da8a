"""The models of an index: the one that makes its vectors, a reader that answers questions, and a second stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import Artifact, load_artifact, read_json
from fastserve_core.errors import PlanError
from fastserve_core.inference import Predictor
from fastserve_core.tasks import Encoder, Task, load_task
from fastserve_search.passages import AreLong

INDEX, READER, RERANKER = "index", "reader", "reranker"
"""The folders of an index's folder, beside the files of the model that makes the vectors."""
QUERY, DOCUMENT = "query", "document"
READER_FIELDS, RERANKER_FIELDS = frozenset({"question", "context"}), frozenset({QUERY, DOCUMENT})
SENTENCE_SETTINGS = "config_sentence_transformers.json"
"""The settings of sentence-transformers, with the prompts by name."""


def check_embedder(artifact: Artifact) -> None:
    """Check that a model turns texts into vectors; raises ``PlanError`` if not."""
    manifest = artifact.manifest
    if not load_task(manifest.task, manifest.task_options, manifest.labels).answer_view.vector:
        raise PlanError(f"{artifact.folder} is for {manifest.task}: an index needs a model whose answers are vectors")


def check_companion(artifact: Artifact, kind: str) -> None:
    """Check that a model has the inputs of a reader or of a second stage; raises ``PlanError`` if not."""
    manifest = artifact.manifest
    needed = READER_FIELDS if kind == READER else RERANKER_FIELDS
    task = load_task(manifest.task, manifest.task_options, manifest.labels)
    if not needed <= {column.name for column in task.request_columns}:
        raise PlanError(
            f"--{kind}: {artifact.folder} is for {manifest.task}; a {kind} reads {' and '.join(sorted(needed))}"
        )


def list_prompts(folder: Path) -> frozenset[str]:
    """Return the names of the prompts of a model."""
    path = folder / SENTENCE_SETTINGS
    return (
        frozenset(name for name, text in (read_json(path).get("prompts") or {}).items() if text)
        if path.is_file()
        else frozenset()
    )


def check_lengths(encode: Encoder, has_prompt: bool) -> AreLong:
    """Return a function that returns which passages an encoder cuts, with the prompt of documents if there is one."""
    prompt = {"prompt_name": DOCUMENT} if has_prompt else {}
    return lambda texts: [encoded.truncated for encoded in encode([{"text": text, **prompt} for text in texts])]


class Companions:
    """The reader and the second stage of an index, loaded when they are first used, in the thread that uses them.

    Args:
        folder: The folder of the index with its models.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded = dict[str, Predictor]()

    def has(self, kind: str) -> bool:
        """Return whether the index has a reader or a second stage."""
        return (self._folder / kind).is_dir()

    def _predict(self, kind: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        if not self.has(kind):
            raise PlanError(f"the index has no {kind}: 'fastserve index {self._folder} --{kind} RUN' adds one")
        if kind not in self._loaded:
            self._loaded[kind] = Predictor(load_artifact(self._folder / kind))
        predictor = self._loaded[kind]
        known = {name: value for name, value in parameters.items() if name in predictor.task.request_parameters}
        return predictor.predict(inputs, parameters=known)

    def rerank(self, query: str, hits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return hits by the scores of the second stage, which ``score`` then is; ``first_score`` is the one before.

        Raises:
            PlanError: The index has no second stage.
        """
        answers = self._predict(RERANKER, [{QUERY: query, DOCUMENT: hit["text"]} for hit in hits], {}) if hits else []
        scored = [
            {**hit, "score": answer["score"], "first_score": hit["score"]}
            for hit, answer in zip(hits, answers, strict=True)
        ]
        return sorted(scored, key=lambda hit: -hit["score"])

    def read(self, question: str, hits: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the best answer to a question in the texts of hits, with its source; ``None`` if no hit has one.

        ``start`` and ``end`` count the characters of the document. The score of an answer in a passage is weighed
        with that of the passage, relative to the best one.

        Raises:
            PlanError: The index has no reader.
        """
        inputs = [{"question": question, "context": hit["text"]} for hit in hits]
        answers = self._predict(READER, inputs, {"handle_impossible_answer": True}) if hits else []
        best = max((abs(hit["score"]) for hit in hits), default=1.0) or 1.0
        found = [
            {"answer": answer["answer"], "score": answer["score"] * max(0.0, hit["score"]) / best, "id": hit["id"],
             "start": hit["start"] + answer["start"], "end": hit["start"] + answer["end"], "passage": hit["text"]}
            for hit, answer in zip(hits, answers, strict=True) if answer["answer"]
        ]  # fmt: skip
        return max(found, key=lambda answer: float(answer["score"]), default=None)


def vectors_of(task: Task, answers: Sequence[Mapping[str, Any]]) -> Any:
    """Return the vectors of a model's answers as an array of shape (texts, width)."""
    import numpy as np

    return np.asarray([answer[task.answer_view.vector] for answer in answers], dtype=np.float32)
