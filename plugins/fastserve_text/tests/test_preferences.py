"""Direct preference optimization: rows with a chosen and a rejected answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastserve_core.errors import OptionError
from fastserve_core.tasks import LossOptions, load_task
from fastserve_text.causal_lm.preferences import candidate_log_probabilities, identify
from fastserve_text.tests.test_conversations import folder, tensors, turn

__all__ = ["folder"]
ROW = {"messages": turn("name a colour", "red"), "rejected": "seven"}
FORMS: list[dict[str, Any]] = [
    {"prompt": "name a colour", "chosen": "red", "rejected": "seven"},
    {"chosen": turn("name a colour", "red"), "rejected": turn("name a colour", "seven")},
    {"prompt": "name a colour", "chosen": turn("name a colour", "red"), "rejected": turn("name a colour", "seven")},
    {
        "prompt": "name a colour",
        "chosen": [{"role": "assistant", "content": "red"}],
        "rejected": [{"role": "assistant", "content": "seven"}],
    },
]


@pytest.mark.parametrize("given", FORMS)
def test_both_answers_are_read(given: dict[str, Any]) -> None:
    task = load_task("causal_lm", {})
    columns = task.select_columns(list(given))
    assert [column.name for column in columns if column.is_label] == ["chosen", "rejected"]
    assert ("instruction" in [column.name for column in columns]) == ("prompt" in given)
    row = {("instruction" if name == "prompt" else name): value for name, value in given.items()}
    asked = task.read_input({name: value for name, value in row.items() if name != "rejected"})
    assert asked == {"messages": turn("name a colour")}
    assert task.check(row) is None
    assert row == ROW


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "a", "chosen": "b", "rejected": "b"}, "'chosen' and 'rejected' are the same"),
        ({"instruction": "a", "chosen": "b", "rejected": " "}, "'rejected' is empty"),
        ({"instruction": None, "chosen": "b", "rejected": "c"}, "'chosen': 'instruction' is missing"),
        ({"chosen": turn("a", "b"), "rejected": turn("x", "c")}, "differ before their last messages"),
        ({"chosen": turn("a", "b"), "rejected": turn("a", "c", "d")}, "'rejected': nobody answers"),
    ],
)
def test_rows_that_prefer_nothing_are_bad(row: dict[str, Any], said: str) -> None:
    assert said in (load_task("causal_lm", {}).check(row) or "")


@pytest.mark.slow(1)
def test_the_loss_is_that_of_the_paper(folder: Path) -> None:
    import torch
    from torch.nn.functional import logsigmoid

    task = load_task("causal_lm", {"beta": 0.3})
    rows = [ROW, {"messages": turn("and a number", "seven"), "rejected": "red is one red"}]
    encoded = task.encoder(folder)(rows)
    assert task.needs_reference(encoded)
    model: Any = task.build(folder).eval()

    def answer_log_probability(messages: list[dict[str, str]]) -> float:
        alone = task.encoder(folder)([{"messages": messages}])
        with torch.no_grad():
            logits = model(**tensors(task.collate(alone))).logits.numpy()
        return -float(task.batch_statistics({"logits": logits}, alone)[0][0])

    expected = [
        (
            answer_log_probability(row["messages"]),
            answer_log_probability([row["messages"][0], {"role": "assistant", "content": row["rejected"]}]),
        )
        for row in rows
    ]
    arrays = task.collate(encoded, targets=True)
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items() if name not in task.target_names}
    with torch.no_grad():
        logits = model(**inputs).logits
    for row, one, pair in zip(encoded, logits.numpy(), expected, strict=True):
        assert candidate_log_probabilities(one, row) == pytest.approx(pair, rel=1e-4)
    task.fit_reference(task.reference_statistics({"logits": logits.numpy()}, encoded))
    batch = {name: torch.from_numpy(array) for name, array in task.collate(encoded, targets=True).items()}
    loss, count = task.loss({"logits": logits}, batch, LossOptions())
    assert float(loss) / count == pytest.approx(0.6931, abs=1e-3)  # the model does not differ from the reference yet
    task.reference[identify(encoded[0])] = (expected[0][0] - 1, expected[0][1] + 2)
    batch = {name: torch.from_numpy(array) for name, array in task.collate(encoded, targets=True).items()}
    loss, count = task.loss({"logits": logits}, batch, LossOptions())
    assert float(loss) == pytest.approx(0.6931 - float(logsigmoid(torch.tensor(0.3 * 3))), abs=1e-3)
    assert count == 2
    prompts = task.collate_prompts(encoded)
    assert prompts["input_ids"].shape == (2, max(list(row.inputs["candidates"]).count(1) for row in encoded))
    split = task.examples(encoded, "validation")
    with torch.no_grad():
        whole = model(**tensors(task.collate(split[:]))).logits.numpy()
    scores = task.score(task.batch_statistics({"logits": whole}, split[:]))
    assert scores["preference_accuracy"] == sum(chosen > rejected for chosen, rejected in expected) / 2
    with pytest.raises(OptionError, match=r"task\.beta must be above 0"):
        load_task("causal_lm", {"beta": 0})


@pytest.mark.slow(15)
def test_a_training_prefers_the_chosen_answers(tmp_path: Path, folder: Path, cli: Any) -> None:
    import torch

    task = load_task("causal_lm", {})
    torch.manual_seed(0)
    task.build(folder).save_pretrained(folder)  # type: ignore[operator]
    rows = [
        {"prompt": f"name a colour {number}", "chosen": "red is one", "rejected": "and a number"}
        for number in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cli("+plugin=torch_ddp", "task=causal_lm", f"data.train={tmp_path / 'rows.jsonl'}", f"model={folder}",
               "train.torch_ddp.epochs=3", "train.torch_ddp.lr=0.003", "engine=torch",
               f"hydra.run.dir={tmp_path / 'run'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["stages"][-1]["measures"]["quality"]["preference_accuracy"] == 1.0
