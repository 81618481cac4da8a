"""API keys: where they come from, what needs one, and that nothing tells of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from fastserve_core.artifacts import Artifact
from fastserve_core.errors import OptionError
from fastserve_server.addresses import bind, warn_if_open
from fastserve_server.application import ENDPOINTS, build_application
from fastserve_server.auth import PUBLIC_PATHS, VARIABLE, key_hashes
from fastserve_server.options import ServerOptions, ServingOptions
from fastserve_server.server import start

FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "keys.txt"
    path.write_text(f"# for the shop\n{FIRST}\n\n  {SECOND}  \n")
    return str(path)


def test_keys_come_from_a_file_and_from_the_environment(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(key_hashes(file, "keys")) == 2
    assert key_hashes(None, "keys") == []
    monkeypatch.setenv(VARIABLE, f"{SECOND}, third-key-0123456789")
    found = key_hashes(file, "keys")
    assert len(found) == 4 and len(set(found)) == 3
    assert not any(FIRST in one or len(one) != 64 for one in found)


@pytest.mark.parametrize("written", ["short", "with a blank in it 123", "schlüssel-schlüssel-1"])
def test_a_key_that_can_be_guessed_or_not_be_sent_is_refused_unnamed(written: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(f"\n{written}\n")
    with pytest.raises(OptionError, match="keys.txt:2: a key must have at least 16 printable ASCII characters") as told:
        key_hashes(str(path), "serve.server.api_keys_file")
    assert written not in str(told.value)


def test_files_without_keys_are_reported(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="serve.server.api_keys_file: cannot read the file .*nowhere"):
        key_hashes(str(tmp_path / "nowhere"), "serve.server.api_keys_file")
    (tmp_path / "empty").write_text("# none\n")
    with pytest.raises(OptionError, match="contains no key"):
        key_hashes(str(tmp_path / "empty"), "serve.server.api_keys_file")


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_a_variable_without_keys_does_not_open_the_server(
    value: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(OptionError, match=f"{VARIABLE} is set, but contains no key: unset it"):
        key_hashes(None, "keys")
    assert len(key_hashes(file, "keys")) == 2


@pytest.mark.parametrize(
    ("host", "is_open"), [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True)]
)
def test_an_open_address_without_keys_is_reported(host: str, is_open: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with bind(host, 0, "serve.server") as bound:
        warn_if_open(bound, "serve.server")
    printed = capfd.readouterr().err
    assert bool(printed) == is_open
    if is_open:
        assert f"warning: {host} accepts requests of other machines without an API key: set serve.server" in printed


def test_everything_but_health_and_pages_needs_a_key(classifier: Artifact, file: str) -> None:
    application = build_application(classifier.folder, ServingOptions(), 1, keys=key_hashes(file, "keys"))

    async def statuses() -> None:
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with (
            application.router.lifespan_context(application),
            httpx.AsyncClient(transport=transport, base_url="http://server") as client,
        ):
            for one in ENDPOINTS:
                path = one.path.replace("{model}", "tiny-classifier")
                answer = await client.request(one.method, path, json={})
                assert (answer.status_code == 401) is (one.path not in PUBLIC_PATHS), one.path
            body = {"inputs": ["a text"]}
            for headers in ({"Authorization": f"Bearer {SECOND}"}, {"X-API-Key": FIRST}):
                assert (await client.post("/predict", json=body, headers=headers)).status_code == 200
            for wrong in ({"Authorization": f"Basic {FIRST}"}, {"X-API-Key": FIRST[:-1]}, {"X-API-Key": ""}):
                refused = await client.post("/predict", json=body, headers=wrong)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
                assert refused.json()["error"]["type"] == "unauthorized"
            assert (await client.get("/nowhere")).status_code == 401
            described = (await client.get("/openapi.json")).json()["paths"]
            assert described["/predict"]["post"]["security"] and "401" in described["/predict"]["post"]["responses"]
            assert "security" not in described["/v2/health/live"]["get"]
            assert 'id="key"' in (await client.get("/")).text

    asyncio.run(statuses())


@pytest.mark.slow
def test_a_server_asks_for_the_keys_of_its_file(classifier: Artifact, file: str) -> None:
    with start(classifier.folder, ServerOptions(port=0, api_keys_file=file), threads=1) as running:
        body = {"inputs": ["a text"]}
        assert httpx.post(f"{running.url}/predict", json=body).status_code == 401
        assert httpx.post(f"{running.url}/predict", json=body, headers={"X-API-Key": FIRST}).status_code == 200
        assert httpx.get(f"{running.url}/v2/health/ready").status_code == 200
