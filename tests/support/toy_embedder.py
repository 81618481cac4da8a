"""A task of a stranger's package: vectors of texts, from the hidden states of a model without a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastserve_core.tasks import BatchLoss, Column, DistillationTarget, MetricSpec, PredictionRoute, TensorSpec
from fastserve_text import TextTask


@dataclass
class Options:
    max_length: int = 64


@dataclass
class EmbedRequest:
    inputs: list[str]
    dimensions: int = 0


class Embed(PredictionRoute):
    path, summary = "/embed", "Return a vector for each text"
    request_type, response_type = EmbedRequest, list[list[float]]

    def inputs(self, body: EmbedRequest) -> list[str]:
        return body.inputs

    def response(self, body: EmbedRequest, predictions: Sequence[Mapping[str, Any]], model: str) -> list[list[float]]:
        return [prediction["embedding"][: body.dimensions or None] for prediction in predictions]


class Embedder(TextTask):
    """A text's vector is the direction of its first token; its first numbers are taught to name the topic."""

    name = "toy_embedder"
    Options = Options
    columns = (Column("text", title="Text"), Column("topic", is_label=True))
    head = ""
    outputs = ("last_hidden_state",)
    metrics = {"accuracy": MetricSpec(unit="%", is_share_of_rows=True)}  # noqa: RUF012
    model_computes_loss = False
    distillation_targets = (DistillationTarget("last_hidden_state", "embedding"),)
    uncompressed_modules = ("embeddings",)

    def collect_labels(self, rows: Sequence[Any]) -> list[str]:
        return sorted({row["topic"] for row in rows})

    def accepts_model(self, architecture: str) -> bool:
        return architecture == "BertModel"

    def encoder(self, folder: Path) -> Any:
        return self.text_encoder(folder, lambda row: self.labels.index(row["topic"]) if "topic" in row else None)

    def loss(self, outputs: Any, batch: Any, options: Any) -> BatchLoss:
        from torch.nn import functional

        vectors = functional.normalize(outputs["last_hidden_state"][:, 0].float(), dim=-1)
        total = functional.cross_entropy(10 * vectors[:, : len(self.labels)], batch["labels"], reduction="sum")
        return BatchLoss(total, len(vectors))

    def counted_positions(self, batch: Any) -> Any:
        return batch["attention_mask"].bool()

    def _vectors(self, outputs: Any) -> Any:
        first = outputs["last_hidden_state"][:, 0]
        return first / np.linalg.norm(first, axis=-1, keepdims=True)

    def decode(self, outputs: Any, batch: Any) -> list[dict[str, Any]]:
        return [{"embedding": vector} for vector in self._vectors(outputs).tolist()]

    def batch_statistics(self, outputs: Any, batch: Any) -> list[bool]:
        guesses = self._vectors(outputs)[:, : len(self.labels)].argmax(-1)
        return [bool(guess == example.target) for guess, example in zip(guesses, batch, strict=True)]

    def score(self, statistics: Sequence[bool]) -> dict[str, float]:
        return {"accuracy": sum(statistics) / len(statistics)}

    def objective(self, scores: Mapping[str, float]) -> float:
        return scores["accuracy"]

    def routes(self, folder: Path) -> list[Embed]:
        return [Embed()]

    def output_tensors(self) -> list[TensorSpec]:
        return [TensorSpec("embedding", "FP32", (-1, -1))]

    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[float]:
        return [number for answer in answers for number in answer["embedding"]]
