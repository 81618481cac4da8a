"""The command: ``fastserve-assistant INDEX [--writer ARTIFACT] [--top N] [--port PORT]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import uvicorn

from fastserve_assistant.answers import Assistant
from fastserve_assistant.application import build_application
from fastserve_core import FastServe
from fastserve_core.errors import FastServeError


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal; return the exit code."""
    parser = argparse.ArgumentParser("fastserve-assistant", description="Answers from a folder of documents")
    parser.add_argument("index", type=Path, help="an index, made by 'fastserve index'")
    parser.add_argument("--writer", type=Path, help="an artifact of the task causal_lm, which writes the answers")
    parser.add_argument("--top", type=int, default=4, help="the passages that an answer is made of (default: 4)")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args(arguments)
    try:
        assistant = load_assistant(given.index, given.writer, given.top)
    except FastServeError as error:
        print(f"fastserve-assistant: {error}", file=sys.stderr)
        return 2
    print(f"http://127.0.0.1:{given.port}/")
    uvicorn.run(build_application(assistant), host="127.0.0.1", port=given.port, log_level="warning")
    return 0


def load_assistant(index: Path, writer: Path | None, top: int) -> Assistant:
    """Return the assistant of an index; its models are loaded by the first question."""
    searcher = FastServe.load(index, show=False)
    reads = writer is None and (index / "reader").is_dir()

    def find(question: str) -> dict[str, Any]:
        return searcher.predict([question], top_k=top, mode="hybrid", answer=reads)[0]

    if writer is None:
        return Assistant(find)
    language_model = FastServe.load(writer, show=False)
    return Assistant(find, lambda prompt: str(language_model.predict([prompt])[0]["text"]))


if __name__ == "__main__":
    sys.exit(main())
