"""Another artifact while requests come: none is lost, and what cannot take the place is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fastserve_core.artifacts import Artifact, load_artifact
from fastserve_core.errors import ArtifactError, UserError
from fastserve_server import hot_reload
from fastserve_server.application import build_application
from fastserve_server.options import ServerOptions, ServingOptions
from fastserve_server.server import EmbeddedProcess, start

TEXT = {"inputs": ["the film is wonderful"]}

pytestmark = pytest.mark.slow


@pytest.fixture
def running(classifier: Artifact) -> Iterator[EmbeddedProcess]:
    with start(classifier.folder, ServerOptions(port=0), threads=2) as server:
        yield server


def served(url: str) -> str:
    return str(httpx.get(f"{url}/lineage").json()["digest"])


def test_no_request_is_lost_while_the_model_changes(
    running: EmbeddedProcess, classifier: Artifact, other: Artifact
) -> None:
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client() as client:
            while not ended.is_set():
                statuses[client.post(f"{running.url}/predict", json=TEXT).status_code] += 1

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for one in clients:
        one.start()
    try:
        before = httpx.post(f"{running.url}/predict", json=TEXT).json()
        for artifact in (other, classifier, other):
            assert running.reload(artifact.folder)
            assert served(running.url) == artifact.digest
        after = httpx.post(f"{running.url}/predict", json=TEXT).json()
    finally:
        ended.set()
        for one in clients:
            one.join()
    assert set(statuses) == {200} and statuses[200] > 20
    assert before["predictions"] != after["predictions"]
    assert before["model"] == after["model"] == "tiny-classifier"
    assert not running.reload(other.folder)
    metrics = httpx.get(f"{running.url}/metrics").text
    counted = [line for line in metrics.splitlines() if 'path="/predict",status="200"' in line]
    assert float(counted[0].split()[-1]) >= statuses[200]


def test_what_cannot_take_the_place_is_refused(
    running: EmbeddedProcess, classifier: Artifact, tagger: Artifact, other: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is for token_classification with .*, but the served model is for text_class"):
        running.reload(tagger.folder)
    with pytest.raises(UserError, match="nowhere"):
        running.reload(tmp_path / "nowhere")
    altered = tmp_path / "altered"
    shutil.copytree(other.folder, altered)
    weights = altered / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        running.reload(altered)
    assert served(running.url) == classifier.digest
    assert httpx.post(f"{running.url}/predict", json=TEXT).status_code == 200


def test_a_second_model_needs_memory(classifier: Artifact, other: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_reload, "available_memory", lambda: 1_000_000)
    application = build_application(classifier.folder, ServingOptions(), 1)

    async def refuse() -> None:
        with pytest.raises(ArtifactError, match="not enough memory for a second model: .* 1 MB is available"):
            await hot_reload.reload(application.state.models, other.folder)

    asyncio.run(refuse())
    assert application.state.models.first.artifact.digest == classifier.digest


def test_a_signal_has_the_command_look_again(classifier: Artifact, other: Artifact, tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.symlink_to(classifier.folder)
    command = [sys.executable, "-m", "fastserve_core", "serve", current, "port=0", "workers=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().split(" at ")[1].split()[0]
        current.unlink()
        current.symlink_to(other.folder)
        os.kill(process.pid, signal.SIGUSR1)
        assert process.stdout.readline() == f"serving {current} now\n"
        assert served(url) == load_artifact(other.folder).digest
        current.unlink()
        os.kill(process.pid, signal.SIGUSR1)
        line = process.stderr.readline()
        while "not reloaded" not in line:
            assert line
            line = process.stderr.readline()
        assert "does not exist" in line
        assert httpx.post(f"{url}/predict", json=TEXT).status_code == 200
        process.terminate()
        assert process.wait(20) in (0, 130)
    finally:
        process.kill()
        process.wait()
