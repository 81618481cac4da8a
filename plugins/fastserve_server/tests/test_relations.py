"""Relations over HTTP: answers, parameters of requests, and the tensors of the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path

import httpx
import jsonschema
import pytest
from tiny_training import train_tiny

from fastserve_core.artifacts import Artifact, load_artifact
from fastserve_core.tasks import load_task
from fastserve_server.service import Service
from fastserve_server.tests.test_application import play

MARKED = "<e1>Ann</e1> met <e2>Bob</e2>"


@pytest.fixture(scope="module")
def relations(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model with random weights."""
    task = load_task("relation_classification", {"max_length": 32}, ["Other", "knows", "likes"])
    rows = [{"text": MARKED, "relation": "likes"}]
    assert task.check(rows[0]) is None
    return load_artifact(train_tiny(task, rows, tmp_path_factory.mktemp("relations") / "m", epochs=0))


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model with random weights."""
    labels = ["entity:person", "relation:knows", "relation:likes"]
    task = load_task("relation_extraction", {"max_length": 32}, labels)
    rows = [{"text": "Ann met Bob", "entities": [], "relations": []}]
    return load_artifact(train_tiny(task, rows, tmp_path_factory.mktemp("facts") / "m", epochs=0))


def test_a_relation_is_answered_by_both_protocols(relations: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        spans = {"text": "Ann met Bob", "head": "Ann", "tail": [8, 11]}
        inputs = {"inputs": [MARKED, spans], "parameters": {"top_k": 2}}
        response = await client.post("/predict", json=inputs)
        assert response.status_code == 200, response.text
        answers = response.json()["predictions"]
        jsonschema.validate(answers[0], service.task.with_options({"top_k": 2}).answer_schema())
        assert answers[0] == answers[1]
        assert len(answers[0]["relations"]) == 2
        columns = {"text": ["Ann met Bob", MARKED], "head": ["[0, 3]", ""], "tail": ["Bob", ""]}
        tensors = [{"name": name, "datatype": "BYTES", "shape": [2], "data": data} for name, data in columns.items()]
        answer = (await client.post(f"/v2/models/{service.name}/infer", json={"inputs": tensors})).json()
        outputs = {one["name"]: one["data"] for one in answer["outputs"]}
        assert outputs["relation"] == [answers[0]["relation"]] * 2
        assert outputs["scores"][:3] == pytest.approx(list(answers[0]["scores"].values()))
        refused = await client.post("/predict", json={"inputs": ["Ann met Bob"]})
        assert refused.status_code == 422
        assert "'text' has no marks <e1>…</e1> and <e2>…</e2>" in refused.json()["error"]["message"]

    play(relations, scene)


def test_facts_are_answered_with_the_parameters_of_the_request(facts: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        inputs = ["Ann met Bob", "Bob met Ann and Ann met Bob " * 20]
        body = {"inputs": inputs, "parameters": {"threshold": 0.05, "top_k": 3}}
        answers = (await client.post("/predict", json=body)).json()["predictions"]
        for answer, text in zip(answers, inputs, strict=True):
            jsonschema.validate(answer, service.task.answer_schema())
            assert all(text[one["start"] : one["end"]] == one["text"] for one in answer["entities"])
        assert len(answers[1]["relations"]) == len(answers[1]["triples"]) == 3
        unlikely = {"inputs": inputs, "parameters": {"threshold": 1.0}}
        assert (await client.post("/predict", json=unlikely)).json()["predictions"][1]["relations"] == []
        for parameters, message in (({"threshold": 2}, "task.threshold must lie"), ({"thresold": 1}, "did you mean")):
            refused = await client.post("/predict", json={"inputs": inputs, "parameters": parameters})
            assert refused.status_code == 422
            assert message in refused.json()["error"]["message"]
        page = (await client.get("/")).text
        assert '"triples": "triples"' in page

    play(facts, scene)


def test_both_tasks_are_in_the_description_of_the_api(relations: Artifact, facts: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        description = (await client.get("/openapi.json")).json()
        assert "triples" in str(description)

    for artifact in (relations, facts):
        play(artifact, scene)


@pytest.mark.parametrize("kind", ["relations", "facts"])
def test_artifacts_are_models_of_transformers(kind: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForTokenClassification

    artifact: Artifact = request.getfixturevalue(kind)
    model = AutoModelForTokenClassification.from_pretrained(Path(artifact.folder))
    assert model.config.num_labels in (3, 3 + 2 * 2 * 16)
