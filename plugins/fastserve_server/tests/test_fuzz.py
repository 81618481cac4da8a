"""Requests made up from our own OpenAPI description: every answer is one that it has, and none is a server's fault."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from fastserve_core.artifacts import Artifact
from fastserve_server.options import ServerOptions
from fastserve_server.server import start

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
COMMAND = [
    str(Path(sysconfig.get_path("scripts"), "schemathesis")),
    *("run", "--seed", "1", "--max-examples", "15", "--phases", "coverage,fuzzing", "--checks", CHECKS),
    *("--continue-on-failure", "--no-color", "--request-timeout", "60"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "writer"])
def test_generated_requests_are_answered_as_described(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    artifact: Artifact = request.getfixturevalue(kind)
    with start(artifact.folder, ServerOptions(port=0), threads=2) as server:
        command = [*COMMAND, f"{server.url}/openapi.json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert re.search(r"(\d+) selected / \1 total", done.stdout), done.stdout
    assert "Traceback" not in "".join(capfd.readouterr())
