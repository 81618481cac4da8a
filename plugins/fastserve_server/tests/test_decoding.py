"""Compressed bodies, numbers of clients, and messages about fields."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from fastserve_server.decoding import MAX_NAME_LENGTH, decompress, parse_count, validation_message
from fastserve_server.schemas import InferRequest, PredictRequest
from fastserve_server.web import decode
from fastserve_text.openai_schemas import ChatRequest, CompletionRequest

LIMIT = 1000


@given(st.binary(max_size=LIMIT), st.sampled_from([b"gzip", b" X-GZIP", b"deflate", b"identity", b""]))
def test_a_body_is_decompressed(body: bytes, encoding: bytes) -> None:
    compress = {b"deflate": zlib.compress, b"identity": bytes, b"": bytes}.get(encoding, gzip.compress)
    assert decompress(compress(body), encoding, LIMIT) == body


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(bytes(LIMIT + 1), mtime=0), b"gzip", 413),
        (zlib.compress(bytes(10**7)), b"deflate", 413),
        (gzip.compress(b"a body", mtime=0)[:-3], b"gzip", 400),
        (gzip.compress(b"a body", mtime=0) + b"more", b"gzip", 400),
        (b"{}", b"gzip", 400),
        (b"", b"gzip", 400),
        (b"{}", b"br", 400),
        (b"{}", b"gzip, gzip", 400),
    ],
)
def test_a_body_that_cannot_be_decompressed(body: bytes, encoding: bytes, status: int) -> None:
    with pytest.raises(HTTPException) as refused:
        decompress(body, encoding, LIMIT)
    assert refused.value.status_code == status


@given(st.text() | st.integers().map(str))
def test_a_number_of_a_client_is_one_or_none(digits: str) -> None:
    assert parse_count(digits) == (int(digits) if digits.isascii() and digits.isdecimal() else None) or len(digits) > 18


def test_a_number_of_too_many_digits_is_none() -> None:
    assert parse_count("9" * 5000) is None


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (PredictRequest, '{"input": []}', "the field 'input' is not supported; did you mean 'inputs'?"),
        (PredictRequest, '{"inputs": [1]}', "- at `$.inputs["),
        (InferRequest, '{"inputs": [{"names": "a"}]}', "the field 'inputs[0].names' is not supported"),
        (CompletionRequest, '{"model": "m", "prompt": "a", "echo": true}', "the field 'echo' is not supported, except"),
        (ChatRequest, '{"logit_biases": {}}', "did you mean 'logit_bias'?"),
        (ChatRequest, '{"model": "m", "messages": [], "n": 0}', "at `$."),
        (PredictRequest, '{"%s": 1}' % ("a" * 10**6), "is not supported"),
    ],
)
def test_a_message_names_the_field(kind: type, body: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(body, type=kind)
    found = validation_message(kind, str(refused.value))
    assert message in found
    assert len(found) < MAX_NAME_LENGTH + 500


@pytest.mark.parametrize("kind", [CompletionRequest, ChatRequest])
def test_fields_that_are_not_supported_may_be_left_out(kind: type) -> None:
    of_messages = {"annotations", "refusal", "tool_calls"}
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    unsupported: frozenset[str] = kind.unsupported  # type: ignore[attr-defined]
    assert unsupported - of_messages <= fields.keys()
    assert not any(fields[name].required or fields[name].default is not None for name in unsupported - of_messages)


@dataclass
class Question:
    """A body of a task's own route."""

    question: str
    count: int = 1


class Answer(TypedDict):
    """Another one."""

    answer: str


class Loose(msgspec.Struct, rename="camel"):
    """One of msgspec's that permits unknown fields."""

    the_text: str


@pytest.mark.parametrize(
    ("kind", "body", "named"),
    [
        (Question, '{"question": "who?", "count": 2}', ""),
        (Question, '{"question": "who?", "counts": 2}', "the field 'counts' is not supported; did you mean 'count'?"),
        (Answer, '{"answer": "she"}', ""),
        (Answer, '{"answer": "she", "answers": []}', "the field 'answers' is not supported"),
        (Loose, '{"theText": "a"}', ""),
        (Loose, '{"theText": "a", "the_text": "b"}', "the field 'the_text' is not supported"),
        (dict[str, int], '{"anything": 1}', ""),
    ],
)
def test_fields_that_the_type_of_a_route_does_not_have_are_refused(kind: Any, body: str, named: str) -> None:
    if not named:
        decode(kind, body.encode())
        return
    with pytest.raises(HTTPException) as refused:
        decode(kind, body.encode())
    assert refused.value.status_code == 422
    assert refused.value.detail.startswith(named)
