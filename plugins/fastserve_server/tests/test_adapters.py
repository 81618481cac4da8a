"""Named adapters on one base: ``model: base:adapter`` in every route, and the answers of the merged models."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from safetensors.numpy import load_file, save_file

from conftest import Cli
from fastserve_core.artifacts import (
    ADAPTER_CONFIG,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS,
    Artifact,
    find_adapter,
    find_artifact,
    weights_digest,
)
from fastserve_core.errors import ArtifactError, OptionError, PlanError
from fastserve_core.inference import Predictor
from fastserve_server.application import build_application
from fastserve_server.options import ServerOptions, ServingOptions
from fastserve_server.server import start
from fastserve_server.tests.test_application import client_of

LAYERS = {"transformer.h.0.attn.c_attn": (32, 96), "transformer.h.1.mlp.c_proj": (64, 32)}
RANK, ALPHA = 3, 6
PROMPT = "the film is wonderful what a moving story " * 5
"""Of more than one block of keys and values, which requests of one adapter may share."""


def write_adapter(folder: Path, seed: int) -> Path:
    """PEFT's files of an adapter of the tiny writer."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    tensors = {}
    for name, (inputs, outputs) in LAYERS.items():
        key = f"base_model.model.{name}.lora_"
        tensors[f"{key}A.weight"] = random.normal(size=(RANK, inputs)).astype(np.float32)
        tensors[f"{key}B.weight"] = random.normal(size=(outputs, RANK)).astype(np.float32)
    save_file(tensors, folder / ADAPTER_WEIGHTS)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "acme/writer"}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config))
    return folder


def merge(writer: Artifact, adapter: Path, folder: Path) -> Predictor:
    """The model with an adapter added to its weights."""
    shutil.copytree(writer.folder, folder)
    weights, tensors = load_file(folder / "model.safetensors"), load_file(adapter / ADAPTER_WEIGHTS)
    for name in LAYERS:
        first, second = (tensors[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
        weights[f"{name}.weight"] += (second @ first).T * (ALPHA / RANK)  # GPT-2 stores inputs first
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return Predictor(Artifact(folder, "", writer.manifest), 1)


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, Path]:
    return {name: write_adapter(tmp_path / name, seed) for seed, name in enumerate(["formal", "short"])}


def named(adapters: dict[str, Path]) -> list[str]:
    return [f"{name}:{folder}" for name, folder in adapters.items()]


def converse(writer: Artifact, adapters: list[str], scene: Callable[[httpx.AsyncClient], Any]) -> None:
    async def run() -> None:
        options = ServingOptions(name="w", adapters=adapters, max_new_tokens=16)
        async with client_of(build_application(writer.folder, options, threads=1)) as client:
            await scene(client)

    asyncio.run(run())


@pytest.mark.seconds(2)
def test_each_adapter_answers_as_its_merged_model(writer: Artifact, adapters: dict[str, Path], tmp_path: Path) -> None:
    limit = {"max_new_tokens": 12}
    merged = {f"w:{name}": merge(writer, folder, tmp_path / f"m-{name}") for name, folder in adapters.items()}
    expected = {name: model.predict([PROMPT], parameters=limit) for name, model in merged.items()}
    expected["w"] = Predictor(writer, 1).predict([PROMPT], parameters=limit)
    assert len({answers[0]["text"] for answers in expected.values()}) == len(expected)

    async def scene(client: httpx.AsyncClient) -> None:
        async def complete(model: str) -> tuple[str, str]:
            body = {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": 12}
            answer = (await client.post("/v1/completions", json=body)).json()
            return answer["model"], answer["choices"][0]["text"]

        async def predict(model: str) -> Any:
            return (
                await client.post("/predict", json={"inputs": [PROMPT], "model": model, "parameters": limit})
            ).json()

        for _ in range(2):  # the second time, each finds the keys and values of its own adapter
            found = await asyncio.gather(*map(complete, [*expected, *expected]))
            assert dict(found) == {name: answers[0]["text"] for name, answers in expected.items()}
        answers = await asyncio.gather(*map(predict, expected))
        assert answers == [{"predictions": expected[name], "model": name} for name in expected]
        cards = (await client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["w", "w:formal", "w:short"]
        assert (await client.get("/v1/models/w:short")).json() == cards[2]
        infer = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [PROMPT]}]}
        answer = (await client.post("/v2/models/w:short/infer", json=infer)).json()
        assert answer["model_name"] == "w:short"
        assert json.loads(answer["outputs"][0]["data"][0]) == merged["w:short"].predict([PROMPT])[0]
        assert "w:formal" in (await client.get("/")).text

    converse(writer, named(adapters), scene)


def test_an_unknown_adapter_is_404_with_the_names_near_it(writer: Artifact, adapters: dict[str, Path]) -> None:
    async def scene(client: httpx.AsyncClient) -> None:
        for model in ("w:shrot", "w:", "x:short"):
            answer = await client.post("/v1/completions", json={"model": model, "prompt": "the film"})
            assert answer.status_code == 404
            error = answer.json()["error"]
            assert error["type"] == "not_found"
            assert error["message"].startswith(f"the server has no model '{model}'; did you mean 'w")
        assert "did you mean 'w:short'" in (await client.get("/v1/models/w:shrot")).json()["error"]["message"]

    converse(writer, named(adapters), scene)


def test_names_of_adapters_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(OptionError, match=r"serve\.adapters: two adapters have the name 'tone': use NAME:FOLDER"):
        ServingOptions(adapters=["tone:/models/one", "/models/tone"])
    with pytest.raises(OptionError, match=r"serve\.server\.adapters='a b': use letters"):
        ServerOptions(adapters=["a b:/models/one"])


def test_a_model_that_takes_no_adapters_is_refused(
    classifier: Artifact, writer: Artifact, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="'tiny-classifier' is for text_classification: serve the merged model"):
        build_application(classifier.folder, ServingOptions(adapters=named(adapters)))
    monkeypatch.setattr("fastserve_engines.torch_engine.TorchEngine.takes_adapters", False)

    async def load() -> None:
        async with client_of(build_application(writer.folder, ServingOptions(adapters=named(adapters)), threads=1)):
            pass

    with pytest.raises(PlanError, match="the engine 'torch' cannot switch adapters; these can: openvino"):
        asyncio.run(load())


def test_an_adapter_is_found_where_it_was_trained(tmp_path: Path, writer: Artifact) -> None:
    with pytest.raises(ArtifactError, match="has no adapter: it has neither"):
        find_adapter(writer.folder)
    with pytest.raises(ArtifactError, match="does not exist"):
        find_adapter(tmp_path / "nowhere")
    write_adapter(tmp_path / ADAPTER_FOLDER, 0)
    assert find_adapter(tmp_path) == find_adapter(tmp_path / ADAPTER_FOLDER) == (tmp_path / ADAPTER_FOLDER)


def test_a_checkpoint_is_a_base_without_a_training(
    writer: Artifact, classifier: Artifact, cli: Cli, tmp_path: Path
) -> None:
    found = {}
    for artifact in (writer, classifier):
        folder = tmp_path / artifact.folder.name
        shutil.copytree(artifact.folder, folder, ignore=shutil.ignore_patterns("fastserve.json"))
        given = (f"model={folder}", "task=causal_lm", "engine=openvino", f"hydra.run.dir=run-{folder.name}")
        found[folder.name] = cli("+plugin=server", *given, "serve.server.api_keys_file=absent.txt")
    assert {done.returncode for done in found.values()} == {2}
    assert "without a trained head for causal_lm" in found["tiny-classifier"].stderr
    assert "absent.txt" in found["tiny-writer"].stderr  # the server's fault, after the model was made
    made = find_artifact(tmp_path / "run-tiny-writer")
    assert (made.engine, weights_digest(made.folder)) == ("openvino", weights_digest(writer.folder))


@pytest.mark.slow(25)
def test_a_trained_adapter_beside_its_base_answers_as_the_merged_artifact(
    writer: Artifact, cli: Cli, tmp_path: Path
) -> None:
    rows = [{"instruction": f"say {word}", "output": f"{word} {word}"} for word in ("film", "story", "work", "piece")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows * 6)))
    done = cli(
        *("+plugin=torch_ddp", f"model={writer.folder}", "task=causal_lm", "task.max_length=64", "engine=torch"),
        *("task.max_new_tokens=8", "data.train=rows.jsonl", "data.validation=rows.jsonl", "data.test=rows.jsonl"),
        *("train.torch_ddp.method=lora", "train.torch_ddp.lr=0.05", "train.torch_ddp.nproc=1", "hydra.run.dir=run"),
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    merged = Path(json.loads((run / "run.json").read_text())["best"])
    expected = Predictor(merged, 1).predict(["say film"])[0]["text"]
    assert expected != Predictor(writer, 1).predict(["say film"])[0]["text"]
    options = ServerOptions(port=0, name="base", adapters=[f"mine:{run}"])
    with start(writer.folder, options, threads=1) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        answer = client.completions.create(model="base:mine", prompt="say film", temperature=0, max_tokens=8)
        assert answer.choices[0].text == expected
    with (merged / ADAPTER_FOLDER / ADAPTER_WEIGHTS).open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\1\0")
    with pytest.raises(ArtifactError, match="changed since it was published"):
        find_adapter(run)
