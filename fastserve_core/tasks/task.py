"""The base class of tasks."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from fastserve_core.artifacts.checkpoint import max_positions
from fastserve_core.errors import DataError, OptionError, did_you_mean
from fastserve_core.tasks.answering_task import AnsweringTask
from fastserve_core.tasks.class_weights import balance_classes, count_labels
from fastserve_core.tasks.declarations import (
    BatchLoss,
    Column,
    DistillationTarget,
    LossOptions,
    Proposal,
)
from fastserve_core.tasks.encoded import IGNORE_INDEX, Arrays, Encoded, Encoder, Row

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fastserve_core.config.nodes import ModelSpec


class Task(AnsweringTask):
    """Everything that depends on the job of the model, and on nothing else.

    The class attributes are declarations that trainers, compressors, servers and reports read; the methods below them
    are in the order in which a row passes through them.
    """

    Options: ClassVar[type]
    scores_answers: ClassVar[bool] = False
    """A generative task whose metrics compare generated answers: ``batch_statistics`` then reads the outputs of
    ``Engine.generate``, and while a model is trained those of ``validation_outputs``."""
    is_pretraining: ClassVar[bool] = False
    """A model made for this task is a starting point for the others."""
    target_names: ClassVar[tuple[str, ...]] = ("labels",)
    """The arrays of a training batch that are not inputs."""
    model_computes_loss: ClassVar[bool] = True
    """The model is given the targets as well, and its output ``loss`` is the loss."""
    loss_options: ClassVar[frozenset[str]] = frozenset()
    """The fields of ``LossOptions`` that the loss reads."""
    distillation_targets: ClassVar[tuple[DistillationTarget, ...]] = ()
    """The outputs that a student is compared with its teacher on; empty for a task that cannot be distilled."""
    uncompressed_modules: ClassVar[tuple[str, ...]] = ()
    """Patterns of names of the model's modules that compressors neither cut nor round, nor the modules inside them."""
    compared_tables: ClassVar[tuple[str, ...]] = ()
    """Paths of the model's embedding tables whose rows its outputs are compared with, so that an error in any row
    changes ranks; compressors code them finer."""
    completes_rows: bool = False
    """``complete_rows`` adds something to training rows, for which it reads the weights of the model."""
    score_batch_size: ClassVar[int] = 64
    """The number of rows at most whose outputs are scored at once; few if outputs are large, as of a vocabulary."""
    request_parameters: ClassVar[Mapping[str, str]] = {}
    """The parameters that a request may have, each with the option that it sets for the request's inputs."""
    unknown_labels: ClassVar[Literal["refused", "errors"]] = "refused"
    """Whether rows of validation and test with a label that train lacks are refused, or read and scored as errors."""
    training_options: ClassVar[frozenset[str]] = frozenset()
    """The options that decide nothing but how a model is trained; a tuner may search them, as ``task.NAME``."""
    not_in_rows: ClassVar[frozenset[str]] = frozenset()
    """The options that do not decide how rows are read; prepared rows are reused whatever their values are."""

    joined_columns: ClassVar[tuple[str, ...]] = ()
    """The columns of rows of which ``join_rows`` makes inputs of predictions; rows of one input are equal in the first
    one. Empty for a task of which each row is an input."""

    readings: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """The options under which the rows of a file may be read differently; those that can use most rows are proposed."""

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None:
        self.options = options
        self.labels = list(labels)
        self.calibration: Arrays = {}
        """The result of ``calibrate`` for the model that answers; empty before, and while a model is trained."""
        self.head_report = ""
        """A line on the head of the last model of ``build``: kept, reordered or new. Trainers report it."""

    def read_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that a request's parameters set, by their names; raises ``OptionError``."""
        for name in parameters:
            if name not in self.request_parameters:
                hint = did_you_mean(name, self.request_parameters)
                raise OptionError(f"a request for the task {self.name} has no option '{name}'{hint}")
        return {self.request_parameters[name]: value for name, value in parameters.items()}

    def hash_files(self) -> Mapping[str, str]:
        """Return hashes of the files and models that options name, by option.

        They decide the prepared rows and a model from scratch, and stand for the names in the keys of both.

        Raises:
            UserError: One does not exist, or cannot be used.
        """
        return {}

    def with_options(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy of the task with other values of some options; ``windows`` and ``decode`` read them."""
        changed = copy.copy(self)
        changed.options = replace(self.options, **changes)
        return changed

    # -- rows ----------------------------------------------------------------------------------------

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The names of the columns that are predicted; empty for a task that learns from plain texts."""
        return tuple(column.name for column in self.columns if column.is_label)

    def split_record(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the rows of one record of a file, each with its place in the record; by default the record itself.

        A file format of the task may nest rows, as SQuAD's nests questions in paragraphs.
        """
        yield "", values

    def select_columns(self, names: Sequence[str]) -> Sequence[Column]:
        """Return the columns to read from records; by default all of the task's.

        A task that takes rows of several forms returns the columns of one of them.

        Args:
            names: The columns of the records, and those of the task for which the user named one.
        """
        return self.columns

    def make_splits(
        self, splits: Mapping[str, Sequence[Row]], report: Callable[[str], None]
    ) -> Mapping[str, Iterable[Row]] | None:
        """Return the rows of all splits, made of the rows of the files that ``check`` accepts.

        A task whose rows are made of several records of a file, such as the events of a user, overrides this; by
        default the rows are the records, and ``None`` leaves the missing splits to be cut from train.

        Args:
            splits: The rows by split, as far as they were given.
            report: Called with a message for each guess and each omission.

        Raises:
            DataError: No rows can be made.
        """
        return None

    def join_rows(self, rows: Iterable[Row], report: Callable[[str], None]) -> Iterator[Row]:
        """Yield the inputs of a prediction that rows of the ``joined_columns`` make, such as one for each user.

        Args:
            rows: The rows that ``check`` accepts.
            report: Called with a message for each guess and each omission.
        """
        yield from rows

    @abstractmethod
    def check(self, row: Row) -> str | None:
        """Return why the row cannot be used, or ``None``; may bring the row into its normal form."""

    def collect_labels(self, rows: Sequence[Row]) -> list[str]:
        """Return the labels of the training rows in order; raises ``DataError`` when they cannot be learnt."""
        return []

    def row_labels(self, row: Row) -> set[str]:
        """Return the labels of one row, each of which has to occur in the training split."""
        values = [row[name] for name in self.label_columns if row.get(name) is not None]
        return {str(label) for value in values for label in (value if isinstance(value, list) else [value])}

    def stratify_key(self, row: Row) -> str:
        """Return the row's stratum; rows of one stratum are spread evenly over the splits."""
        return ""

    def make_rows(self, inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> list[Row]:
        """Return rows for a caller's inputs and targets.

        Args:
            inputs: Values that ``read_input`` takes, or, without targets, rows by column name with their labels.
            targets: One value an input; a mapping by column name if the task has several label columns.

        Raises:
            DataError: Labels are missing, or there are more or fewer targets than inputs.
        """
        names = self.label_columns
        if not names:
            return [self.read_input(value) for value in inputs]
        if targets is None and all(isinstance(row, Mapping) and all(name in row for name in names) for row in inputs):
            return [dict(row) for row in inputs]
        if targets is None or len(targets) != len(inputs):
            raise DataError(
                f"{len(inputs)} inputs but {'no' if targets is None else len(targets)} labels: one each is needed"
            )
        labelled = targets if len(names) > 1 else [{names[0]: target} for target in targets]
        return [{**self.read_input(value), **target} for value, target in zip(inputs, labelled, strict=True)]

    @abstractmethod
    def read_input(self, value: Any) -> Row:
        """Return a row for an input of ``predict``: a text, a pair, a mapping; raises ``DataError``."""

    # -- a first look at a file ----------------------------------------------------------------------

    def recognizes_column(self, column: Column, values: Sequence[Any]) -> bool:
        """Return whether values look like those of a column, which is guessed if the data has none of its names."""
        return False

    def why_unlikely(self, rows: Sequence[Row]) -> str | None:
        """Return why rows that ``check`` accepts are hardly meant for this task; ``None`` if they may be."""
        return None

    def propose(self, rows: Sequence[Row]) -> Proposal:
        """Return settings for a first run with rows that ``check`` accepts."""
        return Proposal()

    # -- the model -----------------------------------------------------------------------------------

    @abstractmethod
    def init_from_scratch(self, spec: ModelSpec, rows: Sequence[Row], folder: Path) -> None:
        """Write the config of an untrained model, and a tokenizer learnt from the rows, into a folder."""

    @abstractmethod
    def build(self, folder: Path) -> nn.Module:
        """Return the torch model of a folder with this task's head, and set ``head_report``.

        The rows of a classifier's head are in the order of the task's labels. A head that the folder does not have
        gets random weights, which follow torch's seed.

        Raises:
            ModelError: The weights do not fit the config, or transformers cannot build the model.
        """

    def needs_reference(self, rows: Sequence[Encoded]) -> bool:
        """Return whether the loss of training rows depends on the outputs of the model before the training."""
        return False

    def reference_statistics(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        """Return, for each row of a training batch, what the loss needs of the model before the training."""
        return []

    def fit_reference(self, statistics: Sequence[Any]) -> None:
        """Keep the ``reference_statistics`` of all training rows for ``collate`` and ``loss``, in any order."""

    def fit_targets(self, targets: Iterable[Any]) -> None:
        """Learn from the targets of all training rows what ``build`` and ``loss`` need, such as their scale.

        A trainer calls this before ``build``; elsewhere, models are built without.
        """

    def initialize(self, model: nn.Module, encoded: Sequence[Encoded]) -> None:
        """Choose first weights of a model of ``build`` by the training rows, such as those of a new head.

        A trainer calls this before the first step, in every one of its processes; elsewhere, models keep the weights
        of ``build``. The same model and rows give the same weights.

        Args:
            model: The model, changed in place.
            encoded: The encoded training rows.
        """

    def finish(self, model: nn.Module) -> nn.Module:
        """Return a trained model of ``build`` in the form to save, which needs nothing of ``fit_targets``."""
        return model

    def write_files(self, folder: Path) -> None:
        """Write the files of a trained model's folder that neither the model nor its tokenizer has.

        A trainer calls this after the last step, on the task that encoded the training rows.
        """

    def check_model(self, folder: Path) -> None:
        """Check that the model of a folder can be used with the task's options, without loading its weights.

        Raises:
            UserError: It cannot.
        """

    def unknown_share(self, folder: Path, rows: Sequence[Row]) -> float:
        """Return the share of the rows' tokens that the tokenizer of a model folder does not know."""
        return 0.0

    def max_positions(self, folder: Path) -> int | None:
        """Return the number of tokens that a prompt and its answer may have together; ``None`` without a bound."""
        return max_positions(folder)

    def complete_checkpoint(self, folder: Path) -> None:
        """Add the settings that this task and engines share to the files of a model that was trained elsewhere."""

    def complete_artifact(self, folder: Path, source: Path) -> None:
        """Add files to the result of a stage, such as settings that other libraries read beside the model.

        Args:
            folder: The folder of the result, which is measured and published afterwards.
            source: The folder of the model that the stage started from.
        """

    def accepts_model(self, architecture: str) -> bool:
        """Return whether a model of that class was trained for this task, judged by its name."""
        return True

    def find_uncompressed(self, model: nn.Module) -> frozenset[str]:
        """Return the names of all modules of a model that ``uncompressed_modules`` excludes from compression."""
        found: set[str] = set()
        for name, _ in model.named_modules():  # a module precedes those inside it
            is_inside = name.rpartition(".")[0] in found
            if is_inside or any(fnmatchcase(name, pattern) for pattern in self.uncompressed_modules):
                found.add(name)
        return frozenset(found)

    # -- batches -------------------------------------------------------------------------------------

    @abstractmethod
    def encoder(self, folder: Path) -> Encoder:
        """Return the encoder for the tokenizer in a model folder."""

    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        """Return the epoch's training examples made of the encoded rows; the same seed gives the same ones.

        Both may be made or read when they are asked for, and may have ``lengths``, those of their items in
        tokens. The seed ``validation`` gives the examples that a model is scored on.
        """
        return encoded

    def complete_rows(self, rows: Sequence[Row], folder: Path, report: Callable[[str], None]) -> Callable[[Row], Row]:
        """Return a function that completes a training row before it is encoded, if the task ``completes_rows``.

        It may add texts of other rows that the model confuses with those of the row.

        Args:
            rows: All training rows.
            folder: The folder of the model that the training starts from.
            report: Called with a message on what is added.
        """
        return lambda row: row

    @abstractmethod
    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        """Return padded arrays of shape (batch, longest); with those of ``target_names`` if targets are asked for."""

    def windows(self, encoded: Encoded) -> Sequence[Encoded]:
        """Return the parts of an input that the model reads one by one; by default all of it at once.

        ``decode`` gets the outputs of each part in a row of their own, in this order.
        """
        return (encoded,)

    def collate_prompts(self, batch: Sequence[Encoded]) -> Arrays:
        """Return the arrays for ``Engine.generate``: padded on the left."""
        return self.collate(batch)

    # -- learning ------------------------------------------------------------------------------------

    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], options: LossOptions) -> BatchLoss:
        """Return the loss of a batch.

        Args:
            outputs: The model's outputs by name.
            batch: The tensors of ``collate`` with the targets.
            options: The trainer's options; only those in ``loss_options`` differ from their defaults.
        """
        rows = len(batch["input_ids"])
        return BatchLoss(outputs["loss"] * rows, rows)

    def balanced_class_weights(self, targets: Iterable[Any]) -> list[float]:
        """Return the weights of the labels by which rare ones count as much as common ones in ``loss``.

        Args:
            targets: The targets of the training rows.
        """
        return balance_classes(count_labels(targets, len(self.labels)))

    def counted_positions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return which positions of the outputs count, labelled or not: true or false in the targets' shape."""
        counted: Tensor = batch["labels"] != IGNORE_INDEX
        return counted

    def validation_outputs(
        self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Sequence[Encoded]
    ) -> Mapping[str, Tensor]:
        """Return the outputs of a model in training that ``batch_statistics`` reads; by default all of them.

        Args:
            model: The model in evaluation mode.
            inputs: The tensors of ``collate`` that the model takes, and the targets.
            batch: The labelled rows.
        """
        given = (
            inputs
            if self.model_computes_loss
            else {name: inputs[name] for name in inputs if name not in self.target_names}
        )
        outputs: Mapping[str, Tensor] = model(**given)
        return outputs
