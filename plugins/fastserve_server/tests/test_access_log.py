"""The access log: one line of JSON a request, whatever became of it, and nothing that is private."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastserve_core.artifacts import Artifact
from fastserve_core.errors import OptionError
from fastserve_server.access_log import MAX_FIELD_LENGTH
from fastserve_server.application import build_application
from fastserve_server.auth import key_hashes
from fastserve_server.options import ServingOptions

KEY = "a-key-0123456789-0123"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_request_is_a_line_and_a_moved_file_begins_again(
    classifier: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "access.jsonl"
    monkeypatch.setenv("FASTSERVE_API_KEYS", KEY)
    options = ServingOptions(access_log=str(path))
    application = build_application(classifier.folder, options, 1, keys=key_hashes(None, "keys"))

    async def ask() -> None:
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with (
            application.router.lifespan_context(application),
            httpx.AsyncClient(transport=transport, base_url="http://server") as client,
        ):
            headers = {"X-API-Key": KEY, "X-Request-Id": "abc", "User-Agent": "x" * 1000}
            good = await client.post("/predict", json={"inputs": ["a private text"]}, headers=headers)
            await client.post("/predict", content=b"{", headers=headers)
            await client.get("/metrics?secret=1")
            found = lines(path)
            assert [(one["method"], one["path"], one["status"]) for one in found] == [
                ("POST", "/predict", 200),
                ("POST", "/predict", 400),
                ("GET", "/metrics", 401),
            ]
            assert found[0]["bytes"] == len(good.content)
            assert found[0]["request_id"] == "abc" and found[2]["request_id"] is None
            assert found[0]["ms"] > 0 and len(found[0]["agent"]) == MAX_FIELD_LENGTH
            assert not any(word in path.read_text() for word in ("private", "secret", KEY))
            path.rename(tmp_path / "old.jsonl")
            await client.get("/v2/health/live")
            assert [one["path"] for one in lines(path)] == ["/v2/health/live"]

    asyncio.run(ask())


def test_failures_and_disconnects_are_logged(
    classifier: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "access.jsonl"
    application = build_application(classifier.folder, ServingOptions(access_log=str(path)), 1)

    async def ask() -> None:
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            monkeypatch.setattr("fastserve_server.application.schemas.ModelList", None)  # a fault of ours
            assert (await client.get("/v1/models")).status_code == 500

        async def leave() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def nobody(message: Any) -> None:
            pass

        head = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "headers": [],
            "query_string": b"",
            "client": None,
        }
        await application(head, leave, nobody)

    asyncio.run(ask())
    assert [one["status"] for one in lines(path)] == [500, 499]


def test_a_full_disk_is_reported_once_and_requests_are_answered(
    classifier: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    application = build_application(classifier.folder, ServingOptions(access_log="/dev/full"), 1)

    async def ask() -> None:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            for _ in range(3):
                assert (await client.get("/v2/health/live")).status_code == 200

    asyncio.run(ask())
    said = capsys.readouterr().err
    assert said.count("cannot write the access log /dev/full: ") == 1 and "No space left" in said
    assert "Traceback" not in said


def test_a_file_that_cannot_be_written_is_reported(classifier: Artifact, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="serve.access_log: cannot write .*nowhere/log: No such file"):
        build_application(classifier.folder, ServingOptions(access_log=str(tmp_path / "nowhere" / "log")), 1)


def test_the_output_takes_it_too(classifier: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    application = build_application(classifier.folder, ServingOptions(access_log="-"), 1)

    async def ask() -> None:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            await client.get("/v2/health/live")

    asyncio.run(ask())
    assert json.loads(capsys.readouterr().out)["path"] == "/v2/health/live"
