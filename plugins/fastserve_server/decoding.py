"""Bodies of requests: decompression within a limit, and messages about fields that are unknown or not supported."""

from __future__ import annotations

import functools
import re
import zlib
from typing import Any

import msgspec
from starlette.exceptions import HTTPException

from fastserve_core.errors import did_you_mean

WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""zlib's ``wbits`` for each supported ``Content-Encoding``."""
UNKNOWN_FIELD = re.compile("Object contains unknown field `(.*)`", re.DOTALL)
MAX_NAME_LENGTH = 100
"""Maximum number of characters of a client's field name in a message."""
MAX_DIGITS = 18
"""Maximum number of digits of a client's number: Python refuses to convert more than 4300."""


def decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Return a body without its compression, if it has one.

    Args:
        body: The body.
        encoding: Its ``Content-Encoding``.
        limit: Maximum number of bytes of the result.

    Raises:
        HTTPException: 400 if the encoding is not supported or the body is damaged; 413 if the result is too large.
    """
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    bits = WINDOW_BITS.get(encoding)
    if bits is None:
        raise HTTPException(400, f"the content encoding {encoding.decode('latin-1')!r} is not supported: use gzip")
    stream = zlib.decompressobj(bits)
    try:
        result = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise HTTPException(400, f"the compressed body cannot be read: {error}") from error
    if len(result) > limit:
        raise too_large(limit)
    if not stream.eof or stream.unused_data:
        raise HTTPException(400, "the compressed body ends too early, or has more bytes after its end")
    return result


def too_large(limit: int) -> HTTPException:
    """Return the error for a body of more than ``limit`` bytes."""
    return HTTPException(413, f"the body has more than {limit} bytes, which is this server's limit")


def parse_count(digits: str) -> int | None:
    """Parse a number that a client gives as decimal digits; ``None`` if it is anything else, or too long."""
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS
    return int(digits) if is_number else None


@functools.cache
def field_names(kind: Any) -> frozenset[str] | None:
    """Return the names of a body's fields in JSON; ``None`` if it is not of a type with named fields."""
    described = msgspec.inspect.type_info(kind)
    fields = getattr(described, "fields", None)
    return None if fields is None else frozenset(field.encode_name for field in fields)


@functools.cache
def _fields_to_check(kind: Any) -> frozenset[str]:
    """Return the names of a body's fields if msgspec ignores all others, as for a dataclass; else none."""
    is_strict = getattr(msgspec.inspect.type_info(kind), "forbid_unknown_fields", False)
    return frozenset() if is_strict else field_names(kind) or frozenset()


def check_fields(kind: Any, body: bytes | memoryview) -> None:
    """Check that a valid body has no field that its type does not have, if msgspec has not checked that.

    Raises:
        HTTPException: 422, with the name of the field.
    """
    names = _fields_to_check(kind)
    for name in msgspec.json.decode(body, type=dict[str, msgspec.Raw]) if names else ():
        if name not in names:
            short = name[:MAX_NAME_LENGTH]
            raise HTTPException(422, f"the field '{short}' is not supported{did_you_mean(short, names)}")


def validation_message(kind: Any, message: str) -> str:
    """Return a message about a body that names the field if the field is unknown or not supported.

    Args:
        kind: Type of the body; its ``unsupported`` has the names of fields that permit only values without an effect.
        message: Message of a ``msgspec.ValidationError``.
    """
    fault, _, path = message.partition(" - at `$.")
    path = path.removesuffix("`")
    unsupported: frozenset[str] = getattr(kind, "unsupported", frozenset())
    if unknown := UNKNOWN_FIELD.match(fault):
        name = unknown[1][:MAX_NAME_LENGTH]
        fields = set(field_names(kind) or ()) - unsupported
        return (
            f"the field '{path}.{name}' is not supported"
            if path
            else (f"the field '{name}' is not supported{did_you_mean(name, fields)}")
        )
    names = re.findall(r"\w+", path)
    if names and {names[0], names[-1]} & unsupported:
        return f"the field '{path}' is not supported, except with a value that has no effect"
    return message
