"""Training examples that are made when they are asked for, from a seed and their number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, overload

from fastserve_core.tasks import Encoded

if TYPE_CHECKING:
    import numpy as np


class Examples(Sequence[Encoded]):
    """As many as ``lengths`` has numbers, which are their lengths in tokens; a slice is a list."""

    lengths: np.ndarray[Any, Any]

    @abstractmethod
    def make(self, number: int) -> Encoded:
        """The example of that number: always the same one."""

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice) -> list[Encoded]: ...
    def __getitem__(self, place: int | slice) -> Encoded | list[Encoded]:
        found = range(len(self))[place]
        return [self.make(number) for number in found] if isinstance(found, range) else self.make(found)


def seed_number(seed: str) -> int:
    """A number for numpy's generators; unlike ``hash``, the same in every process."""
    return int.from_bytes(blake2b(seed.encode(), digest_size=8).digest(), "little")
