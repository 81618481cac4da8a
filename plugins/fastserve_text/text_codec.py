"""Texts and tokens of a language model, both ways, and the prompt that its chat template makes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fastserve_core.entry_points import missing_packages
from fastserve_core.errors import DataError
from fastserve_core.tasks import IncrementalDetokenizer, Row, TextCodec, TokenConstraint
from fastserve_text.chat_template import ChatTemplate
from fastserve_text.structured_output import JsonGrammars
from fastserve_text.tokenization import find_end_tokens, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""The decoded form of the bytes of a part of a character."""


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
        self._folder, self._template, self._lock = folder, ChatTemplate(folder), threading.Lock()
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
    def token_text(self, token: int) -> str:
        text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return text

    @override
    def prompt(self, row: Row) -> tuple[str, bool]:
        # the chat template adds the special tokens
        return (self.chat(row["messages"]), False) if "messages" in row else (row["text"], True)

    @override
    def constrain(self, schema: Mapping[str, Any]) -> TokenConstraint:
        with self._lock:
            return self._grammars.constrain(schema)

    @cached_property
    def _grammars(self) -> JsonGrammars:
        if missing := missing_packages(("llguidance",)):
            raise DataError(f"response_format needs the package {missing[0]} on this server: pip install {missing[0]}")
        return JsonGrammars(self._tokenizer, find_end_tokens(self._folder, self._tokenizer))

    @override
    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self._template.render(messages)
