"""Texts of items: how their file is read, the table that a model learns, and items that nobody has bought yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import train_tiny

from fastserve_core.artifacts import MANIFEST, TRAINABLE, Manifest, Store, hash_files, write_manifest
from fastserve_core.config import DataOptions, ModelSpec
from fastserve_core.data import prepare_rows
from fastserve_core.errors import ArtifactError, DataError, OptionError
from fastserve_core.inference import Predictor
from fastserve_core.tasks import Task, load_task
from fastserve_recommendation.item_texts import make_text, read_item_texts
from fastserve_recommendation.tests.test_next_item import fit
from fastserve_recommendation.text_table import TextItemTable
from fastserve_recommendation.text_vectors import VECTORS_FILE, load_vectors, spread
from fastserve_recommendation.vocabulary import FIRST_ITEM, Vocabulary

KINDS = ("cotton shirt", "garden spade", "kitchen grinder", "mountain tent")
SIZES: dict[str, Any] = {"dim": 16, "num_heads": 2, "num_layers": 1, "hidden_size": 32, "max_positions": 8}


def titles() -> dict[str, str]:
    """Six items of each kind, of which users buy five: nobody has bought ``new…``."""
    known = {f"{kind[0]}{number}": f"{kind} model {number}" for kind in KINDS for number in range(5)}
    return known | {f"new-{kind.split()[1]}": f"{kind} of this year" for kind in KINDS}


def purchases() -> list[dict[str, Any]]:
    """Users who buy items of one kind."""
    draw = np.random.default_rng(0)
    return [
        {"user_id": f"u{user}", "item_id": f"{kind[0]}{number}", "timestamp": time}
        for user in range(60) for kind in [KINDS[user % len(KINDS)]]
        for time, number in enumerate(draw.permutation(5)[:4].tolist())
    ]  # fmt: skip


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights: texts of the same words have similar vectors."""
    rows = [{"text": text, "positive": text} for text in titles().values()]
    task = load_task("embedding", {"max_length": 16})
    return train_tiny(task, rows, tmp_path_factory.mktemp("embedder") / "m", epochs=0)


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n" + "".join(f"{item},{title}\n" for item, title in titles().items()))
    return path


def train(task: Task, rows: Any, folder: Path, name: str, steps: int) -> None:
    """Write a tiny trained model as an artifact."""
    untrained = folder.with_name("untrained")
    for path in (untrained, folder):
        path.mkdir()
    task.init_from_scratch(ModelSpec("scratch", name, vocab_size=1000, **SIZES), rows, untrained)
    model = fit(task, untrained, rows, steps)
    assert isinstance(model.get_input_embeddings(), TextItemTable)
    expected = model.eval().get_input_embeddings().weight.detach().clone()
    task.finish(model).save_pretrained(folder)  # type: ignore[operator]
    assert torch.equal(model.get_input_embeddings().weight, expected)
    Vocabulary.load(untrained).save(folder)
    files = hash_files(folder, exclude=[MANIFEST])
    runtime = {"engine": "torch", "form": TRAINABLE}
    write_manifest(folder, Manifest("next_item", vars(task.options), (), runtime, ({"stage": "train"},), files))


@pytest.mark.parametrize(("name", "bound"), [("sasrec", 6), pytest.param("bert4rec", 12, marks=pytest.mark.slow)])
def test_an_item_that_nobody_bought_is_recommended_by_its_text(
    name: str, bound: int, tmp_path: Path, items: Path, embedder: Path
) -> None:
    given = {"items": str(items), "embedder": str(embedder), "max_length": 6, "negatives": 0, "dropout": 0.0}
    task, notes = load_task("next_item", given), list[str]()
    data = prepare_rows({"train": purchases()}, DataOptions(), task, Store(tmp_path), notes.append)
    assert "task.items: the texts of 24 items (item_id) are made of title" in notes
    assert "task.items: 4 items without an interaction in train are known by their texts alone" in notes
    train(task, data.rows("train"), tmp_path / "model", name, 60)
    assert not (tmp_path / "model" / VECTORS_FILE).exists()
    items.unlink()  # a trained model needs neither the file nor the embedder
    predictor = Predictor(tmp_path / "model", threads=1)
    for kind in KINDS:
        answer = predictor.predict([{"items": [f"{kind[0]}0", f"{kind[0]}1"], "k": 99}])[0]
        ranked = [item["id"] for item in answer["items"]]
        new = [item for item in ranked if item.startswith("new-")]
        assert len(new) == len(KINDS) and new[0] == f"new-{kind.split()[1]}"
        assert ranked.index(new[0]) < bound
    read = predictor.predict([["new-tent"]])[0]
    assert read["basis"] == "model" and read["unknown"] == [] and read["items"][0]["id"][0] == "m"


@pytest.mark.slow(40)
def test_a_run_embeds_texts_once_and_makes_a_plain_model(tmp_path: Path, items: Path, embedder: Path, cli: Any) -> None:
    rows = [f"{row['user_id']},{row['item_id']},{row['timestamp']}" for row in purchases()]
    (tmp_path / "bought.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    sizes = [f"model.{name}={size}" for name, size in SIZES.items()]
    texts = [f"task.items={items}", f"task.embedder={embedder}", "task.max_length=6"]
    chosen = ["+plugin=torch_ddp", "task=next_item", "model=sasrec", "data.train=bought.csv", *sizes, *texts]
    options = ["train.torch_ddp.epochs=30", "train.torch_ddp.lr=0.01", "hydra.run.dir=run"]
    done = cli(*chosen, *options)
    assert done.returncode == 0, done.stderr
    assert "4 items without an interaction in train are known by their texts alone" in done.stdout + done.stderr
    vectors = list((Path(json.loads((tmp_path / "run" / "run.json").read_text())["best"]).parent).glob("*/*.npy"))
    assert [path.name for path in vectors] == [VECTORS_FILE]  # of the untrained model only
    answer = json.loads(cli("predict", "run", '{"items": ["k0", "k1"], "k": 9}', "--json").stdout)
    new = [item["id"] for item in answer["items"] if item["id"].startswith("new-")]
    assert new[0] == "new-grinder"
    before = vectors[0].stat().st_mtime_ns
    again = cli(*chosen, *options[1:], "train.torch_ddp.epochs=1")
    assert again.returncode == 0, again.stderr
    assert vectors[0].stat().st_mtime_ns == before


def test_a_row_is_the_sum_of_its_parts() -> None:
    learned, vectors = torch.nn.Embedding(5, 4, padding_idx=0), torch.randn(5, 3)
    vectors[[0, 1, 3]] = 0
    is_learned = torch.tensor([True, True, True, True, False])
    table = TextItemTable(learned, vectors, is_learned, text_only=1.0)
    texts = vectors @ table.projection.weight.T
    ids = torch.tensor([[0, 2], [3, 4]])
    assert torch.allclose(table(ids)[:, 1], torch.stack([texts[2], texts[4]]))  # known by their texts alone
    assert torch.equal(table(ids)[1, 0], learned.weight[3])  # an item without a text keeps its vector
    rows = table.eval()(torch.arange(5))
    assert torch.allclose(rows, table.weight) and not rows[0].any()
    assert torch.allclose(rows[2], learned.weight[2] + texts[2]) and torch.allclose(rows[4], texts[4])


def test_negatives_are_items_that_someone_has() -> None:
    learned = Vocabulary.learn(["b", "a", "b"], 4, ["a", "z", "y"])
    assert (learned.ids, learned.counts) == (["b", "a", "y", "z"], [2, 1, 0, 0])
    assert np.count_nonzero(learned.shares) == 2
    assert Vocabulary.learn(["b", "a", "b"], 1, ["z"]).ids == ["b"]


def test_vectors_are_spread_and_belong_to_their_items(tmp_path: Path, items: Path, embedder: Path) -> None:
    task = load_task("next_item", {"items": str(items), "embedder": str(embedder)})
    rows = [{"items": ["c0", "?"], "next": "g1"}]
    task.init_from_scratch(ModelSpec("scratch", "sasrec", vocab_size=1000, **SIZES), rows, tmp_path)
    vectors, vocabulary = load_vectors(tmp_path), Vocabulary.load(tmp_path)
    assert vectors is not None and vectors.shape[0] == len(vocabulary) == 25
    numbers = {item: number - FIRST_ITEM for item, number in vocabulary.numbers.items()}
    assert not vectors[numbers["?"]].any()
    lengths = np.linalg.norm(np.delete(vectors, numbers["?"], axis=0), axis=1)
    assert lengths == pytest.approx(1, abs=1e-5)
    assert vectors[numbers["c0"]] @ vectors[numbers["c1"]] > vectors[numbers["c0"]] @ vectors[numbers["m1"]]
    assert spread(np.ones((1, 3), np.float32)) == pytest.approx(3**-0.5)


# -- files of items ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("i.csv", "asin,title,kinds\n1,Tent,outdoor\nü,Spade,\n3,,\n1.0,Tent,outdoor\n"),
        ("i.item", "item_id:token\ttitle:token_seq\tkinds:token_seq\n1\tTent\toutdoor\nü\tSpade\t\n3\t\t\n"),
        ("i.jsonl", '{"item_id": 1, "title": "Tent", "kinds": ["outdoor"]}\n{"item_id": "ü", "title": "Spade"}\n'),
    ],
)
def test_texts_are_read_from_files_of_all_formats(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    notes: list[str] = []
    assert read_item_texts(str(tmp_path / name), [], notes.append) == {"1": "Tent. outdoor", "ü": "Spade"}
    assert "made of title, kinds" in notes[0]
    if name == "i.csv":
        assert notes[1:] == ["task.items: 1 items have no text",
                             "task.items: 1 repeated items of the same text are left out"]  # fmt: skip
    assert read_item_texts(str(tmp_path / name), ["kinds"], notes.append) == {"1": "outdoor"}


def test_a_text_has_the_values_of_its_columns() -> None:
    values = {"title": " Tent ", "kinds": ["a", "b", None], "price": 3.5, "empty": None}
    assert make_text(values, list(values)) == "Tent. a, b. 3.5"


@pytest.mark.parametrize(
    ("name", "text", "chosen", "message"),
    [
        ("i.csv", "sku,title\n1,a\n", [], "has no column 'item_id': name the column of the ids so"),
        ("i.csv", "asin,movieId,title\n1,2,a\n", [], "no column 'item_id', and asin and movieId may be meant"),
        ("i.csv", "item_id,title\n1,a\n", ["tilte"], "no column 'tilte'.*did you mean 'title'"),
        ("i.csv", "item_id,title\n1,a\n2,b\n1,c\n", [], "i.csv:4: the item '1' has another text in .*i.csv:2"),
        ("i.csv", "item_id,title\n,a\n", [], "i.csv:2: is empty"),
        ("i.csv", "item_id,title\n1,\n", [], "has no texts"),
        ("i.csv", "item_id\n1\n", [], "has no texts; a text is made of the other columns"),
        ("i.jsonl", '{"item_id": 1, "title": {"en": "a"}}\n', [], "'title' is an object, not a text"),
        ("i.item", "item_id\ttitle\n1\ta\n", [], "the header has no types"),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    tmp_path: Path, name: str, text: str, chosen: list[str], message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises((DataError, OptionError), match=message):
        read_item_texts(str(tmp_path / name), chosen, lambda _: None)


def test_texts_of_other_items_and_models_without_vectors_are_refused(
    tmp_path: Path, items: Path, embedder: Path
) -> None:
    rows = [{**row, "item_id": "9" + row["item_id"]} for row in purchases()]
    given = {"items": str(items), "embedder": str(embedder)}
    with pytest.raises(DataError, match="no item of the training data has a text: its ids are like '9c0', .* 'c0'"):
        prepare_rows({"train": rows}, DataOptions(), load_task("next_item", given), Store(tmp_path))
    with pytest.raises(ArtifactError, match="does not exist"):
        load_task("next_item", given | {"embedder": str(tmp_path / "none")}).hash_files()
    with pytest.raises(OptionError, match="task.items and task.embedder go together"):
        load_task("next_item", {"items": str(items)})
    manifest = json.loads((embedder / MANIFEST).read_text())
    runtime, files = manifest["runtime"], hash_files(embedder, exclude=[MANIFEST])
    other = tmp_path / "other"
    other.mkdir()
    for path in files:
        (other / path).write_bytes((embedder / path).read_bytes())
    write_manifest(other, Manifest("text_regression", {}, (), runtime, ({"stage": "train"},), files))
    with pytest.raises(OptionError, match="is for text_regression: choose a model whose answers are vectors"):
        load_task("next_item", given | {"embedder": str(other)}).hash_files()


def test_changed_texts_are_another_model(tmp_path: Path, items: Path, embedder: Path) -> None:
    task = load_task("next_item", {"items": str(items), "embedder": str(embedder)})
    rows, store = {"train": purchases()}, Store(tmp_path)
    first = prepare_rows(rows, DataOptions(), task, store).fingerprint
    assert prepare_rows(rows, DataOptions(), task, store).fingerprint == first
    items.write_text(items.read_text().replace("of this year", "of last year"))
    assert prepare_rows(rows, DataOptions(), task, store).fingerprint != first
