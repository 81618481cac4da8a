"""Texts for texts over HTTP: complete answers, the pipeline's shape, streams, and requests that cannot be answered."""

from __future__ import annotations

import json

import httpx
import pytest
from tiny_training import train_tiny

from fastserve_core.artifacts import Artifact, load_artifact
from fastserve_core.inference import Predictor
from fastserve_core.tasks import load_task
from fastserve_server.service import Service
from fastserve_server.tests.test_application import play

TEXTS = ["the film was good", "the film was bad and long"]
LONG = [f"{'the film was long and ' * 8}{end}" for end in ("good", "bad")]
"""Texts that begin alike, with more tokens than a block of keys and values has."""


@pytest.fixture(scope="module")
def summarizer(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model that repeats some words, in a second of training."""
    task = load_task("seq2seq", {"max_length": 48, "max_target_length": 8, "max_new_tokens": 6})
    rows = [{"text": text, "target": [text[4:]]} for text in TEXTS] * 8
    return load_artifact(train_tiny(task, rows, tmp_path_factory.mktemp("summaries") / "m", epochs=8))


@pytest.mark.slow(1)
def test_answers_are_those_of_the_predictor_and_parameters_change_them(summarizer: Artifact) -> None:
    predictor = Predictor(summarizer, 1)
    expected = predictor.predict(TEXTS)
    beams = predictor.predict(TEXTS, parameters={"num_beams": 3, "min_new_tokens": 5})
    long = "film " * 60

    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        answer = (await client.post("/predict", json={"inputs": TEXTS})).json()
        assert answer["predictions"] == expected
        given = {"inputs": TEXTS, "parameters": {"num_beams": 3, "min_new_tokens": 5}}
        assert (await client.post("/predict", json=given)).json()["predictions"] == beams
        shape = (await client.post("/summarize", json={"inputs": TEXTS})).json()
        assert shape == [{"summary_text": one["text"]} for one in expected]
        cut = (await client.post("/predict", json={"inputs": [long]})).json()["predictions"][0]
        assert cut["truncated"] is True
        for parameters, message in (({"max_new_tokens": 65}, "at most 64, the model's positions"),
                                    ({"beams": 2}, "has no option 'beams'"),
                                    ({"num_beams": 0}, "must be at least 1")):  # fmt: skip
            refused = await client.post("/predict", json={"inputs": TEXTS, "parameters": parameters})
            assert refused.status_code == 422 and message in refused.json()["error"]["message"]
        tensors = [{"name": "text", "datatype": "BYTES", "shape": [1], "data": TEXTS[:1]}]
        outputs = (await client.post(f"/v2/models/{service.name}/infer", json={"inputs": tensors})).json()["outputs"]
        assert json.loads(outputs[0]["data"][0]) == expected[0]

    play(summarizer, scene)


@pytest.mark.slow(1)
def test_a_stream_has_the_text_of_the_complete_answer(summarizer: Artifact) -> None:
    expected = Predictor(summarizer, 1).predict([*TEXTS, *LONG, LONG[0]])

    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        body = {"model": service.name, "prompt": [*TEXTS, *LONG, LONG[0]], "max_tokens": 6, "temperature": 0}
        complete = (await client.post("/v1/completions", json=body)).json()
        assert [choice["text"].strip() for choice in complete["choices"]] == [one["text"] for one in expected]
        streamed = [""] * len(expected)
        async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        streamed[choice["index"]] += choice["text"]
        assert [text.strip() for text in streamed] == [one["text"] for one in expected]
        for changes, message in (({"prompt": "film " * 60}, "longer than the 48 tokens that the model reads"),
                                 ({"max_tokens": 65}, "at most 64, the model's positions")):  # fmt: skip
            refused = await client.post("/v1/completions", json={**body, **changes})
            assert refused.status_code == 422 and message in refused.json()["error"]["message"]

    play(summarizer, scene)
