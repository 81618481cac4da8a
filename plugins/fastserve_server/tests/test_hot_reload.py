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
from typing import Any

import httpx
import pytest

from fastserve_core.artifacts import Artifact, find_artifact, load_artifact
from fastserve_core.errors import ArtifactError, UserError
from fastserve_core.inference import Predictor
from fastserve_server import hot_reload
from fastserve_server.application import build_application
from fastserve_server.model_registry import resolve_first, resolve_models
from fastserve_server.options import ServerOptions, ServingOptions
from fastserve_server.server import EmbeddedProcess, start
from fastserve_server.tests.test_application import client_of

TEXT = {"inputs": ["the film is wonderful"]}

pytestmark = pytest.mark.slow


@pytest.fixture
def running(classifier: Artifact) -> Iterator[EmbeddedProcess]:
    with start(classifier.folder, ServerOptions(port=0), threads=2) as server:
        yield server


def served(url: str) -> str:
    return str(httpx.get(f"{url}/lineage", timeout=60).json()["digest"])


def test_no_request_is_lost_while_the_model_changes(
    running: EmbeddedProcess, classifier: Artifact, other: Artifact
) -> None:
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not ended.is_set():
                statuses[client.post(f"{running.url}/predict", json=TEXT).status_code] += 1

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for one in clients:
        one.start()
    try:
        before = httpx.post(f"{running.url}/predict", json=TEXT, timeout=60).json()
        for artifact in (other, classifier, other):
            assert running.reload(artifact.folder)
            assert served(running.url) == artifact.digest
        after = httpx.post(f"{running.url}/predict", json=TEXT, timeout=60).json()
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


def test_models_that_cannot_replace_it_are_refused(
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
    assert httpx.post(f"{running.url}/predict", json=TEXT, timeout=60).status_code == 200


def test_a_second_model_needs_memory(classifier: Artifact, other: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_reload, "available_memory", lambda: 1_000_000)
    application = build_application(classifier.folder, ServingOptions(), 1)

    async def refuse() -> None:
        with pytest.raises(ArtifactError, match="not enough memory for a second model: .* 1 MB is available"):
            await hot_reload.reload(application.state.models, other.folder)

    asyncio.run(refuse())
    assert application.state.models.first.artifact.digest == classifier.digest


def test_a_link_that_changes_during_a_reload_is_resolved_once(
    classifier: Artifact, other: Artifact, twin: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "current"
    link.symlink_to(other.folder)
    check_memory = hot_reload.check_memory_for_second

    def change_link(*arguments: Any) -> None:
        check_memory(*arguments)
        link.unlink()
        link.symlink_to(twin.folder)

    monkeypatch.setattr(hot_reload, "check_memory_for_second", change_link)
    application = build_application(classifier.folder, ServingOptions(workers=1), 1)

    async def change() -> None:
        async with client_of(application) as client:
            await hot_reload.reload(application.state.models, link)
            answers = (await client.post("/predict", json=TEXT)).json()["predictions"]
            lineage = (await client.get("/lineage")).json()
        assert (lineage["digest"], lineage["files"]) == (other.digest, dict(other.manifest.files))
        expected = Predictor(other, 1).predict(TEXT["inputs"])
        assert answers[0]["score"] == pytest.approx(expected[0]["score"])

    asyncio.run(change())


def test_a_served_link_is_resolved_once_and_gives_the_name(
    classifier: Artifact, other: Artifact, tmp_path: Path
) -> None:
    link = tmp_path / "reviews"
    link.symlink_to(classifier.folder)
    assert find_artifact(link).folder == classifier.folder
    assert resolve_models([f"a:{link}"]) == [f"a:{classifier.folder}"]
    folder, options = resolve_first(link, ServingOptions())
    assert (folder, options.name) == (classifier.folder, "reviews")
    assert resolve_first(link, ServingOptions(name="mine"))[1].name == "mine"
    assert resolve_first(other.folder, ServingOptions()) == (other.folder, ServingOptions())


def test_a_signal_has_the_command_look_again(
    classifier: Artifact, other: Artifact, broken: Artifact, tmp_path: Path
) -> None:
    current = tmp_path / "current"
    current.symlink_to(classifier.folder)
    command = [sys.executable, "-m", "fastserve_core", "serve", current, "port=0", "workers=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().split(" at ")[1].split()[0]
        assert [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]] == ["current"]
        current.unlink()
        current.symlink_to(other.folder)
        os.kill(process.pid, signal.SIGUSR1)
        assert process.stdout.readline() == f"serving {other.folder} now\n"
        assert served(url) == load_artifact(other.folder).digest
        for bad, message in ((broken.folder, "broken cannot be loaded"), (None, "does not exist")):
            current.unlink()
            if bad is not None:
                current.symlink_to(bad)
            os.kill(process.pid, signal.SIGUSR1)
            line = process.stderr.readline()
            while "not reloaded" not in line:
                assert line
                assert "Traceback" not in line
                line = process.stderr.readline()
            assert message in line
        current.symlink_to(classifier.folder)
        os.kill(process.pid, signal.SIGUSR1)
        assert process.stdout.readline() == f"serving {classifier.folder} now\n"
        assert served(url) == classifier.digest
        assert httpx.post(f"{url}/predict", json=TEXT, timeout=60).status_code == 200
        process.terminate()
        assert process.wait(20) in (0, 130)
    finally:
        process.kill()
        process.wait()
