"""The types of rows, of encoded inputs, and of the arrays that engines read and write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

Row = dict[str, Any]
"""One example by column, as the task names its columns."""

Arrays = dict[str, "np.ndarray[Any, Any]"]
"""Named arrays: the inputs and the outputs of an engine."""

IGNORE_INDEX = -100
"""The label of a position that no loss and no score counts."""
UNLABELLED = -101
"""The label of a position without a label, on which a teacher is compared; a row's label columns are ``None`` then."""


RunSplit = Callable[[str], Iterator[tuple[Arrays, Sequence["Encoded"]]]]
"""Yields a model's outputs on the rows of a split, batch by batch, with the inputs."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One input as token ids; ``target`` is there when the row was labelled.

    ``inputs`` are equally long lists or arrays by the model's input name. ``decode_state`` is what the task needs again
    to decode, such as word positions. ``truncated`` marks an input that was longer than the model reads.
    """

    inputs: Mapping[str, Sequence[int]]
    target: Any = None
    decode_state: Any = None
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])


class Encoder(Protocol):
    """Turns rows into token ids; made once for a model folder, used from any thread."""

    def __call__(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode the rows, in their order."""
