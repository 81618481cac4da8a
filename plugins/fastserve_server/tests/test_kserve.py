"""The Open Inference Protocol, with Triton's own client as it comes."""

from __future__ import annotations

import contextlib
import json
import re
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from fastserve_server.server import ServerProcess
from fastserve_server.tensors import TensorError, flatten, pack, pack_bytes, unpack_bytes

MODEL = "tiny-classifier"
INPUT = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
TEXTS = ["the film is wonderful", "größe ✓"]


@given(st.lists(st.binary()))
def test_packed_bytes_are_unpacked(values: list[bytes]) -> None:
    assert unpack_bytes(memoryview(pack_bytes(values))) == values


@given(st.binary(max_size=40))
def test_unpacking_anything_gives_values_or_reports_it(blob: bytes) -> None:
    with contextlib.suppress(TensorError):
        assert pack_bytes(unpack_bytes(memoryview(blob))) == blob


def test_no_more_values_are_unpacked_than_wanted() -> None:
    assert unpack_bytes(memoryview(pack_bytes([b"a", b"b"]) + b"cut"), max_count=1) == [b"a"]


def test_each_datatype_is_packed_in_its_format() -> None:
    assert struct.unpack("<2f", pack("FP32", [0.5, -2.0])) == (0.5, -2.0)
    assert struct.unpack("<2q", pack("INT64", [3, -(2**40)])) == (3, -(2**40))
    assert unpack_bytes(memoryview(pack("BYTES", TEXTS))) == [text.encode() for text in TEXTS]


def test_nested_data_is_read_row_by_row() -> None:
    assert list(flatten([["a"], ["b", ["c"]], "d"])) == ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Any:
    made = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield made
    made.close()


def tensor(values: list[str], name: str = "text", binary: bool = True) -> Any:
    made = triton.InferInput(name, [len(values)], "BYTES")
    made.set_data_from_numpy(np.array([one.encode() for one in values], dtype=np.object_), binary_data=binary)
    return made


def test_the_client_finds_the_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["name"] == "fastserve"
    metadata = client.get_model_metadata(MODEL)
    assert [one["name"] for one in metadata["outputs"]] == ["label", "scores"]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_the_client_gets_the_answers_of_predict(client: Any, server: ServerProcess, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")]
    result = client.infer(MODEL, [tensor(TEXTS, binary=binary)], outputs=outputs, request_id="7")
    expected = httpx.post(server.url + "/predict", json={"inputs": TEXTS}).json()["predictions"]
    labels = [one.decode() if isinstance(one, bytes) else one for one in result.as_numpy("label")]
    assert labels == [one["label"] for one in expected]
    scores = result.as_numpy("scores")
    assert scores.dtype == np.float32
    assert np.allclose(scores, [[one["scores"][label] for label in ("negative", "positive")] for one in expected])
    assert result.get_response()["id"] == "7"


def test_the_client_as_it_comes_and_pairs(client: Any) -> None:
    result = client.infer(MODEL, [tensor([*TEXTS, "x"]), tensor(["a pair", "another", "third"], "text_pair")])
    assert result.as_numpy("scores").shape == (3, 2)


def test_the_client_gets_the_reason_of_an_error(client: Any) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer("another", [tensor(TEXTS)])
    assert str(refused.value).startswith("[404] the server has no model 'another'")


def test_the_client_names_the_version_and_compresses(client: Any) -> None:
    assert client.is_model_ready(MODEL, "1")
    assert client.get_model_metadata(MODEL, "1")["versions"] == ["1"]
    expected = client.infer(MODEL, [tensor(TEXTS)]).as_numpy("scores")
    for algorithm in ("gzip", "deflate"):
        result = client.infer(MODEL, [tensor(TEXTS)], model_version="1", request_compression_algorithm=algorithm)
        assert (result.as_numpy("scores") == expected).all()
    with pytest.raises(InferenceServerException, match="has no version '2'; its only one is 1"):
        client.infer(MODEL, [tensor(TEXTS)], model_version="2")


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"outputs": [triton.InferRequestedOutput("scores", class_count=1)]}, "classification"),
        ({"sequence_id": 7, "sequence_start": True}, "sequence_id"),
        ({"priority": 2}, "priority"),
        ({"timeout": 1000}, "timeout"),
        ({"parameters": {"top_p": 0.5}}, "top_p"),
        ({"outputs": [triton.InferRequestedOutput("label")] * 2}, "the output 'label' was requested twice"),
    ],
)
def test_unsupported_features_of_the_client_are_refused(client: Any, more: Any, named: str) -> None:
    with pytest.raises(InferenceServerException, match=named) as refused:
        client.infer(MODEL, [tensor(TEXTS)], **more)
    assert str(refused.value).startswith("[422]")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_name": MODEL}, "'model_name'"),
        ({"parameters": {"binary_data_output": 1}}, "'binary_data_output' must be true or false"),
        ({"outputs": [{"name": "label", "parameters": {"binary": True}}]}, r"'outputs\[0\]\.parameters\.binary'"),
        ({"outputs": [{"name": "label", "datatype": "BYTES"}]}, r"'outputs\[0\]\.datatype'"),
        ({"inputs": [{**INPUT, "parameters": {"content_type": "str"}}]}, r"'inputs\[0\]\.parameters\.content_type'"),
        ({"inputs": [INPUT, INPUT]}, "the input 'text' was given twice"),
        ({"inputs": [{**INPUT, "parameters": {"binary_data_size": 0}}]}, "has data in the JSON and a binary_data_size"),
    ],
)
def test_fields_that_would_be_ignored_are_refused(server: ServerProcess, change: dict[str, Any], named: str) -> None:
    response = httpx.post(f"{server.url}/v2/models/{MODEL}/infer", json={"inputs": [INPUT]} | change)
    assert response.status_code == 422
    assert re.search(named, response.json()["error"])


def infer(server: ServerProcess, **tensor: Any) -> httpx.Response:
    whole = INPUT | tensor
    return httpx.post(f"{server.url}/v2/models/{MODEL}/infer", json={"inputs": [whole]})


@pytest.mark.parametrize(
    ("tensor", "status"),
    [
        ({"shape": [1, 1], "data": [["a"]]}, 200),
        ({"shape": [2]}, 422),
        ({"shape": [-1]}, 422),
        ({"name": "texts"}, 422),
        ({"datatype": "FP32", "data": [1.0]}, 422),
        ({"data": [1]}, 422),
        ({"data": [{}]}, 422),
        ({"data": None}, 422),
        ({"shape": [0], "data": []}, 422),
        ({"shape": [9], "data": ["a"] * 9}, 413),
        ({"shape": [10**30], "data": ["a"]}, 413),
        ({"shape": [1] * 9}, 422),
        ({"shape": [2, -1], "data": ["a", "b"]}, 422),
        ({"data": ["a", "b"]}, 422),
        ({"parameters": {"binary_data_size": 5}}, 400),
        ({"parameters": {"binary_data_size": "x"}}, 400),
    ],
)
def test_tensors_that_cannot_be_used(server: ServerProcess, tensor: dict[str, Any], status: int) -> None:
    response = infer(server, **tensor)
    assert response.status_code == status
    if status != 200:
        assert isinstance(response.json()["error"], str)


@pytest.mark.parametrize(
    ("size", "blob", "status"),
    [
        (None, b"", 400),
        ("9999", b"", 400),
        ("-1", b"", 400),
        ("9" * 5000, b"", 400),
        ("all", b"\x05\0\0\0ab", 400),
        ("all", b"\x01\0\0\0\xff", 422),
        ("all", b"\x01\0\0\0a", 200),
    ],
)
def test_binary_bodies(server: ServerProcess, size: str | None, blob: bytes, status: int) -> None:
    one = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
    head = json.dumps({"inputs": [one]}).encode()
    headers = {} if size is None else {"Inference-Header-Content-Length": str(len(head)) if size == "all" else size}
    body = head + blob if size is not None else head[:-1]
    response = httpx.post(f"{server.url}/v2/models/{MODEL}/infer", content=body, headers=headers)
    assert response.status_code == status
