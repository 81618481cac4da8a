"""LitServe with its batching: ``MODEL THREADS PORT CLASSIFIER``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import litserve

from serving.classifiers import classifier

BATCH, WAIT_S = 32, 0.005


class Reviews(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, kind: str, model: str, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=WAIT_S)
        self.asked = kind, model, threads

    def setup(self, device: str) -> None:
        self.classify = classifier(*self.asked)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads annotations itself, as types
        return str(request["text"])

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        return self.classify(texts)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    model, threads, port, kind = sys.argv[1:]
    server = litserve.LitServer(Reviews(kind, model, int(threads)), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
