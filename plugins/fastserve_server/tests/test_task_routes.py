"""Routes that a task declares: mounted, described and answered without the server knowing them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest

from fastserve_core.artifacts import Artifact
from fastserve_core.errors import DataError, OptionError, PluginError
from fastserve_core.tasks import PredictionRoute, Route
from fastserve_server.application import build_application
from fastserve_server.options import ServingOptions
from fastserve_server.tests.test_application import client_of, error_of
from fastserve_text.text_classification import TextClassification
from fastserve_text.token_classification.task import TokenClassification


@dataclass
class RankRequest:
    """Texts to order by the score of a label."""

    texts: list[str]
    label: str
    model: str | None = None


class RankedText(TypedDict):
    index: int
    score: float


class Rank(PredictionRoute):
    path, summary = "/v1/rank", "Order texts by a label"
    request_type, response_type = RankRequest, list[RankedText]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def inputs(self, body: RankRequest) -> Sequence[Any]:
        if "forbidden" in body.texts:
            raise DataError("a text is forbidden")
        return [{"text": text} for text in body.texts]

    def response(self, body: RankRequest, predictions: Sequence[Mapping[str, Any]], model: str) -> list[RankedText]:
        scores = [prediction["scores"][body.label] for prediction in predictions]
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return [{"index": index, "score": scores[index]} for index in order]


def declare(monkeypatch: pytest.MonkeyPatch, kind: type, *routes: type[Route] | Route) -> None:
    def made(self: Any, folder: Path) -> list[Route]:
        return [route(folder) if isinstance(route, type) else route for route in routes]  # type: ignore[call-arg]

    monkeypatch.setattr(kind, "routes", made)


def application(artifact: Artifact, *others: Artifact, **options: Any) -> Any:
    models = [f"{other.folder.name}:{other.folder}" for other in others]
    return build_application(artifact.folder, ServingOptions(workers=1, models=models, **options), threads=1)


def test_a_tasks_route_is_answered_by_its_models_alone(
    classifier: Artifact, other: Artifact, tagger: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, TextClassification, Rank)
    built = application(tagger, classifier, other, max_inputs=3)
    asked = {"texts": ["the film is wonderful", "a dreadful piece of work"], "label": "positive"}

    async def ask(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
        return await client.post("/v1/rank", json=asked | more)

    async def scene() -> None:
        async with client_of(built) as client:
            found = (await ask(client)).json()
            answers = await client.post("/predict", json={"inputs": asked["texts"], "model": "tiny-classifier"})
            scores = [answer["scores"]["positive"] for answer in answers.json()["predictions"]]
            assert found == [
                {"index": index, "score": scores[index]} for index in sorted((0, 1), key=lambda at: -scores[at])
            ]
            assert (await ask(client, model="other")).json()[0]["score"] > found[0]["score"]
            assert (await ask(client, texts=[])).json() == []
            for more, status, kind, message in (
                ({"model": "tiny-tagger"}, 422, "unusable", "is for token_classification, which has no /v1/rank"),
                ({"model": "none"}, 404, "not_found", "no model 'none'"),
                ({"texts": "one"}, 422, "unusable", "Expected `array`, got `str` - at `$.texts`"),
                ({"texts": ["forbidden"]}, 422, "unusable", "a text is forbidden"),
                ({"texts": ["a"] * 4}, 413, "too_large", "4 inputs, and this server's limit is 3"),
            ):
                refused = await ask(client, **more)
                assert error_of(refused) == (status, kind)
                assert message in refused.json()["error"]["message"]
            assert (await client.get("/v1/rank")).status_code == 405
            described = (await client.get("/openapi.json")).json()
            operation = described["paths"]["/v1/rank"]["post"]
            assert (operation["operationId"], operation["summary"]) == ("v1_rank", "Order texts by a label")
            assert set(operation["responses"]) >= {"200", "404", "422", "429"}
            assert operation["responses"]["200"]["content"]["application/json"]["schema"]["type"] == "array"
            body = described["components"]["schemas"]["RankRequest"]
            assert body["properties"]["model"]["enum"] == ["tiny-tagger", "tiny-classifier", "other"]
            assert body["required"] == ["texts", "label"]
            assert "/v1/rank" in (await client.get("/docs")).text
            assert 'path="/v1/rank",status="200"' in (await client.get("/metrics")).text

    asyncio.run(asyncio.wait_for(scene(), 60))
    assert {service.routes["/v1/rank"].folder for service in built.state.models if service.routes} == {  # type: ignore[attr-defined]
        classifier.folder,
        other.folder,
    }


def test_a_server_has_the_routes_of_its_tasks_only(classifier: Artifact, writer: Artifact) -> None:
    generation = {"/v1/completions", "/v1/chat/completions"}
    paths = [{endpoint.path for endpoint in application(one).state.endpoints} for one in (classifier, writer)]
    assert not paths[0] & generation
    assert paths[1] - paths[0] == generation


class Unnamed(Rank):
    path = "rank"


class Parametrized(Rank):
    path = "/rank/{label}"


class Taken(Rank):
    path = "/predict"


class Undescribed(Rank):
    response_type = type(NotImplemented)


class OtherRank(Rank):
    """Another route at the same path."""


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (Unnamed, "begins with /"),
        (Parametrized, "has no parameters"),
        (Taken, "every server has this path"),
        (Undescribed, "no JSON Schema"),
        (Route(), "derives from PredictionRoute or GenerationRoute"),
    ],
)
def test_a_route_that_cannot_be_mounted_is_refused_at_the_start(
    route: Any, reason: str, classifier: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(route, Route):
        route.path, route.summary, route.request_type, route.response_type = "/rank", "", dict, dict  # type: ignore[misc]
    declare(monkeypatch, TextClassification, route)
    with pytest.raises(PluginError, match=rf"the task text_classification declares the route '.*': .*{reason}"):
        application(classifier)


def test_two_routes_at_one_path_need_two_servers(
    classifier: Artifact, other: Artifact, tagger: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, TextClassification, Rank)
    declare(monkeypatch, TokenClassification, OtherRank)
    with pytest.raises(OptionError, match="'tiny-classifier' and 'tiny-tagger' have different routes at /v1/rank"):
        application(classifier, other, tagger)
