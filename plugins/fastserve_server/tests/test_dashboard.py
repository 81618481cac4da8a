"""The live page in a real browser: it shows what the server does, asks for a key where it must, and fits a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastserve_core.artifacts import Artifact
from fastserve_server.options import ServerOptions
from fastserve_server.server import ServerProcess, start
from fastserve_server.tests.browser import find_chromium

pytestmark = [pytest.mark.slow, pytest.mark.network]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
KEY = "a-key-of-more-than-16-characters"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = find_chromium(tmp_path_factory.mktemp("chromium"))
    if found is None:
        pytest.skip("no Chromium on the PATH, and no npm to fetch one with")
    environment = dict(os.environ) | ({"LD_LIBRARY_PATH": found.libraries} if found.libraries else {})
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found.program, args=ARGUMENTS, env=environment)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """A page of a phone's width; the test fails with what its scripts failed with."""
    faults: list[str] = []
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    page.close()
    assert not faults


def shown(page: Any, tile: str, part: str = "value") -> str:
    page.wait_for_selector(f"#{tile} .{part}")
    return str(page.inner_text(f"#{tile} .{part}"))


def test_it_shows_the_servers_activity(opened: Any, server: ServerProcess) -> None:
    opened.goto(f"{server.url}/dashboard")
    opened.wait_for_selector("#requests")
    before = float(shown(opened, "requests"))
    for _ in range(40):
        httpx.post(f"{server.url}/predict", json={"inputs": ["a film", "a play"]})
    httpx.post(f"{server.url}/predict", content=b"{")
    opened.wait_for_selector("#status .more:has-text('400: ')")
    assert float(shown(opened, "requests")) > before
    assert " ms" in shown(opened, "latency")
    assert "p99" in shown(opened, "latency", "more")
    assert float(shown(opened, "batches")) >= 1
    assert "200: " in shown(opened, "status", "more")
    assert "," in opened.get_attribute("#requests polyline", "points")
    assert not opened.query_selector("#tokens"), "a classifier writes nothing"
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than the screen"


def test_a_guarded_server_is_asked_with_the_key_and_a_writers_tokens_are_shown(
    opened: Any, writer: Artifact, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text(KEY)
    with start(writer.folder, ServerOptions(port=0, api_keys_file=str(keys)), threads=1) as server:
        opened.goto(f"{server.url}/dashboard")
        opened.wait_for_selector("#state:has-text('key')")
        assert not opened.query_selector("#requests")
        opened.fill("#key", KEY)
        opened.wait_for_selector("#requests")
        asked = {"inputs": ["the film is"], "options": {"max_new_tokens": 8}}
        httpx.post(f"{server.url}/predict", json=asked, headers={"X-API-Key": KEY}, timeout=60).raise_for_status()
        assert "written" in shown(opened, "tokens", "more")


def test_a_candidate_is_shown_until_it_is_rolled_back(opened: Any, classifier: Artifact, other: Artifact) -> None:
    options = ServerOptions(port=0, workers=1, candidate=str(other.folder), candidate_share=1.0, candidate_window=40)
    with start(classifier.folder, options, threads=1) as server:
        opened.goto(f"{server.url}/dashboard")
        for _ in range(2):
            httpx.post(f"{server.url}/predict", json={"inputs": ["the film is wonderful"]})
        opened.wait_for_selector("#candidate .value:has-text('100 %')")
        opened.wait_for_selector("#candidate .more:has-text('of 2 · failed 0 · ')")
        httpx.post(f"{server.url}/predict", json={"inputs": ["the film is wonderful"]})
        opened.wait_for_selector("#candidate h2:has-text('not asked any more')")


def test_the_page_to_try_a_model_marks_the_spans_and_draws_the_triples_of_its_answer(
    opened: Any, tagger: Artifact
) -> None:
    text = "👩‍🚀 Ann in New York"
    spans = [{"start": 4, "end": 7, "entity_group": "PER"}, {"start": 11, "end": 19, "entity_group": "LOC"}]
    with start(tagger.folder, ServerOptions(port=0), threads=1) as server:
        opened.goto(server.url)
        opened.evaluate("([spans, text]) => mark(spans, text)", [spans, text])
        assert opened.locator("#spans mark").all_inner_texts() == ["Ann PER", "New York LOC"]
        assert opened.inner_text("#spans") == "👩‍🚀 Ann PER in New York LOC"
        opened.fill("#text", text)
        opened.click("button")
        opened.wait_for_selector("#answer:has-text('entities')")
        opened.evaluate("mark([], 'nothing')")
        assert opened.is_hidden("#spans")
        triples = [
            ["Ann", "runs", "<Acme>"],
            ["<Acme>", "in", "New York"],
            ["Ann", "owns", "<Acme>"],
            ["Ann", "runs", "<Acme>"],
        ]
        opened.evaluate("triples => draw(triples)", triples)
        found = sorted(opened.locator("#triples text").all_text_contents())
        assert found == ["<Acme>", "Ann", "New York", "in", "runs, owns"]
        assert opened.locator("#triples circle").count() == 3
        opened.evaluate("draw([])")
        assert opened.is_hidden("#triples")
