"""sentence-transformers behind LitServe with its batching: ``MODEL THREADS PORT``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import litserve

BATCH, WAIT_S = 64, 0.005


class Sentences(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, model: str, threads: int) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=WAIT_S)
        self.asked = model, threads

    def setup(self, device: str) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        model, threads = self.asked
        torch.set_num_threads(threads)
        self.network = SentenceTransformer(model, device="cpu")

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads annotations itself, as types
        return str(request["text"])

    def predict(self, texts: Sequence[str]) -> Any:
        return self.network.encode(list(texts), batch_size=BATCH, normalize_embeddings=True)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"embedding": output.tolist()}


if __name__ == "__main__":
    model, threads, port = sys.argv[1:]
    server = litserve.LitServer(Sentences(model, int(threads)), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
