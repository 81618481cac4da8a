"""The command: ``fastserve-customer-service ARTIFACT REPLIES [--writer ARTIFACT] [--port PORT]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import uvicorn

from fastserve_core import FastServe
from fastserve_core.errors import FastServeError
from fastserve_customer_service.application import Predict, build_application
from fastserve_customer_service.replies import RulesError, load_rules


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal; return the exit code."""
    parser = argparse.ArgumentParser("fastserve-customer-service", description="Replies to customers' messages")
    parser.add_argument("model", type=Path, help="an artifact of the task joint_intent_slots")
    parser.add_argument("replies", type=Path, help="the file of replies")
    parser.add_argument("--writer", type=Path, help="an artifact of the task causal_lm, for messages out of scope")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args(arguments)
    try:
        rules = load_rules(given.replies)
        understand = make_predict(given.model)
        write = make_predict(given.writer) if given.writer else None
    except (RulesError, FastServeError) as error:
        print(f"fastserve-customer-service: {error}", file=sys.stderr)
        return 2
    print(f"http://127.0.0.1:{given.port}/")
    uvicorn.run(build_application(understand, rules, write), host="127.0.0.1", port=given.port, log_level="warning")
    return 0


def make_predict(artifact: Path) -> Predict:
    """Return a function that answers one text with a model, which is loaded when it is first called."""
    model = FastServe.load(artifact, show=False)

    def predict(text: str) -> dict[str, Any]:
        return model.predict([text])[0]

    return predict


if __name__ == "__main__":
    sys.exit(main())
