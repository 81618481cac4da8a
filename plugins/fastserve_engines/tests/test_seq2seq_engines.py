"""Encoders with decoders: searches as in transformers, two OpenVINO graphs, and answers side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import make_model

from fastserve_core.tasks import SequenceChunk
from fastserve_engines.hugging_face import load_model
from fastserve_engines.seq2seq_step import AnswerStep, SourceEncoder
from fastserve_engines.seq2seq_torch import TorchAnswerEngine
from fastserve_engines.text_search import SearchOptions, search

WORDS = [f"w{number}" for number in range(60)]
MEMORY = 1_000_000


@pytest.fixture(scope="module", params=["t5", "bart", "composed"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp(request.param)
    if request.param != "composed":
        return make_model(
            request.param, target, "ForSeq2SeqLM", WORDS, initializer_factor=9.0, init_std=0.5, forced_eos_token_id=None
        )
    make_model("bert", target, "ForMaskedLM", WORDS, initializer_range=0.4)
    from fastserve_text.seq2seq.model import build_model
    from fastserve_text.seq2seq.special_tokens import read_special_tokens
    from fastserve_text.tokenization import load_tokenizer

    torch.manual_seed(1)
    model: Any = build_model(target, read_special_tokens(target, load_tokenizer(target, 8)))[0]
    model.save_pretrained(target)
    return target


def sources() -> dict[str, Any]:
    ids = np.random.default_rng(3).integers(6, 60, (3, 9))
    mask = np.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


class TorchSession:
    """The torch modules of the export, as a step of the search."""

    def __init__(self, model: Any, inputs: dict[str, Any], copies: int) -> None:
        repeated = {name: torch.from_numpy(array).repeat_interleave(copies, 0) for name, array in inputs.items()}
        self.decoder, self.mask = AnswerStep(model), repeated["attention_mask"]
        with torch.no_grad():
            self.source = list(SourceEncoder(model)(repeated["input_ids"], self.mask))
        self.past = [state[:, :, :0] for state in self.source]

    def step(self, tokens: Any, order: Any) -> Any:
        past = [state[torch.from_numpy(order).long()] for state in self.past]
        with torch.no_grad():
            logits, *self.past = self.decoder(torch.from_numpy(tokens)[:, None], self.mask, [*past, *self.source])
        return logits[:, -1].numpy()


@pytest.mark.slow(5)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_new_tokens": 5},
        {"no_repeat_ngram_size": 2},
        {"num_beams": 3},
        {"num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
        {"num_beams": 2, "length_penalty": 0.0},
    ],
)
def test_a_search_finds_the_answers_of_transformers(folder: Path, options: dict[str, Any]) -> None:
    model, inputs = load_model(folder), sources()
    config = model.generation_config
    ends, beams = [config.eos_token_id], options.get("num_beams", 1)
    chosen = SearchOptions.of(config.decoder_start_token_id, ends, config.pad_token_id,
                              {"max_new_tokens": 12, **options})  # fmt: skip
    found = search(TorchSession(model, inputs, beams).step, 3, chosen)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    expected = model.generate(**tensors, max_new_tokens=12, do_sample=False, **options)[:, 1:].numpy()
    width = max(found.shape[1], expected.shape[1])
    padded = [np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=chosen.pad) for ids in (found, expected)]
    assert padded[0].tolist() == padded[1].tolist()


def test_texts_side_by_side_have_the_logits_of_each_alone(folder: Path) -> None:
    model, (first, second, _) = load_model(folder), sources()["input_ids"].tolist()
    engine = TorchAnswerEngine(folder, 1, MEMORY)
    assert engine.blocks > 1
    prompts = (len(first), len(second))
    engine.step([SequenceChunk(first[:4], 0, [5], prompts[0])])
    engine.step([SequenceChunk(first[4:], 4, [5], prompts[0]), SequenceChunk(second[:3], 0, [2], prompts[1])])
    found = engine.step([SequenceChunk([11], prompts[0], [5], prompts[0]),
                         SequenceChunk([*second[3:], 7, 8], 3, [2], prompts[1])])  # fmt: skip
    start = model.config.decoder_start_token_id
    for logits, source, answer in ((found[0], first, [11]), (found[1], second, [7, 8])):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *answer]]))
        assert np.abs(logits - expected.logits[0, -1].numpy()).max() < 1e-4


@pytest.mark.slow(10)
@pytest.mark.parametrize("folder", ["t5", "composed"], indirect=True)
def test_openvino_answers_as_torch(folder: Path, tmp_path: Path, home: Path) -> None:
    from fastserve_engines.causal_engine import FP32_CONFIG
    from fastserve_engines.lowering import get_or_lower
    from fastserve_engines.openvino_engine import OpenVINOEngine
    from fastserve_engines.seq2seq_decode import OpenVINOAnswerEngine
    from fastserve_engines.seq2seq_graph import FirstTokenReader
    from fastserve_engines.torch_engine import TorchEngine

    torch_engine, engine, inputs = TorchEngine(folder, 1), OpenVINOEngine(folder, 1, in_fp32=True), sources()
    for options in ({"num_beams": 3, "min_new_tokens": 2}, {"no_repeat_ngram_size": 2}):
        asked = {"max_new_tokens": 8, **options}
        expected, found = (one.generate(inputs, asked)["ids"] for one in (torch_engine, engine))
        assert found.tolist() == expected[:, : found.shape[1]].tolist()
    reference = FirstTokenReader(folder, 1).run(inputs)["logits"]
    assert np.abs(engine.run(inputs)["logits"] - reference).max() < 1e-3
    config = {**FP32_CONFIG, "INFERENCE_NUM_THREADS": 1}  # numbers of random models differ much in bf16
    decoder = OpenVINOAnswerEngine(get_or_lower(folder, 1, ["*logits"]), folder, config, MEMORY)
    other = TorchAnswerEngine(folder, 1, MEMORY)
    text = inputs["input_ids"][0].tolist()
    for piece in (SequenceChunk(text, 0, [0], len(text)), SequenceChunk([9], len(text), [0], len(text))):
        assert np.abs(decoder.step([piece]) - other.step([piece])).max() < 1e-3
    decoder.close()
    assert OpenVINOEngine.make_decoder(folder, 1, MEMORY).blocks == other.blocks
