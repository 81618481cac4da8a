"""Texts and tokens of a language model, both ways, and the prompt that its chat template makes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fastserve_core.artifacts import read_json
from fastserve_core.errors import DataError
from fastserve_core.tasks import IncrementalDetokenizer, TextCodec
from fastserve_text.tokenization import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""The decoded form of the bytes of a part of a character."""
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
"""The tokens that a template may name."""


class TokenizersDetokenizer(IncrementalDetokenizer):
    """Decodes one text, token by token, with a tokenizer of the library ``tokenizers``.

    The characters of a token depend on the token before it: some tokenizers leave out the space before the first word
    of a text. So the tokens of the last characters are decoded again, together with the new ones.

    ``tokenizers.decoders.DecodeStream`` gives the same pieces in half the time, which saves a microsecond a token. But
    it raises an error for bytes that form no character, which models with byte fallback can generate, and it does not
    return the rest of a text that ends within a character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._given: list[int] = []
        self._since: list[int] = []

    @override
    def add(self, token: int) -> str:
        self._since.append(token)
        text = self.end()
        if not text or text.endswith(INCOMPLETE):
            return ""
        self._given, self._since = self._since, []
        return text

    @override
    def end(self) -> str:
        before, whole = self._read(self._given), self._read(self._given + self._since)
        return whole[len(before) :]

    def _read(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class ChatTextCodec(TextCodec):
    """Encodes and decodes the texts of one model folder, and renders its chat template."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokenizer = load_tokenizer(folder, max_length=1)
        self._tokenizer.no_truncation()
        self.vocabulary = self._tokenizer.get_vocab_size()

    @override
    def tokens(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        return [one.ids for one in self._tokenizer.encode_batch(list(texts), add_special_tokens=special)]

    @override
    def speller(self) -> TokenizersDetokenizer:
        return TokenizersDetokenizer(self._tokenizer)

    @override
    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        try:
            template = self._template
            given = {"messages": messages, "add_generation_prompt": True, **self._special}
            prompt: str | None = template and template.render(given)
        except Exception as error:  # the template is a program that came with the model
            raise DataError(f"the model's chat template refuses the messages: {error}") from error
        if prompt is None:
            raise DataError("the model has no chat template: ask for a completion of a prompt instead")
        return prompt

    @cached_property
    def _config(self) -> Mapping[str, Any]:
        path = self._folder / CONFIG
        found: Mapping[str, Any] = read_json(path) if path.is_file() else {}
        return found

    @cached_property
    def _special(self) -> dict[str, str]:
        named = {name: self._config.get(name) for name in SPECIAL}
        spelt = {name: one.get("content") if isinstance(one, Mapping) else one for name, one in named.items()}
        return {name: one or "" for name, one in spelt.items()}

    @cached_property
    def _template(self) -> Any:
        """Compiled as transformers compiles it, in a sandbox: it comes with the model."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        path, source = self._folder / TEMPLATE, self._config.get("chat_template")
        if path.is_file():
            source = path.read_text(encoding="utf-8")
        elif isinstance(source, list):  # several, by name
            source = next((one["template"] for one in source if one.get("name") == "default"), None)
        if not source:
            return None
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **given: json.dumps(value, ensure_ascii=False, **given)
        environment.globals |= {
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.now().astimezone().strftime(form),
        }
        return environment.from_string(source)


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)
