"""JSON: lines, arrays, single objects; each row has its line, each fault too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve_core.errors import DataError
from fastserve_data.tests.reading import read, values

ROWS = [{"text": "a, [b] {c}", "label": 1}, {"text": 'd "e"\n', "label": None}, {"text": "好", "label": 2.5}]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "ndjson"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_whatever_its_suffix(tmp_path: Path, suffix: str, indent: int | None) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_text("\n " + json.dumps(ROWS, indent=indent, ensure_ascii=False) + "\n")
    assert values(path) == ROWS


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        ("\n".join(json.dumps(row) for row in ROWS), []),
        ("\n\n".join(json.dumps(row, indent=1) for row in ROWS), []),
        (json.dumps({"version": "1", "data": ROWS}), ["the rows are those of 'data'"]),
        (json.dumps({"version": "1", "data": ROWS}, indent=1), ["the rows are those of 'data'"]),
    ],
)
def test_objects_in_a_json_file(tmp_path: Path, content: str, notes: list[str]) -> None:
    path, found = tmp_path / "x.json", list[str]()
    path.write_text(content)
    assert values(path, found) == ROWS
    assert found == [f"{path}: {note}" for note in notes]


def test_one_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"text": "a", "tags": ["b"]}')
    assert values(tmp_path / "x.json") == [{"text": "a", "tags": ["b"]}]


def test_places_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[\n{"a":\n1},\n\n{"a": 2}, 3,\n{"a": 1, "a": 2}]')
    records = read(path)
    assert [record.where.rpartition(":")[2] for record in records] == ["2", "5", "5", "6"]
    faults = ["", "", "not a JSON object", "two values of one object have the same name"]
    assert [record.fault for record in records] == faults


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('[{"a": 1},\n{"a": nope}]', r"x\.json:2: not valid JSON: Expecting value"),
        ('[{"a": 1},\n{"a": 2}\n', r"x\.json:3: not valid JSON: the array needs a comma or its end"),
        ('[{"a": 1}]\n{}', r"x\.json:2: not valid JSON: something follows"),
        ("[" * 100_000, "not valid JSON"),
        ('{"text": {"0": "a"}, "label": {"0": "b"}}', "is an object of columns: write one object a row"),
        ("nothing", r"x\.json:1: not valid JSON"),
    ],
)
def test_faults_of_a_whole_file(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=fault):
        read(tmp_path / "x.json")


@pytest.mark.parametrize("line", ["{", "[" * 100_000 + "{", '{"a": 1} 2', '{"a": ' + "1" * 5000 + "}", '{"a":1,"a":1}'])
def test_a_line_that_is_none_is_a_bad_row(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.jsonl").write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    first, bad, last = read(tmp_path / "x.jsonl")
    assert (first.values, last.values) == ({"a": 1}, {"a": 2})
    assert bad.values is None
    assert bad.fault


@settings(max_examples=40)
@given(
    st.lists(
        st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())),
        max_size=8,
    ),
    st.integers(1, 40),
    st.sampled_from([None, 0, 2]),
)
def test_chunks_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], chunk: int, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(rows, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastserve_data.json_files.CHUNK_CHARACTERS", chunk)
        assert values(path) == rows
