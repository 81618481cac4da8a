"""The benchmark of writing: its load is what it says, and its figures are worked out from what it saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastserve_core.artifacts import MANIFEST, TRAINABLE, Manifest, hash_files, write_manifest


def test_more_is_asked_for_than_can_be_written(part: Any) -> None:
    mixed = part("generation.mixed")
    jobs = mixed.trace(2000, per_s=100.0)
    lengths = [one.tokens for one in jobs]
    assert set(lengths) == {mixed.SHORT, mixed.LONG}
    assert lengths.count(mixed.LONG) / len(jobs) == pytest.approx(mixed.SHARE_OF_LONG, abs=0.03)
    assert [one.at for one in jobs] == sorted(one.at for one in jobs)
    assert sum(lengths) / jobs[-1].at == pytest.approx(100 * mixed.LOAD, rel=0.1)
    assert mixed.trace(5, 100.0) == mixed.trace(5, 100.0)


def test_the_ratio_is_the_worse_of_both_weights_against_the_best_peer(part: Any) -> None:
    throughput = part("generation.throughput")
    rates = {
        "ours, fp32": [20.0, 90.0],
        "ours, 8 bits": [40.0, 150.0],
        "transformers, fp32": [10.0, 120.0],
        "OpenVINO GenAI, fp32": [30.0, 100.0],
        "OpenVINO GenAI, 8 bits": [50.0, 100.0],
    }
    assert throughput._ratios(rates) == 0.75
    assert throughput._ratios({name: one for name, one in rates.items() if name.startswith("ours")}) is None


@pytest.mark.slow
def test_a_load_is_played_and_timed(part: Any, tmp_path: Path) -> None:
    from fastserve_core.config import ModelSpec
    from fastserve_engines.tests.test_causal import model
    from fastserve_text.model_factory import write_scratch

    spec = ModelSpec("scratch", "gpt2", dim=32, num_heads=2, num_layers=2, hidden_size=64, vocab_size=200)
    write_scratch(spec, ["the film is wonderful"] * 4, tmp_path, "LMHeadModel")
    model("Llama", max_position_embeddings=512).save_pretrained(tmp_path)
    options = {"max_length": 64, "max_new_tokens": 4, "temperature": 0.0}
    files = hash_files(tmp_path, exclude=[MANIFEST])
    runtime = {"engine": "torch", "form": TRAINABLE}
    write_manifest(tmp_path, Manifest("causal_lm", options, (), runtime, ({"stage": "train"},), files))
    ours = part("generation.ours")
    jobs = [ours.Job([5, 6, 7], 4, 0.3 * place) for place in range(3)]
    with ours.serving(tmp_path, 1) as server:
        took, seconds = ours.seconds_of(server.url, jobs)
        assert len(took) == 3
        assert 0.6 < seconds < 0.6 + sum(took) + 0.5
        assert ours.rate(server.url, [[5, 6]] * 3) > 0
