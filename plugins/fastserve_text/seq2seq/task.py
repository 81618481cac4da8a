"""The task: a text for a text, by an encoder with a decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from fastserve_core.artifacts import write_json
from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import DataError, MissingPackageError, OptionError
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
    Row,
    object_schema,
)
from fastserve_text.base import TEXT, TextTask, check_files
from fastserve_text.examples import seed_number
from fastserve_text.losses import cross_entropy
from fastserve_text.recognition import count_tokens, holds_texts, propose_length
from fastserve_text.seq2seq.encoding import PairEncoder, collate_pairs, split_targets
from fastserve_text.seq2seq.metrics import (
    DESCRIPTIONS,
    METRICS,
    AnswerStatistic,
    LossStatistic,
    score_answers,
    score_losses,
)
from fastserve_text.seq2seq.options import Options
from fastserve_text.seq2seq.rows import read_references, read_source
from fastserve_text.seq2seq.special_tokens import read_positions, read_special_tokens
from fastserve_text.tokenization import check_embedding, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastserve_core.config import ModelSpec
    from fastserve_core.tasks import Route
    from fastserve_text.seq2seq.codec import SourceCodec

SOURCE = Column(
    "text",
    title="Text",
    usual_names=(
        *TEXT.usual_names, "source", "src", "input", "input_text", "dialogue", "abstract", "passage", "原文",
    ),
)  # fmt: skip
TARGET = Column(
    "target",
    is_label=True,
    usual_names=(
        "summary", "highlights", "tldr", "headline", "target_text", "tgt", "translation", "output", "summaries",
        "摘要", "译文", "标题",
    ),
)  # fmt: skip
SCORERS = ("rouge_score", "sacrebleu")
"""The modules that score answers."""
MIN_TARGET_TOKENS = 6
"""Estimated tokens of an average target, with the two that mark its ends; labels have fewer."""


class Seq2Seq(TextTask):
    """Writes a text for a text, such as a summary of a document."""

    name: ClassVar[str] = "seq2seq"
    Options: ClassVar[type] = Options
    columns: ClassVar[tuple[Column, ...]] = (SOURCE, TARGET)
    head: ClassVar[str] = "ForConditionalGeneration"
    untrained_model: ClassVar[str] = "bert"
    is_generative: ClassVar[bool] = True
    scores_answers: ClassVar[bool] = True
    predicts_in_batches: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, MetricSpec]] = {**METRICS, **DESCRIPTIONS}
    model_computes_loss: ClassVar[bool] = False
    loss_options: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = (DistillationTarget(),)
    outputs: ClassVar[tuple[str, ...]] = ("logits", "loss", "tokens", "ids")
    answer_view: ClassVar[AnswerView] = AnswerView(headline="text")
    request_parameters: ClassVar[Mapping[str, str]] = {
        name: name
        for name in (
            "max_new_tokens", "min_new_tokens", "num_beams", "length_penalty", "no_repeat_ngram_size", "temperature",
        )
    }  # fmt: skip
    not_in_rows: ClassVar[frozenset[str]] = frozenset(field.name for field in fields(Options))

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        super().__init__(options, labels)
        self._num_cut = self._num_targets = self._num_validation = 0
        self._target_positions: int | None = None

    @property
    def main_metric(self) -> str:
        """The metric of the option ``metric``."""
        return str(self.options.metric)

    # -- rows ----------------------------------------------------------------------------------------

    @override
    def check(self, row: Row) -> str | None:
        for name, read in (("text", read_source), ("target", read_references)):
            try:
                row[name] = read(row.get(name))
            except ValueError as error:
                return f"'{name}' {error}"
        return None

    @override
    def row_labels(self, row: Row) -> set[str]:
        return set()

    @override
    def read_input(self, value: Any) -> Row:
        row = dict(value) if isinstance(value, Mapping) else {"text": value}
        try:
            row["text"] = read_source(row.get("text"))
        except ValueError as error:
            raise DataError(f"an input cannot be used: 'text' {error}") from error
        return row

    @override
    def texts(self, rows: Sequence[Row]) -> Iterator[str]:
        for row in rows:
            yield row["text"]
            yield from row.get("target") or ()

    # -- a first look at a file ----------------------------------------------------------------------

    @override
    def recognizes_column(self, column: Column, values: Sequence[Any]) -> bool:
        return column is SOURCE and holds_texts(values)

    @override
    def why_unlikely(self, rows: Sequence[Row]) -> str | None:
        words = sum(count_tokens(text) for row in rows for text in row["target"]) / len(rows)
        return None if words > MIN_TARGET_TOKENS else "the targets are single words, as labels are"

    @override
    def propose_length(self, rows: Sequence[Row]) -> Proposal:
        length, note = propose_length(count_tokens(row["text"]) for row in rows)
        targets, target_note = propose_length(count_tokens(text) for row in rows for text in row["target"])
        options = {"max_length": length, "max_target_length": targets, "max_new_tokens": targets}
        return Proposal(options, notes=(f"source: {note}", f"target: {target_note}"))

    # -- the model -----------------------------------------------------------------------------------

    @override
    def check_model(self, folder: Path) -> None:
        from fastserve_text.seq2seq.model import check_kind

        if missing := missing_packages(SCORERS):
            raise MissingPackageError(f"{self.name} needs {', '.join(missing)}: pip install 'fastserve-core[seq2seq]'")
        check_files(folder)
        check_kind(folder, self.name)
        tokenizer = load_tokenizer(folder, self.options.max_length)
        read_special_tokens(folder, tokenizer)
        check_embedding(folder, tokenizer)
        limits = dict(zip(("max_length", "max_target_length"), read_positions(folder), strict=True))
        for name, most in (*limits.items(), ("max_new_tokens", limits["max_target_length"])):
            if most is not None and getattr(self.options, name) > most:
                raise OptionError(
                    f"task.{name} is {getattr(self.options, name)}, but the model has {most} positions "
                    f"(model.max_positions): set task.{name}={most} or less"
                )

    @override
    def max_positions(self, folder: Path) -> int | None:
        """Return ``None``: source and answer have positions of their own, which are checked one by one."""
        return None

    @override
    def complete_checkpoint(self, folder: Path) -> None:
        """Leave only the tokens in the settings of generation: the task's options decide the rest."""
        tokens = read_special_tokens(folder, load_tokenizer(folder, self.options.max_length))
        write_json(folder / "generation_config.json", tokens.as_settings())

    @override
    def accepts_model(self, architecture: str) -> bool:
        return architecture.endswith((self.head, "EncoderDecoderModel"))

    @override
    def init_from_scratch(self, spec: ModelSpec, rows: Sequence[Row], folder: Path) -> None:
        from fastserve_text.model_factory import write_scratch

        if spec.name != "bert":
            raise OptionError(
                f"{self.name} starts from scratch with model=bert, of which it takes two; not {spec.name}"
            )
        write_scratch(spec, list(self.texts(rows)), folder, "Model")

    @override
    def fit_targets(self, targets: Iterable[Any]) -> None:
        for target in targets:
            for ids in split_targets(target):
                self._num_targets += 1
                self._num_cut += ids[-1] != self._encode.special.end

    @override
    def build(self, folder: Path) -> nn.Module:
        from fastserve_text.seq2seq.model import build_model

        special = read_special_tokens(folder, load_tokenizer(folder, self.options.max_length))
        model, report = build_model(folder, special)
        cut = (
            f"{self._num_cut} of {self._num_targets} targets are longer than task.max_target_length="
            f"{self.options.max_target_length} tokens and are cut there"
        )
        self.head_report = "; ".join([*([report] if report else []), *([cut] if self._num_cut else [])])
        return model

    # -- batches -------------------------------------------------------------------------------------

    @override
    def encoder(self, folder: Path) -> Encoder:
        self._encode = PairEncoder(folder, self.options)
        self._target_positions = read_positions(folder)[1]
        return self._encode

    @override
    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        from fastserve_text.seq2seq.training_examples import EpochExamples

        if seed != "validation":
            return EpochExamples(encoded, seed)
        self._num_validation = len(encoded)
        return encoded

    @override
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        return collate_pairs(batch, self._encode.special, targets)

    # -- learning ------------------------------------------------------------------------------------

    @override
    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        return cross_entropy(outputs["logits"], batch["labels"], options)

    @override
    def validation_outputs(
        self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Sequence[Encoded]
    ) -> Mapping[str, Tensor]:
        from fastserve_text.seq2seq.evaluation import compute_losses, generate_ids

        losses, tokens = compute_losses(model, inputs)
        rows = [number for number, row in enumerate(batch) if self._is_in_sample(row)]
        ids = {"ids": generate_ids(model, inputs, rows, self.options)} if rows else {}
        return {"loss": losses, "tokens": tokens, **ids}

    def _is_in_sample(self, row: Encoded) -> bool:
        """Return whether a row is answered while a model is trained; always the same rows are, whatever their order."""
        return bool(seed_number(str(row.inputs["input_ids"])) % self._num_validation < self.options.eval_rows)

    # -- answers -------------------------------------------------------------------------------------

    @override
    def read_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        options = super().read_parameters(parameters)
        requested, most = options.get("max_new_tokens"), self._target_positions
        if most is not None and isinstance(requested, int) and requested > most:
            raise OptionError(f"max_new_tokens must be at most {most}, the model's positions, not {requested}")
        return options

    @override
    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        return [{"text": self._decode_ids(ids), "tokens": len(ids)} for ids in map(self._strip, outputs["ids"])]

    def _strip(self, ids: Any) -> list[int]:
        """Return the tokens of an answer without the padding after its end."""
        found = [int(token) for token in ids]
        end = self._encode.special.end
        return found[: found.index(end) + 1] if end in found else found

    def _decode_ids(self, ids: Sequence[int]) -> str:
        text: str = self._encode.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    @override
    def batch_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        found: list[Any] = []
        if "loss" in outputs:
            found = [
                LossStatistic(*pair) for pair in zip(outputs["loss"].tolist(), outputs["tokens"].tolist(), strict=True)
            ]
        for ids, one in zip(outputs.get("ids", ()), batch, strict=False):
            if ids[0] >= 0:  # the others are not in the sample of an evaluation
                found.append(AnswerStatistic(self._decode_ids(self._strip(ids)), one.decode_state))
        return found

    @override
    def score(self, statistics: Sequence[Any]) -> dict[str, float]:
        answers = [one for one in statistics if isinstance(one, AnswerStatistic)]
        losses = [one for one in statistics if isinstance(one, LossStatistic)]
        return {**(score_answers(answers) if answers else {}), **(score_losses(losses) if losses else {})}

    @override
    def objective(self, scores: Mapping[str, float]) -> float:
        name = self.options.metric
        return scores[name] if name in scores else -scores["loss"]  # task.eval_rows=0 scores no answer in training

    @override
    def answer_schema(self) -> dict[str, Any]:
        return object_schema(text={"type": "string"}, tokens={"type": "integer", "minimum": 0})

    # -- serving -------------------------------------------------------------------------------------

    @override
    def routes(self, folder: Path) -> Sequence[Route]:
        from fastserve_text.seq2seq.routes import AnswerCompletions, Summarize

        self._target_positions = read_positions(folder)[1]
        return Summarize(), AnswerCompletions(self._target_positions)

    @override
    def writer(self, folder: Path) -> SourceCodec:
        from fastserve_text.seq2seq.codec import SourceCodec

        return SourceCodec(folder, self.options)
