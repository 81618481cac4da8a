"""Conversations as files and callers give them: messages, turns of sharegpt, or an instruction and its answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastserve_core.errors import did_you_mean
from fastserve_core.tasks import Column, Row
from fastserve_text.base import TEXT

MESSAGES = Column(
    "messages", title="Conversation", usual_names=("conversations", "conversation", "dialogue", "dialog", "turns")
)
INSTRUCTION = Column("instruction", title="Instruction", usual_names=("prompt", "question", "指令", "问题"))
INPUT = Column("input", required=False, title="Input")
SYSTEM = Column("system", required=False, title="System message", usual_names=("system_prompt",))
OUTPUT = Column("output", usual_names=("completion", "response", "answer", "回答", "输出"), is_label=True)

CHOSEN, REJECTED = Column("chosen", is_label=True), Column("rejected", is_label=True)

PREFERENCES: tuple[tuple[Column, ...], ...] = ((INSTRUCTION, INPUT, SYSTEM, CHOSEN, REJECTED), (CHOSEN, REJECTED))
"""The columns of rows with two answers: to an instruction, and at the end of two conversations."""
CONVERSATION_FORMS: tuple[tuple[Column, ...], ...] = (*PREFERENCES, (MESSAGES,), (INSTRUCTION, INPUT, SYSTEM, OUTPUT))
"""The columns of rows that are conversations: with two answers, of any length, of one instruction with its answer."""
FORMS = (*CONVERSATION_FORMS, (TEXT,))
SYSTEM_ROLE, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {
    SYSTEM_ROLE: SYSTEM_ROLE, "developer": SYSTEM_ROLE,
    USER: USER, "human": USER, "prompter": USER,
    ASSISTANT: ASSISTANT, "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT, "chatgpt": ASSISTANT,
}  # fmt: skip
"""The roles of messages by the names that data sets have for them."""
INSTANCES = "instances"
ROLE_KEYS, CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")


def select_form(names: Sequence[str]) -> Sequence[Column]:
    """Return the columns of the form that records with these columns have; of a plain text if none fits.

    The own names of the columns come before usual ones: alpaca's file has a column ``text`` too.
    """
    known = {name.strip().casefold() for name in names}
    for form in PREFERENCES:
        if all(known & {column.name, *column.usual_names} for column in form if column.required):
            return form
    for form in FORMS:
        if all(column.name in known for column in form if column.required):
            return form
    for form in CONVERSATION_FORMS:
        if all(known & {column.name, *column.usual_names} for column in form if column.required):
            return form
    return (TEXT,)


def split_instances(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a row for each instance of an instruction (self-instruct, Wang et al. 2022); any other record as it is."""
    instances = values.get(INSTANCES)
    if not isinstance(instances, list) or not all(isinstance(instance, Mapping) for instance in instances):
        yield "", values
        return
    shared = {name: value for name, value in values.items() if name != INSTANCES}
    for number, instance in enumerate(instances):
        yield f"{INSTANCES}[{number}]", {**shared, **instance}


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Return whether a row or an input is a conversation rather than a plain text."""
    return any(column.name in row for form in CONVERSATION_FORMS for column in form if column.required)


def normalize_conversation(row: Row, has_answer: bool = True) -> None:
    """Replace the columns of a conversation by ``messages``, each with ``role`` and ``content``.

    Args:
        row: The row, changed in place.
        has_answer: Whether the last message has to be the assistant's; if not, such a message is left out.

    Raises:
        ValueError: The row cannot be used; the message is the reason.
    """
    if has_answer and CHOSEN.name in row:
        read_preference(row)
        return
    given, instruction, chosen, _ = (row.pop(column.name, None) for column in (MESSAGES, INSTRUCTION, CHOSEN, REJECTED))
    if given is None and instruction is None:
        given = chosen
    parts = {column.name: row.pop(column.name, None) for column in (INPUT, SYSTEM, OUTPUT)}
    if given is None and isinstance(instruction, list):  # a prompt of messages
        given = [*instruction, *_as_messages(parts[OUTPUT.name])]
    elif given is None:
        given = _join_instruction(instruction, parts, has_answer)
    messages = read_messages(given)
    if not has_answer and messages[-1]["role"] == ASSISTANT:
        messages.pop()  # the label of the input
        if not messages:
            raise ValueError("there is nothing to answer: the only message is the assistant's")
    check_order(messages, has_answer)
    row[MESSAGES.name] = messages


def read_preference(row: Row) -> None:
    """Replace the columns of a row with two answers by ``messages``, which end with the chosen one, and ``rejected``.

    Raises:
        ValueError: The row cannot be used; the message is the reason.
    """
    instruction = {name: row.pop(name, None) for name in (INSTRUCTION.name, INPUT.name, SYSTEM.name)}
    chosen, rejected = (
        _read_candidate(instruction, row.pop(column.name, None), column.name) for column in (CHOSEN, REJECTED)
    )
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("the conversations of 'chosen' and 'rejected' differ before their last messages")
    if chosen == rejected:
        raise ValueError("'chosen' and 'rejected' are the same")
    row[MESSAGES.name], row[REJECTED.name] = chosen, rejected[-1]["content"]


def _read_candidate(instruction: Mapping[str, Any], answer: Any, name: str) -> list[dict[str, str]]:
    if isinstance(answer, list) and len(answer) > 1:
        row: Row = {MESSAGES.name: answer}
    else:
        is_message = isinstance(answer, list) and bool(answer) and isinstance(answer[0], Mapping)
        text = answer[0].get("content") if is_message else answer
        row = {**instruction, OUTPUT.name: _read_text(text, name)}
    try:
        normalize_conversation(row)
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from error
    messages: list[dict[str, str]] = row[MESSAGES.name]
    return messages


def _as_messages(output: Any) -> list[Any]:
    if output is None:
        return []
    return output if isinstance(output, list) else [{"role": ASSISTANT, "content": output}]


def _join_instruction(instruction: Any, parts: Mapping[str, Any], has_answer: bool) -> list[dict[str, Any]]:
    """Return the messages of a row of alpaca: the input follows the instruction after an empty line."""
    asked = _read_text(instruction, "instruction")
    if (more := parts[INPUT.name]) not in (None, ""):
        asked = f"{asked}\n\n{_read_text(more, INPUT.name)}"
    messages = [{"role": USER, "content": asked}]
    if parts[SYSTEM.name] not in (None, ""):
        messages.insert(0, {"role": SYSTEM_ROLE, "content": parts[SYSTEM.name]})
    if has_answer:
        messages.append({"role": ASSISTANT, "content": _read_text(parts[OUTPUT.name], OUTPUT.name)})
    return messages


def _read_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"'{name}' is missing" if value is None else f"'{name}' is {type(value).__name__}, not text")
    if not value.strip():
        raise ValueError(f"'{name}' is empty")
    return value


def read_messages(value: Any) -> list[dict[str, str]]:
    """Return messages by ``role`` and ``content``, from a list of mappings or such a list as JSON.

    Raises:
        ValueError: The value is not such a list, a role is not known, or a content is not a text.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError("'messages' is not a list of messages as JSON") from error
    if not isinstance(value, list) or not value:
        raise ValueError("'messages' is not a list of messages" if value else "'messages' is empty")
    return [_read_message(entry, f"message {number}") for number, entry in enumerate(value, 1)]


def _read_message(entry: Any, where: str) -> dict[str, str]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is not a mapping with 'role' and 'content'")
    role = next((entry[key] for key in ROLE_KEYS if entry.get(key) is not None), None)
    if role is None:
        raise ValueError(f"{where} has no role: add 'role' (system, user or assistant)")
    if role in ("tool", "function") or entry.get("tool_calls"):
        raise ValueError(f"{where} is of a tool, and tools are not supported: leave its conversation out")
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"{where} has the unknown role '{str(role)[:30]}'{did_you_mean(str(role), ROLES)}")
    content = next((entry[key] for key in CONTENT_KEYS if key in entry), None)
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    name = f"the content of {where}, of the role {ROLES[role]},"
    if not isinstance(content, str):
        raise ValueError(f"{name} is missing" if content is None else f"{name} is {type(content).__name__}, not text")
    if not content.strip():
        raise ValueError(f"{name} is empty")
    return {"role": ROLES[role], "content": content}


def check_order(messages: Sequence[Mapping[str, str]], has_answer: bool) -> None:
    """Check the order that chat templates need: one system message at most, then user and assistant in turn.

    Raises:
        ValueError: The roles have another order, or the last message should be an answer and is not.
    """
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == SYSTEM_ROLE else roles
    if not turns:
        raise ValueError("the conversation has only a system message")
    for number, role in enumerate(turns, 1 + len(roles) - len(turns)):
        expected = (USER, ASSISTANT)[(number - 1 - len(roles) + len(turns)) % 2]
        if role != expected:
            raise ValueError(
                f"message {number} has the role {role}, and {expected} is expected: after a system message, user and "
                "assistant alternate"
            )
    if has_answer and turns[-1] != ASSISTANT:
        raise ValueError(f"nobody answers the last message, which has the role {turns[-1]}")
