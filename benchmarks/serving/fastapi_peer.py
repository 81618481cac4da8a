"""FastAPI and the pipeline of transformers, as their documentation has them: ``MODEL THREADS PORT``."""

from __future__ import annotations

import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Review(BaseModel):
    text: str


def application(model: str, threads: int) -> FastAPI:
    torch.set_num_threads(threads)
    classify = pipeline("text-classification", model=model, device="cpu")
    made = FastAPI()

    @made.post("/predict")
    def predict(review: Review) -> dict[str, Any]:
        found: dict[str, Any] = classify(review.text, truncation=True, max_length=128)[0]
        return found

    return made


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1], int(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[3]), access_log=False)
