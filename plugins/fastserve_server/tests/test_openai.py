"""OpenAI's own client against a real server: texts at once, as streams, in chats, and what it is told when it errs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fastserve_core.artifacts import MANIFEST, Artifact, hash_files, write_manifest
from fastserve_server.options import ServerOptions
from fastserve_server.server import ServerProcess, start
from fastserve_server.tests.conftest import make_artifact

pytestmark = pytest.mark.seconds(0.5)
TEMPLATE = (
    "{% for one in messages %}{% if one.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "the {{ one.role }} : {{ one.content }}\n{% endfor %}"
)
ASKED: dict[str, Any] = {"model": "w", "prompt": "the film is", "temperature": 0}
SAID: Any = [{"role": "user", "content": "what a moving story"}]


def json_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    artifact = make_artifact(tmp_path_factory.mktemp("models") / "chatty", "causal_lm")
    (artifact.folder / "chat_template.jinja").write_text(TEMPLATE)
    manifest, files = artifact.manifest, hash_files(artifact.folder, exclude=[MANIFEST])
    return write_manifest(artifact.folder, type(manifest)(**{**vars(manifest), "files": files}))


@pytest.fixture(scope="module")
def talking(chatty: Artifact) -> Iterator[ServerProcess]:
    options = ServerOptions(port=0, name="w", max_new_tokens=100, max_inputs=4, max_queue=4, max_batch=4)
    with start(chatty.folder, options, threads=2) as running:
        yield running


@pytest.fixture
def client(talking: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=talking.url + "/v1", api_key="none", max_retries=0)


def test_a_text_and_the_same_as_a_stream(client: openai.OpenAI) -> None:
    whole = client.completions.create(**ASKED, max_tokens=12)
    assert whole.object == "text_completion"
    assert [one.finish_reason for one in whole.choices] == ["length"]
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (3, 12, 15)
    parts = list(client.completions.create(**ASKED, max_tokens=12, stream=True, stream_options={"include_usage": True}))
    assert "".join(one.choices[0].text for one in parts[:-1]) == whole.choices[0].text != ""
    assert [one.choices[0].finish_reason for one in parts[:-1]] == [None] * (len(parts) - 2) + ["length"]
    assert parts[-1].usage == whole.usage
    assert {one.id for one in parts} == {parts[0].id}
    assert client.models.list().data[0].id == "w"


def test_tokens_are_counted(client: openai.OpenAI, talking: ServerProcess) -> None:
    def counted() -> dict[str, float]:
        found = re.findall(r'fastserve_tokens_total{kind="(\w+)"} ([\d.e+]+)', httpx.get(talking.url + "/metrics").text)
        return {kind: float(number) for kind, number in found}

    client.completions.create(**ASKED, max_tokens=2)
    before = counted()
    client.completions.create(**ASKED, max_tokens=12)
    assert {kind: number - before[kind] for kind, number in counted().items()} == {"read": 3, "written": 12}


def test_several_prompts_tokens_and_choices(client: openai.OpenAI) -> None:
    one = client.completions.create(**ASKED)
    several = client.completions.create(**{**ASKED, "prompt": ["a dreadful", "the film is"]}, n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[2].text == several.choices[3].text == one.choices[0].text
    assert client.completions.create(**{**ASKED, "prompt": [5, 6, 7]}).usage.prompt_tokens == 3  # type: ignore[union-attr]
    both = client.completions.create(**{**ASKED, "prompt": [[5, 6, 7], [8]]}).usage
    assert both is not None
    assert both.prompt_tokens == 4
    drawn = {**ASKED, "temperature": 1.7, "seed": 5, "max_tokens": 30}
    first, again = (client.completions.create(**drawn, n=2).choices for _ in range(2))
    assert [choice.text for choice in first] == [choice.text for choice in again]
    assert first[0].text != first[1].text
    streamed: dict[int, str] = {}
    for part in client.completions.create(**drawn, n=2, stream=True):
        choice = part.choices[0]
        streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert streamed == {choice.index: choice.text for choice in first}


def test_a_stop_string_ends_a_text_and_is_not_shown(client: openai.OpenAI) -> None:
    text = client.completions.create(**ASKED, max_tokens=40).choices[0].text
    stop = text[len(text) // 2 :][:3]
    before = text[: text.index(stop)]
    ended = client.completions.create(**ASKED, max_tokens=40, stop=[stop, "never"])
    assert (ended.choices[0].text, ended.choices[0].finish_reason) == (before, "stop")
    parts = client.completions.create(**ASKED, max_tokens=40, stop=stop, stream=True)
    assert "".join(one.choices[0].text for one in parts) == before


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_stream_ends_as_openais_do(talking: ServerProcess, path: str) -> None:
    """Their own client does without it; others wait for it."""
    asked = {**ASKED, "messages": SAID, "stream": True, "max_tokens": 3}
    asked.pop("messages" if path == "completions" else "prompt")
    answer = httpx.post(f"{talking.url}/v1/{path}", json=asked)
    assert answer.status_code == 200
    assert answer.text.endswith("\n\ndata: [DONE]\n\n")


def test_a_chat_and_the_same_as_a_stream(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "w", "messages": SAID, "temperature": 0}
    whole = client.chat.completions.create(**asked, max_completion_tokens=10)
    assert whole.object == "chat.completion"
    message = whole.choices[0].message
    prompt = "the user : what a moving story\n"
    assert message.role == "assistant"
    assert message.content == client.completions.create(**{**ASKED, "prompt": prompt}, max_tokens=10).choices[0].text
    parts = list(client.chat.completions.create(**asked, max_tokens=10, stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(one.choices[0].delta.content or "" for one in parts) == message.content
    assert parts[-1].choices[0].finish_reason == "length"
    in_parts: Any = [{"role": "user", "content": [{"type": "text", "text": SAID[0]["content"]}]}]
    assert (
        client.chat.completions.create(**{**asked, "messages": in_parts}, max_tokens=10).choices[0].message == message
    )
    free = client.chat.completions.create(**asked)
    assert free.usage is not None
    assert free.usage.completion_tokens == 100, "as many as the server allows, where the request does not say"


@pytest.mark.parametrize(
    ("more", "status", "reason"),
    [
        ({"model": "other"}, 404, "the server has no model 'other' (known: w)"),
        ({"max_tokens": 101}, 422, "max_tokens must be at most 100 on this server, not 101"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"temperature": 3}, 422, "temperature"),
        ({"prompt": "a wonderful film " * 40, "max_tokens": 90}, 422, "more than the model's 128"),
        ({"prompt": ""}, 422, "no tokens that the model knows"),
        ({"prompt": []}, 422, "prompt"),
        ({"prompt": [5, "film"]}, 422, "not a mixture of them"),
        ({"prompt": [[5], "film"]}, 422, "not a mixture of them"),
        ({"prompt": [[5], []]}, 422, "no tokens that the model knows"),
        ({"prompt": [5, 100000]}, 422, "unknown token 100000"),
        ({"prompt": [-1]}, 422, "unknown token -1"),
        ({"prompt": ["a"] * 5}, 413, "the request has 5 inputs, and this server's limit is 4"),
        ({"prompt": [""] * 100_000}, 413, "the request has 100000 inputs, and this server's limit is 4"),
        ({"prompt": ["a", "b"], "n": 3}, 413, "the request has 6 inputs, and this server's limit is 4"),
        ({"prompt": "a film " * 100_000}, 422, "a prompt of 700000 characters is too long"),
        ({"echo": True}, 422, "the field 'echo' is not supported, except with a value that has no effect"),
        ({"logprobs": 6}, 422, "logprobs"),
        ({"best_of": 3}, 422, "the field 'best_of' is not supported"),
        ({"suffix": "."}, 422, "the field 'suffix' is not supported"),
        ({"extra_body": {"min_p": 0.1}}, 422, "the field 'min_p' is not supported"),
        ({"extra_body": {"repetition_penalty": 1.1}}, 422, "the field 'repetition_penalty' is not supported"),
        ({"extra_body": {"guided_regex": "a+"}}, 422, "the field 'guided_regex' is not supported"),
        ({"extra_body": {"frequency_penalti": 1}}, 422, "did you mean 'frequency_penalty'"),
        ({"extra_body": {"stream_options": {"include_usage": True}}}, 422, "'stream_options' requires 'stream': true"),
        ({"extra_query": {"model": "w"}}, 422, "the query parameter 'model' is not supported"),
        ({"logit_bias": {"7" * 5000: 1}}, 422, "the keys of logit_bias must be token ids"),
        ({"logit_bias": {"film": 3}}, 422, "the keys of logit_bias must be token ids, and 'film' is not"),
    ],
)
def test_invalid_fields_of_a_completion_are_refused(
    client: openai.OpenAI, more: dict[str, Any], status: int, reason: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.completions.create(**{**ASKED, **more})
    assert refused.value.status_code == status
    assert reason in refused.value.message


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"messages": []}, "messages"),
        (
            {"messages": [{"role": "usr", "content": "x"}]},
            r"messages\[0\] has the unknown role 'usr'; did you mean 'user'",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "template refuses .* no tools here"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, r"messages\[0\]\.tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "the field 'tools' is not supported"),
        ({"functions": [{"name": "f"}]}, "the field 'functions' is not supported"),
        ({"response_format": {"type": "grammar"}}, r"response_format"),
        ({"response_format": json_format({"type": "strin"})}, "JSON Schema cannot be used: Invalid type: strin"),
        ({"response_format": json_format({"enum": []})}, "cannot be used: Unsatisfiable schema"),
        ({"response_format": json_format({"not": {"type": "string"}})}, "Unimplemented keys"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"tool_choice": "required"}, "the field 'tool_choice' is not supported"),
        ({"top_logprobs": 2}, "'top_logprobs' requires 'logprobs': true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"reasoning_effort": "low"}, "the field 'reasoning_effort' is not supported"),
        ({"messages": [{**SAID[0], "name": "Ada"}]}, r"the field 'messages\[0\]\.name' is not supported"),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
            r"the field 'messages\[0\]\.tool_calls' is not supported",
        ),
        ({"extra_body": {"max_completion_token": 3}}, "did you mean 'max_completion_tokens'"),
    ],
)
def test_invalid_fields_of_a_chat_are_refused(client: openai.OpenAI, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=reason):
        client.chat.completions.create(**{"model": "w", "messages": SAID, **more})


def test_fields_without_an_effect_are_accepted(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "w", "messages": SAID, "temperature": 0, "max_tokens": 6}
    neutral: dict[str, Any] = {
        "tools": [],
        "functions": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "logprobs": False,
        "response_format": {"type": "text"},
        "store": False,
        "modalities": ["text"],
        "top_logprobs": 0,
        "extra_body": {"repetition_penalty": 1, "min_p": 0.0},
    }
    plain = client.chat.completions.create(**asked)
    assert client.chat.completions.create(**asked, **neutral).choices == plain.choices
    answer = plain.choices[0].message.model_dump()  # with every field of the client's type
    assert client.chat.completions.create(**{**asked, "messages": [*SAID, answer, *SAID]}).choices
    neutral = {"echo": False, "best_of": 1, "suffix": "", "logprobs": None}
    assert client.completions.create(**ASKED, **neutral).choices == client.completions.create(**ASKED).choices


def test_answers_meet_a_json_schema(client: openai.OpenAI) -> None:
    colours = {"enum": ["red", "green 你好"]}
    schema = {
        "type": "object",
        "properties": {"colour": colours, "numbers": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
        "required": ["colour", "numbers"],
        "additionalProperties": False,
    }
    asked: dict[str, Any] = {"model": "w", "messages": SAID, "response_format": json_format(schema)}
    for more in ({"temperature": 0}, {"temperature": 1.9, "seed": 3}, {"extra_body": {"ignore_eos": True}}):
        choice = client.chat.completions.create(**asked, **more).choices[0]
        assert choice.finish_reason == "stop"
        answer = json.loads(choice.message.content or "")
        assert answer["colour"] in colours["enum"]
        assert set(answer["numbers"]) <= {True, False}
    parts = client.chat.completions.create(**asked, temperature=0, stream=True)
    assert (
        json.loads("".join(part.choices[0].delta.content or "" for part in parts)).keys() == schema["properties"].keys()
    )
    anything = client.chat.completions.create(**{**asked, "response_format": {"type": "json_object"}}, max_tokens=3)
    assert (anything.choices[0].message.content or "").startswith("{")


def test_log_probabilities_are_the_models(client: openai.OpenAI) -> None:
    whole = client.completions.create(**ASKED, max_tokens=5, logprobs=2).choices[0]
    found = whole.logprobs
    assert found is not None
    assert found.tokens is not None
    assert len(found.tokens) == len(found.token_logprobs or ()) == len(found.text_offset or ()) == 5
    for chosen, top in zip(found.token_logprobs or (), found.top_logprobs or (), strict=True):
        assert chosen == max(top.values()) < 0  # the likeliest token was taken
        assert len(top) <= 2
    asked: dict[str, Any] = {"model": "w", "messages": SAID, "temperature": 0, "max_tokens": 5, "logprobs": True}
    content = client.chat.completions.create(**asked, top_logprobs=3).choices[0].logprobs
    assert content is not None
    assert [len(token.top_logprobs) for token in content.content or ()] == [3] * 5
    parts = list(client.chat.completions.create(**asked, stream=True))
    streamed = [one for part in parts for one in (part.choices[0].logprobs and part.choices[0].logprobs.content) or ()]
    assert [one.token for one in streamed] == [one.token for one in content.content or ()]


def test_a_common_system_message_is_read_once(client: openai.OpenAI, talking: ServerProcess) -> None:
    def read() -> float:
        found = re.search(r'fastserve_tokens_total{kind="read"} ([\d.e+]+)', httpx.get(talking.url + "/metrics").text)
        return float(found[1]) if found else 0.0

    system = [7] * 70
    first = client.completions.create(**{**ASKED, "prompt": [*system, 8]}, max_tokens=2)
    before = read()
    again = client.completions.create(**{**ASKED, "prompt": [*system, 8]}, max_tokens=2)
    assert again.choices[0].text == first.choices[0].text
    client.completions.create(**{**ASKED, "prompt": [*system, 9]}, max_tokens=2)
    assert read() - before == 2 * (71 - 64)


def test_a_conversation_is_predicted_as_it_is_answered_in_a_chat(client: openai.OpenAI, talking: ServerProcess) -> None:
    spoken = client.chat.completions.create(model="w", messages=SAID, temperature=0, max_tokens=4)
    predicted = httpx.post(
        talking.url + "/predict", json={"inputs": [{"messages": SAID}, {"instruction": SAID[0]["content"]}]}
    )
    assert [one["text"] for one in predicted.json()["predictions"]] == [spoken.choices[0].message.content] * 2
    refused = httpx.post(talking.url + "/predict", json={"inputs": [{"messages": [{"role": "usr", "content": "a"}]}]})
    assert refused.status_code == 422
    assert "unknown role 'usr'" in refused.text


def test_one_model_is_retrieved(client: openai.OpenAI) -> None:
    assert client.models.retrieve("w") == client.models.list().data[0]
    with pytest.raises(openai.NotFoundError, match="the server has no model 'x'"):
        client.models.retrieve("x")


def test_a_model_without_a_template_and_one_that_does_not_write(writer: Artifact, server: ServerProcess) -> None:
    with start(writer.folder, ServerOptions(port=0, name="w"), threads=1) as plain:
        client = openai.OpenAI(base_url=plain.url + "/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.UnprocessableEntityError, match="no chat template: ask for a completion"):
            client.chat.completions.create(model="w", messages=SAID)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="unknown path /v1/completions; see /docs"):
        client.completions.create(model="tiny-classifier", prompt="a film")


def test_who_leaves_in_the_middle_makes_room(talking: ServerProcess) -> None:
    asked = {**ASKED, "max_tokens": 100, "stream": True}
    for _ in range(12):  # more than may wait
        with httpx.stream("POST", talking.url + "/v1/completions", json=asked) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            next(response.iter_lines())
    until = time.monotonic() + 10
    while "fastserve_queue_depth 0.0" not in httpx.get(talking.url + "/metrics").text:
        assert time.monotonic() < until
    assert httpx.post(talking.url + "/v1/completions", json={**asked, "stream": False}).status_code == 200


@pytest.mark.slow(1)
def test_a_stream_that_takes_too_long_reports_it(chatty: Artifact) -> None:
    options = ServerOptions(port=0, name="w", request_timeout_s=0.2, max_new_tokens=100)
    with start(chatty.folder, options, threads=1) as server:
        asked = {**ASKED, "max_tokens": 100, "stream": True, "ignore_eos": True, "n": 16}
        lines = httpx.post(server.url + "/v1/completions", json=asked).text.split("\n\n")
        assert lines[0].startswith("data: {")
        assert "[DONE]" not in lines[-2]
        assert '"type":"deadline_exceeded"' in lines[-2]


def test_openvino_writes_the_same_texts_as_torch(chatty: Artifact, client: openai.OpenAI, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "lowered"
    shutil.copytree(chatty.folder, folder)
    manifest = chatty.manifest
    write_manifest(folder, type(manifest)(**{**vars(manifest), "runtime": {**manifest.runtime, "engine": "openvino"}}))
    with start(folder, ServerOptions(port=0, name="w"), threads=1) as server:
        other = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
        texts = [one.completions.create(**ASKED, max_tokens=30).choices[0].text for one in (client, other)]
        assert texts[0] == texts[1] != ""
