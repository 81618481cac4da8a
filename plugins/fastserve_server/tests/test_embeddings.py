"""Embeddings and reranking over HTTP: the routes of OpenAI's and other clients, parameters, tensors, bad requests."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from tiny_training import train_tiny

from fastserve_core.artifacts import Artifact, load_artifact
from fastserve_core.tasks import load_task
from fastserve_server.options import ServerOptions
from fastserve_server.server import start
from fastserve_server.service import Service
from fastserve_server.tests.test_application import play

TEXTS = ["the film is wonderful", "a dreadful piece of work", "what a moving story"]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model with random weights."""
    task = load_task("embedding", {"max_length": 32, "widths": [16], "query_prompt": "query: "})
    rows = [{"text": text, "positive": text} for text in TEXTS]
    return load_artifact(train_tiny(task, rows, tmp_path_factory.mktemp("embedder") / "m", epochs=0))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model with random weights."""
    task = load_task("reranking", {"max_length": 32})
    rows = [{"query": text, "document": text} for text in TEXTS]
    return load_artifact(train_tiny(task, rows, tmp_path_factory.mktemp("reranker") / "m", epochs=0))


def test_vectors_are_the_same_on_every_route(embedder: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        async def post(path: str, **body: Any) -> Any:
            response = await client.post(path, json=body)
            assert response.status_code == 200, response.text
            return response.json()

        answers = (await post("/predict", inputs=TEXTS))["predictions"]
        jsonschema.validate(answers[0], service.task.answer_schema())
        vectors = np.asarray([answer["embedding"] for answer in answers])
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
        assert await post("/embed", inputs=TEXTS) == vectors.tolist()
        assert await post("/embed", inputs=TEXTS[0]) == vectors[:1].tolist()
        similarities = await post("/similarity", inputs={"source_sentence": TEXTS[0], "sentences": TEXTS[1:]})
        assert similarities == pytest.approx(vectors[1:] @ vectors[0])
        (short,) = await post("/embed", inputs=TEXTS[0], dimensions=16)
        assert short == pytest.approx(vectors[0, :16] / np.linalg.norm(vectors[0, :16]))
        (raw,) = await post("/embed", inputs=TEXTS[0], normalize=False)
        assert np.asarray(raw) / np.linalg.norm(raw) == pytest.approx(vectors[0], abs=1e-6)
        (asked,) = await post("/embed", inputs=TEXTS[0], prompt_name="query")
        assert await post("/embed", inputs=f"query: {TEXTS[0]}") == [asked]
        tokens = await post("/tokenize", inputs=TEXTS)
        assert await post("/decode", ids=[[one["id"] for one in text] for text in tokens]) == TEXTS
        first = next(token for token in tokens[0] if not token["special"])
        assert TEXTS[0][first["start"] : first["stop"]] == "the"
        tensors = [{"name": "text", "datatype": "BYTES", "shape": [3], "data": TEXTS}]
        (output,) = (await post(f"/v2/models/{service.name}/infer", inputs=tensors))["outputs"]
        assert output["shape"] == [3, 32] and output["data"] == pytest.approx(vectors.ravel(), abs=1e-6)
        page = (await client.get("/")).text
        assert '"vector": "embedding"' in page and 'id="prompt_name"' in page

    play(embedder, scene)


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/embeddings", {"input": "a", "dimensions": 8}, "dimensions=8 is not a length that the model was trained"),
        ("/v1/embeddings", {"input": ["a", 1]}, "not a mixture"),
        ("/v1/embeddings", {"input": [[1], []]}, "an input cannot be used"),
        ("/v1/embeddings", {"input": [99999]}, "has the token 99999"),
        ("/v1/embeddings", {"input": ""}, "'text' is empty"),
        ("/predict", {"inputs": ["a"], "parameters": {"dimensions": 31}}, "dimensions=31 is not a length"),
        ("/embed", {"inputs": "film " * 99, "truncate": False}, "longer than the model reads"),
        ("/embed", {"inputs": "a", "prompt_name": "querry"}, "did you mean 'query'"),
        ("/embed", {"inputs": [1, 2], "prompt_name": "query"}, "a prompt goes with texts"),
        ("/tokenize", {"inputs": "a", "prompt_name": "passage"}, "has no prompt 'passage'"),
        ("/decode", {"ids": [-1]}, "the token -1 is not one of the vocabulary"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(
    path: str, body: dict[str, Any], message: str, embedder: Artifact
) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        named = {"model": service.name} if path == "/v1/embeddings" else {}
        response = await client.post(path, json=body | named)
        assert response.status_code == 422 and message in response.json()["error"]["message"], response.text

    play(embedder, scene)


def test_texts_are_ordered_for_both_kinds_of_clients(reranker: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        pairs = {"inputs": [["film", text] for text in TEXTS]}
        scores = [answer["score"] for answer in (await client.post("/predict", json=pairs)).json()["predictions"]]
        order = sorted(range(3), key=lambda index: -scores[index])
        for path in ("/rerank", "/v1/rerank"):
            found = (await client.post(path, json={"query": "film", "texts": TEXTS})).json()
            assert found == [{"index": index, "score": pytest.approx(scores[index])} for index in order]
            body = {"query": "film", "documents": TEXTS, "model": service.name, "top_n": 1}
            (best,) = (await client.post(path, json=body)).json()["results"]
            assert best == {"index": order[0], "relevance_score": pytest.approx(scores[order[0]])}
            refused = await client.post(path, json={"query": "film", "texts": ["a"], "documents": ["b"]})
            assert refused.status_code == 400 or refused.status_code == 422
            assert "either 'texts' or 'documents'" in refused.text

    play(reranker, scene)


def test_openais_client_gets_vectors_of_texts_and_token_ids(embedder: Artifact) -> None:
    from openai import OpenAI, UnprocessableEntityError

    with start(embedder.folder, ServerOptions(port=0), threads=1) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        model = client.models.list().data[0].id
        found = client.embeddings.create(model=model, input=TEXTS)  # in base64, as the client asks by default
        plain = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
        assert [one.index for one in found.data] == [0, 1, 2] and found.usage.prompt_tokens == plain.usage.total_tokens
        for one, other in zip(found.data, plain.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        ids = [7, 8, 9]
        (first,) = client.embeddings.create(model=model, input=ids).data
        (second,) = client.embeddings.create(model=model, input=[ids]).data
        assert first.embedding == second.embedding
        (short,) = client.embeddings.create(model=model, input="a film", dimensions=16).data
        assert len(short.embedding) == 16
        with pytest.raises(UnprocessableEntityError, match="dimensions=15 is not a length"):
            client.embeddings.create(model=model, input="a film", dimensions=15)


def test_base64_holds_little_endian_numbers_in_single_precision() -> None:
    from fastserve_text.embedding.routes import encode_base64

    assert np.frombuffer(base64.b64decode(encode_base64([0.5, -2.0])), "<f4").tolist() == [0.5, -2.0]
