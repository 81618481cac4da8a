"""Posts: their days, and the targets that they mention."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.data import InputRow
from fastserve_core.errors import DataError, OptionError
from fastserve_core.tasks import load_task
from fastserve_opinion.posts import PostReader, find_zone, read_day
from fastserve_opinion.targets import ColumnTargets, NamedTargets

UTC_ZONE, SHANGHAI = ZoneInfo("UTC"), ZoneInfo("Asia/Shanghai")


@pytest.mark.parametrize(
    ("value", "zone", "day"),
    [
        ("2026-03-01T23:30:00Z", SHANGHAI, 2),
        ("2026-03-01T23:30:00", SHANGHAI, 1),
        ("2026-03-01 08:00:00+08:00", UTC_ZONE, 1),
        (" 2026-03-01 ", UTC_ZONE, 1),
        ("20260301", UTC_ZONE, 1),
        ("2026/03/01 12:30", UTC_ZONE, 1),
        ("2026年3月1日", UTC_ZONE, 1),
        ("Sun, 01 Mar 2026 23:30:00 +0000", SHANGHAI, 2),
        ("Sun Mar 01 23:30:00 +0000 2026", SHANGHAI, 2),
        (1772407800, SHANGHAI, 2),
        ("1772407800000", UTC_ZONE, 1),
        (datetime(2026, 3, 1, 23, tzinfo=UTC), SHANGHAI, 2),
        (date(2026, 3, 1), SHANGHAI, 1),
        (pd.Timestamp("2026-03-01T23:30"), SHANGHAI, 1),
    ],
)
def test_the_day_of_a_time_is_that_of_the_zone(value: Any, zone: ZoneInfo, day: int) -> None:
    assert read_day(value, zone) == date(2026, 3, day)


@pytest.mark.parametrize("value", ["", "yesterday", "2026", 2026, None, True, float("nan"), "2026-13-01", "12", []])
def test_another_value_is_not_a_time(value: Any) -> None:
    with pytest.raises(ValueError, match="not a time"):
        read_day(value, UTC_ZONE)


@given(st.one_of(st.text(max_size=20), st.floats(), st.integers()))
def test_any_value_is_a_day_or_an_error(value: Any) -> None:
    with contextlib.suppress(ValueError, OverflowError, OSError):
        assert isinstance(read_day(value, SHANGHAI), date)


def named(tmp_path: Path, content: str) -> NamedTargets:
    path = tmp_path / "targets.csv"
    path.write_text(content, encoding="utf-8")
    return NamedTargets.read(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ACME's new film, by Acme", ["Acme"]),
        ("acmes and macme", []),
        ("Acme Films is not Acme", ["Acme Films", "Acme"]),
        ("我喜欢华为手机，HUAWEI好", ["华为"]),
        ("我买了acme的东西", ["Acme"]),
        ("C++ is fine", ["C++"]),
        ("nothing", []),
    ],
)
def test_names_are_found_as_words(tmp_path: Path, text: str, found: list[str]) -> None:
    targets = named(tmp_path, "# targets\nAcme\nAcme Films, ACME Pictures\n华为，Huawei\n\nC++\n")
    assert targets.find([InputRow("", {}, {"text": text})]) == [found]


@pytest.mark.parametrize(
    ("content", "said"),
    [("Acme, A\nAlpha, a\n", "targets.csv:2: 'a' is a name of 'Acme' already"), ("# none\n", "has no targets")],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        named(tmp_path, content)


TASK = load_task("text_classification", {}, ["negative", "positive"])


def post(number: int, **values: Any) -> InputRow:
    return InputRow(f"posts:{number}", values, {"text": values.get("text", "fine")})


@pytest.mark.parametrize(("text_only", "keys"), [(False, {"text", "text_pair"}), (True, {"text"})])
def test_a_mention_is_a_pair_of_post_and_target(text_only: bool, keys: set[str]) -> None:
    reader = PostReader(TASK, ColumnTargets("brand"), UTC_ZONE, None, text_only)
    posts = [
        post(1, created_at="2026-03-01", brand="Acme"),
        post(2, created_at="2026-03-01", brand=""),
        post(3, created_at="never", brand="Acme"),
        InputRow("posts:4", {}, None, "not valid JSON"),
    ]
    (mention,) = reader.read(posts)
    assert (mention.target, mention.day) == ("Acme", date(2026, 3, 1))
    assert mention.input.row is not None
    assert mention.input.row.keys() == keys
    assert (reader.posts, reader.left_out, reader.without_target) == (4, 2, 1)
    assert reader.faults[1] == "posts:4: not valid JSON"


@pytest.mark.parametrize(
    ("values", "column", "said"),
    [
        ({"brand": "a"}, None, "none of the usual names"),
        ({"date": "x", "time": "y"}, None, "'date' and 'time'"),
    ],
)
def test_an_unclear_time_is_refused(values: dict[str, Any], column: str | None, said: str) -> None:
    with pytest.raises(OptionError, match=f"{said}.*--time COLUMN"):
        PostReader(TASK, ColumnTargets("brand"), UTC_ZONE, column, False).read([post(1, **values)])


def test_a_task_without_pairs_is_refused() -> None:
    with pytest.raises(OptionError, match="has other columns"):
        PostReader(load_task("token_classification", {}, ["O"]), ColumnTargets("a"), UTC_ZONE, None, False)


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(OptionError, match="no time zone 'Berlin'"):
        find_zone("Berlin")
