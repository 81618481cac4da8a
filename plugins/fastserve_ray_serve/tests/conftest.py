"""A small real artifact."""

from __future__ import annotations

import pytest

from fastserve_core.artifacts import MANIFEST, TRAINABLE, Artifact, Manifest, hash_files, write_manifest
from fastserve_core.config import ModelSpec


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A GPT-2 of two layers with random weights: its requests can be made to last."""
    import torch
    from transformers import AutoConfig, GPT2LMHeadModel

    from fastserve_text.model_factory import write_scratch

    folder = tmp_path_factory.mktemp("models") / "tiny-writer"
    folder.mkdir()
    spec = ModelSpec(
        "scratch", "gpt2", dim=32, num_heads=2, num_layers=2, hidden_size=64, vocab_size=400, max_positions=512
    )
    write_scratch(spec, ["the film is wonderful", "a dreadful piece of work"] * 3, folder, "LMHeadModel")
    torch.manual_seed(0)
    GPT2LMHeadModel(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    options = {"max_length": 64, "max_new_tokens": 4, "temperature": 0.0}
    runtime = {"engine": "torch", "form": TRAINABLE}
    files = hash_files(folder, exclude=[MANIFEST])
    return write_manifest(folder, Manifest("causal_lm", options, (), runtime, ({"stage": "train"},), files))
