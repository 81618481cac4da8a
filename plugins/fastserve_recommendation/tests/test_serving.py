"""Recommendations of a served model and for files of users: both servers, their routes, and raw interactions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from fastserve_core.artifacts import load_artifact
from fastserve_core.inference import Predictor
from fastserve_recommendation.tests.test_next_item import RING, ids, train
from fastserve_server.service import Service
from fastserve_server.tests.test_application import play

HISTORY = ["i1", "i2", "nobody's"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ring") / "model"
    train(path, "sasrec", 20)
    return path


def rounded(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with scores that do not depend on the other inputs of its batch."""
    return {**answer, "items": [{**item, "score": round(item["score"], 5)} for item in answer["items"]]}


# -- servers -----------------------------------------------------------------------------------------


def test_all_routes_give_the_answers_of_the_predictor(folder: Path) -> None:
    expected = Predictor(folder, threads=1).predict([HISTORY], parameters={"k": 3})[0]

    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        async def post(path: str, status: int = 200, **body: Any) -> Any:
            response = await client.post(path, json=body)
            assert response.status_code == status, response.text
            return response.json()

        as_form = {"items": ", ".join(HISTORY[:2]) + " nobody's", "k": ""}  # as the page to try a model sends it
        inputs = [HISTORY, {"items": HISTORY}, as_form, json.dumps(HISTORY)]
        answered = await post("/predict", inputs=inputs, parameters={"top_k": 3})
        assert [rounded(answer) for answer in answered["predictions"]] == [rounded(expected)] * 4
        jsonschema.validate(expected, service.task.answer_schema())
        recommended = await post("/recommend", items=HISTORY, k=3)
        assert rounded(recommended) == rounded({**expected, "model": service.name})
        given = {"items": [json.dumps(HISTORY), "i1 i2 nobody's"], "k": ["3", "3"]}
        tensors = [{"name": name, "datatype": "BYTES", "shape": [2], "data": data} for name, data in given.items()]
        (output,) = (await post(f"/v2/models/{service.name}/infer", inputs=tensors))["outputs"]
        assert [rounded(json.loads(answer)) for answer in output["data"]] == [rounded(expected)] * 2
        described = (await client.get(f"/v2/models/{service.name}")).json()["inputs"]
        assert [tensor["name"] for tensor in described] == ["items", "k"]
        page = (await client.get("/")).text
        assert 'id="items"' in page and 'id="k"' in page and '"score_name": "id"' in page
        seen = await post("/predict", inputs=[HISTORY], parameters={"filter_seen": False, "k": 99})
        assert set(ids(seen["predictions"][0])) == {f"i{number}" for number in range(RING)}
        for path, body, message in (
            ("/recommend", {"items": HISTORY, "k": 0}, "k must be at least 1"),
            ("/recommend", {"items": [["i1"]]}, "items"),
            ("/predict", {"inputs": [{"user_id": "u", "item_id": "i1"}]}, "'items' is missing"),
            ("/predict", {"inputs": [HISTORY], "parameters": {"filter": True}}, "has no option 'filter'"),
        ):
            response = await client.post(path, json=body)
            assert response.status_code in {400, 422} and message in response.json()["error"]["message"]

    play(load_artifact(folder), scene)


@pytest.fixture(scope="module", params=["server", "ray_serve"])
def url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """A real server of each kind on a free port."""
    if request.param == "server":
        from fastserve_server.options import ServerOptions
        from fastserve_server.server import start

        running = start(folder, ServerOptions(port=0, name="ring"), threads=1)
    else:
        from fastserve_ray_serve.options import RayServeOptions
        from fastserve_ray_serve.server import start as start_ray

        running = start_ray(folder, RayServeOptions(port=0, name="ring", replicas=1), cores=1)
    with running:
        yield running.url


@pytest.mark.slow(40)
def test_both_servers_recommend(url: str, folder: Path, cli: Any, tmp_path: Path) -> None:
    expected = Predictor(folder, threads=1).predict([HISTORY, []])
    with httpx.Client(base_url=url, timeout=30) as client:
        answered = client.post("/predict", json={"inputs": [HISTORY, []]}).json()
        assert [*map(rounded, answered["predictions"])] == [*map(rounded, expected)] and answered["model"] == "ring"
        recommended = client.post("/recommend", json={"items": HISTORY}).json()
        assert rounded(recommended) == rounded({**expected[0], "model": "ring"})
        tensors = [{"name": "items", "datatype": "BYTES", "shape": [1], "data": [json.dumps(HISTORY)]}]
        (output,) = client.post("/v2/models/ring/infer", json={"inputs": tensors}).json()["outputs"]
        assert rounded(json.loads(output["data"][0])) == rounded(expected[0])
        assert 'id="items"' in client.get("/").text
        refused = client.post("/predict", json={"inputs": [{"items": ["i1"], "k": "many"}]})
        assert refused.status_code == 422 and "'k' must be a whole number" in refused.json()["error"]["message"]
    (tmp_path / "users.csv").write_text("user_id,item_id\nu1,i1\nu1,i2\nu1,nobody's\n")
    done = cli("predict", url, "--input", "users.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert rounded(json.loads(done.stdout)) == rounded({"user_id": "u1", **expected[0]})


# -- files -------------------------------------------------------------------------------------------

FORMS = {
    "users.csv": 'user_id,items,k\nu1,"i1, i2",3\nu2,,2\n',
    "users.jsonl": '{"user_id": "u1", "items": ["i1", "i2"], "k": 3}\n{"user_id": "u2", "items": [], "k": 2}\n',
    "purchases.csv": "userId,movieId,timestamp\nu1,i2,2\nu2,new,1\nu1,i1,1\n",
    "purchases.inter": "user_id:token\titem_id:token\nu1\ti1\nu2\tnew\nu1\ti2\n",
    "purchases.txt": "u1 i1\nu2 new\nu1 i2\nu1 i2\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_many_users_are_recommended_to_in_one_file(name: str, folder: Path, cli: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    done = cli("predict", folder, "--input", name, "--output", "out.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["userId" if name == "purchases.csv" else "user_id"] for row in rows] == ["u1", "u2"]
    assert [row["basis"] for row in rows] == ["model", "popularity"] and [row["error"] for row in rows] == ["", ""]
    expected = Predictor(folder, threads=1).predict([["i1", "i2"]])[0]
    assert json.loads(rows[0]["recommended"])[:3] == ids(expected)[:3]
    assert ("new" in rows[1]["unknown"]) == name.startswith("purchases")
    if name.startswith("purchases"):
        assert json.loads(rows[0]["movieId" if "movieId" in rows[0] else "items"]) == ["i1", "i2"]


def test_interactions_that_cannot_be_used_have_a_reason(folder: Path, cli: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\nu1,i1,soon\nu1,i2,1\n,i3,1\nu1,i1,1\n")
    done = cli("predict", folder, "--input", "a.csv", "--output", "out.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    first, second, third = [row["error"] for row in rows]
    assert first is None and second.startswith("'timestamp' is 'soon', not a time") and third == "'user_id' is empty"
    assert rows[0]["items"] == ["i2", "i1"] and "2 of 3 rows have no answer" in done.stderr
    assert "input: 1 users have items of equal times, kept in the order of the file" in done.stderr
    followed = cli("predict", folder, "--input", "a.csv", "--output", "-", "--follow")
    assert followed.returncode == 2 and "for which --follow does not wait: give rows of items" in followed.stderr
