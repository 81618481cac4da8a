"""What a task is: the protocol that its provider fills, and what goes in and out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from fastserve_core.config.nodes import ModelSpec
    from fastserve_core.tasks.generation import TextCodec

Row = dict[str, Any]
"""One example by column: ``text``, ``text_pair``, ``label``, ``tokens``, ``tags``."""

Arrays = dict[str, "np.ndarray[Any, Any]"]
"""Named arrays: what goes into an engine and what comes out."""


UNLABELLED = -101
"""The target of a place that has no label, and that a teacher speaks of; a row's label or tags are ``None`` then."""


@dataclass(frozen=True)
class Column:
    """A column that a task reads, under the name the task knows it by."""

    name: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Encoded:
    """One input as token ids; ``target`` is there when the row was labelled.

    ``inputs`` are equally long lists or arrays by the model's input name. ``memo`` is what the task needs again to
    decode (word positions, say). ``cut`` says that the input was longer than the model reads.
    """

    inputs: Mapping[str, Sequence[int]]
    target: Any = None
    memo: Any = None
    cut: bool = False

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])


class Encoder(Protocol):
    """Turns rows into token ids; made once for a model folder, used from any thread."""

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]: ...


class Task(Protocol):
    """Everything that depends on what is asked of the model, and on nothing else."""

    name: ClassVar[str]
    Options: ClassVar[type]
    columns: ClassVar[tuple[Column, ...]]
    head: ClassVar[str]
    """How the class name of a Hugging Face model for this task ends."""
    generative: ClassVar[bool]
    """Answers come from ``Engine.generate`` rather than from one pass."""
    foundation: ClassVar[bool]
    """A model made for this task is a starting point for the others."""

    options: Any
    labels: Sequence[str]

    def __init__(self, options: Any, labels: Sequence[str] = ()) -> None: ...

    def check(self, row: Row) -> str | None:
        """Why the row cannot be used, or ``None``; may bring the row into its normal form."""

    def find_labels(self, rows: Sequence[Row]) -> list[str]:
        """The labels in the training rows, in their order; raises ``InvalidData`` when they cannot be learnt."""

    def stratum(self, row: Row) -> str:
        """Rows of one stratum are spread evenly over the splits."""

    def read_input(self, value: Any) -> Row:
        """A row of what a caller of predict gives: a text, a pair, a mapping; raises ``InvalidData``."""

    def encoder(self, folder: Path) -> Encoder:
        """The encoder for the tokenizer in a model folder."""

    def examples(self, encoded: Sequence[Encoded], seed: str) -> Sequence[Encoded]:
        """The epoch's training examples made of the encoded rows; the same seed gives the same ones.

        Both may be made or read when they are asked for, and may have ``lengths``, those of their items in
        tokens. The seed ``validation`` gives the examples that a model is scored on.
        """

    def collate(self, batch: Sequence[Encoded], targets: bool = False) -> Arrays:
        """Padded arrays of shape (batch, longest); with ``labels`` when targets are asked for."""

    def prompts(self, batch: Sequence[Encoded]) -> Arrays:
        """The arrays for ``Engine.generate``: padded on the left."""

    def decode(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[dict[str, Any]]:
        """The answers to a batch, as the caller of predict sees them."""

    def evidence(self, outputs: Arrays, batch: Sequence[Encoded]) -> list[Any]:
        """What ``score`` needs of each row of a labelled batch; outputs are those whose name ends in ``logits``."""

    def score(self, evidence: Sequence[Any]) -> dict[str, float]:
        """The task's measures over a whole split."""

    def objective(self, scores: Mapping[str, float]) -> float:
        """The one number that choices are made by; higher is better."""

    def scratch(self, spec: ModelSpec, rows: Sequence[Row], folder: Path) -> None:
        """Write the config of an untrained model, and a tokenizer learnt from the rows, into a folder."""

    def build(self, folder: Path) -> nn.Module:
        """The torch model of a folder with this task's head; random weights where the folder has none."""

    def writer(self, folder: Path) -> TextCodec:
        """For a generative task: how texts are written token by token; raises ``InvalidPlan`` for any other."""
