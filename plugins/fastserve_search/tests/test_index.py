"""An index of vectors: its hits, its filters, its changes, and damage."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fastserve_core.errors import ArtifactError, DataError, OptionError, StoreError
from fastserve_search.codes import HNSW, PQ
from fastserve_search.index import DENSE, HYBRID, WORDS, SearchIndex, SearchRequest
from fastserve_search.passages import Passage
from fastserve_search.store import VECTORS, CutDocument, Document

if TYPE_CHECKING:
    from fastserve_search.store import Vectors

WIDTH = 32


def unit_vectors(count: int, seed: int = 0) -> Vectors:
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((count, 12)) @ draw.standard_normal((12, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def cut(name: str, vector: Vectors, text: str = "a text", **fields: Any) -> CutDocument:
    return CutDocument(Document(name, text, fields), [Passage(0, len(text))], vector[None])


def make_index(folder: Path, documents: Sequence[CutDocument] = ()) -> SearchIndex:
    folder.mkdir()
    index = SearchIndex.create(folder, WIDTH, {"model": "tiny", "model_digest": "abc"})
    if documents:
        index.add(documents)
    return index


def find(index: SearchIndex, vector: Vectors, text: str = "", **options: Any) -> list[str]:
    (hits,) = index.search(vector[None], [text], SearchRequest(**options))
    return [hit.passage.id for hit in hits]


@pytest.mark.parametrize("kind", [PQ, HNSW])
def test_codes_find_what_the_exact_vectors_find(tmp_path: Path, kind: str) -> None:
    vectors = unit_vectors(1500)
    index = make_index(tmp_path / "index", [cut(str(row), vector) for row, vector in enumerate(vectors)])
    queries = vectors[:20]
    exact = [find(index, query) for query in queries]
    assert exact[3][0] == "3"
    assert index.recode(kind) == kind and index.codes_bytes > 0
    found = [find(index, query, candidates=300) for query in queries]
    assert np.mean([len(set(one) & set(other)) / 10 for one, other in zip(exact, found, strict=True)]) > 0.97
    index.delete(exact[0][:9])
    index.add([cut("new", queries[0])])
    again = SearchIndex(tmp_path / "index", verify=True)
    for one in (index, again):  # the codes in the file are older than the last document
        assert find(one, queries[0])[0] == "new"
        assert not set(find(one, queries[0], top_k=20)) & set(exact[0][:9])
        assert one.num_passages == 1492


def test_small_filters_and_rare_survivors_keep_all_hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(1200)
    documents = [cut(str(row), vector, part=row % 100) for row, vector in enumerate(vectors)]
    index = make_index(tmp_path / "index", documents)
    index.recode(PQ)
    expected = [str(row) for row in np.argsort(-(vectors @ vectors[0])) if row % 100 == 7]
    assert find(index, vectors[0], top_k=50, where={"part": 7}) == expected
    monkeypatch.setattr("fastserve_search.index.MAX_EXACT", 0)
    assert find(index, vectors[0], top_k=5, where={"part": 7}) == expected[:5]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"year": 2020}, {"a"}),
        ({"year": {"min": 2021}}, {"b", "c"}),
        ({"year": {"min": 2020, "max": 2021}, "kind": "x"}, {"a"}),
        ({"kind": ["x", "z"]}, {"a", "c"}),
        ({"kind": {"min": "y"}}, {"b", "c"}),
        ({"kind": "x", "year": 2022}, set()),
        ({"public": True}, {"b"}),
    ],
)
def test_filters_by_field(tmp_path: Path, where: dict[str, Any], ids: set[str]) -> None:
    vectors = unit_vectors(3)
    rows = [("a", 2020, "x", False), ("b", 2021, "y", True), ("c", 2022, "z", False)]
    index = make_index(
        tmp_path / "index",
        [cut(name, vectors[place], year=year, kind=kind, public=public, note=None, tags=["t"])
         for place, (name, year, kind, public) in enumerate(rows)],
    )  # fmt: skip
    for mode in (DENSE, WORDS, HYBRID):
        assert set(find(index, vectors[0], "text", where=where, mode=mode)) == ids


@pytest.mark.parametrize(
    "where",
    [{"yaer": 1}, {"year": {}}, {"year": {"above": 1}}, {"year": []}, {"year": None}, {"year": {"min": "x", "max": 2}}],
)
def test_unusable_filters_are_refused(tmp_path: Path, where: dict[str, Any]) -> None:
    index = make_index(tmp_path / "index", [cut("a", unit_vectors(1)[0], year=2020)])
    with pytest.raises(DataError, match=r"filter.*(year|above)"):
        find(index, unit_vectors(1)[0], where=where)


def test_words_find_rare_names_and_chinese(tmp_path: Path) -> None:
    vectors = unit_vectors(4)
    texts = {"a": "The engine XB-77 is loud", "b": "Engines are loud", "c": "北京大学在海淀", "d": "南京是一个城市"}
    index = make_index(
        tmp_path / "index", [cut(name, vectors[place], text) for place, (name, text) in enumerate(texts.items())]
    )
    assert find(index, vectors[1], "xb 77", mode=WORDS) == ["a"]
    assert find(index, vectors[0], "大学", mode=WORDS) == ["c"]
    assert find(index, vectors[0], "京", mode=WORDS) in (["c", "d"], ["d", "c"])
    assert find(index, vectors[0], '" OR * (', mode=WORDS) == []
    assert set(find(index, vectors[1], "XB-77", mode=HYBRID)[:2]) == {"a", "b"}
    assert find(index, vectors[0], "word " * 10_000 + "loud", mode=WORDS)
    index.delete(["a"])
    assert find(index, vectors[0], "xb 77", mode=WORDS) == []


def test_additions_are_all_or_nothing_and_replace_only_if_asked(tmp_path: Path) -> None:
    vectors = unit_vectors(4)
    index = make_index(tmp_path / "index", [cut("a", vectors[0], "old")])
    with pytest.raises(DataError, match="'a'.*already"):
        index.add([cut("b", vectors[1]), cut("a", vectors[2])])
    with pytest.raises(DataError, match="two documents have the id 'c'"):
        index.add([cut("c", vectors[1]), cut("c", vectors[2])])
    with pytest.raises(DataError, match="'e' is empty"):
        index.add([CutDocument(Document("e", " "), [], np.zeros((0, WIDTH), np.float32))])
    with pytest.raises(DataError, match="vectors of 16 do not fit an index of 32, of tiny"):
        index.add([cut("f", vectors[1, :16])])
    assert index.num_documents == 1
    index.add([cut("a", vectors[3], "new")], replace=True)
    (hits,) = index.search(vectors[3:], [""], SearchRequest())
    assert [hit.passage.text for hit in hits] == ["new"] and hits[0].score == pytest.approx(1)
    assert index.delete(["a", "nobody"]) == ["nobody"]
    assert find(index, vectors[3]) == []


def test_another_instance_sees_changes_at_its_next_search(tmp_path: Path) -> None:
    vectors = unit_vectors(3)
    index = make_index(tmp_path / "index", [cut("a", vectors[0])])
    other = SearchIndex(tmp_path / "index")
    index.add([cut("b", vectors[1])])
    index.delete(["a"])
    assert find(other, vectors[1]) == ["b"]


def test_vectors_of_a_killed_addition_mean_nothing(tmp_path: Path) -> None:
    vectors = unit_vectors(3)
    make_index(tmp_path / "index", [cut("a", vectors[0])]).close()
    with (tmp_path / "index" / VECTORS).open("ab") as file:
        file.write(b"x" * 100)
    (tmp_path / "index" / ".codes-0123.faiss").write_bytes(b"half")
    index = SearchIndex(tmp_path / "index", verify=True)
    index.add([cut("b", vectors[1])])
    assert find(SearchIndex(tmp_path / "index", verify=True), vectors[1]) == ["b", "a"]


def test_an_index_survives_kills_at_any_moment(tmp_path: Path) -> None:
    vectors = unit_vectors(400)
    make_index(tmp_path / "index").close()
    for attempt in range(4):
        reader, writer = os.pipe()
        if not (child := os.fork()):
            index = SearchIndex(tmp_path / "index")
            for row in range(100):
                index.add([cut(f"{attempt}-{row}", vectors[100 * attempt + row])])
                os.write(writer, b".")
            os._exit(0)
        for _ in range(3 * attempt):  # the first one is killed while it starts
            os.read(reader, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for end in (reader, writer):
            os.close(end)
        index = SearchIndex(tmp_path / "index", verify=True)
        assert index.num_documents == index.num_passages
        assert (
            len({hit.passage.id for hit in index.search(vectors[:1], [""], SearchRequest(400))[0]})
            == index.num_documents
        )
        index.close()


@pytest.mark.parametrize(
    ("name", "fault"),
    [(VECTORS, "vectors from 0 on changed"), ("codes", "changed since it was written"), ("passages.sqlite", "damaged")],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, fault: str) -> None:
    index = make_index(tmp_path / "index", [cut(str(row), vector) for row, vector in enumerate(unit_vectors(1000))])
    index.recode(PQ)
    index.close()
    (path,) = (tmp_path / "index").glob(f"{name}*" if name == "codes" else name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=fault):
        SearchIndex(tmp_path / "index", verify=True)


def test_torn_vectors_and_a_missing_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not an index"):
        SearchIndex(tmp_path)
    index = make_index(tmp_path / "index", [cut(str(row), vector) for row, vector in enumerate(unit_vectors(9))])
    index.close()
    path = tmp_path / "index" / VECTORS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="fewer than 9 vectors"):
        SearchIndex(tmp_path / "index")


def test_a_snapshot_is_an_index_of_its_own(tmp_path: Path) -> None:
    vectors = unit_vectors(1100)
    index = make_index(tmp_path / "index", [cut(str(row), vector) for row, vector in enumerate(vectors[:1000])])
    index.recode(PQ)
    (tmp_path / ".copy.partial").mkdir()  # of a snapshot that was killed
    index.snapshot(tmp_path / "copy")
    index.add([cut("later", vectors[1050])])
    copy = SearchIndex(tmp_path / "copy", verify=True)
    assert copy.num_documents == 1000 and copy.kind == PQ
    assert find(copy, vectors[7])[0] == "7"
    with pytest.raises(OptionError, match="exists already"):
        index.snapshot(tmp_path / "copy")


def test_a_folder_that_cannot_be_written_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(2)
    index = make_index(tmp_path / "index", [cut("a", vectors[0])])
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(ArtifactError, match="changes that were not merged"):
        SearchIndex(tmp_path / "index")
    index.close()
    files = sorted(path.name for path in (tmp_path / "index").iterdir())
    index = SearchIndex(tmp_path / "index", verify=True)
    assert find(index, vectors[0], "text", mode=HYBRID) == ["a"]
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == files
    with pytest.raises(StoreError, match="cannot be used"):
        index.add([cut("b", vectors[1])])


@pytest.mark.parametrize("options", [{"top_k": 0}, {"mode": "magic"}, {"candidates": 3}])
def test_unusable_requests_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="must be"):
        SearchRequest(**options)
