"""The image and its compose file: a linter looks at them, and their commands run as they stand, without an engine."""

from __future__ import annotations

import fnmatch
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from conftest import ROOT
from fastserve_server.addresses import bind
from fastserve_server.tests.conftest import make_artifact

DOCKERFILE, COMPOSE = ROOT / "docker" / "Dockerfile", ROOT / "docker" / "compose.yaml"
KEY = "a-key-of-some-length"


def command(instruction: str) -> list[str]:
    """What an instruction runs, in its JSON form."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    (found,) = re.findall(rf"^{instruction} (\[.*\])$", text, re.MULTILINE)
    return [str(one) for one in json.loads(found)]


def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["model"]
    return found


def test_the_image_is_as_its_linter_wants_it() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_names_existing_files() -> None:
    whole = yaml.safe_load(COMPOSE.read_text())
    build = service()["build"]
    assert (COMPOSE.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
    assert set(service()["secrets"]) == set(whole["secrets"])
    mounted = {one.split(":")[-1 if one.count(":") == 1 else -2] for one in service()["volumes"]}
    assert mounted == {"/model", "/data"}
    assert all(one.startswith("127.0.0.1:") for one in service()["ports"])


def test_the_build_context_has_the_copied_files() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / one).exists() for one in kept)
    needed = ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE", "fastserve.py"]
    assert all(any(fnmatch.fnmatch(one, pattern) for pattern in kept) for one in needed)


@pytest.mark.slow
@pytest.mark.parametrize("told", ["image", "compose"])
def test_its_command_serves_and_its_health_is_seen(told: str, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "model", "text_classification")
    (tmp_path / "keys.txt").write_text(KEY + "\n")
    with bind("127.0.0.1", 0, "test") as probe:
        port = probe.getsockname()[1]
    places = {"/model": str(artifact.folder), "/run/secrets/keys": str(tmp_path / "keys.txt"), "8888": str(port)}

    def here(words: list[str]) -> list[str]:
        """A program of this environment, and the words after it with this machine's places."""
        program = str(Path(sys.executable).with_name(words[0]))
        return [
            program,
            *(functools.reduce(lambda word, one: word.replace(*one), places.items(), word) for word in words[1:]),
        ]

    given = command("CMD") if told == "image" else service()["command"]
    environment = os.environ | {"FASTSERVE_HOME": str(tmp_path / "data")}
    asked, health = here([*command("ENTRYPOINT"), *given]), here(command("HEALTHCHECK .* CMD"))
    with subprocess.Popen(asked, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        try:
            until = time.monotonic() + 200
            while subprocess.run(health, capture_output=True).returncode:
                assert server.poll() is None, "it ended before it was ready"
                assert time.monotonic() < until
                time.sleep(0.2)  # this process and the server share a core
            headers = {"Authorization": f"Bearer {KEY}"} if told == "compose" else {}
            url = f"http://127.0.0.1:{port}/predict"
            assert httpx.post(url, json={"inputs": ["a film"]}, headers=headers, timeout=60).status_code == 200
            assert (httpx.post(url, json={"inputs": ["a film"]}).status_code == 401) == (told == "compose")
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
