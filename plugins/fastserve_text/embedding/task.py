"""The task: texts to vectors, whose similarity is that of the meanings of the texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.artifacts import list_weight_files, read_config
from fastserve_core.errors import DataError, ModelError, OptionError
from fastserve_core.tasks import (
    AnswerView,
    Arrays,
    BatchLoss,
    Column,
    DistillationTarget,
    Encoded,
    Encoder,
    LossOptions,
    MetricSpec,
    Proposal,
    Route,
    Row,
    TensorSpec,
    object_schema,
)
from fastserve_text.base import ReiterableTexts, TextOptions, TextTask
from fastserve_text.embedding.batches import make_batch
from fastserve_text.embedding.encoding import TextEncoder, split
from fastserve_text.embedding.metrics import METRICS, compute_scores, find_objective, list_texts
from fastserve_text.embedding.rows import COLUMNS, normalize_row, read_input, row_texts
from fastserve_text.embedding.sentence_settings import DOCUMENT, POOLINGS, QUERY, SentenceSettings
from fastserve_text.recognition import count_tokens, propose_length
from fastserve_text.sequence_task import check_metric

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from fastserve_core.config import ModelSpec

    Matrix = np.ndarray[Any, Any]

OUTPUT = "embedding"
"""The model's output: one vector for each text."""
PAIR_LOSSES, SCORE_LOSSES = ("ranking", "triplet"), ("cosent", "cosine")


@dataclass
class Options(TextOptions):
    """The options of the task; those that are ``None`` or empty are the model's own.

    ``pooling`` is how the vectors of the tokens become that of the text. ``normalize`` gives vectors the length 1.
    ``query_prompt`` and ``document_prompt`` are put before the texts. ``pair_loss`` is that of rows without a score,
    and ``score_loss`` that of rows with one. ``hard_negatives`` is the number of texts of other rows that are added to
    a row without a score, because the model takes them for close ones. ``widths`` are shorter lengths to train for,
    and ``dimensions`` is the length of the answers. ``metric`` is the score by which models are compared.
    """

    pooling: str | None = None
    normalize: bool | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    pair_loss: str = "ranking"
    score_loss: str = "cosent"
    hard_negatives: int = 0
    widths: list[int] = field(default_factory=list)
    dimensions: int | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = (("pooling", (None, *POOLINGS)), ("pair_loss", PAIR_LOSSES), ("score_loss", SCORE_LOSSES))
        for name, known in choices:
            if getattr(self, name) not in known:
                listed = ", ".join(filter(None, known))
                raise OptionError(f"task.{name} must be one of {listed}, not '{getattr(self, name)}'")
        if self.metric is not None:
            check_metric(self.metric, METRICS)
        if any(width < 1 for width in (*self.widths, 1 if self.dimensions is None else self.dimensions)):
            raise OptionError("task.widths and task.dimensions must be at least 1")
        if self.hard_negatives < 0:
            raise OptionError(f"task.hard_negatives must be 0 or more, not {self.hard_negatives}")


class Embedding(TextTask):
    """Turns a text into a vector (Reimers and Gurevych 2019)."""

    name: ClassVar[str] = "embedding"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = COLUMNS
    head: ClassVar[str] = ""
    metrics: ClassVar[Mapping[str, MetricSpec]] = METRICS
    outputs: ClassVar[tuple[str, ...]] = (OUTPUT,)
    target_names: ClassVar[tuple[str, ...]] = ("anchors", "positives", "twins", "negatives", "scores")
    model_computes_loss: ClassVar[bool] = False
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(OUTPUT, "vector"),)
    answer_view: ClassVar[AnswerView] = AnswerView(vector=OUTPUT)
    request_parameters: ClassVar[Mapping[str, str]] = {"normalize": "normalize", "dimensions": "dimensions"}
    not_in_rows: ClassVar[frozenset[str]] = frozenset(option.name for option in fields(Options))

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        super().__init__(options, labels)
        self.settings = SentenceSettings()
        """Those of the model that the last encoder was made for."""
        self.width: int | None = None
        """The length of its vectors."""
        self._bounds = (0.0, 1.0)

    @override
    @property
    def main_metric(self) -> str:
        return self.options.metric or next(iter(METRICS))

    # -- rows ----------------------------------------------------------------------------------------

    @property
    def request_columns(self) -> tuple[Column, ...]:
        """The text, and the name of its prompt."""
        return (COLUMNS[0], Column("prompt_name", required=False, title="Name of the prompt"))

    @override
    def check(self, row: Row) -> str | None:
        return normalize_row(row)

    @override
    def row_labels(self, row: Row) -> set[str]:
        return set()

    @override
    def why_unlikely(self, rows: Sequence[Row]) -> str | None:
        return "all rows have scores" if all("score" in row for row in rows) else None

    @override
    def propose_length(self, rows: Sequence[Row]) -> Proposal:
        length, note = propose_length([count_tokens(text) for text in self.texts(rows)])
        return Proposal({"max_length": length}, notes=(note,))

    @override
    def make_rows(self, inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> list[Row]:
        rows = [dict(value) if isinstance(value, Mapping) else {"text": value} for value in inputs]
        if targets is not None:
            if len(targets) != len(rows):
                raise DataError(f"{len(rows)} inputs but {len(targets)} labels: one each is needed")
            rows = [
                {**row, **(target if isinstance(target, Mapping) else {"positive": target})}
                for row, target in zip(rows, targets, strict=True)
            ]
        for number, row in enumerate(rows):
            if fault := normalize_row(row):
                raise DataError(f"row {number + 1} cannot be used: {fault}")
        return rows

    @override
    def read_input(self, value: Any) -> Row:
        return read_input(value)

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        return (text for row in rows for text in row_texts(row))

    # -- the model -----------------------------------------------------------------------------------

    def read_settings(self, folder: Path) -> SentenceSettings:
        """Return the settings of a model folder, with those of the options in their place."""
        own, options = SentenceSettings.read(folder), self.options
        given = {QUERY: options.query_prompt, DOCUMENT: options.document_prompt}
        prompts = {**own.prompts, **{name: text for name, text in given.items() if text is not None}}
        changes: dict[str, Any] = {name: getattr(options, name) for name in ("pooling", "normalize")}
        if options.widths:
            changes["widths"] = tuple(sorted(options.widths, reverse=True))
        changed = {name: value for name, value in changes.items() if value is not None}
        return replace(own, prompts={name: text for name, text in prompts.items() if text}, **changed)

    @override
    def check_model(self, folder: Path) -> None:
        super().check_model(folder)
        if read_config(folder).get("is_encoder_decoder"):
            raise ModelError(f"{folder} is an encoder with a decoder, which has no vector for a text: use an encoder")
        self.use_settings(folder)
        widths, width = self.settings.widths, self.width
        if width is not None and widths and widths[0] >= width:
            raise OptionError(f"task.widths has {widths[0]}, but the model's vectors have the length {width}")
        self.check_dimensions(self.options.dimensions)

    def use_settings(self, folder: Path) -> None:
        """Read the settings of a model folder, and the length of its vectors."""
        self.settings, self.width = self.read_settings(folder), read_width(folder)

    def check_dimensions(self, dimensions: Any) -> None:
        """Raise ``OptionError`` for a length of vectors that the model was not trained for."""
        known = (self.width, *self.settings.widths)
        if dimensions is not None and self.width is not None and dimensions not in known:
            raise OptionError(
                f"dimensions={dimensions} is not a length that the model was trained for: "
                f"{', '.join(map(str, known))}; task.widths trains others"
            )

    @override
    def read_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        options = super().read_parameters(parameters)
        self.check_dimensions(options.get("dimensions"))
        return options

    @override
    def init_from_scratch(self, spec: ModelSpec, rows: Sequence[Row], folder: Path) -> None:
        from fastserve_text.model_factory import write_scratch

        write_scratch(spec, ReiterableTexts(lambda: self.texts(rows)), folder, "Model")

    @override
    def build(self, folder: Path) -> nn.Module:
        from fastserve_text.embedding.pooled_model import attach_pooling
        from fastserve_text.model_factory import build_and_describe

        self.use_settings(folder)
        model, self.head_report = build_and_describe(folder, self.head, [])
        return attach_pooling(model, self.settings)

    @override
    def complete_artifact(self, folder: Path, source: Path) -> None:
        settings = self.read_settings(source)
        settings.write_component(folder)
        if list_weight_files(folder):  # an engine's own files are not those of sentence-transformers
            settings.write_modules(folder, read_width(folder), self.options.max_length)

    @override
    def accepts_model(self, architecture: str) -> bool:
        return architecture.endswith("Model")  # one without a head

    @override
    def fit_targets(self, targets: Iterable[Any]) -> None:
        import numpy as np

        scores = np.asarray([target[0] for target in targets], dtype=np.float64)
        scores = scores[~np.isnan(scores)]
        if len(scores) and np.ptp(scores):
            self._bounds = (float(scores.min()), float(scores.max()))

    # -- batches -------------------------------------------------------------------------------------

    @override
    def encoder(self, folder: Path) -> Encoder:
        self.use_settings(folder)
        return TextEncoder(self.prepare_padding(folder), self.settings, self.options.max_length)

    @property
    def completes_rows(self) -> bool:  # type: ignore[override]
        """Whether hard negatives are mined."""
        return bool(self.options.hard_negatives)

    @override
    def complete_rows(self, rows: Sequence[Row], folder: Path, report: Callable[[str], None]) -> Callable[[Row], Row]:
        if not self.completes_rows:
            return super().complete_rows(rows, folder, report)
        from fastserve_text.embedding.mining import add_negatives, embed_with, mine_negatives

        mined = mine_negatives(rows, self.options.hard_negatives, embed_with(self, folder), report)
        return lambda row: add_negatives(row, mined, self.options.hard_negatives)

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        return list_texts(encoded) if seed == "validation" else encoded

    @override
    def windows(self, encoded: Encoded) -> Sequence[Encoded]:
        return split(encoded)[:1]

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        if not targets:
            return super().collate(batch)
        texts, arrays = make_batch(batch)
        return {**super().collate(texts), **arrays}

    # -- learning ------------------------------------------------------------------------------------

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        from fastserve_text.embedding.losses import embedding_loss

        kinds = (self.options.pair_loss, self.options.score_loss)
        total = embedding_loss(outputs[OUTPUT], batch, kinds, self.settings.widths, self._bounds)
        rows, texts = len(batch["anchors"]), len(batch["input_ids"])
        return BatchLoss(total * (texts / rows), texts)  # the mean over rows; a teacher is compared on each text

    @override
    def counted_positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        import torch

        return torch.ones(len(batch["input_ids"]), dtype=torch.bool)

    # -- answers -------------------------------------------------------------------------------------

    def _vectors(self, outputs: Arrays) -> Matrix:
        """Return the vectors of the answers, cut and normalized as the options say."""
        import numpy as np

        vectors = outputs[OUTPUT].astype(np.float32)[:, : self.options.dimensions]
        normalizes = self.settings.normalize if self.options.normalize is None else self.options.normalize
        return scale_to_unit(vectors) if normalizes else vectors

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        vectors = self._vectors(outputs).tolist()
        return [
            {OUTPUT: vector, "tokens": len(self.windows(text)[0])} for vector, text in zip(vectors, batch, strict=True)
        ]

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        vectors = scale_to_unit(self._vectors(outputs))
        return [(text.decode_state, vector) for text, vector in zip(batch, vectors, strict=True)]

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        return compute_scores(statistics)

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        return find_objective(scores, self.options.metric, METRICS)

    @override
    def answer_schema(self) -> dict[str, Any]:
        vector = {"type": "array", "items": {"type": "number"}}
        return object_schema(embedding=vector, tokens={"type": "integer", "minimum": 1})

    @override
    def format_answer(self, answer: Mapping[str, Any]) -> str:
        vector = answer[OUTPUT]
        return f"{' '.join(f'{number:.4f}' for number in vector[:8])} … ({len(vector)} numbers)"

    @override
    def agrees(self, answer: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Return whether two vectors have nearly the same direction."""
        import numpy as np

        first, second = (scale_to_unit(np.asarray([one[OUTPUT]])) for one in (answer, other))
        return bool((first * second).sum() > AGREEMENT)

    @override
    def output_tensors(self) -> list[TensorSpec]:
        return [TensorSpec(OUTPUT, "FP32", (-1, -1))]

    @override
    def tensor_values(self, name: str, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        return [number for answer in answers for number in answer[OUTPUT]]

    @override
    def routes(self, folder: Path) -> Sequence[Route]:
        from fastserve_text.embedding.routes import make_routes

        self.use_settings(folder)
        return make_routes(folder, self.settings.prompts)


AGREEMENT = 0.99
"""The least cosine of two vectors that are the same answer."""


def scale_to_unit(vectors: Matrix) -> Matrix:
    """Return vectors of shape (texts, width) with the length 1; one of zeros stays as it is."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Matrix = vectors / np.maximum(lengths, 1e-12)
    return unit


def read_width(folder: Path) -> int | None:
    """Return the length of the last hidden states of a model folder, by the names of several families."""
    config = read_config(folder)
    return next((int(config[name]) for name in ("hidden_size", "dim", "d_model", "n_embd") if config.get(name)), None)
