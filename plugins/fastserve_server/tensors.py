"""Tensors in the binary format of the Open Inference Protocol."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

NUMBER_FORMATS = {"FP32": "f", "INT64": "q"}
"""Format characters of ``struct`` by datatype."""


class TensorError(ValueError):
    """The bytes are not a valid tensor."""


def pack_bytes(values: Iterable[bytes]) -> bytes:
    """Pack a BYTES tensor: each value after its length, as a little-endian uint32."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def unpack_bytes(blob: memoryview, max_count: int = sys.maxsize) -> list[bytes]:
    """Unpack a BYTES tensor.

    Args:
        blob: The tensor.
        max_count: Number of values after which the rest is not read.

    Raises:
        TensorError: The bytes end within a length or a value.
    """
    values: list[bytes] = []
    offset = 0
    while offset < len(blob) and len(values) < max_count:
        if offset + 4 > len(blob):
            raise TensorError("a BYTES tensor ends within a length")
        (size,) = struct.unpack_from("<I", blob, offset)
        offset += 4 + size
        if offset > len(blob):
            raise TensorError("a BYTES tensor ends within a value")
        values.append(bytes(blob[offset - size : offset]))
    return values


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """Pack a tensor: texts as ``pack_bytes`` does, numbers little-endian, row by row."""
    if datatype == "BYTES":
        return pack_bytes(value.encode() for value in values)
    return struct.pack(f"<{len(values)}{NUMBER_FORMATS[datatype]}", *values)


def flatten(data: Iterable[Any]) -> Iterator[Any]:
    """Yield the values of a nested tensor row by row; at most three levels are flattened."""
    for row in data:
        if not isinstance(row, list):
            yield row
            continue
        for value in row:
            if isinstance(value, list):
                yield from value
            else:
                yield value
