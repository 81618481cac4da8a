"""What others write with, each in a process of its own, on the same prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastserve_core.processes import child_main
from generation.setting import CONCURRENCY, TOKENS

Prompts = Sequence[Sequence[int]]
NEEDS = {
    "transformers": ("transformers",),
    "openvino_genai": ("openvino_genai", "openvino_tokenizers"),
    "llama_cpp": ("xllamacpp", "gguf"),
}
PRECISION = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
"""As our server has it: GenAI's own default is bf16, and keys and values in 8 bits."""


def transformers_(model: Path, threads: int) -> Callable[[Prompts], None]:
    """Static batches, padded on the left, as the documentation of ``generate`` has them."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def write(prompts: Prompts) -> None:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(one)) + list(one) for one in prompts])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
        with torch.inference_mode():
            loaded.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)

    return write


def genai(model: Path, threads: int) -> Callable[[Prompts], None]:
    """Its continuous batching, on the graph that our engine runs."""
    import numpy as np
    import openvino
    import openvino_genai

    scheduling = openvino_genai.SchedulerConfig()
    scheduling.cache_size = 1
    scheduling.max_num_batched_tokens = 1024
    properties = {**PRECISION, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(model), scheduling, "CPU", properties)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = TOKENS, True, False

    def write(prompts: Prompts) -> None:
        inputs = [openvino.Tensor(np.array([one], dtype=np.int64)) for one in prompts]
        found = pipeline.generate(inputs, [config] * len(prompts))
        assert all(len(one.m_generation_ids[0]) == TOKENS for one in found)

    return write


def llama_cpp(model: Path, threads: int) -> Callable[[Prompts], None]:
    """Its server's slots, asked from as many threads; ``model`` is a GGUF file."""
    from concurrent.futures import ThreadPoolExecutor

    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path = str(model)
    asked.n_parallel = max(CONCURRENCY)
    asked.n_ctx = asked.n_parallel * 512
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = threads
    asked.verbosity = -1
    server, pool = xllamacpp.Server(asked), ThreadPoolExecutor(asked.n_parallel)
    options = {"n_predict": TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False}

    def write(prompts: Prompts) -> None:
        found = pool.map(lambda one: server.handle_completions({"prompt": list(one), **options}), prompts)
        assert all(one["usage"]["completion_tokens"] == TOKENS for one in found)

    return write


WAYS = {"transformers": transformers_, "openvino_genai": genai, "llama_cpp": llama_cpp}


def rates(peer: str, model: str, prompts: Sequence[Prompts], threads: int, events: str) -> list[float]:
    """New tokens a second with each list of prompts at once, the second time."""
    write = WAYS[peer](Path(model), threads)
    found: list[float] = []
    for several in prompts:
        write(several)
        begin = time.perf_counter()
        write(several)
        found.append(len(several) * TOKENS / (time.perf_counter() - begin))
    return found


def graph_with_tokenizer(model: Path, folder: Path, graph: Path) -> Path:
    """A folder as GenAI reads it: the graph of our engine, the model's config, and its tokenizer as a graph."""
    import shutil

    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    for one in [*graph.glob("openvino_model.*"), *model.glob("*.json")]:
        shutil.copyfile(one, folder / one.name)
    pair: Any = convert_tokenizer(AutoTokenizer.from_pretrained(model), with_detokenizer=True)
    for name, one in zip(("tokenizer", "detokenizer"), pair, strict=True):
        openvino.save_model(one, folder / f"openvino_{name}.xml")
    return folder


if __name__ == "__main__":
    child_main(rates)
