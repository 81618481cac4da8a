"""From a question to an answer: passages of the index, and a reader or a language model over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Find = Callable[[str], Mapping[str, Any]]
"""Returns the answer of an index to a question: ``hits``, and the reader's ``answer`` if the index has one."""
Write = Callable[[str], str]
"""Returns the continuation of a prompt."""

NOTHING = "I found nothing about this in the documents."
MIN_SCORE = 0.1
"""Answers of the reader with a lower score are not given."""
PROMPT = "Answer the question with the passages only.\n\n{passages}\n\nQuestion: {question}\nAnswer:"


@dataclass(frozen=True)
class Reply:
    """An answer, and its sources: passages with the id of their document and their characters in it."""

    answer: str
    sources: Sequence[Mapping[str, Any]]

    def as_text(self) -> str:
        """Return the answer with its sources as one text."""
        lines = [f"[{number}] {source['id']}, characters {source['start']} to {source['end']}"
                 for number, source in enumerate(self.sources, 1)]  # fmt: skip
        return "\n".join([self.answer, *([""] if lines else []), *lines])


@dataclass(frozen=True)
class Assistant:
    """Answers questions.

    Attributes:
        find: Searches the index.
        write: Writes the answer from the passages; without it, the reader's answer is given, or else the best passage.
    """

    find: Find
    write: Write | None = None

    def reply(self, question: str) -> Reply:
        """Return the answer to a question."""
        found = self.find(question)
        hits = [{name: hit[name] for name in ("id", "start", "end", "text", "score")} for hit in found["hits"]]
        if not hits:
            return Reply(NOTHING, [])
        if self.write is not None:
            passages = "\n\n".join(f"[{number}] {hit['text']}" for number, hit in enumerate(hits, 1))
            return Reply(self.write(PROMPT.format(passages=passages, question=question)).strip(), hits)
        if "answer" not in found:
            return Reply(hits[0]["text"], hits[:1])
        read = found["answer"]
        if read is None or read["score"] < MIN_SCORE:
            return Reply(NOTHING, hits)
        source = {name: read[name] for name in ("id", "start", "end", "score")} | {"text": read["passage"]}
        return Reply(read["answer"], [source])
