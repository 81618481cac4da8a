"""The real server process: what it answers, how it ends, what it says when it cannot start."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from conftest import Cli
from fastserve_core.artifacts import Artifact
from fastserve_core.errors import FastServeError, StageError, UserError
from fastserve_core.inference import Predictor
from fastserve_core.plugins import ServeContext
from fastserve_server import EmbeddedServer
from fastserve_server.addresses import BindError, local_url
from fastserve_server.options import ServerOptions
from fastserve_server.server import ServerProcess, launch, start

pytestmark = pytest.mark.slow  # each test starts a server's process

LONG = {"inputs": ["the film is"], "options": {"max_new_tokens": 100}}


def ask(server: ServerProcess, body: Any, **more: Any) -> httpx.Response:
    return httpx.post(server.url + "/predict", json=body, timeout=30, **more)


def wait_until(true: Any, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.05)


# -- what it answers ---------------------------------------------------------------------------------


def test_it_answers_as_the_predictor_does(server: ServerProcess, classifier: Artifact) -> None:
    inputs = ["the film is wonderful", {"text": "a story"}, {"text": "a story", "text_pair": "moving"}, ["a", "b"]]
    response = ask(server, {"inputs": inputs})
    assert response.status_code == 200
    assert response.json()["model"] == "tiny-classifier"
    for given, expected in zip(response.json()["predictions"], Predictor(classifier, 1).predict(inputs), strict=True):
        assert given["label"] == expected["label"]
        assert given["scores"] == pytest.approx(expected["scores"], abs=1e-5)


def test_files_are_predicted_for_by_a_server(server: ServerProcess, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("review;id\na film;1\na dull film;2\n")
    done = cli("predict", server.url, "--json", "--input", "x.csv")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["a film", "a dull film"]
    assert [set(answer["scores"]) for answer in answers] == [{"negative", "positive"}] * 2


def test_many_at_once_are_all_answered_in_batches(server: ServerProcess) -> None:
    with ThreadPoolExecutor(16) as pool, httpx.Client(base_url=server.url, timeout=30) as client:
        texts = [f"story {'moving ' * (number % 9)}" for number in range(160)]
        answers = list(pool.map(lambda text: client.post("/predict", json={"inputs": [text]}), texts))
    assert {one.status_code for one in answers} == {200}
    metrics = httpx.get(server.url + "/metrics").text
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line[0] != "#"
    }
    assert values["fastserve_batch_size_sum"] > values["fastserve_batch_size_count"]
    assert values['fastserve_requests_total{path="/predict",status="200"}'] >= 160
    assert values["fastserve_queue_depth"] == 0
    assert values["fastserve_engine_seconds_sum"] > 0


def test_an_interrupt_that_the_command_ignores_does_not_end_it(classifier: Artifact) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = start(classifier.folder, ServerOptions(port=0), threads=1)
    finally:
        signal.signal(signal.SIGINT, before)
    with server:
        os.kill(server.pid, signal.SIGINT)
        for _ in range(3):
            assert ask(server, {"inputs": ["a story"]}).status_code == 200
    assert not psutil.pid_exists(server.pid)


def test_it_reports_its_model(server: ServerProcess, classifier: Artifact) -> None:
    lineage = httpx.get(server.url + "/lineage").json()
    assert lineage["digest"] == classifier.digest
    assert lineage["lineage"] == [dict(one) for one in classifier.manifest.lineage]
    models = httpx.get(server.url + "/v1/models").json()
    assert [one["id"] for one in models["data"]] == ["tiny-classifier"]
    for path in ("/", "/docs"):
        assert "tiny-classifier" in httpx.get(server.url + path).text


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"inputs": ["\\ud800"]}', 400, "not JSON"),
        (b"[" * 4000, 422, "object"),
        (b"{}", 422, "inputs"),
        (b'{"inputs": "a text"}', 422, "array"),
        (b'{"inputs": [1]}', 422, "inputs"),
        (b'{"inputs": []}', 422, "no inputs"),
        (b'{"inputs": [""]}', 422, "empty"),
        (b'{"inputs": [{"txt": "a"}]}', 422, "did you mean 'text'"),
        (b'{"inputs": [["a", "b", "c"]]}', 422, "cannot be used"),
        (b'{"inputs": ["a"], "option": {}}', 422, "the field 'option' is not supported; did you mean 'options'?"),
        (b'{"inputs": ["a"], "parameters": {"beams": 2}}', 422, "beams"),
        (b'{"inputs": ["a"], "options": {"max_new_tokens": 1}}', 422, "has no option"),
        (b'{"inputs": ["a","a","a","a","a","a","a","a","a"]}', 413, "limit is 8"),
        (b'{"inputs": ["' + b"a" * 5000 + b'"]}', 413, "5000 bytes"),
    ],
)
def test_errors_are_reported(server: ServerProcess, body: bytes, status: int, reason: str) -> None:
    response = httpx.post(server.url + "/predict", content=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert reason in response.json()["error"]["message"]


def test_a_body_of_unknown_length_is_bounded_too(server: ServerProcess) -> None:
    response = httpx.post(server.url + "/predict", content=(b" " * 1000 for _ in range(100)))
    assert response.status_code == 413


def test_a_compressed_body_is_read(server: ServerProcess) -> None:
    content = gzip.compress(b'{"inputs": ["the film"]}')
    response = httpx.post(server.url + "/predict", content=content, headers={"Content-Encoding": "gzip"})
    assert response.json() == ask(server, {"inputs": ["the film"]}).json()


@pytest.mark.parametrize("path", ["/predict?model=another", "/lineage?modle=tiny-classifier"])
def test_a_query_that_would_be_ignored_is_refused(server: ServerProcess, path: str) -> None:
    method = "POST" if "predict" in path else "GET"
    response = httpx.request(method, server.url + path, json={"inputs": ["a"]} if method == "POST" else None)
    assert response.status_code == 422
    assert path.split("?")[1].split("=", maxsplit=1)[0] in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/predict/", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("POST", "/lineage", 405, "method_not_allowed"),
    ],
)
def test_wrong_paths_and_methods(server: ServerProcess, method: str, path: str, status: int, kind: str) -> None:
    response = httpx.request(method, server.url + path)
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)


# -- how it ends -------------------------------------------------------------------------------------


def half_answered(server: Any, pool: ThreadPoolExecutor) -> Any:
    """A request of two inputs of which one is running and one waits; asked again where the model ended too soon."""
    with httpx.Client() as client:
        for _ in range(50):
            asked = pool.submit(ask, server, LONG | {"inputs": ["the film is", "a story"]})
            while not asked.done():
                if "fastserve_queue_depth 1.0" in client.get(server.url + "/metrics").text:
                    return asked
    raise AssertionError("no input was seen to wait")


def ask_half_closed(server: ServerProcess, body: Any) -> bytes:
    """The bytes that a client receives which closes its side after the request."""
    host, port = server.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as received:
            return received.read()


def test_it_bounds_its_queue_and_drains_on_sigterm(writer: Artifact) -> None:
    """One real server under more than it can do: 429, 504, and a request in flight when it is told to end."""
    options = ServerOptions(port=0, workers=1, max_batch=1, max_queue=2, max_inputs=2, request_timeout_s=20.0, name="w")
    server = start(writer.folder, options, threads=1)
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(server, LONG), range(8)))
            statuses = sorted(one.status_code for one in answers)
            assert set(statuses) == {200, 429}
            assert all(int(one.headers["retry-after"]) >= 1 for one in answers if one.status_code == 429)
            in_flight = half_answered(server, pool)
            half_closed = pool.submit(ask_half_closed, server, LONG)
            time.sleep(0.1)
            os.kill(server.pid, signal.SIGTERM)
            assert b"200 OK" in half_closed.result()
            assert in_flight.result().status_code == 200
            assert in_flight.result().headers["connection"] == "close"
            assert len(in_flight.result().json()["predictions"]) == 2
        server.wait()  # raises unless the exit code is 0
        with pytest.raises(httpx.ConnectError):
            ask(server, LONG)
    finally:
        server.stop()


def test_the_deadline_counts_and_sigint_ends_it_too(writer: Artifact) -> None:
    options = ServerOptions(port=0, workers=1, request_timeout_s=0.05)
    with start(writer.folder, options, threads=1) as server:
        late = ask(server, LONG)
        assert (late.status_code, late.json()["error"]["type"]) == (504, "deadline_exceeded")
        os.kill(server.pid, signal.SIGINT)
        server.wait()


PARENT = """
import sys
from pathlib import Path
from fastserve_server.options import ServerOptions
from fastserve_server.server import start
server = start(Path(sys.argv[1]), ServerOptions(port=0), 1)
print(server.pid, server.url, flush=True)
server.wait()
"""


def test_it_dies_with_its_parent(classifier: Artifact) -> None:
    command = [sys.executable, "-c", PARENT, str(classifier.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        assert httpx.get(url + "/v2/health/ready").status_code == 200
        parent.kill()
    wait_until(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)


# -- what it says when it cannot start ---------------------------------------------------------------


def run_of(artifact: Artifact) -> Any:
    task: Any = None
    emit = lambda event: None  # noqa: E731
    return ServeContext(model=artifact, task=task, folder=Path(), seed=0, threads=1, emit=emit)


def test_a_busy_port_is_named_with_advice(classifier: Artifact) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            BindError, match=rf"port {port} .* is taken by .* \(process {os.getpid()}\): .*serve\.server\.port="
        ) as refused:
            EmbeddedServer(ServerOptions(port=port)).serve(run_of(classifier))
    assert refused.value.exit_code == 2


def test_a_host_that_is_not_ours_is_refused(classifier: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(BindError, match=r"serve\.server\.host=nowhere: Name or service not known"):
        start(classifier.folder, ServerOptions(host="nowhere", port=0), 1)


def test_an_artifact_that_cannot_be_served_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an artifact"):
        start(tmp_path, ServerOptions(port=0), 1)


def test_weights_that_cannot_be_loaded_are_named(broken: Artifact) -> None:
    with pytest.raises(FastServeError, match=rf"^{broken.folder} cannot be loaded [^\n]+$"):
        start(broken.folder, ServerOptions(port=0), 1)


def test_a_crash_while_loading_shows_the_end_of_the_output(classifier: Artifact, tmp_path: Path) -> None:
    faulty = "import sys; print('no such library', file=sys.stderr); sys.exit(3)"
    (tmp_path / "msgspec.py").write_text(faulty)
    with pytest.raises(StageError, match=r"(?s)before it was ready:.*no such library"):
        launch("fastserve_server.process", {}, "", {"PYTHONPATH": str(tmp_path)}, 1.0, ServerProcess)


@pytest.mark.parametrize("stderr", ["closed", "full", "stopped"])
def test_output_that_cannot_be_shown_is_dropped(classifier: Artifact, stderr: str) -> None:
    """More lines than fit into a pipe, to a reader that has ended, to a full disk and to a reader that waits."""
    reading, writing = os.pipe()
    target: Any = Path("/dev/full").open("w") if stderr == "full" else writing  # noqa: SIM115
    if stderr == "closed":
        os.close(reading)
    command = [sys.executable, "-m", "fastserve_core", "serve", classifier.folder, "port=0", "access_log=-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=target, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[1].split()[0]
            with httpx.Client(base_url=url, headers={"User-Agent": "a" * 200}) as client:
                for _ in range(500):
                    assert client.get("/v2/health/live", timeout=10).status_code == 200
            process.terminate()
            assert process.wait(20) in (0, 130)
        finally:
            process.kill()


def test_a_reader_of_the_first_line_alone_does_not_end_the_server(classifier: Artifact, other: Artifact) -> None:
    command = [sys.executable, "-m", "fastserve_core", "serve", classifier.folder, "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[1].split()[0]
            process.stdout.close()
            os.kill(process.pid, signal.SIGUSR1)  # it prints a line about that
            time.sleep(0.5)
            assert ask(type("Server", (), {"url": url}), {"inputs": ["a film"]}).status_code == 200
            process.terminate()
            assert process.wait(20) in (0, 130)
        finally:
            process.kill()


def test_where_a_client_reaches_it() -> None:
    assert local_url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert local_url("::1", 80) == "http://[::1]:80"
    assert local_url("example.org", 80) == "http://example.org:80"
