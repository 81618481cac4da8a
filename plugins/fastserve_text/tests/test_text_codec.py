"""Tokens and texts, both ways: a text in parts is the text as a whole, and prompts are what the template makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import DataError
from fastserve_text.text_codec import ChatTextCodec, TokenizersDetokenizer

TEXTS = ["the film is wonderful", "ein schöner Film, größer als 日本語の映画 🎬🎞", "a  b\n\tc"] * 3
SAID = [{"role": "user", "content": "<hi> ö"}]


def byte_level() -> Any:
    """As GPT-2's and Llama 3's: a character may be of several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return tokenizer


def pieces() -> Any:
    """As SentencePiece's: the space before the first word of a text is not shown, bytes stand for rare characters."""
    from tokenizers import Tokenizer, decoders, models

    parts = ["▁", "▁the", "▁film", "s", "ö", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE({part: number for number, part in enumerate(parts)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def word_pieces() -> Any:
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {"[UNK]": 0, "the": 1, "film": 2, "##s": 3, ",": 4, "a": 5}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


KINDS: dict[str, Callable[[], Any]] = {"bytes": byte_level, "pieces": pieces, "words": word_pieces}


@given(st.lists(st.integers(0, 260), max_size=40))
def test_bytes_that_form_no_character_do_not_fail(ids: list[int]) -> None:
    detokenizer = TokenizersDetokenizer(pieces())
    assert all(isinstance(detokenizer.add(token), str) for token in ids)
    detokenizer.end()


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


def units(tokenizer: Any) -> list[list[int]]:
    """Every token; of bytes that stand for characters those of some whole ones, as a model writes them: the decoder
    has no character for a whole row of bytes where one of them is wrong."""
    parts: dict[str, int] = tokenizer.get_vocab()
    rows = [[parts[f"<0x{byte:02X}>"] for byte in one.encode()] for one in "é🎬語a"] if "<0x00>" in parts else []
    return rows + [[number] for part, number in sorted(parts.items()) if not part.startswith("<0x")]


@given(numbers=st.lists(st.integers(0, 10_000), max_size=30))
def test_a_text_in_parts_is_the_whole_text(tokenizer: Any, numbers: list[int]) -> None:
    known = units(tokenizer)
    tokens = [token for number in numbers for token in known[number % len(known)]]
    speller = TokenizersDetokenizer(tokenizer)
    parts = [speller.add(token) for token in tokens]
    assert "".join(parts) + speller.end() == tokenizer.decode(tokens)


def test_characters_are_shown_when_they_are_whole() -> None:
    tokenizer = byte_level()
    tokens = tokenizer.encode("ö 🎬!").ids
    speller = TokenizersDetokenizer(tokenizer)
    parts = [speller.add(token) for token in tokens]
    assert "".join(parts) == "ö 🎬!"
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)
    assert len([part for part in parts if part]) > 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def configure(folder: Path, **config: Any) -> ChatTextCodec:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ChatTextCodec(folder)


LINES = "{{ bos_token }}{% for one in messages %}[{{ one.role }}] {{ one.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    "config",
    [
        {"chat_template": LINES, "bos_token": "<s>"},
        {"chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": LINES}],
         "bos_token": {"content": "<s>", "lstrip": False}},
    ],
)  # fmt: skip
def test_a_chat_is_rendered_by_the_template(folder: Path, config: dict[str, Any]) -> None:
    assert configure(folder, **config).chat(SAID) == "<s>[user] <hi> ö\n"


def test_a_template_in_a_file_comes_first(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{% for one in messages %}{{ one | tojson }}{% break %}{% endfor %}{{ 'A:' if add_generation_prompt }}"
    )
    assert configure(folder, chat_template="other").chat(SAID) == '{"role": "user", "content": "<hi> ö"}A:'


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "no chat template: ask for a completion"),
        ("{{ raise_exception('roles must alternate') }}", "refuses the messages: roles must alternate"),
        ("{{ messages[0].content + 3 }}", "refuses the messages"),
        ("{{ ''.__class__.__mro__ }}", "refuses the messages: access to attribute '__class__'"),
        ("{{ 1 // 0 }}", "refuses the messages: integer division"),
        ("{% if %}", "refuses the messages"),
    ],
)
def test_a_template_that_fails_is_reported(folder: Path, template: str | None, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        configure(folder, **({"chat_template": template} if template else {})).chat(SAID)


def test_prompts_are_not_cut(folder: Path) -> None:
    writer = ChatTextCodec(folder)
    assert len(writer.tokens(["the film " * 500])[0]) > 500
    assert writer.vocabulary == 300
