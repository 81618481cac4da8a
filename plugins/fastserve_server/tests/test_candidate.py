"""A candidate beside the model: who answers, what is compared, and when it is rolled back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastserve_core.artifacts import Artifact
from fastserve_core.errors import FastServeError, OptionError, UserError
from fastserve_core.tasks import Encoded
from fastserve_server.application import build_application
from fastserve_server.canary_analysis import CanaryAnalysis
from fastserve_server.model_registry import ModelRegistry
from fastserve_server.options import ServerOptions
from fastserve_server.process import make_candidate
from fastserve_server.server import EmbeddedProcess, start
from fastserve_server.service import Service
from fastserve_server.tests.conftest import biased
from fastserve_server.tests.test_application import client_of

pytestmark = pytest.mark.seconds(0.6)
TEXTS = ["the film is wonderful", "a dreadful piece of work"]


# -- judging -----------------------------------------------------------------------------------------


def test_the_analysis_counts_the_last_answers() -> None:
    analysis = CanaryAnalysis(window=10, max_disagreement=0.2, max_slowdown=2.0)
    analysis.record_comparison([True] * 8 + [False] * 2, 0.01, 0.01)
    assert analysis.disagreement == 0.2
    assert analysis.violation() is None
    analysis.record_comparison([True] * 10, 0.01, 0.01)
    assert analysis.disagreement == 0
    analysis.record_failure(2)
    assert analysis.violation() is None
    analysis.record_failure(1)
    assert analysis.violation() == "3 of its last 10 answers differed or failed (candidate_max_disagreement=0.2)"


def test_the_share_is_of_the_whole_window_before_it_is_full() -> None:
    analysis = CanaryAnalysis(window=10, max_disagreement=0.2, max_slowdown=2.0)
    analysis.record_failure(2)
    assert (analysis.disagreement, analysis.violation()) == (1.0, None)
    analysis.record_failure(1)
    assert analysis.violation() is not None


def test_the_analysis_compares_medians_when_it_has_seen_enough() -> None:
    analysis = CanaryAnalysis(window=3, max_disagreement=0, max_slowdown=1.5)
    for model, candidate in ((0.010, 0.500), (0.010, 0.016)):
        analysis.record_comparison([True], model, candidate)
        assert analysis.violation() is None
    analysis.record_comparison([True], 0.010, 0.016)
    assert analysis.violation() == (
        "its median time of 3 requests is 16.0 ms, and the model's 10.0 ms (candidate_max_slowdown=1.5)"
    )
    for _ in range(2):
        analysis.record_comparison([True], 0.020, 0.016)
    assert analysis.violation() is None


# -- one process, engines made for the purpose -------------------------------------------------------


class Engine:
    """Answers with a label after some time, or fails."""

    def __init__(self, label: str | None, seconds: float = 0.0) -> None:
        self._label, self._seconds, self.answered = label, seconds, 0

    def encode(self, rows: Sequence[Any]) -> Sequence[Encoded]:
        return [Encoded({"input_ids": [1, 2]}) for _ in rows]

    def answer(self, batch: Sequence[Encoded], options: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        time.sleep(self._seconds)
        if self._label is None:
            raise RuntimeError("no memory")
        self.answered += len(batch)
        return [{"label": self._label, "score": 0.5} for _ in batch]

    def close(self) -> None:
        pass


Scene = Callable[[httpx.AsyncClient, ModelRegistry], Awaitable[None]]


def play(model: Artifact, candidate: Artifact, engines: tuple[Engine, Engine], scene: Scene, **options: Any) -> None:
    """A scene with a client of an application whose model and candidate have those engines."""
    own = {model.digest: engines[0], candidate.digest: engines[1]}
    asked = ServerOptions(**{"workers": 1, "candidate": str(candidate.folder), "candidate_share": 1.0} | options)

    async def run() -> None:
        application = build_application(model.folder, asked, threads=1)
        models: ModelRegistry = application.state.models
        models.candidate = make_candidate(models, candidate.folder, asked)
        async with client_of(application) as client:
            await scene(client, models)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Service, "_make_worker", lambda self: own[self.artifact.digest])
        asyncio.run(asyncio.wait_for(run(), 30))


async def labels(client: httpx.AsyncClient, times: int = 1) -> list[str]:
    answers = [await client.post("/predict", json={"inputs": TEXTS}) for _ in range(times)]
    assert {one.status_code for one in answers} == {200}
    return [one.json()["predictions"][0]["label"] for one in answers]


async def said(client: httpx.AsyncClient, answers: int) -> dict[str, Any]:
    """What is known once so many answers were compared."""
    while True:
        known: dict[str, Any] = (await client.get("/candidate")).json()
        if sum(known["answers"].values()) >= answers:
            return known
        await asyncio.sleep(0.01)


def test_nobody_gets_the_answers_of_a_shadow(classifier: Artifact, twin: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, models: ModelRegistry) -> None:
        assert set(await labels(client, 5)) == {"a"}
        known = await said(client, 10)
        assert known["answers"] == {"same": 0, "other": 10, "failed": 0, "skipped": 0}
        assert (known["asked"], known["disagreement"], known["mode"]) == (True, 1.0, "shadow")
        text = (await client.get("/metrics")).text
        assert 'fastserve_candidate_answers{kind="other"} 10.0' in text
        assert "fastserve_candidate_asked 1.0" in text
        assert "fastserve_batch_size_sum 10.0" in text, "the candidate's passes are not the model's"

    play(classifier, twin, (Engine("a"), Engine("b")), scene, candidate_max_disagreement=1.0)


def test_a_canary_answers_its_share(classifier: Artifact, twin: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, models: ModelRegistry) -> None:
        got = await labels(client, 8)
        assert (got.count("b"), got.count("a")) == (2, 6)
        assert (await said(client, 4))["answers"]["other"] == 4

    more = {"candidate_mode": "canary", "candidate_share": 0.25, "candidate_max_disagreement": 1.0}
    play(classifier, twin, (Engine("a"), Engine("b")), scene, **more)


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_one_that_answers_otherwise_is_rolled_back(
    classifier: Artifact, twin: Artifact, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, its = Engine("a"), Engine("b")

    async def scene(client: httpx.AsyncClient, models: ModelRegistry) -> None:
        await labels(client)
        known = await said(client, 2)
        assert not known["asked"]
        assert known["reason"].startswith("rolled back: 2 of its last 2 answers differed")
        answered = its.answered
        assert set(await labels(client, 3)) == {"a"}
        assert its.answered == answered
        assert "fastserve_candidate_asked 0.0" in (await client.get("/metrics")).text
        assert (await client.get("/v2/health/ready")).status_code == 200

    play(classifier, twin, (ours, its), scene, candidate_mode=mode, candidate_window=10, candidate_max_disagreement=0.1)
    assert f"the candidate {twin.folder} is rolled back: 2 of its last" in capsys.readouterr().out


def test_the_model_answers_failed_requests_of_a_canary(classifier: Artifact, twin: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, models: ModelRegistry) -> None:
        assert set(await labels(client, 6)) == {"a"}
        known = await said(client, 2)
        assert known["answers"]["failed"] == 2
        assert known["reason"].startswith("rolled back: 2 of its last 2 answers differed or failed")

    play(classifier, twin, (Engine("a"), Engine(None)), scene, candidate_mode="canary", candidate_window=10)


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_a_slow_one_is_rolled_back(classifier: Artifact, twin: Artifact, mode: str) -> None:
    async def scene(client: httpx.AsyncClient, models: ModelRegistry) -> None:
        await labels(client, 4)
        known = await said(client, 8)
        assert known["candidate_ms"] > 200 > known["model_ms"]
        assert (
            known["reason"].startswith("rolled back: its median time ")
            and "candidate_max_slowdown=1.5" in known["reason"]
        )

    play(classifier, twin, (Engine("a"), Engine("a", 0.2)), scene, candidate_mode=mode, candidate_window=4)


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_one_that_hangs_is_rolled_back_and_the_model_answers(classifier: Artifact, twin: Artifact, mode: str) -> None:
    async def scene(client: httpx.AsyncClient, models: ModelRegistry) -> None:
        assert set(await labels(client)) == {"a"}
        known = await said(client, 2)
        assert known["answers"]["failed"] == 2
        assert known["reason"].startswith("rolled back: 2 of its last 2 answers differed or failed")

    more = {"candidate_mode": mode, "candidate_window": 10, "request_timeout_s": 1.0}
    play(classifier, twin, (Engine("a"), Engine("a", 2.0)), scene, **more)


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_that_the_server_shuts_down_is_no_fault_of_the_candidate(
    classifier: Artifact, twin: Artifact, mode: str
) -> None:
    async def scene(client: httpx.AsyncClient, models: ModelRegistry) -> None:
        assert models.candidate is not None
        models.candidate.service.draining = True  # as SIGTERM does to all of them, while a request is under way
        await models.candidate.predict(models.first, TEXTS, {})
        await models.candidate.predict(models.first, TEXTS, {})
        known = await said(client, 4)
        assert (known["answers"]["skipped"], known["answers"]["failed"], known["reason"]) == (4, 0, "")

    play(classifier, twin, (Engine("a"), Engine("a")), scene, candidate_mode=mode, candidate_window=10)


def test_unusable_requests_are_reported_by_either(classifier: Artifact, twin: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, models: ModelRegistry) -> None:
        assert (await client.post("/predict", json={"inputs": [""]})).status_code == 422
        assert models.candidate is not None and models.candidate.is_active

    play(classifier, twin, (Engine("a"), Engine("a")), scene, candidate_mode="canary")


# -- real models -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("option", "message"), [
    ({"candidate_mode": "mirror"}, "candidate_mode must be shadow or canary, not 'mirror'"),
    ({"candidate_share": 0}, "candidate_share must be more than 0 and at most 1, not 0"),
    ({"candidate_share": 1.5}, "candidate_share must be more than 0 and at most 1, not 1.5"),
    ({"candidate_window": 0}, "candidate_window must be at least 1, not 0"),
    ({"candidate_max_disagreement": 2}, "candidate_max_disagreement must be at most 1, not 2"),
    ({"candidate_max_slowdown": 0}, "candidate_max_slowdown must be more than 0, not 0"),
])  # fmt: skip
def test_options_out_of_range_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ServerOptions(**option)


@pytest.mark.slow
def test_unsuitable_candidates_are_refused(
    classifier: Artifact, tagger: Artifact, writer: Artifact, tmp_path: Path
) -> None:
    for folder, message in ((tagger.folder, "is for token_classification"), (tmp_path / "none", "does not exist")):
        with pytest.raises(UserError, match=message):
            start(classifier.folder, ServerOptions(port=0, candidate=str(folder)), threads=1)
    with pytest.raises(UserError, match="generated texts are not compared"):
        start(writer.folder, ServerOptions(port=0, candidate=str(writer.folder)), threads=1)


@pytest.mark.slow
def test_one_that_cannot_be_loaded_ends_the_server_with_its_name(classifier: Artifact, broken: Artifact) -> None:
    options = ServerOptions(port=0, workers=1, candidate=str(broken.folder))
    with pytest.raises(FastServeError, match=rf"^{broken.folder} cannot be loaded [^\n]+$"):
        start(classifier.folder, options, threads=1)


def known_of(server: EmbeddedProcess, answers: int) -> dict[str, Any]:
    end = time.monotonic() + 20
    while True:
        known: dict[str, Any] = httpx.get(server.url + "/candidate", timeout=60).json()
        if sum(known["answers"].values()) >= answers or time.monotonic() > end:
            return known
        time.sleep(0.02)


@pytest.mark.slow
def test_a_twin_stays_until_it_takes_the_place(classifier: Artifact, twin: Artifact, tmp_path: Path) -> None:
    options = ServerOptions(port=0, workers=1, candidate=str(twin.folder), candidate_share=1.0, candidate_window=10,
                            candidate_max_slowdown=100.0)  # fmt: skip
    with start(classifier.folder, options, threads=1) as server:
        for _ in range(12):
            assert httpx.post(server.url + "/predict", json={"inputs": TEXTS}, timeout=60).status_code == 200
        known = known_of(server, 24)
        assert (known["asked"], known["reason"], known["disagreement"]) == (True, "", 0.0)
        assert (known["answers"]["same"], known["digest"]) == (24, twin.digest)
        assert server.reload(biased(classifier, tmp_path / "third", 2e-6).folder)
        assert known_of(server, 24)["disagreement"] is None, "it is compared with another model from now on"
        assert server.reload(twin.folder)
        assert known_of(server, 24)["reason"] == "served now"
        assert httpx.post(server.url + "/predict", json={"inputs": TEXTS}, timeout=60).status_code == 200


@pytest.mark.slow
def test_no_request_fails_while_one_is_rolled_back(
    classifier: Artifact, other: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ServerOptions(port=0, workers=1, candidate=str(other.folder), candidate_mode="canary",
                            candidate_share=0.5, candidate_window=40)  # fmt: skip
    with (
        start(classifier.folder, options, threads=1) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": TEXTS}
        for _ in range(10):
            assert client.post("/predict", json={"inputs": TEXTS}).status_code == 200
            assert client.post("/v2/models/tiny-classifier/infer", json={"inputs": [tensor]}).status_code == 200
        assert known_of(server, 4)["reason"].startswith("rolled back: ")
        assert client.get("/v2/health/ready").status_code == 200
    assert f"the candidate {other.folder} is rolled back" in capfd.readouterr().err


def test_without_one_there_is_nothing_to_say(server: EmbeddedProcess) -> None:
    answer = httpx.get(server.url + "/candidate")
    assert answer.status_code == 404
    assert "the server has no candidate" in answer.json()["error"]["message"]
