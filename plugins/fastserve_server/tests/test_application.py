"""The application in this process, with an engine that can be held."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jsonschema
import pytest
from starlette.applications import Starlette

from fastserve_core.artifacts import Artifact
from fastserve_core.errors import StageError
from fastserve_core.inference import Predictor
from fastserve_core.tasks import Encoded
from fastserve_server.application import ENDPOINTS, build_application
from fastserve_server.options import ServingOptions
from fastserve_server.requests import Answers
from fastserve_server.service import Service

ANSWER = {"label": "positive", "score": 1.0, "scores": {"negative": 0.0, "positive": 1.0}}


class Held:
    """An engine that answers when it is let go."""

    go: threading.Event

    def __init__(self, fault: Exception | None = None) -> None:
        self.go, self.begun, self.answered, self.fault = threading.Event(), threading.Event(), 0, fault

    def encode(self, rows: Sequence[Any]) -> list[Encoded]:
        return [Encoded({"input_ids": [0]}) for _ in rows]

    def answer(self, batch: Sequence[Encoded], options: Mapping[str, Any] | None = None) -> Answers:
        self.begun.set()
        assert self.go.wait(10)
        if self.fault:
            raise self.fault
        self.answered += len(batch)
        return [ANSWER for _ in batch]

    def close(self) -> None:
        pass


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    engine = Held()
    monkeypatch.setattr(Service, "_make_worker", lambda self: engine)
    return engine


@asynccontextmanager
async def client_of(application: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application, raise_app_exceptions=False)
    async with (
        application.router.lifespan_context(application),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


Scene = Callable[[httpx.AsyncClient, Service], Coroutine[Any, Any, None]]


def play(artifact: Artifact, scene: Scene, wait: bool = True, **options: Any) -> None:
    async def run() -> None:
        application = build_application(
            artifact.folder, ServingOptions(**({"workers": 1} | options)), threads=1, wait=wait
        )
        async with client_of(application) as client:
            await scene(client, application.state.models.first)

    asyncio.run(asyncio.wait_for(run(), 30))


async def ask(client: httpx.AsyncClient, *texts: str, **more: Any) -> httpx.Response:
    return await client.post("/predict", json={"inputs": list(texts) or ["a film"]} | more)


def error_of(response: httpx.Response) -> tuple[int, str]:
    """The status and the type of an error, which is JSON of the promised shape."""
    error = response.json()["error"]
    assert set(error) == {"type", "message"}
    assert "Traceback" not in response.text
    return response.status_code, error["type"]


def test_a_full_queue_is_429_with_a_time_to_come_back(classifier: Artifact, held: Held) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        running = asyncio.ensure_future(ask(client))
        await asyncio.to_thread(held.begun.wait, 5)
        waits = asyncio.ensure_future(ask(client, "a", "b"))
        await asyncio.sleep(0.05)
        refused = await ask(client)
        assert error_of(refused) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert "fastserve_queue_depth 2.0" in (await client.get("/metrics")).text
        held.go.set()
        assert [(await one).status_code for one in (running, waits)] == [200, 200]

    play(classifier, scene, max_queue=2, max_inputs=2)


def test_texts_of_too_many_windows_are_422(tagger: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        longest = service.task.options.max_length
        answered = await client.post("/predict", json={"inputs": ["word " * longest, *["short"] * 5]})
        assert answered.status_code == 200
        refused = await client.post("/predict", json={"inputs": ["word " * 20 * longest, "short"]})
        assert error_of(refused)[0] == 422
        assert "windows together, and this server's limit is 8" in refused.text
        found = []
        for stride in (0, longest // 2):  # the same text in few and in many windows
            body = {"inputs": ["film " * 6 * longest], "parameters": {"stride": stride}}
            found.append((await client.post("/predict", json=body)).status_code)
        assert found == [200, 422]

    play(tagger, scene, max_windows=8)


def test_an_answer_after_the_deadline_is_504(classifier: Artifact, held: Held) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        running, waits = asyncio.ensure_future(ask(client)), asyncio.ensure_future(ask(client))
        assert error_of(await running) == (504, "deadline_exceeded")
        assert error_of(await waits) == (504, "deadline_exceeded")
        assert service.engine.queue_depth == 0
        held.go.set()

    play(classifier, scene, request_timeout_s=0.2)


@pytest.mark.parametrize("parts", [[b'{"inputs"'], []])
def test_a_slow_body_is_504_too(classifier: Artifact, held: Held, parts: list[bytes]) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        async def drip() -> AsyncIterator[bytes]:
            for part in parts:
                yield part
            await asyncio.sleep(5)

        assert error_of(await client.post("/predict", content=drip())) == (504, "deadline_exceeded")

    play(classifier, scene, request_timeout_s=0.2)


def test_before_the_model_is_warm_it_is_503(classifier: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, engine = threading.Event(), Held()
    engine.go.set()
    monkeypatch.setattr(Service, "_make_worker", lambda self: loading.wait(10) and engine)

    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        assert (await client.get("/v2/health/live")).status_code == 200
        for path in ("/v2/health/ready", "/v2/models/tiny-classifier/ready"):
            assert (await client.get(path)).status_code == 503
        assert error_of(await ask(client)) == (503, "unavailable")
        loading.set()
        await service.wait_until_loaded()
        assert (await client.get("/v2/health/ready")).status_code == 200
        assert (await ask(client)).status_code == 200

    play(classifier, scene, wait=False)


@pytest.mark.parametrize("kind", [ZeroDivisionError, type("PanicException", (BaseException,), {})])
def test_a_model_that_cannot_be_loaded_is_reported_in_one_line(
    classifier: Artifact, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def fail(self: Service) -> None:
        raise kind("secret detail")

    monkeypatch.setattr(Service, "_make_worker", fail)

    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        with pytest.raises(
            StageError, match=rf"^{classifier.folder} cannot be loaded: {kind.__name__}: secret detail$"
        ):
            await service.wait_until_loaded()
        refused = await ask(client)
        assert error_of(refused) == (503, "unavailable")
        assert "secret" not in refused.text

    play(classifier, scene, wait=False)


def test_while_draining_new_requests_are_503_and_open_ones_end(classifier: Artifact, held: Held) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        running = asyncio.ensure_future(ask(client))
        await asyncio.to_thread(held.begun.wait, 5)
        service.draining = True
        refused = await ask(client)
        assert error_of(refused) == (503, "unavailable")
        assert refused.headers["connection"] == "close"
        assert (await client.get("/v2/health/ready")).status_code == 503
        held.go.set()
        answered = await running
        assert answered.status_code == 200
        assert answered.headers["connection"] == "close"

    play(classifier, scene)


def test_while_draining_a_body_that_trickles_ends(classifier: Artifact, held: Held) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        async def trickle() -> AsyncIterator[bytes]:
            while True:
                yield b" "
                service.draining = True
                await asyncio.sleep(0.01)

        begin = time.monotonic()
        assert error_of(await client.post("/predict", content=trickle())) == (503, "unavailable")
        assert time.monotonic() - begin < 5

    play(classifier, scene)


def test_a_request_that_the_drain_cuts_off_is_503(classifier: Artifact, held: Held) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        running = asyncio.ensure_future(ask(client))
        await asyncio.to_thread(held.begun.wait, 5)
        service.draining = True
        running.cancel()
        assert error_of(await running) == (503, "unavailable")
        held.go.set()

    play(classifier, scene)


def test_an_engine_that_fails_is_500_without_a_traceback(classifier: Artifact, held: Held) -> None:
    held.fault = ZeroDivisionError("secret detail")
    held.go.set()

    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        failed = await ask(client)
        assert error_of(failed) == (500, "internal")
        assert "secret" not in failed.text

    play(classifier, scene)


def test_a_client_that_leaves_is_not_answered(classifier: Artifact, held: Held) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        running = asyncio.ensure_future(ask(client))
        await asyncio.to_thread(held.begun.wait, 5)
        messages = [{"type": "http.request", "body": b'{"inputs": ["a film"]}', "more_body": False}]
        sent: list[Any] = []
        leave = asyncio.Event()

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
        application = client._transport.app  # type: ignore[attr-defined]
        leaving = asyncio.ensure_future(application(scope, receive, send))
        await asyncio.sleep(0.05)
        assert service.engine.queue_depth == 1
        leave.set()
        await leaving
        assert service.engine.queue_depth == 0
        assert sent[0]["status"] == 499
        held.go.set()
        assert (await running).status_code == 200
        assert held.answered == 1

    play(classifier, scene)


def test_one_text_is_one_input(classifier: Artifact, tagger: Artifact) -> None:
    predictor = Predictor(classifier, 1)
    assert predictor.predict("lovely") == predictor.predict(["lovely"]) == predictor.predict({"text": "lovely"})
    assert [word["word"] for word in Predictor(tagger, 1).predict("Ada wrote")[0]["words"]] == ["Ada", "wrote"]


def test_words_are_tagged(tagger: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        answers = (await ask(client, "Ada wrote it", inputs=["Ada wrote it", {"tokens": ["Ada", "wrote"]}])).json()
        assert [len(one["tags"]) for one in answers["predictions"]] == [3, 2]
        assert [word["word"] for word in answers["predictions"][0]["words"]] == ["Ada", "wrote", "it"]
        inputs = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Ada wrote it"]}]
        output = (await client.post("/v2/models/tiny-tagger/infer", json={"inputs": inputs})).json()["outputs"][0]
        assert output["name"] == "answer"
        assert json.loads(output["data"][0])["tags"] == answers["predictions"][0]["tags"]

    play(tagger, scene)


def test_truncation_is_reported_or_refused(classifier: Artifact) -> None:
    long = "the film is wonderful " * 40

    async def cutting(client: httpx.AsyncClient, service: Service) -> None:
        both = (await client.post("/predict", json={"inputs": [long, "the film"]})).json()["predictions"]
        assert [one.get("truncated") for one in both] == [True, None]

    async def refusing(client: httpx.AsyncClient, service: Service) -> None:
        refused = await ask(client, long)
        assert error_of(refused) == (422, "unusable")
        assert "longer than the model's limit of 64 tokens" in refused.json()["error"]["message"]
        assert (await ask(client, "the film")).status_code == 200

    play(classifier, cutting)
    play(classifier, refusing, truncation=False)


def test_text_is_written_within_bounds(writer: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        answer = (await ask(client, "the film", options={"max_new_tokens": 7})).json()["predictions"][0]
        assert answer["tokens"] <= 7
        for options, reason in (
            ({"max_new_tokens": 0}, "at least 1"),
            ({"max_new_tokens": 21}, "at most 20"),
            ({"max_new_tokens": "many"}, "parameters"),
            ({"temperature": -1}, "temperature"),
            ({"max_length": 9}, "has no option 'max_length'"),
            ({"max_new_token": 3}, "did you mean 'max_new_tokens'"),
        ):
            refused = await ask(client, options=options)
            assert error_of(refused) == (422, "unusable")
            assert reason in refused.json()["error"]["message"]
        assert (await client.get("/")).text.count('max="20"') == 1

    play(writer, scene, max_new_tokens=20)


def test_parameters_are_those_of_the_task(classifier: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        (plain,) = (await ask(client, "the film")).json()["predictions"]
        (best,) = (await ask(client, "the film", parameters={"top_k": 1})).json()["predictions"]
        assert best["scores"] == {plain["label"]: plain["score"]}
        (raw,) = (await ask(client, "the film", parameters={"function_to_apply": "none"})).json()["predictions"]
        logits = raw["scores"]
        assert logits["positive"] - logits["negative"] == pytest.approx(
            math.log(plain["scores"]["positive"] / plain["scores"]["negative"]), abs=1e-5
        )
        both = await ask(client, parameters={"top_k": 1}, options={"function_to_apply": "sigmoid"})
        assert len(both.json()["predictions"][0]["scores"]) == 1
        for parameters, reason in (
            ({"top_k": 0}, "top_k must be at least 1"),
            ({"top_k": "1"}, "Expected `int | null`"),
            ({"function_to_apply": "softmin"}, "did you mean 'softmax'"),
            ({"topk": 1}, "has no option 'topk'; did you mean 'top_k'"),
            ({"max_length": 9}, "has no option 'max_length'"),
        ):
            refused = await ask(client, parameters=parameters)
            assert error_of(refused) == (422, "unusable")
            assert reason in refused.json()["error"]["message"]
        repeated = await ask(client, parameters={"top_k": 1}, options={"top_k": 2})
        assert "is in 'parameters' and in 'options'" in repeated.json()["error"]["message"]
        body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
        path = f"/v2/models/{service.name}/infer"
        refused = await client.post(path, json=body | {"parameters": {"top_k": 1}})
        assert refused.status_code == 422 and "changes the shape" in refused.json()["error"]
        answered = await client.post(path, json=body | {"parameters": {"function_to_apply": "sigmoid"}})
        assert answered.status_code == 200
        described = (await client.get("/openapi.json")).json()["components"]["schemas"]["PredictRequest"]["properties"]
        parameters = described["parameters"]
        assert set(parameters["properties"]) == {"top_k", "function_to_apply"}
        assert parameters["properties"]["top_k"]["default"] is None and parameters["additionalProperties"] is False

    play(classifier, scene)


def test_a_prompt_that_leaves_no_positions_is_422(writer: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        refused = await ask(client, "a wonderful film " * 40, options={"max_new_tokens": 100})
        assert error_of(refused) == (422, "unusable")
        assert "128" in refused.json()["error"]["message"]

    play(writer, scene)


def test_the_description_reports_every_endpoint_and_the_pages_load_nothing(classifier: Artifact, held: Held) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        description = (await client.get("/openapi.json")).json()
        assert set(description["paths"]) == {one.path for one in ENDPOINTS}
        names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(description)))
        assert names <= set(description["components"]["schemas"])
        for path in ("/", "/dashboard", "/docs"):
            page = await client.get(path)
            assert page.headers["content-security-policy"].startswith("default-src 'none'")
            assert not re.findall(r"""(?:src|href)=["'](?!/|#)""", page.text)
        docs = (await client.get("/docs")).text
        assert all(one.path in docs for one in ENDPOINTS)

    play(classifier, scene)


def test_tensors_may_depend_on_the_calibration_of_a_model(intents: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        path = f"/v2/models/{service.name}"
        described = (await client.get(path)).json()["outputs"]
        body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Ada wrote it"]}]}
        found = {one["name"]: one["data"] for one in (await client.post(f"{path}/infer", json=body)).json()["outputs"]}
        assert list(found) == [one["name"] for one in described] == ["intent", "score", "in_scope", "slots"]
        answer = (await ask(client, "Ada wrote it")).json()["predictions"][0]
        assert found["in_scope"] == [pytest.approx(answer["in_scope"])]

    play(intents, scene)


@pytest.mark.parametrize("kind", ["classifier", "tagger", "intents", "writer"])
def test_answers_are_as_the_description_declares(kind: str, request: pytest.FixtureRequest) -> None:
    artifact: Artifact = request.getfixturevalue(kind)
    model = f"/v2/models/{artifact.folder.name}"

    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
        schema = schemas["PredictResponse"]["properties"]["predictions"]["items"]
        check = jsonschema.Draft202012Validator(schema)
        assert schema["required"]
        for answer in (await ask(client, "Ada wrote it", "the film is wonderful " * 17)).json()["predictions"]:
            check.validate(answer)
            for name in schema["required"]:
                assert not check.is_valid({**answer, name: ["other"]}), name
                assert not check.is_valid({key: value for key, value in answer.items() if key != name}), name
        inputs = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Ada wrote it"]}]
        (declared, *_) = (await client.get(model)).json()["outputs"]
        (output, *_) = (await client.post(f"{model}/infer", json={"inputs": inputs})).json()["outputs"]
        if declared["name"] == "answer":
            assert declared["parameters"]["content_type"] == "application/json"
            jsonschema.validate(json.loads(output["data"][0]), declared["parameters"]["schema"])
        else:
            assert "parameters" not in declared

    play(artifact, scene, max_new_tokens=20)
