"""The text files of SemEval-2010 task 8."""

from __future__ import annotations

from pathlib import Path

from fastserve_core.config import DataOptions
from fastserve_core.data import RawRecord
from fastserve_data.files import Files

TRAIN = """1\t"The <e1>system</e1> has an array of <e2>elements</e2>."
Component-Whole(e2,e1)
Comment: Not a collection.

2\t"The <e1>child</e1> was "wrapped" into the <e2>cradle</e2>."
Other
Comment:
stray

3\t"The <e1>author</e1> uses a <e2>disassembler</e2>."
"""


def read(path: Path, text: str) -> tuple[list[RawRecord], list[str]]:
    path.write_text(text, encoding="utf-8")
    messages: list[str] = []
    return list(Files().records(str(path), "data.train", DataOptions(), messages.append)), messages


def test_each_sentence_has_the_relation_of_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "TRAIN_FILE.TXT"
    records, messages = read(path, TRAIN)
    assert [(record.where, record.values) for record in records] == [
        (
            f"{path}:1",
            {
                "id": "1",
                "text": "The <e1>system</e1> has an array of <e2>elements</e2>.",
                "relation": "Component-Whole(e2,e1)",
            },
        ),
        (
            f"{path}:5",
            {"id": "2", "text": 'The <e1>child</e1> was "wrapped" into the <e2>cradle</e2>.', "relation": "Other"},
        ),
        (f"{path}:8", None),
        (f"{path}:10", {"id": "3", "text": "The <e1>author</e1> uses a <e2>disassembler</e2>."}),
    ]
    assert "neither a numbered sentence" in records[2].fault
    assert messages == [f"{path}: sentences with marked entities, each with its relation in the next line"]


def test_other_texts_are_a_row_a_line(tmp_path: Path) -> None:
    records, messages = read(tmp_path / "texts.txt", '\n1\t"a number"\n\nThe <e1>child</e1> and the <e2>cradle</e2>\n')
    assert [record.values for record in records] == [
        {"text": '1\t"a number"'},
        {"text": "The <e1>child</e1> and the <e2>cradle</e2>"},
    ]
    assert not messages
