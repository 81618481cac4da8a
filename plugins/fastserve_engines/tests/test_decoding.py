"""Texts side by side, each with its own keys and values: whatever the order of the passes, the logits of one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastserve_core.errors import ExportError
from fastserve_core.tasks import KV_BLOCK_SIZE, DecodeEngine, SequenceChunk
from fastserve_engines.openvino_engine import OpenVINOEngine
from fastserve_engines.tests.test_causal import model
from fastserve_engines.torch_engine import TorchEngine

pytestmark = pytest.mark.slow

MEMORY = 1_000_000
ENGINES = {"openvino": OpenVINOEngine, "torch": TorchEngine}
FAMILIES = {
    "GPT2": {},
    "Llama": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "Qwen2": {"num_key_value_heads": 4},
}


def expected(folder: Path, texts: Sequence[Sequence[int]]) -> Any:
    """The logits after each text, of one pass over the whole of it."""
    engine = TorchEngine(folder, 1)
    return np.stack([engine.run({"input_ids": np.array([text])})["logits"][0, -1] for text in texts])


def blocks(text: int, count: int = 3) -> list[int]:
    """Numbers that do not follow each other."""
    return [text + 7 * place for place in reversed(range(count))]


def texts(count: int, longest: int = 2 * KV_BLOCK_SIZE + 9) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(3, 200, longest - 5 * number).tolist() for number in range(count)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_in_parts_beside_texts_that_continue(engine: str, family: str, tmp_path: Path, home: Path) -> None:
    model(family, **FAMILIES[family]).save_pretrained(tmp_path)
    stepper = ENGINES[engine].make_decoder(tmp_path, 1, MEMORY)
    assert stepper.eos_token_ids == {1}
    assert stepper.blocks == MEMORY // (2 * 2 * KV_BLOCK_SIZE * 4 * (2 * 8 if family == "Llama" else 4 * 8))
    first, second, third = texts(3)
    stepper.step([SequenceChunk(first[:40], 0, blocks(0))])
    stepper.step([SequenceChunk(first[40:-1], 40, blocks(0)), SequenceChunk(second[:-1], 0, blocks(1))])
    found = stepper.step(
        [SequenceChunk(first[-1:], len(first) - 1, blocks(0)), SequenceChunk(third, 0, blocks(2)),
         SequenceChunk(second[-1:], len(second) - 1, blocks(1))]
    )  # fmt: skip
    assert np.allclose(found, expected(tmp_path, [first, third, second]), atol=1e-3)
    again = stepper.step([SequenceChunk(third, 0, blocks(0))])  # blocks that another text had
    assert np.allclose(again, found[1:2], atol=1e-3)
    stepper.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_guesses_are_checked_in_the_pass_that_reads_them(engine: str, tmp_path: Path, home: Path) -> None:
    model("Llama", **FAMILIES["Llama"]).save_pretrained(tmp_path)
    stepper = ENGINES[engine].make_decoder(tmp_path, 1, MEMORY)
    first, second, third = texts(3)
    stepper.step([SequenceChunk(first[:-5], 0, blocks(0)), SequenceChunk(second[:-1], 0, blocks(1))])
    found = stepper.step(
        [SequenceChunk(first[-5:], len(first) - 5, blocks(0), num_guessed=4), SequenceChunk(third[:5], 0, blocks(2)),
         SequenceChunk([second[-1], 7], len(second) - 1, blocks(1), num_guessed=1)]
    )  # fmt: skip
    ends = [*(first[: len(first) - count] for count in (4, 3, 2, 1, 0)), third[:5], second, [*second, 7]]
    assert np.allclose(found, expected(tmp_path, ends), atol=1e-3)
    # wrong guesses are overwritten by the tokens that come in their place
    again = stepper.step([SequenceChunk([9, 10], len(first) - 4, blocks(0))])
    assert np.allclose(again, expected(tmp_path, [[*first[:-4], 9, 10]]), atol=1e-3)


@pytest.fixture(scope="module", params=ENGINES)
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DecodeEngine]:
    folder = tmp_path_factory.mktemp("llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSERVE_HOME", str(folder / "home"))
        model("Llama", **FAMILIES["Llama"]).save_pretrained(folder)
        return folder, ENGINES[request.param].make_decoder(folder, 1, MEMORY)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=4))
def test_however_texts_are_cut_up(llama: tuple[Path, DecodeEngine], cuts: list[list[int]]) -> None:
    folder, stepper = llama
    whole = [text[: sum(cut)] for text, cut in zip(texts(4, 180), cuts, strict=False)]
    cuts = [[*cut] for cut in cuts]
    last: dict[int, Any] = {}
    past = [0] * len(cuts)
    while going := [number for number, cut in enumerate(cuts) if cut]:
        pieces = []
        for number in going:
            end = min(past[number] + cuts[number].pop(0), len(whole[number]))
            pieces.append(SequenceChunk(whole[number][past[number] : end], past[number], blocks(number, 6)))
            past[number] = end
        last |= zip(going, stepper.step(pieces), strict=True)
    found = np.stack([last[number] for number in range(len(whole))])
    assert np.allclose(found, expected(folder, whole), atol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_other_models_are_refused(engine: str, tiny_bert: Path, home: Path) -> None:
    with pytest.raises(ExportError, match="not a causal language model|cannot convert the graph to paged attention"):
        ENGINES[engine].make_decoder(tiny_bert, 1, MEMORY)
