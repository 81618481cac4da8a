"""Several models behind one address: requests say which they ask, and each can be changed for another."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from conftest import Cli
from fastserve_core.artifacts import Artifact
from fastserve_core.errors import ArtifactError, OptionError, UserError
from fastserve_core.inference import Predictor
from fastserve_server.application import build_application
from fastserve_server.options import ServerOptions, ServingOptions
from fastserve_server.server import EmbeddedProcess, start
from fastserve_server.tests.test_application import Held, client_of

TEXT = "the film is wonderful"


def asked(classifier: Artifact, *also: str) -> httpx.Response:
    """What an application with that option says to a request for the model ``tags``."""

    async def run() -> httpx.Response:
        application = build_application(classifier.folder, ServingOptions(workers=1, models=list(also)), threads=1)
        async with client_of(application) as client:
            return await client.post("/predict", json={"inputs": [TEXT], "model": "tagz"})

    return asyncio.run(run())


def test_a_model_that_is_not_here_is_404(
    classifier: Artifact, tagger: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastserve_server.service.Service._make_worker", lambda self: Held())
    answer = asked(classifier, f"tags:{tagger.folder}")
    assert answer.status_code == 404
    said = "the server has no model 'tagz'; did you mean 'tags'? (known: tags, tiny-classifier)"
    assert answer.json()["error"]["message"] == said


def test_two_models_of_one_name_are_refused(classifier: Artifact) -> None:
    with pytest.raises(
        OptionError, match=r"serve\.models: two models have the name 'tiny-classifier': use NAME:FOLDER"
    ):
        build_application(classifier.folder, ServingOptions(models=[str(classifier.folder)]))


def test_faults_of_further_models_are_reported(classifier: Artifact, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"serve\.server\.models='a b': use letters"):
        ServerOptions(models=["a b:/models/one"])
    with pytest.raises(ArtifactError, match="nowhere does not exist"):
        start(classifier.folder, ServerOptions(port=0, models=[str(tmp_path / "nowhere")]), threads=1)


@pytest.fixture(scope="module")
def both(classifier: Artifact, tagger: Artifact, writer: Artifact) -> Iterator[EmbeddedProcess]:
    options = ServerOptions(port=0, workers=1, name="reviews", models=[f"tags:{tagger.folder}", str(writer.folder)])
    with start(classifier.folder, options, threads=1) as running:
        yield running


@pytest.mark.slow
def test_each_answers_as_its_predictor_does(both: EmbeddedProcess, classifier: Artifact, tagger: Artifact) -> None:
    for name, artifact in ((None, classifier), ("reviews", classifier), ("tags", tagger)):
        body = {"inputs": [TEXT]} | ({"model": name} if name else {})
        answer = httpx.post(both.url + "/predict", json=body).json()
        assert answer["model"] == (name or "reviews")
        expected = Predictor(artifact, 1).predict([TEXT])[0]
        assert answer["predictions"][0].keys() == expected.keys()
        assert answer["predictions"][0].get("label") == expected.get("label")
        lineage = httpx.get(both.url + "/lineage", params={"model": name} if name else {}).json()
        assert (lineage["model"], lineage["digest"]) == (name or "reviews", artifact.digest)


@pytest.mark.slow
def test_every_protocol_reports_which(both: EmbeddedProcess) -> None:
    client = openai.OpenAI(base_url=both.url + "/v1", api_key="none", max_retries=0)
    assert [one.id for one in client.models.list().data] == ["reviews", "tags", "tiny-writer"]
    text = client.completions.create(model="tiny-writer", prompt="the film is", max_tokens=4, temperature=0)
    assert text.model == "tiny-writer" and text.choices[0].text
    with pytest.raises(openai.UnprocessableEntityError, match="'tags' is for token_classification, which has no"):
        client.completions.create(model="tags", prompt="the film is")
    outputs = httpx.get(f"{both.url}/v2/models/tags").json()["outputs"]
    assert [one["name"] for one in outputs] == ["answer"]
    assert httpx.get(f"{both.url}/v2/models/tags/ready").json() == {"ready": True, "name": "tags"}
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
    said = httpx.post(f"{both.url}/v2/models/reviews/infer", json={"inputs": [tensor]}).json()
    assert said["model_name"] == "reviews"


@pytest.mark.slow
def test_the_command_that_predicts_asks_a_server(both: EmbeddedProcess, cli: Cli) -> None:
    done = cli("predict", both.url, TEXT, "a dreadful piece of work", "--json", "--name", "reviews")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line).keys() for line in done.stdout.splitlines()] == [{"text", "label", "score", "scores"}] * 2
    refused = cli("predict", both.url, TEXT, "--name", "review")
    assert refused.returncode == 2
    assert "the server has no model 'review'; did you mean 'reviews'" in refused.stderr
    assert "--name needs a server's address" in cli("predict", "shop", TEXT, "--name", "x").stderr


@pytest.mark.slow
def test_pages_and_description_know_all(both: EmbeddedProcess) -> None:
    page = httpx.get(both.url + "/", params={"model": "tags"}).text
    assert "<h1>tags</h1>" in page and '<a href="?model=reviews">' in page and 'model: "tags"' in page
    assert httpx.get(both.url + "/", params={"model": "none"}).status_code == 404
    described = httpx.get(both.url + "/openapi.json").json()
    names = {"type": "string", "enum": ["reviews", "tags", "tiny-writer"]}
    assert described["paths"]["/lineage"]["get"]["parameters"][0]["schema"] == names
    assert described["components"]["schemas"]["PredictRequest"]["properties"]["model"] == names
    answers = described["components"]["schemas"]["PredictResponse"]["properties"]["predictions"]["items"]["anyOf"]
    assert [sorted(answer["required"]) for answer in answers] == [
        ["label", "score", "scores"],
        ["entities", "spans", "tags", "words"],
        ["text", "tokens"],
    ]
    assert "reviews, tags, tiny-writer" in httpx.get(both.url + "/dashboard").text


@pytest.mark.slow
def test_one_of_them_is_changed_by_its_name(both: EmbeddedProcess, tagger: Artifact, classifier: Artifact) -> None:
    assert not both.reload(tagger.folder, "tags")
    with pytest.raises(UserError, match="is for text_classification with .*, but the served model is for token_class"):
        both.reload(classifier.folder, "tags")
    with pytest.raises(UserError, match="the server has no model 'tag'; did you mean 'tags'"):
        both.reload(tagger.folder, "tag")


@pytest.mark.slow
def test_the_command_takes_several_and_looks_again_for_each(
    classifier: Artifact, tagger: Artifact, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "fastserve_core", "serve", classifier.folder]
    command += [f"tags:{tagger.folder}", "port=0", "workers=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith(f"serving {classifier.folder} and tags:{tagger.folder} at http")
            os.kill(process.pid, signal.SIGUSR1)
            for one in (classifier, tagger):
                assert process.stdout.readline() == f"{one.folder} is already served\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(20) in (0, 130)
        finally:
            process.kill()
