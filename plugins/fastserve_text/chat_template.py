"""The chat template of a model folder: messages to the text that the model reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fastserve_core.artifacts import read_json
from fastserve_core.errors import DataError

TEMPLATE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
"""The tokens that a template may name."""
DEFAULT_TEMPLATE = """\
{%- for message in messages -%}
{{ message.role | capitalize }}: {{ message.content }}{{ eos_token if message.role == 'assistant' }}
{% endfor -%}
{%- if add_generation_prompt -%}
Assistant:
{%- endif -%}
"""
"""The template of a model that is trained on conversations and has none: a line for each message."""

Message = Mapping[str, str]


class ChatTemplate:
    """Renders conversations with the template of a folder, compiled as transformers compiles it, in a sandbox.

    Args:
        folder: The model's folder.
        default: The source of the template of a folder that has none.
    """

    def __init__(self, folder: Path, default: str | None = None) -> None:
        self._folder = folder
        self.is_default = self._own_source is None and default is not None
        self.source = self._own_source or default

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation.

        Args:
            messages: The messages, with ``role`` and ``content``.
            add_generation_prompt: Whether the text ends where the assistant's next message begins.

        Raises:
            DataError: There is no template, or it refuses the messages.
        """
        if self.source is None:
            raise DataError("the model has no chat template: ask for a completion of a prompt instead")
        given = {"messages": messages, "add_generation_prompt": add_generation_prompt, **self._special}
        try:
            text: str = self._template.render(given)
        except Exception as error:  # the template is a program that came with the model
            raise DataError(f"the model's chat template refuses the messages: {error}") from error
        return text

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        path = self._folder / CONFIG
        found: Mapping[str, Any] = read_json(path) if path.is_file() else {}
        return found

    @cached_property
    def _own_source(self) -> str | None:
        path, source = self._folder / TEMPLATE, self._config.get("chat_template")
        if path.is_file():
            source = path.read_text(encoding="utf-8")
        elif isinstance(source, list):  # several, by name
            source = next((one["template"] for one in source if one.get("name") == "default"), None)
        return source or None

    @cached_property
    def _special(self) -> dict[str, str]:
        named = {name: self._config.get(name) for name in SPECIAL}
        spelt = {name: one.get("content") if isinstance(one, Mapping) else one for name, one in named.items()}
        return {name: one or "" for name, one in spelt.items()}

    @cached_property
    def _template(self) -> Any:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **given: json.dumps(value, ensure_ascii=False, **given)
        environment.globals |= {
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.now().astimezone().strftime(form),
        }
        return environment.from_string(self.source or "")


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
