"""Texts that are valid against a JSON Schema, token by token, by llguidance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from fastserve_core.errors import DataError
from fastserve_core.tasks import TokenConstraint

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher
    from tokenizers import Tokenizer

MAX_GRAMMARS = 64
"""Compiled schemas that are kept for the next request."""
WHITESPACE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line: a small model that may write blanks anywhere can write nothing else."""


class JsonConstraint(TokenConstraint):
    """The state of one text.

    Args:
        matcher: The matcher of the schema's grammar, used by this text alone.
        vocabulary: Number of tokens.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    @override
    def allowed(self) -> np.ndarray[Any, Any]:
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little", count=self._vocabulary).astype(bool)

    @override
    def add(self, token: int) -> None:
        self._matcher.consume_token(token)


class JsonGrammars:
    """Compiles schemas for one tokenizer, and keeps the last ones.

    Args:
        tokenizer: The tokenizer, without truncation and padding.
        end_tokens: Tokens that end a text.
    """

    def __init__(self, tokenizer: Tokenizer, end_tokens: Sequence[int]) -> None:
        from llguidance import LLTokenizer

        self._vocabulary = tokenizer.get_vocab_size()
        self._tokenizer = LLTokenizer(tokenizer.to_str(), eos_token=list(end_tokens) or None)
        self._matchers: dict[str, LLMatcher] = {}

    def constrain(self, schema: Mapping[str, Any]) -> JsonConstraint:
        """Return the constraint of a new text.

        Raises:
            DataError: The schema is not valid, uses a keyword that is not supported, or no text can meet it.
        """
        from llguidance import LLMatcher

        source = json.dumps(schema, sort_keys=True)
        matcher = self._matchers.get(source)
        if matcher is None:
            try:
                grammar = LLMatcher.grammar_from_json_schema(source, defaults=WHITESPACE)
            except ValueError as error:
                raise _refusal(str(error)) from error
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
            if matcher.is_error():
                raise _refusal(matcher.get_error())
            if len(self._matchers) >= MAX_GRAMMARS:
                del self._matchers[next(iter(self._matchers))]
            self._matchers[source] = matcher
        return JsonConstraint(matcher.deep_copy(), self._vocabulary)


def _refusal(reason: str) -> DataError:
    return DataError(f"response_format: the JSON Schema cannot be used: {' '.join(reason.split())}")
