"""Questions to answers with sources, on the page's route and on OpenAI's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastserve_assistant.__main__ import main
from fastserve_assistant.answers import NOTHING, Assistant
from fastserve_assistant.application import build_application
from starlette.testclient import TestClient

HITS = [
    {"id": "a.md", "start": 10, "end": 40, "text": "Paris is the capital of France", "score": 0.9, "fields": {}},
    {"id": "b.md", "start": 0, "end": 12, "text": "Rome is old.", "score": 0.4, "fields": {}},
]


def find(question: str) -> dict[str, Any]:
    """An index with a reader, which knows one answer."""
    if "capital" not in question:
        return {"hits": HITS if "old" in question else [], "answer": None}
    read = {"answer": "Paris", "score": 0.8, "id": "a.md", "start": 10, "end": 15, "passage": HITS[0]["text"]}
    return {"hits": HITS, "answer": read}


def ask(assistant: Assistant, question: str) -> Any:
    with TestClient(build_application(assistant)) as client:
        return client.post("/ask", json={"question": question}).json()


def test_an_answer_has_the_characters_of_its_source() -> None:
    reply = ask(Assistant(find), "the capital?")
    assert reply["answer"] == "Paris"
    assert reply["sources"] == [{"id": "a.md", "start": 10, "end": 15, "score": 0.8, "text": HITS[0]["text"]}]


def test_nothing_is_invented() -> None:
    assert ask(Assistant(find), "what is old?")["answer"] == NOTHING
    assert ask(Assistant(find), "why?") == {"answer": NOTHING, "sources": []}


def test_without_a_reader_the_best_passage_is_the_answer() -> None:
    reply = ask(Assistant(lambda question: {"hits": HITS}), "the capital?")
    assert reply["answer"] == HITS[0]["text"] and len(reply["sources"]) == 1


def test_a_language_model_writes_from_the_passages() -> None:
    prompts = []

    def write(prompt: str) -> str:
        prompts.append(prompt)
        return " It is Paris [1]. "

    reply = ask(Assistant(find, write), "the capital?")
    assert reply["answer"] == "It is Paris [1]." and [source["id"] for source in reply["sources"]] == ["a.md", "b.md"]
    assert "[2] Rome is old." in prompts[0] and "Question: the capital?" in prompts[0]


def test_chats_are_answered_as_openai_does() -> None:
    messages = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "-"}]
    body = {"model": "assistant", "messages": [*messages, {"role": "user", "content": "the capital?"}]}
    with TestClient(build_application(Assistant(find))) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "assistant"
        assert "Assistant" in client.get("/").text
        answer = client.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == "Paris\n\n[1] a.md, characters 10 to 15"
        assert answer["sources"][0]["id"] == "a.md"
        lines = client.post("/v1/chat/completions", json={**body, "stream": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert chunks[0]["choices"][0]["delta"]["content"].startswith("Paris")
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/ask", b"{"), ("/ask", b"[]"), ("/ask", b'{"question": " "}'),
        ("/ask", b'{"question": "%s"}' % (b"a" * 2001)),
        ("/v1/chat/completions", b'{"messages": "a"}'), ("/v1/chat/completions", b'{"messages": []}'),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": 1}]}'),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_answered_are_refused(path: str, body: bytes) -> None:
    with TestClient(build_application(Assistant(find))) as client:
        response = client.post(path, content=body)
    assert response.status_code == 422 and response.json()["error"]["message"]


def test_the_command_names_a_folder_that_is_no_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "fastserve-assistant: " in capsys.readouterr().err
