"""Tensors as the Open Inference Protocol's binary extension packs them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class BadTensor(ValueError):
    """Bytes or a shape that are no such tensor."""


def pack_bytes(values: Iterable[bytes]) -> bytes:
    """Each value after its length, as four bytes, little-endian."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def unpack_bytes(blob: memoryview) -> list[bytes]:
    """What ``pack_bytes`` packed; raises ``BadTensor``."""
    values, place = [], 0
    while place < len(blob):
        if place + 4 > len(blob):
            raise BadTensor("a BYTES tensor ends within a length")
        (size,) = struct.unpack_from("<I", blob, place)
        place += 4 + size
        if place > len(blob):
            raise BadTensor("a BYTES tensor ends within a value")
        values.append(bytes(blob[place - size : place]))
    return values


def pack_floats(values: Sequence[float]) -> bytes:
    """FP32, little-endian, row by row."""
    return struct.pack(f"<{len(values)}f", *values)


def flatten(data: Iterable[Any]) -> Iterator[Any]:
    """The values of a tensor that was sent nested, row by row; at most three levels are followed."""
    for one in data:
        if not isinstance(one, list):
            yield one
            continue
        for two in one:
            if isinstance(two, list):
                yield from two
            else:
                yield two
