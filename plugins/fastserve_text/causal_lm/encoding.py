"""Conversations to token ids, with the assistant's answers as targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from fastserve_core.errors import DataError
from fastserve_core.tasks import IGNORE_INDEX, Encoded, Row
from fastserve_text.causal_lm.conversations import ASSISTANT
from fastserve_text.chat_template import DEFAULT_TEMPLATE, ChatTemplate
from fastserve_text.tokenization import find_end_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHOWN = 60


class Part(NamedTuple):
    """A part of a rendered conversation; an answer is what the model learns to write."""

    text: str
    is_answer: bool


class ConversationEncoder:
    """Encodes conversations with the chat template that a server uses, or with a default one.

    The text before an answer is tokenized as a server tokenizes a prompt, and apart from the answer, as the model
    will write it. An answer ends with the first token that ends the model's texts.

    Args:
        folder: The model's folder.
        tokenizer: Its tokenizer, without truncation.
        max_length: Maximum number of tokens.
        too_long: Whether longer conversations are refused or cut.
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, max_length: int, too_long: Literal["refuse", "cut"] | str
    ) -> None:
        self.template = ChatTemplate(folder, DEFAULT_TEMPLATE)
        self._tokenizer, self._max_length, self._too_long = tokenizer, max_length, too_long
        self._ends = find_end_tokens(folder, tokenizer)

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """Encode conversations; those that end with a question are prompts, and have no target.

        Raises:
            DataError: The template refuses a conversation, or one is too long.
        """
        conversations = [self.render(row["messages"]) for row in rows]
        texts = [part.text for parts in conversations for part in parts]
        tokens = iter(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        encoded = [self._join([(part, next(tokens).ids) for part in parts]) for parts in conversations]
        self._check_lengths(encoded)
        return [self._cut(one) for one in encoded]

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[Part]:
        """Return the parts of a conversation's text: prompts and answers in turn."""
        bounds, text = [0], ""
        places = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
        for place in places:
            for count, is_prompt in ((place, True), (place + 1, False)):
                text = self._extend(text, messages[:count], is_prompt)
                bounds.append(len(text))
        if not places or places[-1] < len(messages) - 1:
            text = self._extend(text, messages, True)
            bounds.append(len(text))
        return [Part(text[begin:end], number % 2 == 1) for number, (begin, end) in enumerate(pairwise(bounds))]

    def _extend(self, before: str, messages: Sequence[Mapping[str, str]], is_prompt: bool) -> str:
        """Return the text of the first messages, which has to continue that of fewer messages."""
        try:
            text = self.template.render(messages, add_generation_prompt=is_prompt)
        except DataError as error:
            raise DataError(f"{error} (the conversation '{_excerpt(messages)}')") from error
        if not text.startswith(before):
            raise DataError(
                "the model's chat template changes earlier messages when a later one follows, so that its answers "
                f"cannot be told apart (the conversation '{_excerpt(messages)}')"
            )
        return text

    def _join(self, parts: Sequence[tuple[Part, list[int]]]) -> Encoded:
        ids: list[int] = []
        target: list[int] = []
        for number, (part, tokens) in enumerate(parts):
            if part.is_answer:
                answer = self._end_answer(tokens)
                rest = tokens[len(answer) :] if number < len(parts) - 1 else []  # nothing follows the last answer
                target += answer + [IGNORE_INDEX] * len(rest)
                ids += answer + rest
            else:
                target += [IGNORE_INDEX] * len(tokens)
                ids += tokens
        is_labelled = parts[-1][0].is_answer
        return Encoded({"input_ids": ids, "attention_mask": [1] * len(ids)}, target if is_labelled else None)

    def _end_answer(self, tokens: list[int]) -> list[int]:
        """Return the tokens of an answer up to the one that ends it, which is added if the template has none."""
        end = next((place for place, token in enumerate(tokens, 1) if token in self._ends), None)
        return tokens[:end] if end is not None else tokens + self._ends[:1]

    def _check_lengths(self, encoded: Sequence[Encoded]) -> None:
        lengths = [len(one) for one in encoded if one.target is None or self._too_long == "refuse"]
        too_long = [length for length in lengths if length > self._max_length]
        if too_long:
            raise DataError(
                f"{len(too_long)} of {len(encoded)} conversations have more than task.max_length={self._max_length} "
                f"tokens, up to {max(too_long)}: raise task.max_length, or cut the ends of answers with "
                "task.too_long=cut"
            )

    def _cut(self, encoded: Encoded) -> Encoded:
        length = self._max_length
        if len(encoded) <= length:
            return encoded
        inputs = {name: values[:length] for name, values in encoded.inputs.items()}
        return Encoded(inputs, encoded.target[:length], truncated=True)


def _excerpt(messages: Sequence[Mapping[str, str]]) -> str:
    text = " ".join(message["content"] for message in messages[:2])
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
