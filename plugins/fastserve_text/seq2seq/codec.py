"""Sources and answers of a served model, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from fastserve_core.errors import DataError
from fastserve_core.tasks import Row, TextCodec, TokenConstraint
from fastserve_text.seq2seq.encoding import PairEncoder
from fastserve_text.seq2seq.options import Options
from fastserve_text.text_codec import TokenizersDetokenizer


class SourceCodec(TextCodec):
    """Encodes sources with the prefix; a source that is longer than the model reads is refused, not cut in silence."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._encode = PairEncoder(folder, options)
        self.vocabulary = self._encode.tokenizer.get_vocab_size()

    @override
    def tokens(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        sources = self._encode.encode_sources(texts)
        if any(truncated for _, truncated in sources):
            limit = self._encode.options.max_length
            raise DataError(f"a prompt is longer than the {limit} tokens that the model reads: shorten it")
        return [ids for ids, _ in sources]

    @override
    def speller(self) -> TokenizersDetokenizer:
        return TokenizersDetokenizer(self._encode.tokenizer)

    @override
    def token_text(self, token: int) -> str:
        text: str = self._encode.tokenizer.decode([token], skip_special_tokens=False)
        return text

    @override
    def prompt(self, row: Row) -> tuple[str, bool]:
        return row["text"], True

    @override
    def constrain(self, schema: Mapping[str, Any]) -> TokenConstraint:
        raise DataError("the model writes a text for a text, and its answers cannot be constrained by a schema")

    @override
    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        raise DataError("the model writes a text for a text and holds no conversations: use /v1/completions")
