"""Conversations: the forms of their rows, the tokens that count, packing, and the template that a server uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions, ModelSpec
from fastserve_core.data import prepare_rows
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import IGNORE_INDEX, LossOptions, load_task
from fastserve_text.causal_lm.packing import PackedConversations
from fastserve_text.model_factory import write_scratch

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ["name a colour 你好 😀", "red is one", "and a number", "seven"] * 4


def turn(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(contents)]


ASKED = turn("Name a colour", "red")
FORMS: list[dict[str, Any]] = [
    {"messages": ASKED},
    {"conversations": [{"from": "human", "value": "Name a colour"}, {"from": "gpt", "value": "red"}]},
    {"instruction": "Name a colour", "input": "", "output": "red", "text": "Below is an instruction …"},
    {"prompt": "Name a colour", "completion": "red"},
    {"prompt": ASKED[:1], "completion": ASKED[1:]},
    {"question": "Name a colour", "answer": "red"},
    {"id": "7", "instruction": "Name a colour", "instances": [{"input": "", "output": "red"}]},
    {"messages": '[{"role": "user", "content": "Name a colour"}, {"role": "assistant", "content": "red"}]'},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny-chat")
    spec = ModelSpec(
        "scratch", "gpt2", dim=16, num_heads=2, num_layers=2, hidden_size=32, vocab_size=320, max_positions=128
    )
    write_scratch(spec, WORDS, path, "LMHeadModel")
    return path


def splits(rows: list[dict[str, Any]], tmp_path: Path, **columns: str) -> tuple[Any, list[str]]:
    said: list[str] = []
    data = prepare_rows(dict.fromkeys(("train", "validation", "test"), rows), DataOptions(columns=columns),
                        load_task("causal_lm", {}), Store(tmp_path), said.append)  # fmt: skip
    return data, said


@pytest.mark.parametrize("given_row", FORMS, ids="-".join)
def test_every_form_is_read_as_messages(given_row: dict[str, Any], tmp_path: Path) -> None:
    data, said = splits([given_row], tmp_path)
    assert data.rows("train")[0] == {"messages": ASKED}
    assert said[0].startswith("the rows are read by ")
    if "question" in given_row:
        assert "column 'question' is read as instruction (data.columns.instruction)" in said


def test_columns_may_be_named_and_plain_texts_stay_texts(tmp_path: Path) -> None:
    data, _ = splits([{"ask": "Name a colour", "reply": "red"}], tmp_path, instruction="ask", output="reply")
    assert data.rows("train")[0] == {"messages": ASKED}
    data, said = splits([{"text": "plain", "input": "5"}], tmp_path / "plain")
    assert data.rows("train")[0] == {"text": "plain"}
    assert not [message for message in said if "read" in message]


BAD = [
    ([*ASKED, *ASKED[1:]], "message 3 has the role assistant, and user is expected"),
    (ASKED[1:], "message 1 has the role assistant, and user is expected"),
    (ASKED[:1], "nobody answers the last message, which has the role user"),
    ([{"role": "system", "content": "Be brief"}], "only a system message"),
    ([{"role": "system", "content": "Be brief"}, ASKED[1]], "message 2 has the role assistant, and user is expected"),
    ([ASKED[0], {"role": "assistant", "content": "  "}], "content of message 2, of the role assistant, is empty"),
    ([ASKED[0], {"role": "assistant", "content": None}], "content of message 2, of the role assistant, is missing"),
    ([{"role": "usr", "content": "a"}], "message 1 has the unknown role 'usr'; did you mean 'user'"),
    ([{"role": "tool", "content": "a"}], "message 1 is of a tool"),
    ([{"content": "a"}], "message 1 has no role"),
    (["a"], "message 1 is not a mapping"),
    ([], "'messages' is empty"),
    ("no list", "not a list of messages as JSON"),
    (5, "not a list of messages"),
]


@pytest.mark.parametrize(("messages", "said"), BAD)
def test_a_conversation_that_cannot_be_used_is_a_bad_row_with_its_place(
    messages: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"train row 1: .*{said}"):
        splits([{"messages": ASKED}, {"messages": messages}], tmp_path)


def test_an_instruction_without_answer_is_a_bad_row(tmp_path: Path) -> None:
    for output, said in ((None, "'output' is missing"), (" ", "'output' is empty"), (3, "'output' is int, not text")):
        with pytest.raises(DataError, match=said):
            splits([{"instruction": "a", "output": "b"}, {"instruction": "a", "output": output}], tmp_path)


def read(task: Any, ids: Any) -> str:
    return str(task.tokenizer.decode(list(ids), skip_special_tokens=False))


@pytest.mark.parametrize("template", [None, CHATML])
def test_answers_count_and_prompts_are_those_of_a_server(folder: Path, tmp_path: Path, template: str | None) -> None:
    import shutil

    model = Path(shutil.copytree(folder, tmp_path / "model"))
    if template is not None:
        (model / "chat_template.jinja").write_text(template)
    task = load_task("causal_lm", {"max_length": 120})
    conversation = turn("name a colour 你好 😀", "red is\n one", "and a number", "seven")
    encoded = task.encoder(model)([{"messages": conversation}])[0]
    counted = np.asarray(encoded.target) != IGNORE_INDEX
    spoken = read(task, np.asarray(encoded.inputs["input_ids"])[counted]).split("<|endoftext|>")
    assert [text.strip() for text in spoken] == ["red is\n one", "seven", ""]
    task.write_files(model)
    codec = task.writer(model)  # of a server
    for count in (1, 3):
        prompt = codec.tokens([codec.chat(conversation[:count])], special=False)[0]
        assert encoded.inputs["input_ids"][: len(prompt)] == prompt
        question = task.read_input({"messages": conversation[: count + 1]})  # the answer is left out
        assert task.encoder(model)([question])[0].inputs["input_ids"] == prompt


def test_the_default_template_is_written_only_after_conversations(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text())
    task = load_task("causal_lm", {})
    task.encoder(folder)([{"text": "name a colour"}])
    task.write_files(tmp_path)
    assert not (tmp_path / "chat_template.jinja").exists()
    task.encoder(folder)([{"messages": ASKED}])
    task.write_files(tmp_path)
    assert "capitalize" in (tmp_path / "chat_template.jinja").read_text()


def test_a_template_that_refuses_or_rewrites_is_reported(folder: Path, tmp_path: Path) -> None:
    import shutil

    model = Path(shutil.copytree(folder, tmp_path / "model"))
    encode = lambda: load_task("causal_lm", {}).encoder(model)([{"messages": turn("first", "a", "second", "b")}])  # noqa: E731
    (model / "chat_template.jinja").write_text("{{ raise_exception('no such order') }}")
    with pytest.raises(DataError, match=r"refuses the messages: no such order \(the conversation 'first"):
        encode()
    (model / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    with pytest.raises(DataError, match="changes earlier messages"):
        encode()


def test_long_conversations_are_refused_or_cut(folder: Path) -> None:
    rows = [{"messages": turn("name a colour", "red " * number)} for number in (1, 50)]
    with pytest.raises(DataError, match=r"1 of 2 conversations have more than task.max_length=24 tokens, up to \d\d"):
        load_task("causal_lm", {"max_length": 24}).encoder(folder)(rows)
    cut = load_task("causal_lm", {"max_length": 24, "too_long": "cut"}).encoder(folder)(rows)
    assert [one.truncated for one in cut] == [False, True]
    assert len(cut[1]) == len(cut[1].target) == 24
    with pytest.raises(OptionError, match="task.too_long must be one of refuse, cut, not 'ct'; did you mean 'cut'"):
        load_task("causal_lm", {"too_long": "ct"})


def tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items() if name not in ("labels", "segments")}


def test_logits_of_prompts_are_omitted_and_packed_rows_stay_apart(folder: Path) -> None:
    """One loss, computed in four ways: row by row, for answers only, packed, and by the scores."""
    import torch

    task, packed = load_task("causal_lm", {}), load_task("causal_lm", {"pack": True})
    rows = [{"messages": turn("name a colour " * number, "red is one", *more)}
            for number, more in ((1, ()), (3, ()), (2, ("and a number", "seven")))]  # fmt: skip
    encoded = task.encoder(folder)(rows)
    model: Any = task.build(folder).eval()

    def compute(batch: Any, of: Any = task) -> tuple[Any, Any]:
        arrays = of.collate(batch, targets=True)
        with torch.no_grad():
            logits = model(**tensors(arrays)).logits
        return of.loss({"logits": logits}, {"labels": torch.from_numpy(arrays["labels"])}, LossOptions()), logits

    alone = [compute([one])[0] for one in encoded]
    expected, count = sum(float(one.total) for one in alone), sum(int(one.denominator) for one in alone)
    together, logits = compute(encoded)
    assert logits.shape[1] < max(map(len, encoded))
    assert (float(together.total), int(together.denominator)) == (pytest.approx(expected, rel=1e-4), count)
    scores = task.score(task.batch_statistics({"logits": logits.numpy()}, encoded))
    assert scores["loss"] == pytest.approx(expected / count, rel=1e-4)
    with torch.no_grad():
        whole = model(**tensors(task.collate(encoded))).logits.numpy()
    assert task.score(task.batch_statistics({"logits": whole}, encoded)) == pytest.approx(scores, rel=1e-4)
    blocks = packed.examples(packed.encoder(folder)(rows), "0-0")
    assert isinstance(blocks, PackedConversations)
    assert len(blocks) < len(rows)
    total, denominator = compute(blocks[:], packed)[0]
    assert (float(total), int(denominator)) == (pytest.approx(expected, rel=1e-4), count)


@given(st.lists(st.integers(1, 16), min_size=1, max_size=40), st.integers(0, 3))
def test_packing_loses_no_conversation(sizes: list[int], seed: int) -> None:
    from fastserve_core.tasks import Encoded

    rows = [Encoded({"input_ids": [number] * size}, [number] * size) for number, size in enumerate(sizes)]
    blocks = PackedConversations(rows, 16, str(seed))
    made = [blocks[number] for number in range(len(blocks))]
    assert [len(one) for one in made] == blocks.lengths.tolist()
    assert max(map(len, made)) <= 16
    assert sorted(token for one in made for token in one.inputs["input_ids"]) == sorted(
        token for row in rows for token in row.inputs["input_ids"]
    )


def test_a_text_to_answer_is_a_message_if_the_option_is_set() -> None:
    assert load_task("causal_lm", {}).read_input("a") == {"text": "a"}
    chat = load_task("causal_lm", {"chat": True})
    assert chat.read_input("a") == {"messages": turn("a")}
    assert chat.read_input({"instruction": "a", "input": "b"}) == {"messages": turn("a\n\nb")}
    assert chat.make_rows([{"messages": ASKED}]) == [{"messages": ASKED}]
    with pytest.raises(DataError, match="the conversation has only a system message"):
        chat.read_input({"messages": [{"role": "system", "content": "a"}]})


@pytest.mark.slow(15)
def test_a_run_trains_on_answers_and_shows_them_before_and_after(tmp_path: Path, cli: Any) -> None:
    rows = [{"instruction": f"name a colour {number}", "output": "red is one"} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    size = ["model=gpt2", "model.dim=32", "model.num_heads=2", "model.num_layers=1", "model.hidden_size=64",
            "model.vocab_size=300", "model.max_positions=64"]  # fmt: skip
    done = cli("+plugin=torch_ddp", "task=causal_lm", "task.max_length=48", "task.pack=true", "task.chat=true",
               "task.max_new_tokens=6", f"data.train={tmp_path / 'rows.jsonl'}", *size, "train.torch_ddp.epochs=25",
               "train.torch_ddp.batch_size=4",
               "train.torch_ddp.lr=0.01", "engine=torch", f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the rows are read by instruction, output" in done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    for sample in record["samples"]:
        assert sample["answers"]["train torch_ddp"].strip() == sample["expected"]
        assert "before" not in sample["answers"], "a model from scratch has no answers"
    assert record["stages"][-1]["measures"]["quality"]["loss"] < 0.1
    assert (Path(record["best"]) / "chat_template.jinja").is_file()
    predicted = cli("predict", record["best"], "name a colour 7")
    assert "red is one" in predicted.stdout
