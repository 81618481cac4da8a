"""The client against real servers, and against ones that are busy, gone or something else."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fastserve_core.errors import OptionError
from fastserve_core.serving.client import (
    AsyncClient,
    RequestRejectedError,
    ServerUnavailableError,
    predict_remote,
)

Answer = tuple[int, dict[str, str], bytes]


class Handler(BaseHTTPRequestHandler):
    """Answers with what the test has put there, the last again and again; keeps what it was asked."""

    answers: list[Answer]
    asked: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.headers.get("Authorization", ""), body))
        status, headers, said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if status == 200 and not said:
            said = json.dumps({"predictions": [{"text": one} for one in body["inputs"]]}).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(said))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(BrokenPipeError):  # who asked has heard enough
            self.wfile.write(said)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    """The address of a server with those answers, and the requests that it gets."""
    kind = type("Chosen", (Handler,), {"answers": list(answers), "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", kind.asked  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


def predict(url: str, count: int = 1, **options: Any) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        async with AsyncClient(url, **options) as client:
            return await client.predict([f"text {number}" for number in range(count)])

    return asyncio.run(run())


OK: Answer = (200, {}, b"")


def test_many_inputs_are_several_requests_and_keep_their_order() -> None:
    with answering(OK) as (url, asked):
        answers = predict(url + "/", 100, batch=7, at_once=4, model="tags", key="k" * 16)
    assert [one["text"] for one in answers] == [f"text {number}" for number in range(100)]
    assert len(asked) == 15 and max(len(body["inputs"]) for _, body in asked) == 7
    assert {(key, body["model"]) for key, body in asked} == {("Bearer " + "k" * 16, "tags")}


@pytest.mark.parametrize("text", ["lovely", "评论"])
def test_one_text_is_one_input(text: str) -> None:
    with answering(OK) as (url, asked):
        assert predict_remote(url, text) == [{"text": text}]
    assert [body["inputs"] for _, body in asked] == [[text]]


def test_no_inputs_are_no_request() -> None:
    with answering(OK) as (url, asked):
        assert predict(url, 0) == []
    assert not asked


def test_the_key_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSERVE_API_KEY", "another-key-of-mine")
    with answering(OK) as (url, asked):
        predict(url)
    assert asked[0][0] == "Bearer another-key-of-mine"


def test_a_busy_server_is_asked_again_at_the_time_that_it_names() -> None:
    busy: Answer = (429, {"Retry-After": "1"}, b'{"error": {"type": "queue_full", "message": "too many"}}')
    date = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    with answering(busy, (503, date, b"{}"), OK) as (url, asked):
        begin = time.monotonic()
        assert len(predict(url)) == 1
        assert time.monotonic() - begin > 1
        assert len(asked) == 3


def test_patience_ends() -> None:
    busy: Answer = (429, {}, b'{"error": {"type": "queue_full", "message": "too many inputs"}}')
    with answering(busy) as (url, _), pytest.raises(ServerUnavailableError, match=r"too many inputs \(429\)"):
        predict(url, patience_s=0.3)
    with pytest.raises(
        ServerUnavailableError, match=r"no server answers at http://127\.0\.0\.1:1 \(tried for 0\.2 s\)"
    ):
        predict("http://127.0.0.1:1", patience_s=0.2)


@pytest.mark.parametrize(("answer", "kind", "message"), [
    ((422, {}, b'{"error": {"type": "unusable", "message": "no inputs given"}}'), RequestRejectedError, "no inputs"),
    ((404, {}, b'{"error": "no model is called x", "type": "not_found"}'), RequestRejectedError, r"is called x \(404"),
    ((500, {}, b'{"error": {"type": "internal", "message": "it broke"}}'), ServerUnavailableError, r"it broke \(500\)"),
    ((200, {}, b"<html>"), ServerUnavailableError, r"this is not a FastServe server \(200\)"),
    ((403, {}, b"go away"), RequestRejectedError, r"this is not a FastServe server \(403\)"),
])  # fmt: skip
def test_refused_requests_are_reported(answer: Answer, kind: type[Exception], message: str) -> None:
    with answering(answer) as (url, _), pytest.raises(kind, match=message):
        predict(url, 100, batch=10)


def test_invalid_addresses_are_refused() -> None:
    with pytest.raises(OptionError, match="'reviews' is not a server's address"):
        AsyncClient("reviews")
    with pytest.raises(OptionError, match="'http://127.0.0.1:x' is not a server's address"):
        predict("http://127.0.0.1:x")


def test_pairs_go_by_their_names() -> None:
    with answering(OK) as (url, asked):
        predict_remote(url, [("a", "b"), "c"])
    assert asked[0][1]["inputs"] == [{"text": "a", "text_pair": "b"}, "c"]
