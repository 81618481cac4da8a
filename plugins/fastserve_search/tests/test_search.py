"""An index from files to answers: the commands, the routes of a server, and what is refused."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from tiny_training import train_tiny

from fastserve_core import FastServe
from fastserve_core.artifacts import MANIFEST, Artifact, find_artifact, hash_files, load_artifact, write_manifest
from fastserve_core.cli import extension
from fastserve_core.config import DataOptions
from fastserve_core.errors import ArtifactError, DataError, OptionError, PlanError, UserError
from fastserve_core.events import Event, Notice, WarningRaised
from fastserve_core.inference import Predictor
from fastserve_core.plugins import Command
from fastserve_core.tasks import load_task
from fastserve_search import Index, SearchCommand, index_documents
from fastserve_server.service import Service
from fastserve_server.tests.test_application import play

ROWS = [
    {"id": "paris", "text": "Paris is the capital of France.", "kind": "city", "year": 2020},
    {"id": "rome", "text": "Rome is the capital of Italy.", "kind": "city", "year": 2021},
    {"id": "cheese", "text": "Cheese is made of milk.", "kind": "food", "year": 2021},
]
NOTE = (
    "# Rivers\n\nThe Seine flows through Paris. " + "It is a long river. " * 6 + "\n\n# Hills\n\nRome has seven hills."
)


def make_model(folder: Path, name: str, width: int = 32, **options: Any) -> Artifact:
    """A model with random weights."""
    stride = {"stride": 16} if name == "question_answering" else {}
    task = load_task(name, {"max_length": 64, **stride, **options})
    rows = [{"text": row["text"], "positive": row["text"], "query": row["text"], "document": row["text"],
             "question": "What?", "context": row["text"], "answers": {"text": ["is"], "answer_start": [6]}}
            for row in ROWS]  # fmt: skip
    columns = {column.name for column in task.columns}
    used = [{key: value for key, value in row.items() if key in columns} for row in rows]
    for row in used:
        task.check(row)
    artifact = load_artifact(train_tiny(task, used, folder, epochs=0))
    task.complete_artifact(folder, folder)
    return write_manifest(folder, replace(artifact.manifest, files=hash_files(folder, exclude=[MANIFEST])))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_model(tmp_path_factory.mktemp("models") / "embedder", "embedding", query_prompt="query: ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents: a table, and notes in a folder below."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "notes").mkdir()
    (folder / "notes" / "rivers.md").write_text(NOTE)
    (folder / ".hidden.txt").write_text("hidden")
    return folder


def call(command: Command, *arguments: object, **data: Any) -> list[str]:
    """Run a command in this process; return its messages."""
    parser, messages = ArgumentParser(), list[str]()
    command.add_arguments(parser)

    def emit(event: Event) -> None:
        if isinstance(event, (Notice, WarningRaised)):
            messages.append(event.message)

    assert command.run(parser.parse_intermixed_args(list(map(str, arguments))), DataOptions(**data), emit) == 0
    return messages


@pytest.fixture(scope="module")
def made(model: Artifact, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the documents."""
    target = tmp_path_factory.mktemp("indexes") / "index"
    call(Index(), model.folder, folder, "--to", target, "--words", 20)
    return target


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    """A copy of the index, to change."""
    return Path(shutil.copytree(made, tmp_path / "index"))


def search(index: Path, query: str, capsys: pytest.CaptureFixture[str], *options: str) -> Any:
    call(SearchCommand(), index, query, "--json", *options)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow(1)
def test_documents_of_a_folder_are_found_with_their_offsets(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = find_artifact(made).manifest
    assert manifest.task == "search" and manifest.lineage[-1]["passages"] >= 6
    assert [Path(source["name"]).name for source in manifest.lineage[-1]["sources"]] == ["facts.jsonl", "rivers.md"]
    hits = search(made, "Paris is the capital of France.", capsys, "--top", "99")["hits"]
    assert len(hits) == manifest.lineage[-1]["passages"]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    for hit in hits:
        text = NOTE if hit["id"].endswith("rivers.md") else next(row["text"] for row in ROWS if row["id"] == hit["id"])
        assert text[hit["start"] : hit["end"]] == hit["text"]
    assert next(hit for hit in hits if hit["id"] == "rome")["fields"] == {"kind": "city", "year": 2021}
    found = search(made, "seven hills", capsys, "--mode", "words", "--top", "1")["hits"]
    assert found[0]["text"].startswith("# Hills")
    assert {hit["id"] for hit in search(made, "milk", capsys, "--where", "year=2021")["hits"]} == {"rome", "cheese"}
    call(SearchCommand(), made, "milk", "--mode", "words")
    assert "\tcheese\tCheese is made of milk." in capsys.readouterr().out


def test_an_index_is_a_model_of_every_server(index: Path, model: Artifact) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        async def post(path: str, status: int = 200, **body: Any) -> Any:
            response = await client.post(path, json=body)
            assert response.status_code == status, response.text
            return response.json()

        query = "Where is Rome?"
        found = await post("/search", query=query, top_k=3, filter={"kind": "city"})
        (answer,) = (await post("/predict", inputs=[query], parameters={"top_k": 3, "filter": {"kind": "city"}}))[
            "predictions"
        ]
        jsonschema.validate(answer, service.task.answer_schema())
        assert found["hits"] == answer["hits"] and {hit["id"] for hit in found["hits"]} == {"paris", "rome"}
        texts = [query, "milk"]
        own = Predictor(model).predict(texts)
        vectors = await post("/embed", inputs=texts)
        assert np.asarray(vectors) == pytest.approx(np.asarray([one["embedding"] for one in own]), abs=1e-5)
        named = await post("/v1/embeddings", input=query, model=service.name)
        assert named["data"][0]["embedding"] == pytest.approx(vectors[0], abs=1e-6)
        (prompted,) = await post("/embed", inputs=query, prompt_name="query")
        best = next(hit for hit in found["hits"] if hit["id"] == "rome")
        (document,) = await post("/embed", inputs=best["text"])
        assert best["score"] == pytest.approx(np.dot(prompted, document), abs=1e-5)

        new = [{"id": "oslo", "text": "Oslo is the capital of Norway.", "fields": {"kind": "city"}}]
        added = await post("/documents/add", documents=new)
        assert added == {"documents": 1, "passages": 1, "truncated": 0, "total": 5}
        assert (await post("/search", query="norway", mode="words"))["hits"][0]["id"] == "oslo"
        refused = await post("/documents/add", 422, documents=new)
        assert "'oslo' is in the index already" in refused["error"]["message"]
        changed = [{**new[0], "text": "Oslo lies by the sea."}]
        assert (await post("/documents/add", documents=changed, replace=True))["total"] == 5
        assert not (await post("/search", query="norway", mode="words"))["hits"]
        deleted = await post("/documents/delete", ids=["oslo", "nobody"])
        assert deleted == {"deleted": 1, "unknown": ["nobody"], "total": 4}
        page = (await client.get("/")).text
        assert '"hits": "hits"' in page and 'id="hits"' in page

    play(load_artifact(index), scene)


BAD_REQUESTS: list[tuple[str, dict[str, Any], str]] = [
    ("/search", {"query": " "}, "'text' is empty"),
    ("/search", {"query": "a", "top_k": 0}, "top_k must be 1 to 1000"),
    ("/search", {"query": "a", "mode": "magic"}, "mode must be"),
    ("/search", {"query": "a", "filter": {"knid": "city"}}, "did you mean 'kind'"),
    ("/search", {"query": "a", "rerank": True}, "the index has no reranker"),
    ("/search", {"query": "a", "answer": True}, "the index has no reader"),
    ("/documents/add", {"documents": [{"id": "a", "text": " \n"}]}, "'a' is empty"),
    ("/documents/add", {"documents": [{"id": "b", "text": "x"}, {"id": "b", "text": "y"}]}, "have the id 'b'"),
]


def test_requests_that_cannot_be_answered_are_refused(made: Path) -> None:
    async def scene(client: httpx.AsyncClient, service: Service) -> None:
        for path, body, message in BAD_REQUESTS:
            response = await client.post(path, json=body)
            assert response.status_code == 422 and message in response.json()["error"]["message"], response.text

    play(load_artifact(made), scene)


def test_a_query_of_ten_thousand_words_is_cut_and_marked(made: Path) -> None:
    (answer,) = Predictor(load_artifact(made)).predict(["capital of Italy " * 3_334], parameters={"mode": "hybrid"})
    assert answer["truncated"] and answer["hits"][0]["id"]


def test_a_second_stage_orders_the_hits_and_a_reader_answers(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, reranker = (make_model(tmp_path / name, name) for name in ("question_answering", "reranking"))
    with pytest.raises(PlanError, match="--reader: .* is for reranking; a reader reads context and question"):
        call(Index(), index, "--reader", reranker.folder)
    call(Index(), index, "--reader", reader.folder, "--reranker", reranker.folder)
    find_artifact(index)
    answer = search(index, "What is the capital?", capsys, "--rerank", "--answer")
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True) and all("first_score" in hit for hit in answer["hits"])
    source = answer["answer"]
    text = (
        NOTE if source["id"].endswith("rivers.md") else next(row["text"] for row in ROWS if row["id"] == source["id"])
    )
    assert text[source["start"] : source["end"]] == source["answer"] and source["answer"] in source["passage"]


@pytest.mark.slow(1)
def test_an_index_is_changed_and_copied(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = tmp_path / "more.csv"
    more.write_text("doc_id,content\noslo,Oslo is cold.\nbergen,Bergen is wet.\n")
    messages = call(Index(), index, more, "--delete", "cheese", "--snapshot", tmp_path / "copy")
    assert any("'content' is read as text" in message for message in messages)
    with pytest.raises(DataError, match="'oslo' and 1 more is in the index already"):
        call(Index(), index, more)
    call(Index(), index, more, "--replace")
    call(Index(), index, "--delete", "oslo")
    found = {hit["id"] for hit in search(index, "cold", capsys, "--top", "99")["hits"]}
    copied = {hit["id"] for hit in search(tmp_path / "copy", "cold", capsys, "--top", "99")["hits"]}
    assert "bergen" in found and not {"cheese", "oslo"} & found
    assert {"bergen", "oslo"} <= copied
    with pytest.raises(DataError, match="no document has the id 'nobody'"):
        call(Index(), index, "--delete", "nobody")


def test_options_of_data_stand_among_the_arguments(
    model: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text("name;body;text\na;Ein schöner Tag;x\n", encoding="latin-1")
    target = tmp_path / "index"
    options = ["data.columns.text=body", "data.separator=;", "data.encoding=latin-1", "data.columns.id=name"]
    extension.main(
        ["index", str(model.folder), options[0], str(tmp_path / "table.csv"), *options[1:], "--to", str(target)]
    )
    assert "1 documents, 1 passages" in capfd.readouterr().out
    (answer,) = Predictor(load_artifact(target)).predict(["schöner"], parameters={"mode": "words"})
    assert answer["hits"][0]["id"] == "a" and answer["hits"][0]["fields"] == {"text": "x"}


def test_an_index_is_made_and_searched_in_python(model: Artifact, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "index"
    index_documents(model.folder, folder, to=target, data={"max_bad_rows": 1}, kind="exact")
    index_documents(target, delete=["rome"])
    searcher = FastServe.load(target, show=False)
    hits = searcher.predict(["capital"], top_k=9, mode="words", filter={"kind": "city"})[0]["hits"]
    assert [hit["id"] for hit in hits] == ["paris"]
    with pytest.raises(OptionError, match="no option 'knid'; did you mean 'kind'"):
        index_documents(target, knid="pq")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": 1, "text": "a"}', '{"id": 1, "text": "b"}'], "facts.jsonl:2: .*facts.jsonl:1 has the same id '1'"),
        (['{"id": 1, "text": " "}'], "facts.jsonl:1: the document is empty; data.max_bad_rows=1"),
        (['{"id": 1, "text": 7}'], "the text is int"),
        (['{"id": 1, "title": "a"}'], "no column 'text'"),
    ],
)
def test_unusable_documents_stop_the_command(
    lines: Sequence[str], message: str, model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("facts.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        call(Index(), model.folder, "facts.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["facts.jsonl"]


def test_an_index_of_another_model_is_refused_with_both_names(
    index: Path, model: Artifact, folder: Path, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other", "embedding")
    with pytest.raises(ArtifactError, match=r"an index of embedder \(\w{12}\), and not of other \(\w{12}\)"):
        call(Index(), other.folder, folder, "--to", index)
    moved = tmp_path / "moved"
    call(Index(), other.folder, folder / "facts.jsonl", "--to", moved)
    shutil.rmtree(moved / "index")
    shutil.copytree(index / "index", moved / "index")
    with pytest.raises(ArtifactError, match=r"made with the model embedder \(\w{12}\), not with other \(\w{12}\)"):
        Predictor(load_artifact(moved))


def test_what_is_not_an_index_or_a_model_of_vectors_is_refused(
    model: Artifact, index: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="is a model for embedding: 'fastserve index'"):
        call(SearchCommand(), model.folder, "a")
    with pytest.raises(OptionError, match="name the documents"):
        call(Index(), model.folder)
    with pytest.raises(OptionError, match="are for a new index"):
        call(Index(), index, folder, "--words", 30)
    reader = make_model(tmp_path / "reader", "question_answering")
    with pytest.raises(PlanError, match="needs a model whose answers are vectors"):
        call(Index(), reader.folder, folder, "--to", tmp_path / "new")
