"""Documents, masks and blocks: nothing is lost, whole words stay together, a seed decides."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.config import ModelSpec
from fastserve_core.errors import DataError, ModelError, OptionError
from fastserve_core.tasks import Encoded, load_task
from fastserve_text.causal_lm.packing import PackedSequences
from fastserve_text.documents import SENTENCE, WORD, sentence_bounds, sentence_starts, tokenize_document
from fastserve_text.masking import Masking
from fastserve_text.model_factory import write_scratch
from fastserve_text.tokenization import load_tokenizer

MARKS = st.lists(st.sampled_from([0, WORD, SENTENCE]), max_size=60).map(lambda marks: [SENTENCE, *marks])


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A film. It moves! Does it?", ["A film.", " It moves!", " Does it?"]),
        ("It costs 3.5 at www.shop.com today", ["It costs 3.5 at www.shop.com today"]),
        ("很好。我喜欢！“真的？”是的", ["很好。", "我喜欢！", "“真的？”", "是的"]),
        ("不够鲜艳.而且太简单了…不好", ["不够鲜艳.", "而且太简单了…", "不好"]),
        ("one\n\ntwo\r\nthree", ["one\n\n", "two\r\n", "three"]),
    ],
)
def test_sentences_end_where_english_and_chinese_end_them(text: str, sentences: list[str]) -> None:
    starts = [*sentence_starts(text), len(text)]
    assert [text[a:b] for a, b in pairwise(starts) if a < b] == sentences


def test_marks_say_where_words_and_sentences_begin(tiny_bert: Path) -> None:
    tokenizer = load_tokenizer(tiny_bert, 512)
    text = "the filmish story . 很好\nwhat a film"
    encoding = tokenizer.encode(text, add_special_tokens=False)
    document = tokenize_document(text, encoding)
    marks = document.inputs["marks"]
    assert len(marks) == len(document) == len(encoding.ids)
    for token, mark in zip(encoding.tokens, marks, strict=True):
        assert (mark == 0) == token.startswith("##"), encoding.tokens
    assert 0 in marks
    assert [token for token, mark in zip(encoding.tokens, marks, strict=True) if mark == SENTENCE] == [
        "the",
        "[UNK]",
        "what",
    ]


def test_a_text_without_tokens_is_an_empty_document(tiny_bert: Path) -> None:
    encoding = load_tokenizer(tiny_bert, 8).encode("\x00", add_special_tokens=False)
    assert len(tokenize_document("\x00", encoding)) == 0


@given(MARKS, st.integers(1, 20), st.integers())
def test_units_cover_a_document_and_none_is_too_long(marks: list[int], longest: int, seed: int) -> None:
    bounds = sentence_bounds(np.asarray(marks), longest, random.Random(seed))
    assert bounds[0] == 0
    assert bounds[-1] == len(marks)
    lengths = np.diff(bounds)
    assert all(1 <= length <= longest for length in lengths)
    assert {place for place, mark in enumerate(marks) if mark == SENTENCE} <= set(bounds)
    for before, bound in pairwise(bounds[:-1]):
        # a word is torn apart only where it is itself too long
        assert marks[bound] or not any(marks[before + 1 : bound + 1])
    assert len(bounds) > 2 or np.count_nonzero(marks) == 1


def masking(whole_word: bool = True, fraction: float = 0.15) -> Masking:
    special = np.zeros(1000, dtype=bool)
    special[:5] = True
    return Masking(fraction, whole_word, 4, special, np.flatnonzero(~special))


@given(
    st.lists(st.tuples(st.integers(0, 999), st.booleans()), min_size=1, max_size=80),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
)
def test_whole_words_are_hidden_together_and_nothing_else_changes(
    tokens: list[tuple[int, bool]], fraction: float, seed: int
) -> None:
    ids = np.asarray([token for token, _ in tokens])
    begins = np.asarray([True, *(begin for _, begin in tokens[1:])])
    hidden, labels = masking(fraction=fraction).hide(ids, begins, np.random.default_rng(seed))
    chosen = labels != -100
    assert (labels[chosen] == ids[chosen]).all()
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert not chosen[ids < 5].any()
    assert not (hidden[chosen] < 4).any()
    words = np.cumsum(begins)
    ordinary = ids >= 5
    for word in set(words.tolist()):
        assert len(set(chosen[(words == word) & ordinary])) <= 1
    if ordinary.any():
        assert chosen.any()
        longest = max(np.bincount(words[ordinary]))
        assert chosen.sum() <= max(longest, round(fraction * ordinary.sum()))


def test_15_percent_are_chosen_and_of_them_80_10_10_hidden_replaced_and_kept() -> None:
    draw = np.random.default_rng(0)
    ids = draw.integers(5, 1000, size=200_000)
    hidden, labels = masking().hide(ids, draw.random(len(ids)) < 0.7, draw)
    chosen = labels != -100
    assert chosen.mean() == pytest.approx(0.15, abs=0.0001)
    assert (hidden[chosen] == 4).mean() == pytest.approx(0.8, abs=0.01)
    assert (hidden[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.01)
    replaced = chosen & (hidden != 4) & (hidden != ids)
    assert len(np.unique(hidden[replaced])) > 900  # any word may stand in


def test_single_tokens_are_hidden_when_whole_words_are_not_asked_for() -> None:
    ids, begins = np.arange(5, 45), np.arange(40) % 4 == 0
    _, labels = masking(whole_word=False).hide(ids, begins, np.random.default_rng(1))
    torn = [set((labels[start : start + 4] != -100).tolist()) for start in range(0, 40, 4)]
    assert {False, True} in torn
    assert (labels != -100).sum() == 6


# -- blocks of a causal language model ---------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), min_size=1, max_size=12),
    st.integers(2, 9),
    st.text(max_size=4),
)
def test_packing_loses_nothing_but_a_last_single_token(texts: list[list[int]], length: int, seed: str) -> None:
    rows = [Encoded({"input_ids": ids, "attention_mask": [1] * len(ids)}) for ids in texts]
    blocks = PackedSequences(rows, length, 0, seed)
    made = list(blocks)
    assert [len(one) for one in made] == list(blocks.lengths)
    assert all(len(one) == length for one in made[:-1])
    together = [number for one in made for number in np.asarray(one.inputs["input_ids"]).tolist()]
    wanted = [number for place in blocks.order for number in (*texts[place], 0)]
    assert together == wanted[: len(together)]
    assert len(wanted) - len(together) == (1 if len(wanted) % length == 1 else 0)
    assert sorted(blocks.order) == list(range(len(texts)))
    assert all((one.target == one.inputs["input_ids"]).all() for one in made)


@pytest.fixture
def tiny_gpt2(tmp_path: Path) -> Path:
    spec = ModelSpec(
        "scratch", "gpt2", dim=16, num_heads=2, num_layers=1, hidden_size=32, vocab_size=300, max_positions=32
    )
    write_scratch(spec, ["the cat sat on the mat", "a dog ran"] * 5, tmp_path, "LMHeadModel")
    return tmp_path


def test_a_packed_language_model_scores_blocks_and_still_takes_prompts(tiny_gpt2: Path) -> None:
    import torch

    task = load_task("causal_lm", {"pack": True, "max_length": 16})
    rows = [{"text": f"the cat sat on the mat {number} times and more " * 3} for number in range(6)]
    encoded = task.encoder(tiny_gpt2)(rows)
    assert min(len(one) for one in encoded) > 16  # the texts are not cut
    first, second = task.examples(encoded, "0 0"), task.examples(encoded, "0 1")
    assert sum(len(one) for one in first) >= sum(len(one) + 1 for one in encoded) - 1
    again = task.examples(encoded, "0 0")
    assert [list(one.inputs["input_ids"]) for one in first] == [list(one.inputs["input_ids"]) for one in again]
    assert [list(one.inputs["input_ids"]) for one in first] != [list(one.inputs["input_ids"]) for one in second]
    batch = first[:4]
    arrays = task.collate(batch, targets=True)
    assert arrays["input_ids"].shape == (4, 16)
    with torch.no_grad():
        outputs = task.build(tiny_gpt2).eval()(**{name: torch.from_numpy(one) for name, one in arrays.items()})
    scores = task.score(task.batch_statistics({"logits": outputs.logits.numpy()}, batch))
    assert scores["loss"] == pytest.approx(outputs.loss.item(), rel=1e-4)
    assert task.collate_prompts(encoded)["input_ids"].shape == (6, 16)


def test_packing_is_off_unless_asked_for(tiny_gpt2: Path) -> None:
    task = load_task("causal_lm", {"max_length": 16})
    encoded = task.encoder(tiny_gpt2)([{"text": "the cat"}])
    assert task.examples(encoded, "any") is encoded


def test_packing_needs_an_end_of_text_token_and_enough_positions(tiny_gpt2: Path) -> None:
    with pytest.raises(OptionError, match="task.max_length is 64, but the model has 32 positions"):
        load_task("causal_lm", {"pack": True, "max_length": 64}).encoder(tiny_gpt2)
    config: Any = (tiny_gpt2 / "tokenizer_config.json").read_text()
    (tiny_gpt2 / "tokenizer_config.json").write_text(config.replace("<|endoftext|>", "<none>"))
    with pytest.raises(ModelError, match="no end-of-text token"):
        load_task("causal_lm", {"pack": True, "max_length": 16}).encoder(tiny_gpt2)


def test_a_scratch_tokenizer_frames_a_text_and_knows_chinese_characters(tmp_path: Path) -> None:
    characters = [chr(0x4E00 + number) for number in range(1500)]
    texts = ["".join(characters[start : start + 50]) for start in range(0, 1500, 50)] * 2
    spec = ModelSpec("scratch", "bert", dim=16, num_heads=2, num_layers=1, hidden_size=32, vocab_size=3000)
    write_scratch(spec, iter(texts), tmp_path, "ForMaskedLM")
    tokenizer = load_tokenizer(tmp_path, 64)
    assert tokenizer.encode(texts[3]).tokens == ["[CLS]", *texts[3], "[SEP]"]
    assert "[UNK]" not in {token for text in texts for token in tokenizer.encode(text).tokens}
    pair = tokenizer.encode("一", "丁")
    assert pair.tokens == ["[CLS]", "一", "[SEP]", "丁", "[SEP]"]
    assert pair.type_ids == [0, 0, 0, 1, 1]
    with pytest.raises(ModelError, match="no texts"):
        write_scratch(spec, iter(()), tmp_path, "ForMaskedLM")


def test_a_corpus_of_single_words_is_refused(tiny_bert: Path) -> None:
    task = load_task("pretraining", {})
    documents = task.encoder(tiny_bert)([{"text": "film"}, {"text": "story"}])
    with pytest.raises(DataError, match="too short to learn from"):
        task.examples(documents, "0")
    with pytest.raises(DataError, match="needs two texts or more: task.next_sentence=false"):
        task.examples(documents[:1], "0")


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_equal_texts_give_equal_tokenizers_in_every_process(model: str) -> None:
    """Each process orders its tables of words in its own way, and ties must not be broken by it."""
    code = (
        "import hashlib, tempfile; from pathlib import Path\n"
        "from fastserve_core.config import ModelSpec; from fastserve_text.model_factory import write_scratch\n"
        "texts = [f'{a} {b}' for a in 'wonderful brilliant moving superb'.split() for b in 'story film work'.split()]\n"
        f"spec = ModelSpec('scratch', '{model}', dim=16, num_heads=2, num_layers=1, hidden_size=32, vocab_size=300)\n"
        "folder = Path(tempfile.mkdtemp()); write_scratch(spec, texts, folder, 'LMHeadModel')\n"
        "print(hashlib.sha256((folder / 'tokenizer.json').read_bytes()).hexdigest())\n"
    )
    made = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(3)}
    assert len(made) == 1
    assert len(made.pop().strip()) == 64
