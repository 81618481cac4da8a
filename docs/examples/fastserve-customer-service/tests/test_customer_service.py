"""Messages to replies, to questions for slots, or to a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastserve_customer_service.__main__ import main
from fastserve_customer_service.application import build_application
from fastserve_customer_service.replies import Pending, RulesError, load_rules
from starlette.testclient import TestClient

RULES = """
hand_over: A colleague will answer.
intents:
  status:
    needs: {order: "Which order?"}
    reply: Order {order} is on its way.
  hours:
    reply: From 9 to 18.
"""


def understand(message: str) -> dict[str, Any]:
    """A model that knows numbers and three words."""
    words = message.lower().replace("?", "").split()
    slots = [{"slot": "order", "value": word} for word in words if word.isdecimal()]
    name = "hours" if "open" in words else "status"
    return {"intent": {"name": name, "score": 0.9}, "in_scope": 0.1 if "joke" in words else 0.9, "slots": slots}


@pytest.fixture
def replies(tmp_path: Path) -> Path:
    path = tmp_path / "replies.yml"
    path.write_text(RULES)
    return path


@pytest.mark.parametrize(
    ("message", "action", "text"),
    [
        ("where is 4711?", "reply", "Order 4711 is on its way."),
        ("where is it?", "ask", "Which order?"),
        ("are you open", "reply", "From 9 to 18."),
        ("tell me a joke", "hand_over", "A colleague will answer."),
    ],
)
def test_a_message_has_a_reaction(replies: Path, message: str, action: str, text: str) -> None:
    turn = load_rules(replies).react(message, understand(message))
    assert (turn.action, turn.text) == (action, text)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("4711", "Order 4711 is on its way."),
        ("it is the number 4711 of last week", "Order 4711 is on its way."),
        ("A-17", "Order A-17 is on its way."),
        ("never mind, when is your shop open?", "From 9 to 18."),
    ],
)
def test_a_question_is_answered_or_left(replies: Path, message: str, text: str) -> None:
    pending = Pending("status", {}, "order")
    assert load_rules(replies).react(message, understand(message), pending).text == text


def test_the_application_talks(replies: Path) -> None:
    with TestClient(build_application(understand, load_rules(replies))) as client:
        assert "Customer service" in client.get("/").text
        first = client.post("/chat", json={"message": "where is it?"}).json()
        assert (first["action"], first["answer"]["intent"]["name"]) == ("ask", "status")
        second = client.post("/chat", json={"message": "4711", "pending": first["pending"]}).json()
        assert (second["text"], second["pending"]) == ("Order 4711 is on its way.", None)
        for body in (b"{", b"[]", b'{"message": " "}', b'{"message": "a", "pending": 1}'):
            assert client.post("/chat", content=body).status_code == 422


def test_a_writer_replies_out_of_scope(replies: Path) -> None:
    with TestClient(build_application(understand, load_rules(replies), lambda text: {"text": f" {text}? "})) as client:
        turn = client.post("/chat", json={"message": "a joke"}).json()
    assert (turn["action"], turn["text"]) == ("free_reply", "a joke?")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("intents: [", "needs 'hand_over'"),
        ("hand_over: x", "needs 'hand_over'"),
        ("hand_over: x\nintents: {a: {text: y}}", "needs 'hand_over'"),
        ("hand_over: x\nintents: {a: {reply: 'y {z}'}}", "the reply of 'a' has the slot 'z'"),
    ],
)
def test_replies_that_cannot_be_given_are_refused(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "replies.yml"
    path.write_text(content)
    with pytest.raises(RulesError, match=fault):
        load_rules(path)


def test_the_command_names_missing_packages(replies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(replies.parent), str(replies)]) == 2
    assert "fastserve-customer-service: " in capsys.readouterr().err
