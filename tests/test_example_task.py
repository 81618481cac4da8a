"""The example of a task, installed in an environment of its own, goes all the way from data to a served model.

Nothing outside the package knows its columns, its loss, its answers or its metrics.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from environments import Environment

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "fastserve-multilabel"

pytestmark = [pytest.mark.slow(120), pytest.mark.network, pytest.mark.timeout(1800)]

TOPICS = {"sport": "the match was won in the last minute", "money": "shares and prices fell", "film": "a moving film"}

SERVE = """
import json, sys
import httpx
from fastserve_core import FastServe

artifact, plugin, text, path, body = sys.argv[1:]
fs = FastServe.load(artifact, {"serve": plugin}, show=False)
with fs.serve(port=0, name="m") as server:
    asked = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    found = {
        "predict": httpx.post(server.url + "/predict", json={"inputs": [text]}, timeout=60).json(),
        "infer": httpx.post(server.url + "/v2/models/m/infer", json=asked, timeout=60).json(),
        "own": httpx.post(server.url + path, json=json.loads(body), timeout=60).json(),
        "paths": list(httpx.get(server.url + "/openapi.json").json()["paths"]),
        "page": httpx.get(server.url + "/", headers={"Accept": "text/html"}).text,
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the example package, installed from a copy of it."""
    folder = tmp_path_factory.mktemp("example-task")
    shutil.copytree(EXAMPLE, folder / "package")
    environment = Environment(folder / "environment")
    environment.install(folder / "package", cwd=folder)
    return environment


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    """A CSV file of texts about none to all of the topics."""
    path, lines = tmp_path / "messages.csv", ["text,topics"]
    for number in range(160):
        chosen = [name for place, name in enumerate(TOPICS) if number >> place & 1]
        lines.append(f"{number} says: {' and '.join(TOPICS[name] for name in chosen)},{'|'.join(chosen)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_its_own_tests_pass(example: Environment, tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    shutil.copytree(EXAMPLE / "tests", folder)
    assert " passed" in example.run("pytest", "-q", "-p", "no:cacheprovider", folder, cwd=tmp_path)


def test_it_is_tuned_trained_distilled_quantized_exported_served_and_reported(
    example: Environment, tmp_path: Path, tiny_bert: Path, messages: Path
) -> None:
    more = tmp_path / "more.txt"
    more.write_text(f"{TOPICS['film']}\n{TOPICS['money']}\n")
    options = [
        "+plugin=[nevergrad,torch_ddp,distill,neural_compressor]", "task=multilabel", "task.threshold=0.4",
        f"model={tiny_bert}", f"data.train={messages}", "+data.columns.labels=topics", "gate.enabled=false",
        "train.torch_ddp.epochs=2", "train.torch_ddp.lr=0.003", "train.torch_ddp.label_smoothing=0.05",
        "tune.nevergrad.trials=2", "tune.nevergrad.trial_steps=4", f"compress.distill.unlabelled={more}",
        "compress.distill.augment=1", "compress.neural_compressor.method=static", "engine=torch",
    ]  # fmt: skip
    example.run("fastserve_core", *options, cwd=tmp_path)
    (path,) = tmp_path.glob("outputs/*/*/run.json")
    record = json.loads(path.read_text())
    assert [stage["status"] for stage in record["stages"]] == ["done"] * 4
    assert record["metrics"]["f1_micro"]["unit"] == "%"
    last = record["stages"][-1]
    assert set(last["measures"]["quality"]) == {"f1_micro", "subset_accuracy"}
    report = (path.parent / "report.md").read_text()
    assert "f1 micro" in report and "subset accuracy" in report and " ± " in report

    trained, onnx = record["stages"][-2]["artifact"], tmp_path / "onnx"
    example.run("fastserve_core", "export", trained, onnx, "--to", "onnx", "--check", 4, cwd=tmp_path)
    assert (onnx / "model.onnx").is_file()

    line = example.run("fastserve_core", "predict", last["artifact"], TOPICS["sport"], cwd=tmp_path)
    assert TOPICS["sport"] in line
    body = {"messages": [TOPICS["sport"], TOPICS["film"]], "limit": 1}
    served = serve(example, last["artifact"], "server", tmp_path, TOPICS["sport"], "/tag", body)
    (answer,) = served["predict"]["predictions"]
    assert set(answer["scores"]) == set(TOPICS)
    outputs = {output["name"]: output for output in served["infer"]["outputs"]}
    assert outputs["labels"]["data"] == ["|".join(answer["labels"])]
    assert outputs["scores"]["shape"] == [1, 3]
    assert outputs["scores"]["data"] == pytest.approx([answer["scores"][name] for name in sorted(TOPICS)])
    assert '"labels"' in served["page"]
    assert "/tag" in served["paths"] and set(served["own"]) == {"tags"}
    best = max(answer["scores"], key=answer["scores"].get)
    assert served["own"]["tags"][0] == ([best] if answer["labels"] else [])
    assert serve(example, last["artifact"], "ray_serve", tmp_path, TOPICS["sport"], "/tag", body) == served


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the package ``toy_embedder``."""
    environment = Environment(tmp_path_factory.mktemp("stranger") / "environment")
    package = environment.packages / "toy_embedder"
    (package / "conf" / "task").mkdir(parents=True)
    (package / "conf" / "task" / "toy_embedder.yaml").write_text("name: toy_embedder\nmax_length: 64\n")
    shutil.copy(Path(__file__).parent / "support" / "toy_embedder.py", package / "__init__.py")
    about = environment.packages / "toy_embedder-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-embedder\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fastserve.tasks]\ntoy_embedder = toy_embedder:Embedder\n")
    return environment


def test_a_model_without_a_head_is_trained_distilled_quantized_exported_and_served(
    stranger: Environment, tmp_path: Path, tiny_bert: Path
) -> None:
    messages = tmp_path / "messages.csv"
    topics = [(number, *list(TOPICS.items())[number % 3]) for number in range(150)]
    messages.write_text("text,topic\n" + "".join(f"{number} {text},{name}\n" for number, name, text in topics))
    options = [
        "+plugin=[torch_ddp,distill,neural_compressor]", "task=toy_embedder", f"model={tiny_bert}",
        f"data.train={messages}", "+data.columns.topic=topic", "gate.enabled=false", "engine=torch",
        "train.torch_ddp.epochs=20", "train.torch_ddp.lr=0.005", "compress.distill.epochs=4",
        "compress.neural_compressor.method=static",
    ]  # fmt: skip
    stranger.run("fastserve_core", *options, cwd=tmp_path)
    (path,) = tmp_path.glob("outputs/*/*/run.json")
    stages = json.loads(path.read_text())["stages"]
    assert [stage["status"] for stage in stages] == ["done"] * 3
    assert all(stage["measures"]["quality"]["accuracy"] > 0.9 for stage in stages)
    stranger.run(
        "fastserve_core", "export", stages[1]["artifact"], tmp_path / "file", "--to", "torch_export", cwd=tmp_path
    )
    (output,) = json.loads((tmp_path / "file" / "export.json").read_text())["outputs"]
    assert (output["name"], output["shape"]) == ("last_hidden_state", ["batch", "length", 32])

    text, body = TOPICS["money"], {"inputs": [TOPICS["money"], "another text"], "dimensions": 3}
    served = serve(stranger, stages[-1]["artifact"], "server", tmp_path, text, "/embed", body)
    (answer,) = served["predict"]["predictions"]
    assert sum(number**2 for number in answer["embedding"]) == pytest.approx(1, abs=1e-3)
    assert served["own"][0] == pytest.approx(answer["embedding"][:3], abs=0.02)
    assert [len(vector) for vector in served["own"]] == [3, 3]
    (tensor,) = served["infer"]["outputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("embedding", "FP32", [1, 32])


def serve(
    environment: Environment, artifact: str, plugin: str, folder: Path, text: str, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    """What a server answers to a text, and at a route of the task's own."""
    (folder / "ask.py").write_text(SERVE)
    printed = environment.run_script(folder / "ask.py", artifact, plugin, text, path, json.dumps(body), cwd=folder)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found
