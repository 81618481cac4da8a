"""The benchmark of serving: its figures are worked out from what it saw, its stub is served as any model is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastserve_core.artifacts import MANIFEST, TRAINABLE, Manifest, hash_files, write_manifest

ROOT = Path(__file__).parent.parent


def seen(load: Any, per_s: float, p50: float = 10.0, p99: float = 25.0) -> Any:
    return load.Seen(per_s, p50, p99)


def test_the_figures_are_medians_of_ratios_within_a_round(part: Any) -> None:
    load, model = part("serving.load"), part("serving.model")
    rates = {
        model.FP32: [90, 40, 50],
        model.INT8: [200, 100, 100],
        model.NAIVE: [10, 5, 5],
        model.LITSERVE: [30, 10, 25],
    }
    found = {name: [{64: seen(load, one), 1: seen(load, 1, 9.0)} for one in rounds] for name, rounds in rates.items()}
    bare = {
        model.FP32: [{"per_s": 100, "ms": 8.5, "ms_all_threads": 8.0}] * 3,
        model.INT8: [{"per_s": 200, "ms": 4.0, "ms_all_threads": 4.0}] * 3,
    }
    figures = model.figures(found, bare)
    assert figures["vs_ceiling"] == 0.5
    assert figures["vs_ceiling_int8"] == 0.5
    assert figures["vs_naive"] == 9
    assert figures["vs_litserve"] == 3
    assert figures["vs_litserve_same_engine"] is None
    assert figures["p99_over_p50"] == 2.5
    assert figures["idle_overhead_ms"] == 0.5


def test_a_missing_peer_is_named(part: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    servers = part("serving.servers")
    monkeypatch.setitem(servers.NEEDS, "litserve", ("no_such_package",))
    assert servers.peers("litserve", "LitServe", Path("model"), 1) == []
    assert "LitServe: missing here, it needs no_such_package" in capsys.readouterr().out


@pytest.mark.slow(1)
def test_without_wrk_it_names_the_package_to_install(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "serve.py", "--quick"]
    done = subprocess.run(command, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "apt-get install wrk" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def stubbed(part: Any, tiny_bert: Path, tmp_path: Path) -> Path:
    """The tiny BERT as an artifact, and of it the one that the stub serves."""
    stub = part("serving.stub")
    shutil.copytree(tiny_bert, tmp_path / "model")
    files = hash_files(tmp_path / "model", exclude=[MANIFEST])
    runtime = {"engine": "torch", "form": TRAINABLE}
    labels = ("negative", "positive")
    manifest = Manifest("text_classification", {"max_length": 64}, labels, runtime, ({"stage": "train"},), files)
    write_manifest(tmp_path / "model", manifest)
    made: Path = stub.stub_artifact(tmp_path / "model", tmp_path / "stub")
    return made


@pytest.mark.slow
def test_the_stub_is_found_and_served_as_any_engine(part: Any, stubbed: Path, tmp_path: Path) -> None:
    stub, servers, load = part("serving.stub"), part("serving.servers"), part("serving.load")
    before = os.environ["PYTHONPATH"]
    with stub.installed(tmp_path / "packages"), servers.embedded("ours", stubbed, 1).run() as url:
        answer = httpx.post(url, json=servers.embedded("ours", stubbed, 1).body("a film")).json()
        assert answer["predictions"][0]["label"] == "negative"
        requests, taken, engine = part("serving.beside").counted(url)
        assert requests == 1
        assert 0 < engine < taken < 60
        if not load.missing():
            bodies = load.write_bodies(tmp_path / "bodies.jsonl", [{"inputs": ["a film"]}] * 3)
            assert load.play(url, bodies, 2, 1, warm_s=1).per_s > 10
    assert os.environ["PYTHONPATH"] == before
