"""The plugin fits; the real Ray Serve answers as the embedded server does, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fastserve_core.artifacts import Artifact
from fastserve_core.errors import OptionError, StageError, UserError
from fastserve_core.inference import Predictor
from fastserve_core.testing import PluginContract
from fastserve_ray_serve.options import RayServeOptions
from fastserve_ray_serve.server import authentication, start
from fastserve_server.addresses import BindError, bind
from fastserve_server.server import ServerProcess

LONG = {"inputs": ["the film is"], "options": {"max_new_tokens": 250}}


class TestRayServe(PluginContract):
    plugin, stage = "ray_serve", "serve"


@pytest.mark.parametrize("option", ["replicas", "threads", "max_ongoing_requests", "max_queued_requests", "max_batch"])
def test_an_option_out_of_range_is_named(option: str) -> None:
    with pytest.raises(OptionError, match=rf"serve\.ray_serve\.{option} must be at least 1"):
        RayServeOptions(**{option: 0})


def test_more_threads_than_cores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="4 replicas of 1 threads are more than the 2 usable cores"):
        start(tmp_path, RayServeOptions(replicas=4, port=0), cores=2)


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0, "serve.ray_serve") as taken:
        taken.listen()
        with pytest.raises(BindError, match=r"serve\.ray_serve\.port="):
            start(tmp_path, RayServeOptions(port=taken.getsockname()[1]), cores=1)


def test_the_user_may_decide_on_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    assert authentication()["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert authentication() == {}


@pytest.mark.slow
def test_a_folder_that_is_no_artifact_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an artifact"):
        start(tmp_path, RayServeOptions(port=0), cores=1)


def test_an_access_log_that_nobody_would_see_is_refused() -> None:
    with pytest.raises(OptionError, match="serve.ray_serve.access_log=-: the replicas' output is not shown"):
        RayServeOptions(access_log="-")


def test_a_replica_asks_for_keys_and_logs(writer: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.testclient import TestClient

    from fastserve_ray_serve import deployment

    monkeypatch.setattr(deployment, "use_own_connections", lambda: None)  # it is for a whole process
    options = RayServeOptions(access_log=str(tmp_path / "log"))
    application = deployment.app_builder(writer.folder, options, 1, ["0" * 64])()
    assert TestClient(application).post("/predict", json={"inputs": ["a"]}).status_code == 401
    assert '"status":401' in (tmp_path / "log").read_text()


def test_ray_starts_connections_of_the_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their responses leave in one piece, so that a replica that is killed has sent all of one or nothing."""
    import uvicorn
    from uvicorn.protocols.http import auto

    from fastserve_ray_serve.deployment import use_own_connections
    from fastserve_server.connections import TimeoutHttpProtocol

    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    use_own_connections()
    config = uvicorn.Config(lambda: None, factory=True, lifespan="off", log_config=None)  # as Ray makes it
    config.load()
    assert config.http_protocol_class is TimeoutHttpProtocol


def family(server: ServerProcess) -> list[psutil.Process]:
    return [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]


def outlived(processes: list[psutil.Process], seconds: float = 10) -> list[psutil.Process]:
    return [one for one in psutil.wait_procs(processes, timeout=seconds)[1] if one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def server(writer: Artifact) -> Iterator[ServerProcess]:
    token_file = Path.home() / ".ray" / "auth_token"
    before = token_file.exists()
    with start(
        writer.folder, RayServeOptions(port=0, replicas=2, max_inputs=8, max_body_bytes=5000), cores=2
    ) as running:
        yield running
    assert token_file.exists() == before


@pytest.mark.slow
def test_it_answers_as_the_predictor_does(server: ServerProcess, writer: Artifact) -> None:
    inputs = ["the film is wonderful", "a dreadful piece"]
    response = httpx.post(server.url + "/predict", json={"inputs": inputs}, timeout=30)
    assert response.json() == {
        "predictions": Predictor(writer, 1).predict(inputs, batch_size=1),
        "model": "tiny-writer",
    }
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.post(server.url + "/predict", json=LONG, timeout=60), range(16)))
    assert {one.status_code for one in answers} == {200}


@pytest.mark.slow
def test_texts_come_through_the_proxy_part_by_part(server: ServerProcess) -> None:
    asked = {"model": "tiny-writer", "prompt": "the film", "max_tokens": 200, "temperature": 0, "ignore_eos": True}
    whole = httpx.post(server.url + "/v1/completions", json=asked, timeout=60).json()["choices"][0]["text"]
    times, text = [], ""
    with httpx.stream("POST", server.url + "/v1/completions", json={**asked, "stream": True}, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                times.append(time.monotonic())
                text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
    assert text == whole
    assert times[-1] - times[0] > 0.05, "they came all at once"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/predict", b"{", 400),
        ("GET", "/nowhere", b"", 404),
        ("GET", "/predict", b"", 405),
        ("POST", "/predict", b'{"inputs": ["' + b"a" * 5000 + b'"]}', 413),
        ("POST", "/predict", b'{"inputs": [""]}', 422),
        ("GET", "/v2/health/ready", b"", 200),
        ("GET", "/lineage", b"", 200),
        ("GET", "/openapi.json", b"", 200),
    ],
)
def test_it_is_the_same_application(server: ServerProcess, method: str, path: str, body: bytes, status: int) -> None:
    response = httpx.request(method, server.url + path, content=body, timeout=30)
    assert response.status_code == status
    assert ("error" in response.json()) == (status != 200)


@pytest.mark.slow
def test_it_listens_on_loopback(server: ServerProcess) -> None:
    """All but the replicas' internal port, which Ray binds everywhere and guards with the token."""
    open_ports: list[Any] = []
    for process in family(server):
        if "Replica" not in " ".join(process.cmdline()):
            open_ports += [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert open_ports
    assert {one.laddr.ip.removeprefix("::ffff:") for one in open_ports} == {"127.0.0.1"}


def replicas(server: ServerProcess) -> list[psutil.Process]:
    found = []
    for one in family(server):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            found += [one] if "ServeReplica" in " ".join(one.cmdline()) else []
    return found


@pytest.mark.slow
def test_no_request_is_lost_when_a_replica_is_killed(server: ServerProcess) -> None:
    asked = {"inputs": ["the film is"], "options": {"max_new_tokens": 8}}
    ended, kept = threading.Event(), len(replicas(server))

    def ask(client: httpx.Client) -> list[int]:
        seen = []
        while not ended.is_set():
            seen.append(client.post("/predict", json=asked).status_code)
        return seen

    with ThreadPoolExecutor(8) as pool, ExitStack() as open_clients:
        clients = [open_clients.enter_context(httpx.Client(base_url=server.url, timeout=60)) for _ in range(8)]
        asking = [pool.submit(ask, one) for one in clients]
        time.sleep(1)
        killed = replicas(server)[0]
        killed.kill()
        end = time.monotonic() + 60
        while len(replicas(server)) < kept or killed.is_running():
            assert time.monotonic() < end, "it was not replaced"
            time.sleep(0.2)
        time.sleep(1)
        ended.set()
        seen = [status for one in asking for status in one.result()]
    assert len(seen) > 16
    assert set(seen) == {200}


@pytest.mark.slow
def test_it_bounds_its_queue_drains_on_sigterm_and_leaves_no_process(writer: Artifact) -> None:
    options = RayServeOptions(port=0, max_ongoing_requests=1, max_queued_requests=1, drain_s=60)
    with start(writer.folder, options, cores=1) as server, ThreadPoolExecutor(8) as pool:
        processes = family(server)
        assert len(processes) > 5
        answers = list(pool.map(lambda _: httpx.post(server.url + "/predict", json=LONG, timeout=60), range(8)))
        assert {one.status_code for one in answers} == {200, 429}
        assert all(one.headers["retry-after"] == "1" for one in answers if one.status_code == 429)
        asked = {"model": "tiny-writer", "prompt": "the film", "max_tokens": 250, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", server.url + "/v1/completions", json=asked | {"n": 4}, timeout=60) as response:
            lines = response.iter_lines()
            received = [next(lines)]  # it is in flight, and ends with its last line
            os.kill(server.pid, signal.SIGTERM)
            received += lines
        assert response.status_code == 200
        assert received[-2:] == ["data: [DONE]", ""]
        server.wait()  # raises unless the exit code is 0
    assert not outlived(processes)


@pytest.mark.slow
def test_killed_it_leaves_no_process(writer: Artifact) -> None:
    with start(writer.folder, RayServeOptions(port=0), cores=1) as server:
        processes = family(server)
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(StageError, match="exit code -9"):
            server.wait()
    assert not outlived(processes)


PARENT = """
import sys
from pathlib import Path
from fastserve_ray_serve.options import RayServeOptions
from fastserve_ray_serve.server import start
server = start(Path(sys.argv[1]), RayServeOptions(port=0), 1)
print(server.pid, flush=True)
server.wait()
"""


@pytest.mark.slow
def test_it_dies_with_its_parent(writer: Artifact) -> None:
    command = [sys.executable, "-c", PARENT, str(writer.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        processes = [server, *server.children(recursive=True)]
        parent.kill()
    assert not outlived(processes, seconds=20)
